"""Which offset is next: round robin, cooled ones last, and the books always balance."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from netagent.ipam.pool import COOL_DOWN_S, Pool, pool_of
from netagent.ipam.space import Range


def test_round_robin_and_not_lowest_first() -> None:
    pool = Pool(16, [Range(0, 15)])
    assert [pool.choose() for _ in range(3)] == [2, 3, 4]
    pool.unmark(2)
    assert [pool.choose() for _ in range(11)] == [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 2]
    assert pool.choose() is None


def test_a_freed_address_cools_down() -> None:
    pool = Pool(6, [Range(0, 5)])
    assert [pool.choose(), pool.choose()] == [2, 3]
    pool.release(2, now=0.0)
    assert pool.choose() == 4
    pool.release(4, now=1.0)
    assert pool.free_ranges() == []
    assert pool.free_ranges(with_cooling=True) == [Range(2, 2), Range(4, 4)]
    assert [pool.choose(), pool.choose(), pool.choose()] == [2, 4, None], "used early, longest cooled first"
    pool.release(3, now=2.0)
    assert pool.warm(2.0 + COOL_DOWN_S - 0.1) == []
    assert pool.warm(2.0 + COOL_DOWN_S) == [3]
    assert pool.free_ranges() == [Range(3, 3)]


def test_ownership_may_change_under_use() -> None:
    pool = Pool(16, [Range(2, 5)])
    assert pool.choose() == 2
    pool.set_owned([Range(8, 9, 1)])
    assert pool.is_used(2)
    assert (pool.available_count(), pool.usable_total()) == (2, 2)
    assert [pool.choose(), pool.choose(), pool.choose()] == [8, 9, None]
    pool.release(2, now=0.0)
    assert not pool.is_used(2)
    pool.check_invariants()


def test_a_restarted_agent_knows_what_is_used_and_cools_from_the_start() -> None:
    pool = pool_of(8, [Range(0, 7)], used=[3, 6], cooling=[4, 6], now=100.0)
    assert [pool.choose() for _ in range(2)] == [2, 5]
    assert pool.choose() == 4
    pool.check_invariants()


def test_runs_end_where_the_hop_changes() -> None:
    assert Pool(16, [Range(2, 5), Range(6, 9, 1)]).free_ranges() == [Range(2, 5), Range(6, 9, 1)]


class PoolMachine(RuleBasedStateMachine):
    """Against a plain model: sets of used and cooling offsets."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool(24)
        self.used: set[int] = set()
        self.now = 0.0

    @rule(first=st.integers(0, 20), size=st.integers(0, 23), split=st.integers(0, 23))
    def own(self, first: int, size: int, split: int) -> None:
        last = min(first + size, 23)
        middle = min(max(split, first), last)
        ranges = [Range(first, middle), Range(middle + 1, last, 1)] if middle < last else [Range(first, last)]
        self.pool.set_owned(ranges)

    @rule(step=st.floats(0, COOL_DOWN_S))
    def wait(self, step: float) -> None:
        self.now += step
        self.pool.warm(self.now)

    @rule()
    def choose(self) -> None:
        available = self.pool.available_count()
        offset = self.pool.choose()
        assert (offset is None) == (available == 0)
        if offset is not None:
            assert offset not in self.used
            assert self.pool.owns(offset)
            assert 2 <= offset <= 22
            self.used.add(offset)

    @precondition(lambda self: self.used)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        offset = data.draw(st.sampled_from(sorted(self.used)))
        self.used.discard(offset)
        self.pool.release(offset, self.now)

    @invariant()
    def books_balance(self) -> None:
        self.pool.check_invariants()
        assert {offset for offset in range(24) if self.pool.is_used(offset)} == self.used


TestPoolMachine = PoolMachine.TestCase
