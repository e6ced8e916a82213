"""The netavark plug-in: handles `podman run --network app` and `podman network create`.

Everything is known before the container's first process starts, including its name and aliases, and netavark waits
without a timeout. So `setup` is one complete attach in the namespace that Podman has created, and Podman writes its
answer to the container's resolv.conf. `teardown` is a detach that succeeds if there is nothing.

If Podman sets up a container again without a teardown (its cleanup was killed), the container has a new namespace:
the endpoint in the old one is removed first. Repeating the same call changes nothing.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from netagent import __version__
from netagent.endpoints import resolv_conf
from netagent.endpoints.find import network_called
from netagent.endpoints.targets import Target
from netagent.errors import InputError, NetagentError, NotFoundError, RefusedError
from netagent.events.channel import event
from netagent.events.kinds import EventKind
from netagent.integrations import labels
from netagent.integrations.cluster_access import ClusterAccess, Membership
from netagent.integrations.idempotency import earlier_endpoint
from netagent.integrations.podman.netavark import (
    API_VERSION,
    DRIVER,
    NETWORK_OPTION,
    TARGET,
    Creation,
    NetavarkInterface,
    container_of,
    created,
    creation_untrusted,
    plugged,
    plugging_untrusted,
    refuse_unknown,
)
from netagent.integrations.shim_call import Answer, Call
from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import NetworkId, nearest_name
from netagent.model.publication import Publication
from netagent.model.records import Health
from netagent.model.request import AttachRequest
from netagent.model.subnet import prefix_length
from netagent.registry.view import NetworkView

_log = logging.getLogger("netagent.podman")


class NetavarkPlugin:
    """`answer` is the handler of the shim's calls."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership

    async def answer(self, call: Call) -> Answer:
        """Return the plug-in's output, also for a refusal."""
        try:
            output = await self._answer(call.arguments[1:], call.stdin)
        except NetagentError as error:
            refused = event(EventKind.REFUSAL, error.thing)
            _log.info("refused %s: %s", " ".join(call.arguments[1:2]), error.message, extra=refused)
            return Answer(_json({"error": f"netagent: {error}"}), exit_status=1)
        return Answer(b"" if output is None else _json(output))

    async def _answer(self, words: tuple[str, ...], stdin: bytes) -> dict[str, Any] | None:
        match words:
            case ("info",):
                return {"version": __version__, "api_version": API_VERSION}
            case ("create",):
                return self._create(creation_untrusted(stdin))
            case ("setup", path):
                return await self._set_up(plugging_untrusted(stdin), path)
            case ("teardown", _):
                await self._tear_down(plugging_untrusted(stdin))
                return None
        raise InputError(
            f"netavark's plug-in protocol has no call {' '.join(words)!r}",
            hint="use info, create, setup NETNS or teardown NETNS",
        )

    # -- create ----------------------------------------------------------------------------------------------

    def _create(self, creation: Creation) -> dict[str, Any]:
        """Create a Podman network for an existing netagent network: that of the option, else of the same name."""
        member = self._membership()
        try:
            network = network_called(member.live.view, creation.network or creation.name)
        except NotFoundError as error:
            raise NotFoundError(
                error.message,
                thing=error.thing,
                hint=f"`netagent network create {creation.network or creation.name}` creates it, and this Podman"
                f" network with it; to give it another name here, `podman network create --driver {DRIVER}"
                f" --opt {NETWORK_OPTION}=NETWORK {creation.name}`",
            ) from None
        record, asked = network.record, list(creation.asked)
        if creation.internal and not record.internal:
            asked.append("--internal")
        if asked:
            raise RefusedError(
                f"network {network.unique_name} is {', '.join(record.subnets)} on every host, and its addresses,"
                " routes and names are set by netagent",
                thing=creation.name,
                hint=f"leave out {', '.join(asked)}",
            )
        return created(creation, network.network_id, record.subnets, internal=record.internal)

    # -- setup and teardown ----------------------------------------------------------------------------------

    async def _set_up(self, plugging: NetavarkInterface, path: str) -> dict[str, Any]:
        refuse_unknown(plugging.options)
        member = self._membership()
        network = _network_of(member, plugging)
        row = await earlier_endpoint(member, plugging.origin, path, network.network_id)
        if row is None:
            row = await _attach(member, network, plugging, path)
        return _answer_of(row, network, member)

    async def _tear_down(self, plugging: NetavarkInterface) -> None:
        try:
            member = self._membership()
        except RefusedError:
            return  # outside a cluster there are no endpoints
        await member.endpoints.detach_origin(plugging.origin)


def _network_of(member: ClusterAccess, plugging: NetavarkInterface) -> NetworkView:
    network = member.live.view.networks.get(NetworkId(plugging.network))
    if network is None:
        raise RefusedError(
            f"the netagent network of Podman's network {plugging.network_name} is not in this cluster any more",
            code="no-such-network",
            thing=plugging.network_name,
            hint=f"`podman network rm {plugging.network_name}`, and recreate it with `netagent network create`",
        )
    return network


async def _attach(
    member: ClusterAccess, network: NetworkView, plugging: NetavarkInterface, path: str
) -> LocalEndpointRow:
    name, text = nearest_name(plugging.container_name), f"{TARGET}{plugging.container_name}"
    request = AttachRequest(
        target=text,
        network=network.network_id,
        name=name,
        service=name,
        # `--network-alias`, and the beginning of the container's id, which is its host name
        aliases=tuple(one for one in labels.names_from(plugging.aliases) if one != name),
        labels=labels.described({}, plugging.container_name, container_id=plugging.container_id).labels,
        addresses=plugging.addresses,
        mac=plugging.mac,
        ifname=plugging.ifname,
        publish=() if network.record.internal else _not_yet_published(member, plugging),
    )
    target = Target(text, path, name)
    # Podman itself listens on the ports, so no other program does.
    # It may have a health check, which Podman does not report before the start (watcher.py).
    row, _ = await member.endpoints.attach(
        request, origin=plugging.origin, target=target, holds_ports=True, health=Health.STARTING
    )
    return row


def _not_yet_published(member: ClusterAccess, plugging: NetavarkInterface) -> tuple[Publication, ...]:
    """Return the ports except those that the endpoint in an earlier network of the container publishes."""
    rows = [
        row
        for row in member.live.rows.values()
        if container_of(row.origin) == plugging.container_id and row.origin != plugging.origin
    ]
    done = {one for row in rows for one in row.publish}
    return tuple(one for one in plugging.publish if one not in done)


def _answer_of(row: LocalEndpointRow, network: NetworkView, member: ClusterAccess) -> dict[str, Any]:
    gateways = {":" in one: one for one in member.endpoints.gateways_of(row)}
    addresses = [
        (f"{address}/{prefix_length(network.record.subnets, address)}", gateways.get(":" in address, ""))
        for address in row.addresses
    ]
    # The plug-in's search list replaces the host's, so it has to include it.
    search = resolv_conf.search([network.unique_name], member.keys.domain, resolv_conf.host_search())
    servers = [] if _has_server(row, member) else [resolv_conf.RESOLVER_ADDRESS]
    return plugged(row.ifname or "", row.mac, addresses, servers=servers, search=search)


def _has_server(row: LocalEndpointRow, member: ClusterAccess) -> bool:
    """True if the answer for an earlier network of the container named the server: Podman would write it twice."""
    for other in member.live.rows.values():  # in attach order
        if (
            container_of(other.origin) == container_of(row.origin)
            and other.netns_identity == row.netns_identity
        ):
            return other.endpoint_id != row.endpoint_id
    return False


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"
