"""All conflicts among the records, as sentences for people. The rules (netagent.registry.conflict_rules) have decided
them already; the sentences are computed on demand."""

from __future__ import annotations

from collections.abc import Iterator

from netagent.model.ids import NetworkId
from netagent.model.subnet import parse_subnet
from netagent.registry.conflict_rules import claims_of
from netagent.registry.store import EndpointKey, Store
from netagent.registry.views import AgentState, Conflict, ConflictKind, EndpointView, NetworkView, short_id


def find_conflicts(store: Store) -> tuple[Conflict, ...]:
    """Return every conflict, sorted. Costs in proportion to the square of the networks (subnets) and to the
    conflicts."""
    return tuple(sorted({*_host_names(store), *_networks(store), *_subnets(store), *_endpoints(store)}))


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


def _host_name(store: Store, view: EndpointView) -> str:
    host = store.hosts.get(view.owner)
    return short_id(view.owner) if host is None else host.unique_name


def _network_name(store: Store, network_id: NetworkId) -> str:
    view = store.candidates.get(network_id)
    return short_id(network_id) if view is None else view.unique_name
