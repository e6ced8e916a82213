"""Facts about service addresses for `doctor` and `inspect --why`: what the records say should be in the kernel, and
what is there, read afresh."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Mapping
from functools import partial
from typing import Final

import trio

from netagent.balancing.tables import ServiceTableBuilder
from netagent.daemon.cluster import Cluster
from netagent.datapath.sockets.layout import ServiceEntry
from netagent.doctor.checks.finding import Finding
from netagent.doctor.checks.object_status import ObjectStatus, State
from netagent.doctor.checks.service_checks import ServiceFacts, SocketFacts, service_findings
from netagent.doctor.explain_service import replica_reasons, service_lines
from netagent.doctor.facts.socket_tables import read_socket_tables
from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import NetworkId
from netagent.model.records import ServiceKey
from netagent.projection.datapath_input import networks_here, networks_taken_part
from netagent.registry.view import NetworkView, RegistryView
from netgossip.slice_runner import in_slices

SETTLE_S: Final = 2.0
TRIES: Final = 3
"""A change that has not reached the kernel yet is no error: only what differs each time is."""
_AGAIN_S: Final = 0.2


async def service_address_findings(cluster: Cluster) -> tuple[Finding, ...]:
    """Compare the tables of all services with the kernel."""
    found: tuple[Finding, ...] = ()
    for attempt in range(TRIES):
        if attempt:
            await trio.sleep(_AGAIN_S)
        view = cluster.live.view
        found = tuple(service_findings(await _facts(cluster), partial(_named, view)))
        if not found:
            break
    return found


async def service_address_lines(
    cluster: Cluster, network_id: NetworkId, service: ServiceKey
) -> list[ObjectStatus]:
    """Explain where the own addresses of one service lead on this host; nothing if it has none."""
    if service not in cluster.live.view.service_addresses(network_id):
        return []
    await _settle(cluster)
    view = cluster.live.view
    seen = await read_socket_tables()
    builder = ServiceTableBuilder(view.local, seen.places)
    entries = await in_slices(builder.build_one(view, (network_id, service), int(time.time())))
    idle, refused = _why_idle(cluster, network_id), cluster.kernel.service_tables.refused
    lines: list[ObjectStatus] = []
    for one in view.service_addresses(network_id).get(service, ()):
        replicas = await in_slices(replica_reasons(view, one.record))
        own = {ipaddress.ip_address(address).packed for address in one.record.addresses}
        led = [entry for entry in entries if entry.address in own]
        lines += service_lines(led, seen, replicas, idle, refused)
    return lines


def sandbox_lines(cluster: Cluster, row: LocalEndpointRow) -> list[ObjectStatus]:
    """Say whether connections from an endpoint's container to service addresses of its network are led to replicas;
    nothing where the network has none."""
    network = cluster.live.view.networks.get(row.network_id)
    if network is None or row.sandbox_id is None or not cluster.live.view.service_ranges(row.network_id):
        return []
    thing = f"those of network {network.unique_name} in {row.target}"
    if row.network_id in cluster.controllers.members.translates(row.sandbox_id):
        return [ObjectStatus("service addresses", thing, State.PRESENT, "connections are led to replicas")]
    reason = _why_idle(cluster, row.network_id) or "it has no routes to them yet, or a kernel of its own"
    if "names give" not in reason:
        reason += ": names give the replicas' own addresses"
    return [ObjectStatus("service addresses", thing, State.NOT_NEEDED, reason)]


def _why_idle(cluster: Cluster, network_id: NetworkId) -> str:
    """Say why this host leads no connections to the services of a network; empty if it does."""
    networks = _networks(cluster)
    members = cluster.controllers.members.given
    if network_id not in networks:
        return "no container of this host is in its network"
    if not any(member.network == networks[network_id].record.vni for member in members):
        if cluster.config.service_addresses != "on":
            return "service_addresses is off in this host's configuration: names give the replicas' own addresses"
        return "no container of this host can use it: names give the replicas' own addresses"
    if (trouble := cluster.kernel.service_tables.trouble) is not None:
        return f"{trouble}; names give the replicas' own addresses"
    return ""


async def _facts(cluster: Cluster) -> ServiceFacts:
    await _settle(cluster)
    networks, members = _networks(cluster), cluster.controllers.members.given
    view = cluster.live.view
    wanted: Mapping[bytes, ServiceEntry] = {}
    seen = SocketFacts()
    if members and any(view.service_addresses(one) for one in networks):
        seen = await read_socket_tables()
        builder = ServiceTableBuilder(view.local, seen.places)
        await in_slices(builder.build(view, networks, int(time.time())))
        wanted = builder.entries
    return ServiceFacts(
        wanted=wanted,
        members=members,
        seen=seen,
        trouble=cluster.kernel.service_tables.trouble,
        resets=cluster.controllers.resets.trouble,
        refused=cluster.kernel.service_tables.refused,
    )


async def _settle(cluster: Cluster) -> None:
    with trio.move_on_after(SETTLE_S):
        await cluster.controllers.service_tables.wait_followed(cluster.live.revision)


def _networks(cluster: Cluster) -> dict[NetworkId, NetworkView]:
    view, rows = cluster.live.view, cluster.live.rows
    taken = networks_here(view, networks_taken_part(view, rows.networks))
    return {network.network_id: network for network in taken}


def _named(view: RegistryView, address: bytes) -> str:
    """Name the service that has an address."""
    found = view.service_by_address(str(ipaddress.ip_address(address)))
    if found is None:
        return "of no service"
    network = view.networks.get(found.network_id)
    name, group = found.service
    where = found.network_id[:8] if network is None else network.unique_name
    return f"{name}.{group} in network {where}" if group else f"{name} in network {where}"
