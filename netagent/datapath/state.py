"""The data model for desired and observed kernel state.

A network is one bridge and one VXLAN device; a local endpoint is a veth whose host side is a port of the bridge. A
remote endpoint is three kinds of entry, and all three are needed before a packet passes:

    neighbour   (bridge, IP) -> MAC        the bridge answers ARP and ND for it (neigh_suppress on the VXLAN port)
    master FDB  (bridge, MAC) -> port      which port of the bridge leads there: the VXLAN device
    self FDB    (vxlan, MAC) -> underlay   which host the VXLAN device sends it to

A network that carries multicast has one more for each other host that has endpoints in it:

    flood       (vxlan, underlay)          broadcast and multicast go to this host, too

Keys are what the kernel holds unique, so that an address or MAC that moves is one replacement and never two paths.
Every device with our alias is ours, and so is everything on it; nothing else is ever touched.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeAlias, TypeVar

from immutables import Map

MARK = "netagent "
"""The alias of each of our devices begins with this."""

_ENDPOINT_MARK = MARK + "endpoint "


class LinkKind(enum.Enum):
    """The kernel's name for a type of link."""

    BRIDGE = "bridge"
    VXLAN = "vxlan"
    VETH = "veth"


@dataclass(frozen=True, slots=True, kw_only=True)
class PortFlags:
    """How a bridge treats one of its ports."""

    learning: bool
    flood: bool
    """Whether to send unicast for a MAC that the bridge does not know."""
    mcast_flood: bool
    bcast_flood: bool
    neigh_suppress: bool
    """The bridge itself answers ARP and ND for the neighbours that it knows behind this port."""
    hairpin: bool = False
    """Frames that arrive by the port may leave by it."""
    isolated: bool = False
    """Nothing passes between this port and another isolated one."""


TUNNEL_PORT = PortFlags(
    learning=False, flood=False, mcast_flood=False, bcast_flood=False, neigh_suppress=True
)
"""For a VXLAN device: everything behind it is known from records, so nothing is learnt and nothing is flooded."""

FLOODED_TUNNEL_PORT = replace(TUNNEL_PORT, mcast_flood=True, bcast_flood=True)
"""The same in a network that carries multicast. Frames for an unknown MAC still do not leave by it."""

CONTAINER_PORT = PortFlags(
    learning=True, flood=True, mcast_flood=True, bcast_flood=True, neigh_suppress=False
)
"""For the host side of a veth: the kernel's defaults."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunnel:
    """The properties of a VXLAN device. After the creation, only the switches can change, and `local` from one IPv4
    address to another."""

    vni: int
    port: int
    local: str
    learning: bool = False
    dont_fragment: bool = False
    """Packets that are too large for the path are dropped, not fragmented. Fragments exist only in an IPv4
    underlay."""
    ttl: int = 0
    """Of the outer packets; 0: the kernel's choice. A small one keeps hosts behind routers out of reach."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A link of ours in the host's namespace."""

    name: str
    kind: LinkKind
    alias: str
    mtu_bytes: int
    mac: str | None = None
    """None for a VETH: its host side keeps the MAC that the kernel gave it."""
    master: str | None = None
    port: PortFlags | None = None
    """Present exactly when `master` is."""
    forwarding: bool = True
    """False for a port that its bridge keeps shut, although packets would pass the device. The kernel opens a port by
    itself when it and its bridge come up."""
    tunnel: Tunnel | None = None
    """Present exactly for a VXLAN."""
    mcast_snooping: bool = False
    """For a BRIDGE. Snooping needs a querier, which an overlay does not have; without one it drops multicast."""
    stp: bool = False
    """For a BRIDGE. The spanning tree protocol keeps ports shut for half a minute."""
    noarp: bool = False
    """For a BRIDGE: it answers neither ARP nor ND for addresses behind the tunnel. A change removes its
    neighbours."""
    up: bool = True
    guest_mac: str | None = field(default=None, compare=False)
    """For a desired VETH: the MAC of the end inside, which the bridge must know behind this one. The entry itself is
    in `masters`; this field leads to it."""


BRIDGE_SWITCHES = ("mcast_snooping", "stp")
"""Fields of a BRIDGE."""

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
"""At a VXLAN device: stands for every MAC without an entry of its own."""


K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

Table: TypeAlias = Literal["neighbour", "master", "self", "flood"]
EntryKey: TypeAlias = tuple[Table, tuple[str, str]]
"""A neighbour or an FDB entry: its table, and its key there."""

_FIELDS: Final[Mapping[Table, str]] = {
    "neighbour": "neighbours",
    "master": "masters",
    "self": "selves",
    "flood": "floods",
}
TABLES: Final[tuple[Table, ...]] = tuple(_FIELDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelState:
    """Everything of ours in the kernel, desired or observed. Immutable.

    Any mappings are accepted; it converts them to persistent ones, so that a state that differs in little from
    another costs little more than it.
    """

    devices: Mapping[str, Device] = field(default_factory=Map)
    addresses: frozenset[AddressKey] = frozenset()
    unrouted: frozenset[AddressKey] = frozenset()
    """Addresses to whose subnet no route leads by the device, although it is up. Empty in a desired state."""
    neighbours: Mapping[NeighbourKey, str] = field(default_factory=Map)
    """-> MAC"""
    masters: Mapping[MasterKey, str] = field(default_factory=Map)
    """-> the port's device name"""
    selves: Mapping[SelfKey, str] = field(default_factory=Map)
    """-> underlay address"""
    floods: Mapping[FloodKey, str] = field(default_factory=Map)
    """-> an empty text. In the kernel this is one FDB entry of the zero MAC with many destinations."""

    def __post_init__(self) -> None:
        for name in ("devices", *_FIELDS.values()):
            object.__setattr__(self, name, persistent(getattr(self, name)))

    def entry(self, key: EntryKey) -> str | None:
        """Return the value at the key (empty for a flood, which consists of its key); None when there is none."""
        return self.table(key[0]).get(key[1])

    def table(self, name: Table) -> Mapping[tuple[str, str], str]:
        """One of the tables by its name."""
        table: Mapping[tuple[str, str], str] = getattr(self, _FIELDS[name])
        return table

    def with_entries(self, entries: Mapping[EntryKey, str | None]) -> KernelState:
        """Return a state with these values, without keys whose value is None. Costs as much as they are."""
        parts: dict[Table, dict[tuple[str, str], str | None]] = {}
        for (table, place), value in entries.items():
            parts.setdefault(table, {})[place] = value
        changed: dict[str, Any] = {
            _FIELDS[one]: assigned(self.table(one), part) for one, part in parts.items()
        }
        return replace(self, **changed)

    def with_tables_of(self, other: KernelState) -> KernelState:
        """Return a state with the neighbours and FDB entries of another."""
        return replace(self, **{field: getattr(other, field) for field in _FIELDS.values()})

    @property
    def entry_count(self) -> int:
        """Neighbours and FDB entries."""
        return sum(len(self.table(one)) for one in TABLES)


@dataclass(frozen=True, slots=True)
class DesiredChange:
    """A desired state, and where it differs from the one before."""

    state: KernelState
    touched: Set[EntryKey] | None = None
    """Entries that may differ from the previous desired state; None: any. Devices are compared anyway."""


def persistent(mapping: Mapping[K, V]) -> Map[K, V]:
    """Convert the mapping, unless it is persistent already."""
    return mapping if isinstance(mapping, Map) else Map(mapping)


def assigned(mapping: Mapping[K, V], values: Mapping[K, V | None]) -> Map[K, V]:
    """Return the mapping with these values, without keys whose value is None."""
    found = persistent(mapping)
    if not values:
        return found
    draft = found.mutate()
    for key, value in values.items():
        if value is not None:
            draft[key] = value
        else:
            draft.pop(key, None)
    return draft.finish()


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
    """True for the alias of a device that an agent created, in this run or an earlier one, for any cluster."""
    return alias.startswith(MARK)
