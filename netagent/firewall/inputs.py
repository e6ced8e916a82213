"""What the firewall is made of, as plain values: this side needs no registry, and can be tested without one.

Addresses and MACs are in canonical text, without prefix length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

DEFAULT_AGENT_PORTS: Final = (7956, 7957)
"""Of membership and of records (netagent.config)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardedEndpoint:
    """An endpoint of this host: what may come out of its interface."""

    veth: str
    """The host's side."""
    mac: str
    addresses: tuple[str, ...]
    bridge: str = ""
    """What the host's side is a port of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardedNetwork:
    """A network that has devices on this host."""

    bridge: str
    bridge_mac: str
    tunnel: str = ""
    """Its VXLAN device."""
    restricted: bool = False
    """Only linked services may be reached in it (netagent.firewall.policy)."""
    multicast: bool = False
    """It carries multicast and broadcast to other hosts."""
    has_way_out: bool = True
    """Containers may begin to talk with whatever is not in our networks."""
    host_addresses: tuple[str, ...] = ()
    """Of this host itself, in a network made with `--host-access`: by these it talks with containers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PortForward:
    """A port of the host that leads to a container."""

    protocol: str
    host_port: int
    container: str
    """Its address."""
    port: int
    address: str = ""
    """Of the host, of the container's family; empty: whatever it has."""
    is_beside: bool = False
    """What the container answers to strangers would leave by another way."""


AllowedFlow: TypeAlias = tuple[str, str, str]
"""The port by which a packet comes in, its source, its destination: both of one family."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirewallInput:
    """Everything that the tables follow from."""

    vxlan_port: int
    agent_ports: tuple[int, ...] = DEFAULT_AGENT_PORTS
    """UDP and TCP; the same on all hosts, as far as is known."""
    endpoints: tuple[GuardedEndpoint, ...] = ()
    networks: tuple[GuardedNetwork, ...] = ()
    members: frozenset[str] = frozenset()
    """Where other hosts' VXLAN packets come from."""
    subnets: tuple[str, ...] = ()
    """Of all networks of the cluster, also of those that this host has no devices of; CIDRs."""
    lent4: frozenset[str] = frozenset()
    """Devices that are not ours and route IPv4 only because we have them do so."""
    lent6: frozenset[str] = frozenset()
    """The same for IPv6."""
    clamps: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(VXLAN device, MAC of an endpoint behind it) -> the largest packet, in bytes, that its path carries."""
    requests: frozenset[AllowedFlow] = frozenset()
    """In restricted networks: who may ask whom."""
    answers: frozenset[AllowedFlow] = frozenset()
    """And who may answer whom."""
    port_forwards: tuple[PortForward, ...] = ()
    """Published ports."""
