"""Checks as rows of a table, and their findings. Pure.

A check looks at facts that were gathered before and yields findings: what is wrong, with which thing, and how to
fix it. A new check is one more row in a table (`HOST_CHECKS`, `INTENT_CHECKS`); nothing else changes. A check whose
facts could not be gathered raises `NotKnownError`, which counts neither as passed nor as failed.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Facts = TypeVar("Facts")

MAX_FINDINGS = 50
"""Bound of findings shown per check; beyond it: the number of the others is shown. A bridge that is missing takes
thousands of entries along."""


class Severity(enum.Enum):
    """Whether a finding makes the check fail."""

    FAILED = "failed"
    WARNING = "warning"


class NotKnownError(Exception):
    """The facts of a check could not be gathered; the text says why."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. `fix` is a command, or a sentence where no command fixes it."""

    thing: str
    message: str
    fix: str
    severity: Severity = Severity.FAILED


@dataclass(frozen=True, slots=True)
class Check(Generic[Facts]):
    """A row of a table of checks."""

    name: str
    """Stable, for scripts."""
    says: str
    """The statement that holds when the check passes."""
    examine: Callable[[Facts], Iterable[Finding]]


class CheckVerdict(enum.Enum):
    """The outcome of a check."""

    PASSED = "passed"
    WARNING = "warning"
    FAILED = "failed"
    NOT_KNOWN = "not known"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a check."""

    name: str
    says: str
    verdict: CheckVerdict
    findings: tuple[Finding, ...] = ()
    left_out: int = 0
    """Findings beyond MAX_FINDINGS."""
    note: str = ""
    """Why the verdict is not known."""


def examine(checks: Sequence[Check[Facts]], facts: Facts) -> list[Outcome]:
    """Run every check of the table, in its order."""
    return [_outcome(check, facts) for check in checks]


def _outcome(check: Check[Facts], facts: Facts) -> Outcome:
    try:
        found = list(check.examine(facts))
    except NotKnownError as error:
        return Outcome(check.name, check.says, CheckVerdict.NOT_KNOWN, note=str(error))
    severities = {finding.severity for finding in found}
    verdict = CheckVerdict.PASSED
    if severities:
        verdict = CheckVerdict.FAILED if Severity.FAILED in severities else CheckVerdict.WARNING
    left_out = max(0, len(found) - MAX_FINDINGS)
    return Outcome(check.name, check.says, verdict, tuple(found[:MAX_FINDINGS]), left_out)


def is_healthy(outcomes: Iterable[Outcome]) -> bool:
    """True when no check failed; warnings and unknown verdicts do not count."""
    return all(outcome.verdict is not CheckVerdict.FAILED for outcome in outcomes)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The outcomes of all checks, by table."""

    host: tuple[Outcome, ...]
    intent: tuple[Outcome, ...] = ()
    """Empty: nothing to compare, because the host is in no cluster or no agent answers."""
    cluster: tuple[Outcome, ...] = ()
    """The warnings of `status`. Empty: no agent answers."""
    counts: Mapping[str, int] | None = None
    absent: str = ""
    """Why there is no intent to compare with."""

    @property
    def is_healthy(self) -> bool:
        """True when no check failed."""
        return is_healthy([*self.host, *self.intent, *self.cluster])
