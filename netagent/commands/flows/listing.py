"""`flows`: who opened connections to whom."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from netagent.commands.handlers import answers
from netagent.commands.notices.flow_notices import flow_notices
from netagent.commands.notices.missing_networks import notices
from netagent.commands.presenters import overview_of, presenter
from netagent.control.present import Presenter
from netagent.daemon.agent import Agent
from netagent.daemon.cluster import Cluster
from netagent.endpoints.find import network_called
from netagent.errors import InputError
from netagent.flows.filter import FlowFilter, FoundFlow, select
from netagent.flows.flow import Flow
from netagent.flows.reader import HostFlows
from netagent.flows.wire import MAX_NAME, FlowQuestion
from netagent.interface import schema
from netagent.interface.questions import FlowsCommand
from netagent.model.ids import HostId
from netagent.registry.view import AgentState, RegistryView
from netgossip.slice_runner import in_slices
from netgossip.slices import Slices

_LAST_S: Final = 253_402_300_799
"""The end of the year 9999: another host's clock may say anything."""


@answers(FlowsCommand)
async def flows(agent: Agent, request: FlowsCommand) -> schema.Listing[schema.Flow]:
    """Return what was opened by containers, and to them."""
    cluster = agent.member()
    for word, name in (("--from", request.source), ("--to", request.target)):
        if len(name) > MAX_NAME:
            raise InputError(
                f"{word}: {name[:20]!r}… is no name", thing=name[:20], hint="see `netagent services`"
            )
    view = cluster.live.view
    network_id = network_called(view, request.network).network_id if request.network else None
    wanted = FlowFilter(network_id, request.refused, request.source, request.target)
    by_host = await gathered(cluster, wanted, local=request.local)
    wanted_networks = {network_id} if network_id else None
    overview = await overview_of(cluster, wanted_networks, local=request.local)
    present = presenter(cluster, overview)
    found: list[FoundFlow] = []
    for one in by_host.values():
        found += await in_slices(select(present.view, one.flows, wanted))
    items = await in_slices(_rows(present, found))
    return {"items": items, "warnings": [*notices(present, overview.gaps), *flow_notices(present, by_host)]}


async def gathered(cluster: Cluster, wanted: FlowFilter, *, local: bool) -> dict[HostId, HostFlows]:
    """Return the flows of this host, and unless `local` those of the other live hosts."""
    view = cluster.live.view
    by_host = {view.local: await cluster.flows.read()}
    if not local:
        others = {
            host_id: host.is_live
            for host_id, host in view.hosts.items()
            if host_id != view.local and host.agent is not AgentState.LEFT
        }
        by_host.update((host_id, HostFlows(has_answered=False)) for host_id in others)
        asked = FlowQuestion(wanted.network_id or "", wanted.is_refused, wanted.source, wanted.target)
        live = [host_id for host_id, is_live in others.items() if is_live]
        by_host.update(await cluster.flows.ask_others(live, asked))
    for host_id, one in by_host.items():
        one.flows = [flow for flow in one.flows if _is_of(view, flow, host_id)]
    return by_host


def _is_of(view: RegistryView, flow: Flow, host_id: HostId) -> bool:
    """Return whether a host may speak for the flow: not of a container that another host owns."""
    endpoint = view.endpoints.get(flow.source.endpoint_id)
    return endpoint is None or endpoint.owner == host_id


def _rows(present: Presenter, found: Iterable[FoundFlow]) -> Slices[list[schema.Flow]]:
    rows = []
    for one in found:
        rows.append(_row(present, one))
        yield
    return rows


def _row(present: Presenter, found: FoundFlow) -> schema.Flow:
    flow, endpoint, departed = found.flow, found.target.endpoint, found.target.departed
    source = flow.source
    service = "" if departed is None else departed.service
    if endpoint is not None:
        key = endpoint.record.service_key
        service = f"{key.name}.{key.group}" if key.group else key.name
    return {
        "id": flow.flow_id,
        "from": present.host_name(source.host_id) if source.kind == "host" else source.name,
        "from_id": source.endpoint_id,
        "from_kind": source.kind,
        "from_gone": source.is_gone,
        "from_service": source.full_service,
        "from_host": present.host_name(source.host_id),
        "network": "" if source.network_id is None else present.network_name(source.network_id),
        "network_id": source.network_id or "",
        "to": found.target.name,
        "to_id": "" if endpoint is None else endpoint.endpoint_id,
        "to_service": service,
        "to_host": "" if endpoint is None else present.host_name(endpoint.owner),
        "to_kind": found.target.kind,
        "to_gone": departed is not None,
        "address": flow.address,
        "protocol": flow.protocol,
        "port": flow.port,
        "openings": flow.openings,
        "refused": flow.refused,
        "linked": found.is_linked,
        "first_at": _time(flow.first_s),
        "last_at": _time(flow.last_s),
    }


def _time(moment_s: int) -> str:
    return datetime.fromtimestamp(min(moment_s, _LAST_S), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
