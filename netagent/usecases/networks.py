"""The use-cases on networks: create, remove.

Creating is: publish the record, let it settle, judge, share out the address space. To settle means that every live
host has acknowledged and that we hold whatever it had written by then; so when two hosts create a network of one
name at the same instant, both know of both before either has given anything away, and the same rule
(netagent.registry.rules) makes the same one yield everywhere. The space is shared out, and that acknowledged too,
before `create` returns: from then on nobody needs the creator.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from ipaddress import ip_network
from typing import Protocol

import trio

from netagent.errors import FailedError, RefusedError
from netagent.ipam.space import share_out
from netagent.membership.participation import Participation, Publishes
from netagent.model.ids import HostId, NetworkId
from netagent.model.records import NetworkRecord, RemovalRecord
from netagent.model.request import NetworkRequest
from netagent.model.subnet import offset_count
from netagent.registry.live import Live
from netagent.registry.view import AgentState, EndpointView, NetworkView, RegistryView
from netagent.usecases.finding import network_called
from netagent.usecases.network_plan import Surroundings, differences, plan_network
from netgossip.types import CLUSTER_SCOPE, NodeId, Scope

SETTLE_S = 1.0
"""How long a new network waits for the other hosts. Who is silent for longer hears of it by digest repair."""
SETTLE_POLL_S = 0.005
"""A round trip in a site takes a fraction of this."""
CHOICE_ATTEMPTS = 5
MAX_SHARED_OUT = 256
"""So many hosts get space at once; later ones ask ahead of need."""

logger = logging.getLogger("netagent.usecases.networks")


class Settles(Protocol):
    """The part of GossipNode that is used here."""

    def unacknowledged(self, scope: Scope) -> frozenset[NodeId]:
        """Live peers that have not acknowledged our head, or whose own head we do not hold yet."""


class Networks:
    """Create and remove networks. One creation at a time on a host."""

    def __init__(
        self,
        live: Live,
        publisher: Publishes,
        node: Settles,
        participation: Participation,
        surroundings: Callable[[RegistryView], Surroundings],
    ) -> None:
        self._live = live
        self._publisher = publisher
        self._node = node
        self._participation = participation
        self._surroundings = surroundings
        self._creating = trio.Lock()

    async def create(self, request: NetworkRequest) -> tuple[NetworkView, bool]:
        """The network and whether it is new. RefusedError when it exists with other options or does not fit."""
        async with self._creating:
            for _ in range(CHOICE_ATTEMPTS):
                existing = self._live.view.network_named(request.name)
                if existing is not None:
                    return _if_equal(existing, request), False
                network_id = NetworkId(os.urandom(16).hex())
                record = plan_network(request, network_id, self._surroundings(self._live.view))
                made = await self._publish(record, request)
                if made is not None:
                    logger.info("created network %s: %s", record.name, ", ".join(record.subnets))
                    return made, True
        raise FailedError(
            f"network {request.name} met other networks in {CHOICE_ATTEMPTS} places of the address pools",
            code="pool-contended",
            thing=request.name,
            hint="try again, or name a subnet with --subnet",
        )

    async def _publish(self, record: NetworkRecord, request: NetworkRequest) -> NetworkView | None:
        """The network once it stands; None when it had to give way and another try makes sense."""
        await self._publisher.put(record)
        try:
            await self._settle()
            rival = self._rival(record)
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._publisher.withdraw(record)
            raise
        if rival is not None:
            await self._publisher.withdraw(record)
            if rival.name == request.name or not set(request.subnets) & set(record.subnets):
                return None
            raise RefusedError(
                f"the subnet {record.subnets[0]} was taken by network {rival.unique_name} at the same moment",
                code="subnet-in-use",
                thing=record.subnets[0],
                hint="take another",
            )
        await self._share_out(record)
        return self._live.view.networks[record.network_id]

    def _rival(self, record: NetworkRecord) -> NetworkView | None:
        """The network of the same instant that ours yields to, if there is one."""
        view = self._live.view
        if record.network_id not in view.networks:
            return view.network_named(record.name)
        for network in view.networks.values():
            if network.network_id == record.network_id:
                continue
            used = bool(view.grants(network.network_id))
            smaller = used or network.network_id < record.network_id
            if smaller and (network.record.vni == record.vni or _overlap(network.record, record)):
                return network
        return None

    async def _share_out(self, record: NetworkRecord) -> None:
        view = self._live.view
        others = [h for h, host in view.hosts.items() if h != view.local and host.agent is AgentState.ALIVE]
        hosts = sorted(others)[:MAX_SHARED_OUT]
        grants = share_out(record.network_id, offset_count(record.subnets), hosts)
        if grants:
            await self._publisher.put(*grants)
            await self._settle()

    async def _settle(self) -> None:
        with trio.move_on_after(SETTLE_S):
            while self._node.unacknowledged(CLUSTER_SCOPE):
                await trio.sleep(SETTLE_POLL_S)

    # -- remove ----------------------------------------------------------------------------------------------

    async def remove(self, name: str, *, force: bool) -> NetworkView:
        """Remove a network for good. RefusedError when live endpoints are in it, naming them, unless `force`."""
        network = network_called(self._live.view, name)
        if not force:
            await self._refuse_if_used(network)
        await self._publisher.put(RemovalRecord(network.network_id))
        await self._settle()
        logger.info("removed network %s", network.unique_name)
        return network

    async def _refuse_if_used(self, network: NetworkView) -> None:
        await self._participation.look_into(network.network_id)
        try:
            view = self._live.view
            used = [
                e for e in view.endpoints_in(network.network_id).values() if not view.is_host_hidden(e.owner)
            ]
        finally:
            self._participation.look_away(network.network_id)
        if used:
            raise RefusedError(
                f"network {network.unique_name} is in use by {_named(view, used)}",
                code="network-in-use",
                thing=network.unique_name,
                hint="detach them, or add --force to cut them off",
            )


def _if_equal(existing: NetworkView, request: NetworkRequest) -> NetworkView:
    found = differences(request, existing.record)
    if found:
        raise RefusedError(
            f"network {request.name} exists already, and {', '.join(found)}",
            code="network-exists",
            thing=request.name,
            hint="take another name, or the options it has",
        )
    return existing


def _overlap(one: NetworkRecord, other: NetworkRecord) -> bool:
    pairs = ((ip_network(a), ip_network(b)) for a in one.subnets for b in other.subnets)
    return any(a.version == b.version and a.overlaps(b) for a, b in pairs)


def _named(view: RegistryView, endpoints: list[EndpointView]) -> str:
    names = sorted(f"{e.record.name} on {_host_name(view, e.owner)}" for e in endpoints)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _host_name(view: RegistryView, host_id: HostId) -> str:
    return view.hosts[host_id].unique_name if host_id in view.hosts else host_id[:8]
