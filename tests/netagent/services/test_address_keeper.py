"""Addresses that labels and networks ask for, and what becomes of those that nothing needs any more."""

from __future__ import annotations

import trio
from fakes.registry import N3, network
from fakes.registry import host as host_record
from fakes.service_world import DB, WEB, World, with_hosts

from netagent.errors import FailedError
from netagent.model.locality import Balance
from netagent.model.records import ServiceAddressOrigin, ServiceAddressRecord, ServiceRangeRecord
from netagent.services.address_keeper import IDLE_S, LOOK_S, LOST_S, RETRY_S, TURN_S

ASKS = (("netagent.address", "true"),)


# -- given ---------------------------------------------------------------------------------------------------------


@with_hosts(3, keeps=True)
async def test_a_replica_that_asks_gets_its_service_an_address_at_once(world: World) -> None:
    h1, h2, h3 = world.hosts
    await world.replica(h3, 1)
    await world.calm()
    assert world.of(h1) == (), "nothing asks"
    await world.replica(h2, 2, labels=ASKS)
    await trio.sleep(0.3)
    (found,) = world.of(h1)
    assert (found.owner, found.record.origin) == (h2.host_id, ServiceAddressOrigin.LABEL)
    await world.replica(h1, 3, labels=ASKS)
    await trio.sleep(60)
    assert world.of(h3) == (found,)


@with_hosts(2, keeps=True, service_addresses=True)
async def test_each_service_of_a_network_that_was_made_so_gets_one(world: World) -> None:
    h1, h2 = world.hosts
    await world.replica(h1, 1)
    await world.replica(h2, 2, service="db")
    await trio.sleep(0.3)
    assert {one.record.origin for service in (WEB, DB) for one in world.of(h1, service)} == {
        ServiceAddressOrigin.NETWORK
    }
    assert [one.owner for one in world.of(h1, DB)] == [h2.host_id]


@with_hosts(3, keeps=True)
async def test_of_several_hosts_with_replicas_the_next_one_gives_where_the_first_cannot(world: World) -> None:
    h1, h2, h3 = world.hosts
    await world.replica(h1, 1)
    await world.calm()
    h1.journal.fail_with = FailedError("the disk is full")
    await world.replica(h3, 2, labels=ASKS)
    await trio.sleep(TURN_S / 2)
    assert world.of(h2) == ()
    await trio.sleep(TURN_S)
    assert [one.owner for one in world.of(h2)] == [h3.host_id]
    h1.journal.fail_with = None
    await trio.sleep(2 * RETRY_S)
    assert len(world.of(h2)) == 1


@with_hosts(3, keeps=True)
async def test_a_project_that_is_started_on_all_hosts_at_once_gets_one_address(world: World) -> None:
    async with trio.open_nursery() as nursery:
        for number, one in enumerate(world.hosts, 1):
            nursery.start_soon(world.replica, one, number, "web", ASKS)
    await trio.sleep(TURN_S * 4)
    await world.calm()
    world.agree()
    assert [one.owner for one in world.of(world.hosts[2])] == [world.hosts[0].host_id]


@with_hosts(3, keeps=True)
async def test_a_host_that_is_dead_is_not_waited_for(world: World) -> None:
    h1, h2, h3 = world.hosts
    await world.replica(h1, 1)
    await world.replica(h3, 3)
    await world.calm()
    world.fabric.cut([h1], [h2, h3])
    await world.replica(h3, 4, labels=ASKS)
    await trio.sleep(0.5)
    assert [one.owner for one in world.of(h2)] == [h3.host_id]


@with_hosts(1, keeps=True)
async def test_a_start_gives_what_lacks(world: World) -> None:
    (h1,) = world.hosts
    h1.fabric = None
    await world.replica(h1, 1, labels=ASKS)
    await trio.sleep(1)
    before = world.addresses(h1)
    assert before
    await h1.service_addresses.withdraw_idle(world.network_id, WEB)
    await trio.sleep(1)
    assert world.addresses(h1) == before, "it is asked for, and gets the same again"


# -- withdrawn -----------------------------------------------------------------------------------------------------


@with_hosts(2, keeps=True)
async def test_an_address_goes_when_its_service_has_had_no_replica_for_a_day_also_over_a_restart(
    world: World,
) -> None:
    h1, h2 = world.hosts
    replica = await world.replica(h1, 1, labels=ASKS)
    await trio.sleep(1)
    await world.create(h1, DB)
    await h1.publisher.withdraw(replica)
    await trio.sleep(IDLE_S / 2)
    assert world.of(h2), "containers come back"
    h1.restart()
    h1.meet(h1.host_id)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(h1.keeper.clear_up)
        await trio.sleep(IDLE_S / 2 + 2 * LOOK_S)
        assert world.of(h2) == ()
        assert world.of(h2, DB), "an operator gave it"
        nursery.cancel_scope.cancel()


@with_hosts(2, keeps=True)
async def test_a_replica_that_comes_back_begins_the_day_anew(world: World) -> None:
    h1, _ = world.hosts
    replica = await world.replica(h1, 1, labels=ASKS)
    await trio.sleep(1)
    for _ in range(3):
        await h1.publisher.withdraw(replica)
        await trio.sleep(IDLE_S - 2 * LOOK_S)
        assert world.of(h1)
        await h1.publisher.put(replica)
        await trio.sleep(2 * LOOK_S)
    assert h1.journal.load_idle_services() == {}


@with_hosts(2, keeps=True)
async def test_a_host_that_sees_no_replicas_any_more_looks_before_it_withdraws(world: World) -> None:
    """It has left the network, where another host has some."""
    h1, h2 = world.hosts
    first = await world.replica(h1, 1, labels=ASKS)
    second = await world.replica(h2, 2)
    await trio.sleep(1)
    await h1.publisher.withdraw(first)
    h1.live.update_view(lambda view: view.without_host(h2.host_id))  # as of records that are no longer sent
    enter = h1.node.on_enter

    def look(scope: bytes) -> None:
        for event in h2.node.heard:
            h1.hear(event)
        enter(scope)

    h1.node.on_enter = look
    await trio.sleep(3 * IDLE_S)
    assert world.of(h1)
    await h2.publisher.withdraw(second)
    await trio.sleep(3 * IDLE_S)
    assert world.of(h1) == ()


# -- replaced ------------------------------------------------------------------------------------------------------


@with_hosts(2, keeps=True)
async def test_an_address_whose_range_met_a_network_is_replaced_with_its_options(world: World) -> None:
    h1, h2 = world.hosts
    await world.create(h1, is_sticky=True)
    await world.calm()
    ((v4, _),) = world.addresses(h1)
    (range_,) = h1.live.view.service_ranges(world.network_id)
    world.fabric.cut([h1], [h2])
    await h2.publisher.put(network(N3, "other", subnets=(range_.record.subnets[0],)))
    world.fabric.heal()
    await world.calm()
    assert world.of(h1) == ()
    assert len(h1.live.view.conflicts) == 2
    await trio.sleep(LOOK_S + 2 * LOST_S)
    world.agree()
    (found,) = world.of(h2)
    assert found.record.is_sticky
    assert v4 not in found.record.addresses
    await trio.sleep(LOOK_S)
    assert [one.text for one in h1.live.view.conflicts] == [], "nothing is left of the range"


@with_hosts(2, keeps=True)
async def test_a_host_in_a_range_is_not_cut_off(world: World) -> None:
    h1, h2 = world.hosts
    await world.create(h1)
    await world.calm()
    ((v4, _),) = world.addresses(h1)
    await h2.publisher.put(host_record("h2", underlay=v4))
    await trio.sleep(LOOK_S + 2 * LOST_S)
    (found,) = world.of(h2)
    assert v4 not in found.record.addresses
    assert not [one for one in h1.live.view.conflicts if one.kind.startswith("service")]


@with_hosts(2, keeps=True)
async def test_a_range_of_a_liar_is_no_reason_to_give_up_an_address(world: World) -> None:
    h1, h2 = world.hosts
    await world.create(h2)
    await world.calm()
    before = world.addresses(h2)
    for number in range(1, 200):
        await h1.publisher.put(
            ServiceRangeRecord(world.network_id, (f"10.{number}.0.0/20", f"fd00:{number:x}::/64"))
        )
    await trio.sleep(10 * LOOK_S)
    assert world.addresses(h1) == before
    assert len(h2.live.view.service_ranges(world.network_id)) == 4


@with_hosts(2, keeps=True)
async def test_of_one_address_that_two_hosts_gave_the_loser_gives_another(world: World) -> None:
    """As after a cut in which each side had evicted the other and taken its space over."""
    h1, h2 = world.hosts
    await world.create(h1)
    await world.calm()
    (addresses,) = world.addresses(h1)
    twice = ServiceAddressRecord(world.network_id, DB, addresses, balance=Balance.ZONE)
    await h2.publisher.put(twice)
    await world.calm()
    world.agree()
    assert (world.addresses(h2), world.of(h2, DB)) == ([addresses], ())
    await trio.sleep(LOOK_S + 2 * LOST_S)
    world.agree()
    assert world.addresses(h1) == [addresses]
    (other,) = world.of(h1, DB)
    assert other.record.addresses != addresses
    assert other.record.balance is Balance.ZONE
    assert h1.live.view.conflicts == ()
