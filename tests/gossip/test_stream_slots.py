"""Which stream is closed when there are too many."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from netgossip.stream_slots import SlotLimits, StreamSlots

LIMITS = SlotLimits(unproven=8, unknown_sources=5, per_host=3, proven=4)
MEMBERS = {"m1", "m2", "m3"}


def places() -> StreamSlots:
    return StreamSlots(LIMITS, is_member=MEMBERS.__contains__, rng=random.Random(1))


def test_an_unknown_source_is_closed_for_a_member_and_never_the_other_way_round() -> None:
    one = places()
    assert one.enter(1, "m1") is None
    closed = [one.enter(number, f"s{number}") for number in range(2, 200)]
    assert 1 not in closed
    assert [one.enter(number, f"m{number - 999}") for number in range(1000, 1002)] == [None, None]
    assert one.enter(2000, "m3") not in (None, 1, 1000, 1001), "a stranger's"


def test_a_host_that_has_too_many_closes_its_own() -> None:
    one = places()
    one.enter(1, "m1")
    of_host = {one.enter(number, "s") for number in range(10, 100)}
    assert of_host <= {None, *range(10, 100)}
    one.check_invariants()


def test_a_flood_from_a_members_address_does_not_always_close_the_members_stream() -> None:
    """The chance is the same for each, so a stream that needs a few arrivals to prove itself often gets there."""
    survived = 0
    for seed in range(300):
        one = StreamSlots(LIMITS, is_member=MEMBERS.__contains__, rng=random.Random(seed))
        for number in range(10):
            one.enter(number, "m1")
        one.enter(100, "m1")
        survived += 100 not in [one.enter(number, "m1") for number in range(200, 202)]
    assert 80 < survived < 190, "(2/3) squared of them"


def test_a_proven_stream_is_closed_for_its_own_member_or_as_the_stillest() -> None:
    one = places()
    for number in range(1, 5):
        one.enter(number, "m1")
        assert one.prove(number, f"node {number}") is None
    assert one.prove(1, "node 1") is None, "something came on it"
    one.enter(5, "m1")
    assert one.prove(5, "node 3") == 3, "its former one"
    one.enter(6, "m1")
    assert one.prove(6, "node 6") == 2, "the one on which nothing came for longest"
    assert one.is_proven(1)
    assert not one.is_proven(2)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["enter", "prove", "leave"]),
            st.integers(0, 20),
            st.sampled_from(["m1", "m2", "s1", "s2", "s3", "s4"]),
        )
    )
)
def test_no_limit_is_ever_exceeded(steps: list[tuple[str, int, str]]) -> None:
    one, open_now = places(), set[int]()
    for action, number, host in steps:
        victim = None
        match action:
            case "enter" if number not in open_now:
                victim = one.enter(number, host)
                open_now.add(number)
            case "prove" if number in open_now:
                victim = one.prove(number, f"node at {host}")
            case "leave":
                one.leave(number)
                open_now.discard(number)
        assert victim is None or victim in open_now
        open_now.discard(victim if victim is not None else -1)
        one.check_invariants()
        assert open_now == one._unproven.keys() | one._proven.keys()
