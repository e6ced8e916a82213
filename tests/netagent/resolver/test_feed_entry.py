"""What feeds say of an endpoint."""

from __future__ import annotations

from typing import Any

import pytest
from fakes.registry import H1, H2, Writer, endpoint, host, network

from netagent.feeds.table import FeedEndpoint, FeedState, leading
from netagent.model.records import Health, HealthNote
from netagent.registry.view import RegistryView
from netagent.resolver.feed_entry import feed_endpoint, feed_network


def fed(**fields: Any) -> FeedEndpoint:
    writer = Writer(H2)
    view = RegistryView(H1)
    for record in (host("h2"), network(), endpoint(**fields)):
        view = view.with_entries(writer.put(record))
    (one,) = view.endpoints.values()
    (place,) = view.networks.values()
    return feed_endpoint(view, one, feed_network(place, "mesh.internal"))


@pytest.mark.parametrize("weight", [100, 7, 0])
def test_a_feed_has_the_weight_of_the_record(weight: int) -> None:
    assert fed(weight=weight).weight == weight


@pytest.mark.parametrize("keeps", [True, False])
def test_a_feed_leads_to_an_unhealthy_replica_if_its_check_keeps_names(*, keeps: bool) -> None:
    one = fed(health=Health.UNHEALTHY, health_note=HealthNote(1, "it fails", keeps))
    assert one.state is FeedState.UNHEALTHY
    assert leading([one]) == [one] * keeps
