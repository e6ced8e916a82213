"""All of it or none of it: steps with their reverse, undone in the opposite order when one fails or is cancelled."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

UNDO_STEP_S = 5.0
"""Undoing is shielded from cancellation, but not for ever: a stop of the agent must end, and one step that hangs must
not keep the others from being done."""

logger = logging.getLogger("netagent.endpoints.rollback")


class Rollback:
    """What to do if the rest fails."""

    def __init__(self) -> None:
        self._steps: list[tuple[str, Callable[[], Awaitable[object]]]] = []

    def push(self, what: str, step: Callable[[], Awaitable[object]]) -> None:
        """`step` reverses what has just been done; `what` names it in the log."""
        self._steps.append((what, step))

    async def unwind(self) -> None:
        """Undo everything, the latest first. A step that fails is logged and does not stop the others."""
        while self._steps:
            what, step = self._steps.pop()
            try:
                with trio.fail_after(UNDO_STEP_S):
                    await step()
            except Exception:
                logger.exception("could not undo: %s", what)


@asynccontextmanager
async def all_or_nothing() -> AsyncIterator[Rollback]:
    """Run the block; if it raises or is cancelled, undo what it pushed, then let the exception go on."""
    stack = Rollback()
    try:
        yield stack
    except BaseException:
        with trio.CancelScope(shield=True):
            await stack.unwind()
        raise
