"""`lookup NAME [TYPE] [--from ENDPOINT]`: the answer an endpoint would get, and the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netagent.control import schema
from netagent.errors import InputError
from netagent.names.explain import HOST_VIEW, TYPES, explain
from netagent.usecases.endpoint_rules import sandbox_of, sandboxes
from netagent.usecases.finding import local_endpoint_called
from netdns.errors import DnsError

if TYPE_CHECKING:
    from netagent.membership.cluster import Cluster


def look_up(cluster: Cluster, name: str, rtype: str, from_endpoint: str) -> schema.Lookup:
    """Asks the source that the resolver process has, over the table of this moment. InputError, NoError."""
    if rtype not in TYPES:
        raise InputError(f"{rtype!r} can't be looked up", thing=rtype, hint="take one of " + ", ".join(TYPES))
    view, rows = cluster.live.view, cluster.live.rows
    asker = local_endpoint_called(cluster.live, from_endpoint) if from_endpoint else None
    sandbox_id = sandbox_of(asker) if asker else HOST_VIEW
    beside = [row for row in rows.values() if sandbox_of(row) == sandbox_id]
    internal = frozenset(n for n, network in view.networks.items() if network.record.internal)
    try:
        explained = explain(
            view,
            sandboxes(rows.values(), internal),
            domain=cluster.keys.domain,
            name=name,
            rtype=rtype,
            sandbox_id=sandbox_id,
            behind_runtime=any(row.behind_runtime for row in beside),
        )
    except DnsError as error:
        raise InputError(f"{name!r} is no domain name: {error}", thing=name, hint="correct it") from None
    return {
        "name": explained.name,
        "type": explained.rtype,
        "status": explained.status,
        "answers": [
            {"name": one.name, "type": one.rtype, "ttl_s": one.ttl_s, "data": one.data}
            for one in explained.records
        ],
        "asked_for": asker.endpoint_id if asker else "",
        "reason": explained.reason,
    }
