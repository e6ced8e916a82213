"""The allocator: which address an endpoint gets.

From space that this host owns: one journal write, no message, whatever the network does. Only when that is used up
(or when a user names an address that another host owns) it asks peers (netagent.ipam.space_requests).

Choosing runs on the event loop in one step, before anything is awaited: two tasks can't choose the same offset, nor
can one be chosen that is just being given away. The journal is written afterwards; a failure undoes the choice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

import trio

from netagent.errors import FailedError, InputError, RefusedError
from netagent.ipam.allocation import Allocation
from netagent.ipam.allocations import Allocations, in_use, unknown
from netagent.ipam.grants import Grants
from netagent.ipam.service_offsets import ServiceOffsets
from netagent.ipam.space import AddressSpace
from netagent.ipam.space_requests import SILENT, Ask, SpaceRequests
from netagent.journal import statements
from netagent.journal.journal import Journal
from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import HostId, NetworkId
from netagent.model.records import HostAddressRecord
from netagent.model.subnet import is_reserved
from netagent.registry.publish import Publisher
from netagent.registry.view import RegistryView


class Allocator:
    """Addresses of this host's endpoints, in all networks.

    `view` returns the current view; `rows` are the journal's endpoints at start: their addresses are in use. `unix_s`
    is the time in seconds, for what must outlast a restart.
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
        unix_s: Callable[[], int] = lambda: int(time.time()),
    ) -> None:
        self._view = view
        self._journal = journal
        self._publisher = publisher
        self._clock = clock
        self.allocations = Allocations(
            view=view, journal=journal, publisher=publisher, rows=rows, clock=clock
        )
        self.space_requests = SpaceRequests(self.allocations, view=view, ask=ask, clock=clock)
        self.services = ServiceOffsets(
            self.allocations,
            self.space_requests,
            view=view,
            journal=journal,
            publisher=publisher,
            unix_s=unix_s,
        )
        self.grants = Grants(self.allocations, self.services, view=view)

    # -- endpoints ---------------------------------------------------------------------------------------------

    async def hold(self, network_id: NetworkId, offset: int | None = None) -> int:
        """Reserve an offset (this one, if given) until `let_go`; in memory only.

        Raises NotFoundError for an unknown network; InputError for an offset that no endpoint may have; RefusedError
        `address-in-use` or `subnet-full`; FailedError `space-unreachable` when peers that might have space do not
        answer.
        """
        await self.allocations.confirm(network_id)
        allocation = self.allocations[network_id]
        if offset is None:
            offset = await self._choose(allocation)
        else:
            await self._claim(allocation, offset)
        if network_id not in self._view().networks:  # removed while we asked other hosts
            allocation.pool.unmark(offset)
            raise unknown(network_id)
        return offset

    def let_go(self, network_id: NetworkId, offset: int) -> None:
        """Free an offset of `hold` that was never used: it does not cool."""
        self.allocations.unmark(network_id, offset)

    async def keep(self, row: LocalEndpointRow) -> None:
        """Journal the owner of a held offset. Raises DiskFullError, JournalError; the offset is free then."""
        try:
            await self._journal.save_endpoint(row)
        except BaseException:  # also a cancellation before the write began; a begun write is not cancelled
            self.let_go(row.network_id, row.offset)
            raise

    async def release(self, row: LocalEndpointRow) -> None:
        """Delete the row; its address cools down, unless its network was removed. Raises DiskFullError, JournalError:
        the row still exists then."""
        changes = [statements.delete_endpoint(row.endpoint_id)]
        if not self._view().is_removed(row.network_id):
            changes.append(statements.cool(row.network_id, row.offset))
        await self._journal.transaction(changes)
        if row.network_id in self._view().networks:
            self.allocations[row.network_id].pool.release(row.offset, self._clock())
        elif self._view().is_removed(row.network_id):
            self._journal.note_network_gone(row.network_id)  # removed while we wrote: only we can note it

    async def keep_for_host(self, record: HostAddressRecord) -> None:
        """Publish a held offset as an address of this host itself. Raises what `Publisher.put` raises; the offset is
        free then."""
        try:
            await self._publisher.put(record)
        except BaseException:
            self.let_go(record.network_id, record.offset)
            raise

    async def release_host(self, record: HostAddressRecord) -> None:
        """Withdraw an address of this host itself; it cools down, unless the network is gone."""
        is_there = record.network_id in self._view().networks
        also = [statements.cool(record.network_id, record.offset)] if is_there else []
        await self._publisher.change(withdraw=[record], also=also)
        if record.network_id in self._view().networks:
            self.allocations[record.network_id].pool.release(record.offset, self._clock())

    def forget_removed(self) -> None:
        """Drop networks that were removed. Costs nothing when there are none; call it on every change."""
        self.space_requests.forget(self.allocations.forget_removed())
        self.services.forget_removed()

    def free_count(self, network_id: NetworkId) -> tuple[int, int]:
        """(offsets an endpoint could get here now, usable offsets this host owns)."""
        pool = self.allocations[network_id].pool
        return pool.available_count(), pool.usable_total()

    def space(self, network_id: NetworkId) -> AddressSpace:
        """Which host owns which part of a network, as this host knows it now."""
        return self.allocations[network_id].space

    def cooling_count(self, network_id: NetworkId) -> int:
        """How many of the offsets an endpoint could get are still cooling."""
        return self.allocations[network_id].pool.cooling_count()

    # -- choosing ----------------------------------------------------------------------------------------------

    async def _choose(self, allocation: Allocation) -> int:
        offset = self._next_offset(allocation)
        if offset is None:
            offset, said = await self.space_requests.fetch_any(
                allocation, lambda: self._next_offset(allocation)
            )
            if offset is None:
                raise self._no_space(allocation, said)
        return offset

    def _next_offset(self, allocation: Allocation) -> int | None:
        """Return the pool's choice, skipping offsets that are used elsewhere."""
        passed = []
        while (offset := allocation.pool.choose()) is not None and self.allocations.is_foreign(
            allocation, offset
        ):
            passed.append(offset)
        for one in passed:
            allocation.pool.unmark(one)
        return offset

    async def _claim(self, allocation: Allocation, offset: int) -> None:
        if is_reserved(offset, allocation.count) or offset < 0:
            raise InputError(f"offset {offset} of network {allocation.name} cannot be used by an endpoint")
        if not allocation.pool.owns(offset) and self.allocations.host_at(allocation, offset) is None:
            await self.space_requests.fetch_one(allocation, offset)
        host = self.allocations.host_at(allocation, offset)
        if host is not None:
            whose = "this host" if host == self._view().local else f"host {self.allocations.host_name(host)}"
            raise in_use(
                allocation, offset, f"it is the address of {whose} itself (the network has --host-access)"
            )
        if allocation.pool.is_used(offset):
            raise in_use(allocation, offset, "an endpoint of this host has it")
        if self.allocations.is_foreign(allocation, offset):
            name = self.allocations.host_name(min(self.allocations.claimants(allocation, offset)))
            raise in_use(allocation, offset, f"an endpoint of host {name} has it")
        allocation.pool.mark_used(offset)

    def _no_space(self, allocation: Allocation, said: Mapping[HostId, str]) -> RefusedError | FailedError:
        name, usable = allocation.name, allocation.pool.usable_total()
        here = f"all {usable} addresses of this host are in use" if usable else "this host owns no addresses"
        asked = ", ".join(f"{self.allocations.host_name(host)}: {text}" for host, text in said.items())
        text = f"network {name} has no free address: {here}, "
        text += f"asked {asked}" if asked else "no other host owns any"
        owners = {host for host, _ in allocation.free_shares(self._view())}
        if owners <= said.keys() and SILENT not in said.values() and allocation.space.ranges:
            hint = "detach endpoints, or create a larger network"
            return RefusedError(text, code="subnet-full", thing=name, hint=hint)
        return FailedError(
            text, code="space-unreachable", thing=name, hint="try again when these hosts answer"
        )
