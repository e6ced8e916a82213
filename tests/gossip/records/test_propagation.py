from __future__ import annotations

import random

from netgossip.records.propagation import GIVEN_UP_S, SCOPES_LIMIT, Propagation
from netgossip.types import Version

SCOPE = b"s" * 16


def counted(measured: Propagation) -> tuple[int, float]:
    return measured.lags.count, measured.lags.total


def test_a_change_counts_once_the_last_peer_has_it() -> None:
    measured = Propagation()
    measured.begin(SCOPE, Version(1, 5), ["a", "b"], 10.0)
    measured.handle_held(SCOPE, "a", Version(1, 5), 10.1)
    measured.handle_held(SCOPE, "b", Version(1, 4), 10.2)  # an ack of the change before
    assert counted(measured) == (0, 0.0)
    measured.handle_held(SCOPE, "b", Version(1, 7), 10.5)  # one that came with the next ones
    assert counted(measured) == (1, 0.5)


def test_changes_that_come_meanwhile_are_not_measured() -> None:
    measured = Propagation()
    measured.begin(SCOPE, Version(1, 5), ["a"], 10.0)
    measured.begin(SCOPE, Version(1, 6), ["a", "b"], 10.1)
    measured.handle_held(SCOPE, "a", Version(1, 5), 10.25)
    assert counted(measured) == (1, 0.25)


def test_a_peer_that_goes_away_is_not_waited_for() -> None:
    measured = Propagation()
    measured.begin(SCOPE, Version(1, 5), ["a", "b"], 10.0)
    measured.forget(SCOPE, "b")
    measured.handle_held(SCOPE, "a", Version(1, 5), 10.25)
    assert counted(measured) == (1, 0.25)
    measured.begin(SCOPE, Version(1, 6), ["a"], 11.0)
    measured.forget(SCOPE, "a")
    assert counted(measured) == (1, 0.25)
    assert len(measured) == 0


def test_a_change_without_peers_is_none() -> None:
    measured = Propagation()
    measured.begin(SCOPE, Version(1, 5), [], 10.0)
    assert len(measured) == 0


def test_one_that_never_ends_counts_as_late_and_makes_room() -> None:
    measured = Propagation()
    measured.begin(SCOPE, Version(1, 5), ["a"], 10.0)
    measured.begin(SCOPE, Version(1, 6), ["a"], 10.0 + GIVEN_UP_S)
    assert counted(measured) == (1, GIVEN_UP_S)
    assert list(measured.lags.cumulative())[-2][1] == 0  # beyond the last bound
    measured.handle_held(SCOPE, "a", Version(1, 6), 10.0 + GIVEN_UP_S + 0.5)
    assert counted(measured) == (2, GIVEN_UP_S + 0.5)


def test_scopes_that_are_measured_at_a_time_are_bounded() -> None:
    measured = Propagation()
    for number in range(SCOPES_LIMIT + 10):
        measured.begin(number.to_bytes(16, "big"), Version(1, 1), ["a"], 1.0)
    assert len(measured) == SCOPES_LIMIT


def test_whatever_happens_each_measurement_ends_at_most_once() -> None:
    rng = random.Random(7)
    measured, begun, now = Propagation(), 0, 0.0
    for _ in range(5_000):
        now += rng.random()
        scope, peer = rng.choice([b"a" * 16, b"b" * 16]), rng.choice("xyz")
        version = Version(1, rng.randrange(20))
        match rng.randrange(3):
            case 0:
                before = len(measured)
                ended = measured.lags.count
                measured.begin(scope, version, rng.sample("xyz", rng.randrange(4)), now)
                begun += len(measured) - before + measured.lags.count - ended
            case 1:
                measured.handle_held(scope, peer, version, now)
            case _:
                measured.forget(scope, peer)
        assert measured.lags.count + len(measured) <= begun
    assert measured.lags.count > 100
