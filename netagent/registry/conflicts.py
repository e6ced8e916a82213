"""All conflicts among the records, as sentences for people. The rules (netagent.registry.conflict_rules) have decided
them already; the sentences are computed on demand.

There may be as many as records: one machine that was restored from an old copy claims the addresses of thousands of
endpoints. So they are found in slices, at a cost in proportion to the records that they are about.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TypeAlias

from netagent.model.ids import HostId, NetworkId
from netagent.model.records import ServiceAddressRecord, ServiceRangeRecord
from netagent.model.subnet import Subnet, parse_subnet
from netagent.registry import service_rules
from netagent.registry.conflict_rules import claims_of, lies_inside
from netagent.registry.store import EndpointKey, Store
from netagent.registry.views import (
    AgentState,
    Conflict,
    ConflictKind,
    EndpointView,
    HostView,
    NetworkView,
    short_id,
)
from netgossip.slices import Slices, merge_sort

_Search: TypeAlias = Iterator[Conflict | None]
"""Conflicts as they are found, and None where nothing was found for as long as one would have taken."""


def find_conflicts(store: Store) -> Slices[tuple[Conflict, ...]]:
    """Return every conflict, sorted."""
    found: set[Conflict] = set()
    for search in (
        _refused,
        _host_names,
        _networks,
        _subnets,
        _endpoints,
        _service_ranges,
        _service_addresses,
    ):
        for conflict in search(store):
            if conflict is not None:
                found.add(conflict)
            yield
    in_order = yield from merge_sort(list(found), lambda one: (one.kind, one.loser, one.holder, one.text))
    return tuple(in_order)


def conflicts_of_endpoint(store: Store, endpoint: EndpointView) -> tuple[Conflict, ...]:
    """Return why the endpoint is fenced, sorted; nothing if it is not. Costs what the endpoint claims."""
    key = (endpoint.owner, endpoint.endpoint_id, endpoint.network_id)
    return tuple(sorted(_fenced(store, key, endpoint))) if store.fenced.get(key) == endpoint else ()


def _refused(store: Store) -> _Search:
    """One for each host: it may have written thousands."""
    counts: Counter[HostId] = Counter()
    reasons: dict[HostId, str] = {}
    for (_, owner), log in store.refused.items():
        yield None
        counts[owner] += len(log)
        # Of a log that is as full as it can be, looking for the least is a millisecond.
        first = log[min(log)]
        reasons[owner] = min(reasons.get(owner, first), first)
    for owner, count in counts.items():
        records = "a record that is" if count == 1 else f"{count:,} records that are"
        text = f"host {_host_called(store, owner)} has written {records} refused: {reasons[owner]}"
        yield Conflict(ConflictKind.RECORD.value, owner, "", text)


def _host_names(store: Store) -> _Search:
    for name, hosts in store.host_names.items():
        yield None
        # A host that left has given its name up: its record is still here, but an operator can do nothing about it.
        rivals = sorted(one for one in hosts if store.hosts[one].agent is not AgentState.LEFT)
        for loser in rivals[1:]:
            shown = store.hosts[loser].unique_name
            text = f"two hosts are named {name}; {short_id(loser)} shows as {shown}"
            yield Conflict(ConflictKind.HOST_NAME.value, loser, rivals[0], text)


def _networks(store: Store) -> _Search:
    # Of each name and VNI once: one member may have written thousands of networks with one name.
    names = {one.name: network_id for network_id, one in store.networks.items() if one.holds_name}
    vnis = {one.record.vni: network_id for network_id, one in store.networks.items() if one.holds_vni}
    for network_id, view in store.networks.items():
        yield None
        if not view.holds_name:
            holder = names[view.name]
            text = f"two networks in use are named {view.name}; {network_id} shows as {view.unique_name}"
            yield Conflict(ConflictKind.NETWORK_NAME.value, network_id, holder, text)
        if not view.holds_vni:
            text = f"network {view.unique_name} has the VXLAN id of another network and is not built; create it again"
            yield Conflict(ConflictKind.VNI.value, network_id, vnis[view.record.vni], text)


def _subnets(store: Store) -> _Search:
    """Of two subnets that overlap, one contains the other. In the order of their first addresses, those that contain
    the next one come before it; of several only the nearest is named, so a hundred equal ones are 99 conflicts. Two
    networks are one conflict, though both their subnets overlap. The address of a host is a subnet of its own."""
    every: list[_Placed] = [
        (parse_subnet(text), view) for view in store.networks.values() for text in view.record.subnets
    ]
    every += [
        (parse_subnet(one.record.underlay), one) for one in store.hosts.values() if one.record is not None
    ]
    enclosing: list[tuple[Subnet, NetworkView]] = []
    named: set[frozenset[NetworkId]] = set()
    for subnet, view in sorted(every, key=_place):
        yield None
        while enclosing and not _is_within(subnet, enclosing[-1][0]):
            enclosing.pop()
        if isinstance(view, HostView):
            if enclosing:
                network = enclosing[-1][1]
                text = (
                    f"network {network.unique_name} has in {enclosing[-1][0]} the address "
                    f"{subnet.network_address} of host {view.unique_name}, which does not build it"
                )
                yield Conflict(ConflictKind.SUBNET.value, network.network_id, view.host_id, text)
            continue
        pair = frozenset((enclosing[-1][1].network_id, view.network_id)) if enclosing else frozenset()
        if len(pair) == 2 and pair not in named:
            named.add(pair)
            holder, loser = (store.networks[one] for one in sorted(pair))
            text = f"networks {holder.unique_name} and {loser.unique_name} overlap in {subnet}"
            yield Conflict(ConflictKind.SUBNET.value, loser.network_id, holder.network_id, text)
        enclosing.append((subnet, view))


_Placed: TypeAlias = tuple[Subnet, NetworkView | HostView]


def _place(one: _Placed) -> tuple[int, int, int, str]:
    subnet, view = one
    identifier = view.host_id if isinstance(view, HostView) else view.network_id
    return subnet.version, int(subnet.network_address), subnet.prefixlen, identifier


def _is_within(subnet: Subnet, other: Subnet) -> bool:
    return subnet.version == other.version and subnet.overlaps(other)


def _endpoints(store: Store) -> _Search:
    for key, view in store.fenced.items():
        yield from _fenced(store, key, view)


def _fenced(store: Store, key: EndpointKey, view: EndpointView) -> Iterator[Conflict]:
    label = f"endpoint {view.record.name} ({short_id(view.endpoint_id)}) of host {_host_name(store, view)}"
    contested = False
    for claim in claims_of(view.record):
        holder = store.holder_of(claim)
        if holder is None or holder == key:
            continue
        contested = True
        network, what = claim
        within = ConflictKind.MAC if what == view.record.mac else ConflictKind.ADDRESS
        kind = within if network else ConflictKind.ENDPOINT_ID
        text = f"{label} is fenced: {what} belongs to host {short_id(holder[0])}; detach and attach it again"
        yield Conflict(kind.value, view.endpoint_id, holder[1], text)
    if contested:
        return
    name, network_view = _network_name(store, view.network_id), store.candidates.get(view.network_id)
    if network_view is not None and lies_inside(view.record, network_view.record):
        text = f"{label} is fenced: its MAC {view.record.mac} belongs to another address of network {name}"
        yield Conflict(ConflictKind.MAC.value, view.endpoint_id, "", text)
    else:
        text = f"{label} is fenced: {', '.join(view.record.addresses)} is not in network {name}"
        yield Conflict(ConflictKind.OUTSIDE.value, view.endpoint_id, "", text)


def _service_ranges(store: Store) -> _Search:
    """Of ranges beyond a bound only the number is said: one host may have written thousands."""
    for network_id, claims in store.range_records.items():
        network = store.networks.get(network_id)
        if network is None:
            continue
        in_force = {one.record.subnets for one in store.service_ranges.get(network_id, ())}
        judged = {one.record.subnets for one in service_rules.judged_ranges(claims, network.record)}
        beyond: Counter[HostId] = Counter()
        for (owner, _), record in claims.items():
            yield None
            if record.subnets in in_force:
                continue
            if record.subnets not in judged:
                beyond[owner] += 1
                continue
            holder, why = _why_not_in_force(store, network_id, record)
            text = (
                f"the service range {', '.join(record.subnets)} of network {network.unique_name} is not in force: "
                f"{why}"
            )
            yield Conflict(ConflictKind.SERVICE_RANGE.value, network_id, holder, text)
        for owner, count in beyond.items():
            text = (
                f"{count} service ranges of network {network.unique_name}, written by host "
                f"{_host_called(store, owner)}, are not in force: they do not fit the network, or are too many"
            )
            yield Conflict(ConflictKind.SERVICE_RANGE.value, network_id, "", text)


def _why_not_in_force(store: Store, network_id: NetworkId, record: ServiceRangeRecord) -> tuple[str, str]:
    """Return the id of what has the addresses of a range, and a clause about it."""
    for other in store.networks.values():
        if any(service_rules.has_addresses_of(record, subnet) for subnet in other.record.subnets):
            return other.network_id, f"it overlaps network {other.unique_name}"
    for host in store.hosts.values():
        for address in (host.record.underlay, host.record.probe_address) if host.record else ():
            if service_rules.has_addresses_of(record, address):
                return host.host_id, f"{address} is the address of host {host.unique_name}"
    for other_id, ranges in store.service_ranges.items():
        if any(service_rules.has_addresses_of(record, text) for one in ranges for text in one.record.subnets):
            return other_id, f"it overlaps the one of network {_network_name(store, other_id)}"
    return network_id, "another one of the network has its place"


def _service_addresses(store: Store) -> _Search:
    for network_id, claims in store.address_records.items():
        if network_id not in store.networks:
            continue
        name = _network_name(store, network_id)
        beyond: Counter[HostId] = Counter()
        for place, record in claims.items():
            yield None
            owner, key = place
            if place in store.address_holders.get((network_id, record.service), ()):
                continue
            last = store.last_addresses.get(owner)
            if last is not None and key > last:
                beyond[owner] += 1
                continue
            holder, why = _why_not_held(store, owner, record)
            text = (
                f"the address {' and '.join(record.addresses)} that host {_host_called(store, owner)} gave to "
                f"service {record.service.name} of network {name} is not in force: {why}"
            )
            yield Conflict(ConflictKind.SERVICE_ADDRESS.value, network_id, holder, text)
        for owner, count in beyond.items():
            text = (
                f"{count} addresses of services that host {_host_called(store, owner)} wrote in network {name} are "
                f"not in force: of one host at most {service_rules.MAX_SERVICE_ADDRESSES} are"
            )
            yield Conflict(ConflictKind.SERVICE_ADDRESS.value, network_id, owner, text)


def _why_not_held(store: Store, owner: HostId, record: ServiceAddressRecord) -> tuple[str, str]:
    for address in record.addresses:
        holder = min(store.address_claims.get(address, ()), default=None)
        if holder is not None and holder[0] != owner:
            return holder[0], f"{address} belongs to host {_host_called(store, holder[0])}"
    return "", "it is not one place in a service range of the network, or its host wrote it twice"


def _host_name(store: Store, view: EndpointView) -> str:
    return _host_called(store, view.owner)


def _host_called(store: Store, host_id: HostId) -> str:
    host = store.hosts.get(host_id)
    return short_id(host_id) if host is None else host.unique_name


def _network_name(store: Store, network_id: NetworkId) -> str:
    view = store.candidates.get(network_id)
    return short_id(network_id) if view is None else view.unique_name
