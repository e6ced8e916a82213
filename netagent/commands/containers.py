"""Commands of containers: attach them, detach them, link them, and publish their ports."""

from __future__ import annotations

import dataclasses
from typing import Final

import trio

from netagent.checks.spec import check_text
from netagent.checks.state import Answer, Unasked
from netagent.commands.handlers import answers
from netagent.commands.presenters import endpoint_part, presenter
from netagent.control.present import drain_part
from netagent.control.request_parsing import attach_request, link_of, publication_of
from netagent.daemon.agent import Agent
from netagent.daemon.cluster import Cluster
from netagent.endpoints import resolv_conf
from netagent.endpoints.find import host_called, local_endpoint_called, network_called, target_shown
from netagent.endpoints.targets import named_netns
from netagent.errors import InputError, NotFoundError, RefusedError
from netagent.external.turns import asking_host, stand_in
from netagent.external.view import external_services
from netagent.interface import containers as asked
from netagent.interface import schema
from netagent.journal.rows import LocalEndpointRow
from netagent.model.author import current_author
from netagent.model.check import REASONS_OF_RUNTIME, Check
from netagent.model.ids import EndpointId, NetworkId
from netagent.model.records import Health
from netagent.model.request import AttachRequest
from netagent.registry.view import NetworkView, RegistryView

CHECKED_AT_ONCE: Final = 8
"""Endpoints whose checks `check` asks at the same time, beside those that are due."""


@answers(asked.AttachCommand)
async def attach(agent: Agent, request: asked.AttachCommand) -> schema.Endpoint:
    """Attach a sandbox to a network. Repeating the request changes nothing."""
    wanted = dataclasses.replace(attach_request(request), within=_networks(request.within))
    return await _attach(agent.member(), wanted)


def _networks(ids: frozenset[str] | None) -> frozenset[NetworkId] | None:
    return None if ids is None else frozenset(map(NetworkId, ids))


async def _attach(cluster: Cluster, request: AttachRequest) -> schema.Endpoint:
    row, created = await cluster.endpoints.attach(request)
    netns_name = named_netns(row)
    found = resolv_conf.shortcoming(netns_name) if netns_name else None
    warnings: list[schema.Notice] = (
        [] if found is None else [{"code": "resolv-conf", "message": found[0], "cure": found[1]}]
    )
    return {**endpoint_part(cluster, row), "created": created, "warnings": warnings}


@answers(asked.NetworkConnectCommand)
async def connect(agent: Agent, request: asked.NetworkConnectCommand) -> schema.Endpoint:
    """Attach a sandbox to one more network, under the name it has."""
    cluster, target = agent.member(), request.target
    rows = list(cluster.live.rows.values())
    named = [row for row in rows if row.name == target]
    is_id = any(row.endpoint_id.startswith(target) for row in rows)
    if named or is_id or cluster.live.view.endpoints_named(target):
        # The same container in several networks is one container.
        is_one = len({row.netns and row.netns.path for row in named}) == 1
        row = named[0] if is_one else local_endpoint_called(cluster.live, target)
        # The runtime's name of a container is not a target.
        target = row.netns.path if row.origin and row.netns else row.target
    return await _attach(
        cluster, AttachRequest(target=target, network=request.network, within=_networks(request.within))
    )


@answers(asked.NetworkDisconnectCommand)
async def disconnect(agent: Agent, request: asked.NetworkDisconnectCommand) -> schema.Detached:
    """Detach a sandbox from a network."""
    cluster, target = agent.member(), request.target
    found = network_called(cluster.live.view, request.network)
    for row in list(cluster.live.rows.values()):
        names = {row.name, row.target, row.endpoint_id, target_shown(row)}
        if row.network_id == found.network_id and target in names:
            await cluster.endpoints.remove(row)
            return _detached(row, found)
    raise NotFoundError(
        f"{target} is not in network {found.unique_name} on this host",
        thing=target,
        hint="see `netagent endpoints`",
    )


@answers(asked.DetachCommand)
async def detach(agent: Agent, request: asked.DetachCommand) -> schema.Detached:
    """Detach an endpoint. With `drain_s`, clients with a cached address get that time after the name is gone."""
    cluster = agent.member()
    networks = cluster.live.view.networks
    row = await cluster.endpoints.detach(request.endpoint, request.drain_s)
    return _detached(row, networks.get(row.network_id))


@answers(asked.LinkCommand)
async def link(agent: Agent, request: asked.LinkCommand) -> schema.Endpoint:
    """Add a link. Repeating it changes nothing."""
    wanted, cluster = link_of(request), agent.member()
    return endpoint_part(cluster, await cluster.endpoints.link(request.endpoint, wanted))


@answers(asked.UnlinkCommand)
async def unlink(agent: Agent, request: asked.UnlinkCommand) -> schema.Endpoint:
    """Remove a link."""
    wanted, cluster = link_of(request), agent.member()
    return endpoint_part(cluster, await cluster.endpoints.unlink(request.endpoint, wanted))


@answers(asked.PublishCommand)
async def publish(agent: Agent, request: asked.PublishCommand) -> schema.Endpoint:
    """Forward ports of this host to an endpoint. Repeating it changes nothing."""
    wanted, cluster = publication_of(request.port), agent.member()
    return endpoint_part(cluster, await cluster.endpoints.publish(request.endpoint, wanted))


@answers(asked.UnpublishCommand)
async def unpublish(agent: Agent, request: asked.UnpublishCommand) -> schema.Endpoint:
    """Stop forwarding them. Repeating it changes nothing."""
    wanted, cluster = publication_of(request.port), agent.member()
    return endpoint_part(cluster, await cluster.endpoints.unpublish(request.endpoint, wanted))


@answers(asked.DrainCommand)
async def drain(agent: Agent, request: asked.DrainCommand) -> schema.Drained:
    """Withdraw the names of an endpoint or of this host. Repeating it changes nothing."""
    cluster, by = agent.member(), current_author().account
    _refuse_other_than_one(request)
    if request.host:
        idle = await cluster.leaving.drain(by, request.wait_s)
        return _drained_host(cluster, idle)
    row, idle = await cluster.endpoints.drain(request.endpoint, by, request.wait_s)
    return _drained(cluster, row, idle)


@answers(asked.UndrainCommand)
async def undrain(agent: Agent, request: asked.UndrainCommand) -> schema.Drained:
    """Give the names back. Repeating it changes nothing."""
    cluster = agent.member()
    _refuse_other_than_one(request)
    if request.host:
        await cluster.leaving.undrain()
        return _drained_host(cluster, None)
    return _drained(cluster, await cluster.endpoints.undrain(request.endpoint), None)


@answers(asked.CheckCommand)
async def check(agent: Agent, request: asked.CheckCommand) -> schema.CheckAnswer:
    """Ask the checks of an endpoint, or of all local replicas of a service, now."""
    cluster = agent.member()
    rows = _checked_rows(cluster, request.endpoint)
    results: dict[EndpointId, list[schema.CheckResult]] = {}

    async def ask(row: LocalEndpointRow) -> None:
        asked_now = await cluster.checks.ask_now(row)
        results[row.endpoint_id] = [_check_result(*one) for one in asked_now] + _of_runtime(row)

    with trio.move_on_after(asked.CHECK_WAIT_S):
        for start in range(0, len(rows), CHECKED_AT_ONCE):
            async with trio.open_nursery() as nursery:
                for row in rows[start : start + CHECKED_AT_ONCE]:
                    nursery.start_soon(ask, row)
    for row in rows:
        if row.endpoint_id not in results:
            results[row.endpoint_id] = [_not_asked(check) for check in row.checks] + _of_runtime(row)
    endpoints: list[schema.CheckedEndpoint] = []
    for row in rows:
        shown = endpoint_part(cluster, row)
        endpoints.append(
            {
                "id": row.endpoint_id,
                "name": row.name,
                "network": shown["network"],
                "state": shown["state"],
                "reason": shown["reason"],
                "results": results[row.endpoint_id],
            }
        )
    is_healthy = all(result["ok"] for one in endpoints for result in one["results"])
    return {"endpoints": endpoints, "healthy": is_healthy}


def _refuse_external(view: RegistryView, text: str) -> None:
    """Raise RefusedError if an external service is called so, NAME or NAME.NETWORK."""
    for network_id, network in view.networks.items():
        for service in external_services(view, network_id):
            if text in {service.record.name, f"{service.record.name}.{network.unique_name}"}:
                asker = asking_host(view, service, stand_in(view))
                by = "no host checks now" if asker is None else f"{host_called(view, asker)} checks by itself"
                raise RefusedError(
                    f"{text} is an external service, which {by}",
                    code="external-service",
                    thing=text,
                    hint=f"`netagent inspect {text}` shows its checks and what came back",
                )


def _checked_rows(cluster: Cluster, text: str) -> list[LocalEndpointRow]:
    """Return the endpoint of this name or id, else the local replicas of the service; each has a check."""
    try:
        rows = [local_endpoint_called(cluster.live, text)]
    except (NotFoundError, RefusedError):
        rows = [
            row for row in cluster.live.rows.values() if row.service == text or _group_service(row) == text
        ]
        if not rows:
            _refuse_external(cluster.live.view, text)
            raise
    for row in rows:
        if not row.is_published:
            raise RefusedError(
                f"{row.name} is being attached or detached",
                code="not-attached",
                thing=row.name,
                hint="try again in a moment",
            )
    checked = [row for row in rows if row.checks or row.health is not Health.UNKNOWN]
    if not checked:
        raise RefusedError(
            f"{text} has no check",
            code="no-check",
            thing=text,
            hint="give it one with `netagent attach --check`, or the label netagent.check",
        )
    return checked


def _group_service(row: LocalEndpointRow) -> str:
    return f"{row.group.service}.{row.group.name}" if row.group and row.group.service else ""


def _check_result(check: Check, outcome: Answer, took_s: float) -> schema.CheckResult:
    if outcome is None:
        says = "this host cannot ask it now; see the agent's log"
        return {"check": check_text(check), "ok": None, "says": says, "shown": "", "took_s": round(took_s, 3)}
    if isinstance(outcome, Unasked):
        says = outcome.text
        return {"check": check_text(check), "ok": None, "says": says, "shown": "", "took_s": round(took_s, 3)}
    return {
        "check": check_text(check),
        "ok": outcome.is_success,
        "says": outcome.text,
        "shown": outcome.shown,
        "took_s": round(took_s, 3),
    }


def _not_asked(check: Check) -> schema.CheckResult:
    says = f"not asked: the others took {asked.CHECK_WAIT_S:.0f} s"
    return {"check": check_text(check), "ok": None, "says": says, "shown": "", "took_s": None}


def _of_runtime(row: LocalEndpointRow) -> list[schema.CheckResult]:
    """Return what the runtime last reported of its own check, if it has one."""
    if row.health is Health.UNKNOWN:
        return []
    says = REASONS_OF_RUNTIME.get(row.health, "the runtime reports that it succeeds")
    is_healthy = row.health is Health.HEALTHY
    return [{"check": "HEALTHCHECK", "ok": is_healthy, "says": says, "shown": "", "took_s": None}]


def _refuse_other_than_one(request: asked.DrainCommand | asked.UndrainCommand) -> None:
    if request.host == bool(request.endpoint):
        raise InputError(
            "say either which endpoint, or --host", thing="endpoint", hint="see `netagent endpoints`"
        )


def _drained(cluster: Cluster, row: LocalEndpointRow, idle: bool | None) -> schema.Drained:  # noqa: FBT001
    network = presenter(cluster).network_name(row.network_id)
    return {
        "name": row.name,
        "network": network,
        "endpoint_count": 1,
        "drain": drain_part(row.drain),
        "idle": idle,
    }


def _drained_host(cluster: Cluster, idle: bool | None) -> schema.Drained:  # noqa: FBT001
    view = cluster.live.view
    return {
        "name": presenter(cluster).host_name(view.local),
        "network": "",
        "endpoint_count": len(cluster.live.rows),
        "drain": drain_part(view.drain_of_host(view.local)),
        "idle": idle,
    }


def _detached(row: LocalEndpointRow, network: NetworkView | None) -> schema.Detached:
    name = network.unique_name if network else row.network_id[:8]
    return {"id": row.endpoint_id, "name": row.name, "network": name}
