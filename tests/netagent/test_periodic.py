"""Tasks that look again and again share their wake-ups, and none looks later than its own pause says."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from netagent.model.ids import HostId
from netagent.periodic import MOST_A_LOOK, TICK_S, Turns, tick_within
from netagent.probes.liveness import SHORTEST_CALM_S, Liveness

NOW = st.floats(min_value=0, max_value=1e6)


@given(NOW, st.floats(min_value=0.01, max_value=120))
def test_none_looks_later_than_its_pause_says_nor_at_once(now: float, pause_s: float) -> None:
    at = tick_within(now, pause_s)
    assert now < at <= now + pause_s


@given(st.lists(NOW, min_size=1, max_size=5), st.sampled_from([0.5, 1.0, 1.5, 2.0, 5.0]))
def test_whoever_looks_again_and_again_soon_looks_at_beats_and_keeps_its_period(
    starts: list[float], period_s: float
) -> None:
    for start in starts:
        first = tick_within(start, period_s)
        assert first % TICK_S < 1e-6 or first == start + period_s
        second = tick_within(first + 0.002, period_s)  # the look itself takes a moment
        assert second % TICK_S < 1e-6
        assert tick_within(second + 0.002, period_s) - second == period_s


def test_a_few_hosts_are_asked_at_the_same_moments() -> None:
    machine, now = Liveness(random.Random(7)), 1000.13
    machine.set_peers({HostId(f"{n:02x}"): (f"fd00::{n}", False) for n in range(1, 4)}, now)
    moments = []
    while now < 1010:
        machine.handle_deadline(now)
        requests, _, _ = machine.drain()
        if requests:
            moments.append(now)
        for request in requests:
            machine.handle_answer(request.sequence, request.address, now + 0.0003)
        now = machine.next_deadline()
    assert len(moments) <= 1 + 10 / SHORTEST_CALM_S


@given(st.integers(0, 12 * MOST_A_LOOK), st.data())
def test_each_of_many_has_its_turn_once_in_a_round_however_others_come_and_go(
    count: int, data: st.DataObject
) -> None:
    turns, things = Turns[int](), dict.fromkeys(range(count))
    looks = -(-count // MOST_A_LOOK)
    for _ in range(2):
        seen = []
        for _ in range(looks):
            taken = turns.take(things.keys())
            assert len(taken) <= MOST_A_LOOK
            seen += taken
        assert sorted(seen) == list(range(count))
    gone = data.draw(st.sets(st.integers(0, max(count - 1, 0)), max_size=5)) & things.keys()
    for one in gone:
        del things[one]
    things |= dict.fromkeys(range(count, count + 3))
    rounds = [turns.take(things.keys()) for _ in range(2 * looks + 2)]
    assert {one for taken in rounds for one in taken} == things.keys()


def test_a_look_after_damage_is_at_everything_and_the_one_after_it_is_not() -> None:
    turns, things = Turns[int](), range(3 * MOST_A_LOOK)
    turns.take(things)
    turns.hurry()
    assert turns.take(things) == list(things)
    assert len(turns.take(things)) == MOST_A_LOOK
