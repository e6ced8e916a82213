"""Endpoints and tables for tests of feeds."""

from __future__ import annotations

import json
from typing import Any

from netagent.feeds.encoding import encoded
from netagent.feeds.table import Feed, FeedEndpoint, FeedNetwork, FeedState, FeedTable
from netagent.model.records import Port
from netgossip.slices import at_once

APP = FeedNetwork("app", "app.mesh.internal")
HTTP = (Port("http", 80),)


def an_endpoint(number: int = 1, **fields: Any) -> FeedEndpoint:
    """Return replica `number` of the service web."""
    defaults = {
        "endpoint_id": f"{number:032x}",
        "network": APP,
        "name": f"web{number}",
        "service": "web",
        "host": f"h{number}",
        "addresses": (f"10.160.0.{number}", f"fd00::{number:x}"),
        "ports": HTTP,
        "state": FeedState.UP,
    }
    return FeedEndpoint(**{**defaults, **fields})


def a_table(*endpoints: FeedEndpoint, url: str | None = None) -> FeedTable:
    """Return a table with these endpoints, their networks in the order of appearance."""
    networks = tuple(dict.fromkeys(endpoint.network for endpoint in endpoints))
    return FeedTable(networks or (APP,), tuple(sorted(endpoints, key=lambda one: one.endpoint_id)), url)


def body_of(feed: Feed, *endpoints: FeedEndpoint, url: str | None = None) -> tuple[Any, tuple[str, ...]]:
    """Return what a client of the feed reads, and the flaws."""
    body = at_once(feed(a_table(*endpoints, url=url)))
    return json.loads("".join(at_once(encoded(body.value)))), body.flaws
