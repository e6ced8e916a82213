"""When a host counts as silent, and when it is back."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from netagent.model.ids import HostId
from netagent.probes.liveness import (
    BURST,
    BURST_PAUSE_S,
    CALM_REQUESTS_PER_S,
    KEEN_INTERVAL_S,
    MISSES_FOR_SILENCE,
    SHORTEST_CALM_S,
    AnswerChanged,
    EchoRequest,
    Liveness,
    LivenessReport,
)

A, B = HostId("aa" * 16), HostId("bb" * 16)


class Wire:
    """Runs the machine over virtual time; hosts in `up` answer after `rtt_s`, unless the packet is lost."""

    def __init__(self, up: set[HostId], *, loss: float = 0.0, seed: int = 0) -> None:
        self.machine, self.up, self.loss = Liveness(random.Random(seed)), up, loss
        self.rng = random.Random(seed)
        self.now, self.sent = 0.0, 0
        self.doubts: list[HostId] = []
        self.changes: list[tuple[float, AnswerChanged]] = []

    def run_until(self, end: float) -> None:
        while self.machine.next_deadline() <= end:
            self.now = max(self.now, self.machine.next_deadline())
            self.machine.handle_deadline(self.now)
            requests = self._collect()
            for request in requests:
                if request.host_id in self.up and self.rng.random() >= self.loss:
                    self.machine.handle_answer(request.sequence, request.address, self.now + 0.001)
            self._collect()
            self.machine.check_invariants()
        self.now = end

    def _collect(self) -> list[EchoRequest]:
        requests, changes, doubts = self.machine.drain()
        self.doubts += doubts
        self.sent += len(requests)
        self.changes += [(self.now, change) for change in changes]
        return requests


def test_a_host_that_answers_is_known_at_once_and_then_asked_rarely() -> None:
    wire = Wire({A})
    wire.machine.set_peers({A: ("fd00::1", False)}, 0.0)
    wire.run_until(20 * SHORTEST_CALM_S)
    assert wire.changes == [(0.0, AnswerChanged(A, True))]
    assert wire.sent <= 21


def test_many_hosts_are_asked_no_more_often_than_some_and_not_all_at_once() -> None:
    hosts = [HostId(f"{number:032x}") for number in range(600)]
    wire = Wire(set(hosts))
    wire.machine.set_peers({host: (f"fd00::{host[-3:]}", False) for host in hosts}, 0.0)
    wire.run_until(30.0)
    assert {change.host_id for _, change in wire.changes} == set(hosts)
    wire.sent = 0
    sent = []
    for second in range(31, 91):
        wire.run_until(second)
        sent.append(wire.sent)
        wire.sent = 0
    assert sum(sent) <= 60 * CALM_REQUESTS_PER_S * 1.01
    assert max(sent) < 2 * CALM_REQUESTS_PER_S


def test_of_a_storm_a_burst_goes_at_once() -> None:
    hosts = [HostId(f"{number:032x}") for number in range(300)]
    machine = Liveness(random.Random(1))
    machine.set_peers({host: (f"fd00::{host[-3:]}", True) for host in hosts}, 0.0)
    machine.handle_deadline(0.0)
    assert len(machine.drain()[0]) == BURST
    machine.handle_deadline(0.001)
    assert machine.drain()[0] == []
    assert machine.next_deadline() == BURST_PAUSE_S


def test_a_silent_host_shows_soon_once_its_agent_is_in_doubt() -> None:
    wire = Wire({A, B})
    wire.machine.set_peers({A: ("fd00::1", False), B: ("fd00::2", False)}, 0.0)
    wire.run_until(7.3)
    wire.up.discard(A)
    wire.machine.set_peers({A: ("fd00::1", True), B: ("fd00::2", False)}, wire.now)
    wire.run_until(7.3 + (MISSES_FOR_SILENCE + 1) * KEEN_INTERVAL_S)
    assert [change for _, change in wire.changes][2:] == [AnswerChanged(A, False)]
    wire.up.add(A)
    wire.run_until(7.3 + (MISSES_FOR_SILENCE + 1) * KEEN_INTERVAL_S + 2 * KEEN_INTERVAL_S)
    assert wire.changes[-1][1] == AnswerChanged(A, True)


def test_two_misses_are_a_reason_to_look_at_the_agent_once() -> None:
    wire = Wire({A, B})
    wire.machine.set_peers({A: ("fd00::1", False), B: ("fd00::2", False)}, 0.0)
    wire.run_until(5.0)
    wire.up.discard(A)
    wire.run_until(5.0 + SHORTEST_CALM_S + 2 * KEEN_INTERVAL_S)
    assert wire.doubts == [A]
    assert wire.machine.missing[A].misses >= 2
    assert wire.machine.missing[A].since <= 5.0 + SHORTEST_CALM_S
    wire.run_until(60.0)
    assert wire.doubts == [A]


def test_a_host_that_is_long_silent_or_whose_agent_is_long_away_is_asked_rarely() -> None:
    wire = Wire({A})
    wire.machine.set_peers({A: ("fd00::1", True), B: ("fd00::2", True)}, 0.0)
    wire.run_until(60.0)
    wire.sent = 0
    wire.run_until(120.0)
    assert wire.sent <= 2 * 60 / SHORTEST_CALM_S + 2
    wire.up.add(B)
    wire.run_until(120.0 + 2 * SHORTEST_CALM_S)
    assert wire.changes[-1][1] == AnswerChanged(B, True)


def test_what_somebody_asks_for_is_found_out_from_then_on() -> None:
    wire = Wire({A})
    wire.machine.set_peers({A: ("fd00::1", False), B: ("fd00::2", False)}, 0.0)
    wire.run_until(10.1)
    assert wire.machine.word(A, since=wire.now) is LivenessReport.UNKNOWN
    wire.machine.look(A, wire.now)
    wire.run_until(10.2)
    assert wire.machine.word(A, since=10.1) is LivenessReport.HEARD
    assert wire.machine.word(B, since=10.1) is LivenessReport.SILENT
    wire.up.discard(A)
    wire.machine.look(A, 10.2)
    wire.run_until(10.2 + 3 * KEEN_INTERVAL_S)
    assert wire.machine.word(A, since=10.3) is LivenessReport.SILENT
    assert wire.machine.word(HostId("cc" * 16), since=0.0) is LivenessReport.UNKNOWN


def test_who_was_not_listening_counts_no_miss() -> None:
    machine = Liveness(random.Random(0))
    machine.set_peers({A: ("fd00::1", True)}, 0.0)
    unread: list[EchoRequest] = []
    asked = 0
    for wake in range(
        20
    ):  # stopped for 2.9 s, again and again; what came meanwhile is read after the deadline
        now = 3.0 * wake
        machine.handle_deadline(now)
        for request in unread:
            machine.handle_answer(request.sequence, request.address, now + 0.01)
        machine.handle_deadline(now + 0.1)
        unread, changes, doubts = machine.drain()
        assert doubts == []
        assert all(change.answers for change in changes)
        assert machine.missing == {}
        machine.check_invariants()
        asked += len(unread)
    assert asked == 10


def test_less_than_the_bound_of_misses_says_nothing() -> None:
    wire = Wire({A})
    wire.machine.set_peers({A: ("fd00::1", True)}, 0.0)
    wire.run_until(0.1)
    wire.up.clear()
    wire.run_until((MISSES_FOR_SILENCE - 0.5) * KEEN_INTERVAL_S)
    wire.up.add(A)
    wire.run_until(60.0)
    assert [change for _, change in wire.changes] == [AnswerChanged(A, True)]


def test_answers_of_others_or_to_old_requests_do_not_count() -> None:
    machine = Liveness(random.Random(0))
    machine.set_peers({A: ("fd00::1", True)}, 0.0)
    machine.handle_deadline(0.0)
    (request,), _, _ = machine.drain()
    machine.handle_answer(request.sequence, "fd00::bad", 0.1)
    machine.handle_answer(request.sequence + 1, "fd00::1", 0.1)
    assert machine.drain() == ([], [], [])


def test_a_peer_that_is_gone_is_not_asked_any_more() -> None:
    wire = Wire({A})
    wire.machine.set_peers({A: ("fd00::1", False)}, 0.0)
    wire.machine.set_peers({}, 0.0)
    assert wire.machine.next_deadline() == float("inf")


@given(st.integers(0, 1000))
def test_a_tenth_of_loss_each_way_silences_no_host_for_long(seed: int) -> None:
    wire = Wire({A}, loss=0.19, seed=seed)
    wire.machine.set_peers({A: ("fd00::1", True)}, 0.0)
    wire.run_until(60.0)
    silent = [at for at, change in wire.changes if not change.answers]
    back = [at for at, change in wire.changes if change.answers]
    for at in silent:
        assert any(at <= b <= at + 10 * KEEN_INTERVAL_S for b in back) or at > 55.0
