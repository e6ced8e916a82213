"""Two sides that go on by themselves, and meet."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio
from fakes.agent_host import AgentHost, Fabric
from fakes.registry import endpoint
from fakes.registry import host as host_record
from fakes.rows import reserve
from fakes.virtual import virtual

from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import NetworkId
from netagent.model.records import AttachmentRecord
from netagent.model.request import NetworkRequest
from netagent.registry.views import ConflictKind
from netgossip.types import CLUSTER_SCOPE

SUBNET = "10.1.0.0/22"


class World:
    def __init__(self, nursery: trio.Nursery, size: int) -> None:
        self.fabric = Fabric(nursery, size)
        self.hosts = self.fabric.hosts
        self.count = 0

    async def attach(self, one: AgentHost, network_id: NetworkId) -> LocalEndpointRow:
        """A container with an address and a record, as far as other hosts see."""
        self.count += 1
        done = await reserve(one.allocator, f"{self.count:032x}", network_id, name=f"c{self.count}")
        await one.publisher.put(
            AttachmentRecord(network_id),
            endpoint(self.count, network_id, addresses=done.addresses, mac=done.mac, name=done.name),
        )
        return done

    async def calm(self) -> None:
        with trio.fail_after(10):
            await trio.sleep(0.1)
            while any(one.node.unacknowledged(CLUSTER_SCOPE) for one in self.hosts):
                await trio.sleep(0.01)


def with_hosts(size: int) -> Callable[..., Any]:
    """Run a test with so many hosts, under virtual time."""

    def decorate(test: Callable[[World], Awaitable[None]]) -> Callable[..., Any]:
        @virtual
        async def run() -> None:
            async with trio.open_nursery() as nursery:
                world = World(nursery, size)
                await test(world)
                nursery.cancel_scope.cancel()

        return run

    return decorate


@pytest.mark.parametrize("subnets", [(), (SUBNET,)], ids=["default", "22"])
def test_scenario_28_both_sides_of_a_partition_allocate_200_addresses(subnets: tuple[str, ...]) -> None:
    with_hosts(6)(partial(allocate_on_both_sides, subnets=subnets))()


async def allocate_on_both_sides(world: World, subnets: tuple[str, ...]) -> None:
    await world.fabric.tell_hosts()
    made, _ = await world.hosts[0].networks.create(NetworkRequest(name="app", subnets=subnets))
    await world.calm()
    sides = world.hosts[:3], world.hosts[3:]
    world.fabric.cut(*sides)
    rows: dict[Any, Any] = {0: [], 1: []}
    for number in range(200):
        for side, hosts in enumerate(sides):
            one = hosts[2] if number % 4 else hosts[number % 3]
            rows[side].append(await world.attach(one, made.network_id))
    assert len({row.offset for row in rows[0]}) == len({row.offset for row in rows[1]}) == 200
    await world.calm()
    for one in world.hosts:
        known = one.live.view.endpoints_in(made.network_id)
        assert len(known) == 200, "it sees its own side"
    world.fabric.heal()
    await world.calm()
    assert len({row.offset for side in rows.values() for row in side}) == 400, "an address was given twice"
    for one in world.hosts:
        view = one.live.view
        view.check_invariants()
        assert len(view.endpoints_in(made.network_id)) == 400
        assert not view.fenced
        assert not view.conflicts


@with_hosts(4)
async def test_scenario_29_two_parts_started_apart_decide_every_clash_in_the_same_way(world: World) -> None:
    """The same network name, subnet, addresses and endpoint names on both sides; the lab shows the traffic."""
    parts = world.hosts[:2], world.hosts[2:]
    world.fabric.cut(*parts)
    for one in world.hosts:
        is_first = one in (parts[0][0], parts[1][0])
        await one.publisher.put(host_record("gate" if is_first else one.name))
    await trio.sleep(0.1)
    made = []
    for part in parts:
        network, is_new = await part[0].networks.create(NetworkRequest(name="app", subnets=(SUBNET,)))
        assert is_new
        await trio.sleep(0.1)
        for one in part:
            await world.attach(one, network.network_id)
        made.append(network.network_id)
    await trio.sleep(0.1)
    before = [one.live.view.endpoints_in(made[number // 2]) for number, one in enumerate(world.hosts)]
    world.fabric.heal()
    await world.calm()
    winner, loser = sorted(made)
    judged = set()
    for number, one in enumerate(world.hosts):
        view = one.live.view
        view.check_invariants()
        assert {network_id: network.unique_name for network_id, network in view.networks.items()} == {
            winner: "app",
            loser: f"app-{loser[:4]}",
        }
        assert view.networks[winner].record.vni != view.networks[loser].record.vni, "built apart"
        assert view.endpoints_in(made[number // 2]) == before[number], "what its part has stays"
        assert not view.fenced, "one address in two networks is two addresses"
        judged.add(view.conflicts)
    (clashes,) = judged
    assert {conflict.kind for conflict in clashes} == {
        ConflictKind.HOST_NAME.value,
        ConflictKind.NETWORK_NAME.value,
        ConflictKind.SUBNET.value,
    }
    assert {conflict.loser for conflict in clashes if conflict.kind != ConflictKind.HOST_NAME.value} == {
        loser
    }
