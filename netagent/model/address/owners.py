"""Who has an address by the word of its network's creator: it decides between endpoints of several hosts. Pure.

The creator owns all of its network's space, and hands parts on by grants in its own log, which no other host can
write. So the host to which it gave an offset first, or the creator itself where it gave none, may have endpoints
there, unless that host has given the offset to another in turn: of such offsets nothing is known here. Grants in
other logs do not count: a member can write any in its own.
"""

from __future__ import annotations

import heapq
import ipaddress
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from itertools import pairwise

from netagent.model.address.span import Span, meets, merged
from netagent.model.ids import HostId
from netagent.model.records import GrantRecord
from netagent.model.subnet import parse_subnet


class AddressOwners:
    """The owners of one network's addresses, from its grants by (writer, key). O(n log n)."""

    def __init__(
        self,
        creator: HostId | None,
        subnets: Iterable[str],
        grants: Mapping[tuple[HostId, bytes], GrantRecord],
    ) -> None:
        self._creator = creator
        self._subnets = [parse_subnet(text) for text in subnets]
        given: dict[HostId, list[GrantRecord]] = {}
        for (writer, _), grant in grants.items():
            if grant.to != writer:
                given.setdefault(writer, []).append(grant)
        own = () if self._creator is None else given.get(self._creator, ())
        self._firsts, self._pieces = _first_words(own)
        self._given: dict[HostId, list[Span]] = {
            writer: merged((one.first, one.last) for one in every)
            for writer, every in given.items()
            if writer != self._creator
        }

    def owner_of(self, address: str) -> HostId | None:
        """Return the owner of an address; None where that is not known."""
        offset = self._offset(address)
        if offset is None or self._creator is None:
            return None
        place = bisect_right(self._firsts, offset) - 1
        owner = self._creator
        if place >= 0 and offset <= self._pieces[place][0]:
            owner = self._pieces[place][1]
        return None if meets(self._given.get(owner, ()), (offset, offset)) else owner

    def _offset(self, address: str) -> int | None:
        parsed = ipaddress.ip_address(address)
        for subnet in self._subnets:
            if subnet.version == parsed.version and parsed in subnet:
                return int(parsed) - int(subnet.network_address)
        return None


def _first_words(grants: Iterable[GrantRecord]) -> tuple[list[int], list[tuple[int, HostId]]]:
    """Return disjoint pieces, as their first offsets and (last offset, receiver) of the grant at the lowest hop."""
    starts = sorted((one.first, one.hop, one.last, one.to) for one in grants)
    cuts = sorted({one[0] for one in starts} | {one[2] + 1 for one in starts})
    firsts: list[int] = []
    pieces: list[tuple[int, HostId]] = []
    pending: list[tuple[int, int, HostId]] = []
    position = 0
    for cut, following in pairwise(cuts):
        while position < len(starts) and starts[position][0] <= cut:
            _, hop, last, to = starts[position]
            heapq.heappush(pending, (hop, last, to))
            position += 1
        while pending and pending[0][1] < cut:
            heapq.heappop(pending)
        if pending:
            firsts.append(cut)
            pieces.append((following - 1, pending[0][2]))
    return firsts, pieces
