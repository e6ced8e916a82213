"""`services`: the table in our own form, for programs that know no other.

    {"schema": 1, "networks": ["app"], "items": [
      {"id": "web.app", "name": "web", "group": "", "network": "app", "fqdn": "web.app.mesh.internal",
       "addresses": ["10.172.143.9", …], "ports": [{"number": 80, "target": 8080}], "endpoints": [
        {"id": …, "name": "web1", "host": "h1", "zone": "", "addresses": ["10.160.0.2", …],
         "ports": [{"name": "http", "number": 80, "protocol": "tcp"}], "labels": {…}, "weight": 1,
         "state": "up", "leading": true}]}]}

`leading` is true where names lead to the endpoint now. `addresses` of a service are its own, empty if it has none;
with `ports` only these of it lead to replicas. Fields are only ever added. Watched, each line is an event
as those of the API: `added` and `changed` with an item, `removed` with the item as it was last, and `synced`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from netagent.feeds.encoding import encoded
from netagent.feeds.table import FeedBody, FeedEndpoint, FeedServiceAddress, FeedTable, by_service, leading
from netgossip.slices import Slices

SCHEMA = 1


def services(table: FeedTable) -> Slices[FeedBody]:
    """Make the feed."""
    items = []
    for key, endpoints in (yield from by_service(table.endpoints)).items():
        items.append((yield from _service(key, endpoints, table.service_addresses.get(key))))
    return FeedBody({"schema": SCHEMA, "networks": [one.name for one in table.networks], "items": items})


def encoded_items(table: FeedTable) -> Slices[dict[str, str]]:
    """Make the items, each as text, by id: what watchers compare with what they were sent."""
    items: dict[str, str] = {}
    for key, endpoints in (yield from by_service(table.endpoints)).items():
        item = yield from _service(key, endpoints, table.service_addresses.get(key))
        items[".".join(key)] = "".join((yield from encoded(item)))
    return items


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> Slices[list[str]]:
    """Return the events that turn one set of items into the other, as lines: additions and changes first."""
    lines = []
    for key, item in after.items():
        if before.get(key) != item:
            lines.append(_line("changed" if key in before else "added", item))
        yield
    for key, item in before.items():
        if key not in after:
            lines.append(_line("removed", item))
        yield
    return lines


def _line(event: str, item: str) -> str:
    return f'{{"event":"{event}","item":{item},"schema":{SCHEMA}}}\n'


SYNCED: Final = f'{{"event":"synced","schema":{SCHEMA}}}\n'


def _service(
    key: tuple[str, ...], endpoints: list[FeedEndpoint], own: FeedServiceAddress | None
) -> Slices[dict[str, object]]:
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
        "addresses": [] if own is None else list(own.addresses),
        "ports": [] if own is None else [{"number": one.number, "target": one.target} for one in own.ports],
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
