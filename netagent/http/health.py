"""`/healthz` and `/healthz/service/NAME`: whether a load balancer outside should send requests to this host.

A host answers 200 for a service while a replica on this very host is in names, 503 while none is, and 404 if it knows
no service of that name. Of several with one name, in networks or groups, `?network=` and `?group=` choose one.
"""

from __future__ import annotations

from dataclasses import dataclass

from netagent.model.records import ServiceKey
from netagent.registry.view import EndpointView, NetworkView, RegistryView

MAX_SHOWN = 10
"""Bound of networks that an answer names; beyond it: their number."""


@dataclass(frozen=True, slots=True)
class HealthAnswer:
    """What is answered."""

    status: int
    """Of HTTP."""
    health: str
    """`up`, `down`, `unknown`, `ambiguous`."""
    cause: str = ""
    replicas: int | None = None
    """How many replicas of the service are on this host; None: it was not about a service that it knows."""
    up: int = 0
    """How many of them are in names."""


NO_CLUSTER = HealthAnswer(503, "down", "this host belongs to no cluster")


def service_health(view: RegistryView, name: str, network: str | None, group: str | None) -> HealthAnswer:
    """Return what is answered for a service."""
    if network is not None and view.network_named(network) is None:
        return HealthAnswer(404, "unknown", f"there is no network {network!r}"[:200])
    services = [
        (one, key)
        for one in ([view.network_named(network)] if network is not None else view.networks.values())
        if one is not None
        for key in _keys(view, one, name, group)
    ]
    if not services:
        return HealthAnswer(404, "unknown", f"this host knows no service {name!r}"[:200])
    if len(services) > 1:
        places = sorted(_text(one, key) for one, key in services)
        shown = ", ".join(places[:MAX_SHOWN]) + (
            f" and {len(places) - MAX_SHOWN} more" if len(places) > MAX_SHOWN else ""
        )
        return HealthAnswer(
            400, "ambiguous", f"{len(places)} services match: {shown}; add ?network= or ?group="
        )
    ((place, key),) = services
    here = [one for one in _own(view, place) if one.record.service_key == key]
    up = sum(1 for one in here if view.is_visible(one))
    if up:
        return HealthAnswer(200, "up", replicas=len(here), up=up)
    cause = "none of its replicas here is in names" if here else "no replica of it runs on this host"
    return HealthAnswer(503, "down", f"{_text(place, key)}: {cause}", replicas=len(here), up=0)


def _keys(view: RegistryView, network: NetworkView, name: str, group: str | None) -> list[ServiceKey]:
    """Return the services of that name in the network."""
    candidates = {ServiceKey(name, group)}
    if group is None:
        candidates.update(one.record.service_key for one in _own(view, network))
    return [
        one for one in candidates if one.name == name and (network.network_id, one) in view.store.by_service
    ]


def _own(view: RegistryView, network: NetworkView) -> list[EndpointView]:
    """Return this host's endpoints in a network: strangers ask, so an answer must not cost all replicas."""
    endpoints = view.endpoints_in(network.network_id)
    said = map(endpoints.get, view.endpoints_said(view.local, network.network_id))
    return [one for one in said if one is not None and one.owner == view.local]


def _text(network: NetworkView, key: ServiceKey) -> str:
    group = f".{key.group}" if key.group else ""
    return f"{key.name}{group}.{network.unique_name}"
