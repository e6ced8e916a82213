"""A host's own address in the networks that are made for it: taken from its space, published, and given back."""

from __future__ import annotations

from typing import Any

import trio
from fakes.agent_host import AgentHost
from fakes.registry import H2, N1, Writer, host, network
from fakes.virtual import virtual

from netagent.endpoints.host_access import RETRY_S, HostAccess
from netagent.model.records import (
    HostAddressRecord,
    NetworkOption,
    NetworkOptionsRecord,
    OptionChange,
    RemovalRecord,
)

MAC = "06:00:00:00:00:01"


def host_access(one: AgentHost, undecided: tuple[Any, ...] = ()) -> HostAccess:
    return HostAccess(
        live=one.live,
        participation=one.participation,
        allocator=one.allocator,
        undecided=lambda: undecided,
        mac_in=lambda network: MAC,
        is_closed=lambda: False,
    )


def own(one: AgentHost) -> list[int]:
    return [record.offset for record in one.live.view.own_host_addresses]


@virtual
async def test_a_host_takes_an_address_and_gives_it_back_when_it_leaves() -> None:
    one = AgentHost()
    await one.publisher.put(host("h1"), network(N1, "app", host_access=True))
    kept = host_access(one)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kept.run)
        await trio.sleep(1)
        (offset,) = own(one)
        assert one.live.view.host_addresses(N1)[one.host_id] == HostAddressRecord(N1, offset, MAC)
        assert one.host_id in one.live.view.attachments(N1), "it hears of the others' containers"
        free, usable = one.allocator.free_count(N1)
        assert free == usable - 1
        one.restart()
        assert one.allocator.free_count(N1)[0] == free, "no endpoint gets it after a restart"
        nursery.cancel_scope.cancel()
    again = host_access(one)
    await again.withdraw_all()
    assert own(one) == []
    assert one.allocator.cooling_count(N1) == 1


@virtual
async def test_a_living_network_gets_it_and_loses_it_again() -> None:
    one = AgentHost()
    await one.publisher.put(host("h1"), network(N1, "app"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(host_access(one).run)
        for number, value in enumerate(("yes", "no", "yes"), start=1):
            change = OptionChange(NetworkOption.HOST_ACCESS, value, number, 0, "root")
            await one.publisher.put(NetworkOptionsRecord(N1, (change,)))
            await trio.sleep(1)
            assert len(own(one)) == (1 if value == "yes" else 0), number
        assert one.allocator.cooling_count(N1) == 1
        nursery.cancel_scope.cancel()


@virtual
async def test_networks_without_it_undecided_ones_and_ones_without_space_are_left_alone() -> None:
    one = AgentHost()
    await one.publisher.put(host("h1"), network(N1, "app"))
    kept = host_access(one)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kept.run)
        await trio.sleep(5)
        assert own(one) == []
        nursery.cancel_scope.cancel()
    other = AgentHost()
    other.meet(H2)
    writer = Writer(H2)
    other.hear(writer.put(host("h9")))
    other.hear(writer.put(network(N1, "app", host_access=True)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(host_access(other).run)
        await trio.sleep(3 * RETRY_S)
        assert own(other) == [], "it owns no space yet"
        nursery.cancel_scope.cancel()


@virtual
async def test_of_a_removed_network_nothing_is_kept() -> None:
    one = AgentHost()
    await one.publisher.put(host("h1"), network(N1, "app", host_access=True))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(host_access(one).run)
        await trio.sleep(1)
        assert len(own(one)) == 1
        await one.publisher.put(RemovalRecord(N1))
        await trio.sleep(1)
        assert own(one) == []
        nursery.cancel_scope.cancel()
