"""`services`: our own form."""

from __future__ import annotations

import json

from fakes.feed_tables import a_table, an_endpoint, body_of

from netagent.feeds.services import SYNCED, changes, encoded_items, services
from netagent.feeds.table import FeedEndpoint, FeedState
from netgossip.slices import at_once


def test_a_service_has_all_its_endpoints_and_says_where_names_lead() -> None:
    second = an_endpoint(2, state=FeedState.UNHEALTHY, labels={"tier": "front"}, weight=5)
    body, flaws = body_of(services, an_endpoint(1, zone="rack1"), second)
    assert flaws == ()
    assert body["schema"] == 1
    assert body["networks"] == ["app"]
    (item,) = body["items"]
    endpoints = item.pop("endpoints")
    assert item == {
        "id": "web.app",
        "name": "web",
        "group": "",
        "network": "app",
        "fqdn": "web.app.mesh.internal",
        "addresses": [],
        "ports": [],
    }
    assert endpoints[0] == {
        "id": f"{1:032x}",
        "name": "web1",
        "host": "h1",
        "zone": "rack1",
        "addresses": ["10.160.0.1", "fd00::1"],
        "ports": [{"name": "http", "number": 80, "protocol": "tcp"}],
        "labels": {},
        "weight": 1,
        "state": "up",
        "leading": True,
    }
    unhealthy = {key: endpoints[1][key] for key in ("labels", "weight", "state", "leading")}
    assert unhealthy == {"labels": {"tier": "front"}, "weight": 5, "state": "unhealthy", "leading": False}


def test_groups_are_services_of_their_own() -> None:
    body, _ = body_of(services, an_endpoint(1, group="shop"), an_endpoint(2, group="blog"), an_endpoint(3))
    found = [(item["id"], item["fqdn"]) for item in body["items"]]
    assert found == [
        ("web.app", "web.app.mesh.internal"),
        ("web.blog.app", "web.blog.app.mesh.internal"),
        ("web.shop.app", "web.shop.app.mesh.internal"),
    ]


def test_an_empty_table_has_no_items() -> None:
    assert body_of(services)[0] == {"schema": 1, "networks": ["app"], "items": []}


def test_events_turn_one_state_into_the_next() -> None:
    def items(*endpoints: FeedEndpoint) -> dict[str, str]:
        return at_once(encoded_items(a_table(*endpoints)))

    before = items(an_endpoint(1), an_endpoint(2, service="db"))
    after = items(an_endpoint(1, state=FeedState.DRAINED), an_endpoint(3, service="api"))
    events = [json.loads(line) for line in at_once(changes(before, after))]
    assert [(event["schema"], event["event"], event["item"]["id"]) for event in events] == [
        (1, "added", "api.app"),
        (1, "changed", "web.app"),
        (1, "removed", "db.app"),
    ]
    assert events[1]["item"]["endpoints"][0]["state"] == "drained"
    assert at_once(changes(after, after)) == []
    assert json.loads(SYNCED) == {"schema": 1, "event": "synced"}
