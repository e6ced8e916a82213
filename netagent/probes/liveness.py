"""Whether a host answers. Its kernel is tested by echo requests on the probe network, which needs no agent there.

Gossip knows whether an *agent* answers. An agent that was stopped, crashed, or cut off by a firewall says nothing
about the containers of its host, and names must not vanish with it. So a host only counts as gone when its agent is
away and its kernel is silent as well.

All hosts are tested all the time, so that some host sees the first silence early: each host sends CALM_REQUESTS_PER_S
in all, so each is tested equally often by all others together, however many they are. A request without answer is
repeated soon; two of them are a reason to let the membership probe the agent there (`drain` says so). A host whose
agent is newly in doubt, or that another host asks about (`look`), is tested often for a while.

Silence means MISSES_FOR_SILENCE requests in a row without answer: one lost packet of a lossy path says nothing. Where
several hosts agree, fewer are enough (netagent.probes.liveness_votes).

Requests that expire while this process was stopped or starved do not count: their answers may lie unread.
"""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass

from netagent.model.ids import HostId
from netagent.periodic import tick_within
from netagent.probes.schedule import EchoSchedule

CALM_REQUESTS_PER_S = 60.0
"""To all healthy hosts together: the first request without answer leaves some 17 ms after a death. It costs an agent
about a percent of a core, in a cluster of 60 hosts as in one of 6,000."""
SHORTEST_CALM_S = 1.0
"""Between requests to one such host in a small cluster."""
KEEN_INTERVAL_S = 0.5
"""Between requests to a host in doubt; also how long an answer may take."""
KEEN_FOR_S = 10.0
"""How long a host whose agent fell into doubt is tested so often although nothing changes: long enough for the
membership to declare it dead, among 300 hosts, and short enough that thousands of stopped agents cost nothing."""
MISSES_FOR_SILENCE = 8
"""Four seconds: as long as the membership of a small cluster takes to declare the agent dead, and no name is hidden
earlier by one host's result. At 5 % loss each way as many are lost in a row 1 time in 10^8; three would be 1 time in
1,000, and where many agents are away there are many requests."""
MISSES_FOR_DOUBT = 2
"""Requests without answer until the membership probes the agent. At 5 % loss each way that is 1 request in 100."""
LATE_S = 0.2
"""If our own process is later than this, pending judgements get GRACE_S more."""
GRACE_S = 0.1
BURST = 64
"""Bound of echo requests sent at once; beyond it: further ones follow 20 ms later. A socket's buffer takes some
hundred."""
BURST_PAUSE_S = 0.02
_MISSES_KEPT = 1000


class LivenessReport(enum.IntEnum):
    """A host's report on another one's kernel, on the wire as well."""

    UNKNOWN = 0
    HEARD = 1
    SILENT = 2


@dataclass(frozen=True, slots=True)
class EchoRequest:
    """An echo request to send to `address`."""

    host_id: HostId
    address: str
    sequence: int


@dataclass(frozen=True, slots=True)
class AnswerChanged:
    """A change of what is known of a host's kernel."""

    host_id: HostId
    answers: bool


@dataclass(frozen=True, slots=True)
class SilentHost:
    """A host whose last requests stayed without answer, although its kernel has answered before."""

    since: float
    """When the first of them was sent."""
    misses: int


@dataclass(slots=True)
class _LivenessPeer:
    address: str
    doubtful: bool
    keen_until: float = float("-inf")
    waiting_for: int | None = None
    misses: int = 0
    answers: bool | None = None
    sent_at: float = 0.0
    silent_since: float = 0.0
    heard_at: float = float("-inf")
    rtt_s: float | None = None


class Liveness:
    """The state machine. Feed it peers, answers and deadlines; drain requests and changes."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._peers: dict[HostId, _LivenessPeer] = {}
        self._schedule: EchoSchedule[HostId] = EchoSchedule()
        self._missing: dict[HostId, SilentHost] = {}
        self._not_before = float("-inf")
        self._requests: list[EchoRequest] = []
        self._changes: list[AnswerChanged] = []
        self._doubts: list[HostId] = []

    # -- input -------------------------------------------------------------------------------------------------

    def set_peers(self, peers: dict[HostId, tuple[str, bool]], now: float) -> None:
        """Set all other hosts: probe address, and whether their agent is in doubt (not alive)."""
        for host_id in self._peers.keys() - peers.keys():
            self._drop(host_id)
        for host_id, (address, doubtful) in peers.items():
            peer = self._peers.get(host_id)
            if peer is None or peer.address != address:
                self._drop(host_id)
                self._peers[host_id] = peer = _LivenessPeer(address, doubtful=False)
                self._schedule.plan(host_id, now)
            if doubtful != peer.doubtful:
                peer.doubtful = doubtful
                if doubtful:
                    self.look(host_id, now)

    def look(self, host_id: HostId, now: float) -> None:
        """Test the host at once, unless a request is on its way, and often for a while."""
        peer = self._peers.get(host_id)
        if peer is not None:
            peer.keen_until = now + KEEN_FOR_S
            if peer.waiting_for is None:
                self._schedule.plan(host_id, now)
            elif self._schedule.planned_at(host_id) > peer.sent_at + KEEN_INTERVAL_S:
                self._schedule.plan(host_id, max(now, peer.sent_at + KEEN_INTERVAL_S))

    def handle_answer(self, sequence: int, address: str, now: float) -> HostId | None:
        """Note an echo reply. It counts only for the request in flight; return the host whose answer counted."""
        sent = self._schedule.sent(sequence)
        if sent is None or (peer := self._peers[host_id := sent[0]]).address != address:
            return None
        self._schedule.end([sequence])
        is_first = peer.answers is None
        peer.waiting_for, peer.misses, peer.rtt_s, peer.heard_at = None, 0, now - peer.sent_at, now
        self._missing.pop(host_id, None)
        pause_s = KEEN_INTERVAL_S if now < peer.keen_until else self._calm_s()
        if pause_s == SHORTEST_CALM_S:
            # Few enough to test all at once: the host wakes up once for them and everything else that is due.
            at = tick_within(now, pause_s)
        else:
            # From the first answer on, the times spread over the interval, so that not all are tested at once.
            at = now + pause_s * (self._rng.random() if is_first else 1.0)
        self._schedule.plan(host_id, at)
        self._learn(host_id, peer, answers=True)
        return host_id

    def handle_deadline(self, now: float) -> None:
        """Send what is due; count requests without answer."""
        if now < self.next_deadline():
            return
        if now - self.next_deadline() > LATE_S:
            self._make_up_for_lateness(now)
        for _ in range(BURST):
            host_id = self._schedule.take_due(now)
            if host_id is None:
                return
            self._ask(host_id, self._peers[host_id], now)
        self._not_before = now + BURST_PAUSE_S

    # -- output ------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """Return when handle_deadline has something to do; infinity without peers."""
        return max(self._schedule.next_deadline(), self._not_before)

    def drain(self) -> tuple[list[EchoRequest], list[AnswerChanged], list[HostId]]:
        """Return requests, changes, and hosts whose agents the membership should probe. Only changes must not be
        lost."""
        output = self._requests, self._changes, self._doubts
        self._requests, self._changes, self._doubts = [], [], []
        return output

    def __contains__(self, host_id: HostId) -> bool:
        """Return whether the host is tested."""
        return host_id in self._peers

    @property
    def missing(self) -> dict[HostId, SilentHost]:
        """Return hosts whose kernel has answered before, but not the last requests."""
        return dict(self._missing)

    def word(self, host_id: HostId, since: float) -> LivenessReport:
        """Report on a host to one that has asked since then: an earlier answer proves nothing."""
        peer = self._peers.get(host_id)
        if peer is None:
            return LivenessReport.UNKNOWN
        if peer.misses >= MISSES_FOR_DOUBT:
            return LivenessReport.SILENT
        return LivenessReport.HEARD if peer.heard_at >= since else LivenessReport.UNKNOWN

    def rtt_s(self, host_id: HostId) -> float | None:
        """Return the round trip time of the last answer."""
        peer = self._peers.get(host_id)
        return peer.rtt_s if peer else None

    # -- steps -------------------------------------------------------------------------------------------------

    def _drop(self, host_id: HostId) -> None:
        peer = self._peers.pop(host_id, None)
        self._missing.pop(host_id, None)
        if peer is not None:
            self._schedule.drop(host_id, [] if peer.waiting_for is None else [peer.waiting_for])

    def _calm_s(self) -> float:
        return max(SHORTEST_CALM_S, len(self._peers) / CALM_REQUESTS_PER_S)

    def _make_up_for_lateness(self, now: float) -> None:
        for host_id in self._schedule.waiting().values():
            if self._schedule.planned_at(host_id) < now + GRACE_S:
                self._schedule.plan(host_id, now + GRACE_S)

    def _ask(self, host_id: HostId, peer: _LivenessPeer, now: float) -> None:
        if peer.waiting_for is not None:
            self._schedule.end([peer.waiting_for])
            self._count_miss(host_id, peer)
        else:
            peer.silent_since = now
        peer.waiting_for, peer.sent_at = self._schedule.send(host_id, now), now
        self._requests.append(EchoRequest(host_id, peer.address, peer.waiting_for))
        # A missing answer leads to the next request soon; a host that has been silent for long can wait.
        is_old = peer.misses > MISSES_FOR_SILENCE and now - peer.silent_since > KEEN_FOR_S
        is_keen = now < peer.keen_until or not is_old
        self._schedule.plan(host_id, now + (KEEN_INTERVAL_S if is_keen else self._calm_s()))

    def _count_miss(self, host_id: HostId, peer: _LivenessPeer) -> None:
        peer.misses = min(peer.misses + 1, _MISSES_KEPT)
        if peer.heard_at > float("-inf"):
            self._missing[host_id] = SilentHost(peer.silent_since, peer.misses)
        if peer.misses == MISSES_FOR_DOUBT and not peer.doubtful:
            self._doubts.append(host_id)
        if peer.misses >= MISSES_FOR_SILENCE:
            self._learn(host_id, peer, answers=False)

    def _learn(self, host_id: HostId, peer: _LivenessPeer, *, answers: bool) -> None:
        if peer.answers is not answers:
            peer.answers = answers
            self._changes.append(AnswerChanged(host_id, answers))

    def check_invariants(self) -> None:
        """Raise if a request in flight has no known peer, is awaited twice, or a peer has no next request."""
        self._schedule.check_invariants()
        assert self._schedule.waiting() == {
            peer.waiting_for: host_id for host_id, peer in self._peers.items() if peer.waiting_for is not None
        }
        assert all(self._schedule.planned_at(host_id) < float("inf") for host_id in self._peers)
        assert self._missing.keys() <= self._peers.keys()
