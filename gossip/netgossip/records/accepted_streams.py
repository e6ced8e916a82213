"""Streams that others open to the record port: members send frames on them, newcomers run a join conversation.

The peer that opens one is an unknown source until a frame on it was found to be of a member's present session.
Therefore a stream may be silent only for the stream timeout, a conversation lasts no longer than that in all, an
unproven stream may be closed for others, and a proven one keeps its slot whatever unknown sources do
(stream_slots.py).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from netgossip.config import GossipConfig
from netgossip.deadlines import NEVER
from netgossip.errors import EarlyError, SealError, WireError
from netgossip.join.admission import InviterConversation
from netgossip.join.readmission import EntryConversation
from netgossip.records.frames import JOIN_MAGIC, LAST, MORE, RETURN_MAGIC, FrameReader, Opened, Opener
from netgossip.stream_slots import SlotLimits, StreamSlots
from netgossip.types import Address, NodeId, StreamClose, StreamCommand, StreamId, StreamSend

MESSAGE_LIMIT_BYTES: Final = 16 * 1024 * 1024
"""Bound of one message on a record stream; beyond it: refused, stream closed. Buffered only after each of its frames
was found authentic."""
UNPROVEN_MESSAGE_BYTES: Final = 1024 * 1024
"""Bound of one message on a record stream that has not authenticated; beyond it: refused, stream closed. An authentic
frame may be a recording. The sender repeats the message once the stream is proven."""
PARTIAL_LIMIT_BYTES: Final = 128 * 1024 * 1024
"""Bound of incomplete messages on all streams; beyond it: the stream that brings more is closed. Eight of the
largest."""
UNPROVEN_STREAMS: Final = 64
"""Bound of record and join streams that have not authenticated yet; beyond it: one from an unknown source is closed
for a new one. With one unauthenticated frame each: at most 4 MiB for unknown sources."""
UNKNOWN_SOURCES_LIMIT: Final = 48
"""Bound of streams that have not authenticated, from addresses that are not members'; beyond it: one of the host with
the most is closed. The others are kept for members."""
PER_HOST_LIMIT: Final = 8
"""Bound of streams that have not authenticated, from one host; beyond it: one of that host is closed. A member opens
one at a time; the rest is for joins, and for old streams whose end we have not seen."""
PROVEN_STREAMS: Final = 256
"""Bound of authenticated record streams of members, one per member; beyond it: the member's former one, or the one
idle for longest, is closed."""
REASONS_LIMIT: Final = 200
"""Bound of reasons of refusals with a counter each; beyond it: further ones share one counter. There are about 60
reasons."""


JoinHandler: TypeAlias = Callable[[], InviterConversation | EntryConversation]
"""Opens the conversation with a host that wants to join (Invitations.converse), or to join or return."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """The body of one message, complete and authentic but not parsed yet."""

    stream_id: StreamId
    opened: Opened
    """Its last frame."""
    body: bytearray
    is_last: bool
    """The peer sends no more on this stream."""


@dataclass(slots=True)
class _Accepted:
    deadline: float
    reader: FrameReader | None = None
    join: InviterConversation | EntryConversation | None = None
    partial: bytearray = field(default_factory=bytearray)
    speaker: tuple[NodeId, int, bool] | None = None
    """Sender and epoch of its frames, and whether they are under a session's key."""
    last_counter: int = 0
    is_over: bool = False
    """The peer has finished sending. The stream is closed once its last message has been processed, which tells the
    peer so."""


def count_refusal(counts: Counter[str], error: WireError) -> None:
    """Count a refusal by its reason, without the details after its colon; EarlyError is counted apart, as no real
    refusal. At most REASONS_LIMIT reasons have a counter of their own, whatever a reason may be made from."""
    if isinstance(error, EarlyError):
        counts["early"] += 1
        return
    reason = error.reason if isinstance(error, SealError) else str(error).split(":")[0]
    name = "refused_" + reason.replace(" ", "_").replace("-", "_")
    counts[name if name in counts or len(counts) < REASONS_LIMIT else "refused_otherwise"] += 1


class AcceptedStreams:
    """All accepted streams. Stream commands are appended to `commands`, refusals counted in `counts`."""

    def __init__(
        self,
        *,
        config: GossipConfig,
        opener: Opener,
        join_handler: JoinHandler | None,
        commands: list[StreamCommand],
        counts: Counter[str],
        is_member: Callable[[str], bool],
        rng: random.Random,
    ) -> None:
        self._timeout_s = config.stream_timeout_s
        self._opener = opener
        self._join_handler = join_handler
        self._commands = commands
        self._counts = counts
        self._streams: dict[StreamId, _Accepted] = {}
        limits = SlotLimits(UNPROVEN_STREAMS, UNKNOWN_SOURCES_LIMIT, PER_HOST_LIMIT, PROVEN_STREAMS)
        self._places = StreamSlots(limits, is_member=is_member, rng=rng)
        self._partial_bytes = 0

    def accept(self, stream_id: StreamId, address: Address, now: float) -> None:
        """Register a stream that a peer opened. With too many open an unproven one is closed."""
        self._displace(self._places.enter(stream_id, address[0]))
        self._streams[stream_id] = _Accepted(now + self._timeout_s)

    def _displace(self, victim: StreamId | None) -> None:
        if victim is not None:
            self._counts["refused_too_many_streams"] += 1
            self.end(victim)

    def receive(self, stream_id: StreamId, data: bytes, now: float) -> list[Arrived]:
        """Return the messages that these bytes complete. A stream that is refused is closed and counted. The caller
        ends a stream (`end`, `refuse`) once it has processed its last message."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.is_over or not data:
            return []
        try:
            if stream.reader is None and stream.join is None:
                self._begin(stream, data[0])
            if stream.join is not None:
                self._converse(stream_id, stream.join, data, now)
                return []
            return self._read_frames(stream_id, stream, data, now)
        except WireError as error:
            self.refuse(stream_id, error)
            return []

    def refuse(self, stream_id: StreamId, error: WireError) -> None:
        """Count what came on a stream as refused, and close the stream."""
        count_refusal(self._counts, error)
        self.end(stream_id)

    def _begin(self, stream: _Accepted, first: int) -> None:
        """Decide by the first byte what a stream carries."""
        if first in {JOIN_MAGIC, RETURN_MAGIC}:
            if self._join_handler is None:
                raise WireError("this node accepts no joins")
            stream.join = self._join_handler()
        else:
            stream.reader = FrameReader()

    def _converse(
        self, stream_id: StreamId, join: InviterConversation | EntryConversation, data: bytes, now: float
    ) -> None:
        answer, close = join.receive(data, now)
        if answer:
            self._commands.append(StreamSend(stream_id, answer))
        if close:
            self.end(stream_id)

    def _read_frames(self, stream_id: StreamId, stream: _Accepted, data: bytes, now: float) -> list[Arrived]:
        assert stream.reader is not None
        arrived: list[Arrived] = []
        for header, frame in stream.reader.feed_untrusted(data):
            opened = self._opener.open_untrusted(header, frame, stream=True)
            speaker = (opened.sender, opened.epoch, opened.session is not None)
            # Else who has the ring key could put words before those of the peer's, into one message.
            if stream.speaker not in (None, speaker):
                raise WireError("two senders on one stream")
            if opened.counter <= stream.last_counter:
                raise WireError("replayed")
            stream.speaker, stream.last_counter = speaker, opened.counter
            stream.deadline = now + self._timeout_s
            if opened.fresh:
                self._displace(self._places.prove(stream_id, opened.sender))
            self._append(stream_id, stream, opened.body)
            stream.is_over = bool(header.flags & LAST)
            if stream.is_over or not header.flags & MORE:
                arrived.append(Arrived(stream_id, opened, stream.partial, stream.is_over))
                self._partial_bytes -= len(stream.partial)
                stream.partial = bytearray()
            if stream.is_over:
                break
        return arrived

    def _append(self, stream_id: StreamId, stream: _Accepted, body: bytes) -> None:
        is_proven = self._places.is_proven(stream_id)
        limit_bytes = MESSAGE_LIMIT_BYTES if is_proven else UNPROVEN_MESSAGE_BYTES
        if len(stream.partial) + len(body) > limit_bytes:
            raise WireError("message too large")
        if self._partial_bytes + len(body) > PARTIAL_LIMIT_BYTES:
            raise WireError("too much at once on all streams")
        stream.partial += body
        self._partial_bytes += len(body)

    def end(self, stream_id: StreamId) -> None:
        """Close a stream, if it is open."""
        self._places.leave(stream_id)
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            self._partial_bytes -= len(stream.partial)
            self._commands.append(StreamClose(stream_id))

    def handle_deadline(self, now: float) -> None:
        """Close the streams that were silent for too long."""
        for stream_id in [i for i, stream in self._streams.items() if stream.deadline <= now]:
            self._counts["streams_timed_out"] += 1
            self.end(stream_id)

    def check_invariants(self) -> None:
        """Assert that the count of buffered bytes matches the streams."""
        self._places.check_invariants()
        assert self._partial_bytes == sum(len(stream.partial) for stream in self._streams.values())

    def next_deadline(self) -> float:
        """When the next stream has been silent for too long."""
        return min((stream.deadline for stream in self._streams.values()), default=NEVER)
