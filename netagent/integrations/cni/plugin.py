"""The CNI plug-in: carries out each call with the use-cases, and returns each result as an answer.

An endpoint is identified by its origin, `cni:NETWORK/CONTAINER/IFNAME`; the plug-in keeps no other state. So ADD may
be repeated, and DEL needs neither the namespace nor the arguments of ADD: it removes what has the origin, and
succeeds if nothing has it.
"""

from __future__ import annotations

import logging
from typing import Any, assert_never

import trio

from netagent.control.problem import known_error
from netagent.datapath.endpoint.netns import netns_identity, opened_netns
from netagent.endpoints import resolv_conf
from netagent.endpoints.find import network_called
from netagent.endpoints.targets import Target
from netagent.errors import NetagentError, NotFoundError, RefusedError
from netagent.events.channel import event
from netagent.events.kinds import EventKind
from netagent.integrations.cluster_access import ClusterAccess, Membership
from netagent.integrations.cni import answer, netns_check, protocol
from netagent.integrations.cni.protocol import (
    CniAdd,
    CniCheck,
    CniCollect,
    CniDelete,
    CniStatus,
    CniVersion,
    Order,
)
from netagent.integrations.idempotency import earlier_endpoint
from netagent.integrations.shim_call import Answer, Call
from netagent.journal.rows import LocalEndpointRow, Published
from netagent.model.ids import veth_name
from netagent.model.subnet import parse_subnet, prefix_length
from netagent.registry.view import NetworkView

COLLECTED_AT_ONCE = 8
"""Bound of detaches of one GC at the same time; beyond it: others wait their turn. Each waits for kernel and journal,
and 8 keep both busy."""

_log = logging.getLogger("netagent.cni")


class CniPlugin:
    """Answers the calls of CNI runtimes."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership

    async def answer(self, call: Call) -> Answer:
        """Answer one call. Never raises for an error of the runtime: that is an answer as well."""
        configuration: dict[str, Any] = {}
        try:
            configuration = protocol.configuration_untrusted(call.stdin)
            return await self._do(protocol.order_untrusted(call.variables, configuration))
        except (NetagentError, ExceptionGroup) as error:
            known = known_error(error)
            if known is None:
                raise
            refused = event(EventKind.REFUSAL, call.variables.get("CNI_CONTAINERID", "")[:12])
            _log.info("refused %s: %s", call.variables.get("CNI_COMMAND", ""), known.message, extra=refused)
            return answer.failure(known, configuration.get("cniVersion"))

    async def _do(self, order: Order) -> Answer:
        match order:
            case CniAdd():
                return await self._add(order)
            case CniDelete():
                await self._collect_all([order.attachment.origin])
            case CniCheck():
                await self._check(order)
            case CniCollect():
                await self._collect(order)
            case CniStatus():
                self._status(order)
            case CniVersion():
                return answer.versions(order.version)
            case _:
                assert_never(order)
        return answer.success()

    async def _add(self, add: CniAdd) -> Answer:
        member = self._membership()
        network, origin = network_called(member.live.view, add.request.network), add.attachment.origin
        row = await earlier_endpoint(member, origin, add.netns, network.network_id)
        if row is None:
            target = Target(add.request.target, add.netns, "")
            row, _ = await member.endpoints.attach(add.request, origin=origin, target=target)
        return answer.result(add, _plugged(member, row, network))

    async def _check(self, check: CniCheck) -> None:
        member = self._membership()
        row = member.live.rows.with_origin(check.attachment.origin)
        if row is None:
            raise NotFoundError(
                f"container {check.attachment.container_id} has no interface {check.attachment.ifname} of netagent",
                code="namespace-gone",
                hint="delete the container and add it again",
            )
        with opened_netns(check.netns) as fd:
            if netns_identity(fd) != row.netns_identity:
                wrong = f"{check.netns} is not the namespace of the ADD"
            elif not isinstance(row.stage, Published):
                wrong = f"the endpoint {row.name} is incomplete"
            elif not set(row.addresses) <= check.addresses:
                wrong = f"prevResult does not name {' and '.join(row.addresses)}"
            else:
                wrong = await netns_check.missing_in(fd, row.stage.ifname, row.addresses)
                wrong = wrong and f"{wrong} is missing in {check.netns}"
        if wrong:
            raise RefusedError(wrong, code="not-as-it-was", hint="delete the container and add it again")

    async def _collect(self, collect: CniCollect) -> None:
        """Collect endpoints of this CNI network only: the runtime's list has no containers of others."""
        prefix = protocol.origins_of(collect.network)
        try:
            rows = self._membership().live.rows.values()
        except RefusedError:
            return
        origins = {row.origin for row in rows if row.origin and row.origin.startswith(prefix)}
        await self._collect_all(sorted(origins - collect.valid))

    async def _collect_all(self, origins: list[str]) -> None:
        """Detach all of them even if one fails; raise the first error afterwards."""
        try:
            member = self._membership()
        except RefusedError:
            return  # outside a cluster there are no endpoints
        errors: list[Exception] = []
        limit = trio.CapacityLimiter(COLLECTED_AT_ONCE)

        async def detach(origin: str) -> None:
            async with limit:
                try:
                    # A runtime may call DEL before it stops the program.
                    await member.endpoints.detach_origin(origin, may_be_in_use=True)
                except Exception as error:  # raised below
                    errors.append(error)

        async with trio.open_nursery() as nursery:
            for origin in origins:
                nursery.start_soon(detach, origin)
        if errors:
            raise errors[0]

    def _status(self, status: CniStatus) -> None:
        try:
            network_called(self._membership().live.view, status.network)
        except NetagentError as error:
            raise RefusedError(error.message, code=answer.CANNOT_ADD, hint=error.hint) from None


def _plugged(member: ClusterAccess, row: LocalEndpointRow, network: NetworkView) -> answer.AttachedInterface:
    """Describe the interface that the datapath made: IPv4 without its subnet, which has a route, and IPv6 with it."""
    view = member.live.view
    subnets = [parse_subnet(text) for text in network.record.subnets]
    mates = member.live.rows.mates_of(row)
    names = [view.networks[mate.network_id].unique_name for mate in mates if mate.network_id in view.networks]
    return answer.AttachedInterface(
        host_ifname=veth_name(row.endpoint_id),
        ifname=row.ifname or "",
        mac=row.mac,
        mtu_bytes=network.record.mtu_bytes,
        addresses=[
            f"{address}/{prefix_length(network.record.subnets, address) if ':' in address else 32}"
            for address in row.addresses
        ],
        routes=[str(subnet) for subnet in subnets],
        gateways=member.endpoints.gateways_of(row),
        search=resolv_conf.search(list(dict.fromkeys(names)), member.keys.domain, resolv_conf.host_search()),
    )
