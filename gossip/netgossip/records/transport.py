"""The transport of the record channel: messages in sealed datagrams, and over streams where they don't fit.

Messages to one peer are collected until `drain` and packed into as few datagrams as possible. A message larger than a
datagram goes in parts (parts.py) to a peer that assembles them. What is more than a few datagrams, or did not arrive
in parts, goes over a one-way stream: the dialler writes frames, the last one flagged, and the peer closes when it has
read that one, which tells the dialler that all arrived. There is one stream to a peer at a time; messages for the
next one wait, up to BACKLOG_BYTES, and are dropped beyond: anti-entropy asks for them again. Only idempotent messages
may go over streams (frames.py says why). Streams that others open are in accepted_streams.py.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from netgossip.codec.sealing import Keyring
from netgossip.config import GossipConfig
from netgossip.deadlines import NEVER
from netgossip.errors import EarlyError, UnknownSessionError, WireError
from netgossip.join.identity import Identity
from netgossip.records.accepted_streams import AcceptedStreams, Arrived, JoinHandler, count_refusal
from netgossip.records.frames import (
    BODY_LIMIT_BYTES,
    HEADER_BYTES,
    LAST,
    MORE,
    OVERHEAD_BYTES,
    Opened,
    Opener,
    Sealer,
    parse_header_untrusted,
)
from netgossip.records.handshake import Handshakes
from netgossip.records.parts import Assembly, Cutter
from netgossip.records.sessions import Sessions
from netgossip.records.wire import (
    ASSEMBLED_BYTES,
    IDEMPOTENT,
    PARTS_LIMIT,
    TIMELESS,
    Delta,
    Fetch,
    Hello,
    Message,
    Part,
    Vector,
    Welcome,
    decode_untrusted,
    encode,
)
from netgossip.slices import Slices, WorkQueue, at_once
from netgossip.types import (
    Address,
    Channel,
    Datagram,
    NodeId,
    StreamClose,
    StreamCommand,
    StreamId,
    StreamOpen,
    StreamSend,
)

DATAGRAMS_AT_ONCE: Final = PARTS_LIMIT
"""More datagrams' worth than this for one peer goes over a stream, which has flow control."""
HANDSHAKE: Final = (Hello, Welcome)
"""The messages that go under a ring key also where there is a session."""
FRAMES_AT_ONCE: Final = 2
"""Bound of frames in one datagram; beyond it: refused. A Welcome, and what follows it under the session that it
makes."""
IN_PARTS: Final = (Delta, Vector, Fetch)
"""The messages that may be longer than a datagram. No other message is accepted from parts."""
BACKLOG_BYTES: Final = 16 * 1024 * 1024
"""Bound of messages for one peer beyond a few datagrams; beyond it: dropped, counted; repair by digest. Two logs of
the largest size."""
SLOWEST_BYTES_S: Final = 1_000_000
"""Streams get time for this rate beside the timeout: 8 Mbit/s, below any network on which overlays make sense."""
UNKNOWN_LIMIT: Final = 64
"""Bound of senders heard before they are members; beyond it: the oldest remains counted as refused. No more join
within the second that this news takes to spread."""
FRAMES_PER_SLICE: Final = 8
"""Bound of frames sealed for one stream in one slice; beyond it: the others wait in the same order. 512 KiB, up to 1
ms."""


@dataclass(frozen=True, slots=True)
class Received:
    """One message of a member. `proven`: neither a replay nor of a start that has not been shown to be live. `fresh`:
    of its present start, though on a stream, where it may be late."""

    sender: NodeId
    epoch: int
    message: Message
    proven: bool
    fresh: bool


@dataclass(frozen=True, slots=True)
class _Queued:
    encoded: bytes
    may_stream: bool = False
    is_timeless: bool = False
    """Believed without a proof of its sender."""
    is_handshake: bool = False
    """A Hello or Welcome, which no session can seal."""


@dataclass(slots=True)
class _PeerChannel:
    address: Address
    outbox: list[_Queued] = field(default_factory=list)
    outbox_bytes: int = 0
    backlog: list[bytes] = field(default_factory=list)
    backlog_bytes: int = 0
    being_written: int = 0
    """Messages for the peer that are being encoded in slices."""
    stream: StreamId | None = None
    cutter: Cutter = field(default_factory=Cutter)
    is_welcomed: bool = False
    """The peer has answered a Hello of ours, by which we know how long its messages in parts may be."""
    owes_frame: bool = False
    """The peer waits for a frame that confirms a session, also if there is nothing to say."""


@dataclass(slots=True)
class _Dialled:
    peer: NodeId
    deadline: float


class RecordTransport:
    """Addresses, sessions, datagrams and streams of the record channel."""

    def __init__(
        self,
        *,
        config: GossipConfig,
        node_id: NodeId,
        boot_epoch: int,
        keyring: Keyring,
        label: bytes,
        rng: random.Random,
        new_stream_id: Callable[[], StreamId],
        join_handler: JoinHandler | None,
        works: WorkQueue,
        identity: Identity | None = None,
        session_speakers: Sequence[NodeId] = (),
        assembles: int = ASSEMBLED_BYTES,
    ) -> None:
        """`assembles`: the longest message that peers may send us in parts, as we announce it. 0: behave like a
        release without parts. `identity` None: behave like a release without sessions."""
        self._config = config
        self._works = works
        self._assembles = assembles
        self._new_stream_id = new_stream_id
        epoch = (boot_epoch & 0xFFFFFFFF) << 32 | rng.getrandbits(32)
        self._sealer = Sealer(node_id=node_id, epoch=epoch, keyring=keyring, label=label)
        self._sessions = Sessions(
            node_id=node_id,
            epoch=epoch,
            identity=identity,
            keyring=keyring,
            label=label,
            rng=rng,
            speakers=session_speakers,
        )
        self._opener = Opener(
            node_id=node_id,
            keyring=keyring,
            label=label,
            find_session=self._sessions.find,
            has_sessions=self._sessions.speaks,
        )
        self._peers: dict[NodeId, _PeerChannel] = {}
        self._handshakes = Handshakes(rng)
        self._unknown: dict[NodeId, int] = {}
        """Datagrams refused recently because their sender is not a member, by the sender that they name."""
        self._ready: dict[NodeId, None] = {}
        """Peers for which something may be sent, in the order in which it came."""
        self._dialled: dict[StreamId, _Dialled] = {}
        self._assembly = Assembly()
        self._messages_cut = 0
        self._commands: list[StreamCommand] = []
        self._admitted: list[NodeId] = []
        self._now = 0.0
        self.counts: Counter[str] = Counter()
        self._accepted = AcceptedStreams(
            config=config,
            opener=self._opener,
            join_handler=join_handler,
            commands=self._commands,
            counts=self.counts,
            is_member=self._is_peers_host,
            rng=rng,
        )
        self._hosts: frozenset[str] | None = None
        """IP addresses of all peers; None: must be rebuilt."""

    # Peers and sending.

    def set_peer(self, node_id: NodeId, address: Address | None, now: float) -> bool:
        """Set a peer's address, or (None) drop the peer. True for another address than before."""
        self._now = now
        known = self._peers.get(node_id)
        if known is None or known.address != address:
            self._hosts = None
        has_moved = known is not None and address is not None and known.address != address
        if address is None:
            peer = self._peers.pop(node_id, None)
            if peer is not None and peer.stream is not None:
                self._end_dialled(peer.stream)
            self._opener.forget(node_id)
            self._sessions.forget(node_id)
            self._assembly.forget(node_id)
            self._handshakes.forget(node_id)
            self._ready.pop(node_id, None)
        elif known is not None:
            known.address = address
        else:
            self._peers[node_id] = _PeerChannel(address)
            self._opener.know(node_id)
            # A newcomer sends Hellos to all before all know it: those were not from an unknown source.
            early = self._unknown.pop(node_id, 0)
            self.counts["early"] += early
            self.counts["refused_sender_is_not_a_member"] -= early
        return has_moved

    def _is_peers_host(self, host: str) -> bool:
        if self._hosts is None:
            self._hosts = frozenset(peer.address[0] for peer in self._peers.values())
        return host in self._hosts

    def refuse(self, node_id: NodeId, *, refused: bool) -> None:
        """Refuse every frame that names this sender, and count it as that of a revoked one; or no longer."""
        self._opener.refuse(node_id, refused=refused)

    def begin_handshake(self, node_id: NodeId, now: float) -> None:
        """Have a peer prove its present start, if it has not yet."""
        peer = self._peers.get(node_id)
        if peer is None:
            return
        self._sessions.keep(node_id)
        lacks_session = self._sessions.speaks(node_id) and not self._sessions.for_sending(node_id, now)
        if lacks_session or not (peer.is_welcomed and self._opener.is_admitted(node_id)):
            self._handshakes.begin(node_id, now)

    def stop_handshake(self, node_id: NodeId) -> None:
        """Stop the handshake with a peer that is not expected to answer."""
        self._handshakes.stop_handshake(node_id)
        self._sessions.let_expire(node_id)

    def knows(self, node_id: NodeId) -> bool:
        """True when there is an address for the peer."""
        return node_id in self._peers

    def is_streaming(self, node_id: NodeId) -> bool:
        """True while a stream to the peer is open, or messages for it are being encoded."""
        peer = self._peers.get(node_id)
        return peer is not None and (peer.stream is not None or peer.being_written > 0)

    def send(self, node_id: NodeId, message: Message) -> Slices[None]:
        """Queue a message; nothing is sent to unknown peers."""
        peer = self._peers.get(node_id)
        if peer is None:
            return
        peer.being_written += 1
        try:
            encoded = yield from encode(message)
        finally:
            peer.being_written -= 1
        if self._peers.get(node_id) is peer:
            kinds = (isinstance(message, kind) for kind in (IDEMPOTENT, TIMELESS, HANDSHAKE))
            peer.outbox.append(_Queued(encoded, *kinds))
            peer.outbox_bytes += len(encoded)
            self._ready[node_id] = None

    def may_answer(self, received: Received, now: float) -> bool:
        """True if a request for content may be answered; unproven ones are answered once a second per peer."""
        if received.fresh or self._handshakes.may_answer(received.sender, now):
            return True
        self.counts["unanswered"] += 1
        return False

    def has_room(self, node_id: NodeId) -> bool:
        """True when more bulk data for the peer would not be dropped: ask before encoding some."""
        peer = self._peers.get(node_id)
        return peer is not None and peer.outbox_bytes + peer.backlog_bytes < BACKLOG_BYTES

    def take_admitted(self) -> list[NodeId]:
        """Return the peers of which a new start was proven live since the last call."""
        admitted, self._admitted = self._admitted, []
        return admitted

    def take_new_speakers(self) -> list[NodeId]:
        """Return the peers that have shown for the first time that they have sessions, since the last call."""
        return self._sessions.take_new_speakers()

    # Receiving.

    def handle_datagram(self, payload: bytes, now: float) -> list[Received]:
        """Return the messages of a datagram; none (and a count) if it is refused."""
        self._now = now
        received: list[Received] = []
        frames = 0
        while payload and frames < FRAMES_AT_ONCE:
            frames += 1
            try:
                header = parse_header_untrusted(payload)
                # Those of a revoked sender have a counter of their own: once it is a member again, nothing of it was
                # early.
                if header.sender not in self._peers and not self._opener.is_refused(header.sender):
                    self._note_unknown(header.sender)
                end = HEADER_BYTES + header.sealed_bytes
                opened = self._opener.open_untrusted(header, payload[:end])
                messages = at_once(decode_untrusted(opened.body))
            except WireError as error:
                self._refuse(error, payload, now)
                break
            payload = payload[end:]
            received += self._believe(opened, messages, now)
        else:
            if payload or not frames:
                count_refusal(self.counts, WireError("not a record frame"))
        return received

    def _refuse(self, error: WireError, payload: bytes, now: float) -> None:
        """Count a refusal. A frame of a session that we lack is often of a peer that does not know that we have
        restarted: it gets a Hello."""
        if isinstance(error, UnknownSessionError):
            sender = parse_header_untrusted(payload).sender
            if not self._opener.is_admitted(sender):
                error = EarlyError(str(error))
            self._handshakes.note_heard(sender, now)
        count_refusal(self.counts, error)

    def _note_unknown(self, sender: NodeId) -> None:
        self._unknown[sender] = self._unknown.pop(sender, 0) + 1
        if len(self._unknown) > UNKNOWN_LIMIT:
            del self._unknown[next(iter(self._unknown))]

    def _believe(self, opened: Opened, messages: list[Message], now: float) -> list[Received]:
        """Handle Hello and Welcome, and drop messages that need a proof that is missing."""
        fresh, proven = opened.fresh, opened.proven
        if opened.session is not None and fresh and self._sessions.note_heard(opened.session, now):
            self._admit(opened)
        received: list[Received] = []
        parts = 0
        """More than one in a datagram would cause work that its length does not bound."""
        if opened.sender not in self._peers:
            return received  # removed since
        for message in messages:
            if opened.session is None and self._sessions.speaks(opened.sender):
                # Whoever has the ring key can have sealed it.
                fresh = proven = False
            match message:
                case Hello():
                    self._on_hello(opened, message, now, is_fresh=fresh)
                case Welcome():
                    if self._on_welcome(opened, message, now):
                        fresh = proven = True
                case Part() if proven and self._assembles:
                    parts += 1
                    whole = self._assemble(opened, message, now) if parts == 1 else []
                    received += [Received(opened.sender, opened.epoch, one, proven, fresh) for one in whole]
                case _ if proven or isinstance(message, IDEMPOTENT if fresh else TIMELESS):
                    received.append(Received(opened.sender, opened.epoch, message, proven, fresh))
                case _:
                    # When hosts meet, each sends before the other's proof has come; those messages are repeated.
                    is_early = self._opener.is_early(opened)
                    self.counts["early" if is_early else "refused_unproven"] += 1
        if not self._opener.is_current(opened):
            # Another start than the one we know, or a recording of one: the peer itself will answer.
            self._handshakes.note_heard(opened.sender, now)
        return received

    def _on_hello(self, opened: Opened, hello: Hello, now: float, *, is_fresh: bool) -> None:
        """Answer a Hello. An offer costs work, so it is never answered more often than a peer sends Hellos."""
        sender = opened.sender
        may_answer = self._handshakes.may_answer(sender, now, is_hello=True)
        answer: bytes | None = b""
        try:
            if may_answer and hello.offer:
                answer = self._sessions.answer(sender, opened.epoch, hello.nonce, hello.offer, now)
        except WireError as error:
            count_refusal(self.counts, error)
            return
        if answer is not None and (may_answer or (is_fresh and not hello.offer)):
            at_once(self.send(sender, Welcome(hello.nonce, self._assembles, answer)))
        else:
            self.counts["unanswered"] += 1

    def _on_welcome(self, opened: Opened, welcome: Welcome, now: float) -> bool:
        """Admit the start of a peer that answers our Hello. True if that proves the frame as well."""
        sender = opened.sender
        if not self._handshakes.is_awaited(sender, welcome.nonce):
            return False
        has_session = False
        try:
            if welcome.answer:
                has_session = self._sessions.take_answer(
                    sender, opened.epoch, welcome.nonce, welcome.answer, now
                )
        except WireError as error:
            count_refusal(self.counts, error)
            return False
        if not has_session and self._sessions.speaks(sender):
            self.counts["refused_welcome_without_session"] += 1
            return False
        self._handshakes.is_answer(sender, welcome.nonce)
        peer = self._peers[sender]
        peer.cutter.limit_bytes = welcome.assembles
        peer.is_welcomed = True
        if has_session:
            peer.owes_frame = True
            self._ready[sender] = None
        self._admit(opened)
        return not has_session

    def _admit(self, opened: Opened) -> None:
        if self._opener.admit(opened):
            self._admitted.append(opened.sender)

    def _assemble(self, opened: Opened, part: Part, now: float) -> list[Message]:
        """Return the messages that this part completes."""
        try:
            whole = self._assembly.add(opened.sender, opened.epoch, part, now)
            if whole is None:
                return []
            messages = at_once(decode_untrusted(whole))
            if not all(isinstance(message, IN_PARTS) for message in messages):
                raise WireError("in parts what never is")
        except WireError as error:
            count_refusal(self.counts, error)
            return []
        self.counts["messages_assembled"] += 1
        return messages

    def accept_stream(self, stream_id: StreamId, address: Address, now: float) -> None:
        """Register a stream that a peer opened."""
        self._now = now
        self._accepted.accept(stream_id, address, now)

    def handle_stream_data(self, stream_id: StreamId, data: bytes, now: float) -> list[Arrived]:
        """Return what these bytes complete: parse each with `parse`, and call `finish` when it was processed. A
        stream that is refused is closed and counted."""
        self._now = now
        return self._accepted.receive(stream_id, data, now)

    def parse(self, arrived: Arrived, now: float) -> Slices[list[Received]]:
        """Parse the messages in it. If they are invalid, the stream is refused."""
        try:
            messages = yield from decode_untrusted(arrived.body)
        except WireError as error:
            self._accepted.refuse(arrived.stream_id, error)
            return []
        return self._believe(arrived.opened, messages, now)

    def finish(self, arrived: Arrived) -> None:
        """Close the stream after its last message was processed, which tells the peer that all arrived."""
        if arrived.is_last:
            self._accepted.end(arrived.stream_id)

    def handle_stream_end(self, stream_id: StreamId, now: float, error: str | None) -> None:
        """Handle the end of a stream: the peer closed, or it broke."""
        self._now = now
        if stream_id in self._dialled:
            if error is not None:
                self.counts["streams_failed"] += 1
            self._end_dialled(stream_id)
        else:
            self._accepted.end(stream_id)

    # Time.

    def handle_deadline(self, now: float) -> None:
        """Repeat Hellos, and end streams that are silent for too long."""
        self._now = now
        for node_id in self._sessions.handle_deadline(now):
            if not self._handshakes.is_under_way(node_id):
                self._handshakes.begin(node_id, now)
        for node_id, nonce in self._handshakes.take_due(now):
            hello = Hello(nonce, self._sessions.offer(node_id, nonce, now))
            self._peers[node_id].outbox.insert(0, _Queued(at_once(encode(hello)), is_handshake=True))
            self._ready[node_id] = None
        self._accepted.handle_deadline(now)
        self._assembly.handle_deadline(now)
        for stream_id in [i for i, stream in self._dialled.items() if stream.deadline <= now]:
            self.counts["streams_timed_out"] += 1
            self._end_dialled(stream_id)

    def next_deadline(self) -> float:
        """When `handle_deadline` has something to do."""
        dialled = min((stream.deadline for stream in self._dialled.values()), default=NEVER)
        accepted = min(self._accepted.next_deadline(), self._assembly.next_deadline())
        handshakes = min(self._handshakes.next_deadline(), self._sessions.next_deadline())
        return min(handshakes, dialled, accepted)

    def check_invariants(self) -> None:
        """Raise AssertionError if the state contradicts itself."""
        self._accepted.check_invariants()
        self._assembly.check_invariants()
        self._sessions.check_invariants()

    def drain(self) -> tuple[list[Datagram], list[StreamCommand]]:
        """Return everything to send."""
        datagrams: list[Datagram] = []
        ready, self._ready = self._ready, {}
        for node_id in ready:
            peer = self._peers[node_id]
            if peer.outbox or peer.owes_frame:
                datagrams += self._pack(node_id, peer)
            if peer.backlog and peer.stream is None:
                self._dial(node_id, peer)
        commands = self._commands.copy()
        self._commands.clear()
        self.counts["datagrams_sent"] += len(datagrams)
        return datagrams, commands

    def _pack(self, node_id: NodeId, peer: _PeerChannel) -> list[Datagram]:
        room = self._config.record_datagram_bytes - OVERHEAD_BYTES
        outbox, peer.outbox, peer.outbox_bytes = peer.outbox, [], 0
        session = self._sessions.for_sending(node_id, self._now)
        bodies: list[bytes] = []
        if session is not None:
            handshake = b"".join(item.encoded for item in outbox if item.is_handshake)
            outbox = [item for item in outbox if not item.is_handshake]
            bodies = [handshake] if handshake else []
        elif self._sessions.speaks(node_id):
            # The peer would refuse the others under the ring key, as it would those of any other holder of that key.
            kept = [item for item in outbox if item.is_timeless or item.is_handshake]
            self.counts["withheld_without_session"] += len(outbox) - len(kept)
            outbox = kept
            if self._sessions.is_kept(node_id) and not self._handshakes.is_under_way(node_id):
                self._handshakes.begin(node_id, self._now)
        under_ring = [self._sealer.seal(node_id, body) for body in bodies]
        bulk = sum(len(item.encoded) for item in outbox if item.may_stream) > DATAGRAMS_AT_ONCE * room
        frames = []
        body = b""
        for item in outbox:
            pieces = [item.encoded]
            if item.may_stream and (bulk or len(item.encoded) > room):
                pieces = [] if bulk else self._cut(peer, item.encoded, room)
                if not pieces:
                    self._queue(peer, item.encoded)
            for piece in pieces:
                if body and len(body) + len(piece) > room:
                    frames.append(self._sealer.seal(node_id, body, session=session))
                    body = b""
                body += piece
        if body or (peer.owes_frame and session is not None and not frames):
            frames.append(self._sealer.seal(node_id, body, session=session))
        peer.owes_frame = False
        if under_ring and frames and len(under_ring[0]) + len(frames[0]) <= room + OVERHEAD_BYTES:
            # In one datagram: what the session seals must not overtake the Welcome that makes it.
            frames[0] = under_ring.pop() + frames[0]
        return [Datagram(Channel.RECORD, peer.address, frame) for frame in (*under_ring, *frames)]

    def _cut(self, peer: _PeerChannel, message: bytes, room: int) -> list[bytes]:
        """Cut a message into parts; none if it must go over a stream, as all does while there is one."""
        if not self._assembles or peer.stream is not None or peer.backlog:
            return []
        parts = peer.cutter.cut(self._messages_cut + 1, message, room, self._now)
        if parts:
            self._messages_cut += 1
            self.counts["messages_in_parts"] += 1
        return [at_once(encode(part)) for part in parts]

    def _queue(self, peer: _PeerChannel, message: bytes) -> None:
        if peer.backlog_bytes + len(message) > BACKLOG_BYTES:
            self.counts["dropped_backlog"] += 1
        else:
            peer.backlog.append(message)
            peer.backlog_bytes += len(message)

    def _dial(self, node_id: NodeId, peer: _PeerChannel) -> None:
        """Send the whole backlog over a new stream."""
        stream_id = self._new_stream_id()
        peer.stream = stream_id
        patience_s = self._config.stream_timeout_s + peer.backlog_bytes / SLOWEST_BYTES_S
        self._dialled[stream_id] = _Dialled(node_id, self._now + patience_s)
        self._commands.append(StreamOpen(stream_id, Channel.RECORD, peer.address))
        backlog, peer.backlog, peer.backlog_bytes = peer.backlog, [], 0
        self._works.begin(self._seal_all(stream_id, node_id, backlog))
        self.counts["streams_dialled"] += 1

    def _seal_all(self, stream_id: StreamId, node_id: NodeId, backlog: list[bytes]) -> Slices[None]:
        """Seal all that one stream carries, as long as it is open."""
        frames = 0
        is_in_session = self._sessions.for_sending(node_id, self._now) is not None
        for number, message in enumerate(backlog, 1):
            final = LAST if number == len(backlog) else 0
            for start in range(0, len(message), BODY_LIMIT_BYTES):
                if stream_id not in self._dialled:
                    return
                end = start + BODY_LIMIT_BYTES
                flags = MORE if end < len(message) else final
                session = self._sessions.for_sending(node_id, self._now) if is_in_session else None
                if is_in_session and session is None:
                    self._end_dialled(stream_id)  # one stream is not sealed in both ways
                    return
                frame = self._sealer.seal(
                    node_id, message[start:end], flags=flags, session=session, stream=True
                )
                self._commands.append(StreamSend(stream_id, frame))
                frames += 1
                if frames % FRAMES_PER_SLICE == 0:
                    yield

    def _end_dialled(self, stream_id: StreamId) -> None:
        node_id = self._dialled.pop(stream_id).peer
        peer = self._peers.get(node_id)
        if peer is not None and peer.stream == stream_id:
            peer.stream = None
            self._ready[node_id] = None
        self._commands.append(StreamClose(stream_id))
