"""When a host counts as silent, and when it is back."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from netagent.model.ids import HostId
from netagent.probes.liveness import (
    CALM_INTERVAL_S,
    KEEN_INTERVAL_S,
    MISSES_FOR_SILENCE,
    AnswerChanged,
    EchoRequest,
    Liveness,
)

A, B = HostId("aa" * 16), HostId("bb" * 16)


class Wire:
    """Runs the machine over virtual time; hosts in `up` answer after `rtt_s`, unless the packet is lost."""

    def __init__(self, up: set[HostId], *, loss: float = 0.0, seed: int = 0) -> None:
        self.machine, self.up, self.loss = Liveness(), up, loss
        self.rng = random.Random(seed)
        self.now, self.sent = 0.0, 0
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
        requests, changes = self.machine.drain()
        self.sent += len(requests)
        self.changes += [(self.now, change) for change in changes]
        return requests


def test_a_host_that_answers_is_known_at_once_and_then_asked_rarely() -> None:
    wire = Wire({A})
    wire.machine.set_peers({A: ("fd00::1", False)}, 0.0)
    wire.run_until(20 * CALM_INTERVAL_S)
    assert wire.changes == [(0.0, AnswerChanged(A, True))]
    assert wire.sent <= 21


def test_a_silent_host_shows_within_two_seconds_once_its_agent_is_in_doubt() -> None:
    wire = Wire({A, B})
    wire.machine.set_peers({A: ("fd00::1", False), B: ("fd00::2", False)}, 0.0)
    wire.run_until(7.3)
    wire.up.discard(A)
    wire.machine.set_peers({A: ("fd00::1", True), B: ("fd00::2", False)}, wire.now)
    wire.run_until(7.3 + 2.0)
    assert [change for _, change in wire.changes][2:] == [AnswerChanged(A, False)]
    wire.up.add(A)
    wire.run_until(7.3 + 2.0 + 2 * KEEN_INTERVAL_S)
    assert wire.changes[-1][1] == AnswerChanged(A, True)


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
    machine = Liveness()
    machine.set_peers({A: ("fd00::1", True)}, 0.0)
    machine.handle_deadline(0.0)
    (request,), _ = machine.drain()
    machine.handle_answer(request.sequence, "fd00::bad", 0.1)
    machine.handle_answer(request.sequence + 1, "fd00::1", 0.1)
    assert machine.drain() == ([], [])


def test_a_peer_that_is_gone_is_not_asked_any_more() -> None:
    wire = Wire({A})
    wire.machine.set_peers({A: ("fd00::1", False)}, 0.0)
    wire.machine.set_peers({}, 0.0)
    assert wire.machine.next_deadline() == float("inf")


@given(st.integers(0, 1000))
def test_a_tenth_of_loss_each_way_silences_nobody_for_long(seed: int) -> None:
    wire = Wire({A}, loss=0.19, seed=seed)
    wire.machine.set_peers({A: ("fd00::1", True)}, 0.0)
    wire.run_until(60.0)
    silent = [at for at, change in wire.changes if not change.answers]
    back = [at for at, change in wire.changes if change.answers]
    for at in silent:
        assert any(at <= b <= at + 10 * KEEN_INTERVAL_S for b in back) or at > 55.0
