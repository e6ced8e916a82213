"""Long work gives way, and several of it share one turn."""

from __future__ import annotations

from collections import Counter

import trio
from hypothesis import given
from hypothesis import strategies as st

from netagent import slices
from netagent.slices import RUN_ITEMS, at_once, piece_by_piece, sorting


class Rounds(trio.abc.Instrument):
    """Counts the rounds of the event loop."""

    def __init__(self):
        self.number = 0

    def before_io_wait(self, timeout):
        self.number += 1


def counting(rounds, done, name, length):
    for _ in range(length):
        done[rounds.number] += 1
        yield
    return name


def test_works_that_are_under_way_together_have_one_piece_a_round_and_all_get_on(monkeypatch):
    monkeypatch.setattr(slices, "PIECE_S", 0.0)
    rounds, done, results = Rounds(), Counter(), []

    async def one(name):
        results.append(await piece_by_piece(counting(rounds, done, name, 50)))

    async def main():
        trio.lowlevel.add_instrument(rounds)
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for name in range(5):
                    nursery.start_soon(one, name)

    trio.run(main)
    assert sorted(results) == list(range(5))
    assert sum(done.values()) == 250
    assert max(done.values()) == 1


def test_who_is_cancelled_leaves_the_turn_to_the_others():
    def endless():
        while True:
            yield

    async def main():
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(piece_by_piece, endless())
                nursery.start_soon(piece_by_piece, endless())
                await trio.sleep(0.02)
                nursery.cancel_scope.cancel()
            rounds = Rounds()
            assert await piece_by_piece(counting(rounds, Counter(), "done", 3)) == "done"

    trio.run(main)


def test_the_result_is_the_same_at_once():
    assert at_once(counting(Rounds(), Counter(), "done", 3)) == "done"


@given(st.lists(st.tuples(st.integers(0, 5), st.integers())), st.integers(0, 3))
def test_sorted_in_pieces_is_sorted(items, times):
    items = items * (times * RUN_ITEMS // max(len(items), 1) + 1)
    assert at_once(sorting(items, lambda one: one[0])) == sorted(items, key=lambda one: one[0])


def test_sorting_stops_at_each_run_and_at_each_item_that_is_merged():
    count = 10 * RUN_ITEMS
    assert sum(1 for _ in sorting(range(count, 0, -1), lambda one: one)) == 10 + count
