"""All conflicts among the records, as sentences for people. The rules (netagent.registry.conflict_rules) have decided
them already; the sentences are computed on demand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from netagent.model.ids import HostId, NetworkId
from netagent.model.records import ServiceAddressRecord, ServiceRangeRecord
from netagent.model.subnet import parse_subnet
from netagent.registry import service_rules
from netagent.registry.conflict_rules import claims_of
from netagent.registry.store import EndpointKey, Store
from netagent.registry.views import AgentState, Conflict, ConflictKind, EndpointView, NetworkView, short_id


def find_conflicts(store: Store) -> tuple[Conflict, ...]:
    """Return every conflict, sorted. Costs in proportion to the square of the networks (subnets) and to the
    conflicts."""
    found = {*_host_names(store), *_networks(store), *_subnets(store), *_endpoints(store)}
    return tuple(sorted({*found, *_service_ranges(store), *_service_addresses(store)}))


def _host_names(store: Store) -> Iterator[Conflict]:
    for name, hosts in store.host_names.items():
        # A host that left has given its name up: its record is still here, but an operator can do nothing about it.
        rivals = sorted(one for one in hosts if store.hosts[one].agent is not AgentState.LEFT)
        for loser in rivals[1:]:
            shown = store.hosts[loser].unique_name
            text = f"two hosts are named {name}; {short_id(loser)} shows as {shown}"
            yield Conflict(ConflictKind.HOST_NAME.value, loser, rivals[0], text)


def _networks(store: Store) -> Iterator[Conflict]:
    for network_id, view in store.networks.items():
        if not view.holds_name:
            namesakes = [one for one in store.candidate_names[view.name] if one in store.networks]
            holder = next(one for one in namesakes if store.networks[one].holds_name)
            text = f"two networks in use are named {view.name}; {network_id} shows as {view.unique_name}"
            yield Conflict(ConflictKind.NETWORK_NAME.value, network_id, holder, text)
        if not view.holds_vni:
            rivals = [one for one in store.candidate_vnis[view.record.vni] if one in store.networks]
            text = f"network {view.unique_name} has the VXLAN id of another network and is not built; create it again"
            yield Conflict(ConflictKind.VNI.value, network_id, min(rivals), text)


def _subnets(store: Store) -> Iterator[Conflict]:
    views = sorted(store.networks.values(), key=lambda view: view.network_id)
    for position, loser in enumerate(views):
        for holder in views[:position]:
            shared = _shared_subnet(holder, loser)
            if shared is not None:
                text = f"networks {holder.unique_name} and {loser.unique_name} overlap in {shared}"
                yield Conflict(ConflictKind.SUBNET.value, loser.network_id, holder.network_id, text)


def _shared_subnet(one: NetworkView, other: NetworkView) -> str | None:
    for left in map(parse_subnet, one.record.subnets):
        for right in map(parse_subnet, other.record.subnets):
            if left.version == right.version and left.overlaps(right):
                return str(max(left, right, key=lambda subnet: subnet.prefixlen))
    return None


def _endpoints(store: Store) -> Iterator[Conflict]:
    for key, view in store.fenced.items():
        yield from _fenced(store, key, view)


def _fenced(store: Store, key: EndpointKey, view: EndpointView) -> Iterator[Conflict]:
    label = f"endpoint {view.record.name} ({short_id(view.endpoint_id)}) of host {_host_name(store, view)}"
    contested = False
    for claim in claims_of(view.record):
        holder = min(store.claims[claim])
        if holder == key:
            continue
        contested = True
        network, what = claim
        within = ConflictKind.MAC if what == view.record.mac else ConflictKind.ADDRESS
        kind = within if network else ConflictKind.ENDPOINT_ID
        text = f"{label} is fenced: {what} belongs to host {short_id(holder[0])}; detach and attach it again"
        yield Conflict(kind.value, view.endpoint_id, holder[1], text)
    if not contested:
        name = _network_name(store, view.network_id)
        text = f"{label} is fenced: {', '.join(view.record.addresses)} is not in network {name}"
        yield Conflict(ConflictKind.OUTSIDE.value, view.endpoint_id, "", text)


def _service_ranges(store: Store) -> Iterator[Conflict]:
    """Of ranges beyond a bound only the number is said: one host may have written thousands."""
    for network_id, claims in store.range_records.items():
        network = store.networks.get(network_id)
        if network is None:
            continue
        in_force = {one.record.subnets for one in store.service_ranges.get(network_id, ())}
        judged = {one.record.subnets for one in service_rules.judged_ranges(claims, network.record)}
        beyond: Counter[HostId] = Counter()
        for (owner, _), record in claims.items():
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


def _service_addresses(store: Store) -> Iterator[Conflict]:
    for network_id, claims in store.address_records.items():
        if network_id not in store.networks:
            continue
        name = _network_name(store, network_id)
        beyond: Counter[HostId] = Counter()
        for place, record in claims.items():
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
