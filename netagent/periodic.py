"""When a periodic task runs next, and how many objects it checks per run. Pure.

An idle agent spends more on waking up than on the checks themselves. So all periodic tasks run at common ticks: tasks
whose pauses end at the same tick share one wake-up. Each runs no later than its own pause says, so promised times
still hold; a pause shorter than a tick stays as it is. Trio's clock starts at a random number, so the ticks of two
agents differ.

A task with a thousand objects checks some of them per run, in turn. So a run costs no more than with a hundred, and
the task notices a change that no event reports correspondingly later.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from typing import Final, Generic, TypeVar

TICK_S: Final = 0.5
"""The shortest pause of a periodic task, in seconds; other pauses are multiples of it."""
MOST_A_LOOK: Final = 100
"""Bound of objects of one kind examined in one periodic look; beyond it: a round takes several looks; each object has
its turn once per round."""
_SLACK_S: Final = 0.001
"""A timer that fires a moment before a tick must not make the next pause end at that same tick."""

T = TypeVar("T", bound=Hashable)


def tick_within(now: float, pause_s: float) -> float:
    """Return the last tick that is no later than `pause_s` after `now`."""
    at = (now + pause_s) // TICK_S * TICK_S
    return at if at > now + _SLACK_S else now + pause_s


class Turns(Generic[T]):
    """Selects the objects that each run of a task checks.

    Up to MOST_A_LOOK objects: all of them. Beyond, each has its turn once per round of as many runs as it takes. A
    fault in one object is often in all, so a caller that finds one makes the next run check everything (`hurry`).
    """

    def __init__(self) -> None:
        self._waiting: list[T] = []
        """Objects whose turn has not come in this round, the next one last."""
        self._is_hurried = False

    def hurry(self) -> None:
        """Make the next run check everything."""
        self._is_hurried = True

    def take(self, things: Collection[T]) -> list[T]:
        """Return those of `things` that the run starting now checks."""
        is_hurried, self._is_hurried = self._is_hurried, False
        if is_hurried or len(things) <= MOST_A_LOOK:
            self._waiting.clear()
            return list(things)
        taken: list[T] = []
        self._waiting = self._waiting or list(things)[::-1]
        while self._waiting and len(taken) < MOST_A_LOOK:
            thing = self._waiting.pop()
            if thing in things:
                taken.append(thing)
        return taken
