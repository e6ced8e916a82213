"""A runtime's call that comes again: the same once more, or for a container that was made anew under its old id.

An origin stands for one endpoint. The runtime may have given up a call that we had finished, and repeats it; or it
was killed before it told us of a container's end, and starts that again, in a new namespace.
"""

from __future__ import annotations

from netagent.datapath.endpoint.netns import netns_identity, opened_netns
from netagent.integrations.cluster_access import ClusterAccess
from netagent.journal.rows import LocalEndpointRow, Stage
from netagent.model.ids import NetworkId


async def earlier_endpoint(
    member: ClusterAccess, origin: str, netns_path: str, network_id: NetworkId
) -> LocalEndpointRow | None:
    """The origin's endpoint when it is in this namespace and network; one that is elsewhere or half done is ended.

    RefusedError when there is no namespace at the path.
    """
    row = member.endpoints.with_origin(origin)
    if row is None:
        return None
    with opened_netns(netns_path) as fd:
        is_here = netns_identity(fd) == (row.netns_dev, row.netns_inode)
    if is_here and row.stage is Stage.PUBLISHED and row.network_id == network_id:
        return row
    await member.endpoints.detach_origin(origin)
    return None
