"""Many deadlines, each under a key: which is next, and which are due.

A heap, from which nothing is taken out of the middle: what was set anew or removed stays in it as a stale item until
it comes to the top. When most items are stale, the heap is built anew, so its size stays in proportion to the number
of deadlines.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Any, Final, Generic, TypeVar

NEVER: Final = float("inf")

Key = TypeVar("Key", bound=Hashable)

_STALE_ITEMS: Final = 64
"""Bound of stale items in a heap of deadlines, beside one per deadline; beyond it: the heap is built anew."""


class DeadlineHeap(Generic[Key]):
    """One deadline for each key. Keys with equal deadlines come in their own order, so they must be comparable."""

    def __init__(self) -> None:
        self._at: dict[Key, float] = {}
        self._items: list[tuple[float, Any]] = []

    def __len__(self) -> int:
        return len(self._at)

    def __contains__(self, key: Key) -> bool:
        return key in self._at

    def at(self, key: Key) -> float:
        """The key's deadline; NEVER if it has none."""
        return self._at.get(key, NEVER)

    def set(self, key: Key, at: float) -> None:
        """Set the key's deadline, in place of any earlier one."""
        if self._at.get(key) != at:
            self._at[key] = at
            heapq.heappush(self._items, (at, key))
            self._limit_items()

    def discard(self, key: Key) -> None:
        """Remove the key's deadline, if it has one."""
        if self._at.pop(key, None) is not None:
            self._limit_items()

    def next(self) -> float:
        """The earliest deadline; NEVER if there is none."""
        items = self._items
        while items:
            at, key = items[0]
            if self._at.get(key) == at:
                return at
            heapq.heappop(items)
        return NEVER

    def pop_due(self, now: float) -> Key | None:
        """Remove the earliest deadline, if it is due, and return its key."""
        if self.next() > now:
            return None
        key: Key = heapq.heappop(self._items)[1]
        del self._at[key]
        return key

    def _limit_items(self) -> None:
        if len(self._items) > 2 * len(self._at) + _STALE_ITEMS:
            self._items = [(at, key) for key, at in self._at.items()]
            heapq.heapify(self._items)

    def check_invariants(self) -> None:
        """Assert that every deadline is in the heap, and that the heap is bounded."""
        assert {(at, key) for key, at in self._at.items()} <= set(self._items)
        assert len(self._items) <= 2 * len(self._at) + _STALE_ITEMS + 1
