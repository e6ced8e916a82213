"""Answers of upstream servers, kept until their TTL expires or room is needed.

Bounded in octets and in entries; the least recently used goes first. Two views with different upstream servers never
see each other's answers, because the key holds the servers. DO and CD are part of the key as well: answers with and
without signatures, checked and unchecked, are different answers (RFC 6840 5.9).

A failure is kept too, for a short time (RFC 9520 3.2): a broken domain must not cause a query per retry.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, NamedTuple

from netdns.opaque import OpaqueAnswer
from netdns.servers import Servers
from netdns.source import Name

FAILURE_BYTES: Final = 200
"""The approximate cost of a remembered failure."""


class CacheKey(NamedTuple):
    """What makes two questions the same. The class is always IN."""

    servers: Servers
    name: Name
    rtype: int
    dnssec_ok: bool
    checking_disabled: bool


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """One cached answer; `answer` is None for a failure."""

    answer: OpaqueAnswer | None
    stored_at: float
    expires_at: float

    @property
    def size_bytes(self) -> int:
        """The approximate cost of holding it."""
        return FAILURE_BYTES if self.answer is None else self.answer.size_bytes


class Cache:
    """Answers by key, least recently used first."""

    def __init__(self, *, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._kept: OrderedDict[Hashable, CachedAnswer] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def size_bytes(self) -> int:
        """The approximate cost of all entries."""
        return self._bytes

    def get(self, key: CacheKey, now: float) -> CachedAnswer | None:
        """Return the entry if it has not expired."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        if now >= kept.expires_at:
            self._remove(key)
            return None
        self._kept.move_to_end(key)
        return kept

    def put(self, key: CacheKey, answer: OpaqueAnswer | None, keep_s: float, now: float) -> None:
        """Keep an answer, or a failure (None), for `keep_s`. Nothing happens if that is 0 or it is too large."""
        if key in self._kept:
            self._remove(key)
        kept = CachedAnswer(answer, now, now + keep_s)
        if keep_s <= 0 or kept.size_bytes > self._max_bytes:
            return
        self._kept[key] = kept
        self._bytes += kept.size_bytes
        while len(self._kept) > self._max_entries or self._bytes > self._max_bytes:
            self._remove(next(iter(self._kept)))

    def _remove(self, key: Hashable) -> None:
        self._bytes -= self._kept.pop(key).size_bytes

    def check_invariants(self) -> None:
        """Raise if a bound is exceeded, or the sum is wrong."""
        assert len(self._kept) <= self._max_entries
        assert self._bytes <= self._max_bytes
        assert self._bytes == sum(kept.size_bytes for kept in self._kept.values())
