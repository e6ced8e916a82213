"""Which check is due when: the interval with its jitter, the bound, and no check lost or asked twice at a time."""

from __future__ import annotations

import itertools
from collections import Counter
from random import Random

from fakes.work import instructions_of
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from netagent.checks.schedule import (
    BATCH_S,
    COMMANDS_AT_ONCE,
    FIRST_S,
    JITTER,
    MAX_AT_ONCE,
    PER_OWNER,
    CheckSchedule,
)
from netgossip.deadlines import NEVER


def of_own_containers() -> CheckSchedule[int]:
    """A schedule in which each check has a container of its own, and none is a command."""
    return CheckSchedule(Random(1), owner_of=lambda key: key, is_command=lambda _: False)


def run(
    schedule: CheckSchedule[int], until: float, took_s: float, interval_s: float
) -> dict[int, list[float]]:
    """Answer each check after `took_s`, up to a moment; return when each was asked."""
    asked: dict[int, list[float]] = {}
    ends: list[tuple[float, int]] = []
    while True:
        now = min(schedule.next_moment(), *(at for at, _ in ends), NEVER)
        if now > until:
            return asked
        for at, key in [one for one in ends if one[0] <= now]:
            ends.remove((at, key))
            schedule.end(key, interval_s, now)
        for key in schedule.take(now):
            asked.setdefault(key, []).append(now)
            ends.append((now + took_s, key))
        schedule.check_invariants()


def test_each_check_is_asked_once_per_interval() -> None:
    schedule: CheckSchedule[int] = of_own_containers()
    for key in range(200):
        schedule.add(key, 0.0)
    asked = run(schedule, 100.0, 0.001, 2.0)
    assert len(asked) == 200
    for moments in asked.values():
        assert moments[0] <= FIRST_S
        gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
        assert all(2 * (1 - JITTER) - BATCH_S <= gap <= 2 * (1 + JITTER) + BATCH_S for gap in gaps)
        assert 48 <= len(moments) <= 54


def test_checks_that_hang_do_not_keep_the_others_from_their_turn() -> None:
    """As many as may be asked at once hang for a second each; all others still have their turn."""
    schedule: CheckSchedule[int] = of_own_containers()
    for key in range(1000):
        schedule.add(key, 0.0)
    asked = run(schedule, 60.0, 1.0, 2.0)
    assert len(asked) == 1000
    counts = [len(moments) for moments in asked.values()]
    assert max(counts) - min(counts) <= 1


def test_one_container_and_commands_that_hang_keep_no_other_check_from_its_turn() -> None:
    """Eight checks of each of ten containers hang for a minute, and all of these are commands."""
    schedule: CheckSchedule[int] = CheckSchedule(
        Random(1), owner_of=lambda key: key // 8, is_command=lambda key: key < 80
    )
    for key in range(160):
        schedule.add(key, 0.0)
    asked = Counter[int]()
    ends: list[tuple[float, int]] = []
    now = 0.0
    while now < 300.0:
        for at, key in sorted(one for one in ends if one[0] <= now):
            ends.remove((at, key))
            schedule.end(key, 2.0, now)
        for key in schedule.take(now):
            asked[key] += 1
            ends.append((now + (60.0 if key < 80 else 0.001), key))
        schedule.check_invariants()
        now = max(now, min(schedule.next_moment(), *(at for at, _ in ends)))
    assert min(asked[key] for key in range(80, 160)) > 130
    commands = [asked[key] for key in range(80)]
    assert sum(commands) == 5 * COMMANDS_AT_ONCE
    assert max(commands) == 1, "each has its turn before one has a second"


def test_the_cost_of_a_question_does_not_grow_with_the_checks() -> None:
    def work(count: int) -> float:
        schedule: CheckSchedule[int] = of_own_containers()
        for key in range(count):
            schedule.add(key, 0.0)

        def ask_for_ten_seconds() -> None:
            while (now := schedule.next_moment()) < 10.0:
                for key in schedule.take(now):
                    schedule.end(key, 2.0, now)

        return instructions_of(ask_for_ten_seconds, most=5_000_000) / count

    assert work(1000) < 1.5 * work(100)


class Machine(RuleBasedStateMachine):
    """Against a plain model: the checks that exist, and those that are being asked."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule: CheckSchedule[int] = CheckSchedule(
            Random(7), owner_of=lambda key: key // 8, is_command=lambda key: key % 3 == 0
        )
        self.now = 0.0
        self.wanted: set[int] = set()
        self.asked: set[int] = set()

    @rule(key=st.integers(0, 99))
    def add(self, key: int) -> None:
        self.schedule.add(key, self.now)
        self.wanted.add(key)

    @rule(key=st.integers(0, 99))
    def drop(self, key: int) -> None:
        self.schedule.drop(key)
        self.wanted.discard(key)

    @rule(pause_s=st.sampled_from([0.0, 0.05, 1.0, 5.0]))
    def take(self, pause_s: float) -> None:
        self.now += pause_s
        taken = self.schedule.take(self.now)
        assert len(set(taken)) == len(taken)
        assert self.asked.isdisjoint(taken)
        assert self.wanted.issuperset(taken)
        self.asked.update(taken)
        assert sum(key % 3 == 0 for key in self.asked) <= COMMANDS_AT_ONCE
        assert max(Counter(key // 8 for key in self.asked).values(), default=0) <= PER_OWNER

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        if self.asked:
            key = data.draw(st.sampled_from(sorted(self.asked)))
            self.schedule.end(key, 1.0, self.now)
            self.asked.discard(key)

    @invariant()
    def no_check_is_lost(self) -> None:
        self.schedule.check_invariants()
        full = sum(key % 3 == 0 for key in self.asked) == COMMANDS_AT_ONCE
        of_owner = Counter(key // 8 for key in self.asked)
        waiting = {
            key
            for key in self.wanted - self.asked
            if not (full and key % 3 == 0) and of_owner[key // 8] < PER_OWNER
        }
        if waiting and len(self.asked) < MAX_AT_ONCE:
            assert self.schedule.next_moment() <= self.now + 2.0
        if not self.wanted - self.asked:
            assert self.schedule.next_moment() == NEVER


TestMachine = Machine.TestCase
