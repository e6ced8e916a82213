"""What an answer about the cluster is made from: the records of this host and, where needed, of other members."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import trio

from netagent.control.present import Presenter, ProbeView, SightOf
from netagent.control.present_services import HostSight
from netagent.daemon.cluster import Cluster
from netagent.errors import FailedError
from netagent.interface import schema
from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import HostId, NetworkId
from netagent.registry.cluster_overview import ClusterOverview

COMPARE_S: Final = 2.0
"""While a list is watched, how often the agent compares the answers of other members."""


async def overview_of(
    cluster: Cluster, networks: Collection[NetworkId] | None = None, *, local: bool = False
) -> ClusterOverview:
    """Return the whole cluster, or with `local` only what this host has records of."""
    remote = cluster.gossip.remote_networks
    return remote.local_overview if local else await remote.overview(networks)


async def wait_changed(cluster: Cluster, seen: int) -> int:
    """Wait until the generation of what lists show is above `seen`; also compares the answers of other members. Both
    parts only grow, so their sum tells a change of either."""
    live, remote = cluster.live, cluster.gossip.remote_networks
    while True:
        with trio.move_on_after(COMPARE_S):
            await live.wait_newer(seen - remote.generation)
            return live.revision + remote.generation
        if remote.is_used:
            await remote.refresh()


def presenter(cluster: Cluster, overview: ClusterOverview | None = None) -> Presenter:
    """Return a presenter; without `overview`, for the records of this host only."""
    rows = {**cluster.live.fenced, **cluster.live.rows}
    known = overview or cluster.gossip.remote_networks.local_overview
    unknown = {gap.network_id for gap in known.gaps if not gap.is_old}
    synced = cluster.gossip.participation.is_synced
    unknown |= {n for n in known.view.networks if not synced(n) and _is_untold(known, n)}
    return Presenter(known.view, cluster.keys.domain, rows, known.told_by, frozenset(unknown))


async def whole_cluster(cluster: Cluster) -> Presenter:
    """Return a presenter of the whole cluster, as far as it can be known here."""
    return presenter(cluster, await overview_of(cluster))


def _is_untold(known: ClusterOverview, network_id: NetworkId) -> bool:
    """True if other hosts are in the network and none of them sent its endpoints."""
    others = known.view.attachments(network_id) - {known.view.local}
    return bool(others) and network_id not in known.told_by


def sight_of(cluster: Cluster) -> SightOf:
    """Return a function that gives what this host has found out of another one beside its records."""
    prober, records = cluster.probing.prober, cluster.gossip.node.records
    membership, local = cluster.gossip.node.membership, cluster.live.view.local

    def sight(host_id: HostId) -> ProbeView:
        lacks_udp = membership.lacks_datagrams(host_id)
        signs = host_id == local or records.is_signer(host_id)
        proves = host_id == local or membership.is_signer(host_id)
        return ProbeView(prober.rtt_s(host_id), prober.path(host_id), lacks_udp, signs, proves)

    return sight


def host_sight(cluster: Cluster) -> HostSight:
    """Return what this host alone knows about the backends of services."""
    return HostSight(cluster.controllers.service_tables.places, cluster.probing.prober.fastest_rtt_s)


def endpoint_part(cluster: Cluster, row: LocalEndpointRow) -> schema.Endpoint:
    """Render an endpoint of this host."""
    view = cluster.live.view
    found = view.endpoints.get(row.endpoint_id)
    if found is None:
        fenced = [e for e in view.fenced.values() if e.endpoint_id == row.endpoint_id]
        if not fenced:
            raise FailedError(f"the endpoint {row.name} was detached at the same moment", thing=row.name)
        found = fenced[0]
    return presenter(cluster).endpoint(found)
