"""Test whether checksums that are left to the network card arrive right, by pairs of datagrams over the overlay.
Pure.

The kernel leaves the checksum of a packet to the card that sends it. Some cards, or their drivers, promise this for
packets inside VXLAN too and get it wrong: small packets and pings pass, TCP hangs. So a pair of UDP datagrams goes to
a port without a listener, of the size that the path carries: one with its checksum computed here (`whole`), one that
leaves it to the card. The other host's kernel answers each with an ICMPv6 error, and silently drops a wrong one.

A pair proves something only if the whole one is answered: then the path passes such packets, and the peer answers
them. ENOUGH of these without one answer to the other kind mean that the card breaks checksums; CLEAR answers in a row
mean that it does not. On a path that loses a fifth each way, ENOUGH is reached by chance once in 500 such series.

The device that sends them keeps the card's offload whatever the result, so that the test can be repeated, and the
offload be used again after a change of the driver.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from netagent.model.ids import HostId
from netagent.probes.schedule import EchoSchedule

CALM_INTERVAL_S = 10.0
KEEN_INTERVAL_S = 0.5
"""After a round of ROUND_S: a kernel sends a peer one such error per second, six at once
(net.ipv6.icmp.ratelimit)."""
BROKEN_INTERVAL_S = 5.0
ROUND_S = 0.5
"""How long an answer may take; as long as netagent.probes.liveness waits."""
ENOUGH = 6
CLEAR = 3
SETTLE_S = 10.0
"""How long a verdict waits for the result of a new host."""
PAIRS_PER_S = 10.0
"""Bound of pairs of datagrams per second, of all calm paths together; beyond it: each path is probed less often. With
more than a hundred paths each is tested less often."""


@dataclass(frozen=True, slots=True)
class ChecksumProbe:
    """A datagram to send that makes a packet of `size_bytes`."""

    address: str
    sequence: int
    size_bytes: int
    is_whole: bool
    """With its checksum in place; otherwise the card computes it."""


@dataclass(slots=True)
class _ChecksumPeer:
    address: str
    size_bytes: int | None
    """None: the path is down or not known yet; nothing is sent."""
    added_at: float
    pair: tuple[int, int] | None = None
    """Sequence numbers of the current round: (whole, the other)."""
    is_whole_back: bool = False
    is_other_back: bool = False
    is_tried: bool = False
    misses: int = 0
    """Whole ones answered since the last answer to the other kind."""
    hits: int = 0
    """Answers to the other kind in a row."""
    is_broken: bool = False


class Checksums:
    """The state machine. Feed it hosts, sizes, answers and deadlines; drain datagrams; read `verdict`."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._peers: dict[HostId, _ChecksumPeer] = {}
        self._schedule: EchoSchedule[HostId] = EchoSchedule()
        self._datagrams: list[ChecksumProbe] = []

    def set_targets(self, addresses: Mapping[HostId, str], now: float) -> None:
        """Set the hosts that share a network with this one, by probe address."""
        for host_id in [h for h, peer in self._peers.items() if addresses.get(h) != peer.address]:
            self._end_pair(self._peers.pop(host_id))
            self._schedule.drop(host_id)
        for host_id, address in addresses.items():
            self._peers.setdefault(host_id, _ChecksumPeer(address, None, now))

    def handle_size(self, host_id: HostId, size_bytes: int | None, now: float) -> None:
        """Note a new size that the path carries; None: nothing passes, or unknown."""
        peer = self._peers.get(host_id)
        if peer is None or peer.size_bytes == size_bytes:
            return
        self._end_pair(peer)
        peer.size_bytes = size_bytes
        if size_bytes is None:
            self._schedule.drop(host_id)
        else:
            self._schedule.plan(host_id, now)

    def handle_answer(self, sequence: int, address: str, now: float) -> None:
        """Note that a datagram of ours reached the kernel at `address` intact."""
        sent = self._schedule.sent(sequence)
        peer = self._peers[sent[0]] if sent is not None else None
        if sent is None or peer is None or peer.pair is None or peer.address != address:
            return
        if sequence == peer.pair[0]:
            peer.is_whole_back = True
        else:
            peer.is_other_back = True
        if peer.is_whole_back and peer.is_other_back:
            self._judge(sent[0], peer, now)

    def handle_deadline(self, now: float) -> None:
        """Judge the pairs whose time is over, send those that are due."""
        while (host_id := self._schedule.take_due(now)) is not None:
            peer = self._peers[host_id]
            if peer.pair is not None:
                self._judge(host_id, peer, now)
                continue
            assert peer.size_bytes is not None
            peer.pair = self._schedule.send(host_id, now), self._schedule.send(host_id, now)
            peer.is_whole_back = peer.is_other_back = False
            for sequence, is_whole in zip(peer.pair, (True, False), strict=True):
                self._datagrams.append(ChecksumProbe(peer.address, sequence, peer.size_bytes, is_whole))
            self._schedule.plan(host_id, now + ROUND_S)

    def next_deadline(self) -> float:
        """Return when handle_deadline has something to do; infinity when nothing is to be sent."""
        return self._schedule.next_deadline()

    def drain(self) -> list[ChecksumProbe]:
        """Return datagrams to send; they may be lost."""
        datagrams, self._datagrams = self._datagrams, []
        return datagrams

    @property
    def broken(self) -> frozenset[HostId]:
        """Hosts at which checksums computed by the card arrive wrong."""
        return frozenset(host_id for host_id, peer in self._peers.items() if peer.is_broken)

    def verdict(self, now: float) -> bool | None:
        """Return whether the card's checksums may be used. None: leave it as it is, because no host answers such
        probes, or some path has not been tried yet, or is in doubt, as after a start."""
        peers = self._peers.values()
        if any(peer.is_broken for peer in peers):
            return False
        if any(peer.misses or self._is_awaited(peer, now) for peer in peers):
            return None
        return True if any(peer.hits for peer in peers) else None

    @staticmethod
    def _is_awaited(peer: _ChecksumPeer, now: float) -> bool:
        return not peer.is_tried and (peer.size_bytes is not None or now - peer.added_at < SETTLE_S)

    def check_invariants(self) -> None:
        """Raise if an awaited sequence does not belong to the pair of a known peer."""
        for sequence, host_id in self._schedule.waiting().items():
            pair = self._peers[host_id].pair
            assert pair is not None
            assert sequence in pair
        assert len(self._schedule.waiting()) == 2 * sum(
            peer.pair is not None for peer in self._peers.values()
        )

    def _judge(self, host_id: HostId, peer: _ChecksumPeer, now: float) -> None:
        self._end_pair(peer)
        peer.is_tried = True
        if peer.is_other_back:
            peer.misses, peer.hits = 0, peer.hits + 1
            if peer.hits >= CLEAR:
                peer.is_broken = False
        elif peer.is_whole_back:
            peer.hits, peer.misses = 0, peer.misses + 1
            if peer.misses >= ENOUGH:
                peer.is_broken = True
        self._schedule.plan(host_id, now + self._pause_s(peer))

    def _pause_s(self, peer: _ChecksumPeer) -> float:
        if peer.is_broken:
            return KEEN_INTERVAL_S if peer.hits else BROKEN_INTERVAL_S
        if peer.misses:
            return KEEN_INTERVAL_S
        return max(CALM_INTERVAL_S, len(self._peers) / PAIRS_PER_S) * (0.9 + 0.2 * self._rng.random())

    def _end_pair(self, peer: _ChecksumPeer) -> None:
        self._schedule.end(peer.pair or ())
        peer.pair = None
