"""`envoy` and `envoy-endpoints`: clusters (CDS) and their endpoints (EDS) as answers of Envoy's discovery, v3.

A cluster is one port of a service: `web.app:http`, in a group `web.shop.app:http`. `envoy` has clusters with their
endpoints inside (type STATIC), so that it is enough alone; `envoy-endpoints` has the endpoints by themselves, for
clusters that the operator defines with `"type": "EDS"` and the same name. `version_info` is a digest of the content:
Envoy takes a body again only if it differs.

Endpoints are in localities by the zone of their host. UDP and SCTP ports have no cluster. The own address of a
service is one endpoint without a locality: the kernel's tables weigh the replicas.
"""

from __future__ import annotations

import hashlib
from operator import itemgetter

from netagent.feeds.encoding import encoded
from netagent.feeds.table import FeedBody, FeedEndpoint, FeedTable, Flaws, by_service, leading, upstream
from netgossip.slices import Slices, merge_sort

CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
ASSIGNMENT = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"

CONNECT_S = 2
"""An overlay path answers in milliseconds; Envoy's default is 5 s."""


def envoy(table: FeedTable) -> Slices[FeedBody]:
    """Make the feed of clusters."""
    flaws = Flaws()
    assignments = yield from _assignments(table, flaws)
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
    return FeedBody((yield from _response(CLUSTER, clusters)), tuple(flaws.sentences))


def envoy_endpoints(table: FeedTable) -> Slices[FeedBody]:
    """Make the feed of endpoints."""
    flaws = Flaws()
    assignments = yield from _assignments(table, flaws)
    found: list[dict[str, object]] = []
    for name, endpoints in assignments.items():
        found.append({"@type": ASSIGNMENT, "cluster_name": name, "endpoints": endpoints})
        yield
    return FeedBody((yield from _response(ASSIGNMENT, found)), tuple(flaws.sentences))


def _response(kind: str, resources: list[dict[str, object]]) -> Slices[dict[str, object]]:
    digest = hashlib.sha256()
    for resource in resources:
        for number, part in enumerate((yield from encoded(resource))):
            digest.update(part.encode())
            if not number % 64:
                yield
    return {"version_info": digest.hexdigest()[:16], "type_url": kind, "resources": resources}


def _assignments(table: FeedTable, flaws: Flaws) -> Slices[dict[str, list[dict[str, object]]]]:
    """Return the localities of each cluster."""
    found: dict[str, list[dict[str, object]]] = {}
    for key, endpoints in (yield from by_service(table.endpoints)).items():
        ports = yield from _by_port(endpoints, flaws)
        for name, zones in (yield from merge_sort(list(ports.items()), key=itemgetter(0))):
            found[f"{'.'.join(key)}:{name}"] = [
                {"locality": {"zone": zone} if zone else {}, "lb_endpoints": list(here.values())}
                for zone, here in sorted(zones.items())
            ]
            yield
    return found


def _by_port(
    endpoints: list[FeedEndpoint], flaws: Flaws
) -> Slices[dict[str, dict[str, dict[object, object]]]]:
    """Return the endpoints that names lead to by port and zone, in one pass: replicas may each name other ports."""
    lead = {one.endpoint_id for one in leading(endpoints)}
    ports: dict[str, dict[str, dict[object, object]]] = {}
    for endpoint in endpoints:
        for port in endpoint.ports:
            if port.protocol != "tcp":
                continue
            zones = ports.setdefault(port.name, {})
            if endpoint.endpoint_id not in lead:
                continue
            place = upstream(endpoint, port.number, flaws)
            if place is None:
                continue
            if endpoint.through is not None:
                zones.setdefault("", {})[place] = _endpoint(place, endpoint.service, 1)
            else:
                here = zones.setdefault(endpoint.zone, {})
                here[endpoint.endpoint_id, port] = _endpoint(place, endpoint.name, endpoint.weight)
        yield
    return ports


def _endpoint(place: tuple[str, int], name: str, weight: int) -> dict[str, object]:
    address = {"address": place[0], "port_value": place[1]}
    return {
        "endpoint": {"address": {"socket_address": address}, "hostname": name},
        "load_balancing_weight": max(1, weight),  # Envoy refuses the whole answer because of a 0
    }
