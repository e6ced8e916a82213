"""When several hosts agree that one is dead, and when they do not."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from netagent.model.ids import HostId
from netagent.probes.liveness import LivenessReport, SilentHost
from netagent.probes.liveness_votes import (
    FRESH_S,
    HEARD_PAUSE_S,
    MAX_HOSTS,
    MAX_OPEN,
    ROUND_S,
    WITNESSES,
    LivenessVotes,
    WitnessQuestion,
)

A, B = HostId("aa" * 16), HostId("bb" * 16)
OTHERS = [HostId(f"{number:032x}") for number in range(1, 9)]
TWICE = SilentHost(since=100.0, misses=2)


def inquiry(
    suspects: dict[HostId, SilentHost] | None = None, witnesses: list[HostId] = OTHERS, now: float = 101.0
) -> LivenessVotes:
    """One that has just asked about its suspects."""
    machine = LivenessVotes(random.Random(1))
    machine.set_situation({A: TWICE} if suspects is None else suspects, now)
    machine.handle_deadline(now, lambda: witnesses)
    return machine


def say(
    machine: LivenessVotes, questions: list[WitnessQuestion], word: LivenessReport, now: float = 101.1
) -> None:
    for question in questions:
        machine.handle_testimony(question, dict.fromkeys(question.hosts, word), now)
        machine.check_invariants()


def test_two_of_three_witnesses_that_hear_nothing_are_enough() -> None:
    machine = inquiry()
    questions = machine.drain()
    assert len({question.witness for question in questions}) == WITNESSES
    say(machine, questions[:1], LivenessReport.SILENT)
    assert machine.agreed == frozenset()
    say(machine, questions[1:2], LivenessReport.SILENT)
    assert machine.agreed == {A}


def test_one_is_enough_where_there_is_only_one() -> None:
    machine = inquiry(witnesses=OTHERS[:1])
    say(machine, machine.drain(), LivenessReport.SILENT)
    assert machine.agreed == {A}


def test_nobody_to_ask_nothing_agreed() -> None:
    machine = inquiry(witnesses=[])
    assert machine.drain() == []
    assert machine.agreed == frozenset()
    assert machine.next_deadline() == 101.0 + ROUND_S


def test_whoever_hears_it_outweighs_those_before_and_lets_all_rest() -> None:
    machine = inquiry()
    first, second, third = machine.drain()
    say(machine, [first], LivenessReport.SILENT)
    say(machine, [second], LivenessReport.HEARD, now=101.2)
    say(machine, [third], LivenessReport.SILENT)
    assert machine.agreed == frozenset()
    machine.handle_deadline(101.2 + HEARD_PAUSE_S - 0.01, lambda: OTHERS)
    assert machine.drain() == []
    machine.handle_deadline(101.2 + HEARD_PAUSE_S, lambda: OTHERS)
    say(machine, machine.drain(), LivenessReport.SILENT)
    assert machine.agreed == {A}, "it has died since"


def test_one_miss_of_our_own_is_not_enough() -> None:
    machine = inquiry({A: SilentHost(100.0, 1)})
    say(machine, machine.drain(), LivenessReport.SILENT)
    assert machine.agreed == frozenset()
    machine.set_situation({A: TWICE}, 101.5)
    assert machine.agreed == {A}


def test_a_kernel_that_was_silent_long_before_says_nothing_new() -> None:
    machine = inquiry({A: SilentHost(since=100.0, misses=50)}, now=100.1 + FRESH_S)
    assert machine.drain() == []
    assert machine.next_deadline() == float("inf")
    machine.set_situation({A: SilentHost(100.0, 51)}, 111.0)
    machine.handle_deadline(111.0, lambda: OTHERS)
    assert machine.drain() == []


def test_what_is_agreed_lasts_until_the_agent_or_the_kernel_is_back() -> None:
    machine = inquiry()
    say(machine, machine.drain(), LivenessReport.SILENT)
    machine.set_situation({A: SilentHost(100.0, 20)}, 110.0)
    assert machine.agreed == {A}, "the membership has declared it dead meanwhile"
    machine.set_situation({}, 120.0)
    assert machine.agreed == frozenset()


def test_a_witness_that_says_nothing_is_replaced_by_others() -> None:
    machine = inquiry()
    questions = machine.drain()
    for question in questions:
        machine.handle_testimony(question, {}, 101.4)
    machine.handle_deadline(101.0 + ROUND_S, lambda: OTHERS)
    say(machine, machine.drain(), LivenessReport.SILENT)
    assert machine.agreed == {A}


def test_a_testimony_that_was_not_asked_for_is_worth_nothing() -> None:
    machine = inquiry()
    for witness in OTHERS[:2]:
        machine.handle_testimony(WitnessQuestion(witness, (A, B)), {A: LivenessReport.SILENT}, 101.1)
    assert machine.agreed == frozenset()


@given(st.integers(0, 2**32), st.integers(1, 100))
def test_a_hundred_deaths_at_once_make_few_questions(seed: int, deaths: int) -> None:
    dead = [HostId(f"{number:032x}") for number in range(1000, 1000 + deaths)]
    rng = random.Random(seed)
    machine = LivenessVotes(rng)
    open_, asked, now = [], 0, 100.0
    machine.set_situation(dict.fromkeys(dead, TWICE), now)
    while machine.next_deadline() < 130.0 and now < 130.0:
        now += 0.1
        machine.handle_deadline(now, lambda: OTHERS)
        new = machine.drain()
        asked += len(new)
        assert all(len(question.hosts) <= MAX_HOSTS for question in new)
        open_ += new
        assert len(open_) <= MAX_OPEN
        machine.check_invariants()
        if open_ and rng.random() < 0.7:
            say(machine, [open_.pop(rng.randrange(len(open_)))], LivenessReport.SILENT, now)
    assert machine.agreed == set(dead)
    assert asked <= 8 * WITNESSES * -(-deaths // MAX_HOSTS)
