"""One owner's log in one scope: entries in order of sequence, and sums that are kept incrementally.

The digest is the sum, modulo 2**128, of keyed hashes of the live entries. Tombstones don't count, so that dropping
them leaves it unchanged. It finds accidents, such as two histories after a lost disk. An attacker who chooses record
values can make two logs with one digest; where logs are proven, the set hash (set_hash.py) is kept beside it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

from netgossip.records.set_hash import EMPTY, STATE_LIMIT, element
from netgossip.slices import ENTRIES_PER_SLICE, PROVEN_PER_SLICE, Slices
from netgossip.types import Entry, Log, Version

MODULUS: Final = 1 << 128
ENTRY_BYTES: Final = 512
"""Overhead of an entry beside its key and value: 282 bytes here, and what the application keeps of it."""
LOG_BYTES: Final = 3072
"""Overhead of a log beside its entries: about 800 bytes of it are the set hash and the proof. So TABLE_LIMIT_BYTES
allows for 175,000 logs, which have 140 MB of those at most; 300 logs have 0.24 MB."""


class Sums(NamedTuple):
    """What a log keeps incrementally."""

    digest: int
    set_hash: int
    """0 where logs are not proven."""
    size_bytes: int


class RecordLog:
    """Mutable. A changed key moves to the end of `entries`, so the order of the dict is that of the sequences."""

    __slots__ = (
        "_has_set_hash",
        "_hash_key",
        "_tombstones",
        "collected",
        "digest",
        "entries",
        "epoch",
        "head",
        "proof",
        "set_hash",
        "size_bytes",
    )

    def __init__(self, epoch: int, hash_key: bytes, *, has_set_hash: bool) -> None:
        self._hash_key = hash_key
        self._has_set_hash = has_set_hash
        self.epoch = epoch
        self.head = 0
        self.collected = 0
        self.digest = 0
        self.set_hash = EMPTY
        self.size_bytes = 0
        self.proof = b""
        """The owner's signature over the log at this version (proofs.py); empty: none."""
        self.entries: dict[bytes, Entry] = {}
        self._tombstones: dict[bytes, int] = {}
        """Sequences of the tombstones by key, in order, so that dropping them costs nothing per live entry."""

    @classmethod
    def load(cls, saved: Log, hash_key: bytes, *, has_set_hash: bool) -> RecordLog:
        """Build a log from what the application persisted. A head below the entries is raised to them."""
        log = cls(saved.epoch, hash_key, has_set_hash=has_set_hash)
        for entry in sorted(saved.entries.values(), key=lambda entry: entry.version.sequence):
            log.put(entry)
        log.head = max(saved.head, *(entry.version.sequence for entry in saved.entries.values()), 0)
        log.collected = saved.collected
        log.proof = saved.proof if has_set_hash and log.head == saved.head else b""
        return log

    def copy(self) -> RecordLog:
        """Return another log with the same content."""
        log = RecordLog(self.epoch, self._hash_key, has_set_hash=self._has_set_hash)
        log.head, log.collected = self.head, self.collected
        log.proof = self.proof
        log._set_sums(self.sums)
        log.entries = self.entries.copy()
        log._tombstones = self._tombstones.copy()
        return log

    @property
    def version(self) -> Version:
        """The version, which identifies the content."""
        return Version(self.epoch, self.head)

    @property
    def entries_per_slice(self) -> int:
        """How many entries may be put in one slice."""
        return PROVEN_PER_SLICE if self._has_set_hash else ENTRIES_PER_SLICE

    @property
    def live_count(self) -> int:
        """How many entries are no tombstones."""
        return len(self.entries) - len(self._tombstones)

    @property
    def weight_bytes(self) -> int:
        """Approximate memory."""
        return self.size_bytes + len(self.entries) * ENTRY_BYTES + LOG_BYTES

    def since(self, sequence: int) -> tuple[Entry, ...]:
        """Return the entries above `sequence`, in order; costs in proportion to their number."""
        if sequence == 0:
            return tuple(self.entries.values())
        found = []
        for entry in reversed(self.entries.values()):
            if entry.version.sequence <= sequence:
                break
            found.append(entry)
        return tuple(reversed(found))

    def put(self, entry: Entry) -> None:
        """Add an entry above all others. The caller moves the head."""
        self.put_few((entry,), self.sums_after((entry,)))

    def put_few(self, entries: Sequence[Entry], sums: Sums) -> None:
        """Add entries of different keys, above all others, for which `sums_after` returned `sums`: hashing them again
        would double the cost."""
        for entry in entries:
            self.entries.pop(entry.key, None)
            self.entries[entry.key] = entry
            self._tombstones.pop(entry.key, None)
            if entry.value is None:
                self._tombstones[entry.key] = entry.version.sequence
        self._set_sums(sums)

    def put_all(self, entries: Sequence[Entry]) -> Slices[None]:
        """Put many entries."""
        for number, entry in enumerate(entries, 1):
            self.put(entry)
            if number % self.entries_per_slice == 0:
                yield

    def sums_after(self, entries: Sequence[Entry]) -> Sums:
        """Return the sums as they would be after putting entries of different keys."""
        digest, set_hash, size_bytes = self.sums
        for entry in entries:
            old = self.entries.get(entry.key)
            digest += self._hash(entry) - self._hash(old)
            if self._has_set_hash:
                set_hash += element(entry) - element(old)
            size_bytes += _size_bytes(entry) - _size_bytes(old)
        return Sums(digest % MODULUS, set_hash % STATE_LIMIT, size_bytes)

    @property
    def sums(self) -> Sums:
        """What is kept incrementally, as it is now."""
        return Sums(self.digest, self.set_hash, self.size_bytes)

    def _set_sums(self, sums: Sums) -> None:
        self.digest, self.set_hash, self.size_bytes = sums

    def reach(self, head: int, collected: int) -> None:
        """Move the head after the entries have been put."""
        self.head = head
        if collected > self.collected:
            self.collect_tombstones(collected)

    def collect_tombstones(self, collected: int) -> None:
        """Drop the tombstones up to `collected`."""
        self.collected = collected
        # Collect the keys before removing any: a dict skips over its removed first items again on each iteration.
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
        """Assert that the incrementally kept sums match the entries."""
        order = [entry.version.sequence for entry in self.entries.values()]
        assert order == sorted(set(order)), "entries are in order of sequence"
        assert max(order, default=0) <= self.head
        tombstones = {k: e.version.sequence for k, e in self.entries.items() if e.value is None}
        assert list(self._tombstones.items()) == list(tombstones.items())
        assert self.collected <= self.head
        assert self.digest == sum(map(self._hash, self.entries.values())) % MODULUS
        if self._has_set_hash:
            assert self.set_hash == sum(map(element, self.entries.values())) % STATE_LIMIT
        assert self.size_bytes == sum(map(_size_bytes, self.entries.values()))


def _size_bytes(entry: Entry | None) -> int:
    return 0 if entry is None else len(entry.key) + len(entry.value or b"")
