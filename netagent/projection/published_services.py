"""Published services: the replicas on this host that a port of it leads to. Pure.

`publish --service` is for all hosts, and each host decides for itself. A host leads the port to those of its own
containers that names of the service lead to; without one, and where a program of the host listens on the port, it
does nothing, so that a client is refused or reaches that program. Where two records publish one port of a host, the
first by network, owner and key is in force, the same on all hosts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from netagent.firewall.inputs import ServiceForward
from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import EndpointId
from netagent.model.records import PublishedServiceRecord
from netagent.registry.view import RegistryView

MAX_PORTS: Final = 256
"""Bound of the ports of one host that lead to services; beyond it: the first ones do. Members may write any number of
records."""

HostPort: TypeAlias = tuple[str, int]
"""(Protocol, port)."""


@dataclass(frozen=True, slots=True)
class PublishedPort:
    """A port of this host that is published for a service with replicas here."""

    record: PublishedServiceRecord
    protocol: str
    host_port: int
    port: int
    """The port of the containers."""
    replicas: tuple[LocalEndpointRow, ...]
    """Those that names lead to, by id, never empty."""


def published_ports(
    view: RegistryView, rows: Mapping[EndpointId, LocalEndpointRow]
) -> tuple[PublishedPort, ...]:
    """Return the ports that may lead to replicas of this host. O(replicas of published services)."""
    found: dict[HostPort, PublishedPort] = {}
    for record in _in_order(view):
        replicas = tuple(_replicas(view, rows, record))
        if not replicas:
            continue
        wanted = record.publication
        for number in range(wanted.count):
            if len(found) >= MAX_PORTS:
                return tuple(found.values())
            host_port = wanted.host_port + number
            found.setdefault(
                (wanted.protocol, host_port),
                PublishedPort(record, wanted.protocol, host_port, wanted.port + number, replicas),
            )
    return tuple(found.values())


def _in_order(view: RegistryView) -> Iterator[PublishedServiceRecord]:
    published = view.store.published_services
    for network_id in sorted(published):
        if network_id in view.networks and not view.networks[network_id].record.internal:
            yield from (published[network_id][place] for place in sorted(published[network_id]))


def _replicas(
    view: RegistryView, rows: Mapping[EndpointId, LocalEndpointRow], record: PublishedServiceRecord
) -> Iterator[LocalEndpointRow]:
    service = view.service(record.network_id, *record.service)
    here = [one for one in service.endpoints if one.owner == view.local]
    used = [one for one in here if view.is_visible(one)] or [one for one in here if view.is_kept(one)]
    for one in sorted(used, key=lambda each: each.endpoint_id):
        row = rows.get(one.endpoint_id)
        if row is not None and row.is_published:
            yield row


def service_forwards(
    ports: Sequence[PublishedPort], busy: Collection[HostPort], default_routes: Collection[EndpointId]
) -> tuple[ServiceForward, ...]:
    """Return the forwards of both families. `busy`: ports on which programs of this host listen. `default_routes`:
    endpoints with their sandboxes' default route."""
    found = []
    for one in ports:
        if (one.protocol, one.host_port) in busy:
            continue
        routed = {
            address: row.endpoint_id in default_routes for row in one.replicas for address in row.addresses
        }
        for is_ipv6 in (False, True):
            addresses = sorted(address for address in routed if (":" in address) is is_ipv6)
            if addresses:
                found.append(
                    ServiceForward(
                        protocol=one.protocol,
                        host_port=one.host_port,
                        containers=tuple((address, one.port) for address in addresses),
                        snat=frozenset(address for address in addresses if not routed[address]),
                    )
                )
    return tuple(found)
