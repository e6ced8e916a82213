"""Mirrors the cluster's networks in Docker, so that `docker run --network app` works on every host.

A mirror is a Docker network with the name of a netagent network, our driver and IPAM, and its subnets (without them
Docker refuses `--ip`), labelled with the network's id. It is created when the network appears, recreated when a user
prunes it, and removed with the network. A Docker network of that name without our label belongs to the user: it stays
and is reported.

    desired    networks in force      observed    GET /networks      plan    the difference (pure, below)

A mirror is removed only if its network is known to be removed: a stopped container refers to its Docker network by id
and could not start again in a new one of the same name.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

import trio

from netagent.errors import NetagentError, RefusedError
from netagent.integrations.cluster_access import ClusterAccess, Membership
from netagent.integrations.docker.container import MIRROR_LABEL, DockerNetwork, networks_untrusted
from netagent.integrations.docker.engine import Engine, EngineError
from netagent.integrations.docker.protocol import NETWORK_OPTION
from netagent.integrations.docker.watcher import DockerWatcher
from netagent.log import Limited
from netagent.model.ids import NetworkId
from netagent.model.subnet import parse_subnet
from netagent.registry.view import NetworkView, RegistryView

RETRY_S = 2.0
"""Seconds to the next attempt after a failure; a network whose last container has left can be removed then."""
MEMBERSHIP_S = 0.5
"""Seconds between checks whether the host has joined or left a cluster."""
_CONFLICT = {403, 409}

logger = logging.getLogger("netagent.integrations.docker")
_limited = Limited(logger)


@dataclass(frozen=True, slots=True)
class Plan:
    """Changes to Docker's networks."""

    networks: frozenset[NetworkId]
    """The networks concerned."""
    create: tuple[NetworkView, ...]
    remove: tuple[DockerNetwork, ...]
    troubles: Mapping[str, str]
    """One sentence for each network that cannot be mirrored, by its name."""


class DockerMirror:
    """Keeps Docker's networks like those of the view."""

    def __init__(self, engine: Engine, membership: Membership, follower: DockerWatcher, driver: str) -> None:
        self._engine = engine
        self._membership = membership
        self._follower = follower
        self._driver = driver
        self._was_member = False
        self._done: frozenset[NetworkId] = frozenset()
        self._changed = trio.Event()
        self.troubles: Mapping[str, str] = {}

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            docker_changed = self._follower.networks_changed
            member = self._member()
            networks = None if member is None else member.live.view.networks
            settled = await self._once(member)
            with trio.move_on_after(float("inf") if settled else RETRY_S):
                async with trio.open_nursery() as nursery:
                    for wait in (
                        docker_changed.wait,
                        partial(self._wait_networks, member, networks),
                        partial(self._wait_member, member),
                    ):
                        nursery.start_soon(_then_cancel, wait, nursery.cancel_scope)

    async def wait_mirrored(self, network_id: NetworkId) -> None:
        """Wait until the network's mirror has been created, or cannot be; the caller sets a timeout."""
        while network_id not in self._done:
            await self._changed.wait()

    async def _once(self, member: ClusterAccess | None) -> bool:
        """Compare, and change Docker's networks. False: try again soon."""
        if not self._follower.connected:
            return False
        try:
            observed = networks_untrusted(await self._engine.get("/networks"))
            if member is not None:
                self._was_member = True
                plan = plan_mirror(member.live.view, observed, self._driver)
            elif self._was_member:  # it has left its cluster; after a start it may not have rejoined yet
                left = tuple(network for network in observed if _is_mirror(network, self._driver))
                plan = Plan(frozenset(), (), left, {})
            else:
                return True
            return await self._carry_out(plan)
        except NetagentError as error:
            _limited.warning("mirror", f"cannot mirror networks in Docker: {error}")
            return False

    async def _carry_out(self, plan: Plan) -> bool:
        troubles = dict(plan.troubles)
        for docker in plan.remove:
            try:
                await self._engine.call("DELETE", f"/networks/{quote(docker.docker_id)}")
                logger.info("removed Docker's network %s: its network was removed", docker.name)
            except EngineError as error:
                if error.status not in {*_CONFLICT, 404}:
                    raise
                if error.status != 404:
                    troubles[docker.name] = (
                        f"Docker's network {docker.name} has containers and cannot be removed with its network; "
                        f"type `docker network disconnect -f {docker.name} CONTAINER` for each"
                    )
        for network in plan.create:
            try:
                await self._engine.call("POST", "/networks/create", body=creation(network, self._driver))
                logger.info("created Docker's network %s", network.unique_name)
            except EngineError as error:
                if not error.status:
                    raise
                troubles[network.unique_name] = f"cannot mirror network {network.unique_name}: {error}"
        for name, sentence in troubles.items():
            if self.troubles.get(name) != sentence:
                logger.warning("%s", sentence)
        self.troubles = troubles
        self._done = plan.networks
        self._changed.set()
        self._changed = trio.Event()
        return not troubles

    async def _wait_networks(self, member: ClusterAccess | None, networks: object) -> None:
        if member is None:
            await trio.sleep_forever()
        revision = member.live.revision
        while member.live.view.networks is networks:
            revision = await member.live.wait_newer(revision)

    async def _wait_member(self, member: ClusterAccess | None) -> None:
        while self._member() is member:
            await trio.sleep(MEMBERSHIP_S)

    def _member(self) -> ClusterAccess | None:
        try:
            return self._membership()
        except RefusedError:
            return None


def plan_mirror(view: RegistryView, observed: Iterable[DockerNetwork], driver: str) -> Plan:
    """Return the difference between the networks in force and Docker's. Pure."""
    create: list[NetworkView] = []
    troubles: dict[str, str] = {}
    mirrors: dict[str, DockerNetwork] = {}
    remove: list[DockerNetwork] = []
    by_name: dict[str, DockerNetwork] = {}
    for docker in observed:
        by_name[docker.name] = docker
        if not _is_mirror(docker, driver):
            continue
        if docker.mirror_of not in view.networks and view.is_removed(NetworkId(docker.mirror_of)):
            remove.append(docker)
        else:
            mirrors[docker.mirror_of] = docker
    removed = {docker.name for docker in remove}
    for network in sorted(view.networks.values(), key=lambda one: one.unique_name):
        name = network.unique_name
        if network.network_id in mirrors:
            continue
        other = by_name.get(name)
        if not any(parse_subnet(subnet).version == 4 for subnet in network.record.subnets):
            troubles[name] = f"network {name} cannot be mirrored in Docker, whose networks need IPv4"
        elif other is None or name in removed:
            create.append(network)
        elif not (other.ipam_driver == driver and other.ipam_network in {name, network.network_id}):
            own = f"Docker has a network {name} of its own (driver {other.driver})"
            troubles[name] = (
                f"{own}, so `--network {name}` means that one; remove it, and the agent creates netagent's"
            )
    return Plan(frozenset(view.networks), tuple(create), tuple(remove), troubles)


def creation(network: NetworkView, driver: str) -> dict[str, Any]:
    """Return the body of `POST /networks/create`."""
    subnets = network.record.subnets
    return {
        "Name": network.unique_name,
        "CheckDuplicate": True,
        "Driver": driver,
        "Internal": network.record.internal,
        "EnableIPv6": any(parse_subnet(subnet).version == 6 for subnet in subnets),
        "IPAM": {
            "Driver": driver,
            "Config": [{"Subnet": subnet} for subnet in subnets],
            "Options": {NETWORK_OPTION: network.network_id},
        },
        "Labels": {MIRROR_LABEL: network.network_id},
    }


def _is_mirror(docker: DockerNetwork, driver: str) -> bool:
    return bool(docker.mirror_of) and docker.driver == driver


async def _then_cancel(wait: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
    await wait()
    scope.cancel()
