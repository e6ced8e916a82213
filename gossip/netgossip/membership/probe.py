"""The rules of probing: which member is probed when, and what an answer or a silence means.

One member is probed per interval, in an order that is shuffled anew whenever it ends; so every member is probed
within two rounds, and all nodes together probe a dead one within a second whatever their number. A probe goes through
its phases by time alone:

    sent ........ +probe_timeout: ask k helpers to try, and try by TCP
         ........ +probe_interval * (score + 1) + grace: failed

Helpers that could not reach the target either say so (nack). When all of them do, the target is at fault; each that
is silent counts against our own health. In memberlist a helper sends its nack after probe_timeout and the prober's
deadline is the same instant, so on every real death healthy probers lose health (measured: 2 ms late). Our helpers
send it at 0.8 of that, and our probers wait 50 ms longer.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from netgossip.config import GossipConfig
from netgossip.deadlines import NEVER
from netgossip.types import Address, NodeId, StreamId

NACK_GRACE_S = 0.05
"""Nacks of stock memberlist nodes arrive 2 to 6 ms after the deadline on a LAN."""
NACK_PART = 0.8
"""A helper reports silence after this part of the probe timeout, so that its nack arrives in time."""
RELAYS_LIMIT = 256
"""Bound of pings in flight on behalf of other members; beyond it: further ones are not sent; the requester has other
helpers."""
PREFERRED_LIMIT = 256
"""Bound of members to probe out of turn; beyond it: further ones are probed in their turn."""


@dataclass(slots=True)
class Probe:
    """The one probe in flight."""

    sequence: int
    target: NodeId
    sent_at: float
    escalate_at: float
    deadline: float
    escalated: bool = False
    helpers: int = 0
    """How many of the asked helpers know how to nack."""
    nacks: set[Address] = field(default_factory=set)
    stream: StreamId | None = None

    def health_delta(self) -> int:
        """What a failure of this probe says about our own health."""
        return self.helpers - min(len(self.nacks), self.helpers) if self.helpers else 1


@dataclass(slots=True)
class Relay:
    """A ping on behalf of another member."""

    requester: Address
    requester_sequence: int
    nack_at: float | None
    expires_at: float


class RoundRobin:
    """Yields the wanted members one after the other, in an order that is shuffled anew each round.

    A preferred member comes first, but not twice in a row unless the hint was right (the caller then resets
    `was_preferred`): wrong hints must not keep other members from being probed.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._order: list[NodeId] = []
        self._queued: set[NodeId] = set()
        self._preferred: dict[NodeId, None] = {}  # in order
        self.was_preferred = False
        """Whether the last one taken came out of turn."""

    def prefer(self, node_id: NodeId) -> None:
        """Take this one out of turn."""
        if len(self._preferred) < PREFERRED_LIMIT:
            self._preferred[node_id] = None

    def add(self, node_id: NodeId) -> None:
        """Insert a new member at a random place in the rest of this round, so that not all nodes probe it at the same
        time."""
        if node_id not in self._queued:
            self._queued.add(node_id)
            self._order.insert(self._rng.randint(0, len(self._order)), node_id)

    def take(
        self,
        candidates: Callable[[], Iterable[NodeId]],
        wanted: Callable[[NodeId], bool],
        *,
        preferable: Callable[[NodeId], bool] | None = None,
    ) -> NodeId | None:
        """Return the next one that is still `wanted`; a round that ends begins anew with all `candidates`.

        A preferred member comes out of turn only while it is still `preferable`; without `preferable`, while it is
        wanted.
        """
        while self._preferred and not self.was_preferred:
            node_id = next(iter(self._preferred))
            del self._preferred[node_id]
            if (preferable or wanted)(node_id):
                self.was_preferred = True
                return node_id
        self.was_preferred = False
        for _ in range(2):
            while self._order:
                node_id = self._order.pop()
                self._queued.discard(node_id)
                if wanted(node_id):
                    return node_id
            self._order = list(candidates())
            self._queued = set(self._order)
            self._rng.shuffle(self._order)
        return None


class Prober:
    """Sequence numbers, the probe in flight, and probes for others. An answer counts only for a probe in flight."""

    def __init__(self, config: GossipConfig, rng: random.Random) -> None:
        self._config = config
        # A random start: an answer recorded before a restart does not match afterwards.
        self._sequence = rng.getrandbits(32)
        self.order = RoundRobin(rng)
        self.current: Probe | None = None
        self.relays: dict[int, Relay] = {}

    def next_sequence(self) -> int:
        """Return a number that no ping in flight has."""
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        return self._sequence

    def begin(self, target: NodeId, *, patience_s: float, now: float) -> Probe:
        """Start probing `target`; `patience_s` is the interval stretched by our own health."""
        assert self.current is None
        self.current = Probe(
            self.next_sequence(),
            target,
            now,
            now + self._config.probe_timeout_s,
            now + max(patience_s, self._config.probe_timeout_s) + NACK_GRACE_S,
        )
        return self.current

    def acked(self, sequence: int) -> Probe | None:
        """Return the probe that this ack ends, if it is the one in flight."""
        probe = self.current
        if probe is None or probe.sequence != sequence:
            return None
        self.current = None
        return probe

    def nacked(self, sequence: int, helper: Address) -> None:
        """Note that a helper heard nothing either."""
        if self.current is not None and self.current.sequence == sequence and self.current.escalated:
            self.current.nacks.add(helper)

    def failed(self) -> Probe:
        """End the probe in flight, whose deadline has passed."""
        probe = self.current
        assert probe is not None
        self.current = None
        return probe

    def relay(
        self, requester: Address, requester_sequence: int, *, wants_nack: bool, now: float
    ) -> int | None:
        """Return the sequence for a ping on behalf of `requester`; None when too many are in flight."""
        if len(self.relays) >= RELAYS_LIMIT:
            return None
        sequence = self.next_sequence()
        timeout_s = self._config.probe_timeout_s
        nack_at = now + NACK_PART * timeout_s if wants_nack else None
        # An ack that is later than its nack is still worth passing on: the prober waits longer than we do.
        self.relays[sequence] = Relay(requester, requester_sequence, nack_at, now + 2 * timeout_s)
        return sequence

    def nacks_due(self, now: float) -> list[Relay]:
        """Return the relays whose requester must now get a nack, each once; drop those that expired."""
        for sequence in [s for s, relay in self.relays.items() if now >= relay.expires_at]:
            del self.relays[sequence]
        due = [relay for relay in self.relays.values() if relay.nack_at is not None and now >= relay.nack_at]
        for relay in due:
            relay.nack_at = None
        return due

    def postpone(self, delay_s: float) -> None:
        """Give the target `delay_s` more, because we did not listen for that long."""
        if self.current is not None:
            self.current.escalate_at += delay_s
            self.current.deadline += delay_s

    def next_deadline(self) -> float:
        """When the probe in flight or a relay needs attention."""
        deadline = NEVER
        if self.current is not None:
            deadline = self.current.deadline if self.current.escalated else self.current.escalate_at
        for relay in self.relays.values():
            deadline = min(deadline, relay.expires_at if relay.nack_at is None else relay.nack_at)
        return deadline
