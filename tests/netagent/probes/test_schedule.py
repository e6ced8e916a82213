"""Targets and requests on their way, whichever machine they belong to."""

from __future__ import annotations

import math

from netagent.probes.schedule import EchoSchedule


def test_a_target_has_one_deadline_the_last_one_set() -> None:
    schedule: EchoSchedule[str] = EchoSchedule()
    schedule.plan("a", 5.0)
    schedule.plan("b", 3.0)
    schedule.plan("a", 1.0)
    assert (schedule.next_deadline(), schedule.planned_at("a")) == (1.0, 1.0)
    assert [schedule.take_due(3.0) for _ in range(3)] == ["a", "b", None]
    assert schedule.next_deadline() == math.inf
    schedule.plan("a", 7.0)
    schedule.drop("a", [schedule.send("a", 6.0)])
    assert (schedule.next_deadline(), schedule.waiting()) == (math.inf, {})
    schedule.check_invariants()


def test_a_number_is_used_again_only_when_its_request_has_ended() -> None:
    schedule: EchoSchedule[str] = EchoSchedule()
    first = schedule.send("a", 1.0)
    for _ in range(2 * 65_536):
        number = schedule.send("b", 2.0)
        assert number != first
        schedule.end([number])
    assert schedule.sent(first) == ("a", 1.0)
    schedule.end([first, first])
    assert schedule.sent(first) is None
