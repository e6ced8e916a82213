"""What the journal holds of the labels that groups have had, and for how long a group is remembered. Without I/O.

A label is noted when a group of which this host has an endpoint gets it, not when it loses it: so an agent that is
killed when the label goes finds it in the journal. A group that has no endpoint left is remembered for FORGET_S:
through a restart of the whole project, and of the host. After that its names may be another's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from netagent.journal.statements import Statement, drop_group_label, put_group_label
from netagent.model.group_labels import GroupKey, GroupLabels
from netagent.registry.view import RegistryView
from netgossip.slices import Slices

FORGET_S: Final = 600.0
"""A host that boots and starts its containers again takes some minutes."""
MAX_EMPTY: Final = 1024
"""Bound of groups without an endpoint that are remembered; beyond it: the one that has been so for the longest is
forgotten."""
MAX_NOTED: Final = 1024
"""Bound of labels of a group in a network that the journal holds; beyond it: further ones are not noted, so they are
forgotten if the agent ends while none of the group has them."""


class GroupLabelMemory:
    """`now` is on the monotonic clock, `time_s` is Unix time: it is only shown."""

    def __init__(self, noted: Mapping[GroupKey, Mapping[str, int | None]]) -> None:
        self._noted = {key: dict(labels) for key, labels in noted.items()}
        """As in the journal: since when the group has had no endpoint with the label; None: it has one."""
        self._seen: RegistryView | None = None
        self._empty: dict[GroupKey, float] = {}
        """When to forget a group that has no endpoint, soonest first."""
        self._statements: dict[tuple[GroupKey, str], Statement] = {}

    def gone(self, key: GroupKey) -> Mapping[str, int]:
        """Since when a group has had no endpoint with a label, by label."""
        labels = self._noted.get(key, {})
        return {label: since_s for label, since_s in labels.items() if since_s is not None}

    @property
    def next_due(self) -> float | None:
        """When the next group is forgotten."""
        return next(iter(self._empty.values()), None)

    def follow(self, view: RegistryView, *, now: float, time_s: int) -> Slices[None]:
        """Note what a newer view has changed. The next call starts anew unless this one ran to its end."""
        seen, self._seen = self._seen, None
        touched = None if seen is None else view.touched_since(seen)
        changed = None if seen is None or touched is None else view.touched_labels(seen, touched)
        for key, label in changed or self._every_label(view):
            self._follow_group(view, key, now)
            labels = view.labels_of(*key)
            if key in self._noted:
                self._note(labels, key, label, time_s)
            elif (
                labels.own
            ):  # its first endpoint here: what the group has on other hosts has not been noted either
                self._noted[key] = {}
                for one in (*labels.present, *labels.absent):
                    self._note(labels, key, one, time_s)
                    yield
            yield
        self._seen = view

    def take_statements(self) -> list[tuple[tuple[GroupKey, str], Statement]]:
        """Return what is to be written, by label, and not again."""
        found, self._statements = self._statements, {}
        return list(found.items())

    def take_due(self, now: float) -> list[GroupKey]:
        """Forget the groups that have had no endpoint for long enough, and return them."""
        keys = [key for key, due in self._empty.items() if due <= now]
        keys += list(self._empty)[len(keys) : max(len(keys), len(self._empty) - MAX_EMPTY)]
        for key in keys:
            del self._empty[key]
            for label in self._noted.pop(key, {}):
                self._statements[key, label] = drop_group_label(*key, label)
        return keys

    def _every_label(self, view: RegistryView) -> Iterator[tuple[GroupKey, str]]:
        for key, noted in list(self._noted.items()):
            yield from ((key, label) for label in list(noted))
        for key, labels in view.store.group_labels.items():
            yield from ((key, label) for label in (*labels.present, *labels.absent))

    def _note(self, labels: GroupLabels, key: GroupKey, label: str, time_s: int) -> None:
        noted = self._noted[key]
        if label not in labels:
            if label in noted:
                del noted[label]
                self._statements[key, label] = drop_group_label(*key, label)
            return
        if label not in noted and len(noted) >= MAX_NOTED:
            return
        since_s = None if label in labels.present else noted.get(label) or time_s
        if label not in noted or noted[label] != since_s:
            noted[label] = since_s
            self._statements[key, label] = put_group_label(*key, label, since_s)

    def _follow_group(self, view: RegistryView, key: GroupKey, now: float) -> None:
        if view.labels_of(*key).records:
            self._empty.pop(key, None)
        else:
            self._empty.setdefault(key, now + FORGET_S)
