"""The membership's streams: the purpose of each, how much may come in, how long it may take.

Each carries one message in each direction. The dialler writes first; the other side answers and closes. Until that
message is complete the dialler is unproven, so an accepted stream may be closed for others (stream_slots.py).
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from netgossip.codec.sealing import Keyring, SeenNonces, StreamReader, seal_stream
from netgossip.config import GossipConfig
from netgossip.deadlines import NEVER
from netgossip.membership.outgoing import Outgoing
from netgossip.stream_slots import SlotLimits, StreamSlots
from netgossip.types import Address, Channel, StreamClose, StreamId, StreamOpen, StreamSend

PER_HOST_LIMIT: Final = 4
"""Bound of membership streams accepted from one address; beyond it: one of that address is closed. One host cannot
take all slots."""
UNKNOWN_SOURCES_SHARE: Final = 0.5
"""Of the accepted streams, for addresses that are not members': the others are kept for members."""


class Purpose(enum.Enum):
    """Why a stream exists."""

    JOIN = "join"
    """We dial a node that is not a live member yet."""
    PUSH_PULL = "push-pull"
    """We dial a live member for a push/pull."""
    PING = "ping"
    """We dial the target of a probe whose datagrams are not answered."""
    ACCEPTED = "accepted"
    """A peer dialled us."""


@dataclass(slots=True)
class GossipStream:
    """One open stream."""

    stream_id: StreamId
    purpose: Purpose
    peer: Address
    reader: StreamReader
    deadline: float
    is_whole: bool = False
    """The peer's message is complete and being processed."""


class StreamTable:
    """The open streams, within their bounds."""

    def __init__(
        self,
        *,
        config: GossipConfig,
        keyring: Keyring,
        label: bytes,
        rng: random.Random,
        outgoing: Outgoing,
        new_stream_id: Callable[[], StreamId],
        is_member: Callable[[str], bool],
    ) -> None:
        self._config = config
        self._keyring = keyring
        self._label = label
        self._rng = rng
        self._outgoing = outgoing
        self._new_stream_id = new_stream_id
        self._streams: dict[StreamId, GossipStream] = {}
        self._seen = SeenNonces()
        places = config.accepted_streams
        unknown_sources = max(int(places * UNKNOWN_SOURCES_SHARE), 1)
        limits = SlotLimits(places, unknown_sources, min(PER_HOST_LIMIT, places))
        self._places = StreamSlots(limits, is_member=is_member, rng=rng)

    def __len__(self) -> int:
        return len(self._streams)

    def dial(
        self, peer: Address, purpose: Purpose, message: bytes, *, timeout_s: float, now: float
    ) -> StreamId:
        """Open a stream and write `message` on it."""
        stream = self.open(peer, purpose, timeout_s=timeout_s, now=now)
        self.write(stream, message)
        return stream.stream_id

    def open(self, peer: Address, purpose: Purpose, *, timeout_s: float, now: float) -> GossipStream:
        """Open a stream, to write on it soon."""
        stream = self._add(self._new_stream_id(), peer, purpose, now + timeout_s)
        self._outgoing.stream(StreamOpen(stream.stream_id, Channel.GOSSIP, peer))
        return stream

    def accept(self, stream_id: StreamId, peer: Address, now: float) -> bool:
        """Register a stream that a peer opened. False when another one had to be closed for it."""
        victim = self._places.enter(stream_id, peer[0])
        if victim is not None:
            self.close(victim)
        self._add(stream_id, peer, Purpose.ACCEPTED, now + self._config.stream_timeout_s)
        return victim is None

    def _add(self, stream_id: StreamId, peer: Address, purpose: Purpose, deadline: float) -> GossipStream:
        reader = StreamReader(
            keyring=self._keyring,
            label=self._label,
            labelled=purpose is Purpose.ACCEPTED,
            limit_bytes=self._config.stream_limit_bytes,
            seen=self._seen if purpose is Purpose.ACCEPTED else None,
        )
        stream = self._streams[stream_id] = GossipStream(stream_id, purpose, peer, reader, deadline)
        return stream

    def write(self, stream: GossipStream, message: bytes) -> None:
        """Seal `message` and send it, unless the stream has ended meanwhile."""
        if self._streams.get(stream.stream_id) is not stream:
            return
        is_dialler = stream.purpose is not Purpose.ACCEPTED
        data = seal_stream(
            message, keyring=self._keyring, label=self._label, rng=self._rng, dialler=is_dialler
        )
        self._outgoing.stream(StreamSend(stream.stream_id, data))

    def close(self, stream_id: StreamId, *, is_broken: bool = False) -> None:
        """End the stream; one that is broken has nothing left to close."""
        self._places.leave(stream_id)
        if self._streams.pop(stream_id, None) is not None and not is_broken:
            self._outgoing.stream(StreamClose(stream_id))

    def note_whole(self, stream: GossipStream) -> None:
        """Mark the peer's message as complete. From now on only our own work takes time, and that ends by itself."""
        stream.is_whole = True
        stream.deadline = NEVER

    def get(self, stream_id: StreamId) -> GossipStream | None:
        """The stream, while it is open."""
        return self._streams.get(stream_id)

    def expired(self, now: float) -> list[GossipStream]:
        """The streams that took too long."""
        return [stream for stream in self._streams.values() if now >= stream.deadline]

    def check_invariants(self) -> None:
        """Assert that no more are open than allowed."""
        self._places.check_invariants()

    def next_deadline(self) -> float:
        """When the next stream times out."""
        return min((stream.deadline for stream in self._streams.values()), default=NEVER)
