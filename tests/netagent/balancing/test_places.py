"""Places: shares by weight, and as few moves as possible."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from netagent.balancing import places
from netagent.datapath.sockets.layout import PLACES
from netgossip.slices import at_once

BACKENDS = st.integers(0, 400).map(lambda number: number.to_bytes(4, "big"))
WEIGHTS = st.dictionaries(BACKENDS, st.integers(0, 1000), max_size=200)
SEEDS = st.binary(min_size=1, max_size=32)


def shares(weights: Mapping[bytes, int], seed: bytes = b"h1") -> dict[bytes, int]:
    return at_once(places.shares(weights, seed))


def fill(before: Sequence[bytes], weights: Mapping[bytes, int], seed: bytes = b"h1") -> tuple[bytes, ...]:
    return at_once(places.fill(before, weights, seed))


def equal(count: int) -> dict[bytes, int]:
    return {number.to_bytes(4, "big"): 100 for number in range(count)}


@given(WEIGHTS, SEEDS)
def test_each_backend_has_its_exact_share_rounded_down_or_up(weights: dict[bytes, int], seed: bytes) -> None:
    found = shares(weights, seed)
    assert sum(found.values()) == (PLACES if weights else 0)
    weighed = {one: weight for one, weight in weights.items() if weight} or dict.fromkeys(weights, 1)
    assert found.keys() <= weighed.keys(), "weight 0 has none, unless all have weight 0"
    for backend, weight in weighed.items():
        exact = Fraction(weight * PLACES, sum(weighed.values()))
        assert exact - 1 < found.get(backend, 0) < exact + 1


@given(st.lists(WEIGHTS, min_size=1, max_size=6), SEEDS)
def test_no_place_moves_that_may_stay(steps: list[dict[bytes, int]], seed: bytes) -> None:
    table: tuple[bytes, ...] = ()
    for weights in steps:
        wanted, before = shares(weights, seed), table
        table = fill(before, weights, seed)
        assert Counter(table) == wanted
        stay = sum((Counter(before) & Counter(wanted)).values())
        assert sum(one == other for one, other in zip(before, table, strict=False)) == stay
        assert fill(table, weights, seed) == table


@given(st.integers(1, 150), st.integers(0, 149), SEEDS)
def test_one_that_goes_or_comes_moves_its_own_places_and_no_others(
    count: int, gone: int, seed: bytes
) -> None:
    every = equal(count)
    some = {one: weight for one, weight in every.items() if one != (gone % count).to_bytes(4, "big")}
    with_all, without = shares(every, seed), shares(some, seed)
    if some:
        assert all(without.get(one, 0) >= with_all.get(one, 0) for one in some)


def test_a_table_is_filled_from_what_the_kernel_has() -> None:
    a, b, c = equal(3)
    table = fill((), equal(3))
    assert sorted(Counter(table).values()) == [21, 21, 22]
    without = fill(table, {a: 100, c: 100})
    assert sum(one != other for one, other in zip(table, without, strict=True)) == table.count(b)
    assert fill(table, {b: 100}) == (b,) * PLACES
    assert fill(table, {}) == ()
    assert fill((b"gone",) * 100, equal(3)) == table, "a table that is too long, with nothing of use"


def test_weights_are_shares() -> None:
    a, b, c = equal(3)
    assert Counter(fill((), {a: 100, b: 200, c: 100})) == {a: 16, b: 32, c: 16}
    assert Counter(fill((), {a: 0, b: 5, c: 0})) == {b: 64}
    assert set(fill((), {a: 0, b: 0, c: 0})) == {a, b, c}


def test_over_many_hosts_each_backend_has_its_share_also_with_more_of_them_than_places() -> None:
    # Half of them have a third of the weight.
    weights = {backend: 300 if number % 2 else 100 for number, backend in enumerate(equal(300))}
    every: Counter[bytes] = Counter()
    for host in range(300):
        every.update(fill((), weights, host.to_bytes(16, "big")))
    heavy = sum(every[one] for one, weight in weights.items() if weight == 300)
    assert 0.70 < heavy / (300 * PLACES) < 0.80
    assert len(every) == 300
    assert max(every.values()) < 4 * min(every[one] for one, weight in weights.items() if weight == 300)


def test_many_backends_are_weighed_in_slices() -> None:
    assert sum(1 for _ in places.fill((), equal(10_000), b"h1")) > 50
