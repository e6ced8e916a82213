"""Finished answers, for clients that send the same octets again.

The key is the whole query but its id: it includes the spelling of the name, RD and CD, EDNS with its DO bit, size and
options, so a query that differs in any of them has an entry of its own. A service repeats the same few questions for
ever, and most queries of a container are answered here, without being parsed.

There is one table for each client. It is emptied when the source's version for that client changes, and when its
servers change. An upstream answer is valid as long as its TTLs show the same numbers, a second at most, and is then
made again from the cache.

Several addresses rotate: an entry has several finished orders and steps through a list of them, in which an order may
be several times, with a separate step for each question, because stubs ask for A and AAAA in pairs, and with a shared
step each of them would see only every second order. An order is finished when its turn comes.

Bounded in entries and in octets. When there is no room the table is emptied: a container asks for a handful of names,
and one that scans many displaces only its own answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

OVERHEAD_BYTES: Final = 600
"""Approximate size of an entry without its octets: key, and for several orders query and reply."""


class _Turns:
    """Several orders of one answer, without its id."""

    __slots__ = ("_finish", "_orders", "_tails", "_turn")

    def __init__(self, finish: Callable[[int], bytes], orders: Sequence[int], turn: int) -> None:
        self._finish = finish
        self._orders = orders
        self._tails: dict[int, bytes] = {}
        self._turn = turn

    def next_tail(self) -> bytes:
        self._turn = turn = (self._turn + 1) % len(self._orders)
        order = self._orders[turn]
        tail = self._tails.get(order)
        if tail is None:
            tail = self._tails[order] = self._finish(order)
        return tail


class _Entry:
    """`tail` is the answer if there is only one order of it, and empty if there are several."""

    __slots__ = ("cost_bytes", "next_tail", "rcode", "tail", "until")

    def __init__(
        self, tail: bytes, next_tail: Callable[[], bytes], cost_bytes: int, until: float, rcode: int = 0
    ) -> None:
        self.rcode = rcode
        self.tail = tail
        self.next_tail = next_tail
        self.cost_bytes = cost_bytes
        self.until = until


class HotTable:
    """Finished answers of one client."""

    __slots__ = ("_bytes", "_entries", "_max_bytes", "_max_entries", "hits", "negative")

    def __init__(self, *, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: dict[bytes, _Entry] = {}
        self._bytes = 0
        self.hits = 0
        """Queries that were answered from here."""
        self.negative: Counter[int] = Counter()
        """How many of them had an RCODE that is not 0, by RCODE: the others need no counting."""

    def answer(self, payload: bytes, now: float) -> bytes | None:
        """Return the answer to a query, None if there is none. Any octets are harmless."""
        entry = self._entries.get(payload[2:])
        if entry is None or entry.until <= now:
            return None
        self.hits += 1
        if entry.rcode:
            self.negative[entry.rcode] += 1
        return payload[:2] + (entry.tail or entry.next_tail())

    def answer_in_place(
        self,
        slots: Sequence[memoryview],
        lengths: Sequence[int],
        reply_bytes: memoryview,
        first: int,
        now: float,
    ) -> int:
        """Write answers over queries, from the slot `first` on; return the first slot without a finished answer.

        `lengths` are those of the queries, one per slot; the answers' go into `reply_bytes`. Any octets are harmless.
        """
        find = self._entries.get
        index = first
        for length in lengths[first:]:
            slot = slots[index]
            entry = find(slot[2:length].tobytes())
            if entry is None or entry.until <= now:
                break
            tail = entry.tail or entry.next_tail()
            end = 2 + len(tail)
            try:
                slot[2:end] = tail
            except ValueError:  # longer than its slot: it is answered in another way
                break
            reply_bytes[index] = end
            index += 1
            if entry.rcode:
                self.negative[entry.rcode] += 1
        self.hits += index - first
        return index

    def keep(self, payload: bytes, reply: bytes, until: float) -> None:
        """Keep the answer to a query until `until`."""
        cost_bytes = OVERHEAD_BYTES + len(payload) + len(reply)
        self._put(payload[2:], _Entry(reply[2:], bytes, cost_bytes, until, reply[3] & 0xF))

    def keep_turning(
        self, payload: bytes, finish: Callable[[int], bytes], *, orders: Sequence[int], turn: int
    ) -> bytes:
        """Keep variants made by `finish`, messages without their id, and return the next answer. `orders`: which one
        each answer is, in turn."""
        turns = _Turns(finish, orders, turn)
        tail = turns.next_tail()
        # All variants have about the same length.
        cost_bytes = OVERHEAD_BYTES + len(payload) + len(set(orders)) * len(tail) + 8 * len(orders)
        self._put(payload[2:], _Entry(b"", turns.next_tail, cost_bytes, float("inf")))
        return payload[:2] + tail

    def clear(self) -> None:
        """Forget all."""
        self._entries.clear()
        self._bytes = 0

    def _put(self, key: bytes, entry: _Entry) -> None:
        before = self._entries.pop(key, None)
        if before is not None:
            self._bytes -= before.cost_bytes
        if len(self._entries) >= self._max_entries or self._bytes + entry.cost_bytes > self._max_bytes:
            self.clear()
        if entry.cost_bytes <= self._max_bytes:
            self._entries[key] = entry
            self._bytes += entry.cost_bytes

    def check_invariants(self) -> None:
        """Raise if a bound is exceeded, or the sum is wrong."""
        assert len(self._entries) <= self._max_entries
        assert self._bytes <= self._max_bytes
        assert self._bytes == sum(entry.cost_bytes for entry in self._entries.values())
