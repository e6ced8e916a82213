"""A periodic task under trio's virtual time."""

from __future__ import annotations

import logging

import pytest
import trio
import trio.testing

from netagent.errors import FailedError
from netagent.periodic import TICK_S
from netagent.periodic_task import PeriodicTask

LOGGER = logging.getLogger("netagent.test")


class Steps:
    """Fails with each of these sentences in turn; an empty one is a success."""

    def __init__(self, *outcomes: str) -> None:
        self.outcomes = list(outcomes)
        self.times: list[float] = []

    async def take(self) -> None:
        self.times.append(trio.current_time())
        if self.outcomes and (sentence := self.outcomes.pop(0)):
            raise FailedError(sentence, code="test")


def run_for(duration_s: float, task: PeriodicTask, steps: Steps, wake_at: float | None = None) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(task.run, steps.take, LOGGER, "cannot do it", 1.0)
            if wake_at is not None:
                await trio.sleep(wake_at)
                task.wake()
            await trio.sleep_until(duration_s)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_steps_come_at_ticks_the_first_one_now() -> None:
    steps = Steps()
    run_for(3.1, PeriodicTask(1.2), steps)
    assert steps.times == [0.0, 1.0, 2.0, 3.0]
    assert all(time % TICK_S == 0 for time in steps.times)


def test_who_wakes_it_need_not_wait_for_the_pause() -> None:
    steps = Steps()
    run_for(5.1, PeriodicTask(5.0), steps, wake_at=1.3)
    assert steps.times == [0.0, 1.3]


def test_a_wake_during_a_step_leads_to_another_step() -> None:
    task = PeriodicTask(1000.0)
    woken: list[bool] = []

    async def main() -> None:
        task.wake()
        woken.append(await task.wait())
        woken.append(await task.wait(2.0))

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert woken == [True, False]


def test_a_failure_is_logged_once_until_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    task, steps = PeriodicTask(10.0), Steps("disk full", "disk full", "no network", "", "no network")
    run_for(3.1, task, steps)
    assert steps.times == [0.0, 1.0, 2.0, 3.0], "tried again soon"
    assert [one.message for one in caplog.records] == ["cannot do it: disk full", "cannot do it: no network"]
    assert task.trouble == ""
    run_for(0.1, task, steps)
    assert task.trouble == "cannot do it: no network"
    assert len(caplog.records) == 3, "it was over meanwhile"
