"""The command `apply`: make the cluster as a file says."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from netagent.commands.access.tokens import token_request
from netagent.commands.apply.differences import (
    GiveAddress,
    MakeNetwork,
    MakeToken,
    Plan,
    Publish,
    PutName,
    PutService,
    SetAddress,
    SetNetwork,
    Step,
    UseCases,
    plan,
)
from netagent.commands.apply.problem import Problem, Problems, refusal
from netagent.commands.handlers import answers
from netagent.daemon.agent import Agent
from netagent.daemon.cluster import Cluster
from netagent.endpoints.claims import refuse_if_listening
from netagent.endpoints.find import network_called
from netagent.errors import NetagentError
from netagent.external.view import external_services, own_names
from netagent.interface import description as asked
from netagent.interface import schema
from netagent.model.author import current_author
from netagent.services.addresses import shown
from netgossip.slice_runner import in_slices

FOLLOW_S = 2.0
"""How long a step waits until this host's own registry has what the one before did."""


@answers(asked.ApplyCommand)
async def apply(agent: Agent, request: asked.ApplyCommand) -> schema.Applied:
    """Return what differs from the file or is wrong with it, and unless it is a dry run make it so. Repeating it
    changes nothing."""
    cluster = agent.member()
    use_cases = UseCases(
        cluster.networks.planned,
        cluster.service_addresses.planned,
        cluster.published_services.refuse,
        agent.tokens.planned,
    )
    found = await in_slices(plan(cluster.live.view, cluster.keys.domain, request, use_cases))
    problems = [*found.problems, *await _taken_ports(found, request)]
    if problems and not request.dry_run:
        raise refusal(problems)
    made: list[schema.NewToken] = []
    if not request.dry_run:
        try:
            await _take_all(agent, cluster, found.steps, made)
        except BaseException:
            # No one has seen them. Not cancelled either, when the agent stops or the asker is gone.
            with trio.CancelScope(shield=True):
                for one in made:
                    await agent.tokens.revoke(one["name"])
            raise
        await cluster.endpoints.context.settle()
    elif not problems:
        made += [{"name": one.request.name, "token": ""} for one in found.steps if isinstance(one, MakeToken)]
    return {
        "changes": [] if problems else [_change(step) for step in found.steps],
        "applied": not request.dry_run,
        "unmentioned": found.unmentioned,
        "tokens": made,
        "problems": [one.shown() for one in problems],
    }


async def _taken_ports(found: Plan, request: asked.ApplyCommand) -> list[Problem]:
    """Return the ports at which programs of this host listen: only the kernel knows them."""
    problems = Problems()
    for step in found.steps:
        if isinstance(step, Publish):
            with problems.of("published", step.index, request.published[step.index]):
                await refuse_if_listening([step.wanted])
    return problems.found


async def _take_all(
    agent: Agent, cluster: Cluster, steps: Sequence[Step], made: list[schema.NewToken]
) -> None:
    """Take the steps, and add the tokens that they make to `made`."""
    for number, step in enumerate(steps):
        try:
            if isinstance(step, MakeToken):
                made.append(await _make_token(agent, cluster, step))
            else:
                await _take(agent, cluster, step)
        except NetagentError as error:
            done = (
                f"{number - len(made)} of {len(steps)} changes are made, and the same file goes on from there"
            )
            error.hint = f"{error.hint}; {done}" if error.hint else done
            raise


async def _make_token(agent: Agent, cluster: Cluster, step: MakeToken) -> schema.NewToken:
    wanted = token_request(cluster.live.view, step.request)
    _, text = await agent.tokens.create(
        wanted.name, wanted.role, wanted.networks, wanted.ttl_s, current_author().account
    )
    return {"name": wanted.name, "token": text}


def _change(step: Step) -> schema.AppliedChange:
    match step:
        case MakeNetwork():
            return {"sign": "+", "thing": f"network {step.request.name}", "what": step.words}
        case SetNetwork():
            return {"sign": "~", "thing": f"network {step.network}", "what": step.words}
        case PutService():
            sign: schema.ChangeSign = "~" if step.remove else "+"
            return {
                "sign": sign,
                "thing": f"service {step.name} of network {step.network}",
                "what": step.words,
            }
        case PutName():
            sign = "~" if step.replaces else "+"
            return {"sign": sign, "thing": f"name {step.request.name}.{step.network}", "what": step.words}
        case GiveAddress() | SetAddress():
            service = step.request.service if isinstance(step, GiveAddress) else step.service
            sign = "+" if isinstance(step, GiveAddress) else "~"
            thing = f"address of service {shown(service)} of network {step.network}"
            return {"sign": sign, "thing": thing, "what": step.words}
        case Publish():
            what = f"to service {shown(step.service)} of network {step.network}"
            return {"sign": "+", "thing": f"port {step.wanted.text} of all hosts", "what": what}
        case MakeToken():
            return {"sign": "+", "thing": f"token {step.request.name} of this host", "what": step.words}


async def _take(agent: Agent, cluster: Cluster, step: Step) -> None:
    by = current_author().account
    view = cluster.live.view
    match step:
        case GiveAddress():
            await cluster.service_addresses.create(network_called(view, step.network), step.request)
        case SetAddress():
            await cluster.service_addresses.set(network_called(view, step.network), step.service, step.change)
        case Publish():
            network = network_called(view, step.network)
            await cluster.published_services.publish(network, step.service, step.wanted)
        case MakeNetwork():
            network, _ = await cluster.networks.create(step.request)
            await agent.runtimes.wait_mirrored(network.network_id)
            if step.options:
                await cluster.networks.set(network.network_id, step.options, by)
        case SetNetwork():
            await cluster.networks.set(step.network, step.options, by)
        case PutService():
            network = network_called(cluster.live.view, step.network)
            for service_id in step.remove:
                await cluster.additions.remove_service(network, service_id)
            await _until(
                cluster,
                lambda: (
                    not any(
                        one.record.service_id in step.remove
                        for one in external_services(cluster.live.view, network.network_id)
                    )
                ),
            )
            for request in step.add:
                await cluster.additions.add_service(network, request, by)
        case PutName():
            network = network_called(cluster.live.view, step.network)
            name = step.request.name
            if step.replaces:
                await cluster.additions.remove_name(network, name)
                await _until(
                    cluster,
                    lambda: all(
                        one.record.name != name or not one.counts
                        for one in own_names(cluster.live.view, network.network_id)
                    ),
                )
            await cluster.additions.add_name(network, step.request, by)


async def _until(cluster: Cluster, is_so: Callable[[], bool]) -> None:
    """Wait for this host's own registry: the next step is checked against it."""
    with trio.move_on_after(FOLLOW_S):
        revision = cluster.live.revision
        while not is_so():
            revision = await cluster.live.wait_newer(revision)
