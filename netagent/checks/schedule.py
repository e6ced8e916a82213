"""Which check is due when. No I/O.

A check is asked again one interval after it was last asked, give or take a tenth, so that the checks of containers
that started together drift apart. At most MAX_AT_ONCE are asked at the same time; the others wait, the one that is
due longest first. What is due within BATCH_S is taken together: visiting namespaces in one thread, and waking up
once, costs a fraction of doing so for each.
"""

from __future__ import annotations

from collections.abc import Hashable
from random import Random
from typing import Final, Generic, TypeVar

from netgossip.deadlines import NEVER, DeadlineHeap

MAX_AT_ONCE: Final = 64
"""Bound of checks that are asked at the same time; beyond it: others wait until one has ended."""
BATCH_S: Final = 0.1
FIRST_S: Final = 0.5
"""The first question comes within this time, at a random moment: after a start of the agent all are new."""
JITTER: Final = 0.1

Key = TypeVar("Key", bound=Hashable)


class CheckSchedule(Generic[Key]):
    """A moment for each check that is not being asked."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._due: DeadlineHeap[Key] = DeadlineHeap()
        self._asked: dict[Key, float] = {}
        """The checks that are being asked, with the moment when they were taken."""
        self._dropped: set[Key] = set()
        """Those of them that are not to be asked again."""

    def add(self, key: Key, now: float) -> None:
        """Ask a new check soon. One that is being asked keeps its turn."""
        self._dropped.discard(key)
        if key not in self._asked and key not in self._due:
            self._due.set(key, now + self._rng.random() * FIRST_S)

    def drop(self, key: Key) -> None:
        """Ask this check no longer."""
        self._due.discard(key)
        if key in self._asked:
            self._dropped.add(key)

    def take(self, now: float) -> list[Key]:
        """Return the checks to ask now; `end` each of them."""
        taken: list[Key] = []
        while len(self._asked) < MAX_AT_ONCE and (key := self._due.pop_due(now + BATCH_S)) is not None:
            self._asked[key] = now
            taken.append(key)
        return taken

    def end(self, key: Key, interval_s: float, now: float) -> None:
        """The check has been answered, or time ran out: plan the next question."""
        asked_at = self._asked.pop(key)
        if key in self._dropped:
            self._dropped.discard(key)
            return
        spread = 1 + JITTER * (2 * self._rng.random() - 1)
        self._due.set(key, max(now, asked_at + interval_s * spread))

    def next_moment(self) -> float:
        """When to call `take` next; NEVER while as many are asked as may be: an end changes that."""
        return NEVER if len(self._asked) >= MAX_AT_ONCE else self._due.next()

    def check_invariants(self) -> None:
        """Raise if a check is lost, or too many are asked."""
        assert len(self._asked) <= MAX_AT_ONCE
        assert self._dropped <= self._asked.keys()
        assert not any(key in self._due for key in self._asked)
        self._due.check_invariants()
