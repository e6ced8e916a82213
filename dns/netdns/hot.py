"""Finished answers: what a client hears at once when it sends the same octets again.

The key is the whole query but its id: the spelling of the name, RD and CD, EDNS with its DO bit, size and options are
in it, so a query that differs in any of them has an entry of its own. A service asks the same few questions for ever,
and most queries of a container end here, without being taken apart.

There is one table for each client. It is emptied when the source's version for that client moves, and when its
servers change. An answer of upstream's counts for as long as its TTLs show the same numbers, a second at most, and is
then made anew of what the cache has.

Several addresses are given in turn: an entry has several finished orders and steps through them, with a step of its
own for each question, because stubs ask A and AAAA in pairs, and a shared step would show each of them every second
order only. An order is finished when its turn comes.

Bounded in entries and in octets. When there is no room the table is emptied: a container asks for a handful of names,
and one that goes through many drives out its own answers only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

OVERHEAD_BYTES: Final = 600
"""Of an entry beside its octets, roughly: key, and for several orders query and reply."""


class _Turns:
    """Several orders of one answer, less its id."""

    __slots__ = ("_finish", "_tails", "_turn")

    def __init__(self, finish: Callable[[int], bytes], orders: int, turn: int) -> None:
        self._finish = finish
        self._tails: list[bytes | None] = [None] * orders
        self._turn = turn

    def next_tail(self) -> bytes:
        self._turn = turn = (self._turn + 1) % len(self._tails)
        tail = self._tails[turn]
        if tail is None:
            tail = self._tails[turn] = self._finish(turn)
        return tail


class _Entry:
    """`tail` is the answer where there is one order of it, and empty where there are several."""

    __slots__ = ("cost_bytes", "next_tail", "tail", "until")

    def __init__(self, tail: bytes, next_tail: Callable[[], bytes], cost_bytes: int, until: float) -> None:
        self.tail = tail
        self.next_tail = next_tail
        self.cost_bytes = cost_bytes
        self.until = until


class HotTable:
    """Finished answers of one client."""

    __slots__ = ("_bytes", "_entries", "_max_bytes", "_max_entries", "hits")

    def __init__(self, *, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: dict[bytes, _Entry] = {}
        self._bytes = 0
        self.hits = 0
        """Queries that were answered from here."""

    def answer(self, payload: bytes, now: float) -> bytes | None:
        """Return the answer to a query, None if none is finished. Any octets are harmless."""
        entry = self._entries.get(payload[2:])
        if entry is None or entry.until <= now:
            return None
        self.hits += 1
        return payload[:2] + (entry.tail or entry.next_tail())

    def answer_in_place(
        self,
        slots: Sequence[memoryview],
        lengths: Sequence[int],
        reply_bytes: memoryview,
        first: int,
        now: float,
    ) -> int:
        """Write answers over queries, from the slot `first` on; return the first slot whose query has none finished.

        `lengths` are those of the queries, one a slot; the answers' go into `reply_bytes`. Any octets are harmless.
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
            except ValueError:  # longer than its slot: there is another way for it
                break
            reply_bytes[index] = end
            index += 1
        self.hits += index - first
        return index

    def keep(self, payload: bytes, reply: bytes, until: float) -> None:
        """Keep the answer to a query until `until`."""
        self._put(payload[2:], _Entry(reply[2:], bytes, OVERHEAD_BYTES + len(payload) + len(reply), until))

    def keep_turning(
        self, payload: bytes, finish: Callable[[int], bytes], *, orders: int, turn: int
    ) -> bytes:
        """Keep what `finish` makes of each of `orders`, a message without its id, and return the next answer."""
        turns = _Turns(finish, orders, turn)
        tail = turns.next_tail()
        cost_bytes = OVERHEAD_BYTES + len(payload) + orders * len(tail)  # they are of much the same length
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
        """Never past capacity, and the sum is the sum."""
        assert len(self._entries) <= self._max_entries
        assert self._bytes <= self._max_bytes
        assert self._bytes == sum(entry.cost_bytes for entry in self._entries.values())
