"""One host of a simulated cluster: its disk, and its node while that runs. The cluster is in testing.py."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from netgossip.codec.sealing import Keyring
from netgossip.node import GossipNode
from netgossip.records.accepted_streams import JoinHandler
from netgossip.types import (
    CLUSTER_SCOPE,
    Address,
    Channel,
    EntriesChanged,
    Entry,
    Event,
    Log,
    Member,
    MemberChanged,
    MemberReaped,
    MemberState,
    NodeId,
    Scope,
)

if TYPE_CHECKING:
    from netgossip.testing import SimCluster

PORTS: Final = {Channel.GOSSIP: 7956, Channel.RECORD: 7957}
PIECE_S: Final = 0.001
"""Virtual time between two pieces of long work, in which other things happen."""
PAUSED_S: Final = 0.1
"""Virtual time until a paused host is looked at again."""
KEPT_DATAGRAMS: Final = 256
"""That the kernel keeps for a process that does not read: some 200 KiB, Linux's default. Further ones are dropped."""
CHECK_EVERY: Final = 64
"""Inputs of a host between two looks at its invariants."""


@dataclass(slots=True)
class Disk:
    """What a host keeps over a crash."""

    boot_epoch: int = 0
    incarnation: int = 1
    logs: dict[tuple[Scope, NodeId], Log] = field(default_factory=dict)
    members: dict[NodeId, Member] = field(default_factory=dict)

    def note(self, event: EntriesChanged) -> None:
        """Do what an application's journal does with the event."""
        log = self.logs.get((event.scope, event.owner))
        entries = dict(log.entries) if log is not None and not event.replaced else {}
        entries.update({entry.key: entry for entry in event.entries})
        kept = {
            key: entry
            for key, entry in entries.items()
            if entry.value is not None or entry.version.sequence > event.collected
        }
        self.logs[event.scope, event.owner] = Log(
            event.scope, event.owner, event.epoch, event.head, event.collected, kept
        )


class SimHost:
    """One host: its disk, and its node while that runs."""

    def __init__(self, cluster: SimCluster, name: str, ip: str, seeds: tuple[Address, ...]) -> None:
        self.name = name
        self.ip = ip
        self.node_id: NodeId = sha256(name.encode()).hexdigest()[:32]
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
        """What came to the kernel's sockets while the process stood still."""
        self._unread_datagrams = 0
        self._cluster = cluster
        self._lives = 0
        """Starts, also from a backup, which does not count them: no life has the random numbers of another."""
        self._wake_at = float("inf")
        self._inputs = 0
        self._is_planned = False
        """Another piece of what the node is behind with."""

    @property
    def running(self) -> GossipNode:
        """The node; an error if the host is down."""
        assert self.node is not None, f"{self.name} is down"
        return self.node

    @property
    def paused(self) -> bool:
        """The process stands still (SIGSTOP): it reads nothing, answers nothing and misses its deadlines. The kernel
        goes on: it takes connections, and keeps what comes until the process reads it."""
        return self._is_paused

    @paused.setter
    def paused(self, value: bool) -> None:
        self._is_paused = value
        if not value:
            self._read()

    def receive(self, action: Callable[[], None], *, is_datagram: bool) -> None:
        """Something comes to a socket: the node reads it now, or once it is no longer paused."""
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
        """End the node's life at once. What it had not read is lost, and who sent it on a stream hears of that."""
        self.node = None
        self.paused = False

    def start(self) -> None:
        """Begin a new life from the disk."""
        cluster = self._cluster
        self._is_planned = False
        self._lives += 1
        self.disk.boot_epoch += 1
        logs = self.disk.logs.values()
        self.node = GossipNode(
            config=cluster.config,
            node_id=self.node_id,
            address=(self.ip, PORTS[Channel.GOSSIP]),
            record_port=PORTS[Channel.RECORD],
            meta=self.name.encode(),
            incarnation=self.disk.incarnation,
            boot_epoch=self.disk.boot_epoch,
            keyring=Keyring([cluster.ring_key]),
            label=cluster.label,
            rng=random.Random(f"{cluster.seed} {self.name} {self._lives}"),
            now=cluster.now,
            remembered=[m for m in self.disk.members.values() if m.node_id != self.node_id],
            seeds=self.seeds,
            own_logs=[log for log in logs if log.owner == self.node_id],
            replicas=[log for log in logs if log.owner != self.node_id],
            join_handler=self.join_handler,
        )
        for scope in sorted(self.scopes):
            self.node.enter_scope(scope, cluster.now)
        self.flush()

    @contextmanager
    def commanding(self) -> Iterator[GossipNode]:
        """The node, for commands; what they cause is carried out at the end."""
        yield self.running
        self.flush()

    def put(self, scope: Scope, key: bytes, value: bytes | None) -> tuple[Entry, ...]:
        """Change (None: delete) one of the host's own records: prepare, journal, commit."""
        with self.commanding() as node:
            entries = node.prepare([(scope, key, value)])
            node.commit(entries, self._cluster.now)
        return entries

    def enter(self, scope: Scope) -> None:
        """Take part in a scope from now on, also in later lives."""
        self.scopes.add(scope)
        with self.commanding() as node:
            node.enter_scope(scope, self._cluster.now)

    def records(self, scope: Scope = CLUSTER_SCOPE) -> dict[tuple[NodeId, bytes], bytes]:
        """(owner, key) -> value of everything that the node holds in a scope and is not deleted."""
        return {
            (log.owner, key): entry.value
            for log in self.running.logs(scope)
            for key, entry in log.entries.items()
            if entry.value is not None
        }

    def state_of(self, other: SimHost) -> MemberState | None:
        """What this host holds of another; None when it never heard of it."""
        member = self.running.member(other.node_id)
        return None if member is None else member.state

    def flush(self) -> None:
        """Carry out what the node wants done, and plan its next deadline."""
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
        self.disk.incarnation = node.incarnation
        self._inputs += 1
        if self._inputs % CHECK_EVERY == 0:
            node.check_invariants()
        if node.has_pending_work and not self._is_planned:
            self._is_planned = True
            cluster.at(cluster.now + PIECE_S, lambda: self._go_on(node))
        deadline = max(node.next_deadline(), cluster.now)
        if deadline != self._wake_at and deadline != float("inf"):
            self._wake_at = deadline
            cluster.at(deadline, lambda: self._wake(deadline, node))

    def _go_on(self, node: GossipNode) -> None:
        if self.node is not node:
            return  # another life has plans of its own
        if self.paused:
            self._cluster.at(self._cluster.now + PAUSED_S, lambda: self._go_on(node))
            return
        self._is_planned = False
        node.run_step()
        self.flush()

    def _wake(self, deadline: float, node: GossipNode) -> None:
        if self.node is node and self._wake_at == deadline:
            self._wake_at = float("inf")
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
            case MemberReaped(node_id):
                self.disk.members.pop(node_id, None)
        if self.on_event is not None:
            self.on_event(event)
