"""Messages in parts: cut, put together, and what parts that were made to do harm can fill and cost."""

from __future__ import annotations

import random

import pytest
from fakes.work import instructions_of
from hypothesis import given
from hypothesis import strategies as st

from netgossip.errors import WireError
from netgossip.records.parts import (
    PART_OVERHEAD_BYTES,
    PARTIAL_LIMIT,
    PATIENCE_S,
    PER_PEER_LIMIT,
    REMEMBERED,
    REPEATED_S,
    Assembly,
    Cutter,
)
from netgossip.records.wire import ASSEMBLED_BYTES, COUNTER_LIMIT, PARTS_LIMIT, Part, encode
from netgossip.slices import at_once

A, B = "aa" * 16, "bb" * 16
ROOM = 1143


def cutter(limit_bytes: int = ASSEMBLED_BYTES) -> Cutter:
    made = Cutter()
    made.limit_bytes = limit_bytes
    return made


@given(st.binary(min_size=ROOM + 1, max_size=PARTS_LIMIT * (ROOM - PART_OVERHEAD_BYTES)), st.randoms())
def test_what_was_cut_is_put_together_in_any_order(message: bytes, chance: random.Random) -> None:
    parts = cutter().cut(7, message, ROOM, 0.0)
    assert 2 <= len(parts) <= PARTS_LIMIT
    chance.shuffle(parts)
    assembly = Assembly()
    came = [assembly.add(A, 1, part, 0.0) for part in parts]
    assert came == [None] * (len(parts) - 1) + [message]
    assert len(assembly) == 0
    assembly.check_invariants()


def test_a_part_fits_into_a_datagram_whatever_its_numbers() -> None:
    part = Part(COUNTER_LIMIT - 1, PARTS_LIMIT - 1, PARTS_LIMIT, bytes(ROOM - PART_OVERHEAD_BYTES))
    assert len(at_once(encode(part))) <= ROOM


def test_what_is_too_long_or_not_announced_is_not_cut() -> None:
    most = PARTS_LIMIT * (ROOM - PART_OVERHEAD_BYTES)
    assert len(cutter().cut(1, bytes(most), ROOM, 0.0)) == PARTS_LIMIT
    assert cutter().cut(1, bytes(most + 1), ROOM, 0.0) == []
    assert cutter(2000).cut(1, bytes(2001), ROOM, 0.0) == [], "longer than the peer puts together"
    assert cutter(0).cut(1, bytes(2000), ROOM, 0.0) == [], "the peer announced nothing"


def test_the_same_message_goes_in_parts_once_in_a_while() -> None:
    one, step_s = cutter(), 0.9 * REPEATED_S
    went = [bool(one.cut(1, bytes(2000), ROOM, now)) for now in (0.0, step_s, 2 * step_s, 4 * step_s)]
    assert went == [True, False, False, True]
    for number in range(1, 2 * REMEMBERED):
        assert one.cut(1, bytes([number]) * 2000, ROOM, 0.0)
    assert len(one._sent) == REMEMBERED


def part(number: int, index: int = 0, *, count: int = 2, size: int = 1) -> Part:
    return Part(number, index, count, bytes(size))


def test_one_peer_takes_no_room_from_others() -> None:
    assembly = Assembly()
    assembly.add(B, 1, Part(1, 0, 2, b"ab"), 0.0)
    for number in range(1, 3 * PARTIAL_LIMIT):
        for index in range(PARTS_LIMIT - 1):
            assembly.add(
                A, 1, part(number, index, count=PARTS_LIMIT, size=ASSEMBLED_BYTES // PARTS_LIMIT), 0.0
            )
    assembly.check_invariants()
    assert len(assembly) == 1 + PER_PEER_LIMIT
    assert assembly.add(B, 1, Part(1, 1, 2, b"cd"), 0.0) == b"abcd"


def test_what_thousands_of_invented_peers_leave_is_bounded_and_goes_after_a_second() -> None:
    assembly = Assembly()
    for number in range(3 * PARTIAL_LIMIT):
        for index in range(PARTS_LIMIT - 1):
            piece = part(1, index, count=PARTS_LIMIT, size=ASSEMBLED_BYTES // PARTS_LIMIT)
            assembly.add(f"{number:032x}", 1, piece, 0.0)
    assembly.check_invariants()
    assert len(assembly) == PARTIAL_LIMIT
    assembly.add(B, 1, Part(1, 0, 2, b"ab"), 0.5)
    assert assembly.add(B, 1, Part(1, 1, 2, b"cd"), 0.5) == b"abcd", "a message that comes whole finds room"
    assembly.handle_deadline(PATIENCE_S - 0.01)
    assert len(assembly) == PARTIAL_LIMIT - 1
    assembly.handle_deadline(assembly.next_deadline())
    assert (len(assembly), assembly.next_deadline()) == (0, float("inf"))


def begin(assembly: Assembly, first: int) -> None:
    """A hundred messages of as many peers."""
    for number in range(first, first + 100):
        assembly.add(f"{number:032x}", 1, part(1), 0.0)


def finish(assembly: Assembly) -> None:
    """A hundred messages of the most parts, with the longest wait for each."""
    for number in range(100):
        for index in reversed(range(PARTS_LIMIT)):
            assembly.add(A, 1, part(number, index, count=PARTS_LIMIT), 0.0)


def test_a_part_costs_the_same_however_much_there_is() -> None:
    quiet, full = Assembly(), Assembly()
    for number in range(PARTIAL_LIMIT):
        full.add(f"{number:032x}", 1, part(1), 0.0)
    begun = [instructions_of(begin, one, 10 * PARTIAL_LIMIT, most=1_000_000) for one in (quiet, full)]
    assert begun[0] > 5_000
    assert begun[1] <= 4 * begun[0], "also where each displaces another peer's"
    assert full.dropped == 100
    whole = [instructions_of(finish, one, most=1_000_000) for one in (quiet, full)]
    assert whole[1] <= 1.5 * whole[0]


def test_parts_that_contradict_each_other_are_refused() -> None:
    assembly = Assembly()
    assembly.add(A, 1, part(1, 0, count=3), 0.0)
    with pytest.raises(WireError):
        assembly.add(A, 1, part(1, 1, count=2), 0.0)
    with pytest.raises(WireError):
        assembly.add(A, 1, part(1, 0, count=3), 0.0)
    assembly.add(A, 1, part(1, 1, count=3, size=ASSEMBLED_BYTES - 1), 0.0)
    with pytest.raises(WireError):
        assembly.add(A, 1, part(1, 2, count=3), 0.0)
    assert len(assembly) == 0, "it can't become whole any more"


def test_a_new_start_begins_its_numbers_again_and_a_dropped_peer_leaves_nothing() -> None:
    assembly = Assembly()
    assembly.add(A, 1, Part(1, 0, 2, b"old"), 0.0)
    assert assembly.add(A, 2, Part(1, 1, 2, b"new"), 0.0) is None
    assert assembly.add(A, 2, Part(1, 0, 2, b"a "), 0.0) == b"a new"
    assembly.add(A, 2, part(2), 0.0)
    assembly.add(A, 2, part(3), 0.0)
    assembly.forget(A)
    assembly.check_invariants()
    assert len(assembly) == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from([A, B]),
            st.integers(1, 2),
            st.integers(1, 2 * PER_PEER_LIMIT),
            st.integers(0, 3),
            st.integers(2, 4),
            st.sampled_from([1, 100, ASSEMBLED_BYTES]),
            st.floats(0, 0.7),
        )
    )
)
def test_whatever_comes_the_bounds_hold(steps: list[tuple[str, int, int, int, int, int, float]]) -> None:
    assembly, now = Assembly(), 0.0
    for sender, epoch, number, index, count, size, passed in steps:
        now += passed
        assembly.handle_deadline(now)
        try:
            whole = assembly.add(
                sender, epoch, part(number, min(index, count - 1), count=count, size=size), now
            )
        except WireError:
            whole = None
        assert whole is None or len(whole) <= ASSEMBLED_BYTES
        assembly.check_invariants()
