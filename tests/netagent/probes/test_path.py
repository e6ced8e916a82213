"""What a path is said to be, when something on it is small, lossy, cut or good again."""

from __future__ import annotations

import random
from bisect import bisect_right
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netagent.model.ids import HostId
from netagent.probes.packet import SMALLEST_BYTES
from netagent.probes.path import (
    BURST_PACKETS,
    CALM_INTERVAL_S,
    PACKETS_PER_S,
    REST_PACKETS_PER_S,
    PathChanged,
    Paths,
)
from netagent.probes.quality import HEARD_S, PathStatus, PathTarget, Quality

A = HostId("aa" * 16)
WANTED_BYTES = 1450
SOON_S = 1.1 * CALM_INTERVAL_S
"""Until a calm path is looked at."""
JUDGED_S = 6.0
"""A check and a search."""


@dataclass
class Wire:
    """Runs the machine over virtual time. `limits` are what each host's path lets through."""

    hosts: int = 1
    seed: int = 0
    rtt_s: float = 0.002
    loss: float = 0.0
    """Each way."""
    limits: dict[HostId, int] = field(default_factory=dict)
    adopted: dict[HostId, int] = field(default_factory=dict)
    hears_us: bool = True
    now: float = 0.0
    sent: list[tuple[float, int]] = field(default_factory=list)
    changes: list[tuple[float, PathChanged]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.machine = Paths(random.Random(self.seed + 1))
        self.answers: list[tuple[float, int, str]] = []
        self.targets = {A: PathTarget("fd00::a", WANTED_BYTES)} | {
            HostId(f"{number:032x}"): PathTarget(f"fd00::1:{number:x}", WANTED_BYTES)
            for number in range(1, self.hosts)
        }
        self.machine.adopt(self.adopted)
        self.machine.set_targets(self.targets, self.now)

    def run_for(self, duration_s: float) -> None:
        end = self.now + duration_s
        while True:
            next_answer_at = min((at for at, _, _ in self.answers), default=float("inf"))
            at = min(self.machine.next_deadline(), next_answer_at)
            if at > end:
                break
            self.now = max(self.now, at)
            due = [answer for answer in self.answers if answer[0] <= self.now]
            self.answers = [answer for answer in self.answers if answer[0] > self.now]
            for _, sequence, address in due:
                self.machine.handle_answer(sequence, address, self.now)
            self.machine.handle_deadline(self.now)
            self._collect()
            if self.hosts < 10:
                self.machine.check_invariants()
        self.now = end

    def _collect(self) -> None:
        probes, changes = self.machine.drain()
        self.changes += [(self.now, change) for change in changes]
        for probe in probes:
            self.sent.append((self.now, probe.size_bytes))
            fits = probe.size_bytes <= self.limits.get(probe.host_id, 65535)
            passes = self.rng.random() >= self.loss and self.rng.random() >= self.loss
            if fits and passes and self.hears_us:
                self.answers.append((self.now + self.rtt_s, probe.sequence, probe.address))

    @property
    def status(self) -> PathStatus:
        status = self.machine.status(A, self.now)
        assert status is not None
        return status

    @property
    def words(self) -> list[Quality]:
        return [change.status.quality for _, change in self.changes if change.host_id == A]


def test_a_good_path_is_known_at_once_and_then_asked_rarely() -> None:
    wire = Wire()
    wire.run_for(0.1)
    assert (wire.status.quality, wire.status.size_bytes) == (Quality.OK, WANTED_BYTES)
    assert wire.status.rtt_s == pytest.approx(0.002)
    wire.run_for(100.0)
    assert wire.words == [Quality.OK]
    assert 19 <= len(wire.sent) <= 24
    assert {size for _, size in wire.sent} == {WANTED_BYTES}


@given(st.integers(SMALLEST_BYTES, WANTED_BYTES - 1), st.floats(0.0005, 0.4))
@settings(max_examples=60)
def test_the_limit_of_a_path_is_found_to_the_byte_and_so_is_its_end(limit: int, rtt_s: float) -> None:
    wire = Wire(rtt_s=rtt_s)
    wire.run_for(1.0)
    wire.limits[A] = limit
    before = len(wire.sent)
    wire.run_for(SOON_S + JUDGED_S)
    assert (wire.status.quality, wire.status.size_bytes) == (Quality.DEGRADED, limit)
    assert len(wire.sent) - before < 100
    wire.run_for(30.0)
    assert wire.words == [Quality.OK, Quality.DEGRADED]
    del wire.limits[A]
    wire.run_for(4.5)
    assert (wire.status.quality, wire.status.size_bytes) == (Quality.OK, WANTED_BYTES)


@given(st.integers(100, 1400), st.integers(100, 1400))
@settings(max_examples=30)
def test_a_limit_that_moves_is_followed(first: int, second: int) -> None:
    wire = Wire()
    wire.limits[A] = first
    wire.run_for(SOON_S + JUDGED_S)
    wire.limits[A] = second
    wire.run_for(SOON_S + JUDGED_S)
    assert (wire.status.quality, wire.status.size_bytes) == (Quality.DEGRADED, second)


@pytest.mark.parametrize(("now_bytes", "quality"), [(1350, "degraded"), (700, "degraded"), (1450, "ok")])
def test_a_limit_that_was_known_before_holds_until_another_is_found(now_bytes: int, quality: str) -> None:
    wire = Wire(adopted={A: 1350}, limits={A: now_bytes})
    wire.run_for(JUDGED_S)
    assert (wire.status.quality.value, wire.status.size_bytes) == (quality, now_bytes)
    reported = [change.status.limit_bytes for _, change in wire.changes]
    assert reported[-1] == (None if now_bytes == WANTED_BYTES else now_bytes)
    assert set(reported[:-1]) <= {1350}, "never in between as if it were all right"


def test_a_small_path_is_known_as_small_from_the_start() -> None:
    wire = Wire(limits={A: 650})
    wire.run_for(JUDGED_S)
    assert wire.words == [Quality.DEGRADED]
    assert wire.status.size_bytes == 650


@given(st.integers(0, 10**6), st.sampled_from([0.01, 0.05, 0.1]))
@settings(max_examples=40, deadline=None)
def test_loss_is_no_limit_and_no_death(seed: int, loss: float) -> None:
    wire = Wire(seed=seed, loss=loss)
    wire.run_for(300.0)
    assert set(wire.words) <= {Quality.OK, Quality.LOSSY}
    assert len(wire.words) < 12
    if loss == 0.1:
        assert Quality.LOSSY in wire.words
        wire.loss = 0.0
        wire.run_for(60.0)
        assert wire.status.quality is Quality.OK


@given(st.integers(0, 10**6), st.integers(200, 1400))
@settings(max_examples=40, deadline=None)
def test_a_limit_on_a_lossy_path_is_found_all_the_same(seed: int, limit: int) -> None:
    wire = Wire(seed=seed, loss=0.05, limits={A: limit})
    wire.run_for(60.0)
    assert (wire.status.quality, wire.status.size_bytes) == (Quality.DEGRADED, limit)
    assert set(wire.words) <= {Quality.DEGRADED, Quality.UNKNOWN}


def test_a_cut_path_is_down_and_back_within_seconds() -> None:
    wire = Wire()
    wire.run_for(1.0)
    wire.hears_us = False
    wire.run_for(SOON_S + 3.0)
    assert (wire.status.quality, wire.status.size_bytes) == (Quality.DOWN, None)
    assert wire.machine.is_listening
    sent = len(wire.sent)
    wire.run_for(60.0)
    assert len(wire.sent) - sent <= 60 / 0.9
    wire.hears_us = True
    wire.run_for(2.2)
    assert wire.words == [Quality.OK, Quality.DOWN, Quality.OK]
    assert not wire.machine.is_listening


@given(st.integers(0, 2**32), st.floats(0.5, 6.0), st.floats(0.0, CALM_INTERVAL_S))
@settings(max_examples=100)
def test_an_interruption_leaves_no_path_lossy(seed: int, cut_s: float, after_s: float) -> None:
    wire = Wire(seed=seed)
    wire.run_for(10 * CALM_INTERVAL_S + after_s)
    wire.limits[A] = 0
    wire.machine.handle_liveness(A, wire.now)  # as sudden silence is seen
    wire.run_for(cut_s)
    del wire.limits[A]
    wire.run_for(3.0)
    assert wire.status.quality is Quality.OK
    assert Quality.LOSSY not in wire.words


def test_what_the_liveness_sees_is_looked_at_now() -> None:
    wire = Wire()
    wire.run_for(1.0)
    wire.hears_us = False
    wire.machine.handle_liveness(A, wire.now)
    wire.run_for(2.5)
    assert wire.words == [Quality.OK, Quality.DOWN]
    wire.hears_us = True
    wire.machine.handle_liveness(A, wire.now)
    wire.run_for(0.1)
    assert wire.words == [Quality.OK, Quality.DOWN, Quality.OK]


def test_a_host_that_is_heard_but_does_not_hear_is_one_way() -> None:
    wire = Wire()
    wire.run_for(1.0)
    wire.hears_us = False
    for _ in range(20):
        wire.machine.handle_heard("fd00::a", wire.now)
        wire.run_for(0.5)
    assert wire.words == [Quality.OK, Quality.ONE_WAY]
    wire.run_for(HEARD_S + 1.5)
    assert wire.status.quality is Quality.DOWN


def test_a_larger_network_raises_what_is_wanted() -> None:
    wire = Wire(limits={A: 2000})
    wire.run_for(1.0)
    wire.machine.set_targets({A: PathTarget("fd00::a", 8900)}, wire.now)
    wire.run_for(JUDGED_S)
    assert (wire.status.quality, wire.status.size_bytes) == (Quality.DEGRADED, 2000)
    wire.machine.set_targets({A: PathTarget("fd00::a", 1450)}, wire.now)
    wire.run_for(0.1)
    assert (wire.status.quality, wire.status.size_bytes) == (Quality.OK, 1450)


def test_a_host_that_is_gone_is_not_asked_any_more() -> None:
    wire = Wire(hosts=3)
    wire.run_for(1.0)
    wire.machine.set_targets({}, wire.now)
    wire.machine.check_invariants()
    assert wire.machine.next_deadline() == float("inf")
    assert wire.machine.status(A, wire.now) is None


def test_answers_of_others_or_to_old_packets_do_not_count() -> None:
    wire = Wire()
    wire.machine.handle_deadline(5.0)
    (probe,), _ = wire.machine.drain()
    wire.machine.handle_answer(probe.sequence, "fd00::bad", 5.1)
    wire.machine.handle_answer(probe.sequence + 1, "fd00::a", 5.1)
    assert wire.machine.drain() == ([], [])
    assert wire.machine.status(A, 5.1) == PathStatus(Quality.UNKNOWN, WANTED_BYTES, None, None, None)


def _most_in_a_second(times: list[float]) -> int:
    return max(bisect_right(times, at + 1.0) - number for number, at in enumerate(times))


def test_hundreds_of_hosts_make_no_storm() -> None:
    wire = Wire(hosts=400)
    wire.run_for(40.0)
    assert all(_word(wire, host) is Quality.OK for host in wire.targets)
    assert len(wire.sent) < 40.0 * 1.3 * REST_PACKETS_PER_S
    assert _most_in_a_second([at for at, _ in wire.sent]) <= 2 * REST_PACKETS_PER_S + BURST_PACKETS
    wire.sent.clear()
    wire.limits = dict.fromkeys(wire.targets, 1000)
    wire.run_for(90.0)
    assert _most_in_a_second([at for at, _ in wire.sent]) <= PACKETS_PER_S + BURST_PACKETS
    assert all(_word(wire, host) is Quality.DEGRADED for host in wire.targets)


def _word(wire: Wire, host: HostId) -> Quality | None:
    status = wire.machine.status(host, wire.now)
    return status.quality if status else None
