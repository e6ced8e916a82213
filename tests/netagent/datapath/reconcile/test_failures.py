"""What is a failure, for how long, and what the next pass has to do."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from netagent.datapath.reconcile.apply import Failure
from netagent.datapath.reconcile.failures import SHOWN, Failures, RetryPlan
from netagent.datapath.reconcile.operations import DeleteDevice, SetEntry
from netagent.datapath.state import EntryKey

MAC = "02:0a:00:00:00:03"
KEY: EntryKey = ("self", ("nx-1", MAC))
ENTRY = Failure(SetEntry(KEY, "192.0.2.2"), errno.EINVAL, "not this one")
OTHER_KEY: EntryKey = ("self", ("nx-2", MAC))
OTHER = Failure(SetEntry(OTHER_KEY, "192.0.2.2"), errno.EINVAL, "nor this one")
DEVICE = Failure(DeleteDevice("na-1"), errno.EBUSY, "not today")
GONE = Failure(SetEntry(("self", ("nx-3", MAC)), "192.0.2.2"), errno.ENODEV, "the device nx-3 does not exist")


def test_a_refused_entry_is_known_and_nothing_else_is_looked_at() -> None:
    failing = Failures()
    assert failing.note([ENTRY], None) == RetryPlan(refused=frozenset({KEY}))
    assert failing.reason_of("nx-1") == "not this one"
    assert failing.reason_of("nx-2") is None
    assert failing.doubtful_devices() == {"nx-1"}


def test_it_stays_until_it_was_tried_again_without_a_failure() -> None:
    failing = Failures()
    failing.note([ENTRY], None)
    assert failing.note([OTHER], {OTHER_KEY}) == RetryPlan(refused=frozenset({OTHER_KEY}))
    assert failing.failures == [ENTRY, OTHER], "a plan for something else does not hide it"
    assert failing.note([], {KEY}) == RetryPlan()
    assert failing.failures == [OTHER]
    assert failing.note([], None) == RetryPlan()
    assert not failing.failures


def test_after_a_failure_of_a_device_nothing_is_known() -> None:
    failing = Failures()
    assert failing.note([ENTRY, DEVICE], {KEY}) == RetryPlan(is_unknown=True)
    assert failing.failures == [ENTRY, DEVICE]
    failing.note([], {KEY})
    assert failing.failures == [DEVICE], "only a plan for everything tries it again"


def test_what_fails_for_want_of_a_device_is_a_failure_only_the_second_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failing = Failures()
    for reported in (0, 1, 1):
        verdict = failing.note([GONE], None)
        assert verdict.is_unknown == (reported == 0)
        assert len(failing.failures) == len(caplog.records) == reported, "reported once"
        assert failing.doubtful_devices() == {"nx-3"}
    assert verdict.refused == {("self", ("nx-3", MAC))}


def test_the_first_failures_are_shown() -> None:
    failing = Failures()
    many = [
        Failure(SetEntry(("self", ("nx-1", f"{n}")), "192.0.2.2"), errno.EINVAL, "no")
        for n in range(2 * SHOWN)
    ]
    failing.note(many, None)
    assert len(failing.shown()) == SHOWN
    assert failing.shown()[0][1] == "no"


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENODEV])
def test_many_failures_cost_no_more_than_they_are(
    number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each entry of ten thousand endpoints may be refused, pass after pass, while the agent has other work."""
    many = [Failure(SetEntry(("self", ("nx-1", f"{n}")), "192.0.2.2"), number, "no") for n in range(1_000)]
    comparisons = 0

    def counted(one: Failure, other: object) -> bool:
        nonlocal comparisons
        comparisons += 1
        return isinstance(other, Failure) and one.operation == other.operation

    monkeypatch.setattr(Failure, "__eq__", counted)
    failing = Failures()
    for _ in range(3):
        failing.note([replace(one) for one in many], None)
    assert comparisons < 20 * len(many)
    assert len(failing.failures) == len(many)
    assert [one.getMessage() for one in caplog.records][SHOWN:] == [
        "datapath: the kernel refuses 900 more changes"
    ]
