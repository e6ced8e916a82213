# ruff: noqa: SLF001
"""What gossip costs in large clusters: deltas sent, and processor time, each compared with what is needed.

    python benchmarks/gossip_scale.py [push] [records] [newcomer] [start]

push      one change of a host with 10,000 peers: one delta per peer is needed
records   one change of 32 records of a host with 1,000 peers, which is longer than a datagram: over a stream to each
          peer, and in parts; then the same for 20 nodes with sockets on this machine, the kernel's time included
newcomer  a host that joins 300 others, each with a record: one delta per host is needed
start     100 hosts that start at once, each with a record: one delta per pair is needed

Counts are the same in each run. Processor times are this machine's, on which the simulated host runs alone.
"""

from __future__ import annotations

import itertools
import random
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from netgossip.codec.sealing import Keyring
from netgossip.config import GossipConfig
from netgossip.driver import Driver
from netgossip.node import GossipNode
from netgossip.records.frames import LAST, MORE, Opener, ReplayWindow, Sealer, parse_header_untrusted
from netgossip.records.parts import Assembly
from netgossip.records.replication import Replication
from netgossip.records.wire import (
    ASSEMBLED_BYTES,
    Delta,
    DeltaAck,
    Hello,
    Message,
    Part,
    Welcome,
    decode_untrusted,
    encode,
)
from netgossip.slices import at_once
from netgossip.sockets import open_sockets
from netgossip.testing import PORTS, SimCluster, SimHost
from netgossip.types import (
    CLUSTER_SCOPE,
    Address,
    Channel,
    NodeId,
    StreamCommand,
    StreamId,
    StreamOpen,
    StreamSend,
    Version,
)

PIECE_S = 0.001
"""Assumed length of one call of the owner, on the virtual clock."""
LABEL = b"benchmark"
OWNER = "0a" * 16


class Peers:
    """The peers of one node, which acknowledge what they get `rtt_s` later."""

    def __init__(self, count: int, rtt_s: float = 0.001, *, assembles: int = ASSEMBLED_BYTES) -> None:
        """`assembles`: what the peers announce; with 0, changes longer than a datagram go over streams."""
        self.assembles = assembles
        self.keyring = Keyring([bytes(32)])
        self.rtt_s = rtt_s
        self.now = 0.0
        self.deltas = 0
        self.entries = 0
        self.streams = 0
        self.datagrams = 0
        self.assembly = Assembly()
        self.dialled: dict[StreamId, NodeId] = {}
        self.read: dict[NodeId, bytearray] = {}
        """Bodies of frames on streams that are not complete."""
        self.node_ids: list[NodeId] = [f"{number:032x}" for number in range(1, count + 1)]
        self.by_address = {
            (f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", 7957): i for n, i in enumerate(self.node_ids)
        }
        self.sealers = {
            one: Sealer(node_id=one, epoch=1, keyring=self.keyring, label=LABEL) for one in self.node_ids
        }
        self.openers = {one: Opener(node_id=one, keyring=self.keyring, label=LABEL) for one in self.node_ids}
        for opener in self.openers.values():
            opener.know(OWNER)
        self.waiting: deque[tuple[float, NodeId, bytes]] = deque()
        self.owner = Replication(
            config=GossipConfig.lan(),
            node_id=OWNER,
            boot_epoch=1,
            keyring=self.keyring,
            cluster_label=LABEL,
            identity=None,
            rng=random.Random(1),
            now=0.0,
            new_stream_id=itertools.count(1).__next__,
        )
        self.cpu_s = 0.0
        self.longest_s = 0.0

    def meet(self) -> None:
        """Set the state after a long time together: all are proven to be alive, and hold all records of the owner."""
        owner = self.owner
        owner._anti_entropy.synced(CLUSTER_SCOPE)
        for address, node_id in self.by_address.items():
            owner.set_peer(node_id, address, 0.0, live=True)
            owner._transport._handshakes.forget(node_id)
            session = owner._transport._opener._senders[node_id]
            session.epoch, session.window = 1, ReplayWindow(0)
            owner._transport._peers[node_id].cutter.limit_bytes = self.assembles
            owner._anti_entropy.answered(CLUSTER_SCOPE, node_id)
        owner._anti_entropy._scopes.clear()
        self.commit((b"first", b"1"))
        self.run_until_quiet()
        self.deltas = self.entries = self.streams = self.datagrams = 0
        self.cpu_s = self.longest_s = 0.0

    def commit(self, *records: tuple[bytes, bytes]) -> None:
        """Make a change of the owner's records."""
        changes = [(CLUSTER_SCOPE, key, value) for key, value in records]
        self._call(lambda: self.owner.commit(self.owner.prepare(changes), self.now))

    def run_until_quiet(self) -> None:
        """Run until the owner knows that all have its records."""
        for _ in range(1_000_000):
            while self.waiting and self.waiting[0][0] <= self.now:
                _, _, frame = self.waiting.popleft()
                self._time(partial(self.owner.handle_datagram, frame, ("", 0), self.now))
            self._drain()
            is_due = self.owner.next_deadline() <= self.now
            if is_due:
                self._call(lambda: self.owner.handle_deadline(self.now))
            if self.owner.has_pending_work:
                self._call(self.owner.run_step)
            elif is_due:
                continue
            elif self.waiting:
                self.now = max(self.now, self.waiting[0][0])
            elif self.owner.unacknowledged(CLUSTER_SCOPE):
                self.now = max(self.now, self.owner.next_deadline())
            else:
                return
        raise AssertionError("it never becomes quiet")

    def _call(self, action: Callable[[], object]) -> None:
        self._time(action)
        self.now += PIECE_S
        self._drain()

    def _time(self, action: Callable[[], object]) -> None:
        began = time.process_time()
        action()
        took = time.process_time() - began
        self.cpu_s += took
        self.longest_s = max(self.longest_s, took)

    def _drain(self) -> None:
        began = time.process_time()
        output = self.owner.drain()
        self.cpu_s += time.process_time() - began
        self.datagrams += len(output.datagrams)
        for datagram in output.datagrams:
            node_id = self.by_address[datagram.destination]
            header = parse_header_untrusted(datagram.payload)
            body = self.openers[node_id].open_untrusted(header, datagram.payload).body
            self._take(node_id, body)
        for command in output.streams:
            self._obey(command)

    def _obey(self, command: StreamCommand) -> None:
        """Make a peer read everything on a stream, and close it after the last frame."""
        if isinstance(command, StreamOpen):
            self.streams += 1
            self.dialled[command.stream_id] = self.by_address[command.destination]
        elif isinstance(command, StreamSend):
            node_id = self.dialled[command.stream_id]
            header = parse_header_untrusted(command.data)
            opened = self.openers[node_id].open_untrusted(header, command.data, stream=True)
            body = self.read.setdefault(node_id, bytearray())
            body += opened.body
            if not header.flags & MORE:
                self._take(node_id, bytes(self.read.pop(node_id)))
            if header.flags & LAST:
                self._time(partial(self.owner.handle_stream_end, command.stream_id, self.now, None))

    def _take(self, node_id: NodeId, body: bytes) -> None:
        answers = []
        for message in at_once(decode_untrusted(body)):
            answers += self._answer(node_id, message)
        if answers:
            frame = self.sealers[node_id].seal(OWNER, b"".join(at_once(encode(one)) for one in answers))
            self.waiting.append((self.now + self.rtt_s, node_id, frame))

    def _answer(self, node_id: NodeId, message: Message) -> list[Message]:
        match message:
            case Hello(nonce):
                return [Welcome(nonce, self.assembles)]
            case Part():
                whole = self.assembly.add(node_id, 1, message, self.now)
                return [] if whole is None else self._answer(node_id, *at_once(decode_untrusted(whole)))
            case Delta(scope=scope, epoch=epoch, head=head, entries=entries):
                self.deltas += 1
                self.entries += len(entries)
                return [DeltaAck(scope, True, Version(epoch, head), Version(0, 0))]
        return []


def push(count: int = 10_000) -> Peers:
    """Send one change to all."""
    peers = Peers(count)
    peers.meet()
    peers.commit((b"key", b"value"))
    peers.run_until_quiet()
    return peers


def records(count: int = 1_000, *, assembles: int = ASSEMBLED_BYTES, changed: int = 32) -> Peers:
    """Send one change of many records to all, as when all containers of a host are detached or attached."""
    peers = Peers(count, assembles=assembles)
    peers.meet()
    peers.commit(*_endpoints(changed))
    peers.run_until_quiet()
    return peers


def _endpoints(count: int) -> list[tuple[bytes, bytes]]:
    """Return records of the size of endpoints, each different."""
    rng = random.Random(1)
    return [(b"endpoint %d" % number, rng.randbytes(150)) for number in range(count)]


class SocketNode:
    """A node with a driver and sockets of its own, at an address of this machine's loopback."""

    def __init__(self, number: int, first: SocketNode | None, assembles: int) -> None:
        address = f"127.77.{number >> 8}.{number & 255}"
        self.sockets = open_sockets(address, PORTS[Channel.GOSSIP], PORTS[Channel.RECORD])
        seeds = [] if first is None else [first.address]
        self.address: Address = (address, PORTS[Channel.GOSSIP])
        self.node = GossipNode(
            config=GossipConfig.lan(),
            node_id=f"{number:032x}",
            address=self.address,
            record_port=PORTS[Channel.RECORD],
            meta=b"",
            keyring=Keyring([bytes(32)]),
            label=LABEL,
            identity=None,
            rng=random.SystemRandom(),
            now=trio.current_time(),
            seeds=seeds,
        )
        self.node.records._transport._assembles = assembles
        self.driver = Driver(
            self.node,
            self.sockets,
            on_events=lambda _: None,
        )

    def commit(self, changes: list[tuple[bytes, bytes]]) -> None:
        """Make one change of the node's own records."""
        entries = self.node.records.prepare([(CLUSTER_SCOPE, key, value) for key, value in changes])
        self.node.records.commit(entries, trio.current_time())
        self.driver.flush_nowait()

    def counted(self, name: str) -> int:
        """Return one of its statistics."""
        return int(self.node.statistics().get(f"record_{name}", 0))


@dataclass(frozen=True, slots=True)
class ChangeCost:
    """What a change costs with sockets: all nodes together, the kernel's time for them included."""

    datagrams: float
    streams: float
    seconds: float
    cpu_s: float


async def by_sockets(count: int = 20, *, assembles: int = ASSEMBLED_BYTES, times: int = 10) -> ChangeCost:
    """Send `times` changes of 32 records to `count` other nodes; each cost is that of one change."""
    first = SocketNode(1, None, assembles)
    nodes = [first, *(SocketNode(number, first, assembles) for number in range(2, count + 2))]
    async with trio.open_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(node.driver.run)
        with trio.fail_after(60):
            while any(len(node.node.members()) <= count for node in nodes):
                await trio.sleep(0.1)
            first.commit([(b"first", b"1")])
            while first.node.records.unacknowledged(CLUSTER_SCOPE):
                await trio.sleep(0.01)
        await trio.sleep(3)  # for broadcasts and anti-entropy of the start
        before = [sum(node.counted(name) for node in nodes) for name in ("datagrams_sent", "streams_dialled")]
        spent = waited = 0.0
        for _ in range(times):
            cpu, began = time.process_time(), trio.current_time()
            first.commit(_endpoints(32))
            while first.node.records.unacknowledged(CLUSTER_SCOPE):
                await trio.sleep(0.001)
            waited += trio.current_time() - began
            await trio.sleep(0.05)  # until streams have ended
            spent += time.process_time() - cpu
        after = [sum(node.counted(name) for node in nodes) for name in ("datagrams_sent", "streams_dialled")]
        nursery.cancel_scope.cancel()
    sent, dialled = ((a - b) / times for a, b in zip(after, before, strict=True))
    return ChangeCost(sent, dialled, waited / times, spent / times)


@dataclass(frozen=True, slots=True)
class Arrival:
    """The cost until hosts had each other's records."""

    needed: int
    deltas: int
    streams: int
    seconds: float
    """Of virtual time."""
    cpu_s: float
    """Of the newcomer, or of all."""


def _counted(cluster: SimCluster, name: str) -> int:
    return sum(int(host.running.statistics().get(f"record_{name}", 0)) for host in cluster.running())


def _together(count: int) -> SimCluster:
    """Return hosts that have been together for long."""
    cluster = SimCluster(seed=1, config=GossipConfig.lan(), latency_s=(0.000_2, 0.001))
    hosts = [cluster.add(f"n{number}", seeds=()) for number in range(1, count + 1)]
    for host in hosts:
        host.put(CLUSTER_SCOPE, b"host", host.name.encode())
    members = {host.node_id: host.running.members()[host.node_id] for host in hosts}
    logs = {key: log for host in hosts for key, log in host.disk.logs.items()}
    for host in hosts:
        host.disk.members, host.disk.logs = dict(members), dict(logs)
        cluster.restart(host.name)
        node = host.running
        node.membership._state_updates.unconfirmed.clear()
        exchange = node.records._anti_entropy
        exchange.synced(CLUSTER_SCOPE)
        for one in members:
            exchange.answered(CLUSTER_SCOPE, one)
        node.records._transport._handshakes._waiting.clear()
    cluster.run_for(1.0)
    return cluster


def newcomer(count: int = 300) -> Arrival:
    """Let one host join `count` others. The time is its processor time."""
    cluster = _together(count)
    deltas, streams = _counted(cluster, "deltas_sent"), _counted(cluster, "streams_dialled")
    came = cluster.add("newcomer")
    spent = _clocked(came)
    everything = cluster["n1"].records()
    seconds = cluster.run_until(lambda: len(came.records()) == len(everything), timeout_s=60)
    cluster.run_for(5)
    return Arrival(
        count,
        _counted(cluster, "deltas_sent") - deltas,
        _counted(cluster, "streams_dialled") - streams,
        seconds,
        spent[0],
    )


def _clocked(host: SimHost) -> list[float]:
    """Measure the processor time of a host's node."""
    spent = [0.0]
    node = host.running
    for name in ("handle_datagram", "handle_stream_data", "handle_deadline", "run_step", "drain"):
        setattr(node, name, _timed(getattr(node, name), spent))
    return spent


def _timed(call: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    def timed(*args: Any) -> Any:
        began = time.process_time()
        try:
            return call(*args)
        finally:
            spent[0] += time.process_time() - began

    return timed


def start(count: int = 100) -> Arrival:
    """Start all at once, each with a record and the first as its seed. The time is that of all."""
    cluster = SimCluster(seed=1, config=GossipConfig.lan(), latency_s=(0.000_2, 0.001))
    began = time.process_time()
    for number in range(1, count + 1):
        host = cluster.add(f"n{number}")
        host.put(CLUSTER_SCOPE, b"host", host.name.encode())

    def has_all(host: SimHost) -> bool:
        return len(host.running.records._table._logs[CLUSTER_SCOPE]) == count

    seconds = cluster.run_until(lambda: all(map(has_all, cluster.running())), timeout_s=120)
    cluster.run_for(5)
    return Arrival(
        count * (count - 1),
        _counted(cluster, "deltas_sent"),
        _counted(cluster, "streams_dialled"),
        seconds,
        time.process_time() - began,
    )


def main(wanted: list[str]) -> None:
    """Print the requested results."""
    if "push" in wanted:
        peers = push()
        print(
            f"push: {peers.deltas} deltas for {len(peers.node_ids)} peers, "
            f"{peers.cpu_s:.2f} s of processor time, at most {1000 * peers.longest_s:.1f} ms in one go"
        )
    for way, assembles in (("over streams", 0), ("in parts", ASSEMBLED_BYTES)):
        if "records" in wanted:
            peers = records(assembles=assembles)
            print(
                f"records {way}: {peers.streams} streams, {peers.datagrams} datagrams and {peers.deltas} deltas for "
                f"{len(peers.node_ids)} peers, {peers.cpu_s:.2f} s of processor time without sockets"
            )
            told = trio.run(partial(by_sockets, assembles=assembles))
            print(
                f"    by sockets, 20 peers: {told.streams:.1f} streams, {told.datagrams:.1f} datagrams, acknowledged "
                f"after {1000 * told.seconds:.1f} ms, {1000 * told.cpu_s:.1f} ms of processor time on both sides"
            )
    for name, run in (("newcomer", newcomer), ("start", start)):
        if name in wanted:
            found = run()
            print(
                f"{name}: {found.deltas} deltas, needed {found.needed}, {found.streams} streams, "
                f"{found.seconds:.2f} s until all were there, {found.cpu_s:.2f} s of processor time"
            )


if __name__ == "__main__":
    main(sys.argv[1:] or ["push"])
