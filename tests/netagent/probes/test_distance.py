"""A host changes its class when the path has changed, and not with a sample."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from netagent.model.ids import HostId
from netagent.model.locality import CLASS_BOUNDS_S, FARTHEST, class_of
from netagent.probes.distance import HOLD_S, MARGIN, WINDOW, Distances

HOST, OTHER = HostId("1" * 32), HostId("2" * 32)


def feed(distances: Distances, rtts_s: list[float], *, start: float = 0.0) -> float:
    for number, rtt_s in enumerate(rtts_s):
        distances.handle_rtt(HOST, rtt_s, start + number)
    return start + len(rtts_s)


def test_the_classes_have_wide_bounds() -> None:
    assert [class_of(rtt_s) for rtt_s in (0.0, 0.001, 0.0011, 0.016, 0.3)] == [1, 1, 2, 3, FARTHEST]


def test_the_first_answer_says_how_far_a_host_is() -> None:
    distances = Distances()
    feed(distances, [0.0003])
    assert distances.take_changes() == {HOST: 1}
    assert distances.take_changes() == {}
    assert distances.classes == {HOST: 1}
    assert distances.rtt_s(HOST) == 0.0003
    assert distances.rtt_s(OTHER) is None


def test_slow_samples_say_nothing_while_fast_ones_are_among_them() -> None:
    distances = Distances()
    slow_and_fast = [0.0003, *[0.2] * (WINDOW - 1)] * 20
    feed(distances, slow_and_fast)
    assert distances.classes == {HOST: 1}


def test_a_longer_path_counts_when_no_sample_is_fast_any_more() -> None:
    distances = Distances()
    now = feed(distances, [0.0003])
    now = feed(distances, [0.02] * (WINDOW - 1), start=now)
    assert distances.classes == {HOST: 1}
    now = feed(distances, [0.02], start=now)
    assert distances.classes == {HOST: 4}
    now = feed(distances, [0.0003] * 4, start=now)
    assert distances.classes == {HOST: 4}, "not twice within half a minute"
    feed(distances, [0.0003], start=now + HOLD_S)
    assert distances.classes == {HOST: 1}


def test_a_first_sample_that_was_too_slow_is_corrected_at_once() -> None:
    distances = Distances()
    feed(distances, [0.3, 0.0004])
    assert distances.classes == {HOST: 1}
    distances = Distances()
    feed(distances, [0.0011, 0.0009])
    assert distances.classes == {HOST: 1}, "also by less than the margin"


@given(st.sampled_from(CLASS_BOUNDS_S), st.integers(0, 2**32))
def test_a_path_at_a_bound_never_alternates(bound_s: float, seed: int) -> None:
    chance = random.Random(seed)
    distances = Distances()
    classes = []
    for number in range(500):
        distances.handle_rtt(HOST, bound_s * chance.uniform(1 / MARGIN + 0.01, MARGIN - 0.01), float(number))
        classes.append(distances.classes[HOST])
    assert classes[:WINDOW] == sorted(classes[:WINDOW], reverse=True), "its first samples bring it nearer"
    assert len(set(classes[WINDOW - 1 :])) == 1


@given(st.integers(0, 2**32))
def test_whatever_the_samples_the_changes_are_few(seed: int) -> None:
    chance = random.Random(seed)
    distances = Distances()
    changes = 0
    for number in range(600):
        distances.handle_rtt(HOST, chance.choice((0.0001, 0.1, 0.5)), float(number))
        changes += len(distances.take_changes())
    assert changes <= 2 + 600 / HOLD_S


def test_the_previous_agent_s_result_stands_until_samples_say_otherwise() -> None:
    distances = Distances({HOST: 3, OTHER: 2})
    assert distances.classes == {HOST: 3, OTHER: 2}
    now = feed(distances, [0.3] * (WINDOW - 1))
    assert distances.classes[HOST] == 3
    feed(distances, [0.3], start=now)
    assert distances.classes[HOST] == FARTHEST
    distances.keep_only({HOST})
    assert distances.take_changes() == {HOST: FARTHEST, OTHER: None}
