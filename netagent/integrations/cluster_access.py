"""What an integration needs of the agent: access to this host's cluster, if it is in one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from netagent.endpoints.lifecycle import Endpoints
from netagent.endpoints.networks import Networks
from netagent.registry.state_store import StateStore
from netagent.state_dir import ClusterKeys


@dataclass(frozen=True, slots=True, eq=False)
class ClusterAccess:
    """A host's membership in a cluster: one object for each run of netagent.daemon.cluster."""

    live: StateStore
    endpoints: Endpoints
    networks: Networks
    keys: ClusterKeys
    egress_interfaces: Callable[[], frozenset[str]]
    """The devices through which packets of containers leave this host."""


Membership: TypeAlias = Callable[[], ClusterAccess]
"""Returns it; RefusedError `no-cluster` outside a cluster. Call it each time: a host may leave and join another."""
