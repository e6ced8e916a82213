"""Which links would cover the flows that were seen in a network. Pure.

Each container gets the links that it lacks, by the label that a person would type: the service of its own group, the
service alone, or with its group. A label is taken only if a link by it would open the way that was seen, by the same
rules as the firewall's (netagent.registry.links).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from netagent.flows.flow import Flow, FlowTargets
from netagent.model.ids import EndpointId
from netagent.registry.links import linked_from
from netagent.registry.view import EndpointView, RegistryView
from netgossip.slices import Slices


@dataclass(slots=True)
class SuggestedLink:
    """A link that a container lacks."""

    source: EndpointView
    label: str
    openings: int = 0
    ports: set[tuple[int, str]] = field(default_factory=set)
    """Port and protocol; port 0 for echo requests."""
    also: int = 0
    """How many other endpoints it opens the way to."""


@dataclass(slots=True)
class Suggestion:
    """What would cover the flows, and what would not."""

    links: list[SuggestedLink] = field(default_factory=list)
    covered: int = 0
    """Pairs of containers that links allow already."""
    unused: list[tuple[EndpointView, str]] = field(default_factory=list)
    """Links by which nothing was opened."""
    gone: int = 0
    """Flows of or to containers that are gone or have no record: no link can be suggested for them."""


def suggest(view: RegistryView, flows: Iterable[Flow]) -> Slices[Suggestion]:
    """Return the links that cover these flows, which are of one network."""
    found = Suggestion()
    targets = FlowTargets(view)
    by_pair: dict[tuple[EndpointId, EndpointId], list[Flow]] = {}
    for flow in flows:
        if flow.source.kind != "endpoint":
            continue  # links are between containers
        target = targets.of(flow)
        if target.endpoint is not None and flow.source.endpoint_id in view.endpoints:
            by_pair.setdefault((flow.source.endpoint_id, target.endpoint.endpoint_id), []).append(flow)
        elif target.kind in {"endpoint", "unknown"}:
            found.gone += 1
        yield
    by_source: dict[EndpointId, dict[EndpointId, list[Flow]]] = {}
    for (source_id, target_id), seen in by_pair.items():
        by_source.setdefault(source_id, {})[target_id] = seen
    for source_id, seen_of in sorted(by_source.items()):
        _suggest_for(view, view.endpoints[source_id], seen_of, found)
        yield
    found.links.sort(key=lambda one: (one.source.owner, one.source.record.name, one.label))
    return found


def _suggest_for(
    view: RegistryView, source: EndpointView, seen_of: dict[EndpointId, list[Flow]], found: Suggestion
) -> None:
    by_label = {label: _led_to(view, source, label) for label in source.record.links}
    linked = frozenset[EndpointId]().union(*by_label.values())
    new: dict[str, SuggestedLink] = {}
    for target_id, flows in sorted(seen_of.items()):
        if target_id in linked:
            found.covered += 1
            continue
        target = view.endpoints[target_id]
        labels = (one for one in _labels(view, source, target) if target_id in _led_to(view, source, one))
        label = next(labels, None)
        if label is None:
            found.gone += len(flows)
            continue
        link = new.setdefault(label, SuggestedLink(source, label))
        link.openings += sum(flow.openings for flow in flows)
        link.ports |= {(flow.port or 0, flow.protocol) for flow in flows}
    for label, link in new.items():
        link.also = len(_led_to(view, source, label) - seen_of.keys() - {source.endpoint_id})
    found.links += new.values()
    found.unused += [(source, label) for label, led in by_label.items() if not led & seen_of.keys()]


def _led_to(view: RegistryView, source: EndpointView, label: str) -> frozenset[EndpointId]:
    """Return the endpoints that a link of the container by this label leads to."""
    record = dataclasses.replace(source.record, links=(label,))
    return frozenset(one.endpoint_id for one in linked_from(view, dataclasses.replace(source, record=record)))


def _labels(view: RegistryView, source: EndpointView, target: EndpointView) -> Iterator[str]:
    """Yield what a link to the target may be called, the most general first."""
    key, own = target.record.service_key, source.record.group
    if key.group is None or (own is not None and own.name == key.group):
        yield key.name
    else:
        yield f"{key.name}.{key.group}"
    yield target.record.service
    host = view.hosts.get(target.owner)
    if host is not None:
        yield f"{target.record.name}.{host.unique_name}"
    yield target.record.name
