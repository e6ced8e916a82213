"""Many deadlines, each under a key: which is next, and which are due.

A heap, from which nothing is taken out of the middle: what was set anew or removed stays in it as a stale item until
it comes to the top. When most items are stale, the heap is built anew, so its size stays in proportion to the number
of deadlines.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

NEVER: Final = float("inf")

Key = TypeVar("Key", bound=Hashable)

_STALE_ITEMS: Final = 64
"""Bound of stale items in a heap of deadlines, beside one per deadline; beyond it: the heap is built anew."""


class DeadlineHeap(Generic[Key]):
    """One deadline for each key. Equal deadlines come in the order in which they were set."""

    def __init__(self) -> None:
        self._items: list[tuple[float, int, Key]] = []
        """The heap. The number makes each item differ, so keys are never compared."""
        self._valid: dict[Key, tuple[float, int, Key]] = {}
        """The item of each key that is not stale."""
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._valid)

    def __contains__(self, key: Key) -> bool:
        return key in self._valid

    def at(self, key: Key) -> float:
        """The key's deadline; NEVER if it has none."""
        item = self._valid.get(key)
        return NEVER if item is None else item[0]

    def set(self, key: Key, at: float) -> None:
        """Set the key's deadline, in place of any earlier one."""
        known = self._valid.get(key)
        if known is None or known[0] != at:
            self._valid[key] = item = (at, next(self._numbers), key)
            heapq.heappush(self._items, item)
            if known is not None:
                self._limit_items()

    def discard(self, key: Key) -> None:
        """Remove the key's deadline, if it has one."""
        if self._valid.pop(key, None) is not None:
            self._limit_items()

    def next(self) -> float:
        """The earliest deadline; NEVER if there is none."""
        items = self._items
        while items:
            item = items[0]
            if self._valid.get(item[2]) is item:
                return item[0]
            heapq.heappop(items)
        return NEVER

    def pop_due(self, now: float) -> Key | None:
        """Remove the earliest deadline, if it is due, and return its key."""
        items = self._items
        while items and items[0][0] <= now:
            item = heapq.heappop(items)
            if self._valid.get(item[2]) is item:
                del self._valid[item[2]]
                return item[2]
        return None

    def _limit_items(self) -> None:
        if len(self._items) > 2 * len(self._valid) + _STALE_ITEMS:
            self._items = list(self._valid.values())
            heapq.heapify(self._items)

    def check_invariants(self) -> None:
        """Assert that every deadline is in the heap, and that the heap is bounded."""
        assert set(self._valid.values()) <= set(self._items)
        assert len(self._items) <= 2 * len(self._valid) + _STALE_ITEMS + 1
