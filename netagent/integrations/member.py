"""What an integration needs of the agent: the cluster this host is in, when it is in one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from netagent.registry.live import Live
from netagent.state_dir import ClusterKeys
from netagent.usecases.endpoints import Endpoints
from netagent.usecases.networks import Networks


class Member(Protocol):
    """A host's life in a cluster (netagent.membership.cluster)."""

    live: Live
    endpoints: Endpoints
    networks: Networks
    keys: ClusterKeys
    ways_out: Callable[[], frozenset[str]]
    """The devices by which packets of containers leave this host."""


Membership: TypeAlias = Callable[[], Member]
"""Gives it; RefusedError `no-cluster` while the host is in none. Ask each time: a host may leave and join another."""
