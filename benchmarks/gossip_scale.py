# ruff: noqa: SLF001
"""What gossip costs in large clusters: deltas that are sent, and processor time, each beside what is needed.

    python benchmarks/gossip_scale.py [push] [newcomer] [start]

push      one change of a host with 10,000 peers: one delta a peer is needed
newcomer  a host that joins 300 others, each with a record: one delta a host is needed
start     100 hosts that start at once, each with a record: one delta for each pair is needed

Counts are the same in each run. Processor times are this machine's; no host does anything else meanwhile.
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

from netgossip.config import GossipConfig
from netgossip.frame import Opener, ReplayWindow, Sealer, parse_header_untrusted
from netgossip.record_wire import Ack, Delta, Hello, Message, Welcome, decode_untrusted, encode
from netgossip.replication import Replication
from netgossip.seal import Keyring
from netgossip.testing import SimCluster, SimHost
from netgossip.types import CLUSTER_SCOPE, NodeId, Version

PIECE_S = 0.001
"""What one call of the owner takes, on the clock of the count."""
LABEL = b"benchmark"
OWNER = "0a" * 16


class Peers:
    """Peers of one machine, which acknowledge what they get `rtt_s` later."""

    def __init__(self, count: int, rtt_s: float = 0.001) -> None:
        self.keyring = Keyring([bytes(32)])
        self.rtt_s = rtt_s
        self.now = 0.0
        self.deltas = 0
        self.entries = 0
        self.streams = 0
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
            rng=random.Random(1),
            now=0.0,
            new_stream_id=itertools.count(1).__next__,
        )
        self.cpu_s = 0.0
        self.longest_s = 0.0

    def meet(self) -> None:
        """As after a long time together: all have proven their starts, and hold all that the owner has said."""
        owner = self.owner
        owner._exchange.synced(CLUSTER_SCOPE)
        for address, node_id in self.by_address.items():
            owner.set_peer(node_id, address, 0.0, live=True)
            owner._carriage._greetings.forget(node_id)
            session = owner._carriage._opener._sessions[node_id]
            session.epoch, session.window = 1, ReplayWindow(0)
            owner._exchange.answered(CLUSTER_SCOPE, node_id)
        owner._exchange._scopes.clear()
        self.commit(b"first", b"1")
        self.run_until_quiet()
        self.deltas = self.entries = self.streams = 0
        self.cpu_s = self.longest_s = 0.0

    def commit(self, key: bytes, value: bytes) -> None:
        """A change of the owner's."""
        self._call(lambda: self.owner.commit(self.owner.prepare([(CLUSTER_SCOPE, key, value)]), self.now))

    def run_until_quiet(self) -> None:
        """Until the owner has been told that all have what it said."""
        for _ in range(1_000_000):
            while self.waiting and self.waiting[0][0] <= self.now:
                _, _, frame = self.waiting.popleft()
                self._time(partial(self.owner.handle_datagram, frame, ("", 0), self.now))
            self._drain()
            is_due = self.owner.next_deadline() <= self.now
            if is_due:
                self._call(lambda: self.owner.handle_deadline(self.now))
            if self.owner.is_behind:
                self._call(self.owner.take_piece)
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
        self.streams += sum(type(command).__name__ == "StreamOpen" for command in output.streams)
        for datagram in output.datagrams:
            node_id = self.by_address[datagram.destination]
            header = parse_header_untrusted(datagram.payload)
            answers = []
            for message in decode_untrusted(
                self.openers[node_id].open_untrusted(header, datagram.payload).body
            ):
                answers += self._answer(message)
            if answers:
                frame = self.sealers[node_id].seal(OWNER, b"".join(map(encode, answers)))
                self.waiting.append((self.now + self.rtt_s, node_id, frame))

    def _answer(self, message: Message) -> list[Message]:
        match message:
            case Hello(nonce):
                return [Welcome(nonce)]
            case Delta(scope=scope, epoch=epoch, head=head, entries=entries):
                self.deltas += 1
                self.entries += len(entries)
                return [Ack(scope, True, Version(epoch, head), Version(0, 0))]
        return []


def push(count: int = 10_000) -> Peers:
    """One change, told to all."""
    peers = Peers(count)
    peers.meet()
    peers.commit(b"key", b"value")
    peers.run_until_quiet()
    return peers


@dataclass(frozen=True, slots=True)
class Arrival:
    """What it took until hosts had each other's records."""

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
    """Hosts that have been together for long."""
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
        node._swim._claims.unconfirmed.clear()
        exchange = node._replication._exchange
        exchange.synced(CLUSTER_SCOPE)
        for one in members:
            exchange.answered(CLUSTER_SCOPE, one)
        node._replication._carriage._greetings._waiting.clear()
    cluster.run_for(1.0)
    return cluster


def newcomer(count: int = 300) -> Arrival:
    """One host joins `count` others. The time is its processor time."""
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
    """Counts the processor time of a host's node."""
    spent = [0.0]
    node = host.running
    for name in ("handle_datagram", "handle_stream_data", "handle_deadline", "take_piece", "drain"):
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
    """All start at once, each with a record and the first as its seed. The time is that of all."""
    cluster = SimCluster(seed=1, config=GossipConfig.lan(), latency_s=(0.000_2, 0.001))
    began = time.process_time()
    for number in range(1, count + 1):
        host = cluster.add(f"n{number}")
        host.put(CLUSTER_SCOPE, b"host", host.name.encode())

    def has_all(host: SimHost) -> bool:
        return len(host.running._replication._table._logs[CLUSTER_SCOPE]) == count

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
    """Print what was asked for."""
    if "push" in wanted:
        peers = push()
        print(
            f"push: {peers.deltas} deltas for {len(peers.node_ids)} peers, "
            f"{peers.cpu_s:.2f} s of processor time, at most {1000 * peers.longest_s:.1f} ms in one go"
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
