"""`envoy`, `envoy-endpoints`: by the published fields of Cluster, ClusterLoadAssignment and DiscoveryResponse, v3."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fakes.feed_tables import an_endpoint, body_of

from netagent.feeds.envoy import ASSIGNMENT, CLUSTER, envoy, envoy_endpoints
from netagent.feeds.table import FeedState
from netagent.model.records import Port


def check_assignment(assignment: dict[str, Any]) -> list[tuple[str, int]]:
    """Check the fields of a ClusterLoadAssignment; return its addresses."""
    assert assignment.keys() - {"@type"} == {"cluster_name", "endpoints"}
    found = []
    for locality in assignment["endpoints"]:
        assert locality.keys() == {"locality", "lb_endpoints"}
        assert locality["locality"].keys() <= {"region", "zone", "sub_zone"}
        for one in locality["lb_endpoints"]:
            assert one.keys() == {"endpoint", "load_balancing_weight"}
            assert one["load_balancing_weight"] >= 1
            address = one["endpoint"]["address"]["socket_address"]
            assert address.keys() == {"address", "port_value"}
            found.append((address["address"], address["port_value"]))
    return found


def test_each_tcp_port_of_a_service_is_a_cluster() -> None:
    ports = (Port("http", 80), Port("grpc", 9000), Port("dns", 53, "udp"))
    body, _ = body_of(envoy, an_endpoint(1, ports=ports), an_endpoint(2, ports=(Port("http", 81),)))
    assert body.keys() == {"version_info", "type_url", "resources"}
    assert body["type_url"] == CLUSTER
    found = {}
    for cluster in body["resources"]:
        keys = {"@type", "name", "type", "connect_timeout", "load_assignment"}
        assert cluster.keys() == keys
        assert (cluster["@type"], cluster["type"], cluster["connect_timeout"]) == (CLUSTER, "STATIC", "2s")
        assert cluster["load_assignment"]["cluster_name"] == cluster["name"]
        found[cluster["name"]] = check_assignment(cluster["load_assignment"])
    assert found == {
        "web.app:grpc": [("10.160.0.1", 9000)],
        "web.app:http": [("10.160.0.1", 80), ("10.160.0.2", 81)],
    }


def test_endpoints_are_in_the_zones_of_their_hosts_with_their_weights() -> None:
    one, two, three = an_endpoint(1, zone="b"), an_endpoint(2, zone="a", weight=7), an_endpoint(3, zone="b")
    body, _ = body_of(envoy_endpoints, one, two, three)
    (assignment,) = body["resources"]
    assert assignment["@type"] == body["type_url"] == ASSIGNMENT
    assert check_assignment(assignment) == [("10.160.0.2", 80), ("10.160.0.1", 80), ("10.160.0.3", 80)]
    assert [one["locality"] for one in assignment["endpoints"]] == [{"zone": "a"}, {"zone": "b"}]
    assert assignment["endpoints"][0]["lb_endpoints"][0]["load_balancing_weight"] == 7


def test_replicas_that_each_name_other_ports_cost_no_more_than_their_ports() -> None:
    ports = 0

    class Counted(tuple[Port, ...]):
        __slots__ = ()

        def __iter__(self) -> Iterator[Port]:
            nonlocal ports
            for port in super().__iter__():
                ports += 1
                yield port

    replicas = [an_endpoint(n, ports=Counted(Port(f"p{n}-{m}", m + 1) for m in range(8))) for n in range(40)]
    body, _ = body_of(envoy, *replicas)
    assert len(body["resources"]) == 320
    assert ports <= 2 * 320


def test_a_cluster_without_endpoints_stays() -> None:
    body, _ = body_of(envoy, an_endpoint(state=FeedState.DRAINED))
    assert body["resources"][0]["load_assignment"] == {"cluster_name": "web.app:http", "endpoints": []}


def test_the_version_changes_with_the_content_only() -> None:
    first, same, other = (
        body_of(envoy, an_endpoint(number, zone=zone))[0]["version_info"]
        for number, zone in ((1, ""), (1, ""), (1, "a"))
    )
    assert first == same != other
