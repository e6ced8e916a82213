"""A task that repeats a step: every so often, and at once when another task wakes it.

What fails is logged once, until the reason changes, and tried again; it never ends the task. Cancel the task to end
it: a step that is under way ends at its next checkpoint.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from netagent.errors import NetagentError
from netagent.periodic import tick_within


class PeriodicTask:
    """One task waits; any other may call `wake`. A pause ends at a common tick (netagent.periodic)."""

    def __init__(self, pause_s: float) -> None:
        self._pause_s = pause_s
        self._woken = trio.Event()
        self.trouble = ""
        """Why the last step of `run` failed; empty if it did not."""

    def wake(self) -> None:
        """End the present pause, or the next one if a step is under way."""
        self._woken.set()

    async def wait(self, pause_s: float | None = None) -> bool:
        """Wait for one pause, or for `wake`. True: woken."""
        pause_s = self._pause_s if pause_s is None else pause_s
        with trio.move_on_at(tick_within(trio.current_time(), pause_s)):
            await self._woken.wait()
        # Before the step and not after it: a task that wakes this one during the step has changed what the step read.
        was_woken, self._woken = self._woken.is_set(), trio.Event()
        return was_woken

    async def run(
        self, step: Callable[[], Awaitable[object]], logger: logging.Logger, cannot: str, retry_s: float
    ) -> None:
        """Take steps until cancelled, the first one now. One that fails is repeated after `retry_s`; `cannot` begins
        the sentence that says so."""
        while True:
            try:
                await step()
            except (NetagentError, OSError) as error:
                if (trouble := f"{cannot}: {error}") != self.trouble:
                    logger.warning("%s", trouble)
                self.trouble = trouble
                await self.wait(retry_s)
            else:
                self.trouble = ""
                await self.wait()
