"""What a node sends to others unasked, each on its own timer.

gossip      while broadcasts wait: to a few random members per gossip interval
push/pull   everything, with one random live member, over a stream: now and then, and soon after a start or a move
reconnect   the same with a dead member, for ever: so a healed partition is found
"""

from __future__ import annotations

import math
import random
from typing import Final

from netgossip.codec.messages import Ping, encode_node, encode_push_pull
from netgossip.config import GossipConfig
from netgossip.deadlines import NEVER
from netgossip.membership.members import MemberTable, is_live
from netgossip.membership.outgoing import Outgoing
from netgossip.membership.probe import RoundRobin
from netgossip.membership.state_updates import StateUpdates
from netgossip.membership.streams import GossipStream, Purpose, StreamTable
from netgossip.slices import MEMBERS_PER_SLICE, Slices, WorkQueue
from netgossip.types import Address, Member, MemberState, NodeId

_SCALE_FROM_MEMBERS: Final = 32
"""memberlist's pushPullScaleThreshold."""
_BELIEVED: Final = 2.0
"""Probe timeouts until others believe a new address: one to check the old one, and one for the claim to spread."""


class Timers:
    """The three timers. A node that is leaving dials no more; its broadcasts continue, its own leave among them."""

    def __init__(
        self,
        *,
        config: GossipConfig,
        rng: random.Random,
        now: float,
        table: MemberTable,
        state_updates: StateUpdates,
        outgoing: Outgoing,
        streams: StreamTable,
        works: WorkQueue,
    ) -> None:
        self._config = config
        self._rng = rng
        self._table = table
        self._state_updates = state_updates
        self._outgoing = outgoing
        self._streams = streams
        self._works = works
        self._order = RoundRobin(rng)
        self._encoded: dict[NodeId, tuple[Member, bytes]] = {}
        self._gossip_at = now
        self._push_pull_at = now + rng.uniform(0, config.push_pull_interval_s)
        self._reconnect_at = now + rng.uniform(0, config.reconnect_interval_s)
        self._corrected_at = now
        self._soon_at = NEVER
        self.push_pull_soon(now)

    def handle_deadline(self, now: float) -> None:
        """Start a push/pull and a reconnect, if they are due."""
        if now >= self._push_pull_at:
            self._push_pull_at = now + self._push_pull_interval_s() * self._rng.uniform(0.9, 1.1)
            self._push_pull_with_random(now)
        if now >= self._soon_at:
            self._soon_at = NEVER
            self._push_pull_with_random(now)
        if now >= self._reconnect_at:
            self._reconnect_at = now + self._config.reconnect_interval_s * self._rng.uniform(0.9, 1.1)
            self._reconnect_to_random(now)

    def next_deadline(self) -> float:
        """When the next timer is due."""
        gossip_at = self._gossip_at if self._outgoing.broadcasts else NEVER
        return min(self._push_pull_at, self._soon_at, self._reconnect_at, gossip_at)

    def note_newcomer(self, node_id: NodeId, now: float) -> None:
        """Note that a member became live; it gets broadcasts from now on."""
        self._order.add(node_id)
        if self._gossip_at == NEVER:
            self._gossip_at = now  # until now there was no member to send to

    def push_pull_soon(self, now: float) -> None:
        """Schedule a push/pull, because our address is new, or may be: until others have found the old one silent
        they send broadcasts there, and what is spread in that time never reaches us."""
        self._soon_at = now + _BELIEVED * self._config.probe_timeout_s

    def hurry(self, now: float) -> None:
        """Gossip at the next opportunity."""
        self._gossip_at = now

    def gossip(self, now: float) -> None:
        """If it is due, send to the next few live members of a shuffled round, so that a broadcast's sends reach as
        many as they can; and to one of those that died recently, which may be alive and must learn what is claimed
        about it."""
        if not self._outgoing.broadcasts or now < self._gossip_at:
            return
        live = self._table.live - (not self._state_updates.is_leaving)
        for _ in range(min(self._config.gossip_nodes, live)):
            target_id = self._order.take(self._table.live_others, self._table.is_live)
            if target_id is not None:
                self._outgoing.send(self._table.view[target_id].address)
        recent = now - self._config.gossip_to_the_dead_s
        dead = [
            m for m in self._table.others(MemberState.DEAD) if self._table.changed_at(m.node_id) >= recent
        ]
        if dead:
            self._outgoing.send(self._rng.choice(dead).address, is_live=False)
        self._gossip_at = now + self._config.gossip_interval_s if live or dead else NEVER

    def _push_pull_interval_s(self) -> float:
        live = self._table.live
        if live <= _SCALE_FROM_MEMBERS:
            return self._config.push_pull_interval_s
        factor = math.ceil(math.log2(live) - math.log2(_SCALE_FROM_MEMBERS)) + 1
        return self._config.push_pull_interval_s * factor

    def _push_pull_with_random(self, now: float) -> None:
        peers = self._table.others(MemberState.ALIVE)
        if peers and not self._state_updates.is_leaving:
            self.dial(self._rng.choice(peers).address, Purpose.PUSH_PULL, now)

    def _reconnect_to_random(self, now: float) -> None:
        """Dial a dead member, so often that each is dialled by about one member per interval whatever their number;
        three more are added to the odds so that small clusters heal at once."""
        dead = self._table.others(MemberState.DEAD)
        if (
            dead
            and not self._state_updates.is_leaving
            and self._rng.random() * self._table.live < len(dead) + 3
        ):
            self.dial(self._rng.choice(dead).address, Purpose.PUSH_PULL, now)

    def note_pinged(self, ping: Ping, now: float) -> None:
        """Start a push/pull with a member that we don't know, or that pings us from another address than we hold,
        once per probe interval. It knows us, so no other member will tell us of it: while one of us was away the
        other came or moved, and each may lack more of the other's changes."""
        if ping.source is None or ping.reply_to is None or self._state_updates.is_leaving:
            return
        member = self._table.get(ping.source)
        # Dead and left members are accused instead (failure_detector.py); their answer carries their address.
        if member is not None and (not is_live(member) or member.address == ping.reply_to):
            return
        self.push_pull_with(ping.reply_to, now)

    def push_pull_with(self, address: Address, now: float) -> None:
        """Start a push/pull with a member that holds something false, at most once per probe interval."""
        if now >= self._corrected_at and not self._state_updates.is_leaving:
            self._corrected_at = now + self._config.probe_interval_s
            self.dial(address, Purpose.PUSH_PULL, now)

    def dial(self, address: Address, purpose: Purpose, now: float) -> None:
        """Begin a push/pull."""
        stream = self._streams.open(address, purpose, timeout_s=self._config.stream_timeout_s, now=now)
        self._works.begin(self.write_members(stream, join=purpose is Purpose.JOIN))

    def write_members(self, stream: GossipStream, *, join: bool) -> Slices[None]:
        """Write every member on a stream, in slices; each as it is when its turn comes. The encodings are cached:
        encoding 10,000 members anew each time would take 10 ms."""
        nodes = []
        for number, node_id in enumerate(tuple(self._table.view), 1):
            member = self._table.get(node_id)
            if member is not None:  # not removed meanwhile
                known = self._encoded.get(node_id)
                if known is None or known[0] is not member:
                    known = self._encoded[node_id] = (member, encode_node(member))
                nodes.append(known[1])
            if number % MEMBERS_PER_SLICE == 0:
                yield
        self._streams.write(stream, encode_push_pull(nodes, join=join))

    def reap(self) -> None:
        """Drop the encodings of members that were removed."""
        self._encoded = {n: known for n, known in self._encoded.items() if n in self._table}
