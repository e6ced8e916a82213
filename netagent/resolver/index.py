"""The endpoints and service addresses of one network, by every label that leads to them.

A label leads to endpoints in the order of netagent.model.naming. Where it leads to several groups it is *shared*: all
of them are answered in turn, or none if the network refuses shared names. What a member of a group finds first is in
netagent.resolver.scope.

A service that has an address of its own has the place of its replicas in this order also while it has none: its label
then leads to no endpoint, and to no other service either. The label of a service, and each alias that all its
replicas have, *means* the service: the answer may be the service's address instead of its replicas'. The name of a
replica never does, and neither does a label that several services share.

What operators added to the network comes after these: the addresses of an external service, and own names, of which a
wildcard stands for all names below it that have none of their own (RFC 4592).
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, KeysView, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, TypeAlias, TypeVar

from netagent.model.ids import MAX_NAME, NetworkId
from netagent.model.naming import (
    PLACE_OF_MEMBER,
    PLACE_OF_SERVICE,
    PLACES_IN_GROUP,
    Rank,
    ranks,
    ranks_in_group,
)
from netagent.model.records import Port, ServiceKey, service_key
from netagent.resolver.name_table import (
    EndpointRow,
    ExternalAddressRow,
    GroupLabelRow,
    NetworkRow,
    OwnNameRow,
    ServiceAddressRow,
)

MAX_EXTERNAL: Final = 256
"""Bound of addresses of external services to which one name leads; beyond it: the first by id. Any host may add
services to a name, and each query puts all of them in order."""
_T = TypeVar("_T")
_Labelled: TypeAlias = dict[bytes, dict[str, EndpointRow]]

_ID_LABEL_DIGITS: Final = 12
"""48 bits of a random id: two of a million endpoints of one host share them with a probability of 0.2 %, and then a
lookup of that one label shows both."""
_SERVICE_NAME: Final = re.compile(r"(?=[a-z0-9-]{1,15}\Z)(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*")


def id_label(row: EndpointRow) -> bytes:
    """Return the label made from the endpoint's id: always a legal host name, and short."""
    return f"e{row.endpoint_id[:_ID_LABEL_DIGITS]}".encode()


def instance_label(row: EndpointRow) -> bytes:
    """Return the endpoint's label in DNS-SD: `web@h1`, which no other name contains, or the one from its id."""
    label = f"{row.name}@{row.host_label}".encode()
    return label if len(label) <= MAX_NAME else id_label(row)


def service_type(port: Port) -> bytes | None:
    """Return the service type of DNS-SD that a port belongs to; None for a port whose name cannot be one (RFC 6335
    5.1), such as a number, and for SCTP."""
    if port.protocol not in {"tcp", "udp"} or _SERVICE_NAME.fullmatch(port.name) is None:
        return None
    return f"_{port.name}._{port.protocol}".encode()


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a label means in a network."""

    rows: tuple[EndpointRow, ...] = ()
    """The endpoints to which it leads, by id."""
    service: ServiceAddressRow | None = None
    """The service that it means, if that has an address of its own."""

    def __bool__(self) -> bool:
        """True if it means anything."""
        return bool(self.rows) or self.service is not None


class NetworkIndex:
    """Rows of one network. `row` is None while the network's own row has not arrived."""

    def __init__(self, network_id: NetworkId | None = None) -> None:
        self.network_id = network_id
        self.row: NetworkRow | None = None
        self.label = self.given = b""
        self._anywhere: tuple[_Labelled, ...] = tuple({} for _ in Rank)
        """By rank and label."""
        self._inside: tuple[_Labelled, ...] = tuple({} for _ in range(PLACES_IN_GROUP))
        """By place in the order of groups and `<label>.<group>`."""
        self._groups: _Labelled = {}
        self._kept: set[bytes] = set()
        """`<label>.<group>` of labels that lead to none of the group now."""
        self._on_host: dict[tuple[bytes, bytes], dict[str, EndpointRow]] = {}
        self._hosts: _Labelled = {}
        self._types: _Labelled = {}
        """By service type: `_http._tcp`."""
        self._instances: _Labelled = {}
        """Those with a service type, by their instance label."""
        self._addresses: _Labelled = {}
        self._external: _Labelled = {}
        self._outside: dict[str, tuple[list[str], dict[str, ExternalAddressRow]]] = {}
        """By name, all addresses of external services: their ids in order, and their rows."""
        self._replicas: Counter[ServiceKey] = Counter()
        """How many endpoints a service has."""
        self._services: dict[ServiceKey, dict[str, ServiceAddressRow]] = {}
        """Those with addresses of their own, by the identifier of the row."""
        self._groups_with: dict[bytes, Counter[str]] = {}
        """By label, the groups whose service of that name has addresses."""
        self._service_groups: Counter[bytes] = Counter()
        """How many addresses the services of a group have."""
        self._service_addresses: dict[bytes, dict[str, ServiceAddressRow]] = {}
        self._own_names: dict[bytes, dict[str, OwnNameRow]] = {}
        """By the labels in front of the network's, with dots between them."""
        self._own_below: Counter[bytes] = Counter()
        """How many own names are below a name."""

    def set_row(self, row: NetworkRow | None) -> None:
        """Set the network's name and subnets."""
        self.row = row
        self.label = b"" if row is None else row.label.encode()
        self.given = self.label if row is None or not row.given else row.given.encode()

    def add(self, row: EndpointRow) -> None:
        """Add an endpoint. An older row of it must have been discarded."""
        if not isinstance(row, ExternalAddressRow):
            self._put(row)
            return
        ids, rows = self._outside.setdefault(row.service, ([], {}))
        position = bisect_left(ids, row.endpoint_id)
        ids.insert(position, row.endpoint_id)
        rows[row.endpoint_id] = row
        if position < MAX_EXTERNAL:
            self._put(row)
            if len(ids) > MAX_EXTERNAL:
                self._take(rows[ids[MAX_EXTERNAL]])

    def discard(self, row: EndpointRow) -> None:
        """Undo `add`."""
        if not isinstance(row, ExternalAddressRow):
            self._take(row)
            return
        ids, rows = self._outside[row.service]
        position = bisect_left(ids, row.endpoint_id)
        del ids[position], rows[row.endpoint_id]
        if position < MAX_EXTERNAL:
            self._take(row)
            if len(ids) >= MAX_EXTERNAL:
                self._put(rows[ids[MAX_EXTERNAL - 1]])
        if not ids:
            del self._outside[row.service]

    def _put(self, row: EndpointRow) -> None:
        for table, label in self._places(row):
            table.setdefault(label, {})[row.endpoint_id] = row
        for pair in _pairs(row):
            self._on_host.setdefault(pair, {})[row.endpoint_id] = row
        self._replicas[_service_of(row)] += 1

    def _take(self, row: EndpointRow) -> None:
        for table, label in self._places(row):
            rows = table[label]
            rows.pop(row.endpoint_id, None)
            if not rows:
                del table[label]
        for pair in _pairs(row):
            rows = self._on_host[pair]
            rows.pop(row.endpoint_id, None)
            if not rows:
                del self._on_host[pair]
        _less(self._replicas, _service_of(row))

    def add_service(self, row: ServiceAddressRow) -> None:
        """Add an address pair of a service. An older row of it must have been discarded."""
        name, group = row.service
        self._services.setdefault(row.service, {})[row.key[1]] = row
        for address in row.addresses:
            self._service_addresses.setdefault(address, {})[row.key[1]] = row
        if group is not None:
            self._groups_with.setdefault(name.encode(), Counter())[group] += 1
            self._service_groups[group.encode()] += 1

    def discard_service(self, row: ServiceAddressRow) -> None:
        """Undo `add_service`."""
        name, group = row.service
        rows = self._services[row.service]
        rows.pop(row.key[1], None)
        if not rows:
            del self._services[row.service]
        for address in dict.fromkeys(row.addresses):
            found = self._service_addresses[address]
            found.pop(row.key[1], None)
            if not found:
                del self._service_addresses[address]
        if group is not None:
            _less(self._service_groups, group.encode())
            _less(self._groups_with[name.encode()], group)
            if not self._groups_with[name.encode()]:
                del self._groups_with[name.encode()]

    def keep_label(self, row: GroupLabelRow) -> None:
        """Add a label that leads to none of its group now."""
        self._kept.add(f"{row.label}.{row.group}".encode())

    def discard_label(self, row: GroupLabelRow) -> None:
        """Undo `keep_label`."""
        self._kept.discard(f"{row.label}.{row.group}".encode())

    def add_own_name(self, row: OwnNameRow) -> None:
        """Add an own name. An older row of it must have been discarded."""
        self._own_names.setdefault(row.name.encode(), {})[row.name_id] = row
        self._own_below.update(_above(row.name.encode()))

    def discard_own_name(self, row: OwnNameRow) -> None:
        """Undo `add_own_name`."""
        rows = self._own_names[row.name.encode()]
        del rows[row.name_id]
        if not rows:
            del self._own_names[row.name.encode()]
        for name in _above(row.name.encode()):
            _less(self._own_below, name)

    def external(self, label: bytes) -> tuple[EndpointRow, ...]:
        """Return the addresses of an external service, in its order; empty when there are none."""
        return _in_order(self._external.get(label, {}))

    def own_name(self, labels: Sequence[bytes]) -> OwnNameRow | None:
        """Return the own name for these labels, or the wildcard that stands for it."""
        name = b".".join(labels)
        if rows := self._own_names.get(name):
            return rows[min(rows)]
        while not (name in self._own_below or name in self._own_names):
            _, dot, name = name.partition(b".")
            if not dot:
                return None
        rows = self._own_names.get(b"*." + name, {}) if name != b".".join(labels) else {}
        return rows[min(rows)] if rows else None

    def has_own_names(self, labels: Sequence[bytes]) -> bool:
        """Whether there are own names below a name."""
        return b".".join(labels) in self._own_below

    def members(self, label: bytes) -> tuple[EndpointRow, ...]:
        """Return the endpoints for `<label>.<network>`, by id, whichever group they are in; empty when there are
        none."""
        return self.meaning(label).rows

    def meaning(self, label: bytes) -> Meaning:
        """Return what `<label>.<network>` means, whichever group that is in."""
        rank, rows = self._led_to(label)
        if self.row is not None and self.row.refuses_shared and _sharing(rank, rows):
            return Meaning()
        if rank is None or not self._services:
            return Meaning(rows)
        text = label.decode("ascii", "replace")
        match rank:
            case Rank.CHOSEN | Rank.DEFAULT:  # all of them are replicas of this service
                return Meaning(rows, self.service(ServiceKey(text)))
            case Rank.GIVEN:
                services = set(map(_service_of, rows))
                services.update(ServiceKey(text, group) for group in self._groups_with.get(label, ()))
                return Meaning(rows, self._meant(services, text, rows))
            case Rank.MEMBER | Rank.NAME:
                return Meaning(rows)

    def _meant(
        self, services: set[ServiceKey], label: str, rows: tuple[EndpointRow, ...]
    ) -> ServiceAddressRow | None:
        """Return the one service that a label means that leads to these endpoints of these services."""
        if len(services) != 1:
            return None
        (key,) = services
        if key.name != label and self._replicas[key] != len(rows):
            return None  # an alias of some of the replicas
        return self.service(key)

    def service(self, key: ServiceKey) -> ServiceAddressRow | None:
        """Return a service's own addresses that names lead to; None: it has none."""
        rows = self._services.get(key)
        if not rows:
            return None
        return rows[min(rows, key=lambda one: (rows[one].is_refused, one))]

    def service_with_address(self, address: bytes) -> ServiceAddressRow | None:
        """Return the service that has the address; of two, which the registry does not allow, the smaller one."""
        rows = self._service_addresses.get(address)
        return rows[min(rows)] if rows else None

    def shared_by(self, label: bytes) -> tuple[EndpointRow, ...]:
        """Return the endpoints of the groups that share a label, by group, also if the network refuses it; empty when
        it is not shared."""
        return _sharing(*self._led_to(label))

    def keeps(self, label: bytes, group: bytes) -> bool:
        """True if the group has had the label, and none of its endpoints that names lead to has it now."""
        return label + b"." + group in self._kept

    def in_group(self, label: bytes, group: bytes) -> Meaning:
        """Return what `<label>.<group>.<network>` means."""
        name = label + b"." + group
        key = ServiceKey(label.decode("ascii", "replace"), group.decode("ascii", "replace"))
        for place, table in enumerate(self._inside):
            found = table.get(name)
            is_service = place == PLACE_OF_SERVICE
            if not found and not (is_service and key in self._services):
                continue
            rows = _in_order(found or {})
            if place == PLACE_OF_MEMBER or not self._services:
                return Meaning(rows)
            services = set(map(_service_of, rows)) | ({key} if is_service else set())
            return Meaning(rows, self._meant(services, key.name, rows))
        return Meaning()

    def has_group(self, group: bytes) -> bool:
        """Whether there are names below `<group>.<network>`."""
        return group in self._groups or group in self._service_groups

    def _led_to(self, label: bytes) -> tuple[Rank | None, tuple[EndpointRow, ...]]:
        """Return the endpoints and how the label leads to them, or to a service without any; None: nowhere."""
        for rank, table in zip(Rank, self._anywhere, strict=True):
            rows = table.get(label, {})
            is_service = bool(self._services) and self._has_service(label, rank)
            if rank is Rank.CHOSEN and (rows or is_service):
                rows = rows | self._anywhere[Rank.DEFAULT].get(label, {})
            if rows or is_service:
                return rank, _in_order(rows)
        return None, ()

    def _has_service(self, label: bytes, rank: Rank) -> bool:
        """True if a service with an address of its own has the label by this rank, with or without replicas."""
        match rank:
            case Rank.CHOSEN:
                rows = self._services.get(ServiceKey(label.decode("ascii", "replace")), {})
                return any(row.is_chosen for row in rows.values())
            case Rank.GIVEN:
                return label in self._groups_with
            case Rank.DEFAULT:
                return ServiceKey(label.decode("ascii", "replace")) in self._services
            case Rank.MEMBER | Rank.NAME:
                return False

    def on_host(self, label: bytes, host_label: bytes) -> tuple[EndpointRow, ...]:
        """Return the endpoints for `<label>.<host>.<network>`: one, as long as its host keeps the rules."""
        return _in_order(self._on_host.get((label, host_label), {}))

    def has_host(self, host_label: bytes) -> bool:
        """Whether there are names below `<host>.<network>`."""
        return host_label in self._hosts

    def with_address(self, address: bytes) -> EndpointRow | None:
        """Return the endpoint that has the address; of two, which the registry does not allow, the smaller id."""
        rows = self._addresses.get(address)
        return rows[min(rows)] if rows else None

    @property
    def types(self) -> KeysView[bytes]:
        """The service types of DNS-SD that have instances: `_http._tcp`."""
        return self._types.keys()

    def of_type(self, service_type: bytes) -> tuple[EndpointRow, ...]:
        """Return the endpoints with a port of a service type, by id."""
        rows = self._types.get(service_type, {})
        return tuple(rows[endpoint_id] for endpoint_id in sorted(rows))

    def instance(self, label: bytes, kind: bytes) -> tuple[EndpointRow, ...]:
        """Return the endpoint with an instance label, if it has a port of this service type."""
        rows = self._instances.get(label, {}).values()
        return tuple(row for row in rows if kind in map(service_type, row.ports))

    def is_empty(self) -> bool:
        """Whether nothing is known of the network."""
        rows = self._hosts or self._kept or self._own_names or self._services
        return self.row is None and not rows

    def labels(self) -> frozenset[str]:
        """Return all labels that `meaning` knows, for suggestions."""
        tables = (*self._anywhere, self._external)
        added = (name.decode() for name in self._own_names if b"." not in name)
        services = (key.name for key in self._services)
        return frozenset(chain((label.decode() for table in tables for label in table), added, services))

    def _places(self, row: EndpointRow) -> Iterator[tuple[_Labelled, bytes]]:
        if isinstance(row, ExternalAddressRow):
            yield self._external, row.service.encode()
        else:
            for label, rank in ranks(row.name, row.service, row.group, row.aliases).items():
                yield self._anywhere[rank], label.encode()
        if row.group is not None:
            yield self._groups, row.group.name.encode()
            for label, place in ranks_in_group(row.name, row.group, row.aliases).items():
                yield self._inside[place], f"{label}.{row.group.name}".encode()
        yield self._hosts, row.host_label.encode()
        # A service outside has no reverse name here, whatever address it claims.
        if not isinstance(row, ExternalAddressRow) or row.is_inside:
            for address in dict.fromkeys(row.addresses):
                yield self._addresses, address
        types = dict.fromkeys(filter(None, map(service_type, row.ports)))
        for one in types:
            yield self._types, one
        if types:
            yield self._instances, instance_label(row)


def _in_order(rows: Mapping[str, EndpointRow]) -> tuple[EndpointRow, ...]:
    return tuple(rows[endpoint_id] for endpoint_id in sorted(rows))


def _service_of(row: EndpointRow) -> ServiceKey:
    return service_key(row.name, row.service, row.group)


def _less(counts: Counter[_T], key: _T) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]


def _sharing(rank: Rank | None, rows: tuple[EndpointRow, ...]) -> tuple[EndpointRow, ...]:
    """Return those of the rows that are in groups, by group, if several groups have a label by this rank."""
    if rank not in {Rank.GIVEN, Rank.MEMBER}:
        return ()
    found = sorted(((row.group.name, row.endpoint_id), row) for row in rows if row.group is not None)
    return tuple(row for _, row in found) if len({name for (name, _), _ in found}) > 1 else ()


def _above(name: bytes) -> Iterator[bytes]:
    """Yield the names that a name is below, within the network."""
    while b"." in name:
        name = name.partition(b".")[2]
        yield name


def _pairs(row: EndpointRow) -> tuple[tuple[bytes, bytes], ...]:
    host_label = row.host_label.encode()
    if isinstance(row, ExternalAddressRow):
        return ((row.name.encode(), host_label),)
    return (row.name.encode(), host_label), (id_label(row), host_label)
