"""Neither one lost packet nor one that came through turns an answer over."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection

from hypothesis import given
from hypothesis import strategies as st

from netagent.model.ids import HostId
from netagent.probes.liveness import KEEN_INTERVAL_S, MISSES_FOR_SILENCE, SHORTEST_CALM_S, Liveness
from netagent.probes.reach import STEADY_S, ReachableHosts

HOST, OTHER = HostId("1" * 32), HostId("2" * 32)


class World:
    """One host that is asked, over a path that passes what `passes` says."""

    def __init__(self, unreached: Collection[HostId] = ()) -> None:
        self.liveness, self.reach = Liveness(random.Random(1)), ReachableHosts(unreached)
        self.now = 0.0
        self.turns: list[float] = []
        self.liveness.set_peers({HOST: ("fd00::1", False)}, self.now)

    def run(self, seconds: float, passes: Callable[[], bool]) -> None:
        end = self.now + seconds
        while True:
            at = min(self.liveness.next_deadline(), self.reach.next_deadline())
            if at > end:
                break
            self.now, before = max(self.now, at), self.reach.unreached
            self.liveness.handle_deadline(self.now)
            self.reach.handle_deadline(self.now)
            self.hear()
            requests, _, _ = self.liveness.drain()
            for request in requests:
                if passes():
                    self.liveness.handle_answer(request.sequence, request.address, self.now)
            self.hear()
            self.turns += [self.now] if self.reach.unreached != before else []
            self.reach.check_invariants()
        self.now = end

    def hear(self) -> None:
        """Without taking the requests away."""
        for change in self.liveness._changes:
            self.reach.handle_answer(change.host_id, self.now, answers=change.answers)
        self.liveness._changes.clear()


def test_a_host_is_unreached_after_silence_and_reached_again_after_answering_for_a_while() -> None:
    world = World()
    world.run(10.0, lambda: True)
    assert world.reach.unreached == frozenset()
    world.run(MISSES_FOR_SILENCE * KEEN_INTERVAL_S + 2 * SHORTEST_CALM_S, lambda: False)
    assert world.reach.unreached == {HOST}
    assert len(world.turns) == 1
    world.run(STEADY_S, lambda: True)
    assert world.reach.unreached == {HOST}, "not on the first answer"
    world.run(2.0, lambda: True)
    assert world.reach.unreached == frozenset()
    assert len(world.turns) == 2


def test_single_losses_turn_nothing_over() -> None:
    world, lost = World(), iter(range(10**6))
    world.run(600.0, lambda: next(lost) % 4 != 0)
    assert world.turns == []


def test_single_answers_turn_nothing_back() -> None:
    world, lost = World(), iter(range(10**6))
    world.run(10.0, lambda: False)
    assert world.reach.unreached == {HOST}
    world.run(600.0, lambda: next(lost) % (MISSES_FOR_SILENCE + 1) == 0)
    assert world.reach.unreached == {HOST}
    assert len(world.turns) == 1


def test_what_an_earlier_agent_knew_holds_until_the_probes_tell_otherwise() -> None:
    silent, well = World({HOST}), World({HOST, OTHER})
    silent.run(60.0, lambda: False)
    assert silent.reach.unreached == {HOST}
    assert silent.turns == []
    well.reach.keep_only({HOST})
    assert well.reach.unreached == {HOST}
    well.run(STEADY_S + 2.0, lambda: True)
    assert well.reach.unreached == frozenset()
    assert well.reach.next_deadline() == math.inf


@given(st.lists(st.tuples(st.sampled_from([HOST, OTHER]), st.booleans(), st.floats(0.0, 20.0))))
def test_it_is_a_level_of_what_was_said_last(words: list[tuple[HostId, bool, float]]) -> None:
    reach, now, last = ReachableHosts(), 0.0, {}
    for host_id, answers, pause_s in words:
        now += pause_s
        reach.handle_deadline(now)
        reach.handle_answer(host_id, now, answers=answers)
        reach.check_invariants()
        last[host_id] = answers
    reach.handle_deadline(now + STEADY_S)
    assert reach.unreached == {host_id for host_id, answers in last.items() if not answers}
    assert reach.next_deadline() == math.inf
