"""What feeds say of an endpoint."""

from __future__ import annotations

import pytest
from fakes.registry import H1, H2, Writer, endpoint, host, network

from netagent.registry.view import RegistryView
from netagent.resolver.feed_entry import feed_endpoint, feed_network


@pytest.mark.parametrize(("weight", "in_feeds"), [(100, 100), (7, 7), (0, 1)])
def test_a_feed_has_the_weight_of_the_record(weight: int, in_feeds: int) -> None:
    """Proxies know no 0."""
    writer = Writer(H2)
    view = RegistryView(H1)
    for record in (host("h2"), network(), endpoint(weight=weight)):
        view = view.with_entries(writer.put(record))
    (one,) = view.endpoints.values()
    (place,) = view.networks.values()
    assert feed_endpoint(view, one, feed_network(place, "mesh.internal")).weight == in_feeds
