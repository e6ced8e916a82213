"""Write-behind: data that may be written a second late, because a crash that loses it only costs a request to a peer:
other hosts' logs, the members worth dialling, and counters that a peer would correct.

A log on disk must be whole: a head of 10 without the entry 9 would be believed after a restart and never repaired. So
when a group of notes could not be written, or too much waits, the logs concerned are *broken*: their copy on disk is
dropped, and nothing of them is written until their owner's whole log arrives again.

The event loop fills it, the writer's thread empties it; hence the lock.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator
from itertools import chain
from typing import Final, TypeAlias

from netagent.journal.statements import Statement, collect, drop_log, put_entry, set_log, set_proof
from netgossip.types import EntriesChanged, Entry, Log, NodeId, Scope, Version

MAX_ENTRIES: Final = 50_000
"""Bound of other hosts' entries to be written; beyond it: that log's copy on disk is dropped and fetched again.
10,000 endpoints of a first sync and as many changes again, about 20 MB."""

_LogKey: TypeAlias = tuple[Scope, NodeId]


class _Notes:
    """What waits of one log."""

    __slots__ = ("collected", "entries", "epoch", "head", "is_whole", "proof")

    def __init__(self) -> None:
        self.proof = b""
        self.epoch = self.head = self.collected = 0
        self.entries: dict[bytes, Entry] = {}
        self.is_whole = False

    def add(self, event: EntriesChanged) -> None:
        self.epoch, self.head, self.collected = event.epoch, event.head, event.collected
        self.proof = event.proof
        if event.replaced:
            self.entries.clear()
            self.is_whole = True
        self.entries.update((entry.key, entry) for entry in event.entries)

    def statements(self, key: _LogKey) -> Iterator[Statement]:
        if self.is_whole:
            yield from drop_log("replica", *key)
        for entry in self.entries.values():
            yield put_entry("replica", entry)
        yield set_log("replica", Log(*key, self.epoch, self.head, self.collected, self.entries))
        yield from collect("replica", *key, self.collected)
        if self.proof:
            yield set_proof(*key, Version(self.epoch, self.head), self.proof)


class WriteBehind:
    """Notes for later. `take` returns statements; call `settle` to say whether they reached the disk."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._logs: dict[_LogKey, _Notes] = {}
        self._broken: set[_LogKey] = set()
        self._to_drop: set[_LogKey] = set()
        self._latest: dict[Hashable, tuple[Statement, ...]] = {}
        self._taken: tuple[set[_LogKey], dict[Hashable, tuple[Statement, ...]]] = (set(), {})
        self._entry_count = 0

    def note_log(self, event: EntriesChanged) -> None:
        """Note a delta of another host's log, or the whole of it."""
        key = (event.scope, event.owner)
        with self._lock:
            if event.replaced:
                self._broken.discard(key)
            elif key in self._broken:
                return
            notes = self._logs.setdefault(key, _Notes())
            before = len(notes.entries)
            notes.add(event)
            self._entry_count += len(notes.entries) - before
            if self._entry_count > MAX_ENTRIES:
                self._break(key)

    def note_dropped(self, scope: Scope, owner: NodeId) -> None:
        """Note that the log is no longer held; if it comes again, then from its beginning."""
        with self._lock:
            self._forget(scope_owner := (scope, owner))
            self._broken.discard(scope_owner)
            self._to_drop.add(scope_owner)

    def note_latest(self, key: Hashable, statements: tuple[Statement, ...]) -> None:
        """Note a single fact; a newer one under the same key replaces it."""
        with self._lock:
            self._latest[key] = statements

    def take(self) -> Iterator[Statement] | None:
        """Return all that waits, None when nothing does. Nothing is returned twice, unless `settle` says that it
        failed.

        Each statement is built when it is executed. Executing one releases the interpreter; building thousands before
        would not, and the event loop would wait for it, up to 5 ms at each of its system calls.
        """
        with self._lock:
            logs, latest, to_drop = self._logs, self._latest, self._to_drop
            self._taken = (set(logs) | to_drop, latest)
            self._logs, self._latest, self._to_drop, self._entry_count = {}, {}, set(), 0
        if not (logs or latest or to_drop):
            return None
        # Outside the lock: what was taken is ours alone.
        return chain(
            (one for key in to_drop for one in drop_log("replica", *key)),
            (one for key, notes in logs.items() for one in notes.statements(key)),
            chain.from_iterable(latest.values()),
        )

    def settle(self, *, written: bool) -> None:
        """Note whether the last `take` was written."""
        with self._lock:
            logs, latest = self._taken
            self._taken = (set(), {})
            if not written:
                for key in logs:
                    self._break(key)
                self._latest = latest | self._latest

    def _break(self, key: _LogKey) -> None:
        notes = self._logs.get(key)
        if notes is not None and notes.is_whole and self._entry_count <= MAX_ENTRIES:
            return  # a whole log has come since: it overwrites what is on disk
        self._forget(key)
        self._broken.add(key)
        self._to_drop.add(key)

    def _forget(self, key: _LogKey) -> None:
        notes = self._logs.pop(key, None)
        if notes is not None:
            self._entry_count -= len(notes.entries)
