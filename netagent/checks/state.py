"""What the answers to an endpoint's checks mean for its health. No I/O.

Each check counts for itself: `fall` failures in a row make it unhealthy, `rise` successes healthy again. Until its
first success it is starting, and failures count only once its grace is over. The endpoint is as its worst check; the
health that its runtime reports is one of them.

Every change of the result goes to all hosts of the network, so flapping is damped: the endpoint goes down at once,
but each time that it falls again soon after it came up, it is held down for twice as long, up to a minute. A starting
endpoint is between the two: it falls to unhealthy, and comes up to healthy. For the same reason the text that says
why it is unhealthy follows the answers with pauses, each twice as long as the one before, up to a minute: a server
that refused connections at first and answers 503 since then is reported with the 503.

A question that could not be asked says nothing at first. But the container can bring that about as well, so as many
in a row as make it unhealthy count as failures; unless this host lacks memory or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from netagent.checks.spec import MIN_INTERVAL_S, subject_text
from netagent.model.check import REASONS_OF_RUNTIME, Check, CheckedHealth, ExecCheck
from netagent.model.records import MAX_REASON_CHARS, Health, HealthNote

STARTING_INTERVAL_S: Final = 1.0
"""A starting endpoint is asked at least this often, so that it comes into names soon; commands are not, because each
costs its runtime a process."""
STEADY_S: Final = 60.0
"""An endpoint that was up for this long does not flap when it falls."""
FIRST_HOLD_S: Final = 5.0
MAX_HOLD_S: Final = 60.0

_RANK: Final = {Health.UNHEALTHY: 0, Health.STARTING: 1, Health.HEALTHY: 2}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a check ended."""

    is_success: bool
    text: str
    """`http 503 from 8080/healthz`; printable."""
    shown: str = ""
    """The beginning of what came back, for an operator who asks; printable but for line breaks."""


@dataclass(frozen=True, slots=True)
class Unasked:
    """A check that could not be asked, for a reason that may lie in the container."""

    text: str
    """`its container is paused`; printable."""


Answer: TypeAlias = Outcome | Unasked | None
"""What a question came to; None: this host lacks what it takes to ask."""


@dataclass(slots=True)
class _Source:
    """What one check says, or the runtime."""

    health: Health
    reason: str


@dataclass(slots=True)
class _Counted(_Source):
    """A check of ours, and how often in a row it failed or succeeded."""

    check: Check
    grace_until: float
    failures: int = 0
    successes: int = 0
    unasked: int = 0
    """How often in a row it could not be asked."""

    @property
    def is_steady(self) -> bool:
        """True if a further success changes nothing."""
        return self.health is Health.HEALTHY and self.successes == self.check.rise

    def count(self, outcome: Outcome, now: float) -> None:
        """Take in an answer."""
        if outcome.is_success:
            self.failures, self.successes = 0, min(self.successes + 1, self.check.rise)
            if self.health is Health.STARTING or self.successes >= self.check.rise:
                self.health, self.reason = Health.HEALTHY, ""
            return
        self.successes = 0
        if self.health is Health.STARTING and now < self.grace_until:
            return
        self.failures = min(self.failures + 1, self.check.fall)
        if self.failures >= self.check.fall:
            self.health = Health.UNHEALTHY
            fall = self.check.fall
            counts = ", failed once" if fall == 1 else f", failed {fall} of {fall} times"
            self.reason = outcome.text[: MAX_REASON_CHARS - len(counts)] + counts


class EndpointHealth:
    """The health of one endpoint in one namespace."""

    def __init__(self, checks: Sequence[Check], known: CheckedHealth | None, now: float, unix_s: int) -> None:
        """`known`: what an earlier run of the agent found. It stands until answers say otherwise."""
        self.checked = known or first_health(checks, unix_s)
        """The endpoint's health. It changes only when other hosts are to learn of it."""
        health = self.checked.health
        self._checks = [_Counted(health, "", one, now + one.grace_s) for one in checks]
        self._runtime = _Source(Health.UNKNOWN, "")
        self._blamed: _Source | None = None if health is Health.HEALTHY else self._checks[0]
        for one in self._checks:
            one.reason = self.checked.note.reason
        self._up_at = float("-inf")
        self._hold_s = 0.0
        self._blamed_at = float("-inf")
        self._text_pause_s = FIRST_HOLD_S
        """How long the text stands while the health does not change."""
        self.held_until = float("-inf")
        """Before this moment it does not come up."""
        self.decides_at = float("inf")
        """The moment at which to call `handle_time`: a change waits until then."""

    def handle_outcome(self, number: int, outcome: Outcome, now: float, unix_s: int) -> None:
        """Take in the answer to the check with this number."""
        one = self._checks[number]
        one.unasked = 0
        if outcome.is_success and one.is_steady and self.checked.health is Health.HEALTHY:
            return  # as almost always: a host with a thousand checks has 500 answers per second
        one.count(outcome, now)
        self._decide(now, unix_s)

    def handle_unasked(self, number: int, reason: Unasked, now: float, unix_s: int) -> None:
        """Take in that the check with this number could not be asked."""
        one = self._checks[number]
        one.unasked = min(one.unasked + 1, one.check.fall)
        if one.unasked >= one.check.fall and one.health is not Health.UNHEALTHY:
            failure = Outcome(is_success=False, text=reason.text)
            for _ in range(one.check.fall):
                one.count(failure, now)
            self._decide(now, unix_s)

    def handle_time(self, now: float, unix_s: int) -> None:
        """The moment `decides_at` has come."""
        self._decide(now, unix_s)

    def handle_runtime(self, health: Health, now: float, unix_s: int) -> None:
        """Take in what the runtime says of the container."""
        self._runtime.health, self._runtime.reason = health, REASONS_OF_RUNTIME.get(health, "")
        self._decide(now, unix_s)

    def interval_s(self, number: int, now: float) -> float:
        """How long after it was last asked a check is asked again."""
        one = self._checks[number]
        interval_s = one.check.interval_s
        if one.health is Health.STARTING and not isinstance(one.check.subject, ExecCheck):
            interval_s = min(interval_s, STARTING_INTERVAL_S)
        # At the end of a hold, so that it comes up then, and by an answer of that moment.
        return (
            min(interval_s, max(self.held_until - now, MIN_INTERVAL_S))
            if self.held_until > now
            else interval_s
        )

    def _decide(self, now: float, unix_s: int) -> None:
        self.decides_at = float("inf")
        before, worst = self.checked, self._worst()
        health = Health.HEALTHY if worst is None else worst.health
        if _RANK[health] > _RANK[before.health] and now < self.held_until:
            self.decides_at = self.held_until
            return
        if health is before.health:
            # Which check a starting endpoint waits for is no news for other hosts.
            if worst is None or health is not Health.UNHEALTHY or worst.reason == before.note.reason:
                return
            if now < self._blamed_at + self._text_pause_s:
                self.decides_at = self._blamed_at + self._text_pause_s
                return
            self._text_pause_s = min(2 * self._text_pause_s, MAX_HOLD_S)
        else:
            self._text_pause_s = FIRST_HOLD_S
            if _RANK[health] > _RANK[before.health]:
                self._up_at = now
            else:
                self._hold(now)
        self._blamed, self._blamed_at = worst, now
        since_s = before.note.since_s if health is before.health else unix_s
        self.checked = CheckedHealth(health, HealthNote(since_s, worst.reason if worst else ""))

    def _worst(self) -> _Source | None:
        """The check that decides, None if all succeed; the one that decided before as long as no other is worse."""
        sources = [*filter(None, [self._blamed]), self._runtime, *self._checks]
        for bad in (Health.UNHEALTHY, Health.STARTING):
            for one in sources:
                if one.health is bad:
                    return one
        return None

    def _hold(self, now: float) -> None:
        is_flapping = now - self._up_at < STEADY_S
        self._hold_s = min(max(2 * self._hold_s, FIRST_HOLD_S), MAX_HOLD_S) if is_flapping else 0.0
        self.held_until = now + self._hold_s

    def check_invariants(self) -> None:
        """Raise if the health does not follow from the checks."""
        assert self.checked.health in {Health.STARTING, Health.HEALTHY, Health.UNHEALTHY}
        assert self._hold_s <= MAX_HOLD_S
        assert len(self.checked.note.reason) <= MAX_REASON_CHARS
        worst = self._worst()
        if worst is not None:
            assert _RANK[self.checked.health] <= _RANK[worst.health], "only a rise waits"


def first_health(checks: Sequence[Check], unix_s: int) -> CheckedHealth:
    """Return the health of an endpoint that gets these checks now: it waits for them."""
    if len(checks) > 1:
        text = f"not all of its {len(checks)} checks have succeeded yet"
    else:
        rest = " has not succeeded yet"
        text = subject_text(checks[0].subject)[: MAX_REASON_CHARS - len(rest)] + rest
    return CheckedHealth(Health.STARTING, HealthNote(unix_s, text))
