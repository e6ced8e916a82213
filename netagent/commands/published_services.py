"""Commands of published services: ports of hosts that lead to the replicas there."""

from __future__ import annotations

from typing import Final

import trio

from netagent.commands.handlers import answers
from netagent.commands.presenters import overview_of
from netagent.control.request_parsing import publication_of
from netagent.daemon.agent import Agent
from netagent.daemon.cluster import Cluster
from netagent.endpoints.find import network_called
from netagent.errors import InputError, NotFoundError
from netagent.interface import containers as asked
from netagent.interface import schema
from netagent.model.publication import Publication
from netagent.model.records import ServiceKey
from netagent.registry.view import NetworkView

FOLLOW_S: Final = 2.0
"""How long `publish` waits until this host's port leads there."""


MAX_SHOWN: Final = 10


@answers(asked.PublishServiceCommand)
async def publish(agent: Agent, request: asked.PublishServiceCommand) -> schema.PublishedService:
    """Publish a service. Repeating it changes nothing."""
    wanted, cluster = publication_of(request.port), agent.member()
    network, service = await _called(cluster, request)
    created = await cluster.published_services.publish(network, service, wanted)
    with trio.move_on_after(FOLLOW_S):
        await cluster.controllers.projection.wait_programmed(cluster.live.revision)
    return _part(cluster, network, service, wanted, created=created)


@answers(asked.UnpublishServiceCommand)
async def withdraw(agent: Agent, request: asked.UnpublishServiceCommand) -> schema.PublishedService:
    """Stop it."""
    wanted, cluster = publication_of(request.port), agent.member()
    network, service = await _called(cluster, request)
    await cluster.published_services.withdraw(network, service, wanted)
    return _part(cluster, network, service, wanted, created=False)


def _part(
    cluster: Cluster, network: NetworkView, service: ServiceKey, wanted: Publication, *, created: bool
) -> schema.PublishedService:
    ports = cluster.controllers.published_ports(cluster.live.now)
    here = {row.endpoint_id for one in ports if one.record.service == service for row in one.replicas}
    return {
        "name": service.name,
        "network": network.unique_name,
        "group": service.group or "",
        "port": wanted.text,
        "created": created,
        "replicas": len(here),
    }


async def _called(
    cluster: Cluster, request: asked.PublishServiceCommand | asked.UnpublishServiceCommand
) -> tuple[NetworkView, ServiceKey]:
    """Return the service, as typed: a service that has replicas, or one that is published."""
    text, network, group = request.service, request.network, request.group
    view = (await overview_of(cluster)).view
    name, _, place = text.removesuffix(f".{cluster.keys.domain}").partition(".")
    networks = [network_called(view, network or place)] if network or place else list(view.networks.values())
    found: list[tuple[NetworkView, ServiceKey]] = []
    for one in networks:
        keys = {endpoint.record.service_key for endpoint in view.labelled(one.network_id, name)}
        keys |= {known.service for known in view.store.published_services.get(one.network_id, {}).values()}
        found += [(one, key) for key in keys if key.name == name and group in {"", key.group}]
    if len(found) > 1:
        names = ", ".join(sorted(_full_name(place, key) for place, key in found)[:MAX_SHOWN])
        raise InputError(
            f"{text[:80]!r} is ambiguous: {names}", thing=text[:80], hint="give --network or --group"
        )
    if not found:
        raise NotFoundError(
            f"there is no service {text[:80]!r}",
            code="no-such-service",
            thing=text[:80],
            hint="see `netagent services`; a service is published once it has a container",
        )
    return found[0]


def _full_name(network: NetworkView, service: ServiceKey) -> str:
    return ".".join(filter(None, (service.name, service.group, network.unique_name)))
