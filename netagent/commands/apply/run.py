"""The commands `export` and `apply`: write what operators have made of the cluster, and make it so."""

from __future__ import annotations

from collections.abc import Callable

import trio

from netagent.commands.apply.differences import (
    MakeNetwork,
    PutName,
    PutService,
    SetNetwork,
    Step,
    described_services,
    plan,
)
from netagent.commands.apply.problem import refusal
from netagent.commands.handlers import answers
from netagent.daemon.agent import Agent
from netagent.daemon.cluster import Cluster
from netagent.endpoints.find import network_called
from netagent.errors import NetagentError
from netagent.external.view import OwnName, external_services, own_names
from netagent.interface import description as asked
from netagent.interface import schema
from netagent.model.author import current_author
from netagent.model.records import DnsName, ExternalServiceRecord, FixedAddresses, NameAlias, NameData
from netagent.registry.view import NetworkView, RegistryView
from netgossip.slice_runner import in_slices

FOLLOW_S = 2.0
"""How long a step waits until this host's own registry has what the one before did."""


# -- export ------------------------------------------------------------------------------------------------------


@answers(asked.ExportCommand)
async def export(agent: Agent, _request: asked.ExportCommand) -> schema.Export:
    """Return the content of a file that `apply` takes."""
    cluster = agent.member()
    view = cluster.live.view
    networks = sorted(view.networks.values(), key=lambda one: one.unique_name)
    services: list[schema.DescribedService] = []
    names: list[schema.DescribedName] = []
    left_out: list[str] = []
    for network in networks:
        described = [one.record for one in described_services(view, network)]
        services += sorted(
            (_service(network, one) for one in described),
            key=lambda one: (one["name"], one["addresses"], one["dns_name"]),
        )
        others = {record.name for record in _records(view, network) if record not in described}
        left_out += [f"service {name} of network {network.unique_name}" for name in sorted(others)]
        names += [_name(view, network, one.record.name, one.record.value) for one in _counting(view, network)]
    return {
        "networks": [_network(network) for network in networks],
        "services": services,
        "names": names,
        "left_out": left_out,
    }


def _network(network: NetworkView) -> schema.DescribedNetwork:
    record = network.record
    return {
        "name": network.unique_name,
        "subnets": list(record.subnets),
        "mtu_bytes": record.mtu_bytes,
        "internal": record.internal,
        "policy": record.policy.value,
        "answer_order": record.answer.value,
        "multicast": record.multicast,
        "host_access": record.host_access,
        "shared_names": "refuse" if record.refuses_shared_names else "answer",
        "service_addresses": "on" if record.service_addresses else "off",
        "feed_rules": list(record.feed_rules or ()),
        "feed_labels": record.feed_labels,
    }


def _service(network: NetworkView, record: ExternalServiceRecord) -> schema.DescribedService:
    target = record.target
    dns_name = ""
    if isinstance(target, DnsName):
        dns_name = target.name if target.port is None else f"{target.name}:{target.port}"
    return {
        "network": network.unique_name,
        "name": record.name,
        "addresses": [one.text for one in target.addresses] if isinstance(target, FixedAddresses) else [],
        "dns_name": dns_name,
        "ports": [
            {"name": port.name, "number": port.number, "protocol": port.protocol} for port in record.ports
        ],
        "weight": record.weight,
        "checks": list(record.checks),
    }


def _name(
    view: RegistryView, network: NetworkView, name: str, value: NameAlias | NameData
) -> schema.DescribedName:
    cname, data = "", NameData()
    match value:
        case NameAlias(place, target):
            found = view.networks.get(place)
            cname = f"{target}.{found.unique_name if found is not None else place[:8]}"
        case NameData():
            data = value
    return {
        "name": f"{name}.{network.unique_name}",
        "cname": cname,
        "addresses": list(data.addresses),
        "texts": list(data.texts),
    }


def _counting(view: RegistryView, network: NetworkView) -> list[OwnName]:
    found = (one for one in own_names(view, network.network_id) if one.counts)
    return sorted(found, key=lambda one: one.record.name)


# -- apply -------------------------------------------------------------------------------------------------------


@answers(asked.ApplyCommand)
async def apply(agent: Agent, request: asked.ApplyCommand) -> schema.Applied:
    """Return what differs from the file or is wrong with it, and unless it is a dry run make it so. Repeating it
    changes nothing."""
    cluster = agent.member()
    found = await in_slices(plan(cluster.live.view, cluster.keys.domain, request, cluster.networks.planned))
    if found.problems and not request.dry_run:
        raise refusal(found.problems)
    if not request.dry_run:
        for number, step in enumerate(found.steps):
            try:
                await _take(agent, cluster, step)
            except NetagentError as error:
                done = f"{number} of {len(found.steps)} changes are made"
                error.hint = (
                    f"{error.hint}; {done}, and the same file goes on from there" if error.hint else done
                )
                raise
        await cluster.endpoints.context.settle()
    return {
        "changes": [_change(step) for step in found.steps],
        "applied": not request.dry_run,
        "unmentioned": found.unmentioned,
        "problems": [one.shown() for one in found.problems],
    }


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


async def _take(agent: Agent, cluster: Cluster, step: Step) -> None:
    by = current_author().account
    match step:
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
                    not any(one.service_id in step.remove for one in _records(cluster.live.view, network))
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
                    lambda: all(one.record.name != name for one in _counting(cluster.live.view, network)),
                )
            await cluster.additions.add_name(network, step.request, by)


async def _until(cluster: Cluster, is_so: Callable[[], bool]) -> None:
    """Wait for this host's own registry: the next step is checked against it."""
    with trio.move_on_after(FOLLOW_S):
        revision = cluster.live.revision
        while not is_so():
            revision = await cluster.live.wait_newer(revision)


def _records(view: RegistryView, network: NetworkView) -> list[ExternalServiceRecord]:
    return [one.record for one in external_services(view, network.network_id)]
