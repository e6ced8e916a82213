"""Who works on what right now: locks by key, and names that an attach in progress holds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio


class Locks:
    """A lock for every key that anybody uses, and none for the others."""

    def __init__(self) -> None:
        self._locks: dict[Hashable, trio.Lock] = {}

    def __len__(self) -> int:
        return len(self._locks)

    @asynccontextmanager
    async def held(self, key: Hashable) -> AsyncIterator[None]:
        """Alone with this key for the length of a block."""
        lock = self._locks.setdefault(key, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            # Whoever waits holds the lock by now, or is about to.
            if not lock.locked() and not lock.statistics().tasks_waiting:
                self._locks.pop(key, None)


class NameLocks:
    """Things that belong to somebody for the length of a block, before anything else says so."""

    def __init__(self) -> None:
        self._claimed: set[Hashable] = set()

    def __len__(self) -> int:
        return len(self._claimed)

    def __contains__(self, thing: Hashable) -> bool:
        return thing in self._claimed

    @contextmanager
    def held(self, thing: Hashable) -> Iterator[None]:
        """The caller has seen that nobody has it."""
        self._claimed.add(thing)
        try:
            yield
        finally:
            self._claimed.discard(thing)
