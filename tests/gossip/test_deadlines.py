"""A DeadlineHeap says what a plain dictionary of deadlines says, and stays small."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from netgossip.deadlines import NEVER, DeadlineHeap

KEYS = st.sampled_from(["a", "b", "c", "d"])
TIMES = st.integers(0, 5).map(float)
STEPS = st.one_of(
    st.tuples(st.just("set"), KEYS, TIMES),
    st.tuples(st.just("discard"), KEYS, TIMES),
    st.tuples(st.just("pop"), KEYS, TIMES),
)


@given(st.lists(STEPS, max_size=60))
def test_it_says_what_a_dictionary_says(steps: list[tuple[str, str, float]]) -> None:
    heap: DeadlineHeap[str] = DeadlineHeap()
    held: dict[str, float] = {}
    """In the order of setting."""
    for step, key, time in steps:
        if step == "set":
            heap.set(key, time)
            if held.get(key) != time:
                held.pop(key, None)
                held[key] = time
        elif step == "discard":
            heap.discard(key)
            held.pop(key, None)
        else:
            due = min((one for one, at in held.items() if at <= time), key=held.__getitem__, default=None)
            assert heap.pop_due(time) == due
            held.pop(due or "", None)
        assert heap.next() == min(held.values(), default=NEVER)
        assert (len(heap), key in heap, heap.at(key)) == (len(held), key in held, held.get(key, NEVER))
        heap.check_invariants()


def test_deadlines_that_are_set_anew_and_removed_for_ever_do_not_fill_the_heap() -> None:
    heap: DeadlineHeap[int] = DeadlineHeap()
    for number in range(2000):
        heap.set(number % 10, 1e6 - number)
        heap.set(10, float(number))
        heap.discard(10)
        heap.check_invariants()
    assert len(heap) == 10
