"""The links between endpoints, which open the firewall of a network whose policy is LINKS. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from netagent.model.ids import EndpointId
from netagent.registry.view import EndpointView, RegistryView, in_order

_NONE: Mapping[EndpointId, EndpointView] = {}


def linked_from(view: RegistryView, endpoint: EndpointView) -> tuple[EndpointView, ...]:
    """The endpoints that the endpoint's links lead to, by id: all with a link's label as service, name or alias."""
    found: dict[EndpointId, EndpointView] = {}
    for link in endpoint.record.links:
        label, _, host = link.partition(".")
        place = (endpoint.network_id, label)
        named = [e for e in view.endpoints_named(label) if e.network_id == endpoint.network_id]
        if host:
            named = [e for e in named if (at := view.hosts.get(e.owner)) and at.unique_name == host]
        else:
            found.update(view.store.by_service.get(place, _NONE))
            found.update(view.store.by_alias.get(place, _NONE))
        found.update({one.endpoint_id: one for one in named})
    return in_order(found)


def linked_to(view: RegistryView, endpoint: EndpointView) -> tuple[EndpointView, ...]:
    """The endpoints whose links lead to this one, by id."""
    record, host = endpoint.record, view.hosts.get(endpoint.owner)
    labels = {record.service, record.name, *record.aliases}
    labels |= {f"{record.name}.{host.unique_name}"} if host is not None else set()
    found: dict[EndpointId, EndpointView] = {}
    for label in labels:
        found.update(view.store.by_link.get((endpoint.network_id, label), _NONE))
    return in_order(found)
