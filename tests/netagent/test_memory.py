"""Circles of garbage are found: young ones soon, others within a day; collections in between visit few objects."""

from __future__ import annotations

import gc
import weakref
from contextlib import contextmanager

import pytest
import trio
import trio.testing

from netagent import memory
from netagent.memory import ROUNDS, YOUNG, keep_collections_short

DAY_S = 30.0
"""Enough, and the clock need not tick a million times."""


class Circle:
    """Only a collection ends it."""

    def __init__(self) -> None:
        self.own = self


def grow(count: int) -> list[list[int]]:
    """So many objects that could be part of a circle."""
    return [[one] for one in range(count)]


@contextmanager
def visited():
    """How many objects each collection had to visit, but for those of the oldest generation."""
    counts = []

    def count(phase, facts):
        if phase == "start" and facts["generation"] < 2:
            counts.append(len(gc.get_objects()))

    gc.callbacks.append(count)
    try:
        yield counts
    finally:
        gc.callbacks.remove(count)


def test_what_survives_is_visited_once_and_old_circles_are_found_within_a_day(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "WHOLE_PERIOD_S", DAY_S)
    thresholds, frozen, callbacks = gc.get_threshold(), gc.get_freeze_count(), len(gc.callbacks)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_collections_short)
            await trio.testing.wait_all_tasks_blocked()
            assert gc.get_freeze_count() > frozen
            circle = Circle()
            set_aside = gc.get_freeze_count()
            with visited() as counts:
                kept = grow(50 * YOUNG)
            assert gc.get_freeze_count() > set_aside + 49 * YOUNG
            assert len(counts) >= 49
            assert max(counts) < 3 * YOUNG
            gone = weakref.ref(circle)
            del circle, kept
            gc.collect()
            assert gone() is not None, "it was set aside"
            await trio.sleep(DAY_S + 1)
            assert gone() is None
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert gc.get_threshold() == thresholds
    assert gc.get_freeze_count() == 0
    assert len(gc.callbacks) == callbacks


def test_young_circles_are_found_soon() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_collections_short)
            await trio.testing.wait_all_tasks_blocked()
            gone = weakref.ref(Circle())
            assert gone() is not None
            grow(2 * YOUNG)
            assert gone() is None
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_who_lives_while_garbage_is_collected_is_not_set_aside_at_once() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_collections_short)
            await trio.testing.wait_all_tasks_blocked()
            grow(YOUNG)
            circle = Circle()
            frozen, gone = gc.get_freeze_count(), weakref.ref(circle)
            with visited() as counts:
                for _ in range(3 * YOUNG):
                    Circle()
            assert len(counts) >= 3
            assert gc.get_freeze_count() <= frozen
            del circle
            for _ in range(2 * ROUNDS * YOUNG):
                Circle()
            assert gone() is None
            nursery.cancel_scope.cancel()

    trio.run(main)
