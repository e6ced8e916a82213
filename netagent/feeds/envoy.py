"""`envoy` and `envoy-endpoints`: clusters (CDS) and their endpoints (EDS) as answers of Envoy's discovery, v3.

A cluster is one port of a service: `web.app:http`, in a group `web.shop.app:http`. `envoy` has clusters with their
endpoints inside (type STATIC), so that it is enough alone; `envoy-endpoints` has the endpoints by themselves, for
clusters that the operator defines with `"type": "EDS"` and the same name. `version_info` is a digest of the content:
Envoy takes a body again only if it differs.

Endpoints are in localities by the zone of their host. UDP and SCTP ports have no cluster.
"""

from __future__ import annotations

import hashlib
from operator import itemgetter

from netagent.feeds.encoding import encoded
from netagent.feeds.table import FeedBody, FeedEndpoint, FeedTable, by_service, leading
from netagent.model.records import Port
from netgossip.slices import Slices, merge_sort

CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
ASSIGNMENT = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"

CONNECT_S = 2
"""An overlay path answers in milliseconds; Envoy's default is 5 s."""


def envoy(table: FeedTable) -> Slices[FeedBody]:
    """Make the feed of clusters."""
    assignments = yield from _assignments(table)
    clusters: list[dict[str, object]] = []
    for name, endpoints in assignments.items():
        clusters.append(
            {
                "@type": CLUSTER,
                "name": name,
                "type": "STATIC",
                "connect_timeout": f"{CONNECT_S}s",
                "load_assignment": {"cluster_name": name, "endpoints": endpoints},
            }
        )
        yield
    return FeedBody((yield from _response(CLUSTER, clusters)))


def envoy_endpoints(table: FeedTable) -> Slices[FeedBody]:
    """Make the feed of endpoints."""
    assignments = yield from _assignments(table)
    found: list[dict[str, object]] = []
    for name, endpoints in assignments.items():
        found.append({"@type": ASSIGNMENT, "cluster_name": name, "endpoints": endpoints})
        yield
    return FeedBody((yield from _response(ASSIGNMENT, found)))


def _response(kind: str, resources: list[dict[str, object]]) -> Slices[dict[str, object]]:
    digest = hashlib.sha256()
    for resource in resources:
        for number, part in enumerate((yield from encoded(resource))):
            digest.update(part.encode())
            if not number % 64:
                yield
    return {"version_info": digest.hexdigest()[:16], "type_url": kind, "resources": resources}


def _assignments(table: FeedTable) -> Slices[dict[str, list[dict[str, object]]]]:
    """Return the localities of each cluster."""
    found: dict[str, list[dict[str, object]]] = {}
    for key, endpoints in (yield from by_service(table.endpoints)).items():
        ports = yield from _by_port(endpoints)
        for name, zones in (yield from merge_sort(list(ports.items()), key=itemgetter(0))):
            found[f"{'.'.join(key)}:{name}"] = [
                {"locality": {"zone": zone} if zone else {}, "lb_endpoints": here}
                for zone, here in sorted(zones.items())
            ]
            yield
    return found


def _by_port(endpoints: list[FeedEndpoint]) -> Slices[dict[str, dict[str, list[object]]]]:
    """Return the endpoints that names lead to by port and zone, in one pass: replicas may each name other ports."""
    lead = {one.endpoint_id for one in leading(endpoints)}
    ports: dict[str, dict[str, list[object]]] = {}
    for endpoint in endpoints:
        for port in endpoint.ports:
            if port.protocol != "tcp":
                continue
            zones = ports.setdefault(port.name, {})
            if endpoint.endpoint_id in lead and endpoint.addresses:
                zones.setdefault(endpoint.zone, []).append(_endpoint(endpoint, port))
        yield
    return ports


def _endpoint(endpoint: FeedEndpoint, port: Port) -> dict[str, object]:
    address = {"address": endpoint.addresses[0], "port_value": port.number}
    return {
        "endpoint": {"address": {"socket_address": address}, "hostname": endpoint.name},
        "load_balancing_weight": max(1, endpoint.weight),  # Envoy refuses the whole answer because of a 0
    }
