"""`caddy`: by the published structure of Caddy's JSON configuration, <https://caddyserver.com/docs/json/>."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest
from fakes.feed_tables import a_table, an_endpoint, body_of

from netagent.feeds.caddy import MAX_SITES, caddy
from netagent.feeds.table import FeedNetwork, FeedState
from netagent.model.records import Port


def sites_of(body: Any) -> dict[str, list[str]]:
    """Check the structure; return what each `host:port` dials."""
    found = {}
    for server in body["apps"]["http"]["servers"].values():
        assert server.keys() <= {"listen", "routes", "automatic_https"}
        (listen,) = server["listen"]
        for route in server["routes"]:
            assert route.keys() == {"match", "handle", "terminal"}
            ((match,), (handler,)) = route["match"], route["handle"]
            assert handler["handler"] == "reverse_proxy"
            found[match["host"][0] + listen] = [upstream["dial"] for upstream in handler["upstreams"]]
    return found


def test_replicas_are_upstreams_of_the_sites_that_they_name() -> None:
    label = {"caddy": "shop.example.com, http://old.example.com  example.com:443"}
    body, flaws = body_of(caddy, an_endpoint(1, labels=label), an_endpoint(2, labels=label), an_endpoint(3))
    both = ["10.160.0.1:80", "10.160.0.2:80"]
    assert sites_of(body) == {
        "shop.example.com:443": both,
        "old.example.com:80": both,
        "example.com:443": both,
    }
    assert flaws == ()
    assert body.keys() == {"apps"}
    assert body["apps"]["http"]["servers"]["netagent-80"]["automatic_https"] == {"disable": True}


def test_the_port_is_that_of_the_label() -> None:
    labels = {"caddy": "a.example.com", "caddy.reverse_proxy": "{{upstreams https 8443}}"}
    body, _ = body_of(caddy, an_endpoint(labels=labels, ports=()))
    assert sites_of(body) == {"a.example.com:443": ["10.160.0.1:8443"]}
    (route,) = body["apps"]["http"]["servers"]["netagent-443"]["routes"]
    assert route["handle"][0]["transport"] == {"protocol": "http", "tls": {}}


@pytest.mark.parametrize(
    ("labels", "ports"),
    [
        ({"caddy": "a b.example.com/path"}, 1),
        ({"caddy": "a.example.com:0"}, 1),
        ({"caddy": "a.example.com", "caddy.reverse_proxy": "http://10.0.0.1"}, 1),
        ({"caddy": "a.example.com", "caddy.reverse_proxy": "{{upstreams 99999}}"}, 0),
        ({"caddy": "a.example.com"}, 0),
        ({"caddy.tls": "internal"}, 1),
        ({"caddy": "a.example.com:2019"}, 1),
        ({"caddy": "http://a.example.com:443"}, 1),
        ({"caddy": "https://a.example.com:80"}, 1),
    ],
)
def test_what_is_not_understood_is_named(labels: dict[str, str], ports: int) -> None:
    _, flaws = body_of(caddy, an_endpoint(labels=labels, ports=(Port("http", 80),)[:ports]))
    assert len(flaws) == 1


def test_a_container_opens_no_port_and_names_some_sites() -> None:
    label = " ".join(f"a:{port}" for port in range(1000, 1500))
    body, flaws = body_of(caddy, an_endpoint(labels={"caddy": label}))
    assert body["apps"]["http"]["servers"] == {}
    assert len(flaws) == 1 + MAX_SITES
    body, flaws = body_of(caddy, an_endpoint(labels={"caddy": " ".join(f"a{n}.b" for n in range(500))}))
    assert len(sites_of(body)) == MAX_SITES
    assert len(flaws) == 1


def test_no_step_of_it_grows_with_sites_or_replicas() -> None:
    label = " ".join(f"{'a' * 90}{n}" for n in range(MAX_SITES))
    table = a_table(*(an_endpoint(n, labels={"caddy": label}) for n in range(1, 200)))
    steps, worst_s = caddy(table), 0.0
    with contextlib.suppress(StopIteration):
        while True:
            began = time.thread_time()
            next(steps)
            worst_s = max(worst_s, time.thread_time() - began)
    assert worst_s < 0.02


def test_a_site_stays_while_no_replica_answers() -> None:
    body, _ = body_of(caddy, an_endpoint(labels={"caddy": "a.example.com"}, state=FeedState.UNHEALTHY))
    assert sites_of(body) == {"a.example.com:443": []}


def test_a_second_network_takes_no_site_over() -> None:
    label = {"caddy": "a.example.com"}
    other = FeedNetwork("other", "other.mesh.internal")
    body, flaws = body_of(caddy, an_endpoint(1, labels=label), an_endpoint(2, labels=label, network=other))
    assert sites_of(body) == {"a.example.com:443": ["10.160.0.1:80"]}
    assert len(flaws) == 1


def test_rules_of_the_network_bound_its_domains() -> None:
    network = FeedNetwork("app", "app.mesh.internal", rules=("*.example.com",))
    label = {"caddy": "a.example.com bank.example.org"}
    body, flaws = body_of(caddy, an_endpoint(labels=label, network=network))
    assert sites_of(body) == {"a.example.com:443": ["10.160.0.1:80"]}
    assert "bank.example.org" in flaws[0]


def test_a_served_configuration_names_where_the_next_comes_from() -> None:
    body, _ = body_of(caddy, url="http://127.0.0.11:7953/caddy")
    load = {"module": "http", "url": "http://127.0.0.11:7953/caddy"}
    assert body["admin"] == {"config": {"load": load, "load_delay": "5s"}}
