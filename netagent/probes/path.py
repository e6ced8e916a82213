"""Schedule path tests: rounds of echoes to every host that shares a network with this one, within a budget.

netagent.probes.quality judges each path; a host's kernel answers by itself, no agent is needed there. This is the
state machine around all paths: whose round is due, which answer belongs to which, and how much may be sent. The cost
for all paths together, which other parts rely on, is

    calm path               1 packet in CALM_INTERVAL_S
    degraded, lossy path    3 packets in KEEN_INTERVAL_S
    path that is down       1 small packet in DOWN_INTERVAL_S
    all of these            some REST_PACKETS_PER_S: with many paths the intervals grow
    check                   3 packets per round of ROUND_S, about MAX_CHECK_ROUNDS at most
    search                  at most 11 packets per round, some five rounds
    everything              at most PACKETS_PER_S: the rest waits
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from netagent.model.ids import HostId
from netagent.probes.packet import SMALLEST_BYTES
from netagent.probes.quality import DOWN_INTERVAL_S, Path, PathStatus, PathTarget, Phase, Quality, Round
from netagent.probes.schedule import EchoSchedule

CALM_INTERVAL_S = 5.0
REST_PACKETS_PER_S = 100.0
"""Bound of probe packets per second to paths without a check or search under way; beyond it: each path is probed less
often. 1 Mbit/s at full size: with more than 500 paths each is tested less often than once in CALM_INTERVAL_S."""
PACKETS_PER_S = 400.0
"""Bound of probe packets per second, of all paths together; beyond it: a round waits for its turn. 5 Mbit/s at full
size, when every path of a large cluster is in trouble at once."""
BURST_PACKETS = 50.0


@dataclass(frozen=True, slots=True)
class PathProbe:
    """An echo request of `size_bytes` to send."""

    host_id: HostId
    address: str
    sequence: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class PathChanged:
    """A change of a path's quality or size."""

    host_id: HostId
    status: PathStatus


@dataclass(slots=True)
class _Place:
    """A path's place in the schedule."""

    path: Path
    round: Round | None = None
    has_credit: bool = False
    """The next round is paid for, and waits until the budget allows it."""
    told: tuple[Quality, int | None, int | None] = (Quality.UNKNOWN, None, None)


class Paths:
    """The state machine. Feed it targets, answers and deadlines; drain probes and changes."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._adopted: dict[HostId, int] = {}
        self._places: dict[HostId, _Place] = {}
        self._hosts: dict[str, HostId] = {}
        """By probe address."""
        self._schedule: EchoSchedule[HostId] = EchoSchedule()
        self._credit_packets, self._credit_at = BURST_PACKETS, -math.inf
        self._probes: list[PathProbe] = []
        self._changes: list[PathChanged] = []

    # -- what comes in -----------------------------------------------------------------------------------------

    def adopt(self, limits: Mapping[HostId, int]) -> None:
        """Take an earlier agent's knowledge of paths that carry too little. Call it before anything else."""
        self._adopted = dict(limits)

    def set_targets(self, targets: Mapping[HostId, PathTarget], now: float) -> None:
        """Set the hosts that share a network with this one. New ones are tested soon, but not all at once."""
        for host_id in self._places.keys() - targets.keys():
            self._drop(host_id)
        for host_id, target in targets.items():
            place = self._places.get(host_id)
            if place is None or place.path.target.address != target.address:
                self._drop(host_id)
                limit_bytes = self._adopted.pop(host_id, target.wanted_bytes)
                is_small = SMALLEST_BYTES <= limit_bytes < target.wanted_bytes
                path = Path(target, limit_bytes=limit_bytes if is_small else None)
                self._places[host_id] = _Place(path)
                self._hosts[target.address] = host_id
                self._schedule.plan(host_id, now + self._rng.random() * len(targets) / REST_PACKETS_PER_S)
            elif place.path.target != target:
                self._forget_round(place)
                place.path.retarget(target)
                self._schedule.plan(host_id, now)
                self._tell(host_id, place, now)

    def _drop(self, host_id: HostId) -> None:
        place = self._places.pop(host_id, None)
        if place is not None:
            self._forget_round(place)
            self._schedule.drop(host_id)
            if self._hosts.get(place.path.target.address) == host_id:
                del self._hosts[place.path.target.address]

    def handle_answer(self, sequence: int, address: str, now: float) -> None:
        """Note an echo reply. It counts only for a packet of the current round."""
        sent = self._schedule.sent(sequence)
        place = self._places[sent[0]] if sent is not None else None
        if sent is None or place is None or place.round is None or place.path.target.address != address:
            return
        self._schedule.end([sequence])
        place.round.answered.add(sequence)
        place.path.rtt_s = now - place.round.sent_at
        if place.round.is_complete:
            self._end_round(sent[0], place, now)

    def handle_heard(self, address: str, now: float) -> None:
        """Note an echo request: packets of that host arrive here."""
        host_id = self._hosts.get(address)
        if host_id is not None:
            self._places[host_id].path.heard_at = now

    def handle_liveness(self, host_id: HostId, now: float) -> None:
        """Note that its kernel fell silent, or is back (netagent.probes.liveness), and test the path at once."""
        place = self._places.get(host_id)
        if place is not None and place.path.phase in {Phase.CALM, Phase.DOWN}:
            self._forget_round(place)
            place.path.check()
            self._schedule.plan(host_id, now)

    def handle_deadline(self, now: float) -> None:
        """Judge the rounds whose time is over, and begin those that are due."""
        while (host_id := self._schedule.take_due(now)) is not None:
            place = self._places[host_id]
            if place.round is not None:
                self._end_round(host_id, place, now)
            else:
                self._begin_round(host_id, place, now)

    # -- what goes out -----------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """Return when handle_deadline has something to do; infinity without targets."""
        return self._schedule.next_deadline()

    def drain(self) -> tuple[list[PathProbe], list[PathChanged]]:
        """Return probes, which may be lost, and changes, which must not."""
        output = self._probes, self._changes
        self._probes, self._changes = [], []
        return output

    @property
    def is_listening(self) -> bool:
        """Return whether handle_heard makes a difference: some path is down."""
        return any(place.path.is_down for place in self._places.values())

    def status(self, host_id: HostId, now: float) -> PathStatus | None:
        """Return what is known; None for a host that shares no network with this one."""
        place = self._places.get(host_id)
        return None if place is None else place.path.status(now)

    def check_invariants(self) -> None:
        """Raise if an awaited sequence does not belong to the round of a known path."""
        self._schedule.check_invariants()
        for sequence, host_id in self._schedule.waiting().items():
            under_way = self._places[host_id].round
            assert under_way is not None
            assert sequence in under_way.sizes
        assert set(self._hosts.values()) <= self._places.keys()
        for place in self._places.values():
            place.path.check_invariants()

    # -- rounds ------------------------------------------------------------------------------------------------

    def _begin_round(self, host_id: HostId, place: _Place, now: float) -> None:
        sizes = place.path.sizes()
        wait_s = 0.0 if place.has_credit else self._take_credit(len(sizes), now)
        place.has_credit = wait_s > 0
        if place.has_credit:
            self._schedule.plan(host_id, now + wait_s)
            return
        place.round = Round(now)
        for size_bytes in sizes:
            sequence = self._schedule.send(host_id, now)
            place.round.sizes[sequence] = size_bytes
            self._probes.append(PathProbe(host_id, place.path.target.address, sequence, size_bytes))
        self._schedule.plan(host_id, now + place.path.round_s())

    def _take_credit(self, packets: int, now: float) -> float:
        """Return how long until these packets may be sent. They are charged at once, so each round waits its turn."""
        earned = max(0.0, now - self._credit_at) * PACKETS_PER_S
        self._credit_packets = min(BURST_PACKETS, self._credit_packets + earned) - packets
        self._credit_at = now
        return max(0.0, -self._credit_packets / PACKETS_PER_S)

    def _end_round(self, host_id: HostId, place: _Place, now: float) -> None:
        done = place.round
        if done is None:
            return
        self._forget_round(place)
        pause_s = self._stretched(place.path, place.path.judge(done))
        self._schedule.plan(host_id, max(now, done.sent_at + pause_s))
        self._tell(host_id, place, now)

    def _stretched(self, path: Path, pause_s: float | None) -> float:
        """Stretch a pause between routine rounds with the number of paths, and vary it randomly."""
        if pause_s is None:
            pause_s = CALM_INTERVAL_S
        elif path.phase not in {Phase.CALM, Phase.DOWN} or pause_s < DOWN_INTERVAL_S:
            return pause_s
        least_s = len(self._places) * len(path.sizes()) / REST_PACKETS_PER_S
        return max(pause_s, least_s) * (0.9 + 0.2 * self._rng.random())

    def _forget_round(self, place: _Place) -> None:
        if place.round is not None:
            self._schedule.end(place.round.sizes)
            place.round = None

    def _tell(self, host_id: HostId, place: _Place, now: float) -> None:
        status = place.path.status(now)
        told = (status.quality, status.size_bytes, status.limit_bytes)
        if place.told != told:
            place.told = told
            self._changes.append(PathChanged(host_id, status))
