"""The labels that a group has had in a network, also those that none of its endpoints has any more. Pure.

A container that restarts has no record in between. Without a memory its service's name would lead, for that second,
to the service of the same name of another group: the web of one project would write into the database of another. So
a member of a group is answered for a label that its group has had by its group or by none (netagent.resolver.scope).

This memory follows from the records that there have been, so no record can restore it: the agent keeps it in the
journal (netagent.membership.group_label_keeper).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from immutables import Map

from netagent.model.ids import NetworkId

GroupKey: TypeAlias = tuple[NetworkId, str]
"""A group in one network."""

MAX_ABSENT: Final = 64
"""Bound of labels of a group in a network that none of its endpoints has any more; beyond it: the one that has been
without an endpoint for the longest is forgotten. A project has some ten services; each `docker compose run` leaves a
container's name here."""
_MAX_UNSETTLED: Final = 4 * MAX_ABSENT
"""Within one edit, which may bring a label back that it has just taken out."""


@dataclass(frozen=True, slots=True)
class GroupLabels:
    """The labels of one group in one network, by which its members find each other (netagent.model.naming)."""

    records: int = 0
    """Endpoints of the group in the network, whether names lead to them or not."""
    own: int = 0
    """Those of them that are on this host."""
    present: Map[str, int] = field(default_factory=Map)
    """Label -> the number of endpoints that have it."""
    absent: tuple[str, ...] = ()
    """Labels without an endpoint, the one that has been so for the longest first."""

    def __contains__(self, label: object) -> bool:
        """True if the group has the label or has had it."""
        return label in self.present or label in self.absent

    def with_endpoint(self, labels: Iterable[str], *, is_own: bool) -> GroupLabels:
        """Count a further endpoint."""
        present = self.present
        for label in labels:
            present = present.set(label, present.get(label, 0) + 1)
        return GroupLabels(self.records + 1, self.own + is_own, present, self.absent)

    def without_endpoint(self, labels: Iterable[str], *, is_own: bool) -> GroupLabels:
        """Count an endpoint no more."""
        present, gone = self.present, []
        for label in labels:
            if present[label] > 1:
                present = present.set(label, present[label] - 1)
            else:
                present = present.delete(label)
                gone.append(label)
        # A host with thousands of them goes in one edit, so no more is copied each time than `settled` may need.
        absent = (*self.absent, *gone)[-_MAX_UNSETTLED:]
        return GroupLabels(self.records - 1, self.own - is_own, present, absent)

    def remembering(self, labels: Iterable[str]) -> GroupLabels:
        """Add labels that it has had, the one that has been without an endpoint for the longest first."""
        known = [label for label in labels if label not in self]
        return GroupLabels(self.records, self.own, self.present, (*known, *self.absent)).settled()

    def settled(self) -> GroupLabels:
        """Return it after the last of several counts: an endpoint that was counted out and in again has its
        labels."""
        absent = tuple(label for label in self.absent if label not in self.present)[-MAX_ABSENT:]
        return self if absent == self.absent else GroupLabels(self.records, self.own, self.present, absent)


NO_LABELS: Final = GroupLabels()
