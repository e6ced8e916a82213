"""Long work gives way, and several of it share one turn."""

from __future__ import annotations

from collections import Counter

import pytest
import trio
import trio.testing

from netgossip import slice_runner
from netgossip.slice_runner import TaskRunner, in_slices
from netgossip.slices import Slices

BOUND_S = 30


class Rounds(trio.abc.Instrument):
    """Counts the rounds of the event loop."""

    def __init__(self) -> None:
        self.number = 0

    def before_io_wait(self, timeout: float) -> None:
        del timeout
        self.number += 1


def counting(rounds: Rounds, done: Counter[int], name: str, length: int) -> Slices[str]:
    for _ in range(length):
        done[rounds.number] += 1
        yield
    return name


def test_works_that_are_under_way_together_have_one_slice_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slice_runner, "SLICE_S", 0.0)
    rounds = Rounds()
    done: Counter[int] = Counter()
    results: list[str] = []

    async def one(name: str) -> None:
        results.append(await in_slices(counting(rounds, done, name, 50)))

    async def main() -> None:
        trio.lowlevel.add_instrument(rounds)
        with trio.fail_after(BOUND_S):
            async with trio.open_nursery() as nursery:
                for name in "abcde":
                    nursery.start_soon(one, name)

    trio.run(main)
    assert sorted(results) == list("abcde")
    assert sum(done.values()) == 250
    assert max(done.values()) == 1


def test_a_cancelled_work_leaves_the_turn_to_the_others() -> None:
    def endless() -> Slices[None]:
        while True:
            yield

    async def main() -> None:
        with trio.fail_after(BOUND_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(in_slices, endless())
                nursery.start_soon(in_slices, endless())
                await trio.sleep(0.02)
                nursery.cancel_scope.cancel()
            rounds = Rounds()
            assert await in_slices(counting(rounds, Counter(), "done", 3)) == "done"

    trio.run(main)


def test_pending_steps_run_when_noted_and_end_the_wait() -> None:
    class Behind:
        has_pending_work = True
        steps = 0

        def run_step(self) -> None:
            self.steps += 1
            self.has_pending_work = self.steps < 3

    async def main() -> None:
        node = Behind()
        work = TaskRunner(node)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work.run)
            await trio.testing.wait_all_tasks_blocked()
            assert node.steps == 0, "the runner was not woken"
            work.note()
            with trio.fail_after(BOUND_S):
                await work.wait_done()
            assert node.steps == 3
            nursery.cancel_scope.cancel()

    trio.run(main)
