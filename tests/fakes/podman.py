"""A host whose Podman is pretended: what netavark sends, and what the program `podman` would answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Self

import trio

from fakes.agent_host import AgentHost, Namespaces
from fakes.registry import N1, N2, host, network
from netagent.errors import FailedError
from netagent.integrations.podman.command import Podman
from netagent.integrations.podman.report import PodmanContainer, PodmanNetwork
from netagent.integrations.shim_call import Call
from netagent.model.ids import NetworkId

C1, C2, C3 = (f"{number:x}" * 64 for number in (0xA, 0xB, 0xC))


class PodmanHost(AgentHost):
    """In a cluster, with the networks app and back."""

    namespaces: Namespaces

    @classmethod
    async def started(cls, namespaces: Namespaces, *names: str) -> Self:
        one = cls()
        await one.publisher.put(host("h1"), network(N1, "app"), network(N2, "back", subnets=("10.2.0.0/24",)))
        one.steps.done.clear()
        namespaces.make(*names)
        one.namespaces = namespaces
        return one

    def path(self, name: str) -> str:
        return str(self.namespaces.folder / name)


def netavark_call(command: str, *words: str, **given: object) -> Call:
    return Call(("/usr/libexec/netavark/netagent", command, *words), {}, json.dumps(given).encode())


def plugging(
    container_id: str = C1,
    name: str = "web",
    network_id: NetworkId = N1,
    ifname: str = "eth0",
    **options: object,
) -> dict[str, Any]:
    """The input of setup and teardown, as Podman 5.4 sends it."""
    return {
        "container_id": container_id,
        "container_name": name,
        "port_mappings": None,
        "network": {
            "name": "app",
            "id": "f" * 64,
            "driver": "netagent",
            "internal": False,
            "ipv6_enabled": True,
            "dns_enabled": False,
            "network_interface": None,
            "options": {"netagent.network": network_id},
            "ipam_options": {"driver": "none"},
            "subnets": [{"subnet": "10.1.0.0/24", "gateway": "10.1.0.1", "lease_range": None}],
            "routes": None,
            "network_dns_servers": None,
        },
        "network_options": {
            "aliases": [container_id[:12]],
            "interface_name": ifname,
            "static_ips": None,
            "static_mac": None,
            "options": None,
            **options,
        },
    }


class FakePodman(Podman):
    """The program's answers. `refusals`: what a command is refused with, by its last word."""

    def __init__(self) -> None:
        self.network_list: dict[str, PodmanNetwork] = {}
        self.container_list: dict[str, PodmanContainer] = {}
        self.pods: dict[str, list[str]] = {}
        self.refusals: dict[str, str] = {}
        self.asked: list[tuple[str, ...]] = []

    async def networks(self) -> tuple[PodmanNetwork, ...]:
        await self._note("networks", "ls")
        return tuple(self.network_list.values())

    async def create_network(self, name: str, network_id: NetworkId) -> None:
        await self._note("create", name)
        mark = {"netagent.network": network_id}
        self.network_list[name] = PodmanNetwork(name, "netagent", mark, mark)

    async def remove_network(self, name: str) -> None:
        await self._note("remove", name)
        del self.network_list[name]

    async def containers(self, ids: Sequence[str]) -> dict[str, PodmanContainer]:
        await self._note("inspect", *ids)
        return {one: self.container_list[one] for one in ids if one in self.container_list}

    async def members(self, pod: str) -> tuple[str, ...]:
        await self._note("members", pod)
        return tuple(self.pods[pod])

    async def _note(self, *words: str) -> None:
        await trio.lowlevel.checkpoint()
        self.asked.append(words)
        if words[-1] in self.refusals:
            raise FailedError(self.refusals[words[-1]])
