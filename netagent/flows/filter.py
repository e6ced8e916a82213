"""Which flows a command asks for, by the words that users type. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from netagent.endpoints.find import is_called
from netagent.flows.flow import Flow, FlowTarget, FlowTargets
from netagent.model.ids import EndpointId, NetworkId
from netagent.model.records import Policy
from netagent.registry.links import linked_from
from netagent.registry.view import RegistryView
from netgossip.slices import Slices

_ANY: Final = ""


@dataclass(frozen=True, slots=True)
class FlowFilter:
    """All conditions must hold; "" means any."""

    network_id: NetworkId | None = None
    is_refused: bool = False
    """Only those of which openings were refused, or in a network with policy `audit` would have been."""
    source: str = _ANY
    target: str = _ANY


@dataclass(frozen=True, slots=True)
class FoundFlow:
    """A flow, and what the present records say of it."""

    flow: Flow
    target: FlowTarget
    is_linked: bool | None
    """Whether a link of the container that opens leads to the other; None where links do not matter."""


def select(view: RegistryView, flows: Iterable[Flow], wanted: FlowFilter) -> Slices[list[FoundFlow]]:
    """Return the flows that are wanted."""
    targets, links = FlowTargets(view), FlowLinks(view)
    found = []
    for flow in flows:
        if wanted.network_id in {None, flow.source.network_id} and _is_from(view, flow, wanted.source):
            target = targets.of(flow)
            one = FoundFlow(flow, target, links.is_linked(flow, target))
            is_refused = flow.refused > 0 or (one.is_linked is False and links.is_audited(flow))
            if (is_refused or not wanted.is_refused) and _is_to(view, flow, target, wanted.target):
                found.append(one)
        yield
    return found


class FlowLinks:
    """Which flows links allow, by one view."""

    def __init__(self, view: RegistryView) -> None:
        self._view = view
        self._linked: dict[EndpointId, Mapping[EndpointId, object]] = {}

    def is_audited(self, flow: Flow) -> bool:
        """True in a network where what links would refuse passes."""
        return self._policy(flow) is Policy.AUDIT

    def is_linked(self, flow: Flow, target: FlowTarget) -> bool | None:
        """Return whether a link leads from the one to the other; None if no link is needed, or an end is gone."""
        view, source_id = self._view, flow.source.endpoint_id
        if self._policy(flow) in {None, Policy.OPEN} or target.endpoint is None:
            return None
        source = view.endpoints.get(source_id)
        if source is None:
            return None
        if source_id not in self._linked:
            self._linked[source_id] = {one.endpoint_id: one for one in linked_from(view, source)}
        return target.endpoint.endpoint_id in self._linked[source_id]

    def _policy(self, flow: Flow) -> Policy | None:
        network_id = flow.source.network_id
        network = None if network_id is None else self._view.networks.get(network_id)
        return None if network is None else network.record.policy


def _is_from(view: RegistryView, flow: Flow, name: str) -> bool:
    source = flow.source
    names = {_ANY, source.name, source.service, source.full_service, source.endpoint_id}
    if source.kind != "endpoint":
        return name in names or name == source.kind
    endpoint = view.endpoints.get(source.endpoint_id)
    return (
        name in names
        or name == _dotted(source.name, view, source.network_id)
        or (endpoint is not None and is_called(endpoint, name))
    )


def _is_to(view: RegistryView, flow: Flow, target: FlowTarget, name: str) -> bool:
    if name in {_ANY, target.name, target.kind, flow.address}:
        return True
    if target.departed is not None and name == target.departed.service:
        return True
    endpoint = target.endpoint
    return endpoint is not None and (
        is_called(endpoint, name)
        or name in {endpoint.endpoint_id, _dotted(endpoint.record.name, view, endpoint.network_id)}
    )


def _dotted(name: str, view: RegistryView, network_id: NetworkId | None) -> str:
    network = None if network_id is None else view.networks.get(network_id)
    return name if network is None else f"{name}.{network.unique_name}"
