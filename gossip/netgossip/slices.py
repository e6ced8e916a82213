"""Long work of a machine, in slices: reading, merging or encoding thousands of entries of a log, or of members, a few
hundred at a time. The driver lets other tasks run between two slices.

A work is a generator that yields wherever it could stop. Its first slice runs at once, so short work is done before
the call returns; the rest waits in the queue, first in, first out. While anything waits, the machine has pending
work, and its driver calls `run_step` until none is left.

Between two slices anything may happen to the state that a work is about. So a work leaves nothing half done that
others can see: it prepares, and checks again what it relies on when it applies the outcome, within one slice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import Final, TypeAlias, TypeVar

T = TypeVar("T")

Slices: TypeAlias = Generator[None, None, T]

ENTRIES_PER_SLICE: Final = 256
"""Entries of a log that are read, merged or encoded in one slice: up to 1 ms."""
ROWS_PER_SLICE: Final = 512
"""Rows of a vector that are encoded, or compared with our logs, in one slice: up to 1 ms."""
MEMBERS_PER_SLICE: Final = 128
"""Members that are read, merged or encoded in one slice: up to 1 ms; 2 ms where all of them are new."""


def at_once(pieces: Slices[T]) -> T:
    """Run all slices now and return the result."""
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            result: T = end.value
            return result


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
