"""Derive what feeds say of an endpoint from the registry's view. Pure.

The agent makes feeds of it for `netagent feed`, and rows for the resolver process, which serves feeds to containers.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Container, Iterator

from netagent.feeds.packed import pack_endpoint
from netagent.feeds.table import FeedEndpoint, FeedNetwork, FeedServiceAddress, FeedState
from netagent.model.ids import HostId
from netagent.model.records import Health
from netagent.registry.view import EndpointView, NetworkView, RegistryView, ServiceAddressView
from netagent.resolver.name_table import FeedRow


def feed_network(network: NetworkView, domain: str) -> FeedNetwork:
    """Return a network as feeds have it."""
    return FeedNetwork(network.unique_name, f"{network.unique_name}.{domain}", network.record.feed_rules)


def feed_endpoint(view: RegistryView, endpoint: EndpointView, network: FeedNetwork) -> FeedEndpoint:
    """Return an endpoint as feeds have it."""
    record, group = endpoint.record, endpoint.record.group
    host = view.hosts.get(endpoint.owner)
    return FeedEndpoint(
        endpoint_id=record.endpoint_id,
        network=network,
        name=record.name,
        service=(group and group.service) or record.service,
        group=group.name if group else None,
        host=(host.unique_name or host.name) if host else endpoint.owner[:8],
        zone=host.record.zone if host and host.record else "",
        addresses=record.addresses,
        ports=record.ports,
        labels=dict(record.labels),
        state=feed_state(view, endpoint),
        is_kept=view.is_kept(endpoint),
        weight=record.weight,
    )


def feed_service_addresses(
    view: RegistryView, network: NetworkView, shown: FeedNetwork, refused: Container[bytes]
) -> Iterator[tuple[tuple[str, ...], FeedServiceAddress]]:
    """Yield the own addresses of a network's services that names lead to, by the keys of the services. `refused`: the
    addresses that this host's kernel has no room for."""
    for (name, group), addresses in view.service_addresses(network.network_id).items():
        given = next((one for one in addresses if not is_refused(one, refused)), None)
        if given is None:
            continue
        record = given.record
        key = (name, shown.name) if group is None else (name, group, shown.name)
        in_order = sorted(record.addresses, key=lambda one: ":" in one)
        yield key, FeedServiceAddress(tuple(in_order), record.ports)


def is_refused(address: ServiceAddressView, refused: Container[bytes]) -> bool:
    """True if names give the service's endpoints on this host instead of this address pair: one of the two is among
    those `refused` for lack of room."""
    return any(ipaddress.ip_address(one).packed in refused for one in address.record.addresses)


def feed_state(view: RegistryView, endpoint: EndpointView) -> FeedState:
    """Return whether names lead to an endpoint, and why not."""
    if view.is_host_hidden(endpoint.owner):
        return FeedState.HIDDEN
    if endpoint.record.drain is not None or view.drain_of_host(endpoint.owner) is not None:
        return FeedState.DRAINED
    if endpoint.record.health is Health.STARTING:
        return FeedState.STARTING
    if not view.is_visible(endpoint):
        return FeedState.UNHEALTHY
    return FeedState.UNREACHED if view.is_behind(endpoint) else FeedState.UP


_NO_NETWORK = FeedNetwork("", "")
"""A row of the resolver process says elsewhere which network it is of."""


def feed_row(view: RegistryView, endpoint: EndpointView) -> FeedRow | None:
    """Return the row of an endpoint; None: it has lost its id or its network to another one."""
    is_known = view.endpoints.get(endpoint.endpoint_id) == endpoint and endpoint.network_id in view.networks
    if not is_known:
        return None
    return FeedRow(endpoint.network_id, pack_endpoint(feed_endpoint(view, endpoint, _NO_NETWORK)))


def feed_host_state(view: RegistryView, host_id: HostId) -> tuple[object, ...]:
    """Return everything about a host that the feed rows of its endpoints depend on."""
    host = view.hosts.get(host_id)
    return (
        view.is_host_hidden(host_id),
        view.drain_of_host(host_id) is not None,
        host and (host.unique_name or host.name, host.record and host.record.zone, host.is_unreached),
    )
