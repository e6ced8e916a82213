"""Repeated calls of a runtime: the same call again, or one for a container restarted under the same id.

An origin identifies one endpoint. The runtime may have timed out on a call that we had completed, and repeats it. Or
it was killed before it reported the end of a container, and starts the container again in a new namespace.
"""

from __future__ import annotations

from netagent.datapath.endpoint.netns import netns_identity, opened_netns
from netagent.integrations.cluster_access import ClusterAccess
from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import NetworkId


async def earlier_endpoint(
    member: ClusterAccess, origin: str, netns_path: str, network_id: NetworkId
) -> LocalEndpointRow | None:
    """Return the origin's endpoint if it is in this namespace and network; remove one elsewhere or incomplete.

    RefusedError when there is no namespace at the path.
    """
    row = member.live.rows.with_origin(origin)
    if row is None:
        return None
    with opened_netns(netns_path) as fd:
        is_here = netns_identity(fd) == row.netns_identity
    if is_here and row.is_published and row.network_id == network_id:
        return row
    await member.endpoints.detach_origin(origin)
    return None
