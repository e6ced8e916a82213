"""Labels that a group has had: counted in and out within one edit."""

from __future__ import annotations

from netagent.model.group_labels import MAX_ABSENT, GroupLabels


def test_a_group_that_loses_thousands_of_labels_in_one_edit_keeps_the_latest_at_bounded_cost() -> None:
    labels = GroupLabels()
    for number in range(2000):
        labels = labels.with_endpoint([f"a{number}"], is_own=False)
    for number in range(2000):
        labels = labels.without_endpoint([f"a{number}"], is_own=False)
        assert len(labels.absent) <= 4 * MAX_ABSENT
    assert labels.settled().absent == tuple(f"a{number}" for number in range(2000 - MAX_ABSENT, 2000))
