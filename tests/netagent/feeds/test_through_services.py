"""Feeds for proxies that use the own addresses of services."""

from __future__ import annotations

import json
from typing import Any

from fakes.feed_tables import HTTP, a_table, an_endpoint

from netagent.feeds.caddy import caddy
from netagent.feeds.encoding import encoded
from netagent.feeds.envoy import envoy, envoy_endpoints
from netagent.feeds.services import services
from netagent.feeds.table import Feed, FeedEndpoint, FeedServiceAddress, FeedState, through_services
from netagent.feeds.traefik import traefik
from netagent.model.records import Port, ServicePort
from netgossip.slices import at_once

OWN = FeedServiceAddress(("10.200.0.7", "fd00:2::7"))
MAPPED = FeedServiceAddress(("fd00:2::7",), (ServicePort(80, 8080), ServicePort(443, 8443)))
TRAEFIK = {
    "traefik.http.routers.shop.rule": "Host(`a.example`)",
    "traefik.http.services.shop.loadbalancer.server.port": "8080",
}


def body_of(feed: Feed, own: FeedServiceAddress, *endpoints: FeedEndpoint) -> tuple[Any, tuple[str, ...]]:
    table = a_table(*endpoints)
    for service in ("web", "other"):
        table.service_addresses[service, "app"] = own  # type: ignore[index]
    body = at_once(feed(at_once(through_services(table))))
    return json.loads("".join(at_once(encoded(body.value)))), body.flaws


def replicas(**fields: Any) -> tuple[FeedEndpoint, ...]:
    return an_endpoint(1, zone="a", weight=3, **fields), an_endpoint(2, state=FeedState.UNHEALTHY, **fields)


def test_traefik_has_one_server_at_the_port_that_leads_to_the_one_of_the_label() -> None:
    value, flaws = body_of(traefik, MAPPED, *replicas(labels=TRAEFIK))
    servers = value["http"]["services"]["shop"]["loadBalancer"]["servers"]
    assert (servers, flaws) == ([{"url": "http://[fd00:2::7]:80"}], ())
    value, _ = body_of(traefik, OWN, *replicas(labels=TRAEFIK))
    assert value["http"]["services"]["shop"]["loadBalancer"]["servers"] == [{"url": "http://10.200.0.7:8080"}]


def test_caddy_has_one_upstream() -> None:
    labels = {"caddy": "a.example", "caddy.reverse_proxy": "{{upstreams 8080}}"}
    value, flaws = body_of(caddy, MAPPED, *replicas(labels=labels))
    (route,) = value["apps"]["http"]["servers"]["netagent-443"]["routes"]
    assert (route["handle"][0]["upstreams"], flaws) == ([{"dial": "[fd00:2::7]:80"}], ())


def test_envoy_has_one_endpoint_of_no_locality_for_each_port() -> None:
    ports = (Port("http", 8080), Port("https", 8443))
    for feed, key in ((envoy, "load_assignment"), (envoy_endpoints, "")):
        value, flaws = body_of(feed, MAPPED, *replicas(ports=ports))
        assert flaws == ()
        assignments = [one[key] if key else one for one in value["resources"]]
        assert [one["cluster_name"] for one in assignments] == ["web.app:http", "web.app:https"]
        for assignment, number in zip(assignments, (80, 443), strict=True):
            ((endpoint,),) = [one["lb_endpoints"] for one in assignment["endpoints"]]
            address = {"address": "fd00:2::7", "port_value": number}
            assert endpoint["endpoint"] == {"address": {"socket_address": address}, "hostname": "web"}


def test_a_service_without_a_replica_that_is_up_keeps_its_address() -> None:
    sick = an_endpoint(labels=TRAEFIK, state=FeedState.UNHEALTHY)
    value, _ = body_of(traefik, OWN, sick)
    assert value["http"]["services"]["shop"]["loadBalancer"]["servers"] == [{"url": "http://10.200.0.7:8080"}]


def test_a_port_that_the_address_does_not_lead_to_is_named() -> None:
    sentence = "web.app (on h1): no port of the service's own address leads to port 80"
    for feed in (traefik, caddy, envoy):
        labels = {"traefik.enable": "true", "caddy": "a.example"}
        value, flaws = body_of(feed, MAPPED, an_endpoint(labels=labels, ports=HTTP))
        assert flaws == (sentence,)
        assert "fd00:2::7" not in json.dumps(value)


def test_a_service_without_an_own_address_has_its_replicas() -> None:
    plain = an_endpoint(labels=TRAEFIK, service="plain")
    value, _ = body_of(traefik, OWN, plain)
    assert value["http"]["services"]["shop"]["loadBalancer"]["servers"] == [{"url": "http://10.160.0.1:8080"}]


def test_our_own_form_has_both() -> None:
    value, _ = body_of(services, MAPPED, *replicas())
    (item,) = value["items"]
    assert item["addresses"] == ["fd00:2::7"]
    assert item["ports"] == [{"number": 80, "target": 8080}, {"number": 443, "target": 8443}]
    assert [one["addresses"] for one in item["endpoints"]] == [
        ["10.160.0.1", "fd00::1"],
        ["10.160.0.2", "fd00::2"],
    ]
    plain, _ = body_of(services, OWN, an_endpoint(service="plain"))
    assert (plain["items"][0]["addresses"], plain["items"][0]["ports"]) == ([], [])
