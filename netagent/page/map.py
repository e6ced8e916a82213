"""The map: which services run on which hosts, and which services are linked with which. Pure.

It is bounded: a picture of more than some hundred nodes shows nothing. Beyond the bound the map shows those with the
most replicas, and says how many it leaves out; filters bring others in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any, Final

from netagent.page.cluster_tables import ClusterTables, ServiceRow
from netagent.page.table_query import TableQuery
from netagent.page.window import is_service_wanted
from netgossip.slices import Slices

MAX_SERVICES: Final = 120
"""Bound of services on the map; beyond it: those with the fewest replicas are left out, and their number is said."""
MAX_HOSTS_A_SERVICE: Final = 40
"""Bound of hosts that are drawn for one service; beyond it: their number is said."""


def draw(tables: ClusterTables, query: TableQuery) -> Slices[dict[str, Any]]:
    """Return the services that match, and their links: `services`, `links`, `left_out`."""
    wanted = []
    for row in list(tables.services.values()):
        if is_service_wanted(row, query):
            wanted.append(row)
        yield
    wanted.sort(key=lambda row: (-row.total, row.title))
    chosen = sorted(wanted[:MAX_SERVICES], key=lambda row: (row.network, row.name))
    return {
        "services": [_node(row) for row in chosen],
        "links": _links(chosen),
        "left_out": len(wanted) - len(chosen),
    }


def flows_between(flows: Sequence[Mapping[str, Any]], titles: Set[str]) -> list[dict[str, Any]]:
    """Sum flows up between services that are drawn. A flow within one service is left out."""
    sums: dict[tuple[str, str], dict[str, Any]] = {}
    for flow in flows:
        ends = f"{flow['from_service']}.{flow['network']}", f"{flow['to_service']}.{flow['network']}"
        if ends[0] == ends[1] or not titles >= {*ends}:
            continue
        one = sums.setdefault(ends, {"from": ends[0], "to": ends[1], "openings": 0, "refused": 0})
        one["openings"] += flow["openings"]
        one["refused"] += flow["refused"]
    return [sums[ends] for ends in sorted(sums)]


def _node(row: ServiceRow) -> dict[str, Any]:
    hosts = sorted(row.hosts.items(), key=lambda one: (-one[1], one[0]))
    return {
        "id": row.title,
        "name": row.name,
        "network": row.network,
        "state": row.word,
        "answering": row.answering,
        "total": row.total,
        "hosts": dict(hosts[:MAX_HOSTS_A_SERVICE]),
        "hosts_left_out": max(0, len(hosts) - MAX_HOSTS_A_SERVICE),
        "kind": "external" if row.external is not None else "containers",
    }


def _links(chosen: Sequence[ServiceRow]) -> list[dict[str, str]]:
    """Return the links between chosen services: what the policy `links` lets pass."""
    here: Mapping[tuple[str, str], ServiceRow] = {(row.network, row.name): row for row in chosen}
    found = []
    for row in chosen:
        for label in sorted(row.links):
            # A link names a service, or one endpoint as NAME.HOST.
            to = here.get((row.network, label)) or here.get((row.network, label.partition(".")[0]))
            if to is not None:
                found.append({"from": row.title, "to": to.title, "kind": "link"})
    return found
