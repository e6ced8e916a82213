"""Derive the resolver process's table from the registry's view. Pure, apart from a memory of what it built.

Only names that this host's sandboxes can resolve go into the table: the networks they are in, with their visible
endpoints, the addresses of their services, the labels of the sandboxes' groups that lead nowhere now, and the hosts.
Rows for feeds, which have all
endpoints and their labels, are only those of networks whose feeds a container has asked for (`feeds`). `every_row`
derives it from scratch. `ZoneBuilder` remembers the table that it built last and derives again what was touched since
(RegistryView says where to look): a change of one endpoint costs one row, or two, however many there are. A test
compares the two.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from immutables import Map

from netagent.external.view import (
    endpoint_called,
    external_services,
    labels_of,
    own_name,
    own_names,
    service_with,
)
from netagent.model.group_labels import NO_LABELS, GroupKey
from netagent.model.ids import EndpointId, HostId, NetworkId, OwnNameId, ServiceId
from netagent.model.naming import ranks_in_group
from netagent.model.records import Group, HostProgram, NameAlias, ServiceAddressOrigin, ServiceKey
from netagent.model.sandbox import Sandbox, SandboxId
from netagent.model.txt import texts_of
from netagent.registry.changelog import ChangedKeys
from netagent.registry.view import EndpointView, HostView, NetworkView, RegistryView, ServiceAddressView
from netagent.resolver.feed_entry import feed_host_state, feed_row, is_refused
from netagent.resolver.name_table import (
    SETTINGS_KEY,
    Change,
    EndpointRow,
    ExternalRow,
    GroupLabelRow,
    HostRow,
    Key,
    NetworkRow,
    OwnNameRow,
    Row,
    RowKind,
    ServiceAddressRow,
    SettingsRow,
    Subnet,
    Table,
)
from netgossip.slices import Slices

_MAX_LABEL = 63
NONE_REFUSED: Final[Mapping[bytes, str]] = MappingProxyType({})


def every_row(
    view: RegistryView,
    sandboxes: Iterable[Sandbox],
    domain: str,
    feeds: Set[NetworkId] = frozenset(),
    refused: Container[bytes] = (),
    *,
    only: Set[str] | None = None,
) -> Iterator[Change]:
    """Yield the whole table for these sandboxes, key by key, with the feeds of these networks; None: the key has no
    row. `refused`: the service addresses that this host's kernel has no room for. `only`: of endpoints those to which
    one of these labels may lead."""
    boxes = tuple(sandboxes)
    networks, groups = _networks_of(view, boxes), _groups_of(boxes)
    led: set[tuple[GroupKey, str]] = set()
    yield SETTINGS_KEY, _settings_row(view, domain)
    for box in boxes:
        yield (RowKind.SANDBOX, box.sandbox_id), box
    for host_id in view.hosts:
        yield (RowKind.HOST, host_id), _host_row(view, host_id)
    for network in networks.values():
        has_feeds = network.network_id in feeds
        yield (RowKind.NETWORK, network.network_id), _network_row(view, network, has_feeds=has_feeds)
        endpoints: Mapping[EndpointId, EndpointView] = view.endpoints_in(network.network_id)
        if only is not None:
            ids = {one.endpoint_id for label in only for one in view.labelled(network.network_id, label)}
            endpoints = {one: endpoints[one] for one in sorted(ids) if one in endpoints}
        for endpoint_id, endpoint in endpoints.items():
            row = _endpoint_row(view, endpoint)
            yield (RowKind.ENDPOINT, endpoint_id), row
            if has_feeds:
                yield (RowKind.FEED, endpoint_id), feed_row(view, endpoint)
            led.update(_labels_of(row))
        yield from _added_rows(view, networks, network.network_id)
        for addresses in view.service_addresses(network.network_id).values():
            for own in addresses:
                added = _service_address_row(own, refused)
                yield added.key, added
    for group in groups:
        labels = view.labels_of(*group)
        for label in (*labels.present, *labels.absent) if labels.records else ():
            if (group, label) not in led:
                kept = GroupLabelRow(*group, label)
                yield kept.key, kept


def _added_rows(
    view: RegistryView, networks: Container[NetworkId], network_id: NetworkId
) -> Iterator[Change]:
    """Yield the rows of what operators added to a network."""
    for service in external_services(view, network_id):
        service_id = service.record.service_id
        yield (RowKind.EXTERNAL, service_id), external_row(view, networks, service_id)
    for name in own_names(view, network_id):
        yield (RowKind.OWN_NAME, name.record.name_id), _own_name_row(view, networks, name.record.name_id)


@dataclass(frozen=True, slots=True)
class BuiltTable:
    """A table, and where it may differ from the builder's previous one."""

    table: Table
    touched: Set[Key] | None
    """None: anywhere."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """The input that a table was built from."""

    view: RegistryView
    sandboxes: Mapping[SandboxId, Sandbox]
    networks: Mapping[NetworkId, NetworkView]
    """The networks that the sandboxes are in."""
    feeds: Set[NetworkId]
    """The networks whose feeds are wanted."""
    groups: Set[GroupKey]
    """The groups of the sandboxes, in each of their networks."""
    refused: Mapping[bytes, str]
    """The service addresses that the kernel has no room for, and why."""


class ZoneBuilder:
    """Builds tables from successive views of one registry."""

    def __init__(self, domain: str) -> None:
        self._domain = domain
        self._seen: _Seen | None = None
        """The input of `_rows`; None: nothing, or an unfinished step."""
        self._rows: Map[Key, Row] = Map()
        self._touched: set[Key] = set()
        self._led: Counter[tuple[GroupKey, str]] = Counter()
        """The number of endpoints in the table to which a label of a group leads."""
        self._labels: set[tuple[GroupKey, str]] = set()
        """Those of which it changed whether there are any."""

    def build(
        self,
        view: RegistryView,
        sandboxes: Mapping[SandboxId, Sandbox],
        feeds: Set[NetworkId] = frozenset(),
        refused: Mapping[bytes, str] = NONE_REFUSED,
    ) -> Slices[BuiltTable]:
        """Build the table for these sandboxes, with the feeds of these networks. `refused`: the service addresses
        that this host's kernel has no room for. They must not change any more; the same object again is the least
        work.

        If the generator is not run to its end, the next call rebuilds everything.
        """
        seen, self._seen = self._seen, None
        touched = view.touched_since(seen.view) if seen is not None else None
        if seen is None or touched is None:
            self._rows = Map()
            self._led.clear()
            for key, row in every_row(view, sandboxes.values(), self._domain, feeds, refused):
                self._put(key, row)
                yield
            self._touched.clear()
            self._labels.clear()
            self._seen = _seen(view, sandboxes, feeds, refused)
            return BuiltTable(self._rows, None)
        now = _Seen(view, sandboxes, seen.networks, feeds, seen.groups, refused)
        if sandboxes is not seen.sandboxes or view.networks is not seen.view.networks or feeds != seen.feeds:
            now = _seen(view, sandboxes, feeds, refused)
            yield from self._follow_sandboxes(seen, now)
        for host_id in touched.hosts:
            yield from self._follow_host(seen.view, now, host_id)
        places: set[tuple[NetworkId, str]] = set()
        for _, endpoint_id in touched.endpoints:
            self._follow_endpoint(now, endpoint_id)
            places.update(_added_places(seen.view, now.view, endpoint_id))
            yield
        for place in places:
            yield from self._follow_added(seen.view, now, place)
        yield from self._follow_additions(seen.view, now, touched)
        if refused is not seen.refused:
            for network_id, service in (yield from _places_of(view, refused.keys() ^ seen.refused.keys())):
                self._follow_service_address(seen.view, now, network_id, service)
                yield
        self._labels.update(view.touched_labels(seen.view, touched))
        for group, label in self._labels:
            self._follow_label(now, group, label)
            yield
        self._labels.clear()
        self._seen = now
        keys, self._touched = self._touched, set()
        return BuiltTable(self._rows, keys)

    def _follow_sandboxes(self, seen: _Seen, now: _Seen) -> Slices[None]:
        """Update the sandboxes and their networks. All rows of a network come with its first sandbox and go with its
        last."""
        for sandbox_id, box in seen.sandboxes.items():
            if now.sandboxes.get(sandbox_id) is not box:
                self._put((RowKind.SANDBOX, sandbox_id), now.sandboxes.get(sandbox_id))
        for sandbox_id, box in now.sandboxes.items():
            if sandbox_id not in seen.sandboxes:
                self._put((RowKind.SANDBOX, sandbox_id), box)
        for network_id in seen.networks.keys() | now.networks.keys():
            before, network = seen.networks.get(network_id), now.networks.get(network_id)
            has_feeds = network_id in now.feeds
            self._follow_network(now, network_id)
            if (before is None) != (network is None) or (network_id in seen.feeds) != has_feeds:
                yield from self._follow_all_in(seen.view, now, network_id)
        for group in seen.groups ^ now.groups:
            labels = (seen.view if group in seen.groups else now.view).labels_of(*group)
            for label in (*labels.present, *labels.absent):
                self._labels.add((group, label))
                yield

    def _follow_all_in(self, before: RegistryView, now: _Seen, network_id: NetworkId) -> Slices[None]:
        """Update all rows of a network that has come, that goes, or whose feeds do."""
        holder = now.view if network_id in now.networks else before
        for endpoint_id in holder.endpoints_in(network_id):
            self._follow_endpoint(now, endpoint_id)
            yield
        for _, service_id in holder.store.services_in.get(network_id, ()):
            self._follow_service(now, service_id)
            yield
        for _, name_id in holder.store.own_names_in.get(network_id, ()):
            self._follow_own_name(now, name_id)
            yield
        for service in holder.service_addresses(network_id):
            self._follow_service_address(before, now, network_id, service)
            yield

    def _follow_additions(self, before: RegistryView, now: _Seen, touched: ChangedKeys) -> Slices[None]:
        """Update what operators added, and the addresses of services."""
        for service_id in {service_id for _, service_id in touched.services}:
            self._follow_service(now, service_id)
            yield
        for name_id in {name_id for _, name_id in touched.own_names}:
            self._follow_own_name(now, name_id)
            yield
        for network_id in now.networks:
            if now.view.service_ranges(network_id) is not before.service_ranges(network_id):
                self._follow_network(now, network_id)
        for place in touched.service_addresses:
            self._follow_service_address(before, now, *place)
            yield

    def _follow_network(self, now: _Seen, network_id: NetworkId) -> None:
        network = now.networks.get(network_id)
        has_feeds = network_id in now.feeds
        row = None if network is None else _network_row(now.view, network, has_feeds=has_feeds)
        self._put((RowKind.NETWORK, network_id), row)

    def _follow_host(self, before: RegistryView, now: _Seen, host_id: HostId) -> Slices[None]:
        self._put((RowKind.HOST, host_id), _host_row(now.view, host_id))
        if host_id == now.view.local:
            self._put(SETTINGS_KEY, _settings_row(now.view, self._domain))
        if _owner_state(before, host_id) != _owner_state(now.view, host_id):
            for network_id in now.networks:
                for owner, service_id in now.view.store.services_in.get(network_id, ()):
                    if owner == host_id:
                        self._follow_service(now, service_id)
                        yield
        is_same = _host_state(before, host_id) == _host_state(now.view, host_id)
        is_same_in_feeds = is_same and feed_host_state(before, host_id) == feed_host_state(now.view, host_id)
        for network_id in now.networks:
            if is_same_in_feeds if network_id in now.feeds else is_same:
                continue
            for endpoint_id in now.view.endpoints_said(host_id, network_id):
                self._follow_endpoint(now, endpoint_id)
                yield

    def _follow_endpoint(self, now: _Seen, endpoint_id: EndpointId) -> None:
        endpoint = now.view.endpoints.get(endpoint_id)
        is_asked_for = endpoint is not None and endpoint.network_id in now.networks
        row = _endpoint_row(now.view, endpoint) if endpoint is not None and is_asked_for else None
        self._put((RowKind.ENDPOINT, endpoint_id), row)
        is_fed = is_asked_for and endpoint is not None and endpoint.network_id in now.feeds
        fed = feed_row(now.view, endpoint) if endpoint is not None and is_fed else None
        self._put((RowKind.FEED, endpoint_id), fed)

    def _follow_label(self, now: _Seen, group: GroupKey, label: str) -> None:
        row = GroupLabelRow(*group, label)
        labels = now.view.labels_of(*group) if group in now.groups else NO_LABELS
        is_kept = labels.records > 0 and label in labels and not self._led[group, label]
        self._put(row.key, row if is_kept else None)

    def _follow_added(self, before: RegistryView, now: _Seen, place: tuple[NetworkId, str]) -> Slices[None]:
        """Update what operators added with a label, if it is only now that endpoints have it, or have it no more:
        while they do, it yields."""
        if (endpoint_called(before, *place) is None) == (endpoint_called(now.view, *place) is None):
            return
        for _, service_id in now.view.store.services_called.get(place, ()):
            self._follow_service(now, service_id)
            yield
        holder = now.view.store.own_name_holders.get(place)
        if holder is not None:
            self._follow_own_name(now, holder[1])
            yield

    def _follow_service(self, now: _Seen, service_id: ServiceId) -> None:
        self._put((RowKind.EXTERNAL, service_id), external_row(now.view, now.networks, service_id))

    def _follow_own_name(self, now: _Seen, name_id: OwnNameId) -> None:
        self._put((RowKind.OWN_NAME, name_id), _own_name_row(now.view, now.networks, name_id))

    def _follow_service_address(
        self, before: RegistryView, now: _Seen, network_id: NetworkId, service: ServiceKey
    ) -> None:
        is_asked_for = network_id in now.networks
        addresses = now.view.service_addresses(network_id).get(service, ()) if is_asked_for else ()
        rows = {row.key: row for row in (_service_address_row(one, now.refused) for one in addresses)}
        for key in {
            _service_address_row(one, now.refused).key
            for one in before.service_addresses(network_id).get(service, ())
        }:
            # Another service may have got the address meanwhile, and the row may have been followed already.
            row = self._rows.get(key)
            if key not in rows and isinstance(row, ServiceAddressRow) and row.service == service:
                self._put(key, None)
        for key, one in rows.items():
            self._put(key, one)

    def _put(self, key: Key, row: Row | None) -> None:
        before = self._rows.get(key)
        if before == row:
            return
        for label in _labels_of(row):
            self._led[label] += 1
            if self._led[label] == 1:
                self._labels.add(label)
        for label in _labels_of(before):
            self._led[label] -= 1
            if not self._led[label]:
                del self._led[label]
                self._labels.add(label)
        self._rows = self._rows.set(key, row) if row is not None else self._rows.delete(key)
        self._touched.add(key)


def _added_places(
    before: RegistryView, now: RegistryView, endpoint_id: EndpointId
) -> Iterator[tuple[NetworkId, str]]:
    """Yield the labels that an endpoint has, or had, and of which operators have added something."""
    store = now.store
    if not (store.services_called or store.own_name_holders):
        return
    for endpoint in filter(None, (view.endpoints.get(endpoint_id) for view in (before, now))):
        for label in labels_of(endpoint.record):
            place = endpoint.network_id, label
            if place in store.services_called or place in store.own_name_holders:
                yield place


def _networks_of(view: RegistryView, sandboxes: Iterable[Sandbox]) -> dict[NetworkId, NetworkView]:
    wanted = {network_id for box in sandboxes for network_id in box.networks}
    return {network_id: view.networks[network_id] for network_id in wanted if network_id in view.networks}


def _groups_of(sandboxes: Iterable[Sandbox]) -> frozenset[GroupKey]:
    return frozenset((network, box.group) for box in sandboxes if box.group for network in box.networks)


def _seen(
    view: RegistryView,
    sandboxes: Mapping[SandboxId, Sandbox],
    feeds: Set[NetworkId],
    refused: Mapping[bytes, str],
) -> _Seen:
    boxes = sandboxes.values()
    return _Seen(view, sandboxes, _networks_of(view, boxes), feeds, _groups_of(boxes), refused)


def _labels_of(row: Row | None) -> Iterator[tuple[GroupKey, str]]:
    """Yield the labels by which an endpoint's group finds it."""
    if isinstance(row, EndpointRow) and row.group is not None:
        group = (row.network_id, row.group.name)
        yield from ((group, label) for label in ranks_in_group(row.name, row.group, row.aliases))


def host_label(host: HostView) -> str:
    """Return the label of the host's names: its unique name, shortened in the middle if a label would be too long."""
    return _label(host.unique_name or host.name)


def _label(name: str) -> str:
    # Only `<name>-<4 hex>` can be too long; the digits make it unique, so they stay.
    return name if len(name) <= _MAX_LABEL else name[: _MAX_LABEL - 5] + name[-5:]


def _label_of(view: RegistryView, host_id: HostId) -> str:
    return host_label(view.hosts.get(host_id) or HostView(host_id))


def _host_state(view: RegistryView, host_id: HostId) -> tuple[str, bool] | None:
    """Return everything about a host that its endpoints' rows depend on: its label, and whether it is unreached;
    None: its endpoints are hidden."""
    if view.is_host_hidden(host_id) or view.drain_of_host(host_id) is not None:
        return None
    return _label_of(view, host_id), host_id in view.hosts and view.hosts[host_id].is_unreached


def _owner_state(view: RegistryView, host_id: HostId) -> tuple[str, bool, bool]:
    """Return everything about a host that the rows of its external services depend on."""
    host = view.hosts.get(host_id)
    is_unreached = host is not None and host.is_unreached
    return _label_of(view, host_id), view.is_host_hidden(host_id), is_unreached


def _settings_row(view: RegistryView, domain: str) -> SettingsRow:
    return SettingsRow(domain, view.zone_label_of(view.local))


def _host_row(view: RegistryView, host_id: HostId) -> HostRow | None:
    host = view.hosts.get(host_id)
    if host is None or host.record is None or view.is_host_hidden(host_id):
        return None
    address = ipaddress.ip_address(host.record.underlay).packed
    return HostRow(host_label(host), address, view.zone_label_of(host_id), view.distance_of(host_id))


def _network_row(view: RegistryView, network: NetworkView, *, has_feeds: bool) -> NetworkRow:
    ranges = [text for one in view.service_ranges(network.network_id) for text in one.record.subnets]
    return NetworkRow(
        _label(network.unique_name),
        tuple(map(_subnet, network.record.subnets)),
        "" if network.holds_name else network.name,
        refuses_shared=network.record.refuses_shared_names,
        has_feeds=has_feeds,
        answer=network.record.answer,
        feed_rules=network.record.feed_rules,
        service_ranges=tuple(map(_subnet, ranges)),
    )


def _subnet(text: str) -> Subnet:
    parsed = ipaddress.ip_network(text)
    return Subnet(parsed.network_address.packed, parsed.prefixlen)


def _service_address_row(address: ServiceAddressView, refused: Container[bytes]) -> ServiceAddressRow:
    record = address.record
    return ServiceAddressRow(
        network_id=record.network_id,
        service=record.service,
        owner=address.owner,
        addresses=tuple(ipaddress.ip_address(one).packed for one in record.addresses),
        is_chosen=record.origin is ServiceAddressOrigin.OPERATOR,
        ports=record.ports,
        is_refused=is_refused(address, refused),
    )


def _places_of(view: RegistryView, addresses: Iterable[bytes]) -> Slices[set[tuple[NetworkId, ServiceKey]]]:
    """Return the services that have these addresses."""
    found = set()
    for address in addresses:
        one = view.service_by_address(str(ipaddress.ip_address(address)))
        if one is not None:
            found.add((one.network_id, one.service))
        yield
    return found


def _endpoint_row(view: RegistryView, endpoint: EndpointView) -> EndpointRow | None:
    is_kept = view.is_kept(endpoint)
    if not is_kept and not view.is_visible(endpoint):
        return None
    record = endpoint.record
    return EndpointRow(
        endpoint_id=record.endpoint_id,
        network_id=record.network_id,
        name=record.name,
        host_label=_label_of(view, endpoint.owner),
        service=record.service,
        aliases=record.aliases,
        addresses=tuple(ipaddress.ip_address(address).packed for address in record.addresses),
        ports=record.ports,
        is_behind=is_kept or view.is_behind(endpoint),
        is_kept=is_kept,
        group=record.group and Group(record.group.name, record.group.service),
        weight=record.weight,
        up_since_s=record.up_since_s,
        texts=texts_of(record.labels),
    )


def external_row(
    view: RegistryView, networks: Container[NetworkId], service_id: ServiceId
) -> ExternalRow | None:
    """Return the row of a service that is no container; None if names lead to none of its addresses, or to a
    container of that name."""
    service = service_with(view, service_id)
    if service is None or service.record.network_id not in networks or not service.answering:
        return None
    record, is_inside = service.record, isinstance(service.record.target, HostProgram)
    if endpoint_called(view, record.network_id, record.name):
        return None
    owner = view.hosts.get(service.owner)
    return ExternalRow(
        service_id=service_id,
        network_id=record.network_id,
        name=record.name,
        host_label=_label_of(view, service.owner),
        places=tuple((ipaddress.ip_address(one.address).packed, one.port) for one in service.answering),
        ports=record.ports,
        weight=record.weight,
        ttl_s=service.ttl_s,
        is_inside=is_inside,
        is_behind=is_inside and owner is not None and owner.is_unreached,
    )


def _own_name_row(
    view: RegistryView, networks: Container[NetworkId], name_id: OwnNameId
) -> OwnNameRow | None:
    record = own_name(view, name_id)
    if record is None or record.network_id not in networks:
        return None
    if endpoint_called(view, record.network_id, record.name):
        return None
    place = name_id, record.network_id, record.name
    if isinstance(record.value, NameAlias):
        return OwnNameRow(*place, (record.value.network_id, record.value.name))
    packed = tuple(ipaddress.ip_address(one).packed for one in record.value.addresses)
    return OwnNameRow(*place, None, packed, record.value.texts)
