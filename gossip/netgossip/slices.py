"""Long computations, and long work of a machine, in slices: the one form of both. Pure.

The function is a generator that yields wherever it may pause, several times per millisecond, and returns its result.
It does not look at the clock; its runner does (netgossip.slice_runner, or `at_once` where nothing else is to run). A
worker thread would be a second form, and no simpler: docs/design/0031.

A machine's work begins at once, with its first slice, so short work is done before the call returns; the rest waits
in its `WorkQueue`, first in, first out. While anything waits, the machine has pending work, and its driver calls
`run_step` until none is left. Between two slices anything may happen to the state that such a work is about. So it
leaves nothing half done that others can see: it prepares, and checks again what it relies on when it applies the
outcome, within one slice.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any, Final, TypeAlias, TypeVar

T = TypeVar("T")

Slices: TypeAlias = Generator[None, None, T]

ENTRIES_PER_SLICE: Final = 256
"""Bound of entries read, merged or written in one slice; beyond it: the rest waits in order; no stream brings more
meanwhile. Up to 1 ms."""
PROVEN_PER_SLICE: Final = 64
"""Bound of entries of a proven log merged in one slice, each of which is hashed at length; beyond it: the rest waits
in order; no stream brings more meanwhile. Up to 1 ms."""
ROWS_PER_SLICE: Final = 512
"""Bound of rows of a vector made or compared in one slice; beyond it: the rest waits in order; no stream brings more
meanwhile. Up to 1 ms."""
MEMBERS_PER_SLICE: Final = 128
"""Bound of members of a push/pull read, merged or written in one slice; beyond it: the rest waits in order; no stream
brings more meanwhile. Up to 1 ms; 2 ms where all of them are new."""


SORTED_PER_SLICE: Final = 256
"""Items sorted in one go."""


def at_once(slices: Slices[T]) -> T:
    """Run all slices now and return the result."""
    while True:
        try:
            next(slices)
        except StopIteration as end:
            result: T = end.value
            return result


def merge_sort(items: Sequence[T], key: Callable[[T], Any]) -> Slices[list[T]]:
    """Sort runs, then merge them."""
    runs = []
    for start in range(0, len(items), SORTED_PER_SLICE):
        runs.append(sorted(items[start : start + SORTED_PER_SLICE], key=key))
        yield
    merged = []
    for item in heapq.merge(*runs, key=key):
        merged.append(item)
        yield
    return merged


class WorkQueue:
    """The pending long works of one machine."""

    def __init__(self) -> None:
        self._waiting: deque[Slices[None]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def begin(self, work: Slices[None]) -> None:
        """Run the first slice now, whatever waits, and queue the rest."""
        if self._goes_on(work):
            self._waiting.append(work)

    def queue(self, work: Slices[None]) -> None:
        """Begin this work once all that waits is done: now, if nothing waits."""
        if self._waiting:
            self._waiting.append(work)
        else:
            self.begin(work)

    def run_step(self) -> None:
        """Run the next slice of the work that came first."""
        if self._waiting and not self._goes_on(self._waiting[0]):
            self._waiting.popleft()

    @staticmethod
    def _goes_on(work: Slices[None]) -> bool:
        try:
            next(work)
        except StopIteration:
            return False
        return True
