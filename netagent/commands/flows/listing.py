"""`flows`: who opened connections to whom."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from netagent.commands.handlers import answers
from netagent.commands.inspect import is_called
from netagent.commands.presenters import presenter
from netagent.control.present import Presenter
from netagent.daemon.agent import Agent
from netagent.endpoints.find import network_called
from netagent.flows.flow import Flow, FlowTarget, FlowTargets
from netagent.interface import schema
from netagent.interface.questions import FlowsCommand
from netagent.model.ids import NetworkId
from netagent.registry.view import RegistryView
from netgossip.slice_runner import in_slices
from netgossip.slices import Slices


@answers(FlowsCommand)
async def flows(agent: Agent, request: FlowsCommand) -> schema.Listing[schema.Flow]:
    """Return what containers opened."""
    cluster = agent.member()
    view = cluster.live.view
    network_id = network_called(view, request.network).network_id if request.network else None
    found, left_out = await cluster.flows.read()
    items = await in_slices(_shown(presenter(cluster), found, request, network_id, time.time()))
    return {"items": items, "warnings": _warnings(left_out, cluster.flows.trouble)}


def _shown(
    present: Presenter, found: Iterable[Flow], request: FlowsCommand, network_id: NetworkId | None, now: float
) -> Slices[list[schema.Flow]]:
    shown, targets = [], FlowTargets(present.view)
    for flow in found:
        is_wanted = network_id in {None, flow.source.network_id} and (flow.refused or not request.refused)
        if is_wanted and _is_from(present.view, flow, request.source):
            target = targets.of(flow)
            if _is_to(present.view, flow, target, request.target):
                shown.append(_row(present, flow, target, now))
        yield
    return shown


def _is_from(view: RegistryView, flow: Flow, name: str) -> bool:
    source, network_id = flow.source, flow.source.network_id
    names = {"", source.name, source.service, _service(source.service, source.group), source.endpoint_id}
    endpoint = view.endpoints.get(source.endpoint_id)
    return (
        name in names
        or name == _dotted(source.name, view, network_id)
        or (endpoint is not None and is_called(endpoint, name))
    )


def _is_to(view: RegistryView, flow: Flow, target: FlowTarget, name: str) -> bool:
    if name in {"", target.name, target.kind, flow.address}:
        return True
    endpoint = target.endpoint
    return endpoint is not None and (
        is_called(endpoint, name)
        or name in {endpoint.endpoint_id, _dotted(endpoint.record.name, view, endpoint.network_id)}
    )


def _dotted(name: str, view: RegistryView, network_id: NetworkId | None) -> str:
    network = None if network_id is None else view.networks.get(network_id)
    return name if network is None else f"{name}.{network.unique_name}"


def _service(name: str, group: str | None) -> str:
    return f"{name}.{group}" if group else name


def _row(present: Presenter, flow: Flow, target: FlowTarget, now: float) -> schema.Flow:
    source, endpoint = flow.source, target.endpoint
    key = None if endpoint is None else endpoint.record.service_key
    return {
        "id": flow.flow_id,
        "from": source.name,
        "from_id": source.endpoint_id,
        "from_service": _service(source.service, source.group),
        "from_host": present.host_name(source.host_id),
        "network": "" if source.network_id is None else present.network_name(source.network_id),
        "network_id": source.network_id or "",
        "to": target.name,
        "to_id": "" if endpoint is None else endpoint.endpoint_id,
        "to_service": "" if key is None else _service(key.name, key.group),
        "to_host": "" if endpoint is None else present.host_name(endpoint.owner),
        "to_kind": target.kind,
        "address": flow.address,
        "protocol": flow.protocol,
        "port": flow.port,
        "openings": flow.openings,
        "refused": flow.refused,
        "first_at": _time(now - flow.first_ago_s),
        "last_at": _time(now - flow.last_ago_s),
    }


def _time(moment: float) -> str:
    return datetime.fromtimestamp(round(moment), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _warnings(left_out: Mapping[str, int], trouble: str) -> list[schema.Notice]:
    found: list[schema.Notice] = []
    if trouble:
        found.append(
            {
                "code": "flows-not-counted",
                "message": f"this host does not count flows: {trouble}",
                "cure": "",
            }
        )
    for name, openings in sorted(left_out.items()):
        found.append(
            {
                "code": "flows-left-out",
                "message": f"{name} opened more flows than are counted one by one: "
                f"{openings:,} of its openings are in no row",
                "cure": f"netagent flows --from {name}",
            }
        )
    return found
