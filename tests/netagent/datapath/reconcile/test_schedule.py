"""When the reconciler looks again after a look, whatever that took."""

from __future__ import annotations

import pytest
import trio
from fakes.virtual import virtual

from netagent.datapath.reconcile.schedule import INTERVAL_S, PAUSE_MAX_S, WHOLE_MAX_S, WHOLE_SHARE, Schedule


@pytest.mark.parametrize(("took_s", "pause_s"), [(0.1, 0.4), (3.0, PAUSE_MAX_S)])
@virtual
async def test_news_right_after_a_look_wait_for_four_times_as_long_and_never_beyond_the_bound(
    took_s: float, pause_s: float
) -> None:
    schedule = Schedule()
    started_at, _ = schedule.start_look()
    await trio.sleep(took_s)
    schedule.end_look(started_at, INTERVAL_S, is_whole=True)
    schedule.look_soon()
    await trio.sleep(0.9 * pause_s)
    assert not schedule.is_look_due()
    await trio.sleep(0.2 * pause_s)
    assert schedule.is_look_due()


@pytest.mark.parametrize(
    ("took_s", "pause_s"), [(0.01, INTERVAL_S), (0.02, 0.02 * WHOLE_SHARE), (3.0, WHOLE_MAX_S)]
)
@virtual
async def test_the_timer_looks_at_everything_the_later_the_longer_that_takes_and_within_a_minute(
    took_s: float, pause_s: float
) -> None:
    schedule = Schedule()
    started_at, is_whole = schedule.start_look()
    assert is_whole
    await trio.sleep(took_s)
    schedule.end_look(started_at, INTERVAL_S, is_whole=True)
    await trio.sleep(pause_s - 0.1)
    assert not schedule.is_look_due()
    await trio.sleep(0.2)
    assert schedule.is_look_due()
    _, is_whole = schedule.start_look()
    assert is_whole
