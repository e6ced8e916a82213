"""A dockerd as far as a network driver and a client of its API can see, in memory.

It calls the plug-in in the order and with the fields that dockerd 26.1 was seen to use, and answers the API's
questions with what it holds. `is_up = False` is a dockerd that was killed: it does not answer, and its events end.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, TypedDict, Unpack
from urllib.parse import unquote

import trio

from fakes.agent_host import Namespaces
from netagent.integrations.docker.engine import Engine, EngineError, Events
from netagent.integrations.docker.plugin import Plugin

Json: TypeAlias = dict[str, Any]
"""An object as Docker writes it; there are no types for it."""


class RefusedByPluginError(Exception):
    """What docker prints when the plug-in says no."""


class ContainerOptions(TypedDict, total=False):
    aliases: Sequence[str]
    links: Sequence[str]
    labels: dict[str, str] | None
    image: str
    check: list[str] | None


class FakeDocker:
    """Its builder sets `plugin`."""

    plugin: Plugin

    def __init__(self, namespaces: Namespaces) -> None:
        self.namespaces = namespaces
        self.networks: dict[str, Json] = {}
        self.containers: dict[str, Json] = {}
        self.images: dict[str, dict[str, str]] = {}
        """Labels by id."""
        self.is_up = True
        self.requests: list[tuple[str, str]] = []
        self._readers: dict[trio.MemorySendChannel[Json], Mapping[str, Sequence[str]]] = {}
        self._number = 0

    def _id(self) -> str:
        self._number += 1
        return f"{self._number:064x}"

    async def ask(self, method: str, **value: object) -> Json:
        """One call of the plug-in; RefusedByPluginError with its sentence."""
        status, answer = await self.plugin.answer(method, json.dumps(value).encode())
        assert status == 200, (method, status)
        sentence = answer.get("Error" if method.startswith("IpamDriver") else "Err")
        if sentence:
            raise RefusedByPluginError(sentence)
        return answer

    # -- docker network ------------------------------------------------------------------------------------------

    async def network_create(
        self, name: str, *, driver: str = "netagent", ipam: str = "netagent", options: Json | None = None,
        subnets: Sequence[str] = (), ipv6: bool = True, labels: dict[str, str] | None = None,
        internal: bool = False, generic: Json | None = None,
    ) -> str:  # fmt: skip
        network: Json = {
            "Id": self._id(), "Name": name, "Driver": driver, "Labels": labels or {}, "Internal": internal,
            "IPAM": {"Driver": ipam, "Options": options or {}, "Config": [{"Subnet": one} for one in subnets]},
            "pools": [], "endpoints": {},
        }  # fmt: skip
        if any(one["Name"] == name for one in self.networks.values()):
            raise RefusedByPluginError(f"network with name {name} already exists")
        if driver == "netagent":
            await self._plug_network(network, subnets, ipv6, generic)
        network_id: str = network["Id"]
        self.networks[network_id] = network
        self.emit("network", "create", network_id, name=name)
        return network_id

    async def _plug_network(
        self, network: Json, subnets: Sequence[str], ipv6: bool, generic: Json | None
    ) -> None:
        data: dict[int, list[Json]] = {4: [], 6: []}
        own = network["IPAM"]["Driver"] == "netagent"
        for version in (4, 6) if ipv6 else (4,):
            typed = [one for one in subnets if (":" in one) == (version == 6)]
            if own:
                try:
                    pool = await self.ask(
                        "IpamDriver.RequestPool", AddressSpace="netagent", Pool="".join(typed), SubPool="",
                        Options=network["IPAM"]["Options"], V6=version == 6,
                    )  # fmt: skip
                except RefusedByPluginError:
                    for pool_id in network["pools"]:
                        await self.ask("IpamDriver.ReleasePool", PoolID=pool_id)
                    raise
                network["pools"].append(pool["PoolID"])
                gateway = pool["Data"]["com.docker.network.gateway"]
                data[version].append({"AddressSpace": "netagent", "Pool": pool["Pool"], "Gateway": gateway})
            else:
                data[version].append(
                    {"AddressSpace": "LocalDefault", "Pool": "172.20.0.0/16", "Gateway": "172.20.0.1/16"}
                )
        options = {
            "com.docker.network.enable_ipv6": ipv6,
            "com.docker.network.generic": generic or {},
            "com.docker.network.internal": network["Internal"],
        }
        await self.ask(
            "NetworkDriver.CreateNetwork",
            NetworkID=network["Id"],
            Options=options,
            IPv4Data=data[4],
            IPv6Data=data[6],
        )

    async def network_remove(self, network_id: str) -> None:
        network = self.networks[network_id]
        if network["endpoints"]:
            raise EngineError(f"Docker says: network {network['Name']} has active endpoints", status=403)
        del self.networks[network_id]
        self.emit("network", "destroy", network_id, name=network["Name"])

    def network_named(self, name: str) -> Json:
        return next(one for one in self.networks.values() if one["Name"] == name)

    # -- docker run ------------------------------------------------------------------------------------------------

    async def create(
        self, name: str, *networks: str, aliases: Sequence[str] = (), links: Sequence[str] = (),
        labels: dict[str, str] | None = None, image: str = "", check: list[str] | None = None,
    ) -> str:  # fmt: skip
        container_id = self._id()
        self.containers[container_id] = {
            "Id": container_id, "Name": f"/{name}", "Image": image,
            "Config": {"Labels": labels or {}, "Healthcheck": {"Test": check} if check else None},
            "State": {"Running": False, "Pid": 0},
            "NetworkSettings": {
                "SandboxKey": "",
                "Networks": {
                    one: {"NetworkID": "", "EndpointID": "", "Aliases": list(aliases) or None, "Links": list(links)}
                    for one in networks
                },
            },
        }  # fmt: skip
        self.emit("container", "create", container_id, name=name)
        return container_id

    async def start(self, container_id: str, *, ip: str = "", ip6: str = "", mac: str = "") -> None:
        for network_name in self.containers[container_id]["NetworkSettings"]["Networks"]:
            await self.join(container_id, network_name, ip=ip, ip6=ip6, mac=mac)
        await self.start_joined(container_id)

    async def start_joined(self, container_id: str) -> None:
        """Its namespace appears, and a moment later its first program runs."""
        container = self.containers[container_id]
        name = container["Name"].lstrip("/")
        key = self.namespaces.folder / name
        self.namespaces.make(name)
        await trio.sleep(0.1)
        container["State"] = {"Running": True, "Pid": 1000 + int(container_id, 16)}
        container["NetworkSettings"]["SandboxKey"] = str(key)
        self.emit("container", "start", container_id, name=name)

    async def join(
        self, container_id: str, network_name: str, *, ip: str = "", ip6: str = "", mac: str = ""
    ) -> Json:
        container, network = self.containers[container_id], self.network_named(network_name)
        name, endpoint_id = container["Name"].lstrip("/"), self._id()
        got = []
        try:
            for pool, asked in zip(network["pools"], (ip, ip6), strict=False):
                answer = await self.ask("IpamDriver.RequestAddress", PoolID=pool, Address=asked, Options=None)
                got.append((pool, answer["Address"]))
            interface = {
                "Address": got[0][1],
                "AddressIPv6": got[1][1] if len(got) > 1 else "",
                "MacAddress": mac,
            }
            ids = {"NetworkID": network["Id"], "EndpointID": endpoint_id}
            await self.ask("NetworkDriver.CreateEndpoint", **ids, Interface=interface, Options={})
        except RefusedByPluginError:
            for pool, address in got:
                await self.ask("IpamDriver.ReleaseAddress", PoolID=pool, Address=address.partition("/")[0])
            raise
        network["endpoints"][endpoint_id] = (container_id, name, got)
        key = str(self.namespaces.folder / name)
        try:
            joined = await self.ask("NetworkDriver.Join", **ids, SandboxKey=key, Options={})
        except RefusedByPluginError:
            await self.leave(endpoint_id)
            raise
        place = container["NetworkSettings"]["Networks"].setdefault(
            network_name, {"Aliases": None, "Links": None}
        )
        place.update(NetworkID=network["Id"], EndpointID=endpoint_id)
        self.emit("network", "connect", network["Id"], name=network_name, container=container_id)
        return joined

    async def run(
        self,
        name: str,
        *networks: str,
        ip: str = "",
        ip6: str = "",
        mac: str = "",
        **options: Unpack[ContainerOptions],
    ) -> str:
        container_id = await self.create(name, *networks, **options)
        await self.start(container_id, ip=ip, ip6=ip6, mac=mac)
        return container_id

    async def leave(self, endpoint_id: str) -> None:
        for network in self.networks.values():
            if endpoint_id in network["endpoints"]:
                _, _, got = network["endpoints"].pop(endpoint_id)
                ids = {"NetworkID": network["Id"], "EndpointID": endpoint_id}
                await self.ask("NetworkDriver.Leave", **ids)
                await self.ask("NetworkDriver.DeleteEndpoint", **ids)
                for pool, address in got:
                    await self.ask(
                        "IpamDriver.ReleaseAddress", PoolID=pool, Address=address.partition("/")[0]
                    )

    def endpoints_of(self, container_id: str) -> list[str]:
        return [
            e
            for n in self.networks.values()
            for e, (one, _, _) in n["endpoints"].items()
            if one == container_id
        ]

    async def disconnect(self, container_id: str, network_name: str, *, tell: bool = True) -> None:
        network = self.network_named(network_name)
        for endpoint_id in self.endpoints_of(container_id):
            if endpoint_id in network["endpoints"]:
                if tell:
                    await self.leave(endpoint_id)
                network["endpoints"].pop(endpoint_id, None)
        del self.containers[container_id]["NetworkSettings"]["Networks"][network_name]
        self.emit("network", "disconnect", network["Id"], name=network_name, container=container_id)

    async def remove(self, container_id: str, *, tell: bool = True) -> None:
        """`tell` False: as if the agent had been away."""
        name = self.containers.pop(container_id)["Name"].lstrip("/")
        for endpoint_id in self.endpoints_of(container_id):
            if tell:
                await self.leave(endpoint_id)
            for network in self.networks.values():
                network["endpoints"].pop(endpoint_id, None)
        self.emit("container", "die", container_id, name=name)
        self.emit("container", "destroy", container_id, name=name)

    def signal(self, container_id: str, number: int) -> None:
        """`docker stop` begins with this, `docker kill -s` is no more than this."""
        self.emit("container", "kill", container_id, signal=str(number))

    def set_health(self, container_id: str, status: str) -> None:
        self.containers[container_id]["State"]["Health"] = {"Status": status}
        self.emit("container", f"health_status: {status}", container_id)

    # -- its API -----------------------------------------------------------------------------------------------------

    def emit(self, kind: str, action: str, identifier: str, **attributes: str) -> None:
        for send, filters in self._readers.items():
            if kind in filters["type"] and action.partition(":")[0] in filters["event"]:
                send.send_nowait(
                    {"Type": kind, "Action": action, "Actor": {"ID": identifier, "Attributes": attributes}}
                )

    def kill(self) -> None:
        self.is_up = False
        for send in list(self._readers):
            send.close()
        self._readers.clear()

    def _network_json(self, network: Json) -> Json:
        containers: dict[str, Json] = {}
        for endpoint_id, (container_id, name, _) in network["endpoints"].items():
            started = self.containers[container_id]["State"]["Running"]
            key = container_id if started else f"ep-{endpoint_id}"
            containers[key] = {"Name": name, "EndpointID": endpoint_id}
        return {k: v for k, v in network.items() if k not in {"pools", "endpoints"}} | {
            "Containers": containers
        }

    async def answer(self, method: str, path: str, query: Mapping[str, str], body: Any) -> Any:
        await trio.sleep(0.001)
        self.requests.append((method, path))
        if not self.is_up:
            raise EngineError("Docker can't be asked")
        parts = path.strip("/").split("/")
        match method, parts:
            case "GET", ["networks"]:
                driver = json.loads(query.get("filters", "{}")).get("driver")
                listed = [one for one in self.networks.values() if driver in (None, [one["Driver"]])]
                return [{**self._network_json(one), "Containers": {}} for one in listed]
            case "GET", ["networks", one] if one in self.networks:
                return self._network_json(self.networks[one])
            case "DELETE", ["networks", one] if one in self.networks:
                await self.network_remove(one)
                return None
            case "POST", ["networks", "create"]:
                return {"Id": await self._create_asked(body)}
            case "GET", ["images", one, "json"] if unquote(one) in self.images:
                return {"Id": unquote(one), "Config": {"Labels": self.images[unquote(one)]}}
            case "GET", ["containers", "json"]:
                return list(self.containers.values())
            case "GET", ["containers", one, "json"] if one in self.containers:
                return self.containers[one]
        raise EngineError(f"Docker says: no such thing {path}", status=404)

    async def _create_asked(self, body: Json) -> str:
        try:
            return await self.network_create(
                body["Name"], driver=body["Driver"], ipam=body["IPAM"]["Driver"], options=body["IPAM"]["Options"],
                subnets=[one["Subnet"] for one in body["IPAM"]["Config"]], ipv6=body["EnableIPv6"],
                labels=body["Labels"], internal=body["Internal"],
            )  # fmt: skip
        except RefusedByPluginError as error:
            raise EngineError(f"Docker says: {error}", status=500) from None


class FakeEngine(Engine):
    """Asks the pretended dockerd."""

    def __init__(self, docker: FakeDocker) -> None:
        self.docker = docker

    async def get(self, path: str, **query: str) -> Any:
        return await self.docker.answer("GET", path, query, None)

    async def call(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: object = None
    ) -> Any:
        return await self.docker.answer(method, path, query or {}, body)

    @asynccontextmanager
    async def events(self, filters: Mapping[str, Sequence[str]]) -> AsyncIterator[Events]:
        if not self.docker.is_up:
            raise EngineError("Docker can't be asked")
        send, receive = trio.open_memory_channel[Json](1000)
        self.docker._readers[send] = filters
        try:
            yield _Events(receive)
        finally:
            self.docker._readers.pop(send, None)
            send.close()
            receive.close()


class _Events(Events):
    def __init__(self, receive: trio.MemoryReceiveChannel[Json]) -> None:
        self._receive = receive

    async def read(self) -> list[Json]:
        try:
            return [await self._receive.receive()]
        except trio.EndOfChannel:
            raise EngineError("Docker ended its events") from None
