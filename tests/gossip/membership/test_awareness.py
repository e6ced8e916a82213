"""The local health score."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from netgossip.membership.awareness import Awareness


@given(st.lists(st.integers(-3, 3)))
def test_score_stays_within_its_bounds(deltas: list[int]) -> None:
    awareness = Awareness(8)
    for delta in deltas:
        awareness.apply(delta)
        assert 0 <= awareness.score <= 7
        assert awareness.stretched_s(1.0) == awareness.score + 1
