"""The links between endpoints, which open the firewall of a network whose policy is LINKS. Pure.

A link opens the way to all endpoints to which the resolver may ever lead it, so that the way is open before a name
gets another endpoint: if the group of the linking endpoint has the label, or has had it, to those of the group, else
to all that have it as service, name or alias.
"""

from __future__ import annotations

from collections.abc import Mapping

from netagent.model.ids import EndpointId
from netagent.model.naming import labels_inside
from netagent.registry.view import EndpointView, RegistryView, in_order

_NONE: Mapping[EndpointId, EndpointView] = {}


def linked_from(view: RegistryView, endpoint: EndpointView) -> tuple[EndpointView, ...]:
    """The endpoints that the endpoint's links lead to, by id."""
    found: dict[EndpointId, EndpointView] = {}
    group = endpoint.record.group
    for link in endpoint.record.links:
        label, _, place = link.partition(".")
        every = list(view.labelled(endpoint.network_id, label))
        if place:
            led = [one for one in every if place in _places_of(view, one, label)]
        else:
            is_own = group is not None and label in view.labels_of(endpoint.network_id, group.name)
            led = [one for one in every if group and label in labels_inside(one.record, group.name)]
            led = led if is_own else every
        found.update((one.endpoint_id, one) for one in led)
    return in_order(found)


def linked_to(view: RegistryView, endpoint: EndpointView) -> tuple[EndpointView, ...]:
    """The endpoints whose links lead to this one, by id."""
    record, network_id = endpoint.record, endpoint.network_id
    own = "" if record.group is None else record.group.name
    own_labels = frozenset(labels_inside(record, own))
    found: dict[EndpointId, EndpointView] = {}
    for label in {record.service, record.name, *record.aliases, *own_labels}:
        for place in _places_of(view, endpoint, label):
            found.update(view.store.by_link.get((network_id, f"{label}.{place}"), _NONE))
        clients = view.store.by_link.get((network_id, label), _NONE)
        for client_id, client in clients.items():
            group = client.record.group
            is_inside = group is not None and group.name == own and label in own_labels
            if is_inside or group is None or label not in view.labels_of(network_id, group.name):
                found[client_id] = client
    return in_order(found)


def _places_of(view: RegistryView, endpoint: EndpointView, label: str) -> set[str]:
    """Return what may follow a label of the endpoint: its host, if the label is its name, and its group."""
    record, host = endpoint.record, view.hosts.get(endpoint.owner)
    places = {host.unique_name} if host is not None and record.name == label else set()
    return (
        places | {record.group.name}
        if record.group and label in labels_inside(record, record.group.name)
        else places
    )
