"""How long the accused has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netgossip.config import GossipConfig
from netgossip.membership.suspicion import Suspicion

LAN = GossipConfig.lan()


@pytest.mark.parametrize(
    ("members", "shortest_s", "one_confirmed_s", "longest_s"),
    [(10, 4.0, 11.4, 24.0), (100, 8.0, 22.8, 48.0), (1000, 12.0, 34.1, 72.0), (10_000, 16.0, 45.5, 96.0)],
)
def test_times_of_the_lan_profile(
    members: int, shortest_s: float, one_confirmed_s: float, longest_s: float
) -> None:
    suspicion = Suspicion(config=LAN, members=members, accuser="a", now=100.0)
    assert suspicion.timeout_s == pytest.approx(longest_s)
    assert suspicion.confirm("b")
    assert suspicion.timeout_s == pytest.approx(one_confirmed_s, abs=0.1)
    assert suspicion.confirm("c")
    assert suspicion.deadline == pytest.approx(100.0 + shortest_s)


def test_no_other_member_can_confirm_in_a_small_cluster() -> None:
    suspicion = Suspicion(config=LAN, members=3, accuser="a", now=0.0)
    assert suspicion.timeout_s == 4.0
    assert not suspicion.confirm("b")


def test_the_accuser_and_repeated_voices_do_not_count() -> None:
    suspicion = Suspicion(config=LAN, members=100, accuser="a", now=0.0)
    assert not suspicion.confirm("a")
    assert suspicion.confirm("b")
    assert not suspicion.confirm("b")
    assert suspicion.confirmations == 1


@given(
    st.integers(1, 10_000),
    st.integers(0, 10),
    st.integers(1, 10),
    st.lists(st.text("abcdefgh", min_size=1), max_size=30),
)
def test_timeout_stays_within_its_bounds_and_never_grows(
    members: int, mult: int, max_mult: int, voices: list[str]
) -> None:
    config = GossipConfig(suspicion_mult=mult, suspicion_max_timeout_mult=max_mult)
    suspicion = Suspicion(config=config, members=members, accuser="accuser", now=0.0)
    timeouts = [suspicion.timeout_s]
    for voice in voices:
        suspicion.confirm(voice)
        timeouts.append(suspicion.timeout_s)
    assert timeouts == sorted(timeouts, reverse=True)
    assert all(suspicion.min_s <= timeout <= suspicion.max_s for timeout in timeouts)
