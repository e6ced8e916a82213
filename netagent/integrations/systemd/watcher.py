"""Watcher of the units that endpoints were attached to: names lead away while systemd stops one.

A signal of the bus means no more than "read the state of this unit", which is then applied as a whole. After each
connect all are read. systemd sends the signal in the turn of its loop in which it signals the unit's processes, or
runs the unit's ExecStop=: so names are gone a few milliseconds later.

    deactivating                     the endpoint is drained
    inactive, failed                 as it was: its namespace goes with it (netagent.endpoints.garbage_collector)
    anything else                    a drain of a stop ends
    the bus is away                  as it was

A unit is found by its main process, whose namespace was attached, so aliases and templates need no rules here.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
from jeepney import (
    DBusAddress,
    HeaderFields,
    MatchRule,
    Message,
    MessageType,
    Properties,
    message_bus,
    new_method_call,
)
from jeepney.auth import BEGIN, AuthenticationError, Authenticator
from jeepney.io.common import RouterClosed
from jeepney.io.trio import DBusConnection, DBusRouter

from netagent.errors import FailedError, NetagentError, RefusedError
from netagent.integrations.cluster_access import ClusterAccess, Membership
from netagent.journal.rows import LocalEndpointRow
from netagent.log import Limited
from netagent.model.ids import EndpointId
from netagent.model.records import STOP
from netagent.registry.local_rows import LocalRows

SYSTEM_BUS = "/run/dbus/system_bus_socket"
REPLY_S = 5.0
"""How long one reply may take: a millisecond, unless systemd is being reloaded."""
RECONNECT_S = 2.0
LOOK_S = 0.5
"""Seconds between checks for a change of the cluster."""
READS_APART_S = 0.02
"""Seconds between two reads of states, while signals come without a pause."""
_TARGET = "unit:"
_PROCESS = re.compile(r"/proc/([0-9]+)/ns/net")
_SYSTEMD = "org.freedesktop.systemd1"
_MANAGER = DBusAddress("/org/freedesktop/systemd1", bus_name=_SYSTEMD, interface=f"{_SYSTEMD}.Manager")
_UNIT = f"{_SYSTEMD}.Unit"

logger = logging.getLogger("netagent.systemd")
_limited = Limited(logger)


class UnitWatcher:
    """`run` until cancelled. Without an endpoint of a unit it opens no connection."""

    def __init__(self, membership: Membership, bus: str = SYSTEM_BUS) -> None:
        self._membership = membership
        self._bus = bus

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            failed = False
            try:
                await self._wait_for_units()
                async with _open_bus(self._bus) as router:
                    await _Units(router, self._member).follow()
            except* (
                NetagentError,
                OSError,
                trio.EndOfChannel,
                trio.BrokenResourceError,
                RouterClosed,
            ) as group:
                _limited.warning("bus", f"cannot see which units systemd is stopping: {_reason(group)}")
                failed = True
            if failed:
                await trio.sleep(RECONNECT_S)

    async def _wait_for_units(self) -> None:
        seen: LocalRows | None = None
        while True:
            member = self._member()
            if member is not None and member.live.rows is not seen:
                seen = member.live.rows
                if any(_process_of(row) for row in seen.values()):
                    return
            await trio.sleep(LOOK_S)

    def _member(self) -> ClusterAccess | None:
        try:
            return self._membership()
        except RefusedError:
            return None


class _Units:
    """The units of endpoints, over one connection."""

    def __init__(self, router: DBusRouter, member: Callable[[], ClusterAccess | None]) -> None:
        self._router = router
        self._member = member
        self._seen: LocalRows | None = None
        self._paths: dict[EndpointId, str] = {}
        """The unit of each endpoint; "" if its process has ended."""
        self._dirty: set[str] = set()
        """Units whose state is to be read."""
        self._woken = trio.Event()

    async def follow(self) -> None:
        """Follow them until the connection fails."""
        await _call(
            self._router, new_method_call(_MANAGER, "Subscribe")
        )  # else systemd sends no signals about units
        # The router drops what does not fit into the channel, and a lost signal is a stop that is not seen.
        send, signals = trio.open_memory_channel[Message](math.inf)
        async with self._router.filter(_signals(), channel=send), trio.open_nursery() as nursery:
            nursery.start_soon(self._notice_signals, signals)
            while True:
                member = self._member()
                if member is not None:
                    await self._notice_rows(member)
                    await self._read_states(member)
                await trio.sleep(READS_APART_S)
                with trio.move_on_after(LOOK_S):
                    await self._woken.wait()
                self._woken = trio.Event()

    async def _notice_signals(self, signals: trio.MemoryReceiveChannel[Message]) -> None:
        async for signal in signals:
            self._dirty.add(signal.header.fields[HeaderFields.path])
            self._woken.set()
        raise trio.EndOfChannel

    async def _notice_rows(self, member: ClusterAccess) -> None:
        rows, seen = member.live.rows, self._seen
        touched = rows.touched_since(seen) if seen is not None else None
        self._seen = rows
        for endpoint_id in list(self._paths if touched is None else touched & self._paths.keys()):
            if endpoint_id not in rows:
                path = self._paths.pop(endpoint_id)
                if path and path not in self._paths.values():
                    await _call(self._router, message_bus.RemoveMatch(_signals(path)))
        for endpoint_id in rows if touched is None else touched & rows.keys():
            row = rows[endpoint_id]
            process = _process_of(row)
            if process is not None and row.is_published and endpoint_id not in self._paths:
                path = (
                    await _call(self._router, new_method_call(_MANAGER, "GetUnitByPID", "u", (process,)))
                    or ""
                )
                if path and path not in self._paths.values():
                    await _call(self._router, message_bus.AddMatch(_signals(path)))
                self._paths[endpoint_id] = path
                if path:
                    self._dirty.add(path)  # read after the match was added, so no change is missed

    async def _read_states(self, member: ClusterAccess) -> None:
        dirty, self._dirty = self._dirty, set()
        states = {path: await self._state_of(path) for path in dirty & set(self._paths.values())}
        # Many may stop together, and each waits for the disk.
        async with trio.open_nursery() as nursery:
            for endpoint_id, path in self._paths.items():
                if path in states:
                    nursery.start_soon(_apply_state, member, endpoint_id, states[path])

    async def _state_of(self, path: str) -> str | None:
        unit = DBusAddress(path, bus_name=_SYSTEMD, interface=_UNIT)
        found = await _call(self._router, Properties(unit).get("ActiveState"))
        return None if found is None else found[1]  # a variant: its type and its value


@asynccontextmanager
async def _open_bus(path: str) -> AsyncIterator[DBusRouter]:
    """Connect and authenticate. Raises OSError and FailedError, and what trio and jeepney raise at the end of a
    connection: EndOfChannel, BrokenResourceError, RouterClosed."""
    async with await trio.open_unix_socket(path) as stream:
        await _authenticate(stream)
        async with DBusConnection(stream.socket).router() as router:
            await _call(router, message_bus.Hello())
            yield router


async def _authenticate(stream: trio.SocketStream) -> None:
    # jeepney's own way to open a connection asks for ever when the bus closes it instead of answering.
    authenticator = Authenticator()
    try:
        with trio.fail_after(REPLY_S):
            for line in authenticator:
                await stream.send_all(line)
                answer = bytes(await stream.receive_some())
                if not answer:
                    raise FailedError("the system bus has ended the connection")
                authenticator.feed(answer)
    except AuthenticationError:
        raise FailedError("the system bus refuses the agent") from None
    except trio.TooSlowError:
        raise FailedError(f"the system bus did not answer within {REPLY_S:.0f} s") from None
    await stream.send_all(BEGIN)


async def _call(router: DBusRouter, message: Message) -> Any:
    """Call a method; return the first value of the reply, None if there is none or the call is refused. Raises
    FailedError without a reply."""
    try:
        with trio.fail_after(REPLY_S):
            reply = await router.send_and_get_reply(message)
    except trio.TooSlowError:
        member = message.header.fields[HeaderFields.member]
        raise FailedError(f"systemd did not answer {member} within {REPLY_S:.0f} s") from None
    is_refused = reply.header.message_type is MessageType.error
    return None if is_refused or not reply.body else reply.body[0]


def _reason(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, (NetagentError, OSError)):
        return str(error)
    return "the system bus has ended the connection"


def _process_of(row: LocalEndpointRow) -> int | None:
    """The main process of the unit that it was attached to."""
    if row.netns is None or row.origin is not None or not row.target.startswith(_TARGET):
        return None
    found = _PROCESS.fullmatch(row.netns.path)
    return int(found[1]) if found else None


def _signals(path: str | None = None) -> MatchRule:
    """The rule for signals that the state of a unit has changed, or of any unit."""
    # A signal that has come names its sender by number, so only the rule that the bus applies names systemd.
    sender = None if path is None else _SYSTEMD
    rule = MatchRule(
        type="signal",
        sender=sender,
        interface="org.freedesktop.DBus.Properties",
        member="PropertiesChanged",
        path=path,
    )
    rule.add_arg_condition(0, _UNIT)
    return rule


async def _apply_state(member: ClusterAccess, endpoint_id: EndpointId, state: str | None) -> None:
    row = member.live.rows.get(endpoint_id)
    if row is None or state in {None, "inactive", "failed"}:
        return
    try:
        if state == "deactivating" and row.drain is None:
            await member.endpoints.drains.begin(endpoint_id, STOP)
            logger.info("withdrew the names of %s (%s): systemd is stopping it", row.name, row.target)
        elif state != "deactivating" and row.drain is not None:
            await member.endpoints.drains.end(endpoint_id, by=STOP)
    except (NetagentError, OSError) as error:
        _limited.warning(endpoint_id, f"cannot change the names of {row.name}, which is {state}: {error}")
