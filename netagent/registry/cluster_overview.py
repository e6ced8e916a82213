"""The cluster as one host can tell it to people: its own registry, and what other members said when asked. Pure.

A host holds the records of the networks that it takes part in, and of no others. `view` is what it holds, with what
it was told of other networks put in place; names, kernel and journal know nothing of that. A gap is a network of
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
    """No host that takes part in the network has an agent that lives."""
    MISSING = "missing"
    """This host takes part in the network and began to when no other agent there was alive: what the hosts that are
    named last said never came here."""
    NOT_ASKED = "not asked"
    """There were too many networks, or too many records in them."""


@dataclass(frozen=True, slots=True)
class Gap:
    """A network whose endpoints are not known here, or not as they are now."""

    network_id: NetworkId
    reason: GapReason
    hosts: tuple[HostId, ...]
    """Who was asked, or would have to be."""
    is_old: bool = False
    """What is shown of the network was told earlier."""


@dataclass(frozen=True, slots=True)
class ClusterOverview:
    """What `services`, `endpoints`, `inspect` and `lookup` answer from."""

    view: RegistryView
    told_by: Mapping[NetworkId, tuple[HostId, ...]] = field(default_factory=dict)
    """By network that this host takes no part in: which members told of it."""
    gaps: tuple[Gap, ...] = ()
