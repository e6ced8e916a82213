"""Attaching in stages, for a runtime that moves the interface itself (Docker's plug-in protocol).

    hold      an address, before its endpoint is known                        in memory
    reserve   the endpoint: its address, its origin                           journalled; no namespace yet
    create    its interface, with both ends in the host's namespace           published without names
    bind      the runtime has moved it: resolver, names, record               published
    unbind    back to reserved: name first, then the interface
    (Endpoints.detach_origin ends it at any stage)

Each stage has a deadline: a runtime that dies between two calls leaves nothing behind for long.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from typing import Any

import trio

from netagent.datapath.endpoint.netns import netns_identity, opened_netns
from netagent.endpoints.context import EndpointContext, drawn_id
from netagent.endpoints.find import network_called
from netagent.endpoints.removal import Removal
from netagent.endpoints.rollback import all_or_nothing
from netagent.endpoints.validation import (
    NewEndpoint,
    asked_offset,
    health_of_new,
    offset_in,
    refuse_mac_in_use,
)
from netagent.errors import FailedError, NotFoundError
from netagent.journal.rows import Bound, LocalEndpointRow, Published, Reserved
from netagent.model.ids import EndpointId, NetworkId
from netagent.model.request import AttachRequest
from netagent.model.sandbox import Netns
from netagent.model.subnet import addresses_of
from netagent.projection.datapath_input import local_endpoint

HOLD_S = 300.0
"""Deadline for the runtime's next call. If two hundred containers start at once on two cores, each waits minutes for
its turn; an address that stays reserved for so long without a call costs nothing."""
BIND_S = 10.0
"""Deadline for the runtime to move the interface once the namespace exists: libnetwork takes some 10 ms."""
BIND_POLL_S = 0.005

logger = logging.getLogger("netagent.endpoints.two_phase")


class TwoPhaseAttach:
    """One call per stage. Calls for one origin are serialised; others run concurrently."""

    def __init__(self, context: EndpointContext, removal: Removal) -> None:
        self._context = context
        self._removal = removal
        self._live = context.live
        self._held: dict[tuple[NetworkId, int], float] = {}
        self._waiting: dict[EndpointId, float] = {}

    async def hold(self, network_id: NetworkId, addresses: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Reserve one address of each family at one offset, these if given. RefusedError `address-in-use`,
        `subnet-full`, …"""
        self._context.refuse_if_closed(network_id)
        await self._context.participation.take_part(network_id)
        self._context.refuse_if_closed(network_id)  # again, as it may have taken seconds
        network = self._context.network(network_id)
        offset = await self._context.allocator.hold(
            network_id, asked_offset(self._live.view, addresses, network)
        )
        self._held[network_id, offset] = trio.current_time() + HOLD_S
        return addresses_of(network.record.subnets, offset)

    async def drop(self, network_id: NetworkId, address: str) -> None:
        """Release a held address. Does nothing if it is not held, for instance because an endpoint has it by now."""
        network = self._live.view.networks.get(network_id)
        if network is not None:
            self._let_go((network_id, offset_in(network, address)))

    async def reserve(self, request: AttachRequest, *, origin: str) -> LocalEndpointRow:
        """Reserve an endpoint at the held address (any, if none is given). The same origin again is the same
        endpoint."""
        self._context.refuse_if_closed(request.target)
        async with self._context.locked(origin):
            known = self._live.rows.with_origin(origin)
            if known is not None:
                return known
            network = network_called(self._live.view, request.network)
            endpoint_id = drawn_id(self._live.view.local)
            new = NewEndpoint.named(
                endpoint_id[:12], request=request, endpoint_id=endpoint_id, network=network, origin=origin
            )
            places = {offset_in(network, address) for address in request.addresses}
            asked = next(iter(places), None)
            refuse_mac_in_use(self._live, new, asked)
            if len(places) != 1 or (network.network_id, *places) not in self._held:
                held = await self.hold(network.network_id, request.addresses)
                places = {offset_in(network, held[0])}
            (offset,) = places
            del self._held[network.network_id, offset]
            row = new.at(offset, int(time.time()))
            await self._context.allocator.keep(row)
            self._live.set_row(row)
            self._wait_for(row)
            return row

    async def create(self, origin: str) -> str:
        """Create the interface; return the name of the end that the runtime moves."""
        async with self._context.locked(origin):
            row = self._called(origin)
            network = self._context.network(row.network_id)
            await self._context.wait_built(network)
            self._wait_for(row)
            with self._context.times.step("create", row.target, origin):
                ifname = await self._context.attacher.create(local_endpoint(row, network))
                await self._context.records.publish_path(row)
            return ifname

    async def bind(
        self, origin: str, netns_path: str, *, name: str, behind_runtime: bool, **fields: Any
    ) -> LocalEndpointRow:
        """The container's namespace exists: start the resolver in it and publish the endpoint. `fields`: of the row.

        After a failure the endpoint is reserved as before, and the caller may try again.
        """
        with opened_netns(netns_path) as fd:
            identity = netns_identity(fd)
            async with self._context.locked(origin), self._context.locked(identity):
                reserved = self._called(origin)
                if reserved.is_published:
                    return reserved
                self._wait_for(reserved)  # a caller that tries has not given it up: extend the deadline
                netns = Netns(netns_path, identity, self._context.boot_id, behind_runtime)
                row = dataclasses.replace(
                    reserved,
                    name=self._context.free_name(
                        reserved.network_id, name, reserved.endpoint_id, now=reserved.name
                    ),
                    stage=Bound(netns),
                    # What was found of an earlier run of the container says nothing of this one.
                    health_since_s=None,
                    checked=health_of_new(fields.get("checks", reserved.checks), int(time.time())),
                    **{"service": name, **fields},
                )
                with self._context.times.attach(row.target, origin) as stages:
                    async with all_or_nothing() as undo:
                        undo.push("row", lambda: self._context.save(reserved))
                        # The resolver first: the container's first program may send queries before its interface is
                        # configured.
                        self._live.set_row(row)
                        await self._context.open_resolver(row, netns, fd, undo)
                        stages.end("resolver")
                        ifname = await self._configure(row)
                        stages.end("interface")
                        row = await self._context.publish(row, Published(netns, ifname))
                        stages.end("publish")
                self._waiting.pop(row.endpoint_id, None)
        await self._context.settle()
        self._context.tell_attached(row)
        return row

    async def unbind(self, origin: str) -> None:
        """The container leaves its network; the endpoint stays reserved until the runtime deletes it."""
        row = self._live.rows.with_origin(origin)
        if row is None:
            return
        async with self._context.held(row) as now:
            if now is None:
                return
            row = await self._removal.take_down(now)
            row = dataclasses.replace(row, stage=Reserved(), drain=None)
            await self._context.save(row)
            self._removal.half_done.discard(row.endpoint_id)
            self._wait_for(row)

    def adopt(self, row: LocalEndpointRow) -> bool:
        """After a start of the agent: True when a runtime may still continue with this row."""
        if row.origin is None or not isinstance(row.stage, Reserved):
            return False
        self._wait_for(row)
        return True

    async def sweep(self) -> None:
        """Remove addresses and endpoints whose deadline has passed."""
        now = trio.current_time()
        for place, until in list(self._held.items()):
            if until < now:
                self._let_go(place)
        for endpoint_id, until in list(self._waiting.items()):
            row = self._live.rows.get(endpoint_id)
            if row is None or row.is_published:
                del self._waiting[endpoint_id]
            elif until < now:
                await self._removal.remove(row, "its runtime began to attach it and did not finish")

    # -- parts ---------------------------------------------------------------------------------------------------

    def _called(self, origin: str) -> LocalEndpointRow:
        row = self._live.rows.with_origin(origin)
        if row is None:
            raise NotFoundError(
                f"there is no endpoint {origin}",
                code="no-such-endpoint",
                thing=origin,
                hint="start the container again",
            )
        return row

    async def _configure(self, row: LocalEndpointRow) -> str:
        """Configure what the runtime leaves to us once it has moved the interface (routes, IPv6); return the
        interface's name there."""
        endpoint = self._context.in_datapath(row, self._context.network(row.network_id))
        with trio.move_on_after(BIND_S) as scope:
            while not await self._context.attacher.has_entered(endpoint):
                await trio.sleep(BIND_POLL_S)
        if scope.cancelled_caught:
            raise FailedError(
                f"{row.target} did not get its interface within {BIND_S:.0f} s",
                code="bind-failed",
                thing=row.target,
            )
        return await self._context.attacher.bind(endpoint)

    def _wait_for(self, row: LocalEndpointRow) -> None:
        self._waiting[row.endpoint_id] = trio.current_time() + HOLD_S

    def _let_go(self, place: tuple[NetworkId, int]) -> None:
        if self._held.pop(place, None) is not None:
            self._context.allocator.let_go(*place)
