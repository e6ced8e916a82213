"""The merge rule and the table."""

from __future__ import annotations

import itertools
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from netgossip.membership.members import RULES, MemberTable, UpdateVerdict, judge
from netgossip.types import Member, MemberState

ADDRESS = ("192.0.2.1", 7956)
OWN = Member("own", ADDRESS, MemberState.ALIVE, 1)
STATES = list(MemberState)

CLAIMS = st.tuples(st.integers(0, 5), st.sampled_from(STATES))


def apply(held: Member, state: MemberState, incarnation: int) -> Member:
    verdict = judge(held, state, incarnation)
    if verdict is UpdateVerdict.TAKE:
        return replace(held, state=state, incarnation=incarnation)
    if verdict in (UpdateVerdict.RAISE, UpdateVerdict.CONFIRM):
        return replace(held, incarnation=max(held.incarnation, incarnation))
    return held


def test_there_is_a_rule_for_everything() -> None:
    assert set(RULES) == set(itertools.product(STATES, STATES))


@given(CLAIMS, st.lists(CLAIMS, max_size=20))
def test_belief_goes_down_only_with_a_newer_incarnation(
    first: tuple[int, MemberState], state_updates: list[tuple[int, MemberState]]
) -> None:
    held = Member("n", ADDRESS, first[1], first[0])
    for incarnation, state in state_updates:
        after = apply(held, state, incarnation)
        assert (after.incarnation, after.state.value) >= (held.incarnation, held.state.value)
        held = after


@given(st.sets(CLAIMS, min_size=1), st.data())
def test_all_who_hear_all_claims_believe_the_highest(
    state_updates: set[tuple[int, MemberState]], data: st.DataObject
) -> None:
    # Whatever is claimed of an incarnation, some node first claimed that it was alive.
    state_updates |= {(incarnation, MemberState.ALIVE) for incarnation, _ in state_updates}
    orders = st.permutations(sorted(state_updates, key=lambda claim: (claim[0], claim[1].value)))
    held = Member("n", ADDRESS, MemberState.ALIVE, 0)
    for _ in range(2 * len(state_updates)):
        for incarnation, state in data.draw(orders):
            held = apply(held, state, incarnation)
        if (held.incarnation, held.state) == max(state_updates, key=lambda claim: (claim[0], claim[1].value)):
            return
    raise AssertionError(f"believes {held}")


def test_the_dead_stay_dead_at_their_last_incarnation() -> None:
    held = Member("n", ADDRESS, MemberState.DEAD, 2)
    held = apply(held, MemberState.DEAD, 10)
    assert apply(held, MemberState.ALIVE, 5).state is MemberState.DEAD
    assert apply(held, MemberState.ALIVE, 11).state is MemberState.ALIVE


def test_table_counts_the_live_and_remembers_when_states_changed() -> None:
    table = MemberTable(OWN)
    other = Member("other", ("192.0.2.2", 7956), MemberState.ALIVE, 1)
    assert table.put(other, 5.0) is None
    table.put(replace(other, incarnation=2), 6.0)
    assert (table.live, table.changed_at("other")) == (2, 5.0)
    revision = table.revision
    table.put(replace(other, state=MemberState.DEAD), 7.0)
    assert (table.live, table.changed_at("other")) == (1, 7.0)
    assert table.revision > revision
    assert [m.node_id for m in table.others(MemberState.DEAD)] == ["other"]
    table.remove("other")
    assert set(table.view) == {"own"}
    table.check_invariants()
