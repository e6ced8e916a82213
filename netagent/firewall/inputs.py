"""The inputs of the firewall, as plain values: this side needs no registry, and can be tested without one.

Addresses and MACs are in canonical text, without prefix length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from netagent.model.egress import Egress

DEFAULT_AGENT_PORTS: Final = (7955, 7956, 7957, 7958)
"""Ports of the encrypted tunnel, of membership, of records and of HTTP (netagent.config)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardedEndpoint:
    """An endpoint of this host: it determines what its interface may send."""

    veth: str
    """The host's side."""
    mac: str
    addresses: tuple[str, ...]
    bridge: str = ""
    """The bridge that the host's side is a port of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardedNetwork:
    """A network that has devices on this host."""

    bridge: str
    bridge_mac: str
    tunnel: str = ""
    """Its VXLAN device."""
    restricted: bool = False
    """Only linked services may be reached in it (netagent.firewall.policy)."""
    audited: bool = False
    """With `restricted`: what would be refused passes, and is counted."""
    multicast: bool = False
    """It carries multicast and broadcast to other hosts."""
    has_egress: bool = True
    """Containers may open connections to addresses outside our networks."""
    egress: Egress = None
    """With `has_egress`: to which addresses and ports outside."""
    host_addresses: tuple[str, ...] = ()
    """Addresses of this host itself in a network made with `--host-access`, by which it communicates with
    containers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PortForward:
    """A port of the host that leads to a container."""

    protocol: str
    host_port: int
    container: str
    """The container's address."""
    port: int
    address: str = ""
    """Address of the host, of the container's family; empty: all its addresses."""
    needs_snat: bool = False
    """The container's replies to outside addresses would take another route, so the source is translated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceForward:
    """A port of the host, at all its addresses of one family, that leads to one of several containers."""

    protocol: str
    host_port: int
    containers: tuple[tuple[str, int], ...]
    """(Address, port), sorted, never empty."""
    snat: frozenset[str] = frozenset()
    """Addresses of those whose replies to outside addresses would take another route."""


AllowedFlow: TypeAlias = tuple[str, str, str]
"""(Port by which a packet arrives, its source, its destination), both of one family."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirewallInput:
    """Everything that determines the tables."""

    vxlan_port: int
    tunnel: str = ""
    """The device of the encrypted tunnel, by which nothing but VXLAN may come; empty: there is none."""
    is_fenced: bool = False
    """VXLAN may come and go by that device alone."""
    agent_ports: tuple[int, ...] = DEFAULT_AGENT_PORTS
    """UDP and TCP; the same on all hosts, as far as is known."""
    underlay: str = ""
    """The address that this host advertises; empty: none yet."""
    connections: int = 0
    """Connections that a container may have outside and to this host, by each of its addresses; 0: any number."""
    endpoints: tuple[GuardedEndpoint, ...] = ()
    networks: tuple[GuardedNetwork, ...] = ()
    members: frozenset[str] = frozenset()
    """Source addresses of other hosts' VXLAN packets."""
    subnets: tuple[str, ...] = ()
    """CIDRs of all networks of the cluster, including those without devices on this host, and of service ranges."""
    own_ranges: tuple[str, ...] = ()
    """CIDRs of the service ranges that this host routes to itself."""
    lent4: frozenset[str] = frozenset()
    """Devices of other programs that route IPv4 only because netagent turned it on."""
    lent6: frozenset[str] = frozenset()
    """The same for IPv6."""
    clamps: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(VXLAN device, MAC of an endpoint behind it) -> the largest packet, in bytes, that its path carries."""
    requests: frozenset[AllowedFlow] = frozenset()
    """In restricted networks: flows that may open connections."""
    answers: frozenset[AllowedFlow] = frozenset()
    """And flows that may only reply."""
    port_forwards: tuple[PortForward, ...] = ()
    """Published ports."""
    service_forwards: tuple[ServiceForward, ...] = ()
    """Published ports of services. A port of the host that is published for one container leads to that one."""
