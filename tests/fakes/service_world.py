"""Hosts with a network whose services get addresses, over cuts, under virtual time."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from fakes.agent_host import AgentHost, Fabric
from fakes.registry import endpoint
from fakes.rows import reserve
from fakes.virtual import virtual
from netagent.errors import FailedError, RefusedError
from netagent.model.ids import NetworkId
from netagent.model.records import AttachmentRecord, EndpointRecord, ServiceKey
from netagent.model.request import NetworkRequest, ServiceAddressRequest
from netagent.registry.view import NetworkView, ServiceAddressView
from netgossip.types import CLUSTER_SCOPE

WEB, DB = ServiceKey("web"), ServiceKey("db")


class World:
    """Hosts of a cluster, with the network `app`."""

    def __init__(self, nursery: trio.Nursery, size: int, rng: random.Random | None = None) -> None:
        self.fabric = Fabric(nursery, size, rng)
        self.hosts = self.fabric.hosts
        self.network_id = NetworkId("")
        self.count = 0

    async def begin(self, **options: Any) -> None:
        await self.fabric.tell_hosts()
        made, _ = await self.hosts[0].networks.create(NetworkRequest(name="app", **options))
        self.network_id = made.network_id
        await self.calm()
        for one in self.hosts:
            await one.allocator.allocations.confirm(self.network_id)
        await self.calm()

    def network(self, one: AgentHost) -> NetworkView:
        return one.live.view.networks[self.network_id]

    async def create(self, one: AgentHost, service: ServiceKey = WEB, **options: Any) -> bool:
        wanted = ServiceAddressRequest(service=service, **options)
        return await one.service_addresses.create(self.network(one), wanted)

    async def remove(self, one: AgentHost, service: ServiceKey = WEB) -> tuple[str, ...]:
        gone = await one.service_addresses.remove(self.network(one), service)
        return tuple(address for record in gone for address in record.addresses)

    def of(self, one: AgentHost, service: ServiceKey = WEB) -> tuple[ServiceAddressView, ...]:
        return one.live.view.service_addresses(self.network_id).get(service, ())

    def addresses(self, one: AgentHost, service: ServiceKey = WEB) -> list[tuple[str, ...]]:
        return [each.record.addresses for each in self.of(one, service)]

    async def replica(
        self, one: AgentHost, number: int, service: str = "web", labels: tuple[tuple[str, str], ...] = ()
    ) -> EndpointRecord:
        """A replica, as far as other hosts see."""
        row = await reserve(one.allocator, f"{number:032x}", self.network_id, name=f"c{number}")
        record = endpoint(
            number,
            self.network_id,
            addresses=row.addresses,
            mac=row.mac,
            name=f"c{number}",
            service=service,
            labels=labels,
        )
        await one.publisher.put(AttachmentRecord(self.network_id), record)
        return record

    async def fill(self, one: AgentHost) -> list[int]:
        """Reserve for endpoints of a host until it gets no more."""
        offsets: list[int] = []
        with contextlib.suppress(RefusedError, FailedError):
            while True:
                self.count += 1
                row = await reserve(
                    one.allocator, f"{self.count:032x}", self.network_id, name=f"c{self.count}"
                )
                offsets.append(row.offset)
        return offsets

    async def calm(self) -> None:
        with trio.fail_after(10):
            await trio.sleep(0.1)
            while any(one.node.unacknowledged(CLUSTER_SCOPE) for one in self.hosts):
                await trio.sleep(0.01)
        for one in self.hosts:
            one.live.view.check_invariants()

    def agree(self) -> None:
        """All hosts have the same addresses in force, and no address is of two services."""
        views = [one.live.view for one in self.hosts]
        for view in views[1:]:
            assert view.store.service_addresses == views[0].store.service_addresses
            assert view.store.service_ranges == views[0].store.service_ranges


def with_hosts(size: int, *, keeps: bool = False, **options: Any) -> Callable[..., Any]:
    """Run a test with so many hosts, under virtual time. `keeps`: each has its keeper."""

    def decorate(test: Callable[[World], Awaitable[None]]) -> Callable[..., Any]:
        @virtual
        async def run() -> None:
            async with trio.open_nursery() as nursery:
                world = World(nursery, size)
                await world.begin(**options)
                for one in world.hosts if keeps else ():
                    nursery.start_soon(one.keeper.give)
                    nursery.start_soon(one.keeper.clear_up)
                await test(world)
                nursery.cancel_scope.cancel()

        return run

    return decorate
