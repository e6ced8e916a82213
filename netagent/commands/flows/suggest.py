"""`policy suggest`: the links that cover what was seen in a network."""

from __future__ import annotations

from netagent.commands.flows.listing import gathered
from netagent.commands.handlers import answers
from netagent.commands.notices.flow_notices import flow_notices
from netagent.commands.notices.missing_networks import notices
from netagent.commands.presenters import overview_of, presenter
from netagent.control.present import Presenter
from netagent.daemon.agent import Agent
from netagent.endpoints.find import network_called
from netagent.flows.filter import FlowFilter
from netagent.flows.suggest import SuggestedLink, suggest
from netagent.interface import schema
from netagent.interface.questions import PolicySuggestCommand
from netgossip.slice_runner import in_slices


@answers(PolicySuggestCommand)
async def policy_suggest(agent: Agent, request: PolicySuggestCommand) -> schema.PolicySuggestion:
    """Return the links that containers of a network lack for what they opened in the last hour."""
    cluster = agent.member()
    network = network_called(cluster.live.view, request.network)
    by_host = await gathered(cluster, FlowFilter(network.network_id), local=request.local)
    overview = await overview_of(cluster, {network.network_id}, local=request.local)
    present = presenter(cluster, overview)
    flows = [
        flow
        for one in by_host.values()
        for flow in one.flows
        if flow.source.network_id == network.network_id and flow.source.kind == "endpoint"
    ]
    found = await in_slices(suggest(present.view, flows))
    return {
        "network": network.unique_name,
        "network_id": network.network_id,
        "policy": network.record.policy.value,
        "seen": len(flows),
        "covered": found.covered,
        "links": [_link(present, one) for one in found.links],
        "unused": [
            {
                "from": source.record.name,
                "from_id": source.endpoint_id,
                "from_host": present.host_name(source.owner),
                "link": label,
            }
            for source, label in found.unused
        ],
        "not_covered": found.gone,
        "warnings": [*notices(present, overview.gaps), *flow_notices(present, by_host)],
    }


def _link(present: Presenter, one: SuggestedLink) -> schema.SuggestedLink:
    source = one.source
    ports = [protocol if not port else f"{port}/{protocol}" for port, protocol in sorted(one.ports)]
    return {
        "from": source.record.name,
        "from_id": source.endpoint_id,
        "from_host": present.host_name(source.owner),
        "to": one.label,
        "ports": ports,
        "openings": one.openings,
        "also": one.also,
        "command": f"sudo netagent link {source.record.name}.{present.network_name(source.network_id)} {one.label}",
    }
