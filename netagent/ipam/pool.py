"""The pool: which of the offsets that this host owns in one network are free, in use, or cooling. Pure.

An address that was just freed may still be in an ARP cache, a connection table or a configuration; so the next one is
taken round robin, not lowest first, and a freed one cools down before it is used again. Neither justifies a refusal:
when nothing else is free, the one that has cooled longest is taken early.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence, Set
from typing import Final

from netagent.ipam.space import Range, usable_count

COOL_DOWN_S: Final = 60.0
"""Linux keeps a stale neighbour for 60 s by default (gc_stale_time), and our own DNS answers live 5 s."""


class Pool:
    """Used, free and cooling are disjoint, and together they are the usable offsets that this host owns, plus any
    used ones that it does not own (the address of a running endpoint always counts as used)."""

    def __init__(self, count: int, owned: Sequence[Range] = ()) -> None:
        self.count = count
        self._owned: tuple[Range, ...] = ()
        self._starts: list[int] = []
        self._used: set[int] = set()
        self._cooling: dict[int, float] = {}  # offset -> when it has cooled down; in rising order of time
        self._cursor = 2
        self.set_owned(owned)

    @property
    def owned(self) -> tuple[Range, ...]:
        """The ranges that this host owns, by hop."""
        return self._owned

    def set_owned(self, owned: Sequence[Range]) -> None:
        """Change the owned ranges. Cooling offsets that were handed on are dropped: they concern the new owner."""
        self._owned = tuple(sorted(owned))
        self._starts = [held.first for held in self._owned]
        self._cooling = {offset: at for offset, at in self._cooling.items() if self.owns(offset)}

    def owns(self, offset: int) -> bool:
        """True if this host owns the offset."""
        position = bisect.bisect_right(self._starts, offset) - 1
        return position >= 0 and offset <= self._owned[position].last

    def is_used(self, offset: int) -> bool:
        """True if an endpoint has the offset."""
        return offset in self._used

    def usable_total(self) -> int:
        """Number of owned offsets that endpoints may have."""
        return sum(usable_count(held, self.count) for held in self._owned)

    def available_count(self) -> int:
        """Number of offsets that an endpoint could get now, cooling ones included."""
        return self.usable_total() - sum(1 for offset in self._used if self.owns(offset))

    def cooling_count(self) -> int:
        """Number of offsets that were freed a moment ago, and are taken only when nothing else is free."""
        return len(self._cooling)

    def choose(self) -> int | None:
        """Return the next offset, marked as used; None when all are. Call `warm` first."""
        offset = next(self._free_from(self._cursor), None)
        if offset is None:
            offset = next(self._free_from(0), None)
        if offset is None:
            offset = next(iter(self._cooling), None)
        if offset is not None:
            self.mark_used(offset)
        return offset

    def mark_used(self, offset: int) -> None:
        """Mark an offset as used: chosen, requested by name, or found in the journal."""
        self._cooling.pop(offset, None)
        self._used.add(offset)
        self._cursor = offset + 1

    def unmark(self, offset: int) -> None:
        """Free an offset that was never really used, without cooling."""
        self._used.discard(offset)

    def release(self, offset: int, now: float) -> None:
        """Free an offset whose endpoint is gone: it cools down."""
        self._used.discard(offset)
        if self.owns(offset):
            self._cooling.pop(offset, None)
            self._cooling[offset] = now + COOL_DOWN_S

    def warm(self, now: float) -> list[int]:
        """Free the offsets that have cooled down, and return them."""
        done = []
        for offset, at in self._cooling.items():
            if at > now:
                break
            done.append(offset)
        for offset in done:
            del self._cooling[offset]
        return done

    def free_ranges(self, *, with_cooling: bool = False, without: Set[int] = frozenset()) -> list[Range]:
        """Runs of owned offsets that no endpoint has, within one hop each, and that are not in `without`; without
        cooling ones unless requested."""
        used = self._used | without
        taken = sorted(used if with_cooling else used | self._cooling.keys())
        runs = []
        for held in self._owned:
            first, last = max(held.first, 2), min(held.last, self.count - 2)
            start = first
            low, high = bisect.bisect_left(taken, first), bisect.bisect_right(taken, last)
            for offset in [*taken[low:high], last + 1]:
                if start < offset:
                    runs.append(Range(start, offset - 1, held.hop))
                start = offset + 1
        return runs

    def check_invariants(self) -> None:
        """Assert that used, free and cooling are disjoint and cover what is owned."""
        assert not self._used & self._cooling.keys(), "an offset is used and cooling"
        assert all(self.owns(offset) for offset in self._cooling), "an offset cools that is not owned"
        free = sum(len(run) for run in self.free_ranges())
        used = sum(1 for offset in self._used if self.owns(offset) and 2 <= offset <= self.count - 2)
        cooling = sum(1 for offset in self._cooling if 2 <= offset <= self.count - 2)
        assert free + used + cooling == self.usable_total(), "the parts do not add up"
        assert list(self._cooling.values()) == sorted(self._cooling.values()), "cooling is out of order"

    def _free_from(self, start: int) -> Iterator[int]:
        """Free offsets from `start` upwards. Skips used ones one by one: about 100 ns each."""
        for held in self._owned:
            for offset in range(max(held.first, start, 2), min(held.last, self.count - 2) + 1):
                if offset not in self._used and offset not in self._cooling:
                    yield offset


def pool_of(
    count: int, owned: Sequence[Range], used: Iterable[int], cooling: Iterable[int], now: float
) -> Pool:
    """The pool of a restarted agent. Cooling offsets cool from the start: no clock outlives a restart."""
    pool = Pool(count, owned)
    for offset in used:
        pool.mark_used(offset)
    for offset in cooling:
        if not pool.is_used(offset):
            pool.release(offset, now)
    return pool
