"""Long work of a pure function, done piece by piece so that the event loop is never held up for long.

The function is a generator that yields wherever it could stop for a moment, several times a millisecond, and returns
its result. It decides nothing about time; whoever runs it does. A thread would be no way out: a thread that computes
gives the interpreter back only every 5 ms, and the loop would pay that at each of its system calls.
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
"""How long the event loop waits for a piece: a tenth of what it may stand still in all. Who becomes ready at the
wrong moment waits for what is left of one round of the loop and for the next one, with a piece and whatever is short
in each."""

RUN_ITEMS: Final = 256
"""Sorted in one go."""

_turn: Final[trio.lowlevel.RunVar[trio.Lock]] = trio.lowlevel.RunVar("turn")


def turn() -> trio.Lock:
    """Held for one piece of any long work of this event loop. Without it a round of the loop would have a piece of
    each work that is under way, and whoever waits for the round would wait for all of them together."""
    try:
        return _turn.get()
    except LookupError:
        _turn.set(lock := trio.Lock())
        return lock


async def piece_by_piece(pieces: Pieces[T]) -> T:
    """The result. Lets others run once before it begins and whenever PIECE_S have been used up. What is done is never
    lost: nothing can be cancelled after the last piece."""
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
    """The result, for whoever can wait."""
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            result: T = end.value
            return result


def sorting(items: Sequence[T], key: Callable[[T], Any]) -> Pieces[list[T]]:
    """`sorted` in pieces: runs, which are merged."""
    runs = []
    for start in range(0, len(items), RUN_ITEMS):
        runs.append(sorted(items[start : start + RUN_ITEMS], key=key))
        yield
    merged = []
    for item in heapq.merge(*runs, key=key):
        merged.append(item)
        yield
    return merged
