"""What answers mean for an endpoint's health: rise, fall, grace, flapping, several checks, and the runtime's."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from netagent.checks.spec import parse_check_untrusted
from netagent.checks.state import FIRST_HOLD_S, MAX_HOLD_S, STEADY_S, EndpointHealth, Outcome, Unasked
from netagent.model.check import CheckedHealth
from netagent.model.records import MAX_REASON_CHARS, Health, HealthNote

YES = Outcome(is_success=True, text="http 200 from 8080/")
NO = Outcome(is_success=False, text="http 503 from 8080/")
STARTED_S = 1_700_000_000


class Endpoint:
    """An endpoint whose checks are answered once per second."""

    def __init__(self, *texts: str, known: CheckedHealth | None = None) -> None:
        self.now = 100.0
        checks = [parse_check_untrusted(text) for text in texts]
        self.machine = EndpointHealth(checks, known, self.now, STARTED_S)
        self.changes = 0

    def answer(self, *outcomes: Outcome, number: int = 0) -> Health:
        """Answer one check, once per outcome; return the health after that."""
        for outcome in outcomes:
            before = self.machine.checked
            self.now += 1.0
            self.machine.handle_outcome(number, outcome, self.now, self.unix_s)
            self.changes += self.machine.checked != before
            self.machine.check_invariants()
        return self.machine.checked.health

    def runtime(self, health: Health) -> Health:
        """The runtime reports a health."""
        self.machine.handle_runtime(health, self.now, self.unix_s)
        self.machine.check_invariants()
        return self.machine.checked.health

    @property
    def unix_s(self) -> int:
        """The wall clock."""
        return STARTED_S + int(self.now - 100)

    @property
    def note(self) -> HealthNote:
        """Since when, and why."""
        return self.machine.checked.note


def test_an_endpoint_is_starting_until_its_first_success() -> None:
    endpoint = Endpoint("http:8080/ fall=2 rise=3 grace=10s")
    assert endpoint.machine.checked.health is Health.STARTING
    assert endpoint.note.reason == "http:8080/ has not succeeded yet"
    assert endpoint.answer(NO, NO, NO) is Health.STARTING
    assert endpoint.answer(YES) is Health.HEALTHY
    assert endpoint.note == HealthNote(STARTED_S + 4, "")


def test_failures_count_once_the_grace_is_over() -> None:
    endpoint = Endpoint("http:8080/ fall=2 grace=10s")
    assert endpoint.answer(*[NO] * 10) is Health.STARTING
    assert endpoint.answer(NO) is Health.UNHEALTHY
    assert endpoint.note == HealthNote(STARTED_S + 11, "http 503 from 8080/, failed 2 of 2 times")


def test_failures_and_successes_count_in_a_row() -> None:
    endpoint = Endpoint("http:8080/ fall=3 rise=2")
    assert endpoint.answer(YES) is Health.HEALTHY
    assert endpoint.answer(NO, NO, YES, NO, NO) is Health.HEALTHY
    assert endpoint.answer(NO) is Health.UNHEALTHY
    assert endpoint.note == HealthNote(STARTED_S + 7, "http 503 from 8080/, failed 3 of 3 times")
    endpoint.now += MAX_HOLD_S
    assert endpoint.answer(YES, NO, YES) is Health.UNHEALTHY
    assert endpoint.answer(YES) is Health.HEALTHY
    assert endpoint.changes == 3


def test_the_reason_does_not_follow_each_answer() -> None:
    endpoint = Endpoint("http:8080/ fall=1 grace=0s")
    endpoint.answer(NO)
    for number in range(600):
        endpoint.answer(Outcome(is_success=False, text=f"http {500 + number % 2} from 8080/"))
    assert endpoint.changes <= 1 + 4 + 600 / MAX_HOLD_S


def test_a_server_that_answers_otherwise_than_at_first_is_reported_with_its_present_answer() -> None:
    endpoint = Endpoint("http:8080/ fall=1 grace=0s")
    endpoint.answer(Outcome(is_success=False, text="connection refused at 8080/"))
    endpoint.answer(NO)
    assert endpoint.note == HealthNote(STARTED_S + 1, "connection refused at 8080/, failed once")
    endpoint.now = endpoint.machine.decides_at
    endpoint.machine.handle_time(endpoint.now, endpoint.unix_s)
    assert endpoint.note == HealthNote(STARTED_S + 1, "http 503 from 8080/, failed once")


def test_a_long_reason_is_cut_before_its_counts() -> None:
    endpoint = Endpoint("http:8080/ fall=1 grace=0s")
    endpoint.answer(Outcome(is_success=False, text="x" * 500))
    assert len(endpoint.note.reason) == MAX_REASON_CHARS
    assert endpoint.note.reason.endswith("x, failed once")


def test_all_checks_must_succeed() -> None:
    endpoint = Endpoint("http:8080/ fall=1 rise=1", "tcp:6379 fall=1 rise=1")
    assert endpoint.note.reason == "not all of its 2 checks have succeeded yet"
    assert endpoint.answer(YES) is Health.STARTING
    assert endpoint.answer(YES, number=1) is Health.HEALTHY
    assert endpoint.changes == 1
    assert endpoint.answer(NO) is Health.UNHEALTHY
    refused = Outcome(is_success=False, text="connection refused at 6379")
    assert endpoint.answer(refused, number=1) is Health.UNHEALTHY
    assert endpoint.note == HealthNote(STARTED_S + 3, "http 503 from 8080/, failed once")
    # The check that was blamed recovers, the other one still fails.
    endpoint.now += MAX_HOLD_S
    assert endpoint.answer(YES) is Health.UNHEALTHY
    assert endpoint.note == HealthNote(STARTED_S + 3, "connection refused at 6379, failed once")


def test_the_runtime_s_healthcheck_is_one_of_them() -> None:
    endpoint = Endpoint("http:8080/")
    assert endpoint.runtime(Health.STARTING) is Health.STARTING
    assert endpoint.answer(YES) is Health.STARTING
    assert endpoint.runtime(Health.HEALTHY) is Health.HEALTHY
    assert endpoint.runtime(Health.UNHEALTHY) is Health.UNHEALTHY
    assert endpoint.note.reason == "its HEALTHCHECK fails"
    endpoint.now += MAX_HOLD_S
    assert endpoint.runtime(Health.UNKNOWN) is Health.HEALTHY


def test_flapping_is_held_down_for_twice_as_long_each_time() -> None:
    endpoint = Endpoint("http:8080/ fall=1 rise=1")
    endpoint.answer(YES)
    holds = []
    for _ in range(8):
        assert endpoint.answer(NO) is Health.UNHEALTHY
        down_at = endpoint.now
        while endpoint.answer(YES) is Health.UNHEALTHY:
            assert endpoint.now <= endpoint.machine.held_until
        holds.append(endpoint.now - down_at)
    assert holds == [FIRST_HOLD_S, 10.0, 20.0, 40.0, MAX_HOLD_S, MAX_HOLD_S, MAX_HOLD_S, MAX_HOLD_S]


def test_an_hour_of_flapping_costs_few_changes() -> None:
    endpoint = Endpoint("http:8080/ fall=1 rise=1")
    for _ in range(1800):
        endpoint.answer(YES, NO)
    assert endpoint.changes <= 2 * 3600 / MAX_HOLD_S + 8


def test_an_endpoint_that_was_up_for_long_comes_back_at_once() -> None:
    endpoint = Endpoint("http:8080/ fall=1 rise=1")
    endpoint.answer(YES)
    endpoint.now += STEADY_S
    assert endpoint.answer(NO, YES) is Health.HEALTHY


def test_a_held_endpoint_is_asked_when_its_hold_ends() -> None:
    endpoint = Endpoint("http:8080/ fall=1 rise=1 interval=1h")
    endpoint.answer(YES, NO)
    assert endpoint.machine.interval_s(0, endpoint.now) == FIRST_HOLD_S
    assert endpoint.machine.interval_s(0, endpoint.now + FIRST_HOLD_S - 0.1) == 1.0
    assert endpoint.machine.interval_s(0, endpoint.now + FIRST_HOLD_S) == 3600.0


def test_a_starting_endpoint_is_asked_often_but_not_by_commands() -> None:
    endpoint = Endpoint("http:8080/ interval=1m", "exec:/bin/ready interval=1m")
    assert endpoint.machine.interval_s(0, endpoint.now) == 1.0
    assert endpoint.machine.interval_s(1, endpoint.now) == 60.0
    endpoint.answer(YES)
    assert endpoint.machine.interval_s(0, endpoint.now) == 60.0


def test_what_an_earlier_run_found_stands_until_answers_say_otherwise() -> None:
    up = CheckedHealth(Health.HEALTHY, HealthNote(5))
    endpoint = Endpoint("http:8080/ fall=2 rise=2", known=up)
    assert endpoint.answer(NO, YES, NO) is Health.HEALTHY
    assert endpoint.machine.checked == up
    assert endpoint.answer(NO) is Health.UNHEALTHY
    down = CheckedHealth(Health.UNHEALTHY, HealthNote(5, "http 503 from 8080/, failed 3 of 3 times"))
    endpoint = Endpoint("http:8080/ rise=2", "tcp:80 rise=2", known=down)
    assert endpoint.answer(NO, NO, NO, NO) is Health.UNHEALTHY
    assert endpoint.answer(YES, YES) is Health.UNHEALTHY
    assert endpoint.machine.checked == down
    assert endpoint.answer(YES, YES, number=1) is Health.HEALTHY


def test_checks_that_fail_in_turn_cost_few_changes_of_the_reason() -> None:
    endpoint = Endpoint("http:8080/ fall=1 rise=1", "tcp:6379 fall=1 rise=1")
    endpoint.answer(NO)
    endpoint.answer(NO, number=1)
    before = endpoint.changes
    for _ in range(150):
        assert endpoint.answer(YES, NO) is Health.UNHEALTHY
        assert endpoint.answer(YES, NO, number=1) is Health.UNHEALTHY
    assert endpoint.changes - before <= 4 + 600 / MAX_HOLD_S


def test_a_check_that_flaps_beside_one_that_never_succeeded_is_held_down_too() -> None:
    endpoint = Endpoint("http:8080/ fall=1 rise=1 grace=0s", "tcp:6379 grace=1h")
    for _ in range(300):
        endpoint.answer(YES, NO)
    assert endpoint.changes <= 2 * 600 / MAX_HOLD_S + 8


def test_a_change_that_a_hold_keeps_back_comes_at_its_end_without_an_answer() -> None:
    endpoint = Endpoint("http:8080/ interval=1h")
    endpoint.answer(YES)
    assert endpoint.runtime(Health.UNHEALTHY) is Health.UNHEALTHY
    assert endpoint.runtime(Health.HEALTHY) is Health.UNHEALTHY
    assert endpoint.machine.decides_at == endpoint.machine.held_until == endpoint.now + FIRST_HOLD_S
    endpoint.now = endpoint.machine.decides_at
    endpoint.machine.handle_time(endpoint.now, endpoint.unix_s)
    assert endpoint.machine.checked.health is Health.HEALTHY
    assert endpoint.machine.decides_at == float("inf")


def test_what_cannot_be_asked_again_and_again_has_failed() -> None:
    """A container could keep its state otherwise, by a rule that refuses the question."""
    endpoint = Endpoint("http:8080/ fall=3 rise=1")
    endpoint.answer(YES)
    reason = Unasked("8080/ cannot be asked: Operation not permitted")
    for answers in ((2, YES), (2, NO), (2, YES)):
        for _ in range(answers[0]):
            endpoint.machine.handle_unasked(0, reason, endpoint.now, endpoint.unix_s)
        assert endpoint.answer(answers[1]) is Health.HEALTHY
    for _ in range(3):
        endpoint.machine.handle_unasked(0, reason, endpoint.now, endpoint.unix_s)
    assert endpoint.machine.checked.health is Health.UNHEALTHY
    assert endpoint.note.reason == "8080/ cannot be asked: Operation not permitted, failed 3 of 3 times"
    endpoint.machine.check_invariants()


class Machine(RuleBasedStateMachine):
    """Any answers in any order."""

    @initialize(known=st.sampled_from([None, *Health]))
    def begin(self, known: Health | None) -> None:
        found = None if known in {None, Health.UNKNOWN} else known
        self.endpoint = Endpoint(
            "http:8080/ fall=2 grace=5s",
            "tcp:6379 fall=1 rise=1",
            known=found and CheckedHealth(found, HealthNote(STARTED_S)),
        )
        self.succeeded = {0, 1} if found not in {None, Health.STARTING} else set[int]()

    @rule(
        number=st.integers(0, 1),
        outcome=st.sampled_from([YES, NO]),
        pause_s=st.sampled_from([0.0, 1.0, 30.0, 90.0]),
    )
    def answer(self, number: int, outcome: Outcome, pause_s: float) -> None:
        self.endpoint.now += pause_s
        if outcome.is_success:
            self.succeeded.add(number)
        before = self.endpoint.machine.checked
        health = self.endpoint.answer(outcome, number=number)
        if not outcome.is_success and number == 1 and before.health is Health.HEALTHY:
            assert health is Health.UNHEALTHY

    @rule(health=st.sampled_from(Health))
    def report(self, health: Health) -> None:
        self.endpoint.runtime(health)

    @invariant()
    def names_lead_only_to_what_has_succeeded(self) -> None:
        if self.endpoint.machine.checked.health is Health.HEALTHY:
            assert self.succeeded == {0, 1}


TestMachine = Machine.TestCase
