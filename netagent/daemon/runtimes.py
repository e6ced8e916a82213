"""The runtimes that this host's configuration enables, as one: started, queried and shown together."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import trio
from starlette.routing import Route

from netagent.checks.state import Answer
from netagent.config import Config
from netagent.integrations.cluster_access import Membership
from netagent.integrations.cni.plugin import CniPlugin
from netagent.integrations.container_exec import container_of_row, run_check
from netagent.integrations.docker.integration import DockerIntegration
from netagent.integrations.podman.integration import PodmanIntegration
from netagent.integrations.shim_call import shim_route
from netagent.integrations.systemd.watcher import UnitWatcher
from netagent.journal.rows import LocalEndpointRow
from netagent.model.author import Author, AuthorKind, acting_as
from netagent.model.check import ExecCheck
from netagent.model.ids import NetworkId

MIRRORED_S = 2.0
"""How long `network create` waits until Docker knows the network: about 10 ms, unless Docker itself is slow."""


class Runtimes:
    """CNI and systemd always, Docker and Podman where they are enabled."""

    def __init__(self, config: Config, membership: Membership, docker_listener: socket.socket | None) -> None:
        """`docker_listener`: the plug-in's socket, where a service manager holds it for us."""
        self._cni = CniPlugin(membership)
        self._docker = (
            DockerIntegration(config, membership, docker_listener) if config.docker_enabled else None
        )
        self._units = UnitWatcher(membership)
        self._podman = PodmanIntegration(config, membership) if config.podman_enabled else None

    @property
    def routes(self) -> Sequence[Route]:
        """The API routes for the programs that runtimes start."""
        podman = self._podman.plugin.answer if self._podman is not None else None
        return (shim_route(self._cni.answer, podman),)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled; `started` when runtimes can call. FailedError or RefusedError when they never
        could."""
        async with trio.open_nursery() as nursery:
            for name, one in (("docker", self._docker), ("podman", self._podman)):
                if one is not None:
                    # The tasks inherit the author, at the moment in which they are started.
                    with acting_as(Author(AuthorKind.RUNTIME, name)):
                        await nursery.start(one.run)
            with acting_as(Author(AuthorKind.RUNTIME, "systemd")):
                nursery.start_soon(self._units.run)
            task_status.started()

    def troubles(self) -> tuple[str, ...]:
        """Problems that operators should know, a sentence each."""
        return tuple(
            text for one in (self._docker, self._podman) if one is not None for text in one.troubles()
        )

    async def execute(self, row: LocalEndpointRow, check: ExecCheck, timeout_s: float) -> Answer:
        """Run the command of a check in the endpoint's container, by its runtime; None: that runtime is not here."""
        runtime, container = container_of_row(row)
        by = {"docker": self._docker, "podman": self._podman}.get(runtime)
        if by is None or not container:
            return None
        return await run_check(by.execute, container, check, timeout_s)

    async def wait_mirrored(self, network_id: NetworkId) -> None:
        """Wait until `docker run --network` finds a network that was just created, for MIRRORED_S at most."""
        if self._docker is not None:
            with trio.move_on_after(MIRRORED_S):
                await self._docker.wait_mirrored(network_id)
