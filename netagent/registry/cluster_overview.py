"""The cluster as one host can show it to people: its own registry, and what other members sent on request. Pure.

A host holds the records of the networks that it takes part in, and of no others. `view` is what it holds, completed
with what it fetched of other networks; names, kernel and journal do not use the fetched part. A gap is a network of
which not even that is known.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from netagent.model.ids import HostId, NetworkId
from netagent.registry.view import RegistryView


class GapReason(enum.Enum):
    """Why nothing, or nothing new, is known of a network."""

    SILENT = "no answer"
    """The hosts that were asked gave no answer in time."""
    AWAY = "away"
    """No host that takes part in the network has a running agent."""
    MISSING = "missing"
    """This host takes part in the network and began to when no other agent there was running: the latest records of
    the named hosts never arrived here."""
    NOT_ASKED = "not asked"
    """There were too many networks, or too many records in them."""


@dataclass(frozen=True, slots=True)
class Gap:
    """A network whose endpoints are not known here, or not as they are now."""

    network_id: NetworkId
    reason: GapReason
    hosts: tuple[HostId, ...]
    """The hosts that were asked, or would have to be."""
    is_old: bool = False
    """What is shown of the network was fetched earlier."""


@dataclass(frozen=True, slots=True)
class ClusterOverview:
    """What `services`, `endpoints`, `inspect` and `lookup` answer from."""

    view: RegistryView
    told_by: Mapping[NetworkId, tuple[HostId, ...]] = field(default_factory=dict)
    """For each network that this host takes no part in: the members that its records were fetched from."""
    gaps: tuple[Gap, ...] = ()
