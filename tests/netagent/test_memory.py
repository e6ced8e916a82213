"""Circles of garbage are found: young ones soon, others within a day; nothing stays set aside at the end."""

from __future__ import annotations

import gc
import weakref

import pytest
import trio
import trio.testing

from netagent import memory
from netagent.memory import PERIOD_S, ROUNDS, YOUNG, keep_collections_short

DAY_S = 30.0
"""Enough, and the clock need not tick a million times."""


class Circle:
    """Only a collection ends it."""

    def __init__(self) -> None:
        self.own = self
        self.more = [[one] for one in range(YOUNG)]


def test_old_circles_are_found_within_a_day_and_everything_is_put_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "WHOLE_PERIOD_S", DAY_S)
    thresholds, frozen = gc.get_threshold(), gc.get_freeze_count()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_collections_short)
            await trio.testing.wait_all_tasks_blocked()
            assert gc.get_freeze_count() > frozen
            circle = Circle()
            kept = [Circle() for _ in range(4 * ROUNDS)]
            set_aside = gc.get_freeze_count()
            await trio.sleep(2 * PERIOD_S)
            assert gc.get_freeze_count() > set_aside + len(kept) * YOUNG
            gone = weakref.ref(circle)
            del circle
            gc.collect()
            assert gone() is not None, "it was set aside"
            await trio.sleep(DAY_S + PERIOD_S)
            assert gone() is None
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert gc.get_threshold() == thresholds
    assert gc.get_freeze_count() == 0
