"""How long the passes of an event loop take: what a task that has become ready waits at most before it runs.

A pass runs all tasks that are ready, once, and then waits for the kernel. The time between two waits is measured, and
not the waiting.
"""

from __future__ import annotations

import time
from typing import Final

import trio

from netgossip.histogram import Histogram

BOUNDS_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


class LoopPasses(trio.abc.Instrument):
    """Give it to `trio.run`."""

    def __init__(self) -> None:
        self.times = Histogram(BOUNDS_S)
        self._began_at = time.perf_counter()

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002  (trio's signature)
        """Note that a pass begins."""
        self._began_at = time.perf_counter()

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002
        """Note that it has ended."""
        self.times.observe(time.perf_counter() - self._began_at)
