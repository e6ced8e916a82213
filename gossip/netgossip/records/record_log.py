"""One owner's log in one scope: entries in order of sequence, and what is kept up beside them.

The digest is the sum, modulo 2**128, of keyed hashes of the live entries. Tombstones don't count, so that dropping
them leaves it as it is. XOR in place of the sum would let anybody who chooses record values find a set that cancels
out (with 128 of them, by elimination); against a sum that takes a search that nobody would pay for.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

from netgossip.slices import ENTRIES_A_PIECE, Pieces
from netgossip.types import Entry, Log, Version

MODULUS: Final = 1 << 128
ENTRY_BYTES: Final = 512
"""What an entry takes beside its key and value: 282 bytes here, and what the application makes of it."""
LOG_BYTES: Final = 2048
"""What a log takes beside its entries."""


class RecordLog:
    """Mutable. A changed key moves to the end of `entries`, so the order of the dict is that of the sequences."""

    __slots__ = ("_hash_key", "_tombstones", "collected", "digest", "entries", "epoch", "head", "size_bytes")

    def __init__(self, epoch: int, hash_key: bytes) -> None:
        self._hash_key = hash_key
        self.epoch = epoch
        self.head = 0
        self.collected = 0
        self.digest = 0
        self.size_bytes = 0
        self.entries: dict[bytes, Entry] = {}
        self._tombstones: dict[bytes, int] = {}
        """Sequences of the tombstones by key, in order: so dropping them costs nothing for each live entry."""

    @classmethod
    def load(cls, saved: Log, hash_key: bytes) -> RecordLog:
        """From what the application kept. A head below the entries is raised to them."""
        log = cls(saved.epoch, hash_key)
        for entry in sorted(saved.entries.values(), key=lambda entry: entry.version.sequence):
            log.put(entry)
        log.head = max(saved.head, *(entry.version.sequence for entry in saved.entries.values()), 0)
        log.collected = saved.collected
        return log

    def copy(self) -> RecordLog:
        """Another one with the same content."""
        log = RecordLog(self.epoch, self._hash_key)
        log.head, log.collected = self.head, self.collected
        log.digest, log.size_bytes = self.digest, self.size_bytes
        log.entries = self.entries.copy()
        log._tombstones = self._tombstones.copy()
        return log

    @property
    def version(self) -> Version:
        """Names the content."""
        return Version(self.epoch, self.head)

    @property
    def weight_bytes(self) -> int:
        """What it takes in memory, about."""
        return self.size_bytes + len(self.entries) * ENTRY_BYTES + LOG_BYTES

    def since(self, sequence: int) -> tuple[Entry, ...]:
        """The entries above `sequence`, in order; costs in proportion to their number."""
        if sequence == 0:
            return tuple(self.entries.values())
        found = []
        for entry in reversed(self.entries.values()):
            if entry.version.sequence <= sequence:
                break
            found.append(entry)
        return tuple(reversed(found))

    def put(self, entry: Entry) -> None:
        """Add an entry above all others. The head is the caller's to move."""
        self.digest, self.size_bytes = self.digest_after((entry,))
        self.entries.pop(entry.key, None)
        self.entries[entry.key] = entry
        self._tombstones.pop(entry.key, None)
        if entry.value is None:
            self._tombstones[entry.key] = entry.version.sequence

    def putting(self, entries: Sequence[Entry]) -> Pieces[None]:
        """Put many, in pieces."""
        for number, entry in enumerate(entries, 1):
            self.put(entry)
            if number % ENTRIES_A_PIECE == 0:
                yield

    def digest_after(self, entries: tuple[Entry, ...]) -> tuple[int, int]:
        """Digest and size once entries of different keys were put."""
        digest, size_bytes = self.digest, self.size_bytes
        for entry in entries:
            old = self.entries.get(entry.key)
            digest += self._hash(entry) - self._hash(old)
            size_bytes += _size_bytes(entry) - _size_bytes(old)
        return digest % MODULUS, size_bytes

    def reach(self, head: int, collected: int) -> None:
        """The entries have been put; this is how far they lead."""
        self.head = head
        if collected > self.collected:
            self.collect_tombstones(collected)

    def collect_tombstones(self, collected: int) -> None:
        """Drop the tombstones up to `collected`."""
        self.collected = collected
        # Before any is removed: a dict whose first items were removed looks past each of them again.
        for key in [*itertools.takewhile(lambda key: self._tombstones[key] <= collected, self._tombstones)]:
            del self._tombstones[key]
            self.size_bytes -= _size_bytes(self.entries.pop(key))

    def _hash(self, entry: Entry | None) -> int:
        if entry is None or entry.value is None:
            return 0
        start = bytes((len(entry.key),)) + entry.key + entry.version.sequence.to_bytes(8, "big")
        digest = blake2b(start + entry.value, digest_size=16, key=self._hash_key)
        return int.from_bytes(digest.digest(), "big")

    def check_invariants(self) -> None:
        """Raise AssertionError if what is kept up step by step is not what the entries say."""
        order = [entry.version.sequence for entry in self.entries.values()]
        assert order == sorted(set(order)), "entries are in order of sequence"
        assert max(order, default=0) <= self.head
        tombstones = {k: e.version.sequence for k, e in self.entries.items() if e.value is None}
        assert list(self._tombstones.items()) == list(tombstones.items())
        assert self.collected <= self.head
        assert self.digest == sum(map(self._hash, self.entries.values())) % MODULUS
        assert self.size_bytes == sum(map(_size_bytes, self.entries.values()))


def _size_bytes(entry: Entry | None) -> int:
    return 0 if entry is None else len(entry.key) + len(entry.value or b"")
