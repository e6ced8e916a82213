"""When a task that looks at something again and again looks next, and at how much. Pure.

An idle agent spends more on waking up than on what it wakes up for. So all such tasks share beats: those whose pauses
end at the same moment share one wake-up. Each looks no later than its own pause says, so what was promised within a
time still holds; a pause shorter than a beat is kept as it is. The clock of trio begins at a random number, so the
beats of two agents differ.

A look at what a host has a thousand of is at some of these, in turn: so it costs no more than one at a hundred, and
what has changed without a word is seen that many looks later.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from typing import Final, Generic, TypeVar

BEAT_S: Final = 0.5
"""The shortest pause of a task that looks again and again; the others are multiples of it."""
MOST_A_LOOK: Final = 100
"""Of one kind of thing, such as the ports of containers."""
_SLACK_S: Final = 0.001
"""A timer that ends a moment before a beat must not end the next pause at that very beat."""

T = TypeVar("T", bound=Hashable)


def beat_within(now: float, pause_s: float) -> float:
    """The last beat that comes no later than `pause_s` from `now`."""
    at = (now + pause_s) // BEAT_S * BEAT_S
    return at if at > now + _SLACK_S else now + pause_s


class Turns(Generic[T]):
    """At which of many things each look of a task is.

    All of up to MOST_A_LOOK. Beyond, each has its turn once in every round of as many looks as it takes. What was
    done to one was often done to all, so whoever finds damage has the next look be at everything (`hurry`).
    """

    def __init__(self) -> None:
        self._waiting: list[T] = []
        """Those whose turn has not come in this round, the next one last."""
        self._is_hurried = False

    def hurry(self) -> None:
        """The next look is at everything."""
        self._is_hurried = True

    def take(self, things: Collection[T]) -> list[T]:
        """Those of all `things` that the look is at which begins now."""
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
