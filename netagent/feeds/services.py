"""`services`: the table in our own form, for programs that know no other.

    {"schema": 1, "networks": ["app"], "items": [
      {"id": "web.app", "name": "web", "group": "", "network": "app", "fqdn": "web.app.mesh.internal", "endpoints": [
        {"id": …, "name": "web1", "host": "h1", "zone": "", "addresses": ["10.160.0.2", …],
         "ports": [{"name": "http", "number": 80, "protocol": "tcp"}], "labels": {…}, "weight": 1,
         "state": "up", "leading": true}]}]}

`leading` is true where names lead to the endpoint now. Fields are only ever added. Watched, each line is an event
as those of the API: `added` and `changed` with an item, `removed` with the item as it was last, and `synced`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from netagent.feeds.table import FeedBody, FeedEndpoint, FeedTable, by_service, leading
from netgossip.slices import Slices

SCHEMA = 1


def services(table: FeedTable) -> Slices[FeedBody]:
    """Make the feed."""
    items = []
    for key, endpoints in (yield from by_service(table.endpoints)).items():
        items.append((yield from _service(key, endpoints)))
    return FeedBody({"schema": SCHEMA, "networks": [one.name for one in table.networks], "items": items})


def changes(before: Mapping[str, object], after: Mapping[str, object]) -> Slices[list[dict[str, Any]]]:
    """Return the events that turn one set of items, by id, into the other: additions and changes first."""
    events: list[dict[str, Any]] = []
    for key, item in after.items():
        if before.get(key) != item:
            events.append({"schema": SCHEMA, "event": "changed" if key in before else "added", "item": item})
        yield
    gone = [item for key, item in before.items() if key not in after]
    return events + [{"schema": SCHEMA, "event": "removed", "item": item} for item in gone]


def _service(key: tuple[str, ...], endpoints: list[FeedEndpoint]) -> Slices[dict[str, object]]:
    first, shown = endpoints[0], []
    lead = {one.endpoint_id for one in leading(endpoints)}
    for endpoint in endpoints:
        shown.append(_endpoint(endpoint, is_leading=endpoint.endpoint_id in lead))
        yield
    return {
        "id": ".".join(key),
        "name": first.service,
        "group": first.group or "",
        "network": first.network.name,
        "fqdn": ".".join([*key[:-1], first.network.domain]),
        "endpoints": shown,
    }


def _endpoint(endpoint: FeedEndpoint, *, is_leading: bool) -> dict[str, object]:
    ports = sorted(endpoint.ports, key=lambda one: (one.number, one.protocol, one.name))
    return {
        "id": endpoint.endpoint_id,
        "name": endpoint.name,
        "host": endpoint.host,
        "zone": endpoint.zone,
        "addresses": list(endpoint.addresses),
        "ports": [{"name": one.name, "number": one.number, "protocol": one.protocol} for one in ports],
        "labels": dict(endpoint.labels),
        "weight": endpoint.weight,
        "state": endpoint.state.value,
        "leading": is_leading,
    }
