"""Which check is due when. No I/O.

A check is asked again one interval after it was last asked, give or take a tenth, so that the checks of containers
that started together drift apart. At most MAX_AT_ONCE are asked at the same time; the others wait, the one that is
due longest first. Of these, one container may hold PER_OWNER, and commands COMMANDS_AT_ONCE, so that checks that hang
on purpose keep no other container from its turn; a check that finds its own room full steps aside until one there has
ended. The first that is due waits for BATCH_S, and takes along what is due up to BATCH_S later: to visit namespaces
in one thread, and to wake up once, costs a fraction of doing so for each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from random import Random
from typing import Final, Generic, TypeVar

from netgossip.deadlines import NEVER, DeadlineHeap

MAX_AT_ONCE: Final = 64
"""Bound of checks that are asked at the same time; beyond it: others wait until one has ended."""
PER_OWNER: Final = 2
"""Bound of checks of one container that are asked at the same time; beyond it: its others wait."""
COMMANDS_AT_ONCE: Final = 4
"""Bound of commands that run at the same time; beyond it: others wait until one has ended. To start one takes a
runtime some 50 ms of a processor."""
BATCH_S: Final = 0.06
"""A check is asked so much earlier or later than it is due."""
FIRST_S: Final = 0.5
"""The first question comes within this time, at a random moment: after a start of the agent all are new."""
JITTER: Final = 0.1

_COMMANDS: Final = object()
"""The room that all commands share."""

Key = TypeVar("Key", bound=Hashable)


class CheckSchedule(Generic[Key]):
    """A moment for each check that is not being asked."""

    def __init__(
        self, rng: Random, owner_of: Callable[[Key], Hashable], is_command: Callable[[Key], bool]
    ) -> None:
        self._rng = rng
        self._owner_of = owner_of
        self._is_command = is_command
        self._due: DeadlineHeap[Key] = DeadlineHeap()
        self._asked: dict[Key, float] = {}
        """The checks that are being asked, with the moment when they were taken."""
        self._dropped: set[Key] = set()
        """Those of them that are not to be asked again."""
        self._rooms: dict[Key, tuple[Hashable, ...]] = {}
        """The rooms that each check takes while it is asked: of its container, and of commands."""
        self._used: dict[Hashable, int] = {}
        """How many are being asked, by the room that they take; none is 0."""
        self._aside: dict[Hashable, DeadlineHeap[Key]] = {}
        """Checks that found this room full, by when they were due."""
        self._room_of: dict[Key, Hashable] = {}
        """Which room each of them waits for."""

    def add(self, key: Key, now: float) -> None:
        """Ask a new check soon. One that is being asked keeps its turn."""
        self._dropped.discard(key)
        if key not in self._rooms:
            owner = self._owner_of(key)
            self._rooms[key] = (owner, _COMMANDS) if self._is_command(key) else (owner,)
            self._due.set(key, now + self._rng.random() * (FIRST_S - BATCH_S))

    def drop(self, key: Key) -> None:
        """Ask this check no longer."""
        if key in self._due:
            self._due.discard(key)
            self._refill(key)  # it may have had the place that another one waits for
        if key in self._room_of:
            self._leave(key)
        if key in self._asked:
            self._dropped.add(key)
        else:
            self._rooms.pop(key, None)

    def take(self, now: float) -> list[Key]:
        """Return the checks to ask now; `end` each of them."""
        taken: list[Key] = []
        while len(self._asked) < MAX_AT_ONCE:
            due_at = self._due.next()
            key = self._due.pop_due(now + BATCH_S)
            if key is None:
                break
            rooms, full = self._rooms[key], None
            for room in rooms:
                if self._is_full(room):
                    full = room
                    break
            if full is not None:
                self._aside.setdefault(full, DeadlineHeap()).set(key, due_at)
                self._room_of[key] = full
                self._refill(key)
                continue
            for room in rooms:
                self._used[room] = self._used.get(room, 0) + 1
            self._asked[key] = now
            taken.append(key)
        return taken

    def _is_full(self, room: Hashable) -> bool:
        return self._used.get(room, 0) >= _size(room)

    def _refill(self, key: Key) -> None:
        """In each room of a check that takes no place there now, give the place to the first that waits for one."""
        for room in self._rooms[key]:
            if room in self._aside and not self._is_full(room):
                due_at = self._aside[room].next()
                first = self._aside[room].pop_due(due_at)
                assert first is not None
                self._leave(first)
                self._due.set(first, due_at)

    def _leave(self, key: Key) -> None:
        room = self._room_of.pop(key)
        self._aside[room].discard(key)
        if not self._aside[room]:
            del self._aside[room]

    def end(self, key: Key, interval_s: float, now: float) -> None:
        """The check has been answered, or time ran out: plan the next question."""
        asked_at = self._asked.pop(key)
        for room in self._rooms[key]:
            if left := self._used.pop(room) - 1:
                self._used[room] = left
        if self._aside:
            self._refill(key)
        if key in self._dropped:
            self._dropped.discard(key)
            del self._rooms[key]
            return
        spread = 1 + JITTER * (2 * self._rng.random() - 1)
        self._due.set(key, max(now, asked_at + interval_s * spread))

    def next_moment(self) -> float:
        """When to call `take` next; NEVER while as many are asked as may be: an end changes that."""
        return NEVER if len(self._asked) >= MAX_AT_ONCE else self._due.next() + BATCH_S

    def check_invariants(self) -> None:
        """Raise if a check is lost, or too many are asked."""
        assert len(self._asked) <= MAX_AT_ONCE
        assert self._dropped <= self._asked.keys()
        assert not any(key in self._due or key in self._room_of for key in self._asked)
        assert not any(key in self._due for key in self._room_of)
        assert all(key in self._asked or key in self._due or key in self._room_of for key in self._rooms)
        assert len(self._rooms) == len(self._asked) + len(self._due) + len(self._room_of)
        assert self._used == Counter(room for key in self._asked for room in self._rooms[key])
        assert all(count <= _size(room) for room, count in self._used.items())
        assert all(key in self._aside[room] for key, room in self._room_of.items())
        assert sum(map(len, self._aside.values())) == len(self._room_of)
        assert self._used.keys() >= self._aside.keys(), "an end gives each its turn"
        self._due.check_invariants()


def _size(room: Hashable) -> int:
    return COMMANDS_AT_ONCE if room is _COMMANDS else PER_OWNER
