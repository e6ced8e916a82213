"""What the firewall is made of, as plain values: this side needs no registry, and can be tested without one.

Addresses and MACs are in canonical text, without prefix length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardedEndpoint:
    """An endpoint of this host: what may come out of its interface."""

    veth: str
    """The host's side."""
    mac: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardedNetwork:
    """A network that has devices on this host."""

    bridge: str
    bridge_mac: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FirewallInput:
    """Everything that the tables follow from."""

    vxlan_port: int
    endpoints: tuple[GuardedEndpoint, ...] = ()
    networks: tuple[GuardedNetwork, ...] = ()
    members: frozenset[str] = frozenset()
    """Where other hosts' VXLAN packets come from."""
    clamps: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(VXLAN device, MAC of an endpoint behind it) -> the largest packet, in bytes, that its path carries."""
