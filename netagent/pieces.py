"""Long work of a pure function, done piece by piece so that the event loop is never held up for long.

The function is a generator that yields wherever it could stop for a moment, about once a millisecond, and returns its
result. It decides nothing about time; whoever runs it does. A thread would be no way out: a thread that computes
gives the interpreter back only every 5 ms, and the loop would pay that at each of its system calls.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Final, TypeAlias, TypeVar

import trio

T = TypeVar("T")

Pieces: TypeAlias = Generator[None, None, T]

PIECE_S: Final = 0.004
"""How long the event loop waits for a piece: a fifth of what it may stand still in all."""


async def piece_by_piece(pieces: Pieces[T]) -> T:
    """The result. Lets others run once before it begins and whenever PIECE_S have been used up. What is done is never
    lost: nothing can be cancelled after the last piece."""
    await trio.lowlevel.checkpoint()
    began = time.perf_counter()
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            result: T = end.value
            return result
        if time.perf_counter() - began > PIECE_S:
            await trio.lowlevel.checkpoint()
            began = time.perf_counter()


def at_once(pieces: Pieces[T]) -> T:
    """The result, for whoever can wait."""
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            result: T = end.value
            return result
