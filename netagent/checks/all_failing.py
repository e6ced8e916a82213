"""Services that no replica keeps up: what `status` warns of. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from netagent.model.ids import NetworkId
from netagent.model.records import Health
from netagent.registry.view import EndpointView, RegistryView
from netgossip.slices import Slices, merge_sort

_LOOKED_AT_PER_SLICE: Final = 64


@dataclass(frozen=True, slots=True)
class FailingService:
    """A service without a replica that is up."""

    network_id: NetworkId
    name: str
    """Of the service, with its group if it has one: `web`, `web.shop`."""
    unhealthy: Sequence[EndpointView]
    """At least one."""
    has_names: bool
    """True if names lead to some of them (`--all-failing keep`)."""


def failing_services(view: RegistryView) -> Slices[list[FailingService]]:
    """Return them by network and name. Costs the services, and the endpoints of those that are not up."""
    found: list[FailingService] = []
    looked_at = 0
    for (network_id, key), endpoints in view.store.by_service.items():
        unhealthy = []
        is_up = False
        for endpoint in endpoints.values():
            looked_at += 1
            if looked_at % _LOOKED_AT_PER_SLICE == 0:
                yield
            if view.is_visible(endpoint):
                is_up = True
                break
            is_drained = endpoint.record.drain or view.drain_of_host(endpoint.owner)
            is_away = view.is_host_hidden(endpoint.owner) or network_id not in view.networks
            if endpoint.record.health is Health.UNHEALTHY and not is_drained and not is_away:
                unhealthy.append(endpoint)
        if unhealthy and not is_up:
            name = f"{key.name}.{key.group}" if key.group else key.name
            found.append(FailingService(network_id, name, unhealthy, any(map(view.is_kept, unhealthy))))
    return (yield from merge_sort(found, lambda one: (one.network_id, one.name)))
