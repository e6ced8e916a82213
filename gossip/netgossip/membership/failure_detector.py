"""The failure detector: pings and acks, helpers, streams, and what an outcome means for member states and local
health.

The rules of the probe itself are in probe.py; this file connects them to the table of members and the network.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Final

from netgossip.codec.messages import Ack, DatagramMessage, IndirectPing, Nack, Ping, Suspect, encode
from netgossip.config import GossipConfig
from netgossip.membership.awareness import Awareness
from netgossip.membership.members import MemberTable, is_live
from netgossip.membership.outgoing import Outgoing
from netgossip.membership.probe import Probe, Prober
from netgossip.membership.state_updates import StateUpdates
from netgossip.membership.streams import Purpose, StreamTable
from netgossip.types import Address, Member, MemberState, NodeId

KNOWS_STREAM_PING: Final = 3
KNOWS_NACK: Final = 4
"""Protocol versions from which a node has the feature; its own highest is the second byte of its vsn."""
MISSES: Final = 4
"""So many answers in a row that came by a detour say that datagrams get lost; fewer may have been lost by chance."""


class FailureDetector:
    """Probes one member at a time, and answers the probes of others. `rtt_s` is from each member's last direct
    answer."""

    def __init__(
        self,
        *,
        config: GossipConfig,
        rng: random.Random,
        table: MemberTable,
        state_updates: StateUpdates,
        outgoing: Outgoing,
        streams: StreamTable,
        awareness: Awareness,
        counts: Counter[str],
    ) -> None:
        self._config = config
        self._rng = rng
        self._table = table
        self._state_updates = state_updates
        self._outgoing = outgoing
        self._streams = streams
        self._awareness = awareness
        self._counts = counts
        self.prober = Prober(config, rng)
        self.rtt_s: dict[NodeId, float] = {}
        self._misses: dict[NodeId, int] = {}
        """Member -> how many of its answers in a row came by a detour: over a stream, or to another member."""
        self._last_detour: tuple[int, Address, NodeId] | None = None
        """Sequence and target of the last probe that ended so."""

    def handle_ping(self, ping: Ping, source: Address, now: float) -> None:
        """Answer a ping; a sender that we hold dead or left is accused, so that it can refute."""
        if ping.node != self._table.own_id:
            self._counts["refused_not_for_us"] += 1
            return
        destination = ping.reply_to or source
        self._outgoing.send(destination, Ack(ping.sequence))
        prober = None if ping.source is None else self._table.get(ping.source)
        if prober is not None and not is_live(prober):
            self._state_updates.accuse(prober, destination, now)

    def handle_indirect_ping(self, request: IndirectPing, source: Address, now: float) -> None:
        """Ping a node on behalf of another member."""
        sequence = self.prober.relay(
            request.reply_to or source, request.sequence, wants_nack=request.wants_nack, now=now
        )
        if sequence is None:
            self._counts["refused_relay"] += 1
        else:
            self._outgoing.send(request.target, self._ping(sequence, request.node))

    def handle_ack(self, sequence: int, now: float, *, source: Address | None) -> None:
        """Handle an ack of one of our pings: a probe, one for another member, or the check of an address. `source` is
        None if it came over a stream."""
        if (probe := self.prober.acked(sequence)) is not None:
            self._awareness.apply(-1)
            self._state_updates.heard_from(probe.target)
            if not probe.escalated:
                self.rtt_s[probe.target] = now - probe.sent_at
            self._note_way(probe, source)
            self._end_stream(probe)
        elif self._last_detour is not None and self._last_detour[:2] == (sequence, source):
            # The datagram was slower than the detour, not lost.
            self._misses.pop(self._last_detour[2], None)
        elif (relay := self.prober.relays.pop(sequence, None)) is not None:
            self._outgoing.send(relay.requester, Ack(relay.requester_sequence))
        elif not self._state_updates.address_changes.refuse(sequence, now):
            self._counts["late_acks"] += 1

    def _note_way(self, probe: Probe, source: Address | None) -> None:
        """Note whether the target's own datagram ended a probe."""
        target = self._table.get(probe.target)
        self._last_detour = None
        if target is None or not probe.escalated or source == target.address:
            self._misses.pop(probe.target, None)
        else:
            self._misses[probe.target] = self._misses.get(probe.target, 0) + 1
            self._last_detour = probe.sequence, target.address, probe.target

    def lacks_datagrams(self, node_id: NodeId) -> bool:
        """True if a member answers our probes, but only over streams or to other members."""
        return self._misses.get(node_id, 0) >= MISSES

    def _ping(self, sequence: int, node_id: NodeId) -> Ping:
        own = self._table.own
        return Ping(sequence, node_id, own.node_id, own.address)

    def begin(self, now: float) -> None:
        """Probe the next member, unless a probe is in flight."""
        if self.prober.current is not None or self._state_updates.is_leaving:
            return
        get = self._table.get
        target_id = self.prober.order.take(
            self._table.live_others,
            self._table.is_live,
            # Where many die at once, a probe out of turn is better spent on a member that is not suspected yet.
            preferable=lambda node_id: (
                (member := get(node_id)) is not None and member.state is MemberState.ALIVE
            ),
        )
        if target_id is None:
            return
        target = self._table.view[target_id]
        patience_s = self._awareness.stretched_s(self._config.probe_interval_s)
        probe = self.prober.begin(target_id, patience_s=patience_s, now=now)
        messages: list[DatagramMessage] = [self._ping(probe.sequence, target_id)]
        if target.state is MemberState.SUSPECT:
            # Lifeguard's third part: the prober tells the suspected member, which can then refute at once.
            messages.append(Suspect(target_id, target.incarnation, self._table.own_id))
        self._counts["probes"] += 1
        self._outgoing.send(target.address, *messages)

    def handle_deadline(self, now: float) -> None:
        """Send nacks for the relays without an answer; take our own probe to its next phase."""
        for relay in self.prober.nacks_due(now):
            self._outgoing.send(relay.requester, Nack(relay.requester_sequence))
        probe = self.prober.current
        if probe is None:
            return
        target = self._table.get(probe.target)
        if target is None or not is_live(target):
            self._end_stream(self.prober.failed())
        elif now >= probe.deadline:
            self._fail_probe(self.prober.failed(), target, now)
        elif now >= probe.escalate_at and not probe.escalated:
            self._escalate(probe, target, now)

    def _escalate(self, probe: Probe, target: Member, now: float) -> None:
        probe.escalated = True
        candidates = [m for m in self._table.others(MemberState.ALIVE) if m.node_id != target.node_id]
        own = self._table.own
        for helper in self._rng.sample(candidates, min(self._config.indirect_checks, len(candidates))):
            knows_nack = helper.vsn[1] >= KNOWS_NACK
            probe.helpers += knows_nack
            request = IndirectPing(
                probe.sequence, target.node_id, target.address, knows_nack, own.node_id, own.address
            )
            self._outgoing.send(helper.address, request)
        if target.vsn[1] >= KNOWS_STREAM_PING:
            message = encode(Ping(probe.sequence, target.node_id))
            probe.stream = self._streams.dial(
                target.address, Purpose.PING, message, timeout_s=probe.deadline - now, now=now
            )

    def _fail_probe(self, probe: Probe, target: Member, now: float) -> None:
        self._counts["probes_failed"] += 1
        self.prober.order.was_preferred = (
            False  # it came out of turn with good reason: the next one may as well
        )
        self._awareness.apply(probe.health_delta())
        self._end_stream(probe)
        self._state_updates.suspect(Suspect(target.node_id, target.incarnation, self._table.own_id), now)

    def _end_stream(self, probe: Probe) -> None:
        if probe.stream is not None:
            self._streams.close(probe.stream)

    def abandon(self) -> None:
        """Stop probing: accuse no member any more."""
        if self.prober.current is not None:
            self._end_stream(self.prober.failed())

    def reap(self) -> None:
        """Drop the measurements of members that were removed."""
        self.rtt_s = {n: rtt for n, rtt in self.rtt_s.items() if n in self._table}
        self._misses = {n: count for n, count in self._misses.items() if n in self._table}

    def check_invariants(self) -> None:
        """Assert that we never probe ourselves."""
        probe = self.prober.current
        assert probe is None or probe.target != self._table.own_id
