"""The rows that a resolver answers from: one for each host, network, sandbox and endpoint that it may name, and for
each label of a group that it must not answer for others.

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
from typing import TypeAlias

from netagent.model.ids import EndpointId, NetworkId
from netagent.model.locality import DEFAULT_WEIGHT, AnswerOrder
from netagent.model.records import Group, Port
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


Key: TypeAlias = tuple[RowKind, str]
"""Kind and identifier (host, network, sandbox or endpoint id; of a group's label all three)."""

Row: TypeAlias = SettingsRow | HostRow | NetworkRow | Sandbox | EndpointRow | FeedRow | GroupLabelRow

Table: TypeAlias = Mapping[Key, Row]
"""All rows. Treated as a value: never changed once built."""

Change: TypeAlias = tuple[Key, Row | None]
"""The new row of a key, or None: no row."""

SETTINGS_KEY: Key = (RowKind.SETTINGS, "")


def changes_between(old: Table, new: Table, touched: Collection[Key] | None = None) -> Iterator[Change]:
    """Yield what turns `old` into `new`, computed on demand: new and altered rows first, then removals.

    In this order a name that moves from one endpoint to another always has an address, and a group's label that loses
    its last endpoint leads to no other group in between. The tables differ only at
    `touched` keys, and only these are compared; None: anywhere.
    """
    without: list[Key] = []
    for key in {**old, **new} if touched is None else touched:
        row = new.get(key)
        if row is None:
            without.append(key)  # looked up in the other one later: thousands may go at once
        elif (before := old.get(key)) is not row and before != row:
            yield key, row
    for key in without:
        if key in old:
            yield key, None
