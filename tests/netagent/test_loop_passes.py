from __future__ import annotations

import pytest
import trio

from netagent.loop_passes import LoopPasses


def test_what_runs_between_two_waits_is_measured_and_not_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([1.0, 10.0, 10.25, 90.0, 90.5])
    monkeypatch.setattr("netagent.loop_passes.time.perf_counter", lambda: next(moments))
    passes = LoopPasses()
    for _ in range(2):
        passes.after_io_wait(0.0)
        passes.before_io_wait(0.0)
    assert passes.times.count == 2
    assert passes.times.total == 0.75


def test_trio_tells_of_each_pass() -> None:
    passes = LoopPasses()

    async def work() -> None:
        for _ in range(10):
            await trio.lowlevel.checkpoint()

    trio.run(work, instruments=[passes])
    assert passes.times.count >= 10
