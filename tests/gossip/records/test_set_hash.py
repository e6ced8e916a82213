"""The set hash depends on what the records are, and on nothing else."""

from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netgossip.records.set_hash import EMPTY, STATE_LIMIT, element, set_digest
from netgossip.types import Entry, Version

SCOPE, OWNER = bytes(16), "aa" * 16

keys = st.binary(min_size=1, max_size=255)
entries = st.builds(
    lambda key, value, sequence: Entry(SCOPE, OWNER, key, value, Version(1, sequence)),
    keys,
    st.none() | st.binary(max_size=300),
    st.integers(1, 1 << 62),
)


@given(st.lists(entries, max_size=8, unique_by=lambda entry: entry.key), st.randoms())
def test_the_order_in_which_records_come_and_go_does_not_matter(
    some: list[Entry], rng: random.Random
) -> None:
    there = sum(map(element, some)) % STATE_LIMIT
    rng.shuffle(some)
    gone = some[: len(some) // 2]
    state = sum(map(element, some)) - sum(map(element, gone)) + sum(map(element, gone))
    assert state % STATE_LIMIT == there
    assert set_digest(there) == set_digest(state % STATE_LIMIT)


@given(entries, entries)
def test_two_live_records_have_one_summand_only_if_they_are_equal(one: Entry, other: Entry) -> None:
    if one.value is None or other.value is None:
        assert EMPTY in (element(one), element(other))
    else:
        assert (element(one) == element(other)) == (one == other)


@pytest.mark.parametrize(
    ("key", "value"),
    [(b"ab", b"c"), (b"a", b"bc"), (b"a", b"b"), (b"abc", b"")],
)
def test_what_belongs_to_the_key_is_not_taken_for_the_value(key: bytes, value: bytes) -> None:
    one = Entry(SCOPE, OWNER, b"a", b"bcd", Version(1, 7))
    assert element(one) != element(dataclasses.replace(one, key=key, value=value))


def test_summands_fill_the_state() -> None:
    """A short one would make the sum as weak as its length."""
    some = [element(Entry(SCOPE, OWNER, b"k%d" % n, b"", Version(1, 1))) for n in range(200)]
    assert max(some).bit_length() > STATE_LIMIT.bit_length() - 10
    assert all(one.bit_length() > STATE_LIMIT.bit_length() - 40 for one in some)
