"""`inspect THING --why` and `doctor` as the dicts that the API returns. Pure."""

from __future__ import annotations

from typing import Literal

from netagent.control.present import Presenter
from netagent.doctor.checks.finding import Diagnosis, Finding, Outcome
from netagent.doctor.checks.object_status import ObjectStatus
from netagent.doctor.explain import Origin, WhyReport
from netagent.interface import schema


def why(present: Presenter, explanation: WhyReport) -> schema.Why:
    """Render an explanation; `complete` is false when anything is missing, altered or left over."""
    return {
        "complete": not any(line.is_wrong for line in explanation.lines),
        "records": [_origin(present, origin) for origin in explanation.origins],
        "objects": [_line(line) for line in explanation.lines],
        "left_out": explanation.left_out,
    }


def _origin(present: Presenter, origin: Origin) -> schema.WhyRecord:
    version = origin.version
    return {
        "kind": origin.kind,
        "name": origin.name,
        "host": present.host_name(origin.owner),
        "host_id": origin.owner,
        "epoch": None if version is None else version.epoch,
        "sequence": None if version is None else version.sequence,
    }


def _line(line: ObjectStatus) -> schema.WhyObject:
    return {
        "kind": line.kind,
        "thing": line.thing,
        "state": line.state.value,
        "reason": line.reason,
        "fix": line.fix,
    }


def doctor(diagnosis: Diagnosis, *, agent: Literal["answers", "silent"]) -> schema.Doctor:
    """Render a diagnosis made by the agent or, if none answers, by the command line."""
    return {
        "healthy": diagnosis.is_healthy,
        "agent": agent,
        "host": [_outcome(outcome) for outcome in diagnosis.host],
        "intent": [_outcome(outcome) for outcome in diagnosis.intent],
        "cluster": [_outcome(outcome) for outcome in diagnosis.cluster],
        "absent": diagnosis.absent,
        "looked_at": dict(diagnosis.counts or {}),
    }


def _outcome(outcome: Outcome) -> schema.CheckOutcome:
    return {
        "name": outcome.name,
        "says": outcome.says,
        "verdict": outcome.verdict.value,
        "note": outcome.note,
        "findings": [_finding(finding) for finding in outcome.findings],
        "left_out": outcome.left_out,
    }


def _finding(finding: Finding) -> schema.CheckFinding:
    return {
        "thing": finding.thing,
        "message": finding.message,
        "fix": finding.fix,
        "severity": finding.severity.value,
    }
