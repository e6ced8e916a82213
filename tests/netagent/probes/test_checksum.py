"""A card that breaks checksums is found out, loss alone is no card, and a verdict is only given when it is known."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netagent.model.ids import HostId
from netagent.probes.checksum import (
    BROKEN_INTERVAL_S,
    CALM_INTERVAL_S,
    CLEAR,
    ENOUGH,
    PAIRS_PER_S,
    SETTLE_S,
    ChecksumProbe,
    Checksums,
)

A, B = HostId("aa" * 16), HostId("bb" * 16)
ADDRESSES = {A: "fd00::a", B: "fd00::b"}
FOUND_S = 1.1 * CALM_INTERVAL_S + ENOUGH * 2
RTT_S = 0.002


@dataclass
class Wire:
    """Runs the machine over virtual time."""

    hosts: dict[HostId, str] = field(default_factory=lambda: {A: ADDRESSES[A]})
    broken: set[str] = field(default_factory=set)
    """Addresses at which what the card makes arrives wrong."""
    silent: set[str] = field(default_factory=set)
    loss: float = 0.0
    """Each way."""
    seed: int = 1
    now: float = 0.0
    sent: list[ChecksumProbe] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.machine = Checksums(random.Random(self.seed))
        self.machine.set_targets(self.hosts, self.now)
        for host_id in self.hosts:
            self.machine.handle_size(host_id, 1450, self.now)

    def passes(self, datagram: ChecksumProbe) -> bool:
        damaged = datagram.address in self.broken and not datagram.is_whole
        lost = self.rng.random() < self.loss or self.rng.random() < self.loss
        return not damaged and not lost and datagram.address not in self.silent

    def run_for(self, duration_s: float) -> None:
        end = self.now + duration_s
        while self.machine.next_deadline() <= end:
            self.now = self.machine.next_deadline()
            self.machine.handle_deadline(self.now)
            for datagram in self.machine.drain():
                self.sent.append(datagram)
                if self.passes(datagram):
                    self.machine.handle_answer(datagram.sequence, datagram.address, self.now + RTT_S)
            self.machine.check_invariants()
        self.now = end

    @property
    def verdict(self) -> bool | None:
        return self.machine.verdict(self.now)


def test_a_card_that_is_right_is_used() -> None:
    wire = Wire()
    assert wire.verdict is None
    wire.run_for(1)
    assert wire.verdict is True
    assert [(one.is_whole, one.size_bytes) for one in wire.sent] == [(True, 1450), (False, 1450)]


def test_a_card_that_breaks_checksums_is_found_out_and_given_another_chance() -> None:
    wire = Wire(dict(ADDRESSES))
    wire.run_for(30)
    wire.broken = {ADDRESSES[B]}
    wire.run_for(FOUND_S)
    assert wire.machine.broken == {B}
    assert wire.verdict is False, "one peer is enough: devices are for all"
    wire.run_for(3600)
    assert wire.verdict is False
    wire.broken = set()
    wire.run_for(BROKEN_INTERVAL_S + CLEAR)
    assert wire.verdict is True


def test_a_new_machine_says_nothing_before_every_path_is_tried() -> None:
    """Or an agent that starts would turn on for some seconds what the last one had turned off."""
    wire = Wire(dict(ADDRESSES), broken={ADDRESSES[B]})
    seen = set()
    for _ in range(200):
        wire.run_for(0.05)
        seen.add(wire.verdict)
    assert seen == {None, False}


def test_a_path_that_is_not_known_yet_is_waited_for() -> None:
    wire = Wire()
    wire.machine.set_targets(ADDRESSES, wire.now)
    wire.run_for(SETTLE_S / 2)
    assert wire.verdict is None
    wire.run_for(SETTLE_S)
    assert wire.verdict is True, "but not for ever"


def test_who_does_not_answer_proves_nothing() -> None:
    wire = Wire(silent={ADDRESSES[A]}, broken={ADDRESSES[A]})
    wire.run_for(600)
    assert wire.verdict is None


def test_a_path_that_is_down_is_not_asked() -> None:
    wire = Wire()
    wire.run_for(1)
    wire.machine.handle_size(A, None, wire.now)
    wire.sent.clear()
    wire.run_for(600)
    assert wire.sent == []
    wire.machine.handle_size(A, 650, wire.now)
    wire.run_for(1)
    assert {one.size_bytes for one in wire.sent} == {650}


@pytest.mark.parametrize("loss", [0.01, 0.05])
def test_loss_is_no_broken_card(loss: float) -> None:
    for seed in range(10):
        wire = Wire(dict(ADDRESSES), loss=loss, seed=seed)
        for _ in range(100):
            wire.run_for(10)
            assert wire.verdict is not False


def test_many_paths_share_a_budget() -> None:
    wire = Wire({HostId(f"{n:032x}"): f"fd00::{n:x}" for n in range(1, 501)})
    wire.run_for(30)
    wire.sent.clear()
    wire.run_for(300)
    assert len(wire.sent) / 2 <= 300 * PAIRS_PER_S * 1.15


def test_an_answer_from_elsewhere_counts_for_nothing() -> None:
    wire = Wire()
    wire.machine.handle_deadline(0.0)
    for datagram in wire.machine.drain():
        wire.machine.handle_answer(datagram.sequence, "fd00::b", 0.001)
    wire.machine.handle_deadline(0.6)
    assert wire.machine.verdict(0.6) is None


@given(st.data())
@settings(max_examples=50)
def test_invariants_hold_whatever_comes(data: st.DataObject) -> None:
    machine, now = Checksums(random.Random(1)), 0.0
    for _ in range(data.draw(st.integers(1, 30))):
        now += data.draw(st.floats(0, 2))
        match data.draw(st.integers(0, 3)):
            case 0:
                machine.set_targets(
                    {h: ADDRESSES[h] for h in data.draw(st.sets(st.sampled_from([A, B])))}, now
                )
            case 1:
                machine.handle_size(A, data.draw(st.sampled_from([None, 100, 1450])), now)
            case 2:
                machine.handle_answer(data.draw(st.integers(0, 20)), ADDRESSES[A], now)
            case _:
                machine.handle_deadline(now)
        machine.check_invariants()
        assert machine.verdict(now) in {True, False, None}
