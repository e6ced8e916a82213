"""Locks by key, and names that an attach in progress has claimed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio


class Locks:
    """One lock for each key in use."""

    def __init__(self) -> None:
        self._locks: dict[Hashable, trio.Lock] = {}

    def __len__(self) -> int:
        return len(self._locks)

    @asynccontextmanager
    async def held(self, key: Hashable) -> AsyncIterator[None]:
        """Hold the lock of this key during a block."""
        lock = self._locks.setdefault(key, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            # If a task waits, it holds the lock by now or is about to: keep it.
            if not lock.locked() and not lock.statistics().tasks_waiting:
                self._locks.pop(key, None)


class NameLocks:
    """Things that a caller has claimed during a block, before the rows contain them."""

    def __init__(self) -> None:
        self._claimed: set[Hashable] = set()

    def __len__(self) -> int:
        return len(self._claimed)

    def __contains__(self, thing: Hashable) -> bool:
        return thing in self._claimed

    @contextmanager
    def held(self, thing: Hashable) -> Iterator[None]:
        """Claim the thing during a block. The caller has checked that it is free."""
        self._claimed.add(thing)
        try:
            yield
        finally:
            self._claimed.discard(thing)
