"""Shares, classes and words."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netagent.interface.containers import AttachCommand
from netagent.model.locality import (
    DEFAULT_WEIGHT,
    HERE,
    MAX_PLACES,
    MAX_TOP,
    MAX_WEIGHT,
    WARM_UP_STEP_S,
    WARM_UP_STEPS,
    AnswerOrder,
    Choice,
    choice_of,
    class_of,
    class_text,
    first_places,
    is_warming,
    tiers,
    warm_steps,
)


@given(st.lists(st.integers(0, MAX_WEIGHT), min_size=1, max_size=12))
def test_the_first_places_are_shared_by_weight(weights: list[int]) -> None:
    places = first_places(weights)
    assert len(places) <= 2 * MAX_PLACES
    if len(set(weights)) == 1:
        assert places == ()
        return
    shares = Counter(places)
    for index, weight in enumerate(weights):
        if weight == 0:
            assert shares[index] == 0
        else:
            assert shares[index] / len(places) == pytest.approx(weight / sum(weights), abs=0.02)
            assert shares[index] >= 1


def test_the_places_of_one_are_far_apart() -> None:
    assert first_places([100, 100, 50]) == (0, 1, 2, 0, 1)
    assert first_places([300, 100]) == (0, 0, 1, 0)


def test_two_thousand_replicas_cost_what_they_are() -> None:
    weights = [1 + number % 7 for number in range(2000)]
    places = first_places(weights)
    assert set(places) == set(range(2000))
    assert len(places) <= 4000


def test_the_share_of_an_endpoint_grows_with_the_time_since_it_is_up() -> None:
    since_s = 1_700_000_000
    assert [warm_steps(since_s, since_s + age_s) for age_s in (0, 4, 5, 9, 24, 25, 10_000)] == [
        1, 1, 2, 2, 5, WARM_UP_STEPS, WARM_UP_STEPS,
    ]  # fmt: skip
    assert warm_steps(since_s, since_s - 3) == 1, "its host's clock is ahead by some seconds"
    assert warm_steps(since_s, since_s - 3600) == WARM_UP_STEPS, "its host's clock is wrong"
    assert warm_steps(None, since_s) == WARM_UP_STEPS, "it has no check"
    assert is_warming(since_s, since_s)
    assert not is_warming(since_s, since_s + WARM_UP_STEP_S * WARM_UP_STEPS)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nearest.web", (Choice(AnswerOrder.NEAREST), 1)),
        ("top2.nearest.web", (Choice(AnswerOrder.NEAREST, top=2), 2)),
        (f"top{MAX_TOP}.nearest.web", (Choice(AnswerOrder.NEAREST, top=MAX_TOP), 2)),
        (f"top{MAX_TOP + 1}.nearest.web", None),
        ("top0.nearest.web", None),
        ("top.nearest.web", None),
        ("rack7.zone.web", (Choice(AnswerOrder.ZONE, zone=b"rack7"), 2)),
        ("all.web", (Choice(every=True), 1)),
        ("zone.web", None),
        ("web", None),
    ],
)
def test_words_before_a_service(name: str, expected: object) -> None:
    assert choice_of(name.encode().split(b".")) == expected


def test_classes_in_words() -> None:
    assert class_text(HERE) == "this host"
    assert class_text(class_of(0.0003)) == "at most 1 ms away"
    assert class_text(class_of(2.0)) == "over 256 ms away"


def test_tiers_are_dense() -> None:
    assert tiers([(4, 0), (0, 1), (4, 0), (0, 0)]) == [2, 1, 2, 0]


def test_the_command_line_knows_the_bound() -> None:
    """It does not import it, to start light."""
    (weight,) = [one for one in AttachCommand.arguments() if one.field == "weight"]
    assert weight.bounds == (0, MAX_WEIGHT)
    assert str(DEFAULT_WEIGHT) in weight.help
