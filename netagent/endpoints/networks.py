"""The use-cases on networks: create, remove.

Creating is: publish the record, let it settle, judge, share out the address space. To settle means that every live
host has acknowledged and that we hold whatever it had written by then; so of two hosts that create a network of one
name at the same instant, at least one knows of both before it gives anything away. The same rule
(netagent.registry.conflict_rules) makes the same one yield everywhere; but the other may have judged before it
heard of us, so whoever is to win waits until the loser has withdrawn, or turns out to have been first. The space is
shared out, and that acknowledged too, before `create` returns: from then on nobody needs the creator.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from ipaddress import ip_network
from typing import Protocol

import trio

from netagent.endpoints.find import host_called, network_called
from netagent.endpoints.network_defaults import NetworkConstraints, differences, plan_network, shortcoming
from netagent.errors import FailedError, InputError, NotFoundError, RefusedError
from netagent.ipam.space import share_out
from netagent.membership.participation import Participation, RecordPublisher
from netagent.model.ids import HostId, NetworkId
from netagent.model.records import NetworkRecord, Policy, RemovalRecord
from netagent.model.request import NetworkRequest
from netagent.model.subnet import offset_count
from netagent.registry.state_store import StateStore
from netagent.registry.view import AgentState, EndpointView, NetworkView, RegistryView
from netgossip.types import CLUSTER_SCOPE, NodeId, Scope

SETTLE_S = 1.0
"""How long a new network waits for the other hosts. Who is silent for longer hears of it by digest repair."""
SETTLE_POLL_S = 0.005
"""A round trip in a site takes a fraction of this."""
CHOICE_ATTEMPTS = 5
MAX_SHARED_OUT = 256
"""So many hosts get space at once; later ones ask ahead of need."""

logger = logging.getLogger("netagent.endpoints.networks")


class NetworkNode(Protocol):
    """The part of GossipNode that is used here."""

    def unacknowledged(self, scope: Scope) -> frozenset[NodeId]:
        """Live peers that have not acknowledged our head, or whose own head we do not hold yet."""


class Networks:
    """Create and remove networks. One creation at a time on a host.

    `sweep` withdraws this host's endpoints in a network whose containers are gone (Janitor.sweep).
    """

    def __init__(
        self,
        live: StateStore,
        publisher: RecordPublisher,
        node: NetworkNode,
        participation: Participation,
        *,
        surroundings: Callable[[RegistryView], NetworkConstraints],
        sweep: Callable[[NetworkId], Awaitable[None]],
    ) -> None:
        self._live = live
        self._publisher = publisher
        self._node = node
        self._participation = participation
        self._surroundings = surroundings
        self._sweep = sweep
        self._creating = trio.Lock()
        self.in_work: set[NetworkId] = set()
        """Networks that `create` has not decided about yet: nobody else withdraws them."""

    async def create(self, request: NetworkRequest) -> tuple[NetworkView, bool]:
        """The network and whether it is new. RefusedError when it exists with other options or does not fit."""
        _refuse_contradiction(request)
        async with self._creating:
            for _ in range(CHOICE_ATTEMPTS):
                existing = await self._existing(request.name)
                if existing is not None:
                    return _if_equal(existing, request), False
                network_id = NetworkId(os.urandom(16).hex())
                record = plan_network(request, network_id, self._surroundings(self._live.view))
                made = await self._publish(record, request)
                if made is not None:
                    logger.info("created network %s: %s", record.name, ", ".join(record.subnets))
                    found = shortcoming(record)
                    if found is not None:
                        logger.warning("%s", found[0])
                    return made, True
        raise FailedError(
            f"network {request.name} met other networks in {CHOICE_ATTEMPTS} places of the address pools",
            code="pool-contended",
            thing=request.name,
            hint="try again, or name a subnet with --subnet",
        )

    async def _existing(self, name: str) -> NetworkView | None:
        """The network of that name. One that is just being made somewhere may still yield to another: wait for it."""
        with trio.move_on_after(2 * SETTLE_S):
            while self._is_in_the_making(self._live.view.network_named(name)):
                await trio.sleep(SETTLE_POLL_S)
        return self._live.view.network_named(name)

    def _is_in_the_making(self, network: NetworkView | None) -> bool:
        return network is not None and self._is_undecided(network)

    async def _publish(self, record: NetworkRecord, request: NetworkRequest) -> NetworkView | None:
        """The network once it stands; None when it had to give way and another try makes sense."""
        self.in_work.add(record.network_id)
        try:
            await self._publisher.put(record)
            try:
                await self._settle()
                await self._wait_for_losers(record)
                rival = self._rival(record)
                if rival is None:
                    await self._share_out(record)
            except BaseException:
                with trio.CancelScope(shield=True):
                    await self._publisher.withdraw(record)
                raise
            if rival is not None:
                await self._publisher.withdraw(record)
        finally:
            self.in_work.discard(record.network_id)
        if rival is None:
            await self._settle()
            return self._standing(record)
        if rival.name == request.name or not (request.subnets and _overlap(rival.record, record)):
            return None
        raise RefusedError(
            f"the subnet {record.subnets[0]} was taken by network {rival.unique_name} at the same moment",
            code="subnet-in-use",
            thing=record.subnets[0],
            hint="take another",
        )

    async def _wait_for_losers(self, record: NetworkRecord) -> None:
        """Until those that yield to ours have withdrawn, or are in use because they were first."""
        with trio.move_on_after(SETTLE_S):
            while any(
                record.network_id < other.network_id and self._is_undecided(other)
                for other in self._meeting(record)
            ):
                await trio.sleep(SETTLE_POLL_S)

    def _is_undecided(self, network: NetworkView) -> bool:
        """Another live host has made it and may still withdraw it: it has not given any of its space away."""
        view = self._live.view
        host = view.hosts.get(network.owner)
        alive = host is not None and host.agent in {AgentState.ALIVE, AgentState.SUSPECT}
        return alive and network.owner != view.local and not view.is_used(network)

    def _rival(self, record: NetworkRecord) -> NetworkView | None:
        """The network of the same instant that ours yields to, if there is one."""
        view = self._live.view
        for other in self._meeting(record):
            if view.is_used(other) or other.network_id < record.network_id:
                return other
        return None

    def _meeting(self, record: NetworkRecord) -> list[NetworkView]:
        """Networks that can't be beside ours: of its name, with its VNI, or overlapping it."""
        view = self._live.view
        others = [
            n for n in (*view.networks.values(), *view.yielded_networks) if n.network_id != record.network_id
        ]
        return [
            other
            for other in others
            if other.name == record.name or other.record.vni == record.vni or _overlap(other.record, record)
        ]

    def _standing(self, record: NetworkRecord) -> NetworkView:
        network = self._live.view.networks.get(record.network_id)
        if network is None:
            raise RefusedError(
                f"network {record.name} was removed at the same moment",
                code="network-removed",
                thing=record.name,
            )
        return network

    async def _share_out(self, record: NetworkRecord) -> None:
        view = self._live.view
        others = [h for h, host in view.hosts.items() if h != view.local and host.agent is AgentState.ALIVE]
        # Who leaves may have handed its space on already.
        hosts = sorted(h for h in others if not view.is_host_hidden(h))[:MAX_SHARED_OUT]
        grants = share_out(record.network_id, offset_count(record.subnets), hosts)
        if grants:
            await self._publisher.put(*grants)

    async def _settle(self) -> None:
        with trio.move_on_after(SETTLE_S):
            while self._node.unacknowledged(CLUSTER_SCOPE):
                await trio.sleep(SETTLE_POLL_S)

    # -- remove ----------------------------------------------------------------------------------------------

    async def remove(self, name: str, *, force: bool) -> NetworkView:
        """Remove a network for good. RefusedError when live endpoints are in it, naming them, unless `force`."""
        network = network_called(self._live.view, name)
        if not force:
            await self._sweep(network.network_id)
            await self._refuse_if_used(network)
        await self._publisher.put(RemovalRecord(network.network_id))
        await self._settle()
        logger.info("removed network %s", network.unique_name)
        return network

    async def prune(self) -> list[NetworkView]:
        """Remove every network that nobody uses: no endpoint in it that is not on a host that is gone."""
        removed = []
        for network in sorted(self._live.view.networks.values(), key=lambda network: network.unique_name):
            try:
                removed.append(await self.remove(network.network_id, force=False))
            except (RefusedError, NotFoundError):
                continue  # in use, or somebody else has just removed it
        return removed

    async def _refuse_if_used(self, network: NetworkView) -> None:
        await self._participation.look_into(network.network_id)
        try:
            view = self._live.view
            used = [
                e for e in view.endpoints_in(network.network_id).values() if not view.is_host_hidden(e.owner)
            ]
        finally:
            self._participation.look_away(network.network_id)
        if unheard := _unheard(view, network.network_id):
            hosts = ", ".join(sorted(view.hosts[one].unique_name for one in unheard))
            raise RefusedError(
                f"whether network {network.unique_name} is in use is known only on {hosts}, "
                "and no agent answers there",
                code="network-not-known",
                thing=network.unique_name,
                hint="start an agent there, or add --force to cut off the containers that may be in it",
            )
        if used:
            raise RefusedError(
                f"network {network.unique_name} is in use by {_named(view, used)}",
                code="network-in-use",
                thing=network.unique_name,
                hint="detach them, or add --force to cut them off",
            )


def _unheard(view: RegistryView, network_id: NetworkId) -> list[HostId]:
    """Hosts whose containers in the network may be at work, where nobody is left who could tell of them: their agents
    are dead and their kernels answer. Empty where this host or a live one takes part, and so has the records."""
    attached = view.attachments(network_id)
    if view.local in attached or any(host.is_live for h in attached if (host := view.hosts.get(h))):
        return []
    dead = [h for h in attached if (host := view.hosts.get(h)) and host.agent is AgentState.DEAD]
    return [host_id for host_id in dead if not view.is_host_hidden(host_id)]


def _refuse_contradiction(request: NetworkRequest) -> None:
    """InputError for options that contradict each other: recorded without effect they would be a lie."""
    if request.policy is not Policy.LINKS:
        return
    for option, asked, what in (
        ("--multicast", request.multicast, "multicast reaches everybody in a network"),
        (
            "--host-access",
            request.host_access,
            "with --host-access every container and every host reach each other",
        ),
    ):
        if asked:
            raise InputError(
                f"{what}, --policy links only lets linked services be reached",
                thing=request.name,
                hint=f"leave one of {option} and --policy links away",
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
    names = sorted(f"{e.record.name} on {host_called(view, e.owner)}" for e in endpoints)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
