"""Watcher of the units that endpoints were attached to: names lead away while systemd stops one.

A signal of the bus means no more than "read the state of this unit", which is then applied as a whole. After each
connect all are read. systemd sends the signal in the turn of its loop in which it signals the unit's processes, or
runs the unit's ExecStop=: so names are gone a few milliseconds later.

    deactivating                     the endpoint is drained
    inactive, failed, unknown        as it was: its namespace goes with it (netagent.endpoints.garbage_collector)
      and its process is there       the drain ends after LIVES_ON_S: systemd left the process (KillMode=)
    anything else                    a drain of a stop ends
    the bus is away                  as it was

A unit is found by its main process, whose namespace was attached, so aliases and templates need no rules here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Awaitable, Callable

import trio

from netagent.endpoints.targets import is_at_its_path
from netagent.errors import FailedError, NetagentError, RefusedError
from netagent.integrations.cluster_access import ClusterAccess, Membership
from netagent.integrations.systemd.messages import ERROR, SIGNAL, BusMessage, MessageBuffer, encode_call
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
MEMBER_S = 5.0
"""Seconds between checks whether this host is a member of another cluster than before."""
LIVES_ON_S = 5.0
"""Seconds after which a process outlives its unit: one that ends is gone with its namespace long before."""
READS_APART_S = 0.02
"""Seconds between two reads of states, while signals come without a pause."""
_READ_BYTES = 16384
_TARGET = "unit:"
_PROCESS = re.compile(r"/proc/([0-9]+)/ns/net")
_SYSTEMD = "org.freedesktop.systemd1"
_MANAGER = (_SYSTEMD, "/org/freedesktop/systemd1", f"{_SYSTEMD}.Manager")
_BUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
_PROPERTIES = "org.freedesktop.DBus.Properties"
_UNIT = f"{_SYSTEMD}.Unit"
_OVER = frozenset({None, "inactive", "failed"})
"""States of a unit that has ended; None: systemd does not know it any more."""

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
            try:
                await self._wait_for_units()
                await self._watch()
            except (NetagentError, OSError) as error:
                _limited.warning("bus", f"cannot see which units systemd is stopping: {error}")
                await trio.sleep(RECONNECT_S)

    async def _wait_for_units(self) -> None:
        seen: LocalRows | None = None
        while True:
            member = self._member()
            if member is not None:
                revision = member.live.revision
                if member.live.rows is not seen:
                    seen = member.live.rows
                    if any(_process_of(row) for row in seen.values()):
                        return
                with trio.move_on_after(MEMBER_S):
                    await member.live.wait_newer(revision)
            await trio.sleep(LOOK_S)

    async def _watch(self) -> None:
        """Watch until the connection ends, which raises FailedError or OSError."""
        stream = await trio.open_unix_socket(self._bus)
        connection = BusConnection(stream)
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(_until_failure, connection, nursery, connection.receive)
            nursery.start_soon(_until_failure, connection, nursery, _Units(connection, self._member).follow)
        assert connection.failure is not None
        raise connection.failure

    def _member(self) -> ClusterAccess | None:
        try:
            return self._membership()
        except RefusedError:
            return None


class _Units:
    """The units of endpoints, over one connection."""

    def __init__(self, connection: BusConnection, member: Callable[[], ClusterAccess | None]) -> None:
        self._connection = connection
        self._member = member
        self._seen: LocalRows | None = None
        self._paths: dict[EndpointId, str] = {}
        """The unit of each endpoint; "" if its process has ended."""
        self._over: dict[EndpointId, float] = {}
        """Endpoints whose unit has ended, and when their process must have ended, too."""

    async def follow(self) -> None:
        """Follow them until the connection fails."""
        connection = self._connection
        await connection.call(*_BUS, "Hello")
        await connection.call(*_MANAGER, "Subscribe")  # else systemd sends no signals about units
        while True:
            member = self._member()
            if member is not None:
                await self._notice_rows(member)
                dirty, connection.changed = connection.changed, set()
                states = {path: await self._state_of(path) for path in dirty & set(self._paths.values())}
                async with (
                    trio.open_nursery() as nursery
                ):  # many may stop together, and each waits for the disk
                    for endpoint_id, path in self._paths.items():
                        if path in states:
                            self._note_over(endpoint_id, states[path])
                            nursery.start_soon(_apply_state, member, endpoint_id, states[path])
                    for endpoint_id in self._living_on(member):
                        nursery.start_soon(_apply_state, member, endpoint_id, "left alive by its unit")
            await trio.sleep(READS_APART_S)
            with trio.move_on_after(LOOK_S):
                await connection.woken.wait()
            connection.woken = trio.Event()

    def _note_over(self, endpoint_id: EndpointId, state: str | None) -> None:
        if state in _OVER:
            self._over.setdefault(endpoint_id, trio.current_time() + LIVES_ON_S)
        else:
            self._over.pop(endpoint_id, None)

    def _living_on(self, member: ClusterAccess) -> list[EndpointId]:
        """Return the endpoints whose process has now outlived its unit; each once."""
        due = [endpoint_id for endpoint_id, at in self._over.items() if at <= trio.current_time()]
        for endpoint_id in due:
            del self._over[endpoint_id]
        rows = (member.live.rows.get(endpoint_id) for endpoint_id in due)
        return [row.endpoint_id for row in rows if row is not None and is_at_its_path(row)]

    async def _notice_rows(self, member: ClusterAccess) -> None:
        rows, seen = member.live.rows, self._seen
        touched = rows.touched_since(seen) if seen is not None else None
        self._seen = rows
        for endpoint_id in list(self._paths if touched is None else touched & self._paths.keys()):
            if endpoint_id not in rows:
                path = self._paths.pop(endpoint_id)
                self._over.pop(endpoint_id, None)
                if path and path not in self._paths.values():
                    self._connection.watched.discard(path)
                    await self._connection.call(*_BUS, "RemoveMatch", _signals_of(path))
        for endpoint_id in rows if touched is None else touched & rows.keys():
            row = rows[endpoint_id]
            process = _process_of(row)
            if process is not None and row.is_published and endpoint_id not in self._paths:
                path = await self._connection.call(*_MANAGER, "GetUnitByPID", process) or ""
                if path and path not in self._paths.values():
                    self._connection.watched.add(path)
                    await self._connection.call(*_BUS, "AddMatch", _signals_of(path))
                self._paths[endpoint_id] = path
                if path:
                    self._connection.changed.add(
                        path
                    )  # read after the match was added, so no change is missed

    async def _state_of(self, path: str) -> str | None:
        return await self._connection.call(_SYSTEMD, path, _PROPERTIES, "Get", _UNIT, "ActiveState")


class BusConnection:
    """One connection to the system bus; `receive` must run while calls wait."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._sending = trio.Lock()
        self._serial = 0
        self._replies: dict[int, trio.MemorySendChannel[BusMessage]] = {}
        self.watched: set[str] = set()
        """Objects whose signals count."""
        self.changed: set[str] = set()
        """Objects of which a signal came."""
        self.woken = trio.Event()
        self._ready = trio.Event()
        self.failure: NetagentError | OSError | None = None

    async def receive(self) -> None:
        """Authenticate, then read for ever; FailedError at the end of the stream."""
        user = str(os.geteuid()).encode().hex()
        await self._stream.send_all(f"\0AUTH EXTERNAL {user}\r\n".encode())
        if not (await self._received()).startswith(b"OK "):
            raise FailedError("the system bus refuses the agent")
        await self._stream.send_all(b"BEGIN\r\n")
        self._ready.set()
        messages = MessageBuffer()
        while True:
            for message in messages.feed_untrusted(await self._received()):
                if message.kind == SIGNAL:
                    # Any local user may send one, about whatever it likes.
                    if message.path in self.watched:
                        self.changed.add(message.path)
                        self.woken.set()
                elif message.reply_to in self._replies:
                    with contextlib.suppress(trio.WouldBlock):  # a second reply to one call
                        self._replies[message.reply_to].send_nowait(message)

    async def _received(self) -> bytes:
        data = bytes(await self._stream.receive_some(_READ_BYTES))
        if not data:
            raise FailedError("the system bus has ended the connection")
        return data

    async def call(self, name: str, path: str, interface: str, member: str, *given: str | int) -> str | None:
        """Call a method; return the first value of the reply if it is text, None if systemd refuses. FailedError: no
        reply."""
        await self._ready.wait()
        self._serial += 1
        serial = self._serial
        send, replies = trio.open_memory_channel[BusMessage](1)
        self._replies[serial] = send
        try:
            async with self._sending:
                await self._stream.send_all(encode_call(serial, name, path, interface, member, *given))
            with trio.fail_after(REPLY_S):
                message = await replies.receive()
        except trio.TooSlowError:
            raise FailedError(f"systemd did not answer {member} within {REPLY_S:.0f} s") from None
        finally:
            del self._replies[serial]
        return None if message.kind == ERROR else message.text


async def _until_failure(
    connection: BusConnection, nursery: trio.Nursery, work: Callable[[], Awaitable[None]]
) -> None:
    """End the whole connection when a part of it fails."""
    try:
        await work()
    except (NetagentError, OSError) as error:
        connection.failure = error
    except trio.BrokenResourceError:
        connection.failure = FailedError("the system bus has ended the connection")
    nursery.cancel_scope.cancel()


def _process_of(row: LocalEndpointRow) -> int | None:
    """The main process of the unit that it was attached to."""
    if row.netns is None or row.origin is not None or not row.target.startswith(_TARGET):
        return None
    found = _PROCESS.fullmatch(row.netns.path)
    return int(found[1]) if found else None


def _signals_of(path: str) -> str:
    """The rule for signals that the unit's state has changed."""
    return (
        f"type='signal',sender='{_SYSTEMD}',interface='{_PROPERTIES}',member='PropertiesChanged',"
        f"path='{path}',arg0='{_UNIT}'"
    )


async def _apply_state(member: ClusterAccess, endpoint_id: EndpointId, state: str | None) -> None:
    row = member.live.rows.get(endpoint_id)
    if row is None or state in _OVER:
        return
    try:
        if state == "deactivating" and row.drain is None:
            await member.endpoints.drains.begin(endpoint_id, STOP)
        elif state != "deactivating" and row.drain is not None:
            await member.endpoints.drains.end(endpoint_id, by=STOP)
    except (NetagentError, OSError) as error:
        _limited.warning(endpoint_id, f"cannot change the names of {row.name}, which is {state}: {error}")
