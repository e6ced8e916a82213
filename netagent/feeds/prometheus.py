"""`prometheus`: targets of Prometheus's HTTP service discovery, and of its file-based one, which has the same form.

    [{"targets": ["10.160.0.2:9100"], "labels": {"__meta_netagent_service": "web", …}}]

The ports to scrape are those exposed by the name `metrics` or `metrics-…`, and the one that the label
`prometheus.io/port` gives; `prometheus.io/path` and `prometheus.io/scheme` are honoured. One endpoint is one target
for each such port, by its IPv4 address where it has one. Endpoints that names do not lead to are targets as well,
with their state in `__meta_netagent_state`: what is sick has to be watched. Only those of hosts that are down are
left out; the alert for these is that of the host.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from netagent.feeds.table import FeedBody, FeedEndpoint, FeedState, FeedTable, Flaws, at_port
from netagent.model.number import whole_number
from netgossip.slices import Slices

PORT, PATH, SCHEME = (f"prometheus.io/{word}" for word in ("port", "path", "scheme"))

_NOT_IN_LABELS = re.compile(r"[^a-zA-Z0-9_]")
"""Prometheus's data model: a label's name has only these."""


def prometheus(table: FeedTable) -> Slices[FeedBody]:
    """Make the feed."""
    flaws, groups = Flaws(), list[dict[str, object]]()
    for endpoint in table.endpoints:
        yield
        if endpoint.state is not FeedState.HIDDEN and endpoint.addresses:
            groups += _groups(endpoint, flaws)
    return FeedBody(groups, tuple(flaws.sentences))


def _groups(endpoint: FeedEndpoint, flaws: Flaws) -> Iterator[dict[str, object]]:
    ports = dict(_ports(endpoint, flaws))
    labels = _labels(endpoint, flaws) if ports else {}
    for number, name in ports.items():
        target = at_port(endpoint.addresses[0], number)
        yield {"targets": [target], "labels": {**labels, "__meta_netagent_port_name": name}}


def _ports(endpoint: FeedEndpoint, flaws: Flaws) -> Iterator[tuple[int, str]]:
    for port in endpoint.ports:
        if port.protocol == "tcp" and (port.name == "metrics" or port.name.startswith("metrics-")):
            yield port.number, port.name
    text = endpoint.labels.get(PORT)
    if text is None:
        return
    number = whole_number(text, 1, 65535)
    if number is None:
        flaws.add(endpoint, f"the label {PORT}={text[:80]!r} is no port")
    else:
        yield number, next((port.name for port in endpoint.ports if port.number == number), str(number))


def _labels(endpoint: FeedEndpoint, flaws: Flaws) -> dict[str, str]:
    meta = {
        "network": endpoint.network.name,
        "service": endpoint.service,
        "group": endpoint.group or "",
        "name": endpoint.name,
        "id": endpoint.endpoint_id,
        "host": endpoint.host,
        "zone": endpoint.zone,
        "state": endpoint.state.value,
    }
    found = {f"__meta_netagent_{key}": value for key, value in meta.items()}
    for key, value in endpoint.labels.items():
        found[f"__meta_netagent_label_{_NOT_IN_LABELS.sub('_', key)}"] = value
    path, scheme = endpoint.labels.get(PATH), endpoint.labels.get(SCHEME)
    if path is not None and path.startswith("/"):
        found["__metrics_path__"] = path
    elif path is not None:
        flaws.add(endpoint, f"the label {PATH}={path[:80]!r} does not begin with /")
    if scheme in ("http", "https"):
        found["__scheme__"] = scheme
    elif scheme is not None:
        flaws.add(endpoint, f"the label {SCHEME}={scheme[:80]!r} is neither http nor https")
    return found
