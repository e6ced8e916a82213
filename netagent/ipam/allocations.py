"""The allocations of this host, in all networks, at this instant.

No grant of another host is used before it is confirmed: repeated in this host's own log. Space that is given away is
not ours from the moment of that decision, long before it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

import trio

from netagent.errors import NotFoundError, RefusedError
from netagent.ipam.allocation import Allocation
from netagent.ipam.space import inherit
from netagent.journal.journal import Journal
from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import HostId, NetworkId
from netagent.model.records import GrantRecord
from netagent.model.subnet import addresses_of
from netagent.registry.publish import Publisher
from netagent.registry.view import RegistryView
from netagent.registry.views import short_id


class Allocations:
    """One `Allocation` for each network that was asked for.

    `view` returns the current view; `rows` are the journal's endpoints at start: their addresses are in use.
    """

    def __init__(
        self,
        *,
        view: Callable[[], RegistryView],
        journal: Journal,
        publisher: Publisher,
        rows: Iterable[LocalEndpointRow],
        clock: Callable[[], float],
    ) -> None:
        self._view = view
        self._journal = journal
        self._publisher = publisher
        self._clock = clock
        self._known: dict[NetworkId, Allocation] = {}
        self._confirming = trio.Lock()
        self._used: dict[NetworkId, list[int]] = {}
        for row in rows:
            self._used.setdefault(row.network_id, []).append(row.offset)
        for own in view().own_host_addresses:
            self._used.setdefault(own.network_id, []).append(own.offset)
        self._cooling: dict[NetworkId, list[int]] = {}
        for network_id, offset in journal.load_cooling():
            self._cooling.setdefault(network_id, []).append(offset)

    def __getitem__(self, network_id: NetworkId) -> Allocation:
        """The allocation as of now. NotFoundError for an unknown network."""
        view = self._view()
        network = view.networks.get(network_id)
        if network is None:
            raise unknown(network_id)
        allocation = self._known.get(network_id)
        if allocation is None:
            used, cooling = self._used.pop(network_id, ()), self._cooling.pop(network_id, ())
            allocation = Allocation(view.local, network, used=used, cooling=cooling, now=self._clock())
            self._known[network_id] = allocation
        allocation.refresh(view)
        for offset in allocation.pool.warm(self._clock()):
            self._journal.note_warm(network_id, offset)
        return allocation

    def unmark(self, network_id: NetworkId, offset: int) -> None:
        """Free an offset that was taken and never used, without cooling; does nothing when the network is gone."""
        if network_id in self._known:
            self._known[network_id].pool.unmark(offset)

    def forget_removed(self) -> list[NetworkId]:
        """Drop and return the networks that were removed. Costs nothing when there are none."""
        view = self._view()
        removed = [n for n in dict.fromkeys((*self._known, *self._cooling)) if view.is_removed(n)]
        for network_id in removed:
            self._known.pop(network_id, None)
            self._cooling.pop(network_id, None)
            self._journal.note_network_gone(network_id)
        return removed

    # -- incoming space ----------------------------------------------------------------------------------------

    async def confirm(self, network_id: NetworkId) -> None:
        """Repeat in our own log what others granted to us, except grants of a host that is about to be evicted:
        another host is taking over all that it owns. Nothing of it is used before. Costs nothing when that is done.
        Raises DiskFullError, JournalError, NotFoundError."""
        if self._confirmable(self[network_id]):
            async with self._confirming:
                allocation = self[network_id]
                grants = self._confirmable(allocation)
                if grants:
                    await self._publisher.put(*grants)
                for grant in grants:
                    allocation.add(self._view().local, grant)

    def _confirmable(self, allocation: Allocation) -> list[GrantRecord]:
        unconfirmed = allocation.unconfirmed.items()
        return [grant for grant, givers in unconfirmed if not all(map(self.is_gone, givers))]

    def inherit(self, gone: Collection[HostId]) -> tuple[list[GrantRecord], int]:
        """Return grants to this host of all that the hosts in `gone` own, in all networks, and the number of
        addresses. They count from this moment, so that nothing is given away by an older hop; publish them at once,
        or call `disinherit`."""
        grants, count = [], 0
        for network_id in self._view().networks:
            allocation = self[network_id]
            count += sum(number for host, number in allocation.sure.usable_counts().items() if host in gone)
            for grant in inherit(network_id, allocation.sure, allocation.local, gone):
                allocation.add(allocation.local, grant)
                grants.append(grant)
        return grants, count

    def disinherit(self, grants: Iterable[GrantRecord]) -> None:
        """Stop counting grants that could not be published."""
        for grant in grants:
            if grant.network_id in self._known:
                self._known[grant.network_id].discard(self._view().local, grant)

    # -- outgoing space ----------------------------------------------------------------------------------------

    async def give(self, allocation: Allocation, grants: Sequence[GrantRecord]) -> None:
        """Give away, and publish before returning. The space is not ours from this moment; if it can't be written,
        ours again."""
        local = self._view().local
        for grant in grants:
            allocation.add(local, grant)
        try:
            await self._publisher.put(*grants)
        except BaseException:
            for grant in grants:
                allocation.discard(local, grant)
            raise

    # -- what others use ---------------------------------------------------------------------------------------

    def is_foreign(self, allocation: Allocation, offset: int) -> bool:
        """True if another host's endpoint, or another host itself, has it: after a partition that outlasted an
        eviction, one may use space that is ours by now."""
        local = self._view().local
        return bool(self.claimants(allocation, offset) - {local}) or self.host_at(allocation, offset) not in {
            None,
            local,
        }

    def claimants(self, allocation: Allocation, offset: int) -> frozenset[HostId]:
        """Hosts whose endpoints have this address."""
        claim = (allocation.network_id, address_at(allocation, offset))
        return frozenset(owner for owner, _, _ in self._view().store.claims.get(claim, ()))

    def host_at(self, allocation: Allocation, offset: int) -> HostId | None:
        """The host that has this address itself, as hosts have in a network with `--host-access`; another host than
        this one first."""
        view = self._view()
        hosts = view.host_addresses(allocation.network_id)
        found = (host for host, one in hosts.items() if one.offset == offset)
        return min(found, key=lambda host: (host == view.local, host), default=None)

    def is_gone(self, host: HostId) -> bool:
        """True if the host is evicted, or about to be: another host is taking over all that it owns."""
        view = self._view()
        return host in view.evicted or bool(view.about_to_evict(host))

    def host_name(self, host_id: HostId) -> str:
        """A host's name for people."""
        host = self._view().hosts.get(host_id)
        return short_id(host_id) if host is None else host.unique_name


def address_at(allocation: Allocation, offset: int) -> str:
    """The first address of an offset, for people and for the view's index."""
    return addresses_of(allocation.subnets, offset)[0]


def unknown(network_id: NetworkId) -> NotFoundError:
    """The error for a network that does not exist, or no longer."""
    return NotFoundError(f"there is no network {short_id(network_id)}", thing=network_id)


def in_use(allocation: Allocation, offset: int, why: str) -> RefusedError:
    """The error for an address that is in use."""
    address = address_at(allocation, offset)
    return RefusedError(f"{address} is in use: {why}", code="address-in-use", thing=address)
