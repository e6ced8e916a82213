"""SimCluster: whole clusters of GossipNode under virtual time, on a network that loses, delays and cuts.

The nodes are the production code and send the same bytes. A seed determines the run: `log` is the same each time. An
hour of a quiet cluster of three takes seconds.

    cluster = SimCluster(seed=1, nodes=3)
    cluster.run_until(cluster.converged, timeout_s=30)
    cluster["n1"].put(CLUSTER_SCOPE, b"key", b"value")
    cluster.cut({"n1"}, {"n2", "n3"})
    cluster.run_for(60)
    cluster.heal()

A host has a disk: what a real application would have journalled survives `crash` and `restart`. Datagrams are lost at
rate `loss`; streams lose nothing, but break when they are cut for longer than STREAM_PATIENCE_S. A host that is
`paused` reads nothing until it resumes; its kernel accepts connections meanwhile, and keeps what comes.
"""

from __future__ import annotations

import copy
import heapq
import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from netgossip.codec.sealing import Keyring
from netgossip.config import GossipConfig
from netgossip.deadlines import NEVER
from netgossip.join.identity import Identity
from netgossip.node import GossipNode
from netgossip.records.accepted_streams import JoinHandler
from netgossip.types import (
    CLUSTER_SCOPE,
    Address,
    Channel,
    ClaimSignerHeard,
    EntriesChanged,
    Entry,
    Event,
    History,
    Log,
    Member,
    MemberChanged,
    MemberReaped,
    MemberState,
    NodeId,
    Scope,
    SessionSpeakerHeard,
    StreamClose,
    StreamCommand,
    StreamId,
    StreamOpen,
    StreamSend,
)

PORTS: Final = {Channel.GOSSIP: 7956, Channel.RECORD: 7957}
SLICE_S: Final = 0.001
"""Virtual time between two slices of long work, in which other things happen."""
PAUSED_S: Final = 0.1
"""Virtual time until a paused host is checked again."""
KEPT_DATAGRAMS: Final = 256
"""Datagrams that the kernel keeps for a process that does not read: about 200 KiB, Linux's default. Further ones are
dropped."""
CHECK_EVERY: Final = 64
"""Inputs of a host between two checks of its invariants."""


@dataclass(slots=True)
class Disk:
    """The state of a host that survives a crash."""

    boot_epoch: int = 0
    incarnation: int = 1
    logs: dict[tuple[Scope, NodeId], Log] = field(default_factory=dict)
    members: dict[NodeId, Member] = field(default_factory=dict)
    signers: set[NodeId] = field(default_factory=set)
    claim_signers: set[NodeId] = field(default_factory=set)
    session_speakers: set[NodeId] = field(default_factory=set)

    def note(self, event: EntriesChanged) -> None:
        """Record the event as an application's journal would."""
        log = self.logs.get((event.scope, event.owner))
        entries = dict(log.entries) if log is not None and not event.replaced else {}
        entries.update({entry.key: entry for entry in event.entries})
        kept = {
            key: entry
            for key, entry in entries.items()
            if entry.value is not None or entry.version.sequence > event.collected
        }
        self.logs[event.scope, event.owner] = Log(
            event.scope, event.owner, event.epoch, event.head, event.collected, kept, event.proof
        )
        if event.proof:
            self.signers.add(event.owner)


class SimHost:
    """One host: its disk, and its node while it runs."""

    def __init__(self, cluster: SimCluster, name: str, ip: str, seeds: tuple[Address, ...]) -> None:
        self.name = name
        self.ip = ip
        self.identity = Identity(sha256(name.encode()).digest()) if cluster.signs else None
        """None from the next start on: it runs a release that signs no records and checks no proofs."""
        self.node_id: NodeId = (
            sha256(name.encode()).hexdigest()[:32] if self.identity is None else self.identity.node_id
        )
        self.seeds = seeds
        self.disk = Disk()
        self.node: GossipNode | None = None
        self.scopes: set[Scope] = set()
        self.events: list[Event] = []
        self.on_event: Callable[[Event], None] | None = None
        """An application: may command the node; its commands are carried out in the same instant."""
        self.join_handler: JoinHandler | None = None
        self._is_paused = False
        self._unread: list[Callable[[], None]] = []
        """Data that the kernel's sockets received while the process was paused."""
        self._unread_datagrams = 0
        self._cluster = cluster
        self._starts = 0
        """Starts, also from a backup, which does not restore this count: each start has its own random numbers."""
        self._wake_at = NEVER
        self._inputs = 0
        self._is_planned = False
        """Another slice of the node's pending work is scheduled."""

    @property
    def running(self) -> GossipNode:
        """The node; an error if the host is down."""
        assert self.node is not None, f"{self.name} is down"
        return self.node

    @property
    def paused(self) -> bool:
        """True while the process is stopped (SIGSTOP): it reads nothing, answers nothing and misses its deadlines.
        The kernel continues: it accepts connections, and keeps what comes until the process reads it."""
        return self._is_paused

    @paused.setter
    def paused(self, value: bool) -> None:
        self._is_paused = value
        if not value:
            self._read()

    def receive(self, action: Callable[[], None], *, is_datagram: bool) -> None:
        """Deliver something to a socket: the node reads it now, or once it is no longer paused."""
        if not self._is_paused:
            action()
        elif not is_datagram:
            self._unread.append(action)
        elif self._unread_datagrams < KEPT_DATAGRAMS:
            self._unread_datagrams += 1
            self._unread.append(action)

    def _read(self) -> None:
        unread, self._unread, self._unread_datagrams = self._unread, [], 0
        for action in unread:
            action()

    def stop(self) -> None:
        """End the node at once. What it had not read is lost, and the senders of unread stream data see the stream
        break."""
        self.node = None
        self.paused = False

    def start(self) -> None:
        """Start a new node from the disk."""
        cluster = self._cluster
        self._is_planned = False
        self._starts += 1
        self.disk.boot_epoch += 1
        logs = self.disk.logs.values()
        self.node = GossipNode(
            config=cluster.config,
            node_id=self.node_id,
            address=(self.ip, PORTS[Channel.GOSSIP]),
            record_port=PORTS[Channel.RECORD],
            meta=self.name.encode(),
            history=History(
                incarnation=self.disk.incarnation,
                boot_epoch=self.disk.boot_epoch,
                members=[m for m in self.disk.members.values() if m.node_id != self.node_id],
                own_logs=[log for log in logs if log.owner == self.node_id],
                replicas=[log for log in logs if log.owner != self.node_id],
                signers=sorted(self.disk.signers),
                claim_signers=sorted(self.disk.claim_signers),
                session_speakers=sorted(self.disk.session_speakers),
            ),
            keyring=Keyring([cluster.ring_key]),
            label=cluster.label,
            identity=self.identity,
            rng=random.Random(f"{cluster.seed} {self.name} {self._starts}"),
            now=cluster.now,
            seeds=self.seeds,
            join_handler=self.join_handler,
        )
        for scope in sorted(self.scopes):
            self.node.records.enter_scope(scope, cluster.now)
        self.flush()

    @contextmanager
    def commanding(self) -> Iterator[GossipNode]:
        """The node, for commands; their output is carried out at the end."""
        yield self.running
        self.flush()

    def put(self, scope: Scope, key: bytes, value: bytes | None) -> tuple[Entry, ...]:
        """Change (None: delete) one of the host's own records: prepare, journal, commit."""
        with self.commanding() as node:
            entries = node.records.prepare([(scope, key, value)])
            node.records.commit(entries, self._cluster.now)
        return entries

    def enter(self, scope: Scope) -> None:
        """Take part in a scope from now on, also after restarts."""
        self.scopes.add(scope)
        with self.commanding() as node:
            node.records.enter_scope(scope, self._cluster.now)

    def records(self, scope: Scope = CLUSTER_SCOPE) -> dict[tuple[NodeId, bytes], bytes]:
        """(owner, key) -> value of everything that the node holds in a scope and is not deleted."""
        return {
            (log.owner, key): entry.value
            for log in self.running.records.logs(scope)
            for key, entry in log.entries.items()
            if entry.value is not None
        }

    def state_of(self, other: SimHost) -> MemberState | None:
        """The state in which this host holds another; None when it does not know it."""
        member = self.running.membership.members().get(other.node_id)
        return None if member is None else member.state

    def flush(self) -> None:
        """Carry out what the node wants done, and schedule its next deadline."""
        node, cluster = self.running, self._cluster
        while True:
            output = node.drain()
            if not (output.datagrams or output.streams or output.events):
                break
            for datagram in output.datagrams:
                cluster.send(self, datagram.channel, datagram.destination, datagram.payload)
            for command in output.streams:
                cluster.obey(self, command)
            for event in output.events:
                self._take(event)
        self.disk.incarnation = node.membership.incarnation
        self._inputs += 1
        if self._inputs % CHECK_EVERY == 0:
            node.check_invariants()
        if node.has_pending_work and not self._is_planned:
            self._is_planned = True
            cluster.at(cluster.now + SLICE_S, lambda: self._run_step(node))
        deadline = max(node.next_deadline(), cluster.now)
        if deadline not in (self._wake_at, NEVER):
            self._wake_at = deadline
            cluster.at(deadline, lambda: self._wake(deadline, node))

    def _run_step(self, node: GossipNode) -> None:
        if self.node is not node:
            return  # a node started later has its own schedule
        if self.paused:
            self._cluster.at(self._cluster.now + PAUSED_S, lambda: self._run_step(node))
            return
        self._is_planned = False
        node.run_step()
        self.flush()

    def _wake(self, deadline: float, node: GossipNode) -> None:
        if self.node is node and self._wake_at == deadline:
            self._wake_at = NEVER
            if self.paused:
                self._wake_at = self._cluster.now + PAUSED_S
                again = self._wake_at
                self._cluster.at(again, lambda: self._wake(again, node))
                return
            node.handle_deadline(self._cluster.now)
            self.flush()

    def _take(self, event: Event) -> None:
        self.events.append(event)
        self._cluster.log.append(f"{self._cluster.now:.6f} {self.name} {event}")
        match event:
            case EntriesChanged():
                self.disk.note(event)
            case MemberChanged(member, _):
                self.disk.members[member.node_id] = member
            case ClaimSignerHeard(node_id):
                self.disk.claim_signers.add(node_id)
            case SessionSpeakerHeard(node_id):
                self.disk.session_speakers.add(node_id)
            case MemberReaped(node_id):
                self.disk.members.pop(node_id, None)
        if self.on_event is not None:
            self.on_event(event)


STREAM_PATIENCE_S: Final = 5.0
"""A stream whose bytes don't get through for this long breaks on both sides."""
RING_KEY: Final = b"simulated key of 32 bytes length"
LABEL: Final = b"simulated cluster"


@dataclass(slots=True)
class _End:
    """One side of a stream."""

    host: SimHost
    node: GossipNode
    stream_id: StreamId | None
    arrives_at: float = 0.0
    """When the last data sent to this side arrives; later data does not arrive before."""
    open: bool = True
    stalled: bool = False
    """Data sent to this side did not get through: nothing after it does, until the stream breaks."""
    other: _End | None = None


class SimCluster:
    """Hosts, their network and the clock. `latency_s` is the least and the most that a datagram takes. `signs`: hosts
    have identities, sign their records and check others'."""

    def __init__(
        self,
        *,
        seed: int,
        nodes: int = 0,
        config: GossipConfig | None = None,
        loss: float = 0.0,
        latency_s: tuple[float, float] = (0.000_2, 0.001),
        ring_key: bytes = RING_KEY,
        label: bytes = LABEL,
        signs: bool = False,
    ) -> None:
        self.seed = seed
        self.config = config if config is not None else GossipConfig.local()
        self.loss = loss
        self.latency_s = latency_s
        self.ring_key = ring_key
        self.label = label
        self.signs = signs
        self.now = 1000.0
        self.log: list[str] = []
        self.datagrams_sent = 0
        self.bytes_sent = 0
        """Payload of datagrams and streams, without headers."""
        self.hosts: dict[str, SimHost] = {}
        self._by_ip: dict[str, SimHost] = {}
        self._rng = random.Random(f"{seed} network")
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._cuts: set[tuple[str, str]] = set()
        self._ends: dict[tuple[str, int, StreamId], _End] = {}
        for number in range(1, nodes + 1):
            self.add(f"n{number}")

    def __getitem__(self, name: str) -> SimHost:
        return self.hosts[name]

    def add(self, name: str, *, seeds: Iterable[str] | None = None) -> SimHost:
        """Start another host; it knows the first one, or the given ones."""
        number = len(self.hosts) + 1
        ip = f"198.18.{number // 250}.{number % 250 + 1}"
        known = list(self.hosts)[:1] if seeds is None else list(seeds)
        addresses = tuple((self.hosts[other].ip, PORTS[Channel.GOSSIP]) for other in known)
        host = SimHost(self, name, ip, addresses)
        self.hosts[name] = self._by_ip[ip] = host
        host.start()
        return host

    # Faults.

    def crash(self, name: str) -> None:
        """Kill the host's node at once; its disk stays."""
        self.hosts[name].stop()

    def restart(self, name: str, *, disk: Disk | None = None) -> None:
        """Start the host's node again, from another disk if one is given (a backup)."""
        host = self.hosts[name]
        host.stop()
        if disk is not None:
            host.disk = disk
        host.start()

    def move(self, name: str, ip: str) -> None:
        """Give the host this address in place of its former one. A running node is not informed: use
        `set_address`."""
        host = self.hosts[name]
        if self._by_ip.get(host.ip) is host:
            del self._by_ip[host.ip]
        host.ip = ip
        self._by_ip[ip] = host

    def backup(self, name: str) -> Disk:
        """A copy of the host's disk as it is now."""
        return copy.deepcopy(self.hosts[name].disk)

    def cut(self, one: Iterable[str], other: Iterable[str], *, one_way: bool = False) -> None:
        """Let nothing pass from `one` to `other`, nor back unless `one_way`."""
        for a, b in itertools.product(one, other):
            self._cuts.add((a, b))
            if not one_way:
                self._cuts.add((b, a))

    def heal(self) -> None:
        """End all cuts."""
        self._cuts.clear()

    # Time.

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Run `action` at a point of virtual time; at the same point in order of calls."""
        heapq.heappush(self._queue, (when, next(self._order), action))

    def run_for(self, duration_s: float) -> None:
        """Let virtual time pass."""
        end = self.now + duration_s
        while self._queue and self._queue[0][0] <= end:
            self._step()
        self.now = end
        self.check_invariants()

    def run_until(self, condition: Callable[[], bool], timeout_s: float) -> float:
        """Let virtual time pass until the condition holds; return how long it took. Raises AssertionError."""
        start = self.now
        end = start + timeout_s
        while not condition():
            if not self._queue or self._queue[0][0] > end:
                raise AssertionError(
                    f"seed {self.seed}: the condition did not hold within {timeout_s} s of virtual time"
                )
            self._step()
        self.check_invariants()
        return self.now - start

    def _step(self) -> None:
        self.now, _, action = heapq.heappop(self._queue)
        action()

    # Conditions.

    def running(self) -> list[SimHost]:
        """The hosts that are up."""
        return [host for host in self.hosts.values() if host.node is not None]

    def converged(self) -> bool:
        """True when every running host sees all others that run as alive, and all hold the same records of the
        cluster's scope."""
        up = self.running()
        alive = all(a.state_of(b) is MemberState.ALIVE for a in up for b in up)
        return alive and self.same_records()

    def same_records(self, scope: Scope = CLUSTER_SCOPE) -> bool:
        """True when all running hosts (in the scope) hold the same records of it."""
        holders = [h for h in self.running() if scope == CLUSTER_SCOPE or scope in h.scopes]
        views = [host.records(scope) for host in holders]
        return all(view == views[0] for view in views)

    def check_invariants(self) -> None:
        """Check the invariants of every node."""
        for host in self.running():
            host.running.check_invariants()

    # The network.

    def _delay_s(self) -> float:
        return self._rng.uniform(*self.latency_s)

    def _passes(self, source: SimHost, target: SimHost) -> bool:
        return (source.name, target.name) not in self._cuts

    def send(self, source: SimHost, channel: Channel, destination: Address, payload: bytes) -> None:
        """Send one datagram, which may be lost."""
        self.datagrams_sent += 1
        self.bytes_sent += len(payload)
        target = self._by_ip.get(destination[0])
        if target is None or not self._passes(source, target) or self._rng.random() < self.loss:
            return

        def read() -> None:
            if target.node is not None:
                sender = (source.ip, PORTS[channel])
                target.node.handle_datagram(_channel_of(destination), payload, sender, self.now)
                target.flush()

        self.at(self.now + self._delay_s(), lambda: target.receive(read, is_datagram=True))

    def obey(self, host: SimHost, command: StreamCommand) -> None:
        """Carry out one stream command of a host's node."""
        if isinstance(command, StreamOpen):
            self._open(host, command)
            return
        end = self._ends.get((host.name, id(host.node), command.stream_id))
        if end is None or end.other is None:
            return
        match command:
            case StreamSend(_, data):
                self.bytes_sent += len(data)
                self._deliver(end.other, lambda to: to.node.handle_stream_data(_id(to), data, self.now))
            case StreamClose():
                end.open = False
                self._deliver(end.other, lambda to: to.node.handle_stream_end(_id(to), self.now, None))

    def _open(self, host: SimHost, command: StreamOpen) -> None:
        node = host.running
        target = self._by_ip.get(command.destination[0])
        near = _End(host, node, command.stream_id)
        self._ends[host.name, id(node), command.stream_id] = near
        if target is None or not (self._passes(host, target) and self._passes(target, host)):
            self.at(self.now + STREAM_PATIENCE_S, lambda: self._break(near, "timed out"))
            return
        if target.node is None:
            self.at(self.now + self._delay_s(), lambda: self._break(near, "connection refused"))
            return
        far = _End(target, target.node, None, other=near)
        near.other = far
        channel = _channel_of(command.destination)

        def accept(to: _End) -> None:
            to.stream_id = to.node.accept_stream(channel, (host.ip, 50_000), self.now)
            self._ends[target.name, id(to.node), to.stream_id] = to

        self._deliver(far, accept)

    def _deliver(self, end: _End, action: Callable[[_End], None]) -> None:
        """Run `action` at the other side, after everything sent to it before."""
        end.arrives_at = max(self.now + self._delay_s(), end.arrives_at)

        def arrive() -> None:
            assert end.other is not None
            if end.stalled:
                return
            if not self._passes(end.other.host, end.host):
                end.stalled = True
                self.at(self.now + STREAM_PATIENCE_S, lambda: self._break(end, "timed out"))
                other = end.other
                self.at(self.now + STREAM_PATIENCE_S, lambda: self._break(other, "timed out"))
            else:
                end.host.receive(read, is_datagram=False)

        def read() -> None:
            assert end.other is not None
            if end.host.node is not end.node:
                self._break(end.other, "connection reset")
            elif end.open:
                action(end)
                end.host.flush()

        self.at(end.arrives_at, arrive)

    def _break(self, end: _End, error: str) -> None:
        def read() -> None:
            if end.open and end.host.node is end.node and end.stream_id is not None:
                end.open = False
                end.node.handle_stream_end(end.stream_id, self.now, error)
                end.host.flush()

        end.host.receive(read, is_datagram=False)


def _id(end: _End) -> StreamId:
    assert end.stream_id is not None, "accepted before anything else arrives"
    return end.stream_id


def _channel_of(destination: Address) -> Channel:
    return Channel.GOSSIP if destination[1] == PORTS[Channel.GOSSIP] else Channel.RECORD
