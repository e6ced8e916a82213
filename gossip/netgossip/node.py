"""GossipNode: membership and replicated records as one machine, the only public one of this library.

`membership/swim.py` knows which members are alive, `records/replication.py` keeps records. Neither imports the other;
this file owns both, allocates the numbers of streams, routes streams by channel, and passes on members and addresses:

    MemberChanged, MemberReaped (swim)  ->  set_peer (replication)

Callers see only the application's part of a member's meta (codec/meta.py).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Mapping, Sequence

from netgossip.codec.meta import record_address, restored, shown, wrap_meta
from netgossip.codec.sealing import Keyring
from netgossip.config import GossipConfig
from netgossip.membership.swim import Swim
from netgossip.records.accepted_streams import JoinHandler
from netgossip.records.replication import Replication
from netgossip.types import (
    Address,
    Channel,
    Datagram,
    Entry,
    Event,
    Log,
    Member,
    MemberChanged,
    MemberReaped,
    MemberState,
    NodeId,
    NodeOutput,
    RequestReceived,
    Scope,
    StreamClose,
    StreamCommand,
    StreamId,
    Version,
)


class GossipNode:
    """One node of the cluster. See types.py for how to drive the machine: feed it, drain it, keep its deadline.

    `address` is where others reach our gossip port, `record_port` the port of records on the same IP. `meta` (at most
    400 bytes) is shown to all. `incarnation` and `boot_epoch` are the application's persisted counters; `boot_epoch`
    must be raised at each start. `label` is the cluster's id. `rng` must be `random.SystemRandom` outside of tests.
    `remembered` are members as `MemberChanged` last reported them, dialled like `seeds` until they answer. `departed`
    are members that were reaped before, each with its last incarnation, above which it may come back. `own_logs` and
    `replicas` are what `EntriesChanged` reported before the restart. Raises GossipUsageError for invalid arguments.
    """

    def __init__(
        self,
        *,
        config: GossipConfig,
        node_id: NodeId,
        address: Address,
        record_port: int,
        meta: bytes,
        incarnation: int,
        boot_epoch: int,
        keyring: Keyring,
        label: bytes,
        rng: random.Random,
        now: float,
        remembered: Sequence[Member] = (),
        departed: Sequence[tuple[NodeId, int]] = (),
        seeds: Sequence[Address] = (),
        own_logs: Sequence[Log] = (),
        replicas: Sequence[Log] = (),
        join_handler: JoinHandler | None = None,
    ) -> None:
        self.node_id = node_id
        self._record_port = record_port
        self._stream_ids = itertools.count(1)
        self._channels: dict[StreamId, Channel] = {}
        self._datagrams: list[Datagram] = []
        self._commands: list[StreamCommand] = []
        self._events: list[Event] = []
        self._now = now
        self._is_swims_turn = True
        """Which of the two continues first when both have pending work: a flood of one must not starve the other."""
        self._swim = Swim(
            config=config,
            node_id=node_id,
            address=address,
            meta=wrap_meta(record_port, meta),
            incarnation=incarnation,
            keyring=keyring,
            label=label,
            rng=rng,
            now=now,
            new_stream_id=lambda: self._new_stream(Channel.GOSSIP),
            remembered=[restored(member, record_port) for member in remembered],
            departed=departed,
            seeds=seeds,
        )
        self._replication = Replication(
            config=config,
            node_id=node_id,
            boot_epoch=boot_epoch,
            keyring=keyring,
            cluster_label=label,
            rng=rng,
            now=now,
            new_stream_id=lambda: self._new_stream(Channel.RECORD),
            own_logs=own_logs,
            replicas=replicas,
            join_handler=join_handler,
            expect_peers=bool(remembered or seeds),
        )
        for member in self._swim.members().values():
            self._introduce(member, now)
        self._pass_on(now)

    def _new_stream(self, channel: Channel) -> StreamId:
        stream_id = next(self._stream_ids)
        self._channels[stream_id] = channel
        return stream_id

    # Inputs

    def handle_datagram(self, channel: Channel, payload: bytes, source: Address, now: float) -> None:
        """Handle a UDP payload that came to one of our ports."""
        if channel is Channel.GOSSIP:
            self._swim.handle_datagram(payload, source, now)
        else:
            self._replication.handle_datagram(payload, source, now)
        self._pass_on(now)

    def accept_stream(self, channel: Channel, peer: Address, now: float) -> StreamId:
        """Register a stream that a peer opened to one of our ports. Returns the stream's number."""
        stream_id = self._new_stream(channel)
        if channel is Channel.GOSSIP:
            self._swim.accept_stream(stream_id, peer, now)
        else:
            self._replication.accept_stream(stream_id, peer, now)
        self._pass_on(now)
        return stream_id

    def handle_stream_data(self, stream_id: StreamId, data: bytes, now: float) -> None:
        """Handle bytes of a stream, split at any position."""
        match self._channels.get(stream_id):
            case Channel.GOSSIP:
                self._swim.handle_stream_data(stream_id, data, now)
            case Channel.RECORD:
                self._replication.handle_stream_data(stream_id, data, now)
        self._pass_on(now)

    def handle_stream_end(self, stream_id: StreamId, now: float, error: str | None) -> None:
        """Handle the end of a stream: the peer half-closed (error None), or it broke or could not be dialled."""
        match self._channels.pop(stream_id, None):
            case Channel.GOSSIP:
                self._swim.handle_stream_end(stream_id, now, error)
            case Channel.RECORD:
                self._replication.handle_stream_end(stream_id, now, error)
        self._pass_on(now)

    def handle_deadline(self, now: float) -> None:
        """Do what is due; early and repeated calls do nothing."""
        self._swim.handle_deadline(now)
        self._replication.handle_deadline(now)
        self._pass_on(now)

    @property
    def has_pending_work(self) -> bool:
        """True while some work is too long for one call: call `run_step`, and let other tasks run in between."""
        return self._swim.has_pending_work or self._replication.has_pending_work

    def run_step(self) -> None:
        """Do another millisecond of the pending work."""
        is_swims = self._swim.has_pending_work and (
            self._is_swims_turn or not self._replication.has_pending_work
        )
        self._is_swims_turn = not is_swims
        if is_swims:
            self._swim.run_step()
            self._pass_on(self._now)
        else:
            self._replication.run_step()

    def next_deadline(self) -> float:
        """When to call `handle_deadline`; ask again after every other call."""
        return min(self._swim.next_deadline(), self._replication.next_deadline())

    def drain(self) -> NodeOutput:
        """Return everything that the driver must do now; a second call returns nothing."""
        output = self._replication.drain()
        for command in output.streams:
            self._take_command(command)
        datagrams = (*self._datagrams, *output.datagrams)
        events = (*self._events, *output.events)
        commands = tuple(self._commands)
        self._datagrams, self._commands, self._events = [], [], []
        return NodeOutput(datagrams, commands, events)

    def _pass_on(self, now: float) -> None:
        """Tell replication what the membership found out."""
        self._now = now
        output = self._swim.drain()
        self._datagrams += output.datagrams
        for command in output.streams:
            self._take_command(command)
        for event in output.events:
            match event:
                case MemberChanged(member, previous):
                    self._introduce(member, now)
                    self._events.append(MemberChanged(shown(member), previous))
                case MemberReaped(node_id):
                    self._replication.set_peer(node_id, None, now, live=False)
                    self._events.append(event)
                case _:
                    self._events.append(event)

    def _take_command(self, command: StreamCommand) -> None:
        if isinstance(command, StreamClose):
            self._channels.pop(command.stream_id, None)
        self._commands.append(command)

    def _introduce(self, member: Member, now: float) -> None:
        if member.node_id == self.node_id:
            return
        self._replication.set_peer(
            member.node_id,
            record_address(member),
            now,
            live=member.state in (MemberState.ALIVE, MemberState.SUSPECT),
            suspect=member.state is MemberState.SUSPECT,
        )

    # Membership

    def set_meta(self, meta: bytes, now: float) -> None:
        """Show another meta to all, at most 400 bytes. Raises GossipUsageError."""
        self._swim.set_meta(wrap_meta(self._record_port, meta), now)
        self._pass_on(now)

    def set_address(self, address: Address, now: float) -> None:
        """Announce that others reach us at this address from now on."""
        self._swim.set_address(address, now)
        self._pass_on(now)

    def set_seeds(self, seeds: Sequence[Address], now: float) -> None:
        """Dial these gossip addresses for ever, with backoff, while no member has them."""
        self._swim.set_seeds(seeds, now)
        self._pass_on(now)

    def leave(self, now: float) -> None:
        """Tell the others that we leave for good. Keep running until `has_left`."""
        self._swim.leave(now)
        self._pass_on(now)

    def has_left(self, now: float) -> bool:
        """True once enough others know that we leave, or the time for it is over."""
        return self._swim.has_left(now)

    def forget(self, node_id: NodeId, now: float) -> None:
        """Remove a member that is dead or has left; a live one stays. For its logs see `drop_owner`."""
        self._swim.forget(node_id, now)
        self._pass_on(now)

    def probe_soon(self, node_id: NodeId, now: float) -> None:
        """Probe this member next: the application has a reason to doubt that it is alive. Costs few extra probes, if
        any."""
        self._swim.probe_soon(node_id, now)

    def note_lag(self, lag_s: float, now: float) -> None:
        """Report that our own event loop was late by `lag_s`: we then doubt ourselves before others."""
        self._swim.note_lag(lag_s, now)
        self._pass_on(now)

    def members(self) -> Mapping[NodeId, Member]:
        """All known nodes, ourselves among them, with the application's part of their meta."""
        return {node_id: shown(member) for node_id, member in self._swim.members().items()}

    def member(self, node_id: NodeId) -> Member | None:
        """Return one of `members()`, at less cost."""
        member = self._swim.members().get(node_id)
        return None if member is None else shown(member)

    @property
    def incarnation(self) -> int:
        """Our own incarnation; persist it and pass it to the next start."""
        return self._swim.incarnation

    def rtt_s(self, node_id: NodeId) -> float | None:
        """Round trip of the last successful probe of a member."""
        return self._swim.rtt_s(node_id)

    def record_address(self, node_id: NodeId) -> Address | None:
        """The address at which a member takes records; None if it takes none or is not known."""
        member = self._swim.members().get(node_id)
        return None if member is None else record_address(member)

    # Records: see Replication for each.

    def set_scope_members(self, scope: Scope, node_ids: frozenset[NodeId], now: float) -> None:
        """Set which nodes take part in a scope; in the cluster's scope all do."""
        self._replication.set_scope_members(scope, node_ids, now)

    def enter_scope(self, scope: Scope, now: float) -> None:
        """Hold others' logs of the scope from now on. ScopeSynced follows, once the scope's members are set
        as well."""
        self._replication.enter_scope(scope, now)

    def exit_scope(self, scope: Scope, now: float) -> None:
        """Drop others' logs of the scope; our own stays and is replicated as before."""
        self._replication.exit_scope(scope, now)

    def drop_owner(self, node_id: NodeId, scopes: Iterable[Scope] | None, now: float) -> None:
        """Drop an owner's logs, in some scopes or (None) in all. Copies that others hold don't come back."""
        self._replication.drop_owner(node_id, scopes, now)

    def readmit_owner(self, node_id: NodeId) -> None:
        """Let copies of an owner's dropped logs come back, because it was dropped by mistake."""
        self._replication.readmit_owner(node_id)

    def scopes_of(self, node_id: NodeId) -> frozenset[Scope]:
        """The scopes in which we hold a log of the owner."""
        return self._replication.scopes_of(node_id)

    def prepare(self, changes: Sequence[tuple[Scope, bytes, bytes | None]]) -> tuple[Entry, ...]:
        """Assign the next versions to (scope, key, value or None) changes. Changes no state. Raises
        GossipUsageError."""
        return self._replication.prepare(changes)

    def commit(self, entries: tuple[Entry, ...], now: float) -> None:
        """Apply what `prepare` returned, once it is on disk. Raises GossipUsageError."""
        self._replication.commit(entries, now)

    def rewrites(
        self, now: float, may_rewrite: Callable[[Scope, bytes], bool]
    ) -> tuple[tuple[Scope, bytes, bytes], ...]:
        """Return rewrites of unchanged entries that let many tombstones be dropped from logs of ours that are quiet.
        Call this now and then, and publish them like other changes. At most one per log, of a key that `may_rewrite`
        allows."""
        return self._replication.rewrites(now, may_rewrite)

    def own_scopes(self) -> frozenset[Scope]:
        """The scopes in which we have a log of our own."""
        return self._replication.own_scopes()

    def is_only_reported(self, scope: Scope) -> bool:
        """True for a log of ours in which we never wrote: it exists only because a peer reported that it
        holds one."""
        return self._replication.is_only_reported(scope)

    def drop_own_log(self, scope: Scope) -> None:
        """Drop our own log of a scope that was left and that no node enters again. Raises GossipUsageError."""
        self._replication.drop_own_log(scope)

    def head(self, scope: Scope) -> int:
        """Sequence of our last change in the scope."""
        return self._replication.head(scope)

    def unacknowledged(self, scope: Scope) -> frozenset[NodeId]:
        """Live peers in the scope that lack our head, or whose own head we lack."""
        return self._replication.unacknowledged(scope)

    def catch_up(self, scope: Scope, now: float) -> None:
        """Begin to find out what live peers hold of the scope, by any owner, and this node does not; see `ahead`."""
        self._replication.catch_up(scope, now)

    def ahead(self, scope: Scope) -> frozenset[NodeId]:
        """Live peers of which we don't know yet whether we hold all that they held when we began to `catch_up`."""
        return self._replication.ahead(scope)

    def caught_up(self, scope: Scope) -> None:
        """Stop tracking `ahead`."""
        self._replication.caught_up(scope)

    def own_log(self, scope: Scope) -> Log | None:
        """A copy of our log; None if there was never a change."""
        return self._replication.own_log(scope)

    def outline(self, scope: Scope) -> dict[NodeId, tuple[Version, int]]:
        """The version and number of entries of every log of the scope, without copying any."""
        return self._replication.outline(scope)

    def log(self, scope: Scope, owner: NodeId) -> Log | None:
        """A copy of one log; None when we do not hold it."""
        return self._replication.log(scope, owner)

    def logs(self, scope: Scope) -> tuple[Log, ...]:
        """Copies of all logs of the scope, ours among them."""
        return self._replication.logs(scope)

    def request(self, peer: NodeId, payload: bytes, now: float, timeout_s: float) -> int:
        """Send a request to a peer (at most 1,000 bytes). ResponseReceived follows in any case. Raises
        GossipUsageError."""
        return self._replication.request(peer, payload, now, timeout_s)

    def respond(self, event: RequestReceived, payload: bytes, now: float) -> None:
        """Answer a request, at most 1,000 bytes. Raises GossipUsageError."""
        self._replication.respond(event, payload, now)

    # Both.

    def statistics(self) -> dict[str, int | float]:
        """Counters since the start and present sizes, `gossip_…` and `record_…`."""
        return {
            **{f"gossip_{name}": value for name, value in self._swim.statistics().items()},
            **{f"record_{name}": value for name, value in self._replication.statistics().items()},
        }

    def check_invariants(self) -> None:
        """Raise AssertionError if the state contradicts itself."""
        self._swim.check_invariants()
        self._replication.check_invariants()
