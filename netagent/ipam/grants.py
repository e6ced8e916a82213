"""Grants of space to other hosts: a part of it on request, and all of it when this host leaves.

A grant is on disk and published before the requesting host gets it; the space is not ours from the moment in which it
is chosen (netagent.ipam.allocations).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from netagent.errors import NetagentError
from netagent.ipam.allocation import Allocation
from netagent.ipam.allocations import Allocations
from netagent.ipam.messages import NoSpace, SpaceRequest, encode_granted, parse_request_untrusted
from netagent.ipam.service_offsets import ServiceOffsets
from netagent.ipam.space import grant_one, split_for
from netagent.model.ids import HostId, NetworkId
from netagent.model.records import GrantRecord
from netagent.model.subnet import is_reserved
from netagent.registry.view import RegistryView


class Grants:
    """Grants parts of this host's allocations."""

    def __init__(
        self, allocations: Allocations, services: ServiceOffsets, *, view: Callable[[], RegistryView]
    ) -> None:
        self._allocations = allocations
        self._services = services
        self._view = view

    async def answer_request(self, peer: HostId, payload: bytes) -> bytes:
        """Answer another host's request. A grant in the answer is on disk and published. Raises RequestError for
        bytes that are not a request; never for lack of space."""
        request = parse_request_untrusted(payload)
        if request.network_id not in self._view().networks or self._allocations.is_gone(peer):
            return NoSpace(0, 0).encode()  # what its successor does not know of would be lost with it
        # If this fails, only space that is confirmed already can be given.
        with contextlib.suppress(NetagentError):
            await self._allocations.confirm(request.network_id)
        if request.network_id not in self._view().networks:
            return NoSpace(0, 0).encode()
        allocation = self._allocations[request.network_id]
        grant = self._grant_for(allocation, peer, request)
        if grant is None:
            return NoSpace(allocation.pool.available_count(), allocation.pool.usable_total()).encode()
        await self._allocations.give(allocation, [grant])
        return encode_granted(grant)

    def _grant_for(self, allocation: Allocation, peer: HostId, request: SpaceRequest) -> GrantRecord | None:
        pool = allocation.pool
        # The next owner would not know that a service has an offset, or had it a moment ago, and give it to another.
        in_use = self._services.in_use(allocation.network_id)
        waiting = self._services.waiting(allocation.network_id).keys()
        if request.offset is not None:
            if pool.is_used(request.offset) or is_reserved(request.offset, allocation.count):
                return None
            if request.offset in in_use or request.offset in waiting:
                return None
            if self._allocations.is_foreign(allocation, request.offset):
                return None
            return grant_one(allocation.network_id, peer, pool.owned, request.offset)
        if not request.is_urgent and pool.available_count() * 2 <= pool.usable_total():
            # Ahead of need a host gives only while it keeps more than a quarter: or two hosts would trade for ever.
            return None
        # At last what waits, too: an endpoint without an address is worse than a service's that returns early.
        last = [(True, in_use)] if request.is_urgent else []
        for with_cooling, kept in [(False, in_use | waiting), (True, in_use | waiting), *last]:
            free = pool.free_ranges(with_cooling=with_cooling, without=kept)
            grant = split_for(allocation.network_id, peer, free)
            if grant is not None:
                return grant
        return None

    async def hand_over(self, network_id: NetworkId, successor: HostId) -> bool:
        """Hand on all that this host owns in a network, before it leaves; False when that is nothing. It must have no
        endpoint there."""
        await self._allocations.confirm(network_id)
        allocation = self._allocations[network_id]
        owned = allocation.pool.owned
        grants = [GrantRecord(network_id, one.first, one.last, successor, one.hop + 1) for one in owned]
        if grants:
            await self._allocations.give(allocation, grants)
        return bool(grants)
