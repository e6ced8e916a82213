"""A host whose Docker has our plug-in: the fake dockerd before the real use-cases."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Unpack

import pytest
import trio

from fakes.agent_host import AgentHost, Identity, Namespaces
from fakes.docker import FakeDocker, FakeEngine
from fakes.registry import N1, NetworkFields, host, network
from netagent import config
from netagent.errors import RefusedError
from netagent.integrations.cluster_access import ClusterAccess
from netagent.integrations.docker import integration, netns_waiter, watcher
from netagent.integrations.docker.integration import DockerIntegration
from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import NetworkId
from netagent.model.records import EndpointRecord


class World:
    """`in_cluster` False: in none."""

    def __init__(self, namespaces: Namespaces, monkeypatch: pytest.MonkeyPatch) -> None:
        self.docker = FakeDocker(namespaces)
        self.namespaces = namespaces
        self._host: AgentHost | None = None
        self.in_cluster = True
        self.ended: dict[int, trio.Event | None] = {}
        self.in_use: set[Identity] = set()
        monkeypatch.setattr(integration, "Engine", lambda path: FakeEngine(self.docker))
        monkeypatch.setattr(netns_waiter, "namespace_device", lambda: namespaces.folder.stat().st_dev)
        monkeypatch.setattr(watcher, "_process_ended", self._process_ended)
        monkeypatch.setattr(watcher, "_namespaces_in_use", self._namespaces_in_use)
        self.begin()

    def begin(self, **keys: str) -> None:
        """A new life of the agent, with this configuration."""
        self.docker_integration = DockerIntegration(config.load(None, keys, {}), self.member, None)
        self.docker.plugin = self.docker_integration._plugin

    @property
    def host(self) -> AgentHost:
        """Made inside the test, whose end closes it."""
        if self._host is None:
            self._host = AgentHost()
        return self._host

    def member(self) -> ClusterAccess:
        if not self.in_cluster:
            raise RefusedError("this host belongs to no cluster", code="no-cluster", hint="`netagent init`")
        return self.host.access

    async def _namespaces_in_use(self) -> set[Identity]:
        await trio.lowlevel.checkpoint()
        return self.in_use

    async def _process_ended(self, pid: int, identity: Identity) -> bool:
        ended = self.ended.setdefault(pid, trio.Event())
        if ended is None:
            return False
        await ended.wait()
        return True

    def end_process(self, container_id: str) -> None:
        ended = self.ended.setdefault(1000 + int(container_id, 16), trio.Event())
        assert ended is not None, "there was no such process"
        ended.set()

    @asynccontextmanager
    async def running(self, *, mirror: bool = True) -> AsyncIterator[DockerIntegration]:
        one = self.docker_integration
        async with trio.open_nursery() as nursery:
            for task in (one._arrivals.run, one._follower.run, one._plugin.run):
                nursery.start_soon(task)
            if mirror:
                nursery.start_soon(one._mirror.run)
            yield one
            nursery.cancel_scope.cancel()

    async def with_network(
        self, network_id: NetworkId = N1, name: str = "app", **fields: Unpack[NetworkFields]
    ) -> None:
        await self.host.publisher.put(host("h1"), network(network_id, name, **fields))

    def row(self, container_id: str) -> LocalEndpointRow:
        (endpoint_id, *_) = self.docker.endpoints_of(container_id)
        found = self.host.live.rows.with_origin(f"docker:{endpoint_id}")
        assert found is not None
        return found

    def knows(self, name: str) -> bool:
        return bool(self.host.live.view.endpoints_named(name))

    def record(self, name: str) -> EndpointRecord:
        return self.host.live.view.endpoints_named(name)[0].record


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Virtual seconds."""
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.01)
