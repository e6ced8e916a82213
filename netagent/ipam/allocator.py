"""Which address an endpoint gets.

From space that this host owns: one journal write, no message, whatever the network does. Only when that is used up
(or when a user names an address that another host owns) peers are asked, those that live and have most free space
first, for 5 s in all; who was asked and what they said is in the error. So that this stays rare, `top_up` asks ahead
of need.

Choosing is done on the event loop in one step, before anything is awaited: two tasks can't choose the same offset,
nor can one be chosen that is just being given away. The journal's word comes after, and undoes the choice if it
fails.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Final, TypeAlias

import trio

from netagent.errors import FailedError, InputError, NetagentError, NoError, RefusedError
from netagent.ipam.holding import Holding
from netagent.ipam.request import (
    Nothing,
    RequestError,
    SpaceRequest,
    encode_granted,
    parse_answer_untrusted,
    parse_request_untrusted,
)
from netagent.ipam.space import Space, grant_one, inherit, split_for
from netagent.model.ids import HostId, NetworkId, mac_of
from netagent.model.records import GrantRecord, HostAddressRecord
from netagent.model.subnet import addresses_of, is_reserved
from netagent.registry import statement
from netagent.registry.facts import AgentState, short_id
from netagent.registry.journal import Journal
from netagent.registry.publish import Publisher
from netagent.registry.row import LocalEndpointRow, Stage
from netagent.registry.view import RegistryView

ASK_TIMEOUT_S: Final = 5.0
"""For all peers together: what an attach may wait at most."""

ASK_ONE_TIMEOUT_S: Final = 1.5
"""For one peer: a round trip and its journal's write are milliseconds; three silent peers fit into the 5 s."""

TOP_UP_BELOW: Final = 0.25
"""Share of free offsets below which more are asked for ahead of need."""

TOP_UP_PAUSE_S: Final = 30.0
"""After nobody could spare anything: peers' detaches are slower than that."""

Ask: TypeAlias = Callable[[HostId, bytes], Awaitable[bytes | None]]
"""Sends a request of at most 1,000 bytes to a host's agent; None when it does not answer in its time."""


class Allocator:
    """Addresses of this host's endpoints, in all networks.

    `view` gives the current view; `rows` are the journal's endpoints at start: their addresses are in use.
    """

    def __init__(
        self,
        *,
        view: Callable[[], RegistryView],
        journal: Journal,
        publisher: Publisher,
        ask: Ask,
        rows: Iterable[LocalEndpointRow] = (),
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._view = view
        self._journal = journal
        self._publisher = publisher
        self._ask = ask
        self._clock = clock
        self._holdings: dict[NetworkId, Holding] = {}
        self._asking: dict[NetworkId, trio.Lock] = {}
        self._confirming = trio.Lock()
        self._quiet_until: dict[NetworkId, float] = {}
        self._heard: dict[NetworkId, dict[HostId, str]] = {}
        """What others said to the last `top_up`."""
        self._used: dict[NetworkId, list[int]] = {}
        for row in rows:
            self._used.setdefault(row.network_id, []).append(row.offset)
        for own in view().own_host_addresses:
            self._used.setdefault(own.network_id, []).append(own.offset)
        self._cooling: dict[NetworkId, list[int]] = {}
        for network_id, offset in journal.load_cooling():
            self._cooling.setdefault(network_id, []).append(offset)

    # -- endpoints ---------------------------------------------------------------------------------------------

    async def reserve(self, row: LocalEndpointRow, offset: int | None = None) -> LocalEndpointRow:
        """The row with its offset, addresses and MAC (unless it has one), on disk as RESERVED.

        Raises what `hold` and `keep` raise; nothing is kept then."""
        return await self.keep(row, await self.hold(row.network_id, offset))

    async def hold(self, network_id: NetworkId, offset: int | None = None) -> int:
        """An offset (this one, if given) that nobody else gets until `let_go`; in memory only.

        Raises NoError for an unknown network; InputError for an offset that no endpoint may have; RefusedError
        `address-in-use` or `subnet-full`; FailedError `space-unreachable` when peers that might have space do not
        answer."""
        await self.confirm(network_id)
        holding = self._holding(network_id)
        if offset is None:
            offset = await self._choose(holding)
        else:
            await self._claim(holding, offset)
        if network_id not in self._view().networks:  # removed while we asked around
            holding.pool.unmark(offset)
            raise _unknown(network_id)
        return offset

    def let_go(self, network_id: NetworkId, offset: int) -> None:
        """The reverse of `hold`, for an offset that was never used: it does not cool."""
        if network_id in self._holdings:
            self._holdings[network_id].pool.unmark(offset)

    async def keep(self, row: LocalEndpointRow, offset: int) -> LocalEndpointRow:
        """Write down who has a held offset: the row complete, as RESERVED.

        Raises DiskFullError, JournalError, NoError; the offset is free then."""
        holding = self._holding(row.network_id)
        complete = dataclasses.replace(
            row,
            offset=offset,
            addresses=addresses_of(holding.subnets, offset),
            mac=row.mac or mac_of(row.network_id, offset),
            stage=Stage.RESERVED,
        )
        try:
            await self._journal.save_endpoint(complete)
        except BaseException:
            holding.pool.unmark(offset)
            raise
        return complete

    async def release(self, row: LocalEndpointRow) -> None:
        """Forget the row; its address cools down, unless its network was removed. Raises DiskFullError, JournalError:
        the row is still there then."""
        statements = [statement.delete_endpoint(row.endpoint_id)]
        if not self._view().is_removed(row.network_id):
            statements.append(statement.cool(row.network_id, row.offset))
        await self._journal.transaction(statements)
        if row.network_id in self._view().networks:
            self._holding(row.network_id).pool.release(row.offset, self._clock())
        elif self._view().is_removed(row.network_id):
            self._journal.note_network_gone(row.network_id)  # removed while we wrote: nothing else would

    async def keep_for_host(self, record: HostAddressRecord) -> None:
        """Tell everybody of a held offset that this host has itself. What it raises is `Publisher.put`'s; the offset
        is free then."""
        try:
            await self._publisher.put(record)
        except BaseException:
            self.let_go(record.network_id, record.offset)
            raise

    async def release_host(self, record: HostAddressRecord) -> None:
        """This host has it no longer; it cools down, unless the network is gone."""
        is_there = record.network_id in self._view().networks
        also = [statement.cool(record.network_id, record.offset)] if is_there else []
        await self._publisher.change(withdraw=[record], also=also)
        if record.network_id in self._view().networks:
            self._holding(record.network_id).pool.release(record.offset, self._clock())

    def forget_removed(self) -> None:
        """Keep nothing of networks that were removed. Costs nothing when there are none; call it on every change."""
        view = self._view()
        for network_id in [n for n in (*self._holdings, *self._cooling) if view.is_removed(n)]:
            for known in (self._holdings, self._cooling, self._asking, self._quiet_until, self._heard):
                known.pop(network_id, None)
            self._journal.note_network_gone(network_id)

    def free_count(self, network_id: NetworkId) -> tuple[int, int]:
        """(offsets an endpoint could get here now, usable offsets this host owns)."""
        pool = self._holding(network_id).pool
        return pool.available_count(), pool.usable_total()

    def space(self, network_id: NetworkId) -> Space:
        """Who owns which part of a network, as this host knows it now."""
        return self._holding(network_id).space

    def cooling_count(self, network_id: NetworkId) -> int:
        """How many of the offsets an endpoint could get are still cooling."""
        return self._holding(network_id).pool.cooling_count()

    async def confirm(self, network_id: NetworkId) -> None:
        """Repeat in our own log what others granted to us, but not what a host gave that is about to be forgotten:
        somebody is taking over all that it owns. Nothing of it is used before. Costs nothing when that is done.
        Raises DiskFullError, JournalError, NoError."""
        if self._confirmable(self._holding(network_id)):
            async with self._confirming:
                holding = self._holding(network_id)
                grants = self._confirmable(holding)
                if grants:
                    await self._publisher.put(*grants)
                for grant in grants:
                    holding.add(self._view().local, grant)

    def _confirmable(self, holding: Holding) -> list[GrantRecord]:
        unconfirmed = holding.unconfirmed.items()
        return [grant for grant, givers in unconfirmed if not all(map(self._is_gone, givers))]

    def inherit(self, gone: Collection[HostId]) -> tuple[list[GrantRecord], int]:
        """Grants to this host of all that the hosts in `gone` own, in all networks, and how many addresses that are.
        They count from this moment, so that nothing is given away by an older hop; publish them at once, or
        `disinherit`."""
        grants, count = [], 0
        for network_id in self._view().networks:
            holding = self._holding(network_id)
            count += sum(number for host, number in holding.sure.usable_counts().items() if host in gone)
            for grant in inherit(network_id, holding.sure, holding.local, gone):
                holding.add(holding.local, grant)
                grants.append(grant)
        return grants, count

    def disinherit(self, grants: Iterable[GrantRecord]) -> None:
        """They could not be published."""
        for grant in grants:
            if grant.network_id in self._holdings:
                self._holdings[grant.network_id].discard(self._view().local, grant)

    async def _choose(self, holding: Holding) -> int:
        offset = self._next_offset(holding)
        if offset is not None:
            return offset
        said: dict[HostId, str] = {}
        with trio.move_on_after(ASK_TIMEOUT_S):
            async with self._asking.setdefault(holding.network_id, trio.Lock()):
                # Somebody who asked before us may have got enough for both.
                while (offset := self._next_offset(holding)) is None:
                    if not await self._ask_around(holding, said):
                        break
        if offset is None:  # or somebody else was asking all the while, and hears what we would
            raise self._no_space(holding, said or self._heard.get(holding.network_id, {}))
        return offset

    def _next_offset(self, holding: Holding) -> int | None:
        """The pool's choice, but nothing that another host's endpoint has: after a cut that outlasted a forgetting,
        one may live in space that is ours by now."""
        passed = []
        while (offset := holding.pool.choose()) is not None and self._is_foreign(holding, offset):
            passed.append(offset)
        for one in passed:
            holding.pool.unmark(one)
        return offset

    def _is_foreign(self, holding: Holding, offset: int) -> bool:
        view = self._view()
        claimants = view.claimants(holding.network_id, self._address(holding, offset))
        return bool(claimants - {view.local}) or self._host_at(holding, offset) not in {None, view.local}

    def _host_at(self, holding: Holding, offset: int) -> HostId | None:
        """Who has this address itself, as hosts have in a network made with `--host-access`; another than this one
        first."""
        view = self._view()
        hosts = view.host_addresses(holding.network_id)
        found = (host for host, one in hosts.items() if one.offset == offset)
        return min(found, key=lambda host: (host == view.local, host), default=None)

    async def _claim(self, holding: Holding, offset: int) -> None:
        if is_reserved(offset, holding.count) or offset < 0:
            raise InputError(f"offset {offset} of network {holding.name} is not for endpoints")
        if not holding.pool.owns(offset):
            await self._ask_owner(holding, offset)
        host = self._host_at(holding, offset)
        if host is not None:
            whose = "this host" if host == self._view().local else f"host {self._host_name(host)}"
            raise self._in_use(holding, offset, f"{whose} has it itself, as the network has --host-access")
        if holding.pool.is_used(offset):
            raise self._in_use(holding, offset, "an endpoint of this host has it")
        if self._is_foreign(holding, offset):
            claimants = self._view().claimants(holding.network_id, self._address(holding, offset))
            raise self._in_use(
                holding, offset, f"an endpoint of host {self._host_name(min(claimants))} has it"
            )
        holding.pool.mark_used(offset)

    # -- asking ------------------------------------------------------------------------------------------------

    async def top_up(self, network_id: NetworkId) -> bool:
        """Ask for space ahead of need: when none is owned, or a quarter of it is free. True when some came. Call it
        after an attach and when a network appears; it never raises for want of space."""
        await self.confirm(network_id)
        holding = self._holding(network_id)
        pool = holding.pool
        if pool.available_count() > TOP_UP_BELOW * pool.usable_total():
            return False
        if self._clock() < self._quiet_until.get(network_id, float("-inf")):
            return False
        with trio.move_on_after(ASK_TIMEOUT_S):
            async with self._asking.setdefault(network_id, trio.Lock()):
                said = self._heard[network_id] = {}
                if await self._ask_around(holding, said, is_urgent=pool.available_count() == 0):
                    return True
        self._quiet_until[network_id] = self._clock() + TOP_UP_PAUSE_S
        return False

    async def _ask_around(self, holding: Holding, said: dict[HostId, str], *, is_urgent: bool = True) -> bool:
        """Ask other owners until one gives. `said` collects why the others did not."""
        request = SpaceRequest(holding.network_id, None, is_urgent)
        for host, _ in holding.free_shares(self._view()):
            if host in said:
                continue
            said[host] = _SILENT  # for the error, should the 5 s end while we ask
            said[host] = await self._ask_one(holding, host, request)
            if not said[host]:
                del said[host]
                return True
        return False

    async def _ask_owner(self, holding: Holding, offset: int) -> None:
        if self._host_at(holding, offset) is not None:
            return  # `_claim` says whose it is
        owner = holding.space.owner_of(offset)
        address = self._address(holding, offset)
        if owner is None:
            raise FailedError(f"nobody is known to own {address} yet; try again", code="space-unreachable")
        said = await self._ask_one(holding, owner, SpaceRequest(holding.network_id, offset, is_urgent=True))
        if said and not holding.pool.owns(offset):
            name = self._host_name(owner)
            if said == _SILENT:
                text = f"{address} belongs to host {name}, which does not answer"
                raise FailedError(
                    text, code="space-unreachable", thing=address, hint="choose another address"
                )
            raise self._in_use(holding, offset, f"host {name} has it in use")

    async def _ask_one(self, holding: Holding, host: HostId, request: SpaceRequest) -> str:
        """Why the host gave nothing; empty when it did."""
        known = self._view().hosts.get(host)
        if known is not None and known.agent in (AgentState.DEAD, AgentState.LEFT):
            return _SILENT
        payload = None
        with trio.move_on_after(ASK_ONE_TIMEOUT_S):
            payload = await self._ask(host, request.encode())
        holding.refresh(self._view())
        if payload is None:
            return _SILENT
        try:
            answer = parse_answer_untrusted(payload)
        except RequestError as error:
            return f"answered wrongly ({error.message})"
        if isinstance(answer, Nothing):
            return f"{answer.available} of {answer.usable} free"
        if answer.network_id != holding.network_id or answer.to != self._view().local:
            return "answered wrongly (a grant for somebody else)"
        if self._is_gone(host):
            return _SILENT  # somebody is taking over all that it owns
        holding.add(host, answer)
        if not holding.space.owns(self._view().local, answer.first, answer.last):
            holding.discard(host, answer)
            return "answered wrongly (a grant of what it does not own)"
        try:
            await self.confirm(holding.network_id)
        except BaseException:
            holding.discard(host, answer)
            raise
        return ""

    def _is_gone(self, host: HostId) -> bool:
        view = self._view()
        return host in view.forgotten or bool(view.about_to_forget(host))

    # -- being asked -------------------------------------------------------------------------------------------

    async def answer_request(self, peer: HostId, payload: bytes) -> bytes:
        """The answer to another host's question. A grant in it is on disk and published. Raises RequestError for
        bytes that are no question; never for want of space."""
        request = parse_request_untrusted(payload)
        if request.network_id not in self._view().networks or self._is_gone(peer):
            return Nothing(0, 0).encode()  # what its heir has not heard of would be lost with it
        with contextlib.suppress(
            NetagentError
        ):  # then what is confirmed already is all that there is to give
            await self.confirm(request.network_id)
        if request.network_id not in self._view().networks:
            return Nothing(0, 0).encode()
        holding = self._holding(request.network_id)
        grant = self._grant_for(holding, peer, request)
        if grant is None:
            return Nothing(holding.pool.available_count(), holding.pool.usable_total()).encode()
        await self._give(holding, [grant])
        return encode_granted(grant)

    def _grant_for(self, holding: Holding, peer: HostId, request: SpaceRequest) -> GrantRecord | None:
        pool = holding.pool
        if request.offset is not None:
            if pool.is_used(request.offset) or is_reserved(request.offset, holding.count):
                return None
            if self._is_foreign(holding, request.offset):
                return None
            return grant_one(holding.network_id, peer, pool.owned, request.offset)
        if not request.is_urgent and pool.available_count() * 2 <= pool.usable_total():
            return None  # who gives ahead of need keeps above a quarter itself, or two hosts would trade for ever
        for with_cooling in (False, True):
            free = pool.free_ranges(with_cooling=with_cooling)
            grant = split_for(holding.network_id, peer, free)
            if grant is not None:
                return grant
        return None

    async def surrender(self, network_id: NetworkId, heir: HostId) -> None:
        """Hand on all that this host owns in a network, before it leaves. It must have no endpoint there."""
        await self.confirm(network_id)
        holding = self._holding(network_id)
        owned = holding.pool.owned
        grants = [GrantRecord(network_id, one.first, one.last, heir, one.hop + 1) for one in owned]
        if grants:
            await self._give(holding, grants)

    async def _give(self, holding: Holding, grants: list[GrantRecord]) -> None:
        """Not ours from this moment, and published before this returns. If it can't be written, ours again."""
        local = self._view().local
        for grant in grants:
            holding.add(local, grant)
        try:
            await self._publisher.put(*grants)
        except BaseException:
            for grant in grants:
                holding.discard(local, grant)
            raise

    # -- inside ------------------------------------------------------------------------------------------------

    def _holding(self, network_id: NetworkId) -> Holding:
        view = self._view()
        network = view.networks.get(network_id)
        if network is None:
            raise _unknown(network_id)
        holding = self._holdings.get(network_id)
        if holding is None:
            used, cooling = self._used.pop(network_id, ()), self._cooling.pop(network_id, ())
            holding = Holding(view.local, network, used=used, cooling=cooling, now=self._clock())
            self._holdings[network_id] = holding
        holding.refresh(view)
        for offset in holding.pool.warm(self._clock()):
            self._journal.note_warm(network_id, offset)
        return holding

    def _no_space(self, holding: Holding, said: dict[HostId, str]) -> RefusedError | FailedError:
        name, usable = holding.name, holding.pool.usable_total()
        here = f"all {usable} addresses of this host are in use" if usable else "this host owns no addresses"
        asked = ", ".join(f"{self._host_name(host)}: {text}" for host, text in said.items())
        text = f"network {name} has no free address: {here}, "
        text += f"asked {asked}" if asked else "no other host owns any"
        owners = {host for host, _ in holding.free_shares(self._view())}
        if owners <= said.keys() and _SILENT not in said.values() and holding.space.ranges:
            hint = "detach endpoints, or use a larger network"
            return RefusedError(text, code="subnet-full", thing=name, hint=hint)
        return FailedError(
            text, code="space-unreachable", thing=name, hint="try again when their owners answer"
        )

    def _in_use(self, holding: Holding, offset: int, why: str) -> RefusedError:
        address = self._address(holding, offset)
        return RefusedError(f"{address} is in use: {why}", code="address-in-use", thing=address)

    def _address(self, holding: Holding, offset: int) -> str:
        return addresses_of(holding.subnets, offset)[0]

    def _host_name(self, host_id: HostId) -> str:
        host = self._view().hosts.get(host_id)
        return short_id(host_id) if host is None else host.unique_name


_SILENT: Final = "no answer"


def _unknown(network_id: NetworkId) -> NoError:
    return NoError(f"there is no network {short_id(network_id)}", thing=network_id)
