"""Do checksums that are left to the network card arrive right? Asked in pairs of datagrams over the overlay. Pure.

The kernel leaves the checksum of a packet to the card that sends it. Some cards, or their drivers, promise that for
packets inside VXLAN too and get it wrong: small things and pings pass, TCP hangs. So a pair of UDP datagrams goes to
a port where nobody listens, of the size that the path carries: one with its checksum made here (`whole`), one that
leaves it to the card. The other host's kernel answers either with an ICMPv6 error, and drops a wrong one in silence.

A pair proves something only when the whole one is answered: then the path passes such packets, and the peer answers
them. ENOUGH of these without one answer to the other kind mean that the card breaks checksums; CLEAR answers in a row
that it does not. By the chance of a path that loses a fifth each way ENOUGH is reached once in 500 such series.

The device that these are sent by keeps the card's help whatever is found, so that it can be asked again, and the help
be used again after a driver was changed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from netagent.model.ids import HostId

CALM_INTERVAL_S = 10.0
KEEN_INTERVAL_S = 0.5
"""After a round of ROUND_S: a kernel sends a peer one such error a second, six at once (net.ipv6.icmp.ratelimit)."""
BROKEN_INTERVAL_S = 5.0
ROUND_S = 0.5
"""How long an answer may take; as long as netagent.probes.liveness waits."""
ENOUGH = 6
CLEAR = 3
SETTLE_S = 10.0
"""So long a new host is waited for before a verdict counts that says nothing of it."""
PAIRS_PER_S = 10.0
"""Of all calm paths together: with more than a hundred of them each is asked less often."""


@dataclass(frozen=True, slots=True)
class ChecksumProbe:
    """Send one that makes a packet of `size_bytes`."""

    address: str
    sequence: int
    size_bytes: int
    is_whole: bool
    """With its checksum in place; otherwise the card makes it."""


@dataclass(slots=True)
class _ChecksumPeer:
    address: str
    size_bytes: int | None
    """None: the path is down or not known yet; nothing is asked."""
    next_at: float
    added_at: float
    pair: tuple[int, int] | None = None
    """Sequences of the round under way: (whole, the other)."""
    is_whole_back: bool = False
    is_other_back: bool = False
    is_tried: bool = False
    misses: int = 0
    """Whole ones answered since the last answer to the other kind."""
    hits: int = 0
    """Answers to the other kind in a row."""
    is_broken: bool = False


class Checksums:
    """The machine. Feed it hosts, sizes, answers and deadlines; drain datagrams; read `verdict`."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._peers: dict[HostId, _ChecksumPeer] = {}
        self._waiting: dict[int, HostId] = {}
        self._sequence = 0
        self._datagrams: list[ChecksumProbe] = []

    def set_targets(self, addresses: Mapping[HostId, str], now: float) -> None:
        """The hosts that share a network with this one, by probe address."""
        for host_id in [h for h, peer in self._peers.items() if addresses.get(h) != peer.address]:
            self._end_pair(self._peers.pop(host_id))
        for host_id, address in addresses.items():
            self._peers.setdefault(host_id, _ChecksumPeer(address, None, math.inf, now))

    def handle_size(self, host_id: HostId, size_bytes: int | None, now: float) -> None:
        """What the path carries is now different; None: nothing, or not known."""
        peer = self._peers.get(host_id)
        if peer is None or peer.size_bytes == size_bytes:
            return
        self._end_pair(peer)
        peer.size_bytes = size_bytes
        peer.next_at = math.inf if size_bytes is None else now

    def handle_answer(self, sequence: int, address: str, now: float) -> None:
        """A datagram of ours reached the kernel at `address` as it should."""
        host_id = self._waiting.get(sequence)
        peer = self._peers.get(host_id) if host_id is not None else None
        if peer is None or peer.pair is None or peer.address != address:
            return
        if sequence == peer.pair[0]:
            peer.is_whole_back = True
        else:
            peer.is_other_back = True
        if peer.is_whole_back and peer.is_other_back:
            self._judge(peer, now)

    def handle_deadline(self, now: float) -> None:
        """Judge the pairs whose time is over, send those that are due."""
        for host_id, peer in self._peers.items():
            if peer.next_at > now or peer.size_bytes is None:
                continue
            if peer.pair is not None:
                self._judge(peer, now)
                continue
            peer.pair = self._next_sequence(), self._next_sequence()
            peer.is_whole_back = peer.is_other_back = False
            for sequence, is_whole in zip(peer.pair, (True, False), strict=True):
                self._waiting[sequence] = host_id
                self._datagrams.append(ChecksumProbe(peer.address, sequence, peer.size_bytes, is_whole))
            peer.next_at = now + ROUND_S

    def next_deadline(self) -> float:
        """When handle_deadline has something to do; infinity when nothing is to be asked."""
        return min((peer.next_at for peer in self._peers.values()), default=math.inf)

    def drain(self) -> list[ChecksumProbe]:
        """They may be lost."""
        datagrams, self._datagrams = self._datagrams, []
        return datagrams

    @property
    def broken(self) -> frozenset[HostId]:
        """Hosts at which checksums made by the card arrive wrong."""
        return frozenset(host_id for host_id, peer in self._peers.items() if peer.is_broken)

    def verdict(self, now: float) -> bool | None:
        """Whether the card's checksums may be used. None: leave it as it is; nobody answers such questions, or some
        path has not been tried yet, or is in doubt, as after a start."""
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
        """What is awaited belongs to the pair of a known peer."""
        for sequence, host_id in self._waiting.items():
            pair = self._peers[host_id].pair
            assert pair is not None
            assert sequence in pair
        assert len(self._waiting) == 2 * sum(peer.pair is not None for peer in self._peers.values())

    def _judge(self, peer: _ChecksumPeer, now: float) -> None:
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
        peer.next_at = now + self._pause_s(peer)

    def _pause_s(self, peer: _ChecksumPeer) -> float:
        if peer.is_broken:
            return KEEN_INTERVAL_S if peer.hits else BROKEN_INTERVAL_S
        if peer.misses:
            return KEEN_INTERVAL_S
        return max(CALM_INTERVAL_S, len(self._peers) / PAIRS_PER_S) * (0.9 + 0.2 * self._rng.random())

    def _end_pair(self, peer: _ChecksumPeer) -> None:
        for sequence in peer.pair or ():
            self._waiting.pop(sequence, None)
        peer.pair = None

    def _next_sequence(self) -> int:
        self._sequence = (self._sequence + 1) & 0xFFFF
        return self._sequence
