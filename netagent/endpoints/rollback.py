"""Rollback: undo completed steps in reverse order when a later one fails or is cancelled."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

UNDO_STEP_S = 5.0
"""Undoing is shielded from cancellation for this long only: a stop of the agent must end, and a step that hangs must
not prevent the others."""

logger = logging.getLogger("netagent.endpoints.rollback")


class Rollback:
    """The undo steps of a block."""

    def __init__(self) -> None:
        self._steps: list[tuple[str, Callable[[], Awaitable[object] | None]]] = []

    def push(self, what: str, step: Callable[[], Awaitable[object] | None]) -> None:
        """Add a step that undoes what has just been done; `what` names it in the log."""
        self._steps.append((what, step))

    async def unwind(self) -> None:
        """Undo everything, the latest first. A step that fails is logged and does not stop the others."""
        while self._steps:
            what, step = self._steps.pop()
            try:
                with trio.fail_after(UNDO_STEP_S):
                    waiting = step()
                    if waiting is not None:
                        await waiting
            except Exception:
                logger.exception("could not undo: %s", what)


@asynccontextmanager
async def all_or_nothing() -> AsyncIterator[Rollback]:
    """Run the block; if it raises or is cancelled, run its undo steps, then propagate the exception."""
    stack = Rollback()
    try:
        yield stack
    except BaseException:
        with trio.CancelScope(shield=True):
            await stack.unwind()
        raise
