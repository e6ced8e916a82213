"""The network and IPAM driver: answers dockerd's calls of the plug-in protocol.

    docker network create   RequestPool (IPv4, IPv6), CreateNetwork
    docker run              RequestAddress (IPv4, IPv6), CreateEndpoint, Join; then Docker moves the interface
    end of a container      Leave, DeleteEndpoint, ReleaseAddress (IPv4, IPv6)

dockerd waits for an answer without a timeout and holds locks meanwhile, so each call ends within HANDLER_S. This
module never calls Docker's API: inspecting a container during a call blocks until the call returns. It also keeps no
state, except the address to which an IPv6 request belongs, because dockerd does not repeat its calls after a restart
of either side (seen with 26.1: `Activate` and the capabilities, then `Leave` and `DeleteEndpoint` for containers that
have died).

An endpoint has the same offset in both subnets. dockerd requests its IPv4 address and then, holding the network's
lock, its IPv6 address, so the plug-in answers the second request with the offset of the first.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import trio
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from netagent.control.conversion import object_untrusted
from netagent.endpoints.find import network_called
from netagent.endpoints.validation import offset_in
from netagent.errors import InputError, NetagentError, RefusedError
from netagent.events.channel import event
from netagent.events.kinds import EventKind
from netagent.integrations.cluster_access import Membership
from netagent.integrations.docker import protocol
from netagent.integrations.docker.netns_waiter import AwaitedNamespace, NetnsWaiter
from netagent.integrations.docker.protocol import AddressRequest, PoolId, origin_of
from netagent.log import Limited
from netagent.model.author import Author, AuthorKind, acting_as
from netagent.model.ids import NetworkId
from netagent.model.request import AttachRequest
from netagent.model.subnet import GATEWAY_OFFSET, addresses_of, offset_of, parse_subnet
from netagent.periodic_task import PeriodicTask
from netagent.registry.view import NetworkView

HANDLER_S = 10.0
"""Longest time for one call, in seconds. An attach that waits for other hosts' records takes up to 5 s."""
MAX_BODY_BYTES = 4 * 1024 * 1024
"""Bound of one call of dockerd; beyond it: refused. The description of a container that publishes a range of 10,000
ports takes 1 MB."""
DEPARTURE_S = 5.0
"""Longest time for which the end of a container waits for the plug-in. Interfaces are removed one after the other,
each in 20 ms of a quiet kernel; if many containers end at once, `run` removes the rest without dockerd waiting."""
RETRY_S = 1.0
MAX_PAIRS = 1024
"""Bound of IPv4 addresses whose IPv6 request is awaited; beyond it: all are dropped; those containers are refused. At
most one for each network."""

Handler: TypeAlias = Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]

_DOCKER = Author(AuthorKind.RUNTIME, "docker")

logger = logging.getLogger("netagent.integrations.docker")
_limited = Limited(logger)


class Plugin:
    """Both drivers. The answers are in netagent.integrations.docker.protocol."""

    def __init__(self, membership: Membership, arrivals: NetnsWaiter) -> None:
        self._membership = membership
        self._arrivals = arrivals
        self._pairs: dict[NetworkId, tuple[str, ...]] = {}
        """The addresses that the last IPv4 request of a network got, until its IPv6 request."""
        self._offered: set[PoolId] = set()
        """Pools that Docker got without asking for their subnet, until it makes the network or gives them back."""
        self._leaving: set[str] = set()
        self._unfinished: set[str] = set()
        """Origins to detach: those of calls in progress, and those whose call has ended."""
        self._handlers: Mapping[str, Handler] = {
            "Plugin.Activate": self._activate,
            "NetworkDriver.GetCapabilities": self._capabilities,
            "NetworkDriver.CreateNetwork": self._create_network,
            "NetworkDriver.DeleteNetwork": self._nothing,
            "NetworkDriver.CreateEndpoint": self._create_endpoint,
            "NetworkDriver.EndpointOperInfo": self._endpoint_info,
            "NetworkDriver.DeleteEndpoint": self._delete_endpoint,
            "NetworkDriver.Join": self._join,
            "NetworkDriver.Leave": self._leave,
            "NetworkDriver.DiscoverNew": self._nothing,
            "NetworkDriver.DiscoverDelete": self._nothing,
            "IpamDriver.GetCapabilities": self._ipam_capabilities,
            "IpamDriver.GetDefaultAddressSpaces": self._address_spaces,
            "IpamDriver.RequestPool": self._request_pool,
            "IpamDriver.ReleasePool": self._release_pool,
            "IpamDriver.RequestAddress": self._request_address,
            "IpamDriver.ReleaseAddress": self._release_address,
        }

    def app(self) -> Starlette:
        """Return the application to serve (netagent.control.server)."""
        app = Starlette(routes=[Route("/{method:path}", self._serve, methods=["POST"])])
        app.state.stopping = trio.Event()
        return app

    async def answer(self, method: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Return HTTP status and answer of one call; never raises, and never takes longer than HANDLER_S."""
        handler = self._handlers.get(method)
        if handler is None:
            # dockerd takes 404 for "this driver does not support it" and continues without.
            return 404, protocol.failure(method, f"netagent has no {method[:80]}")
        try:
            with acting_as(_DOCKER), trio.move_on_after(HANDLER_S):
                return 200, await handler(object_untrusted(body))
        except NetagentError as error:
            logger.info("refused %s: %s", method, error, extra=event(EventKind.REFUSAL, error.thing))
            return 200, protocol.failure(method, str(error))
        except Exception:
            logger.exception("%s failed unexpectedly", method)
            return 200, protocol.failure(
                method, f"{method} failed unexpectedly; see the log of the netagent agent"
            )
        text = f"netagent did not finish {method} within {HANDLER_S:.0f} s; see `netagent status`, then try again"
        logger.warning("%s", text)
        return 200, protocol.failure(method, text)

    async def _serve(self, request: Request) -> Response:
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    return Response(status_code=413)
        except ClientDisconnect:  # dockerd was killed
            return Response(status_code=400)
        status, value = await self.answer(request.path_params["method"], bytes(body))
        return Response(json.dumps(value), status, media_type=protocol.CONTENT_TYPE)

    # -- the plug-in -------------------------------------------------------------------------------------------

    async def _activate(self, _: Mapping[str, Any]) -> dict[str, Any]:
        return {"Implements": ["NetworkDriver", "IpamDriver"]}

    async def _capabilities(self, _: Mapping[str, Any]) -> dict[str, Any]:
        # Local: every host has its own Docker network for the shared netagent network, without swarm.
        return {"Scope": "local", "ConnectivityScope": "global"}

    async def _ipam_capabilities(self, _: Mapping[str, Any]) -> dict[str, Any]:
        # No replay of addresses after a restart of dockerd: they are in the agent's journal.
        return {"RequiresMACAddress": False, "RequiresRequestReplay": False}

    async def _address_spaces(self, _: Mapping[str, Any]) -> dict[str, Any]:
        space = protocol.ADDRESS_SPACE
        return {"LocalDefaultAddressSpace": space, "GlobalDefaultAddressSpace": space}

    async def _nothing(self, _: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    # -- networks ------------------------------------------------------------------------------------------------

    async def _request_pool(self, value: Mapping[str, Any]) -> dict[str, Any]:
        request = protocol.pool_untrusted(value)
        view = self._membership().live.view
        if not request.network:
            raise self._unnamed(sorted(n.unique_name for n in view.networks.values()))
        network = network_called(view, request.network)
        name = network.unique_name
        subnet = _subnet(network, request.version)
        if not subnet:
            hint = (
                "leave out --ipv6"
                if request.version == 6
                else "Docker's networks need one: create another network"
            )
            raise RefusedError(f"network {name} has no IPv{request.version} subnet", thing=name, hint=hint)
        if request.subnet and request.subnet != subnet:
            text = f"network {name} has the IPv{request.version} subnet {subnet}, not {request.subnet}"
            raise RefusedError(text, thing=request.subnet, hint=f"type --subnet {subnet}, or leave it out")
        if request.ip_range and request.ip_range != subnet:
            text = (
                "the agents distribute a network's addresses among the hosts, so --ip-range is not possible"
            )
            raise RefusedError(text, thing=request.ip_range, hint="leave it out")
        pool = PoolId(network.network_id, request.version)
        if not (request.subnet or request.ip_range):
            self._offer(pool, network, subnet)
        gateway = addresses_of((subnet,), GATEWAY_OFFSET)[0]
        return protocol.pool_answer(pool, subnet, gateway)

    def _offer(self, pool: PoolId, network: NetworkView, subnet: str) -> None:
        """Note that Docker gets this pool without its user having typed the subnet; RefusedError the second time.

        Docker does not take such a pool where the host has a route to it, as it has once a container is in the
        network. It keeps the pool and asks for another one, for ever, also when its user has given up. There is none.
        """
        if pool in self._offered:
            self._offered.discard(pool)
            name = network.unique_name
            options = " ".join(f"--subnet {one}" for one in network.record.subnets)
            text = f"this host has a route to {subnet}, so Docker takes the subnets of {name} only if you type them"
            raise RefusedError(text, thing=name, hint=f"add {options}")
        if len(self._offered) >= MAX_PAIRS:
            self._offered.clear()
        self._offered.add(pool)

    async def _release_pool(self, value: Mapping[str, Any]) -> dict[str, Any]:
        self._offered.discard(protocol.address_untrusted(value).pool)
        return {}

    async def _create_network(self, value: Mapping[str, Any]) -> dict[str, Any]:
        request = protocol.network_untrusted(value)
        view = self._membership().live.view
        if request.address_spaces != {protocol.ADDRESS_SPACE}:
            text = "Docker's own IPAM would assign addresses that containers on other hosts have"
            meant = (
                [request.network]
                if request.network
                else sorted(n.unique_name for n in view.networks.values())
            )
            raise RefusedError(text, code="foreign-ipam", hint=f"type {_line(meant)}")
        unknown = [option for option in request.options if option != protocol.NETWORK_OPTION]
        if unknown:
            text = f"netagent's driver has no option {unknown[0]!r} in Docker"
            raise InputError(text, thing=unknown[0], hint="set it with `netagent network create`")
        network = next(
            (n for n in view.networks.values() if set(request.subnets) <= set(n.record.subnets)), None
        )
        if network is not None and set(request.subnets) != set(network.record.subnets):
            name = network.unique_name
            text = f"network {name} has IPv6, so its Docker network needs IPv6 as well"
            raise RefusedError(text, thing=name, hint=f"add --ipv6: {_line([name])}")
        if network is not None:
            self._offered -= {PoolId(network.network_id, version) for version in (4, 6)}
        return {}

    # -- addresses -----------------------------------------------------------------------------------------------

    async def _request_address(self, value: Mapping[str, Any]) -> dict[str, Any]:
        request = protocol.address_untrusted(value)
        member = self._membership()
        network = network_called(member.live.view, request.pool.network_id)
        subnet = _subnet(network, request.pool.version)
        if request.gateway:
            return protocol.address_answer(_gateway(network, subnet, request.address), subnet)
        if request.pool.version == 6:
            return protocol.address_answer(self._paired(network, request), subnet)
        given = (request.address,) if request.address else ()
        addresses = await member.endpoints.staged.hold(network.network_id, given)
        if len(addresses) > 1:
            if len(self._pairs) >= MAX_PAIRS:
                self._pairs.clear()
            self._pairs[network.network_id] = addresses
        return protocol.address_answer(addresses[0], subnet)

    def _paired(self, network: NetworkView, request: AddressRequest) -> str:
        """Return the IPv6 address with the offset of the IPv4 address of the preceding request."""
        pair = self._pairs.pop(network.network_id, None)
        if pair is None:
            text = f"network {network.unique_name} assigns no IPv6 address without an IPv4 address"
            raise RefusedError(
                text, code="bad-address", thing=network.unique_name, hint="start the container again"
            )
        if request.address in {"", pair[1]}:
            return pair[1]
        fitting = addresses_of(network.record.subnets, offset_in(network, request.address))[0]
        raise RefusedError(
            f"{pair[0]} and {request.address} do not have the same offset in their subnets",
            code="bad-address",
            thing=request.address,
            hint=f"type both: --ip {fitting} --ip6 {request.address}",
        )

    async def _release_address(self, value: Mapping[str, Any]) -> dict[str, Any]:
        request = protocol.address_untrusted(value)
        member = self._membership_or_none()
        network = None if member is None else member.live.view.networks.get(request.pool.network_id)
        if member is not None and network is not None and request.address != _gateway_of(network, request):
            await member.endpoints.staged.drop(network.network_id, request.address)
        return {}

    # -- endpoints -----------------------------------------------------------------------------------------------

    async def _create_endpoint(self, value: Mapping[str, Any]) -> dict[str, Any]:
        request = protocol.endpoint_untrusted(value)
        member = self._membership()
        fitting = [
            network
            for network in member.live.view.networks.values()
            if offset_of(network.record.subnets, request.addresses) is not None
        ]
        if len(fitting) != 1:
            where = "no network" if not fitting else "more than one network"
            what = " and ".join(request.addresses) or "an endpoint without addresses"
            raise RefusedError(
                f"{what} belongs to {where} of netagent",
                code="bad-address",
                thing=request.endpoint[:12],
                hint="see `netagent network ls`, and recreate the Docker network if its network was replaced",
            )
        row = await member.endpoints.staged.reserve(
            AttachRequest(
                target=f"docker:{request.endpoint[:12]}",
                network=fitting[0].network_id,
                addresses=request.addresses,
                mac=request.mac,
            ),
            origin=origin_of(request.endpoint),
        )
        return {"Interface": {} if request.mac else {"MacAddress": row.mac}}

    async def _join(self, value: Mapping[str, Any]) -> dict[str, Any]:
        request = protocol.join_untrusted(value)
        member, origin = self._membership(), origin_of(request.endpoint)
        ifname = await member.endpoints.staged.create(origin)
        row = member.live.rows.with_origin(origin)
        network = None if row is None else member.live.view.networks.get(row.network_id)
        if network is None:
            text = "the endpoint or its network was removed at the same moment"
            raise RefusedError(
                text, code="network-removed", thing=request.endpoint[:12], hint="start the container again"
            )
        self._arrivals.expect(
            AwaitedNamespace(
                endpoint=request.endpoint,
                docker_network=request.docker_network,
                sandbox_key=request.sandbox_key,
            )
        )
        record = network.record
        return protocol.join_answer(ifname, has_exit=not record.internal and record.egress is None)

    async def _leave(self, value: Mapping[str, Any]) -> dict[str, Any]:
        endpoint = protocol.endpoint_id_untrusted(value)
        self._arrivals.forget(endpoint)
        member = self._membership_or_none()
        if member is not None:
            with trio.move_on_after(DEPARTURE_S):
                await member.endpoints.staged.unbind(origin_of(endpoint))
        return {}

    async def _delete_endpoint(self, value: Mapping[str, Any]) -> dict[str, Any]:
        endpoint = protocol.endpoint_id_untrusted(value)
        self._arrivals.forget(endpoint)
        with trio.move_on_after(DEPARTURE_S):
            await self._detach(origin_of(endpoint))
        return {}

    async def _detach(self, origin: str) -> None:
        """Detach it, or let `run` complete it later: after an error Docker would keep its endpoint for ever."""
        if origin in self._leaving:
            return
        self._leaving.add(origin)
        self._unfinished.discard(origin)
        done = False
        try:
            member = self._membership_or_none()
            if member is not None:
                await member.endpoints.detach_origin(origin)
            done = True
        except (NetagentError, OSError) as error:
            _limited.warning(origin, f"cannot detach {origin[:19]} yet: {error}")
        finally:
            self._leaving.discard(origin)
            if not done:
                self._unfinished.add(origin)

    async def run(self) -> None:
        """Complete detaches that did not end within a call; run until cancelled."""
        task = PeriodicTask(RETRY_S)
        while True:
            await task.wait()
            for origin in tuple(self._unfinished):
                await self._detach(origin)

    async def _endpoint_info(self, _: Mapping[str, Any]) -> dict[str, Any]:
        return {"Value": {}}

    # -- parts ---------------------------------------------------------------------------------------------------

    def _membership_or_none(self) -> Any:
        """Return the cluster, or None outside one: then there is no endpoint to remove."""
        try:
            return self._membership()
        except RefusedError:
            return None

    def _unnamed(self, names: list[str]) -> InputError:
        text = "the call of Docker does not name the netagent network"
        return InputError(text, code="no-network", thing=protocol.NETWORK_OPTION, hint=f"type {_line(names)}")


def _line(names: list[str]) -> str:
    """Return the command for a Docker network made by hand."""
    name = names[0] if len(names) == 1 else "NAME"
    known = f" (known: {', '.join(names[:5])})" if len(names) > 1 else ""
    line = f"docker network create -d netagent --ipam-driver netagent --ipam-opt {protocol.NETWORK_OPTION}={name}"
    return f"`{line} --ipv6 {name}`{known}"


def _subnet(network: NetworkView, version: int) -> str:
    """Return the network's subnet of that family, `""` if it has none."""
    for subnet in network.record.subnets:
        if parse_subnet(subnet).version == version:
            return subnet
    return ""


def _gateway(network: NetworkView, subnet: str, asked: str) -> str:
    gateway = addresses_of((subnet,), GATEWAY_OFFSET)[0]
    if asked not in {"", gateway}:
        text = f"the gateway of network {network.unique_name} is {gateway} on every host, not {asked}"
        raise RefusedError(text, code="bad-address", thing=asked, hint="leave out --gateway")
    return gateway


def _gateway_of(network: NetworkView, request: AddressRequest) -> str:
    subnet = _subnet(network, request.pool.version)
    return addresses_of((subnet,), GATEWAY_OFFSET)[0] if subnet else ""
