"""Offsets of service addresses: which one a service gets, from the space that this host owns in its network.

An offset of a service range belongs to the host that owns the same offset of the network. So the grants that share
out addresses for endpoints share out those for services too, and on both sides of any cut no address is given twice.
An endpoint and a service may have one offset: their addresses are in different subnets.

Programs keep the address of a service for ever, so an offset that was given up waits for QUARANTINE_S, also over a
restart. Only the same service gets it again before. What services have, or had a moment ago, is not handed on to
other hosts, except to an endpoint that would find no address, and all of it when this host leaves or is evicted. Its
successor goes on from its own offsets, downwards, and comes to those of this host last.

Downwards from the top, because endpoints are placed from the bottom, and what is handed on should be in one piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from netagent.errors import FailedError, RefusedError
from netagent.ipam.allocation import Allocation
from netagent.ipam.allocations import Allocations, unknown
from netagent.ipam.space import Range
from netagent.ipam.space_requests import SILENT, SpaceRequests
from netagent.journal import statements
from netagent.journal.journal import Journal
from netagent.model.ids import NetworkId
from netagent.model.records import Record, ServiceAddressRecord, ServiceKey
from netagent.model.subnet import addresses_of
from netagent.registry.publish import Publisher
from netagent.registry.record_codec import key_of
from netagent.registry.service_rules import offset_in_key
from netagent.registry.view import RegistryView

QUARANTINE_S: Final = 86_400
"""How long no other service gets an offset that was given up. Programs that look up once in their life live for
weeks, but are rolled out or restarted within a day where a service was removed."""


class FreedOffset(NamedTuple):
    """Which service had an offset, and until when (Unix time in seconds)."""

    service: ServiceKey
    since_s: int


class ServiceOffsets:
    """Offsets for services of all networks. `unix_s` is the time in seconds."""

    def __init__(
        self,
        allocations: Allocations,
        space_requests: SpaceRequests,
        *,
        view: Callable[[], RegistryView],
        journal: Journal,
        publisher: Publisher,
        unix_s: Callable[[], int],
    ) -> None:
        self._allocations = allocations
        self._space_requests = space_requests
        self._view = view
        self._journal = journal
        self._publisher = publisher
        self._unix_s = unix_s
        self._held: dict[NetworkId, set[int]] = {}
        """Chosen, and not yet in a record that the view has."""
        self._freed: dict[NetworkId, dict[int, FreedOffset]] = {}
        for network_id, offset, service, since_s in journal.load_freed_service_offsets():
            self._freed.setdefault(network_id, {})[offset] = FreedOffset(service, since_s)

    async def hold(self, network_id: NetworkId, service: ServiceKey) -> int:
        """Reserve an offset until `keep` or `let_go`; in memory only. Raises NotFoundError, RefusedError
        `no-service-offset`, FailedError `space-unreachable`."""
        await self._allocations.confirm(network_id)
        allocation = self._allocations[network_id]
        offset = self._choose(allocation, service)
        if offset is None:
            offset, said = await self._space_requests.fetch_any(
                allocation, lambda: self._choose(allocation, service)
            )
            if offset is None:
                asked = [f"{self._allocations.host_name(host)}: {text}" for host, text in said.items()]
                raise self._no_offset(allocation, asked, is_final=SILENT not in said.values())
        if network_id not in self._view().networks:  # removed while we asked other hosts
            self.let_go(network_id, offset)
            raise unknown(network_id)
        return offset

    def let_go(self, network_id: NetworkId, offset: int) -> None:
        """Free an offset of `hold` that no record has."""
        self._held.get(network_id, set()).discard(offset)

    async def keep(self, record: ServiceAddressRecord, offset: int, *others: Record) -> None:
        """Publish a service address at a held offset, with other records. Raises what `Publisher.put` raises; the
        offset is free then."""
        network_id = record.network_id
        was_freed = offset in self._freed.get(network_id, {})
        again = [statements.reuse_service_offset(network_id, offset)] if was_freed else []
        try:
            await self._publisher.change(put=[record, *others], also=again)
        except BaseException:
            self.let_go(network_id, offset)
            raise
        self._freed.get(network_id, {}).pop(offset, None)

    async def release(self, *records: ServiceAddressRecord) -> None:
        """Withdraw addresses of this host; their offsets wait. Raises what `Publisher.change` raises."""
        now_s, also, freed = self._unix_s(), [], []
        for record in records:
            network = self._view().networks.get(record.network_id)
            if network is not None:
                offset = offset_in_key(key_of(record)[1], network.record.subnets)
                also.append(statements.free_service_offset(network.network_id, offset, record.service, now_s))
                freed.append((network.network_id, offset, FreedOffset(record.service, now_s)))
        # Before others learn of it: one of them may give the service an address again at once.
        for network_id, offset, one in freed:
            self._freed.setdefault(network_id, {})[offset] = one
            self.let_go(network_id, offset)
        try:
            await self._publisher.change(withdraw=records, also=also)
        except BaseException:
            for network_id, offset, _ in freed:
                self._freed[network_id].pop(offset, None)
            raise

    def in_use(self, network_id: NetworkId) -> set[int]:
        """The offsets that services of this host have, or are about to get. Costs this host's service addresses."""
        view = self._view()
        network = view.networks.get(network_id)
        if network is None:
            return set()
        prefix, subnets = b"v" + bytes.fromhex(network_id), network.record.subnets
        keys = view.store.address_keys.get(view.local, ())
        used = {offset_in_key(key, subnets) for key in keys if key.startswith(prefix)}
        held = self._held.setdefault(network_id, set())
        held -= used
        return used | held

    def waiting(self, network_id: NetworkId) -> dict[int, FreedOffset]:
        """The offsets that were given up less than QUARANTINE_S ago."""
        freed, now_s = self._freed.get(network_id, {}), self._unix_s()
        # A time in the future is of a clock that has been set back since: it counts as now.
        over = [offset for offset, one in freed.items() if now_s - one.since_s >= QUARANTINE_S]
        for offset in over:
            del freed[offset]
            self._journal.note_service_offset_free(network_id, offset)
        return freed

    def forget_removed(self) -> None:
        """Drop networks that were removed. Costs nothing when there are none."""
        view = self._view()
        for network_id in [one for one in self._held.keys() | self._freed.keys() if view.is_removed(one)]:
            self._held.pop(network_id, None)
            self._freed.pop(network_id, None)
            self._journal.note_network_gone(network_id)

    # -- choosing ----------------------------------------------------------------------------------------------

    def _choose(self, allocation: Allocation, service: ServiceKey) -> int | None:
        """Return the next offset, held; None if there is none. One step: no await between looking and holding."""
        network_id, pool = allocation.network_id, allocation.pool
        used, waiting = self.in_use(network_id), self.waiting(network_id)
        own = [one for one, freed in waiting.items() if freed.service == service and pool.owns(one)]
        blocked = used | waiting.keys()
        last = min((offset for offset in blocked if pool.owns(offset)), default=allocation.count)
        for offset in (*own, *_downwards(pool.owned, last, allocation.count)):
            is_free = offset in own or offset not in blocked
            if is_free and offset not in used and not self._is_claimed(network_id, offset):
                self._held.setdefault(network_id, set()).add(offset)
                return offset
        return None

    def _is_claimed(self, network_id: NetworkId, offset: int) -> bool:
        """True if a service has the offset in any range of the network: its host has left, or was cut off while
        another one took its space over."""
        view = self._view()
        return any(
            address in view.store.address_claims
            for one in view.service_ranges(network_id)
            for address in addresses_of(one.record.subnets, offset)
        )

    def _no_offset(
        self, allocation: Allocation, asked: Sequence[str], *, is_final: bool
    ) -> RefusedError | FailedError:
        usable, name = allocation.pool.usable_total(), allocation.name
        waiting = len(self.waiting(allocation.network_id))
        here = (
            f"all {usable} places of this host are taken" if usable else "this host owns no part of its space"
        )
        if waiting:
            here += f", {waiting} of them by services that were removed less than a day ago"
        text = f"network {name} has no free address for a service: {here}"
        text += f", asked {', '.join(asked)}" if asked else ", and no other host has any"
        if is_final:
            hint = "remove services, or create a larger network"
            return RefusedError(text, code="no-service-offset", thing=name, hint=hint)
        return FailedError(
            text, code="space-unreachable", thing=name, hint="try again when these hosts answer"
        )


def _downwards(owned: Sequence[Range], below: int, count: int) -> Iterator[int]:
    """Yield the usable offsets below `below` from the highest on, then all from the top."""
    for limit in (below, count):
        for held in reversed(owned):
            yield from range(min(held.last, count - 2, limit - 1), max(held.first, 2) - 1, -1)
