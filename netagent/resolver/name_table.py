"""The rows that a resolver answers from: one for each host, network, sandbox, endpoint and service address that it
may name, and for each label of a group that it must not answer for others.

The agent derives the rows from its view of the cluster (zone.py) and sends them to the resolver process (feed.py,
protocol.py), which turns them into answers (zone_source.py). Each row stands alone: none is right or wrong because of
another. So rows may arrive in any order, one by one, and an incomplete table gives fewer answers but never false
ones. A row is also small and of one size, whatever the number of endpoints in a service; a row per *name* would carry
a service's whole address list on every change of one member.

A hidden endpoint (of a dead host, or an unhealthy one that does not keep its names) simply has no row.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Final, TypeAlias

from netagent.model.ids import EndpointId, HostId, NetworkId, OwnNameId, ServiceId
from netagent.model.locality import DEFAULT_WEIGHT, AnswerOrder
from netagent.model.records import Group, Port, ServiceKey, ServicePort
from netagent.model.sandbox import Sandbox


class RowKind(enum.IntEnum):
    """The kind of a row. The numbers are on the wire between two releases of this program: only append."""

    SETTINGS = 1
    HOST = 2
    NETWORK = 3
    SANDBOX = 4
    ENDPOINT = 5
    FEED = 6
    GROUP_LABEL = 7
    EXTERNAL = 8
    OWN_NAME = 9
    SERVICE_ADDRESS = 10

    __hash__ = int.__hash__  # an enum's own hash is written in Python, and keys are hashed by the thousand


@dataclass(frozen=True, slots=True)
class SettingsRow:
    """Settings for all names. Its identifier is the empty text: there is only one."""

    domain: str
    """`mesh.internal`: lower case, no dot at the end."""
    zone: str = ""
    """The label of this host's zone."""


@dataclass(frozen=True, slots=True)
class HostRow:
    """The address of `<label>.node.<domain>`."""

    label: str
    address: bytes
    """4 or 16 octets."""
    zone: str = ""
    """The label of its zone."""
    distance: int | None = None
    """How far it is from this host (netagent.model.locality); None: not known."""


@dataclass(frozen=True, slots=True)
class Subnet:
    """A range of addresses: the first one (4 or 16 octets) and the number of leading bits that all share."""

    base: bytes
    prefix_bits: int


@dataclass(frozen=True, slots=True)
class NetworkRow:
    """A network: `<label>.<domain>` is above the names of its endpoints; `subnets` bound its reverse names. `given`
    is the name that its creator chose, '' if that is the label."""

    label: str
    subnets: tuple[Subnet, ...]
    given: str = ""
    refuses_shared: bool = False
    """A label that leads to several groups leads nowhere."""
    has_feeds: bool = False
    """Once the change is complete, the table has the FEED rows of all its endpoints."""
    feed_rules: tuple[str, ...] | None = None
    """Domains that labels in it may claim (netagent.feeds.host_rule); None: all."""
    answer: AnswerOrder = AnswerOrder.SPREAD
    service_ranges: tuple[Subnet, ...] = ()
    """Where the addresses of its services are; these too are inside, and have reverse names."""


@dataclass(frozen=True, slots=True)
class EndpointRow:
    """A visible endpoint. `host_label` is the label of its host's name, `addresses` have 4 or 16 octets each."""

    endpoint_id: EndpointId
    network_id: NetworkId
    name: str
    host_label: str
    service: str
    aliases: tuple[str, ...]
    addresses: tuple[bytes, ...]
    ports: tuple[Port, ...]
    is_behind: bool = False
    """A name with other endpoints leads to those: this host does not reach it, or `is_kept`."""
    is_kept: bool = False
    """It is unhealthy. Only for people: the resolver process does not get it."""
    group: Group | None = None
    """Without the folder."""
    weight: int = DEFAULT_WEIGHT
    up_since_s: int | None = None
    """Since when its check succeeds: Unix time. None: it has none, or that is not known."""
    texts: tuple[bytes, ...] = ()
    """`KEY=VALUE` of its TXT record, at most 255 octets each."""


@dataclass(frozen=True, slots=True)
class FeedRow:
    """What feeds have of an endpoint beyond its names, whether or not names lead to it (netagent.feeds.packed)."""

    network_id: NetworkId
    packed: bytes


@dataclass(frozen=True, slots=True)
class GroupLabelRow:
    """A label of a group in a network that leads to none of its endpoints now: no member of the group may be led to
    others by it. Only for groups of sandboxes in the table that have an endpoint in the network."""

    network_id: NetworkId
    group: str
    label: str

    @property
    def key(self) -> Key:
        """The row's key. Names have no slash."""
        return RowKind.GROUP_LABEL, f"{self.network_id}/{self.group}/{self.label}"


@dataclass(frozen=True, slots=True)
class ExternalAddressRow(EndpointRow):
    """One address of an external service, in the place of an endpoint."""

    ttl_s: int | None = None
    """How long clients may keep the address; None: as a container's."""
    is_inside: bool = False
    """It is an address of the network, which a host itself has there."""


@dataclass(frozen=True, slots=True)
class ExternalRow:
    """An external service that has addresses to answer with."""

    service_id: ServiceId
    network_id: NetworkId
    name: str
    host_label: str
    """Of its owner."""
    places: tuple[tuple[bytes, int | None], ...]
    """Address (4 or 16 octets) and port."""
    ports: tuple[Port, ...]
    """Ports by name, of all its addresses."""
    weight: int
    ttl_s: int | None
    is_inside: bool
    is_behind: bool = False

    def addresses(self) -> Iterator[ExternalAddressRow]:
        """Yield its addresses as rows. Each has a name of its own, to which SRV records point."""
        for number, (address, port) in enumerate(self.places):
            own = () if port is None else (Port(str(port), port),)
            yield ExternalAddressRow(
                endpoint_id=EndpointId(f"{self.service_id}.{number:03}"),
                network_id=self.network_id,
                name=f"x{self.service_id[:_ID_DIGITS]}-{number}",
                host_label=self.host_label,
                service=self.name,
                aliases=(),
                addresses=(address,),
                ports=tuple(dict.fromkeys((*self.ports, *own))),
                is_behind=self.is_behind,
                weight=self.weight,
                ttl_s=self.ttl_s,
                is_inside=self.is_inside,
            )


@dataclass(frozen=True, slots=True)
class OwnNameRow:
    """A name that an operator added to a network: labels in front of the network's, the first may be `*`."""

    name_id: OwnNameId
    network_id: NetworkId
    name: str
    alias: tuple[NetworkId, str] | None
    """A network, and labels in front of it: the name is an alias. None: it has data."""
    addresses: tuple[bytes, ...] = ()
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServiceAddressRow:
    """One address pair of a service of its own. Of several the first one, by owner, that the kernel has is in
    names; all of them have a reverse name."""

    network_id: NetworkId
    service: ServiceKey
    owner: HostId
    addresses: tuple[bytes, ...]
    """4 or 16 octets each."""
    is_chosen: bool = False
    """An operator made it: the service's name means this service of the network as if it had been chosen for its
    replicas (netagent.model.naming), also while it has none."""
    ports: tuple[ServicePort, ...] = ()
    """Only these lead to replicas; empty: all, each to the same port."""
    is_refused: bool = False
    """The kernel of this host has no room for it: names give the service's endpoints."""

    @property
    def key(self) -> Key:
        """The row's key. The keys of one service's rows are in the order of their owners."""
        place = b"".join(self.addresses).hex()
        return RowKind.SERVICE_ADDRESS, f"{self.network_id}/{self.owner}/{place}"


_ID_DIGITS: Final = 12
"""As netagent.resolver.index.id_label has of an endpoint's id."""

Key: TypeAlias = tuple[RowKind, str]
"""Kind and identifier (host, network, sandbox or endpoint id, or that of what an operator added; of a group's label
and of a service's addresses all that they are found by)."""

Row: TypeAlias = (
    SettingsRow
    | HostRow
    | NetworkRow
    | Sandbox
    | EndpointRow
    | FeedRow
    | GroupLabelRow
    | ExternalRow
    | OwnNameRow
    | ServiceAddressRow
)

Table: TypeAlias = Mapping[Key, Row]
"""All rows. Treated as a value: never changed once built."""

Change: TypeAlias = tuple[Key, Row | None]
"""The new row of a key, or None: no row."""

SETTINGS_KEY: Key = (RowKind.SETTINGS, "")


def changes_between(old: Table, new: Table, touched: Collection[Key] | None = None) -> Iterator[Change]:
    """Yield what turns `old` into `new`, computed on demand: new and altered rows first, then removals,
    of networks before all others: a feed of a network that goes is never answered with a part of its endpoints.

    In this order a name that moves from one endpoint to another always has an address, and a group's label that loses
    its last endpoint leads to no other group in between. The tables differ only at `touched` keys, and only these are
    compared; None: anywhere.
    """
    networks_gone: list[Key] = []
    without: list[Key] = []
    for key in {**old, **new} if touched is None else touched:
        row = new.get(key)
        if row is None:
            # Looked up in the other one later: thousands may go at once.
            (networks_gone if key[0] is RowKind.NETWORK else without).append(key)
        elif (before := old.get(key)) is not row and before != row:
            yield key, row
    for key in chain(networks_gone, without):
        if key in old:
            yield key, None
