"""What feeds leave out of the labels of some endpoints, for `status` and `inspect --why`.

`netagent feed` says the same for all endpoints of a network; here it costs only the endpoints in question.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from netagent.doctor.checks.object_status import ObjectStatus, State
from netagent.feeds.caddy import caddy
from netagent.feeds.prometheus import prometheus
from netagent.feeds.table import FeedTable, is_feed_label
from netagent.feeds.traefik import traefik
from netagent.registry.view import EndpointView, RegistryView
from netagent.resolver.feed_entry import feed_endpoint, feed_network
from netgossip.slices import Slices

CURE: Final = "correct the label, and start the container anew"


def label_flaws(view: RegistryView, endpoints: Iterable[EndpointView], domain: str) -> Slices[list[str]]:
    """Return a sentence for each label that a feed leaves out."""
    found: dict[str, None] = {}
    for endpoint in endpoints:
        network = view.networks.get(endpoint.network_id)
        if network is not None and any(is_feed_label(key) for key, _ in endpoint.record.labels):
            here = feed_network(network, domain)
            table = FeedTable((here,), (feed_endpoint(view, endpoint, here),))
            for feed in (traefik, caddy, prometheus):
                found.update(dict.fromkeys((yield from feed(table)).flaws))
        yield
    return list(found)


def label_lines(view: RegistryView, endpoint: EndpointView, domain: str) -> Slices[list[ObjectStatus]]:
    """Return a line for each label of an endpoint that a feed leaves out."""
    flaws = yield from label_flaws(view, [endpoint], domain)
    thing = f"what labels of {endpoint.record.name} say"
    return [ObjectStatus("feeds", thing, State.MISSING, flaw, CURE) for flaw in flaws]
