"""Messages longer than one datagram, but not longer than a few: cut into parts, each a datagram of its own.

The encoded message is cut. The receiver puts it together before it parses it, so each change is still seen as a
whole: a delta that was cut into several deltas would not be (docs/design/0028).

    Part        message number, index, count, bytes

A peer gets parts only after its Welcome has announced how long a message it assembles; any other peer gets a stream.
The same bytes go to a peer in parts only once: if they must be sent again soon, a part was lost, or the peer had no
buffer left for them, and a stream has neither problem. So loss needs no repair of its own.

The receiver accepts a part only of its sender's admitted start, and only once (frames.py). It keeps the last few
messages of each peer, and of all peers together so many that a message has long been completed before later ones
displace it. A message that is incomplete after a second is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from netgossip.deadlines import NEVER
from netgossip.errors import WireError
from netgossip.records.wire import ASSEMBLED_BYTES, PARTS_LIMIT, Part
from netgossip.types import NodeId

PART_OVERHEAD_BYTES: Final = 16
"""Overhead of a part in its frame's body: array, kind, number, index, count, length."""
PER_PEER_LIMIT: Final = 4
"""Bound of messages of one peer of which parts are missing; beyond it: the peer's oldest is dropped; it comes again
over a stream. 64 KiB."""
PARTIAL_LIMIT: Final = 1024
"""Bound of messages of all peers of which parts are missing, for a second; beyond it: the oldest is dropped; it comes
again over a stream. 16 MiB. Their parts come within a few milliseconds of each other."""
PATIENCE_S: Final = 1.0
"""Time for all parts, from the first one on. The message is sent again long before that."""
REMEMBERED: Final = 8
"""Bound of messages to one peer that are not sent in parts again for ten seconds; beyond it: the oldest is sent in
parts once more."""
REPEATED_S: Final = 10.0
"""How long they are remembered after the last time: two rounds of comparisons."""


class Cutter:
    """The sender's side: what recently went to one peer in parts. Holds no content."""

    __slots__ = ("_sent", "limit_bytes")

    def __init__(self) -> None:
        self.limit_bytes = 0
        """The longest message that the peer assembles, as it announced; 0 for a release without parts."""
        self._sent: dict[int, float] = {}
        """When messages were sent, by their hashes. A hash collision only costs a stream."""

    def cut(self, number: int, message: bytes, room_bytes: int, now: float) -> list[Part]:
        """Cut a message into parts, each of which fits into `room_bytes`. None if it must go over a stream."""
        size = room_bytes - PART_OVERHEAD_BYTES
        fits = len(message) <= min(self.limit_bytes, PARTS_LIMIT * size)
        if not fits or self._was_sent(hash(message), now):
            return []
        count = -(-len(message) // size)
        return [
            Part(number, index, count, message[index * size : (index + 1) * size]) for index in range(count)
        ]

    def _was_sent(self, name: int, now: float) -> bool:
        sent_at = self._sent.pop(name, float("-inf"))
        self._sent[name] = now
        if len(self._sent) > REMEMBERED:
            del self._sent[next(iter(self._sent))]
        return now < sent_at + REPEATED_S


@dataclass(slots=True)
class _Partial:
    epoch: int
    deadline: float
    count: int
    pieces: dict[int, bytes] = field(default_factory=dict)
    size_bytes: int = 0


class Assembly:
    """The receiver's side: incomplete messages, in the order of their first parts."""

    def __init__(self) -> None:
        self._partial: dict[tuple[NodeId, int], _Partial] = {}
        self._numbers: dict[NodeId, dict[int, None]] = {}
        """The numbers of each peer's messages, in the same order."""
        self.dropped = 0
        """Messages that were never completed."""

    def add(self, sender: NodeId, epoch: int, part: Part, now: float) -> bytes | None:
        """Add a part; return the whole message when this was its last missing part. Raises WireError."""
        partial = self._partial.get((sender, part.number))
        if partial is None or partial.epoch != epoch:
            partial = self._begin(sender, epoch, part, now)
        if part.count != partial.count or part.index in partial.pieces:
            raise WireError("parts that contradict each other")
        if partial.size_bytes + len(part.data) > ASSEMBLED_BYTES:
            self._end(sender, part.number)
            raise WireError("parts of too long a message")
        partial.pieces[part.index] = part.data
        partial.size_bytes += len(part.data)
        if len(partial.pieces) < partial.count:
            return None
        self._end(sender, part.number)
        return b"".join(partial.pieces[index] for index in range(partial.count))

    def _begin(self, sender: NodeId, epoch: int, part: Part, now: float) -> _Partial:
        if (sender, part.number) in self._partial:
            self._drop(sender, part.number)  # of an earlier start
        numbers = self._numbers.setdefault(sender, {})
        if len(numbers) >= PER_PEER_LIMIT:
            self._drop(sender, next(iter(numbers)))
        elif len(self._partial) >= PARTIAL_LIMIT:
            self._drop(*next(iter(self._partial)))
        self._partial[sender, part.number] = partial = _Partial(epoch, now + PATIENCE_S, part.count)
        self._numbers.setdefault(sender, {})[part.number] = None
        return partial

    def _drop(self, sender: NodeId, number: int) -> None:
        self.dropped += 1
        self._end(sender, number)

    def _end(self, sender: NodeId, number: int) -> None:
        del self._partial[sender, number]
        numbers = self._numbers[sender]
        del numbers[number]
        if not numbers:
            del self._numbers[sender]

    def forget(self, sender: NodeId) -> None:
        """Drop all messages of a peer that is no longer known."""
        for number in list(self._numbers.get(sender, ())):
            self._end(sender, number)

    def handle_deadline(self, now: float) -> None:
        """Drop messages that were not completed in time."""
        while self._partial and self.next_deadline() <= now:
            self._drop(*next(iter(self._partial)))

    def next_deadline(self) -> float:
        """When the oldest incomplete message is dropped."""
        return next(iter(self._partial.values())).deadline if self._partial else NEVER

    def __len__(self) -> int:
        return len(self._partial)

    def check_invariants(self) -> None:
        """Assert the bounds, and that the indexes match."""
        assert len(self._partial) <= PARTIAL_LIMIT
        assert {(sender, number) for sender, numbers in self._numbers.items() for number in numbers} == set(
            self._partial
        )
        assert all(0 < len(numbers) <= PER_PEER_LIMIT for numbers in self._numbers.values())
        for partial in self._partial.values():
            assert 0 < len(partial.pieces) < partial.count
            assert partial.size_bytes == sum(map(len, partial.pieces.values())) <= ASSEMBLED_BYTES
