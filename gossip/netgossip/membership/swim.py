"""The membership machine: memberlist's protocol, SWIM with Lifeguard, without a socket and without a clock.

Five activities run side by side, each with its own timer, on one table of members (members.py, state_updates.py):

    probe       one member per interval: ping, then ask helpers, then suspect    failure_detector.py, probe.py
    gossip      while broadcasts wait: to a few random members per interval      timers.py, broadcasts.py
    push/pull   everything, with one random live member, over a stream           timers.py
    reconnect   dial what should be a member and is not, for ever                timers.py, reconnect.py
    expiry      suspicions that time out, new addresses, removal                 state_updates.py, address_changes.py

Every counter of the membership is in COUNTERS, so that each is shown from the start. Sources that do not belong to
the cluster (`UnknownSources`) are always counted, and reported to the application at most once per minute and source.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from netgossip.codec.messages import (
    VSN,
    Ack,
    Alive,
    DatagramMessage,
    Dead,
    ErrorReply,
    IndirectPing,
    Nack,
    Ping,
    PushPull,
    StreamMessage,
    Suspect,
    UserMessage,
    check_meta,
    encode,
)
from netgossip.codec.meta import without_proof
from netgossip.codec.parse import parse_datagram_untrusted, parse_stream_untrusted
from netgossip.codec.sealing import Keyring, check_label, open_datagram_untrusted
from netgossip.config import GossipConfig
from netgossip.deadlines import NEVER
from netgossip.errors import SealError, WireError
from netgossip.join.identity import Identity
from netgossip.membership.awareness import Awareness
from netgossip.membership.claims import ClaimProofs
from netgossip.membership.failure_detector import FailureDetector
from netgossip.membership.local_stall import LocalStall
from netgossip.membership.members import MemberTable
from netgossip.membership.outgoing import Outgoing
from netgossip.membership.reconnect import Reconnect
from netgossip.membership.state_updates import StateUpdates
from netgossip.membership.streams import GossipStream, Purpose, StreamTable
from netgossip.membership.timers import Timers
from netgossip.slices import Slices, WorkQueue
from netgossip.types import (
    Address,
    Member,
    MemberState,
    NodeId,
    NodeOutput,
    RefusalHeard,
    StreamId,
    UnknownSourceHeard,
)

_PROBING: Final = ("probes", "probes_failed", "late_acks", "lags")
_STREAMS: Final = ("push_pulls", "streams_failed", "peer_errors", "user_messages")
_CLAIMS: Final = ("suspicions", "deaths_declared", "refutations", "accusations", "identity_clashes")
_REFUSED: Final = (
    *("no_label", "other_label", "wrong_key", "not_encrypted", "malformed", "not_for_us", "unknown_accuser"),
    *("incarnation", "departed", "revoked", "version", "address", "full", "busy", "relay", "unexpected"),
    *("claim_unsigned", "claim_forged", "claim_unchecked"),
)

COUNTERS: Final = (*_PROBING, *_STREAMS, *_CLAIMS, *(f"refused_{reason}" for reason in _REFUSED))


PAUSE_S: Final = 60.0
SOURCES_LIMIT: Final = 1024
"""Bound of unknown sources that were reported; beyond it: further ones are only counted. Source addresses are not
proven: forged ones fill the table first."""


class UnknownSources:
    """The unknown sources that were reported, and when."""

    def __init__(self) -> None:
        self._reported_at: dict[str, float] = {}

    def is_news(self, host: str, now: float) -> bool:
        """True when `host` should be reported to the application now."""
        if (reported_at := self._reported_at.get(host)) is not None and now < reported_at + PAUSE_S:
            return False
        if host not in self._reported_at and len(self._reported_at) >= SOURCES_LIMIT:
            self._reported_at = {h: at for h, at in self._reported_at.items() if now < at + PAUSE_S}
            if len(self._reported_at) >= SOURCES_LIMIT:
                return False
        self._reported_at[host] = now
        return True


_REAP_INTERVAL_S: Final = 60.0
SHORT_BYTES: Final = 16 * 1024
"""A stream's message up to this length takes few slices, and is always processed."""
WORKS_LIMIT: Final = 32
"""Bound of push/pulls worked on in slices at the same time; beyond it: longer ones than `SHORT_BYTES` are refused,
counted; the next push/pull makes up for it."""


class Swim:
    """One node's membership. Fed with input and the time, drained for output; see types.py.

    `incarnation` is the highest that this node ever used (0 for a new one); it starts one above. `rng` must be
    `random.SystemRandom` outside of tests: nonces come from it. `identity` proves what we say about ourselves, with a
    meta in our envelope, and then `signers` are believed only with their proofs; None: nothing is proven or checked.
    """

    def __init__(
        self,
        *,
        config: GossipConfig,
        node_id: NodeId,
        address: Address,
        meta: bytes,
        incarnation: int,
        keyring: Keyring,
        label: bytes,
        rng: random.Random,
        now: float,
        new_stream_id: Callable[[], StreamId],
        identity: Identity | None = None,
        signers: Sequence[NodeId] = (),
        remembered: Sequence[Member] = (),
        departed: Sequence[tuple[NodeId, int]] = (),
        seeds: Sequence[Address] = (),
    ) -> None:
        self._config = config
        self._keyring = keyring
        self._label = check_label(label)
        self._counts = Counter(dict.fromkeys(COUNTERS, 0))
        self._proofs = ClaimProofs(identity, label, signers)
        own = Member(node_id, address, MemberState.ALIVE, incarnation + 1, check_meta(meta), VSN)
        self._table = MemberTable(self._proofs.signed(own))
        self._outgoing = Outgoing(
            config=config, keyring=keyring, label=label, rng=rng, live=lambda: self._table.live
        )
        self._awareness = Awareness(config.awareness_max_multiplier)
        self._state_updates = StateUpdates(
            config=config,
            table=self._table,
            outgoing=self._outgoing,
            awareness=self._awareness,
            counts=self._counts,
            proofs=self._proofs,
        )
        self._unknown_sources = UnknownSources()
        self._refusals: dict[NodeId, str] = {}
        self._works = WorkQueue()
        self.now = now
        """The latest time given: work in slices runs at the time of its last input."""
        self._streams = StreamTable(
            config=config,
            keyring=keyring,
            label=label,
            rng=rng,
            outgoing=self._outgoing,
            new_stream_id=new_stream_id,
            is_member=self._table.is_members_host,
        )
        self._build_activities(rng, now, seeds)
        self._state_updates.announce(now)
        for member in remembered:
            self._state_updates.remember(member, now)
        for departed_id, last in departed:
            self._state_updates.recall_departure(departed_id, last)
        self._settle(now)

    def _build_activities(self, rng: random.Random, now: float, seeds: Sequence[Address]) -> None:
        """Build the activities that run by timers, around the member states that they share."""
        self._failure_detector = FailureDetector(
            config=self._config,
            rng=rng,
            table=self._table,
            state_updates=self._state_updates,
            outgoing=self._outgoing,
            streams=self._streams,
            awareness=self._awareness,
            counts=self._counts,
        )
        self._probe_at = now + rng.uniform(0, self._config.probe_interval_s)
        self._timers = Timers(
            config=self._config,
            rng=rng,
            now=now,
            table=self._table,
            state_updates=self._state_updates,
            outgoing=self._outgoing,
            streams=self._streams,
            works=self._works,
        )
        self._local_stall = LocalStall(
            config=self._config,
            state_updates=self._state_updates,
            prober=self._failure_detector.prober,
            awareness=self._awareness,
            counts=self._counts,
        )
        self._reconnect = Reconnect(
            config=self._config,
            rng=rng,
            table=self._table,
            state_updates=self._state_updates,
            dial=lambda address, now: self._timers.dial(address, Purpose.JOIN, now),
            seeds=seeds,
        )
        self._reap_at = now + _REAP_INTERVAL_S
        self._leave_by = NEVER

    # Input.

    def handle_datagram(self, payload: bytes, source: Address, now: float) -> None:
        """Handle one UDP payload. What does not belong to the cluster is refused and counted."""
        self.now = now
        try:
            messages = parse_datagram_untrusted(
                open_datagram_untrusted(payload, keyring=self._keyring, label=self._label)
            )
        except WireError as error:
            self._refuse(error, source, now)
            return
        self._state_updates.begin_input(source)
        for message in messages:
            self._handle_message(message, source, now)
        self._settle(now)

    def accept_stream(self, stream_id: StreamId, peer: Address, now: float) -> None:
        """Register a stream that a peer opened; with too many open another one is closed (stream_slots.py)."""
        if not self._streams.accept(stream_id, peer, now):
            self._counts["refused_busy"] += 1

    def handle_stream_data(self, stream_id: StreamId, data: bytes, now: float) -> None:
        """Handle bytes of a stream, split at any position."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.is_whole:
            return
        self.now = now
        try:
            frame = stream.reader.feed_untrusted(data)
        except WireError as error:
            self._refuse(error, stream.peer, now)
            self._close(stream, now)
        else:
            if frame is None:
                return
            # Short messages are always taken: a ping over a stream must not fail because push/pulls wait.
            if len(frame) > SHORT_BYTES and len(self._works) >= WORKS_LIMIT:
                self._counts["refused_busy"] += 1
                self._close(stream, now)
            else:
                self._streams.note_whole(stream)
                self._works.begin(self._handling_frame(stream, frame))
        self._settle(now)

    def handle_stream_end(self, stream_id: StreamId, now: float, error: str | None) -> None:
        """Handle the end of a stream before its message was complete: half-closed (`error` None) or broken."""
        if (stream := self._streams.get(stream_id)) is None:
            return
        self.now = now
        if stream.is_whole:
            # Its message counts all the same. A half-closed stream still takes our answer.
            if error is not None:
                self._streams.close(stream_id, is_broken=True)
            return
        self._counts["streams_failed"] += 1
        self._close(stream, now, is_broken=error is not None)
        self._settle(now)

    def handle_deadline(self, now: float) -> None:
        """Do what is due. Early and repeated calls do nothing."""
        self.now = now
        # Of all timers only the probe's is never set into the past, so its lateness is that of the event loop.
        self._local_stall.make_up(now - self._probe_at, now)
        self._failure_detector.handle_deadline(now)
        if now >= self._probe_at:
            self._probe_at = now + self._config.probe_interval_s
            self._failure_detector.begin(now)
        self._state_updates.handle_deadline(now)
        for stream in self._streams.expired(now):
            self._counts["streams_failed"] += 1
            self._close(stream, now)
        self._timers.handle_deadline(now)
        if now >= self._reap_at:
            self._reap_at = now + _REAP_INTERVAL_S
            self._reap(now)
        if now >= self._leave_by:
            self._leave_by = NEVER
            self._outgoing.broadcasts.discard(self._table.own_id)
        self._settle(now)
        # Last, so that broadcasts that the steps above have queued go out now.
        self._timers.gossip(now)

    @property
    def has_pending_work(self) -> bool:
        """True while `run_step` has something to do."""
        return len(self._works) > 0

    def run_step(self) -> None:
        """Continue the work that was too long for one input."""
        self._works.run_step()

    def next_deadline(self) -> float:
        """When `handle_deadline` has something to do. Ask again after every input."""
        return min(
            self._probe_at,
            self._failure_detector.prober.next_deadline(),
            self._state_updates.next_deadline(),
            self._streams.next_deadline(),
            self._timers.next_deadline(),
            self._reap_at,
            self._reconnect.next_deadline(),
            self._leave_by,
        )

    def drain(self) -> NodeOutput:
        """Return everything that the driver must now do, once."""
        return self._outgoing.drain()

    # Commands.

    def set_meta(self, meta: bytes, now: float) -> None:
        """Announce our new meta to all, at most 512 bytes."""
        if check_meta(meta) != without_proof(self._table.own.meta) and not self._state_updates.is_leaving:
            self._state_updates.announce(now, meta=meta)

    def set_address(self, address: Address, now: float) -> None:
        """Announce our new address to all."""
        if address != self._table.own.address and not self._state_updates.is_leaving:
            self._state_updates.announce(now, address=address)
            self._timers.push_pull_soon(now)
            self._settle(now)

    def set_seeds(self, seeds: Sequence[Address], now: float) -> None:
        """Dial these addresses for ever, while no live member has them."""
        self._reconnect.set_seeds(seeds)
        self._settle(now)

    def leave(self, now: float) -> None:
        """Announce that we leave for good. Then poll `has_left`; we answer meanwhile."""
        if not self._state_updates.is_leaving:
            self._state_updates.leave(now)
            self._leave_by = now + self._config.leave_timeout_s
            self._timers.hurry(now)
            self._failure_detector.abandon()

    def has_left(self, now: float) -> bool:
        """True when enough members know, when there is none, or when it took too long."""
        if not self._state_updates.is_leaving:
            return False
        is_told = self._table.own_id not in self._outgoing.broadcasts
        return is_told or self._table.live == 0 or now >= self._leave_by

    def forget(self, node_id: NodeId, now: float) -> None:
        """Remove a member that is dead or has left; a live one stays. If it speaks again, it is accepted."""
        self._state_updates.forget(node_id)
        self._failure_detector.reap()
        self._timers.reap()
        self._settle(now)

    def refuse(self, node_id: NodeId, text: str, now: float) -> None:
        """Remove a member in whatever state, and admit it no more: nothing that is said of it is believed, its pings
        are not answered, and its push/pulls get `text` (RefusalHeard) instead of the members."""
        self._refusals[node_id] = text
        self._state_updates.refuse(node_id, now)
        self._failure_detector.reap()
        self._timers.reap()
        self._settle(now)

    def require_proofs(self, *, required: bool, now: float) -> None:
        """Let only nodes be members that prove what they claim about themselves; or others as well."""
        self._state_updates.require_proofs(now, required=required)
        self._failure_detector.reap()
        self._timers.reap()
        self._settle(now)

    def readmit(self, node_id: NodeId) -> None:
        """Refuse the node no longer. It comes back when it or another member speaks of it."""
        self._refusals.pop(node_id, None)
        self._state_updates.readmit(node_id)

    def probe_soon(self, node_id: NodeId, now: float) -> None:
        """Probe this member next: the application has a reason to doubt it. At once, unless a probe is in flight or
        the last one was out of turn as well."""
        if node_id in self._table and node_id != self._table.own_id:
            prober = self._failure_detector.prober
            prober.order.prefer(node_id)
            if prober.current is None and not prober.order.was_preferred:
                self._probe_at = min(self._probe_at, now)

    def note_lag(self, lag_s: float, now: float) -> None:
        """Note that the event loop was late by `lag_s`, and doubt ourselves."""
        self._local_stall.note(lag_s, now)

    # Views.

    def members(self) -> Mapping[NodeId, Member]:
        """All members that are remembered, ourselves among them, with their meta as it is on the wire
        (codec/meta.py). Read-only; changes with the machine."""
        return self._table.view

    @property
    def incarnation(self) -> int:
        """Our own incarnation. Persist the highest seen, and pass it to the next start."""
        return self._table.own.incarnation

    def is_signer(self, node_id: NodeId) -> bool:
        """True if the other is believed only with its proof where it lives, how far it has counted, and that it has
        left."""
        return self._proofs.signs(node_id)

    def rtt_s(self, node_id: NodeId) -> float | None:
        """Round trip of the last ping that a member answered directly."""
        return self._failure_detector.rtt_s.get(node_id)

    def lacks_datagrams(self, node_id: NodeId) -> bool:
        """True if a member's last answers came only over streams or through other members: its datagrams, or ours,
        get lost."""
        return self._failure_detector.lacks_datagrams(node_id)

    def statistics(self) -> dict[str, int | float]:
        """Counters since the start, refusals as `refused_<reason>`, and present figures."""
        return {
            **self._counts,
            "members": len(self._table),
            "members_live": self._table.live,
            "suspected": len(self._state_updates.suspicions),
            "rumours_waiting": len(self._outgoing.broadcasts),
            "datagrams_dropped": self._outgoing.dropped,
            "streams_open": len(self._streams),
            "exchanges_in_pieces": len(self._works),
            "health_score": self._awareness.score,
        }

    def check_invariants(self) -> None:
        """Raise AssertionError when the machine contradicts itself."""
        self._table.check_invariants()
        self._state_updates.check_invariants()
        self._outgoing.broadcasts.check_invariants()
        self._failure_detector.check_invariants()
        self._streams.check_invariants()
        assert not self._state_updates.newcomers

    # Messages.

    def _handle_message(self, message: DatagramMessage, source: Address, now: float) -> None:
        match message:
            case Ping() | IndirectPing() if self._state_updates.is_refused(message.source):
                pass
            case Ping():
                self._failure_detector.handle_ping(message, source, now)
                self._timers.note_pinged(message, now)
            case IndirectPing():
                self._failure_detector.handle_indirect_ping(message, source, now)
            case Ack():
                self._failure_detector.handle_ack(message.sequence, now, source=source)
            case Nack():
                self._failure_detector.prober.nacked(message.sequence, source)
            case Alive():
                self._state_updates.alive(message, now, source=source)
            case Suspect():
                self._state_updates.suspect(message, now, source=source)
            case Dead():
                self._state_updates.dead(message, now, source=source)
            case UserMessage():
                self._counts["user_messages"] += 1

    # Activities.

    def _handling_frame(self, stream: GossipStream, frame: bytes) -> Slices[None]:
        """Process the whole message of a stream; then close the stream."""
        try:
            message = yield from parse_stream_untrusted(
                frame, limit_bytes=self._config.stream_limit_bytes, max_nodes=self._config.max_members
            )
        except WireError as error:
            self._refuse(error, stream.peer, self.now)
        else:
            yield from self._handling_stream_message(stream, message)
        self._close(stream, self.now)
        self._settle(self.now)

    def _handling_stream_message(self, stream: GossipStream, message: StreamMessage) -> Slices[None]:
        is_ours = stream.purpose is Purpose.ACCEPTED
        match message:
            case PushPull() if speaker := self._state_updates.refused_speaker(message.nodes, stream.peer):
                if is_ours:
                    self._streams.write(stream, encode(ErrorReply(self._refusals[speaker])))
            case PushPull():
                if is_ours:
                    yield from self._timers.write_members(stream, join=message.join)
                self._counts["push_pulls"] += 1
                for _ in self._state_updates.merge(message.nodes, lambda: self.now, peer=stream.peer):
                    self._apply_claims(self.now)
                    yield
            case Ping() if is_ours and message.node == self._table.own_id:
                self._streams.write(stream, encode(Ack(message.sequence)))
            case Ack() if stream.purpose is Purpose.PING:
                self._failure_detector.handle_ack(message.sequence, self.now, source=None)
            case UserMessage():
                self._counts["user_messages"] += 1
            case ErrorReply():
                self._counts["peer_errors"] += 1
                if not is_ours:
                    self._outgoing.event(RefusalHeard(stream.peer, message.text))
            case _:
                self._counts["refused_unexpected"] += 1

    def _close(self, stream: GossipStream, now: float, *, is_broken: bool = False) -> None:
        self._streams.close(stream.stream_id, is_broken=is_broken)
        if stream.purpose is Purpose.JOIN:
            self._reconnect.ended(stream.peer, now)

    # Follow-up work.

    def _settle(self, now: float) -> None:
        """Carry out, after every input, what the claims left to do, and dial what is due. The dialling costs in
        proportion to the number of members when some have changed, so it is skipped between two slices of a merge."""
        self._apply_claims(now)
        self._reconnect.dial_due(now)

    def _apply_claims(self, now: float) -> None:
        for node_id in self._state_updates.newcomers:
            if node_id != self._table.own_id:
                self._failure_detector.prober.order.add(node_id)
                self._timers.note_newcomer(node_id, now)
        self._state_updates.newcomers.clear()
        self._state_updates.address_changes.ask(self._failure_detector.prober.next_sequence)
        if self._state_updates.misinformed is not None:
            misinformed, self._state_updates.misinformed = self._state_updates.misinformed, None
            self._timers.push_pull_with(misinformed, now)

    def _reap(self, now: float) -> None:
        self._state_updates.reap(now)
        self._failure_detector.reap()
        self._timers.reap()

    def _refuse(self, error: WireError, source: Address, now: float) -> None:
        if not isinstance(error, SealError):
            self._counts["refused_malformed"] += 1
            return
        self._counts[f"refused_{error.reason.replace('-', '_')}"] += 1
        if self._unknown_sources.is_news(source[0], now):
            self._outgoing.event(UnknownSourceHeard(source, error.reason))
