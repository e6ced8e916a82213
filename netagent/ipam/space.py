"""Which host owns which part of a network's address space. Pure.

The creator of a network holds all of it at hop 0. The holder of a range may hand on a part of it, once, by a durable
grant at the next hop; the grant is in the granting host's own log. So for each offset there is one chain

    creator ──hop 1──► h2 ──hop 2──► h5

and the owner is the host that its longest visible link names. A host always sees its own grants, which are the only
ones that can end its ownership: so whatever else it knows, it never believes that it owns what it gave away, and no
two hosts ever both believe that they own an offset. A host that receives a grant to itself late only learns of it
late.

The receiver repeats a grant in its own log before it uses any of it. So the longest link of every chain is in the
owner's own log: logs of hosts that are gone for good can be dropped, and of one log whatever a later grant in it
covers (`superseded`). What such hosts owned their successor grants to itself, at the next hop (`inherit`).

An allocation needs no message at all; only handing on does.
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from netagent.model.ids import HostId, NetworkId
from netagent.model.records import GrantRecord


@dataclass(frozen=True, slots=True, order=True)
class Range:
    """Offsets `first` to `last`, inclusive, held by one owner since `hop`."""

    first: int
    last: int
    hop: int = 0

    def __len__(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class AddressSpace:
    """Ownership of all offsets of a network, from one set of grants. Create it with `space_of`."""

    count: int
    """Offsets of the network, reserved ones included."""
    ranges: tuple[tuple[Range, HostId], ...]
    """Disjoint, rising. Together they cover all offsets, or only those granted while the creator is unknown."""

    def owner_of(self, offset: int) -> HostId | None:
        """The owner of an offset; None when that is not known (yet)."""
        for held, owner in self.ranges:
            if held.first <= offset <= held.last:
                return owner
        return None

    def owned_by(self, host_id: HostId) -> tuple[Range, ...]:
        """The ranges of one host. Neighbours with different hops stay apart: a grant names one hop."""
        return tuple(held for held, owner in self.ranges if owner == host_id)

    def owns(self, host_id: HostId, first: int, last: int) -> bool:
        """True when the host owns all of `first` to `last`."""
        for held, owner in self.ranges:
            if owner == host_id and held.first <= first <= held.last:
                first = held.last + 1
        return first > last

    def usable_counts(self) -> dict[HostId, int]:
        """Number of offsets for endpoints of each owner."""
        counts: dict[HostId, int] = {}
        for held, owner in self.ranges:
            counts[owner] = counts.get(owner, 0) + usable_count(held, self.count)
        return counts

    def check_invariants(self) -> None:
        """Assert that ranges are disjoint, rising and inside the network."""
        end = -1
        for held, _ in self.ranges:
            assert end < held.first <= held.last < self.count, f"{held} overlaps or lies outside"
            end = held.last


def usable_count(held: Range, count: int) -> int:
    """Number of offsets of a range that endpoints may have, in a network of `count`."""
    first, last = max(held.first, 2), min(held.last, count - 2)
    return max(0, last - first + 1)


def space_of(
    creator: HostId | None, count: int, grants: Iterable[tuple[HostId, GrantRecord]]
) -> AddressSpace:
    """Derive ownership from grants and their writers. Grants outside the space are cut to it. Of two grants of one
    offset at one hop one must be forged; all hosts then believe the smaller writer. O(n log n)."""
    claims = [
        (-grant.hop, writer, grant.first, min(grant.last, count - 1), grant.to) for writer, grant in grants
    ]
    if creator is not None:
        claims.append((0, creator, 0, count - 1, creator))
    starts = sorted((first, claim) for claim in claims if (first := claim[2]) <= claim[3])
    cuts = sorted({claim[2] for _, claim in starts} | {claim[3] + 1 for _, claim in starts})
    pieces: list[tuple[Range, HostId]] = []
    open_claims: list[tuple[int, HostId, int, int, HostId]] = []
    position = 0
    for cut, following in pairwise(cuts):
        while position < len(starts) and starts[position][0] <= cut:
            heapq.heappush(open_claims, starts[position][1])
            position += 1
        while open_claims and open_claims[0][3] < cut:
            heapq.heappop(open_claims)
        if open_claims:
            hop, _, _, _, owner = open_claims[0]
            _append(pieces, Range(cut, following - 1, -hop), owner)
    return AddressSpace(count, tuple(pieces))


def _append(pieces: list[tuple[Range, HostId]], piece: Range, owner: HostId) -> None:
    if pieces:
        before, before_owner = pieces[-1]
        if before_owner == owner and before.hop == piece.hop and before.last + 1 == piece.first:
            pieces[-1] = Range(before.first, piece.last, piece.hop), owner
            return
    pieces.append((piece, owner))


MOST_HOPS = 1 << 24
"""No part of a network's space is handed on more often: every second for half a year."""
MAX_SHARES = 256
"""Hosts that get a share when a network is created: 256 grants are one message of about 12 kB. More hosts send
requests."""


def share_out(network_id: NetworkId, count: int, hosts: Sequence[HostId]) -> tuple[GrantRecord, ...]:
    """Return the creator's first grants: one block to each of the other `hosts`, in their order; the rest stays.

    Blocks are equal, and as large as they can be while the creator keeps half of what is usable: so it can serve as
    many hosts again, and each side of a partition has about as much as its share of the hosts.
    """
    usable = usable_count(Range(0, count - 1), count)
    size = _floor_bits(max(1, usable // 2 // max(1, min(len(hosts), MAX_SHARES))))
    grants: list[GrantRecord] = []
    given = 0
    blocks = (Range(first, min(first + size, count) - 1) for first in range(size, count, size))
    for block in blocks:
        if len(grants) == min(len(hosts), MAX_SHARES):
            break
        gain = usable_count(block, count)
        if gain and given + gain <= usable // 2:
            grants.append(GrantRecord(network_id, block.first, block.last, hosts[len(grants)], hop=1))
            given += gain
    return tuple(grants)


def split_for(network_id: NetworkId, to: HostId, free: Sequence[Range]) -> GrantRecord | None:
    """Return what an owner hands on when asked: its largest aligned chunk of free offsets, at most half of all free
    ones (but one at least, so that a network can be filled to its last address). None when nothing is free.

    `free` are runs of owned, usable offsets that no endpoint has, each within one hop.
    """
    limit = _floor_power(max(1, sum(map(len, free)) // 2))
    best: Range | None = None
    for run in free:
        chunk = _largest_chunk(run, limit)
        if chunk is not None and (best is None or len(chunk) > len(best)):
            best = chunk
    return None if best is None else GrantRecord(network_id, best.first, best.last, to, best.hop + 1)


def grant_one(network_id: NetworkId, to: HostId, owned: Sequence[Range], offset: int) -> GrantRecord | None:
    """The grant of one offset that a user asked for by name; None when it is not ours."""
    for held in owned:
        if held.first <= offset <= held.last:
            return GrantRecord(network_id, offset, offset, to, held.hop + 1)
    return None


def inherit(
    network_id: NetworkId, space: AddressSpace, successor: HostId, gone: Collection[HostId]
) -> tuple[GrantRecord, ...]:
    """The grants by which the successor takes what the hosts in `gone` owned. Its own adjacent ranges are included,
    so that space which comes and goes does not fragment.

    A hop above MOST_HOPS is forged by one of them, which no longer counts once it is gone: no hop could be above it.
    """
    runs: list[list[tuple[Range, HostId]]] = []
    for held, owner in space.ranges:
        if owner != successor and owner not in gone:
            continue
        if runs and runs[-1][-1][0].last + 1 == held.first:
            runs[-1].append((held, owner))
        else:
            runs.append([(held, owner)])
    return tuple(
        GrantRecord(
            network_id,
            run[0][0].first,
            run[-1][0].last,
            successor,
            min(max(held.hop for held, _ in run), MOST_HOPS) + 1,
        )
        for run in runs
        if any(owner in gone for _, owner in run)
    )


def superseded(own: Sequence[GrantRecord]) -> tuple[GrantRecord, ...]:
    """Of one host's own grants in one network, return those that its others, at later hops, cover whole. Every host
    that sees these sees those: they have no effect any more."""
    if not own:
        return ()
    latest = space_of(None, max(grant.last for grant in own) + 1, [(grant.to, grant) for grant in own])
    ends = [held.last for held, _ in latest.ranges]

    def counts(grant: GrantRecord) -> bool:
        for held, _ in latest.ranges[bisect.bisect_left(ends, grant.first) :]:
            if held.first > grant.last:
                return False
            if held.hop == grant.hop:
                return True
        return False

    return tuple(grant for grant in own if not counts(grant))


def _largest_chunk(run: Range, limit: int) -> Range | None:
    """The largest power-of-two chunk within a run, aligned to its size, of at most `limit` offsets."""
    size = limit
    while size:
        start = -(-run.first // size) * size
        if start + size - 1 <= run.last:
            return Range(start, start + size - 1, run.hop)
        size //= 2
    return None


def _floor_power(number: int) -> int:
    return 1 << (number.bit_length() - 1)


def _floor_bits(number: int) -> int:
    """Keep only the four leading bits: what is handed on later is taken in powers of two."""
    step = max(1, _floor_power(number) >> 3)
    return number // step * step
