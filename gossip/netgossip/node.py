"""GossipNode: membership and replicated records as one machine, the only public one of this library.

Feed and drain the node; give commands to its two parts, and ask them:

    membership    which members are alive             membership/swim.py
    records       logs of records, and requests       records/replication.py

Neither part imports the other. The node allocates the numbers of streams, routes streams by channel, and passes on
members and addresses, each time that it is drained:

    MemberChanged, MemberReaped (membership)  ->  set_peer (records)

The membership keeps each member's meta as it is on the wire. The node wraps and unwraps the application's part of it
(codec/meta.py).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Final

from netgossip.codec.meta import record_address, restored, shown, wrap_meta
from netgossip.codec.sealing import Keyring
from netgossip.config import GossipConfig
from netgossip.errors import GossipUsageError
from netgossip.join.identity import Identity
from netgossip.membership.swim import Swim
from netgossip.records.accepted_streams import JoinHandler
from netgossip.records.replication import Replication
from netgossip.types import (
    Address,
    Channel,
    Event,
    History,
    Member,
    MemberChanged,
    MemberReaped,
    MemberState,
    NodeId,
    NodeOutput,
    StreamClose,
    StreamId,
)

NEW_NODE: Final = History()
REFUSAL_CHARS: Final = 512


class GossipNode:
    """One node of the cluster. See types.py for how to drive the machine: feed it, drain it, keep its deadline.

    `address` is where others reach our gossip port, `record_port` the port of records on the same IP. `meta` (at most
    400 bytes) is shown to all. `label` is the cluster's id. `identity` signs our records and what we say about
    ourselves, and then only that is believed of those that have signed once; None, for simulations: nothing is signed
    or checked. `rng` must be `random.SystemRandom` outside of tests. `history` is what was persisted of earlier runs;
    its members are dialled like `seeds` until they answer. Raises GossipUsageError for invalid arguments.
    """

    def __init__(
        self,
        *,
        config: GossipConfig,
        node_id: NodeId,
        address: Address,
        record_port: int,
        meta: bytes,
        history: History = NEW_NODE,
        keyring: Keyring,
        label: bytes,
        identity: Identity | None,
        rng: random.Random,
        now: float,
        seeds: Sequence[Address] = (),
        join_handler: JoinHandler | None = None,
    ) -> None:
        if identity is not None and identity.node_id != node_id:
            raise GossipUsageError(f"the key is that of {identity.node_id}, not of {node_id}")
        self.node_id = node_id
        self._record_port = record_port
        self._stream_ids = itertools.count(1)
        self._channels: dict[StreamId, Channel] = {}
        self._is_memberships_turn = True
        """Which part continues first when both have pending work: a flood of one must not starve the other."""
        self.membership = Swim(
            config=config,
            node_id=node_id,
            address=address,
            meta=wrap_meta(record_port, meta),
            incarnation=history.incarnation,
            keyring=keyring,
            label=label,
            rng=rng,
            now=now,
            new_stream_id=lambda: self._new_stream(Channel.GOSSIP),
            identity=identity,
            signers=history.claim_signers,
            remembered=[restored(member, record_port) for member in history.members],
            departed=history.departed,
            seeds=seeds,
        )
        self.records = Replication(
            config=config,
            node_id=node_id,
            boot_epoch=history.boot_epoch,
            keyring=keyring,
            cluster_label=label,
            identity=identity,
            rng=rng,
            now=now,
            new_stream_id=lambda: self._new_stream(Channel.RECORD),
            own_logs=history.own_logs,
            replicas=history.replicas,
            signers=history.signers,
            session_speakers=history.session_speakers,
            join_handler=join_handler,
            expect_peers=bool(history.members or seeds),
        )
        for member in self.membership.members().values():
            self._introduce(member)

    def _new_stream(self, channel: Channel) -> StreamId:
        stream_id = next(self._stream_ids)
        self._channels[stream_id] = channel
        return stream_id

    def _part(self, channel: Channel) -> Swim | Replication:
        return self.membership if channel is Channel.GOSSIP else self.records

    # Inputs

    def handle_datagram(self, channel: Channel, payload: bytes, source: Address, now: float) -> None:
        """Handle a UDP payload that came to one of our ports."""
        self._part(channel).handle_datagram(payload, source, now)

    def accept_stream(self, channel: Channel, peer: Address, now: float) -> StreamId:
        """Register a stream that a peer opened to one of our ports. Returns the stream's number."""
        stream_id = self._new_stream(channel)
        self._part(channel).accept_stream(stream_id, peer, now)
        return stream_id

    def handle_stream_data(self, stream_id: StreamId, data: bytes, now: float) -> None:
        """Handle bytes of a stream, split at any position."""
        if (channel := self._channels.get(stream_id)) is not None:
            self._part(channel).handle_stream_data(stream_id, data, now)

    def handle_stream_end(self, stream_id: StreamId, now: float, error: str | None) -> None:
        """Handle the end of a stream: the peer half-closed (error None), or it broke or could not be dialled."""
        if (channel := self._channels.pop(stream_id, None)) is not None:
            self._part(channel).handle_stream_end(stream_id, now, error)

    def handle_deadline(self, now: float) -> None:
        """Do what is due; early and repeated calls do nothing."""
        self.membership.handle_deadline(now)
        self.records.handle_deadline(now)

    @property
    def has_pending_work(self) -> bool:
        """True while some work is too long for one call: call `run_step`, and let other tasks run in between."""
        return self.membership.has_pending_work or self.records.has_pending_work

    def run_step(self) -> None:
        """Do another millisecond of the pending work."""
        is_memberships = self.membership.has_pending_work and (
            self._is_memberships_turn or not self.records.has_pending_work
        )
        self._is_memberships_turn = not is_memberships
        (self.membership if is_memberships else self.records).run_step()

    def next_deadline(self) -> float:
        """When to call `handle_deadline`; drain the node, then ask again, after every other call."""
        return min(self.membership.next_deadline(), self.records.next_deadline())

    def drain(self) -> NodeOutput:
        """Return everything that the driver must do now; a second call returns nothing."""
        of_members = self.membership.drain()
        events = tuple(map(self._pass_on, of_members.events))
        of_records = self.records.drain()  # second: a member that came or moved makes it send
        streams = (*of_members.streams, *of_records.streams)
        for command in streams:
            if isinstance(command, StreamClose):
                self._channels.pop(command.stream_id, None)
        return NodeOutput(
            (*of_members.datagrams, *of_records.datagrams), streams, (*events, *of_records.events)
        )

    def _pass_on(self, event: Event) -> Event:
        """Tell the records what the membership found out. Return the event for the application."""
        match event:
            case MemberChanged(member, previous):
                self._introduce(member)
                return MemberChanged(shown(member), previous)
            case MemberReaped(node_id):
                self.records.set_peer(node_id, None, self.membership.now, live=False)
        return event

    def _introduce(self, member: Member) -> None:
        if member.node_id != self.node_id:
            self.records.set_peer(
                member.node_id,
                record_address(member),
                self.membership.now,
                live=member.state in (MemberState.ALIVE, MemberState.SUSPECT),
                suspect=member.state is MemberState.SUSPECT,
            )

    # Nodes that are refused

    def refuse_peer(self, node_id: NodeId, text: str, now: float) -> None:
        """Remove a node from the members, end the session with it, and refuse whatever it sends or others say of it
        until `readmit_peer`. `text` (at most 512 characters) is the answer to its push/pulls: RefusalHeard there."""
        if node_id == self.node_id or len(text) > REFUSAL_CHARS:
            raise GossipUsageError("a node does not refuse itself, and says why in 512 characters")
        self.membership.refuse(node_id, text, now)
        self.records.refuse_peer(node_id, now)

    def require_proofs(self, *, required: bool, now: float) -> None:
        """Believe no node without proofs, of its membership as of its records; or again those that have never shown
        any: nodes of earlier releases, and plain memberlists."""
        self.membership.require_proofs(required=required, now=now)
        self.records.require_proofs(required=required)

    def readmit_peer(self, node_id: NodeId) -> None:
        """Refuse a node no longer."""
        self.membership.readmit(node_id)
        self.records.readmit_peer(node_id)

    # The application's part of the members' meta

    def set_meta(self, meta: bytes, now: float) -> None:
        """Show another meta to all, at most 400 bytes. Raises GossipUsageError."""
        self.membership.set_meta(wrap_meta(self._record_port, meta), now)

    def members(self) -> Mapping[NodeId, Member]:
        """All known nodes, ourselves among them, with the application's part of their meta."""
        return {node_id: shown(member) for node_id, member in self.membership.members().items()}

    # Both parts

    def statistics(self) -> dict[str, int | float]:
        """Counters since the start and present sizes, `gossip_…` and `record_…`."""
        return {
            **{f"gossip_{name}": value for name, value in self.membership.statistics().items()},
            **{f"record_{name}": value for name, value in self.records.statistics().items()},
        }

    def check_invariants(self) -> None:
        """Raise AssertionError if the state contradicts itself."""
        self.membership.check_invariants()
        self.records.check_invariants()
