"""The words in which desired and observed kernel state are compared.

A network is one bridge and one VXLAN device; a local endpoint is a veth whose host side is a port of the bridge. A
remote endpoint is three kinds of entry, and all three are needed before a packet passes:

    neighbour   (bridge, IP) -> MAC        the bridge answers ARP and ND for it (neigh_suppress on the VXLAN port)
    master FDB  (bridge, MAC) -> port      which port of the bridge leads there: the VXLAN device
    self FDB    (vxlan, MAC) -> underlay   which host the VXLAN device sends it to

A network that carries multicast has one more for each other host that has endpoints in it:

    flood       (vxlan, underlay)          broadcast and multicast go to this host, too

Keys are what the kernel holds unique, so that an address or MAC that moves is one replacement and never two paths.
Whatever sits on a device that carries our alias is ours; nothing else is ever looked at.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

MARK = "netagent "
"""Every device of ours has an alias that begins so."""

_ENDPOINT_MARK = MARK + "endpoint "


class Kind(enum.Enum):
    """The kernel's word for a type of link."""

    BRIDGE = "bridge"
    VXLAN = "vxlan"
    VETH = "veth"


@dataclass(frozen=True, slots=True, kw_only=True)
class PortFlags:
    """What a bridge does on one of its ports."""

    learning: bool
    flood: bool
    """Unicast to a MAC that the bridge does not know."""
    mcast_flood: bool
    bcast_flood: bool
    neigh_suppress: bool
    """The bridge itself answers ARP and ND for the neighbours that it knows behind this port."""


TUNNEL_PORT = PortFlags(
    learning=False, flood=False, mcast_flood=False, bcast_flood=False, neigh_suppress=True
)
"""A VXLAN device: everything behind it is known from records, so nothing is learnt and nothing is flooded."""

FLOODED_TUNNEL_PORT = replace(TUNNEL_PORT, mcast_flood=True, bcast_flood=True)
"""The same in a network that carries multicast. What an unknown MAC is sent stays here even so."""

CONTAINER_PORT = PortFlags(
    learning=True, flood=True, mcast_flood=True, bcast_flood=True, neigh_suppress=False
)
"""The host side of a veth: the kernel's defaults."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunnel:
    """What makes a link a VXLAN device. Only `local`, within its address family, and the
    switches can be changed later."""

    vni: int
    port: int
    local: str
    learning: bool = False
    dont_fragment: bool = False
    """What is too large for the way is dropped, not cut in pieces. Only packets in an IPv4 underlay may be cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A link of ours in the host's namespace."""

    name: str
    kind: Kind
    alias: str
    mtu_bytes: int
    mac: str | None = None
    """None for a VETH: its host side keeps the MAC that the kernel gave it."""
    master: str | None = None
    port: PortFlags | None = None
    """Present exactly when `master` is."""
    tunnel: Tunnel | None = None
    """Present exactly for a VXLAN."""
    mcast_snooping: bool = False
    """Of a BRIDGE. Snooping needs a querier, which an overlay has not; without one it drops multicast."""
    up: bool = True


NeighbourKey: TypeAlias = tuple[str, str]
"""(device, IP address)."""
MasterKey: TypeAlias = tuple[str, str]
"""(bridge, MAC)."""
SelfKey: TypeAlias = tuple[str, str]
"""(VXLAN device, MAC)."""
FloodKey: TypeAlias = tuple[str, str]
"""(VXLAN device, underlay address)."""
AddressKey: TypeAlias = tuple[str, str]
"""(device, "address/prefix length")."""

ZERO_MAC = "00:00:00:00:00:00"
"""At a VXLAN device: whatever has no entry of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelState:
    """All of ours in the kernel, desired or observed. Never changed after it was made."""

    devices: Mapping[str, Device] = field(default_factory=dict)
    addresses: frozenset[AddressKey] = frozenset()
    neighbours: Mapping[NeighbourKey, str] = field(default_factory=dict)
    """-> MAC"""
    masters: Mapping[MasterKey, str] = field(default_factory=dict)
    """-> the port's device name"""
    selves: Mapping[SelfKey, str] = field(default_factory=dict)
    """-> underlay address"""
    floods: frozenset[FloodKey] = frozenset()
    """In the kernel one FDB entry of the zero MAC with many destinations."""


def network_alias(network_id: str, cluster_id: str) -> str:
    """The mark on a network's bridge and VXLAN device."""
    return f"{MARK}network {network_id} cluster {cluster_id}"


def endpoint_alias(endpoint_id: str) -> str:
    """The mark on both ends of an endpoint's veth."""
    return _ENDPOINT_MARK + endpoint_id


def endpoint_of(alias: str) -> str | None:
    """The endpoint that a device with this alias belongs to; None for any other device."""
    return alias.removeprefix(_ENDPOINT_MARK) if alias.startswith(_ENDPOINT_MARK) else None


def probe_alias(cluster_id: str) -> str:
    """The mark on the host's probe device."""
    return f"{MARK}probe cluster {cluster_id}"


def is_ours(alias: str) -> bool:
    """True for the alias of a device that we made, in this life or an earlier one, for this cluster or another."""
    return alias.startswith(MARK)
