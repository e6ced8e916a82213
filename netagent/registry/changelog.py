"""The changelog of views: where to look for what changed since an earlier view. Pure.

A view is a level, and no reader needs to have seen the ones between. But a reader that has derived something from an
earlier view need not walk through ten thousand endpoints to find the one that differs: each view remembers what the
last few changes touched. That only says where to look, so it may name too much. A reader whose view is older than
what is remembered, or of another lineage, looks everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from netagent.model.ids import EndpointId, HostId, NetworkId, OwnNameId, ServiceId
from netagent.model.records import ServiceKey

MAX_STEPS: Final = 1024
"""Bound of steps of the registry that are remembered; beyond it: a reader that is further behind derives everything
anew."""
MAX_KEYS: Final = 50_000
"""Bound of keys of all steps that are remembered; beyond it: a reader that is further behind derives everything anew.
The first sync of a large network, in any number of steps."""

Place: TypeAlias = tuple[NetworkId, EndpointId]
ServicePlace: TypeAlias = tuple[NetworkId, ServiceId]
NamePlace: TypeAlias = tuple[NetworkId, OwnNameId]
ServiceKeyPlace: TypeAlias = tuple[NetworkId, ServiceKey]


@dataclass(frozen=True, slots=True)
class ChangedKeys:
    """All that can differ between two views, apart from networks and their service ranges, which are few."""

    hosts: frozenset[HostId] = frozenset()
    endpoints: frozenset[Place] = frozenset()
    services: frozenset[ServicePlace] = frozenset()
    """External services."""
    own_names: frozenset[NamePlace] = frozenset()
    service_addresses: frozenset[ServiceKeyPlace] = frozenset()

    def __len__(self) -> int:
        parts = (self.hosts, self.endpoints, self.services, self.own_names, self.service_addresses)
        return sum(map(len, parts))


@dataclass(frozen=True, slots=True, eq=False)
class ChangelogStep:
    """What led to one view from the previous one."""

    touched: ChangedKeys = ChangedKeys()
    keys: int = 0
    """In this step and all before it."""


Changelog: TypeAlias = tuple[ChangelogStep, ...]
"""Oldest first, never empty; the last step led to the view that holds it."""


def extended(changelog: Changelog, touched: ChangedKeys) -> Changelog:
    """The changelog of the next view."""
    keys = changelog[-1].keys + len(touched)
    step = ChangelogStep(touched, keys)
    first = max(0, len(changelog) + 1 - MAX_STEPS)
    while first < len(changelog) and keys - changelog[first].keys > MAX_KEYS:
        first += 1
    return (*changelog[first:], step)


def touched_between(earlier: Changelog, later: Changelog) -> ChangedKeys | None:
    """What the steps from the one view to the other touched; None if that is no longer known."""
    end = earlier[-1]
    for back in range(len(later) - 1, -1, -1):
        if later[back] is end:
            steps = later[back + 1 :]
            if len(steps) == 1:
                return steps[0].touched
            return ChangedKeys(
                frozenset().union(*(step.touched.hosts for step in steps)),
                frozenset().union(*(step.touched.endpoints for step in steps)),
                frozenset().union(*(step.touched.services for step in steps)),
                frozenset().union(*(step.touched.own_names for step in steps)),
                frozenset().union(*(step.touched.service_addresses for step in steps)),
            )
    return None
