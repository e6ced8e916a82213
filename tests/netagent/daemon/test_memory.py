"""Circles of garbage are found: young ones soon, others within hours; collections in between visit few objects."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
import trio.testing

from netagent.daemon import memory
from netagent.daemon.memory import ASIDE, MOST_PERIODS, OLD_ROUNDS, ROUNDS, YOUNG, keep_collections_short

BETWEEN = (ROUNDS + 1) * (OLD_ROUNDS + 1) * YOUNG
"""So many new objects have all looked at that is not set aside."""


@pytest.fixture(autouse=True)
def _nothing_set_aside() -> Iterator[None]:
    """As in an agent that starts; afterwards what pytest has collected is set aside again (tests/conftest.py)."""
    gc.unfreeze()
    gc.collect()
    yield
    gc.collect()
    gc.freeze()


class Circle:
    """Only a collection ends it."""

    def __init__(self) -> None:
        self.own = self


def grow(count: int) -> list[list[int]]:
    """So many objects that could be part of a circle."""
    return [[one] for one in range(count)]


def requests(count: int) -> None:
    """Each is in use for a while, a few at once, and is a circle when it ends."""
    under_way = [Circle() for _ in range(20)]
    for number in range(count):
        under_way[number % 20] = Circle()


@contextmanager
def visited() -> Iterator[list[int]]:
    """How many objects each collection had to visit at most."""
    counts: list[int] = []

    def count(phase: str, facts: dict[str, int]) -> None:
        if phase == "start":
            counts.append(len(gc.get_objects()))

    gc.callbacks.append(count)
    try:
        yield counts
    finally:
        gc.callbacks.remove(count)


@contextmanager
def short_periods(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The clock need not tick a million times."""
    monkeypatch.setattr(memory, "PERIOD_S", 1.0)
    yield


def test_what_survives_is_set_aside_and_collections_stay_short() -> None:
    thresholds, frozen, callbacks = gc.get_threshold(), gc.get_freeze_count(), len(gc.callbacks)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_collections_short)
            await trio.testing.wait_all_tasks_blocked()
            set_aside = gc.get_freeze_count()
            assert set_aside > frozen
            with visited() as counts:
                kept = grow(100 * YOUNG)
            assert gc.get_freeze_count() > set_aside + 80 * YOUNG
            assert len(counts) >= 90
            assert max(counts) < ASIDE + BETWEEN + 3 * YOUNG
            del kept
            nursery.cancel_scope.cancel()

    trio.run(main)
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


def test_requests_set_nothing_aside_however_many_they_are() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_collections_short)
            await trio.testing.wait_all_tasks_blocked()
            requests(2 * BETWEEN)
            set_aside = gc.get_freeze_count()
            requests(20 * BETWEEN)
            assert gc.get_freeze_count() <= set_aside
            gc.collect()
            alive = sum(isinstance(one, Circle) for one in gc.get_objects())
            assert alive == 0
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_what_was_set_aside_and_is_garbage_is_found_within_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_collections_short)
            await trio.testing.wait_all_tasks_blocked()
            circle = Circle()
            gone = weakref.ref(circle)
            gc.freeze()
            del circle
            gc.collect()
            assert gone() is not None, "it was set aside"
            await trio.sleep(MOST_PERIODS + 0.5)
            assert gone() is None
            nursery.cancel_scope.cancel()

    with short_periods(monkeypatch):
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_and_within_an_hour_if_it_is_much(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_collections_short)
            await trio.testing.wait_all_tasks_blocked()
            circles = [Circle() for _ in range(gc.get_freeze_count())]
            gone = weakref.ref(circles[0])
            gc.freeze()
            del circles
            gc.collect()
            assert gone() is not None, "it was set aside"
            await trio.sleep(1.5)
            assert gone() is None
            with visited() as counts:
                kept = grow(100 * YOUNG)
            assert max(counts) < ASIDE + BETWEEN + 3 * YOUNG, "collections are short again"
            del kept
            nursery.cancel_scope.cancel()

    with short_periods(monkeypatch):
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
