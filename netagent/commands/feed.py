"""`feed`: the table of services in the form of another program, for programs on the host.

It has the networks that this host is in: only their changes come here. What is not complete is no answer: a proxy
that reads a shorter table takes sites down, and keeps the one it has when there is none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Sequence
from typing import Final

import trio

from netagent.commands.handlers import answers
from netagent.commands.presenters import presenter
from netagent.control.present import Presenter
from netagent.daemon.agent import Agent
from netagent.daemon.cluster import Cluster
from netagent.doctor.checks.label_checks import CURE, label_flaws
from netagent.endpoints.find import network_called
from netagent.errors import FailedError, InputError, NotFoundError, RefusedError
from netagent.external.view import external_services
from netagent.feeds.catalogue import FEEDS, FEEDS_OF_REPLICAS
from netagent.feeds.encoding import encoded
from netagent.feeds.table import FeedBody, FeedServiceAddress, FeedTable, sorted_by_id, through_services
from netagent.interface import schema
from netagent.interface.questions import FEED_HOLD_S, FeedCommand
from netagent.registry.view import NetworkView
from netagent.resolver.feed_entry import feed_endpoint, feed_network, feed_service_addresses
from netagent.resolver.feed_source import external_endpoints
from netagent.resolver.zone import external_row
from netgossip.slice_runner import in_slices
from netgossip.slices import Slices

MAX_SHOWN: Final = 10
"""Bound of labels that `status` names because feeds leave them out; beyond it: it gives their number. `netagent feed`
names all of them."""

PAUSE_S: Final = 0.5
"""Shortest time between two bodies of one request: one of ten thousand endpoints takes as long to make."""


@answers(FeedCommand)
async def feed(agent: Agent, request: FeedCommand) -> schema.Feed:
    """Return a feed; if the client knows it, the next one."""
    make = FEEDS.get(request.feed)
    if make is None:
        raise NotFoundError(
            f"there is no feed {request.feed[:80]!r}",
            thing=request.feed[:80],
            hint=f"known are {', '.join(FEEDS)}",
        )
    is_through = request.upstream == "service"
    if is_through and request.feed in FEEDS_OF_REPLICAS:
        raise InputError(
            f"the feed {request.feed} watches each replica",
            thing=request.feed,
            hint="leave out --upstream",
        )
    deadline = trio.current_time() + FEED_HOLD_S
    while True:
        cluster = agent.member()
        seen = cluster.live.revision
        networks = _networks(cluster, request.network)
        table = await in_slices(
            feed_table(presenter(cluster), networks, cluster.kernel.service_tables.refused)
        )
        if is_through:
            refuse_untranslated(cluster, networks)
            table = await in_slices(through_services(table))
        body = await in_slices(make(table))
        digest = hashlib.sha256()
        for part in await in_slices(encoded(body.value)):
            digest.update(part.encode())
        tag = digest.hexdigest()[:16]
        if tag != request.known or trio.current_time() >= deadline or agent.shutdown.is_set():
            return _answer(request, networks, tag, body)
        with trio.move_on_at(deadline):
            await _wait_changed(cluster, seen, agent.shutdown)


async def _wait_changed(cluster: Cluster, seen: int, shutdown: trio.Event) -> None:
    async with trio.open_nursery() as nursery:

        async def stop() -> None:
            await shutdown.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(stop)
        await cluster.live.wait_newer(seen)
        await trio.sleep(PAUSE_S)
        nursery.cancel_scope.cancel()


def _answer(request: FeedCommand, networks: Sequence[NetworkView], tag: str, body: FeedBody) -> schema.Feed:
    return {
        "feed": request.feed,
        "networks": [network.unique_name for network in networks],
        "tag": tag,
        "content": body.value,
        "warnings": [
            {
                "code": "label-left-out",
                "message": flaw,
                "cure": CURE,
            }
            for flaw in body.flaws
        ],
    }


def _networks(cluster: Cluster, name: str) -> list[NetworkView]:
    """Return the networks of the feed, by name. Raises an error if one of them is not known wholly."""
    view = cluster.live.view
    if name:
        networks = [network_called(view, name)]
    else:
        networks = sorted(view.networks.values(), key=lambda network: network.unique_name)
        networks = [one for one in networks if view.local in view.attachments(one.network_id)]
    for network in networks:
        if view.local not in view.attachments(network.network_id):
            raise RefusedError(
                f"this host is not in network {network.unique_name}, so it does not know its changes",
                code="not-in-network",
                thing=network.unique_name,
                hint="ask for the feed on a host that is in it",
            )
        if not cluster.gossip.participation.is_synced(network.network_id):
            raise FailedError(
                f"this host does not yet know what is in network {network.unique_name}",
                code="not-synced",
                thing=network.unique_name,
                hint="try again, and see `netagent members`",
            )
    return networks


def refuse_untranslated(cluster: Cluster, networks: Sequence[NetworkView]) -> None:
    """Raise RefusedError if the kernel would not lead programs of this host on from services' own addresses."""
    view = cluster.live.view
    translated = cluster.controllers.members.translates_for_host(view)
    for network in networks:
        if network.network_id in translated or not view.service_addresses(network.network_id):
            continue
        name = network.unique_name
        raise RefusedError(
            f"addresses of services in {name} are not translated for programs of this host",
            code="not-translated",
            thing=name,
            hint="let the program run in a container of the network, where it asks "
            "http://127.0.0.11:7953 with ?upstream=service, or leave out --upstream",
        )


def feed_table(
    present: Presenter, networks: Sequence[NetworkView], refused: Container[bytes] = ()
) -> Slices[FeedTable]:
    """Return what a feed of these networks is made of. `refused`: service addresses without room in
    the kernel."""
    view, shown, endpoints, own = present.view, [], [], dict[tuple[str, ...], FeedServiceAddress]()
    for network in networks:
        here = feed_network(network, present.domain)
        shown.append(here)
        own.update(feed_service_addresses(view, network, here, refused))
        for endpoint in view.endpoints_in(network.network_id).values():
            endpoints.append(feed_endpoint(view, endpoint, here))
            yield
        for service in external_services(view, network.network_id):
            row = external_row(view, {network.network_id}, service.record.service_id)
            endpoints += external_endpoints(row, here) if row is not None else ()
            yield
    in_order = yield from sorted_by_id(endpoints)
    return FeedTable(tuple(shown), tuple(in_order), service_addresses=own)


def label_notices(cluster: Cluster) -> Slices[list[schema.Notice]]:
    """Return warnings about the labels of this host's endpoints."""
    view = cluster.live.view
    own = (view.endpoints.get(endpoint_id) for endpoint_id in cluster.live.rows)
    flaws = yield from label_flaws(view, filter(None, own), cluster.keys.domain)
    notices: list[schema.Notice] = [
        {"code": "label-left-out", "message": flaw, "cure": CURE} for flaw in flaws[:MAX_SHOWN]
    ]
    if len(flaws) > MAX_SHOWN:
        notices.append(
            {
                "code": "label-left-out",
                "message": f"feeds leave out {len(flaws) - MAX_SHOWN} further labels",
                "cure": "see `netagent feed traefik`, `caddy` and `prometheus`",
            }
        )
    return notices
