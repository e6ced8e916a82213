"""Does a host answer? Its kernel is asked by echo requests on the probe network, which needs no agent over there.

Gossip knows whether an *agent* answers. An agent that was stopped, crashed, or cut off by a firewall says nothing
about the containers of its host, and names must not vanish with it. So a host is only taken for gone when its agent
is declared dead and its kernel is silent as well.

All hosts are asked now and then, so that an answer is known before it is needed; a host whose agent is in doubt, or
which missed an answer, is asked often. Silence means MISSES_FOR_SILENCE requests in a row without answer: one lost
packet of a lossy path says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from netagent.model.ids import HostId

CALM_INTERVAL_S = 5.0
"""Between requests to a host of which nothing is wrong."""
KEEN_INTERVAL_S = 0.5
"""Between requests to a host in doubt; also how long an answer may take."""
MISSES_FOR_SILENCE = 3
"""At 20 % loss each way three in a row are lost 1 time in 21; the fourth usually clears it, 0.5 s later."""


@dataclass(frozen=True, slots=True)
class EchoRequest:
    """Send one to `address`."""

    host_id: HostId
    address: str
    sequence: int


@dataclass(frozen=True, slots=True)
class AnswerChanged:
    """What is known of a host's kernel is now different."""

    host_id: HostId
    answers: bool


@dataclass(slots=True)
class _Peer:
    address: str
    doubtful: bool
    next_at: float
    waiting_for: int | None = None
    misses: int = 0
    answers: bool | None = None
    sent_at: float = 0.0
    rtt_s: float | None = None


class Liveness:
    """The machine. Feed it peers, answers and deadlines; drain requests and changes."""

    def __init__(self) -> None:
        self._peers: dict[HostId, _Peer] = {}
        self._waiting: dict[int, HostId] = {}
        self._sequence = 0
        self._requests: list[EchoRequest] = []
        self._changes: list[AnswerChanged] = []

    def set_peers(self, peers: dict[HostId, tuple[str, bool]], now: float) -> None:
        """All other hosts: probe address, and whether their agent is in doubt (not alive)."""
        for host_id in self._peers.keys() - peers.keys():
            del self._peers[host_id]
        for host_id, (address, doubtful) in peers.items():
            peer = self._peers.get(host_id)
            if peer is None or peer.address != address:
                self._peers[host_id] = _Peer(address, doubtful, now)
            elif doubtful != peer.doubtful:
                peer.doubtful = doubtful
                peer.next_at = min(peer.next_at, now if doubtful else peer.next_at)

    def handle_answer(self, sequence: int, address: str, now: float) -> None:
        """An echo reply came. It counts only for the request in flight."""
        host_id = self._waiting.pop(sequence, None)
        peer = self._peers.get(host_id) if host_id is not None else None
        if host_id is None or peer is None or peer.waiting_for != sequence or peer.address != address:
            return
        peer.waiting_for, peer.misses, peer.rtt_s = None, 0, now - peer.sent_at
        peer.next_at = now + (KEEN_INTERVAL_S if peer.doubtful else CALM_INTERVAL_S)
        self._learn(host_id, peer, answers=True)

    def handle_deadline(self, now: float) -> None:
        """Send what is due; count what stayed without answer."""
        for host_id, peer in self._peers.items():
            if peer.next_at > now:
                continue
            if peer.waiting_for is not None:
                self._waiting.pop(peer.waiting_for, None)
                peer.misses += 1
                if peer.misses >= MISSES_FOR_SILENCE:
                    self._learn(host_id, peer, answers=False)
            self._sequence = (self._sequence + 1) & 0xFFFF
            peer.waiting_for, peer.sent_at = self._sequence, now
            self._waiting[self._sequence] = host_id
            self._requests.append(EchoRequest(host_id, peer.address, self._sequence))
            # Until the answer is in, the next look is soon: silence must show within two seconds.
            peer.next_at = now + KEEN_INTERVAL_S

    def _learn(self, host_id: HostId, peer: _Peer, *, answers: bool) -> None:
        if peer.answers is not answers:
            peer.answers = answers
            self._changes.append(AnswerChanged(host_id, answers))

    def next_deadline(self) -> float:
        """When handle_deadline has something to do; infinity without peers."""
        return min((peer.next_at for peer in self._peers.values()), default=float("inf"))

    def drain(self) -> tuple[list[EchoRequest], list[AnswerChanged]]:
        """Requests may be lost, changes may not."""
        output = self._requests, self._changes
        self._requests, self._changes = [], []
        return output

    def rtt_s(self, host_id: HostId) -> float | None:
        """Of the last answer."""
        peer = self._peers.get(host_id)
        return peer.rtt_s if peer else None

    def check_invariants(self) -> None:
        """A request in flight belongs to a known peer; what is awaited is awaited once."""
        for sequence, host_id in self._waiting.items():
            peer = self._peers.get(host_id)
            assert peer is None or peer.waiting_for in {sequence, None} or peer.waiting_for > sequence
        assert len(self._waiting) <= 0x10000
