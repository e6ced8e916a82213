"""A few Swim machines under virtual time, joined by a network of dictionaries: latency, loss, cuts, crashes.

Small on purpose: it knows the membership alone. netgossip.testing.SimCluster runs whole nodes.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from netgossip.codec.sealing import Keyring
from netgossip.config import GossipConfig
from netgossip.membership.swim import Swim
from netgossip.types import (
    Address,
    Datagram,
    Event,
    Member,
    MemberChanged,
    MemberState,
    NodeId,
    NodeOutput,
    StreamClose,
    StreamOpen,
    StreamSend,
)

KEY = b"0123456789abcdef"
LABEL = b"blue"


@dataclass
class Host:
    swim: Swim
    node_id: NodeId
    address: Address
    events: list[Event] = field(default_factory=list)
    streams: dict[int, tuple[Address, int]] = field(default_factory=dict)
    """Our stream id -> the other end."""


class SwimNet:
    """`seed` decides everything: one seed, one run."""

    def __init__(self, seed: int, config: GossipConfig | None = None, *, latency_s: float = 0.001) -> None:
        self.rng = random.Random(seed)
        self.config = config or GossipConfig.lan()
        self.now = 1000.0
        self.latency_s = latency_s
        self.loss = 0.0
        self.hosts: dict[Address, Host] = {}
        self.cuts: set[tuple[Address, Address]] = set()
        self.lost_datagrams_only = False
        self.sent_bytes = 0
        self.largest_datagram = 0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._stream_ids = itertools.count(1)
        self._due: dict[Address, float] = {}

    def add(
        self,
        number: int,
        *,
        seeds: tuple[int, ...] = (),
        remembered: tuple[Member, ...] = (),
        incarnation: int = 0,
        meta: bytes = b"",
        node_id: NodeId | None = None,
    ) -> Host:
        address = address_of(number)
        node_id = node_id or id_of(number)
        swim = Swim(
            config=self.config,
            node_id=node_id,
            address=address,
            meta=meta,
            incarnation=incarnation,
            keyring=Keyring([KEY]),
            label=LABEL,
            rng=random.Random(self.rng.getrandbits(64)),
            now=self.now,
            new_stream_id=lambda: next(self._stream_ids),
            remembered=remembered,
            seeds=tuple(address_of(n) for n in seeds),
        )
        host = self.hosts[address] = Host(swim, node_id, address)
        self.settle(host)
        return host

    def cluster(self, count: int, *, incarnation: int = 0, meta: bytes = b"") -> list[Host]:
        """`count` hosts that have found each other."""
        hosts = [
            self.add(n, seeds=(1,) if n > 1 else (), incarnation=incarnation, meta=meta)
            for n in range(1, count + 1)
        ]
        self.run_until(lambda: all(len(self.seen(h, MemberState.ALIVE)) == count for h in hosts), 60)
        return hosts

    def crash(self, host: Host) -> None:
        del self.hosts[host.address]
        for peer, peer_id in host.streams.values():
            self._later(partial(self._stream_end, peer, peer_id, "reset"))

    def cut(self, ones: list[Host], others: list[Host], *, one_way: bool = False) -> None:
        for a, b in itertools.product(ones, others):
            self.cuts.add((a.address, b.address))
            if not one_way:
                self.cuts.add((b.address, a.address))

    def heal(self) -> None:
        self.cuts.clear()

    def seen(self, host: Host, *states: MemberState) -> set[NodeId]:
        return {m.node_id for m in host.swim.members().values() if m.state in states}

    def changes(self, state: MemberState) -> list[tuple[NodeId, NodeId]]:
        """(observer, about) of all reports of `state`."""
        return [
            (host.node_id, event.member.node_id)
            for host in self.hosts.values()
            for event in host.events
            if isinstance(event, MemberChanged) and event.member.state is state
        ]

    def run_for(self, seconds: float) -> None:
        self.run_until(lambda: False, seconds, must=False)

    def run_until(self, condition: Callable[[], bool], bound_s: float, *, must: bool = True) -> None:
        end = self.now + bound_s
        while not condition():
            due = min(self._due, key=self._due.__getitem__, default=None)
            timer = self._due[due] if due is not None else float("inf")
            arrival = self._queue[0][0] if self._queue else float("inf")
            if min(timer, arrival) > end:
                self.now = end
                assert not must, f"not within {bound_s} s"
                return
            if arrival <= timer:
                self.now, _, action = heapq.heappop(self._queue)
                action()
            else:
                assert due is not None
                self.now = max(self.now, timer)
                host = self.hosts.get(due)
                if host is None:
                    del self._due[due]
                else:
                    host.swim.handle_deadline(self.now)
                    self.settle(host)

    def settle(self, host: Host) -> None:
        """Carry out what the machine wants, and check it."""
        output = host.swim.drain()
        host.events += output.events
        for datagram in output.datagrams:
            self._carry(host, datagram)
        for command in output.streams:
            match command:
                case StreamOpen():
                    self._open(host, command)
                case StreamSend():
                    if (end := host.streams.get(command.stream_id)) is not None:
                        self._later(partial(self._stream_data, *end, command.data))
                case StreamClose():
                    if (end := host.streams.pop(command.stream_id, None)) is not None:
                        self._later(partial(self._stream_end, *end, None))
        host.swim.check_invariants()
        assert host.swim.drain() == NodeOutput(), "a second drain is empty"
        self._due[host.address] = host.swim.next_deadline()

    def _later(self, action: Callable[[], None], delay_s: float | None = None) -> None:
        at = self.now + (self.latency_s if delay_s is None else delay_s)
        heapq.heappush(self._queue, (at, next(self._order), action))

    def _carry(self, host: Host, datagram: Datagram) -> None:
        self.sent_bytes += len(datagram.payload)
        self.largest_datagram = max(self.largest_datagram, len(datagram.payload))
        if (host.address, datagram.destination) in self.cuts or self.rng.random() < self.loss:
            return

        def arrive() -> None:
            if (target := self.hosts.get(datagram.destination)) is not None:
                target.swim.handle_datagram(datagram.payload, host.address, self.now)
                self.settle(target)

        self._later(arrive, self.latency_s * self.rng.uniform(1, 2))

    def _open(self, host: Host, command: StreamOpen) -> None:
        target = self.hosts.get(command.destination)
        is_cut = (host.address, command.destination) in self.cuts or (
            command.destination,
            host.address,
        ) in self.cuts
        if is_cut and not self.lost_datagrams_only:
            return  # swallowed: the machine must give up by itself
        if target is None:
            self._later(lambda: self._stream_end(host.address, command.stream_id, "refused"))
            host.streams[command.stream_id] = (command.destination, -1)
            return
        peer_id = next(self._stream_ids)
        host.streams[command.stream_id] = (target.address, peer_id)
        target.streams[peer_id] = (host.address, command.stream_id)

        def arrive() -> None:
            if target.address in self.hosts and peer_id in target.streams:
                target.swim.accept_stream(peer_id, host.address, self.now)
                self.settle(target)

        self._later(arrive)

    def _stream_data(self, address: Address, stream_id: int, data: bytes) -> None:
        host = self.hosts.get(address)
        if host is None or stream_id not in host.streams:
            return
        for start in range(0, len(data), 500):
            host.swim.handle_stream_data(stream_id, data[start : start + 500], self.now)
        self.settle(host)

    def _stream_end(self, address: Address, stream_id: int, error: str | None) -> None:
        host = self.hosts.get(address)
        if host is not None and host.streams.pop(stream_id, None) is not None:
            host.swim.handle_stream_end(stream_id, self.now, error)
            self.settle(host)


def address_of(number: int) -> Address:
    return f"192.0.2.{number}" if number < 255 else f"198.51.{number // 256}.{number % 256}", 7956


def id_of(number: int) -> NodeId:
    return f"{number:032x}"
