"""Keeps the interpreter's collections of garbage short.

A full collection visits every object that could be part of a circle. With ten thousand endpoints these are half a
million, and for 60 ms nothing else happens (measured); yet nearly all are records and entries, which are in no
circle. So full collections are not left to the interpreter: they are done here, whenever there is a little that is
new to visit, and what survives one is set aside and not visited again. What dies in a circle later than that is found
once a day, when all are visited.
"""

from __future__ import annotations

import gc
from typing import Final

import trio

PERIOD_S: Final = 0.01
"""At a first sync 15,000 objects come in it, which take 3 ms."""
YOUNG: Final = 2_000
"""Objects by which the youngest may grow before they are visited."""
ROUNDS: Final = 20
"""Of these before the interpreter visits the next older ones with them: 40,000 objects, which would be long. Nearly
always a full collection of ours comes before, so nothing is visited more than twice."""
WORTHWHILE: Final = 2
"""Of these before a full collection of ours."""
NEVER: Final = 2**31 - 1
WHOLE_PERIOD_S: Final = 24 * 3600.0


async def keep_collections_short() -> None:
    """Until cancelled; then everything is as the interpreter has it."""
    before = gc.get_threshold()
    gc.set_threshold(YOUNG, ROUNDS, NEVER)
    gc.freeze()
    whole_at = trio.current_time() + WHOLE_PERIOD_S
    try:
        while True:
            await trio.sleep(PERIOD_S)
            if trio.current_time() >= whole_at:
                gc.unfreeze()
                whole_at = trio.current_time() + WHOLE_PERIOD_S
            elif gc.get_count()[1] < WORTHWHILE and gc.get_count()[2] == 0:
                continue
            gc.collect()
            gc.freeze()
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
