"""Keeps the interpreter's collections of garbage short.

A full collection visits every object that could be part of a circle. With ten thousand endpoints these are half a
million, and for 60 ms nothing else happens (measured); yet nearly all are records and entries, which are in no
circle. So each object is visited once, with the few that are as young, and what survives that is set aside, which
costs nothing. What dies in a circle later than that is found once a day, when all are visited.

Unless most of what was visited was garbage: then an agent is at its daily work and does not learn, and what was alive
at that moment is given more time to die.
"""

from __future__ import annotations

import gc
from typing import Final

import trio

YOUNG: Final = 1_000
"""Objects by which the youngest may grow before they are visited: up to 1 ms."""
ROUNDS: Final = 10
"""Of these before what survived them is visited again, with the youngest."""
NEVER: Final = 2**31 - 1
WHOLE_PERIOD_S: Final = 24 * 3600.0


async def keep_collections_short() -> None:
    """Until cancelled; then everything is as the interpreter has it."""
    before = gc.get_threshold()
    gc.set_threshold(YOUNG, ROUNDS, NEVER)
    gc.callbacks.append(_set_survivors_aside)
    gc.freeze()
    try:
        while True:
            await trio.sleep(WHOLE_PERIOD_S)
            gc.unfreeze()
            gc.collect()
    finally:
        gc.callbacks.remove(_set_survivors_aside)
        gc.unfreeze()
        gc.set_threshold(*before)


def _set_survivors_aside(phase: str, facts: dict[str, int]) -> None:
    if phase == "stop" and (facts["generation"] > 0 or facts["collected"] < YOUNG // 2):
        gc.freeze()
