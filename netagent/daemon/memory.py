"""Keeps the interpreter's garbage collections short, and still finds the garbage.

A full collection visits every object that could be part of a cycle. With ten thousand endpoints these are half a
million, and for 60 ms nothing else happens (measured); yet nearly all are records and entries, which are in no cycle.
So objects that have survived three collections are set aside (frozen) once there are many, and are not visited again.

Objects in use for a moment must not be set aside with them: a cycle that is in use at that moment, such as a task
with its error, would stay for hours once it is not. Therefore objects are set aside when there are many that last,
and not at each collection: an agent that answers requests and learns nothing sets nothing aside, however many
requests these are. The cycles that it makes for each request are broken up where they are made
(netagent.control.server). What is left is found by the next collection of everything. There is one per day, and one
an hour after the last one if what is set aside has grown by a quarter since.
"""

from __future__ import annotations

import gc
from typing import Final

import trio

YOUNG: Final = 1_000
"""Objects by which the youngest generation may grow before it is visited."""
ROUNDS: Final = 3
"""Further rounds of these before what survived them is visited again, with the youngest."""
OLD_ROUNDS: Final = 1
"""Further rounds of these before all that is not set aside is visited."""
ASIDE: Final = 5_000
"""More survivors than these are set aside. A collection visits this many and those that came since the one before,
13,000 in all: 1.6 ms."""
PERIOD_S: Final = 3600.0
"""Interval for deciding whether everything is to be visited."""
MOST_PERIODS: Final = 24
GROWTH: Final = 1.25
"""Growth of what is set aside after which much of it may be garbage. What dies without a cycle is freed by itself."""


async def keep_collections_short() -> None:
    """Tune the collector until cancelled; then restore the interpreter's defaults."""
    before = gc.get_threshold()
    gc.set_threshold(YOUNG, ROUNDS, OLD_ROUNDS)
    gc.callbacks.append(_set_survivors_aside)
    _visit_everything()
    try:
        while True:
            size = gc.get_freeze_count()
            for _ in range(MOST_PERIODS):
                await trio.sleep(PERIOD_S)
                if gc.get_freeze_count() > GROWTH * size:
                    break
            _visit_everything()
    finally:
        gc.callbacks.remove(_set_survivors_aside)
        gc.unfreeze()
        gc.set_threshold(*before)


def _visit_everything() -> None:
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    # The interpreter delays a full collection until the objects have grown by a quarter since the last one; this one
    # sets that count to almost nothing.
    gc.collect()


def _set_survivors_aside(phase: str, facts: dict[str, int]) -> None:
    if phase == "stop" and facts["generation"] == 2 and len(gc.get_objects(generation=2)) > ASIDE:
        gc.freeze()
