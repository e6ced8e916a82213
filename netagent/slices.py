"""Long computations in slices, so that they never block the event loop for long.

The pure function is a generator that yields wherever it may pause, several times per millisecond, and returns its
result. It does not look at the clock; its runner does. A thread would not help: a computing thread releases the
interpreter only every 5 ms, and the loop would wait that long after each of its system calls.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, Final, TypeAlias, TypeVar

import trio

T = TypeVar("T")

Pieces: TypeAlias = Generator[None, None, T]

PIECE_S: Final = 0.002
"""Length of a slice in seconds: a tenth of the longest time for which the loop may block. A task that becomes ready
at the worst moment waits for the rest of one round of the loop and for the next one, each with a slice and some short
steps."""

RUN_ITEMS: Final = 256
"""Items sorted in one go."""

_turn: Final[trio.lowlevel.RunVar[trio.Lock]] = trio.lowlevel.RunVar("turn")


def turn() -> trio.Lock:
    """Return the lock that is held for one slice of any long computation of this event loop. Without it, one round of
    the loop could run a slice of each computation in progress, and other tasks would wait for all of them."""
    try:
        return _turn.get()
    except LookupError:
        _turn.set(lock := trio.Lock())
        return lock


async def piece_by_piece(pieces: Pieces[T]) -> T:
    """Run the generator and return its result. Other tasks run once before it begins and whenever PIECE_S is used
    up. There is no checkpoint after the last slice, so a cancellation cannot discard a finished result."""
    while True:
        async with turn():
            began = time.perf_counter()
            while True:
                try:
                    next(pieces)
                except StopIteration as end:
                    result: T = end.value
                    return result
                if time.perf_counter() - began > PIECE_S:
                    break


def at_once(pieces: Pieces[T]) -> T:
    """Run the generator without pauses and return its result."""
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            result: T = end.value
            return result


def sorting(items: Sequence[T], key: Callable[[T], Any]) -> Pieces[list[T]]:
    """Sort in slices: sort runs, then merge them."""
    runs = []
    for start in range(0, len(items), RUN_ITEMS):
        runs.append(sorted(items[start : start + RUN_ITEMS], key=key))
        yield
    merged = []
    for item in heapq.merge(*runs, key=key):
        merged.append(item)
        yield
    return merged
