"""Long work of a machine, in pieces: thousands of entries of a log, or of members, are read, merged or written down a
few hundred at a time, and whoever drives the machine lets others run in between.

A work is a generator that yields wherever it could stop. Its first piece is done at once, so what is short is over
before the call returns; what is left waits here, and is done in the order in which it came. A machine with something
left is *behind*: its driver calls `run_step` until it is not so.

Between two pieces anything may happen to what a work is about. So a work holds no half of anything that others can
see: it prepares, and looks again at what it relies on when it puts the outcome in place, with no piece in between.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import Final, TypeAlias, TypeVar

T = TypeVar("T")

Pieces: TypeAlias = Generator[None, None, T]

ENTRIES_A_PIECE: Final = 256
"""Entries of a log that are read, merged or written down in one piece: up to 1 ms."""
ROWS_A_PIECE: Final = 512
"""Rows of a vector that are made, or compared with our logs, in one piece: up to 1 ms."""
MEMBERS_A_PIECE: Final = 128
"""Members that are read, merged or written down in one piece: up to 1 ms; 2 ms where all of them are new."""


def at_once(pieces: Pieces[T]) -> T:
    """The result, for whoever can wait."""
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            result: T = end.value
            return result


class WorkQueue:
    """What is left of the long works of one machine."""

    def __init__(self) -> None:
        self._waiting: deque[Pieces[None]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def begin(self, work: Pieces[None]) -> None:
        """Do the first piece now, whatever waits, and have the rest wait behind it."""
        if self._goes_on(work):
            self._waiting.append(work)

    def queue(self, work: Pieces[None]) -> None:
        """Begin once all that waits is done: now, if nothing does."""
        if self._waiting:
            self._waiting.append(work)
        else:
            self.begin(work)

    def run_step(self) -> None:
        """The next piece of what came first."""
        if self._waiting and not self._goes_on(self._waiting[0]):
            self._waiting.popleft()

    @staticmethod
    def _goes_on(work: Pieces[None]) -> bool:
        try:
            next(work)
        except StopIteration:
            return False
        return True
