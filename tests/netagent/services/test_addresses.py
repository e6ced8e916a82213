"""Addresses of services on several hosts: what operators see, over cuts, evictions and leaves."""

from __future__ import annotations

import random
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
import trio
from fakes.service_world import DB, WEB, World, with_hosts
from fakes.virtual import virtual

from netagent.daemon.own_records import OwnRecords
from netagent.errors import FailedError, InputError, NotFoundError, RefusedError
from netagent.ipam.prefetch import hand_on
from netagent.ipam.service_offsets import QUARANTINE_S
from netagent.model.ids import HostId
from netagent.model.locality import Balance
from netagent.model.records import (
    MAX_HOST_WEIGHTS,
    HostRecord,
    RemovalRecord,
    ServiceAddressOrigin,
    ServiceKey,
    ServicePort,
)
from netagent.model.request import NetworkRequest, ServiceAddressChange, ServiceAddressRequest
from netgossip.types import CLUSTER_SCOPE

# -- one cluster --------------------------------------------------------------------------------------------------


@with_hosts(3)
async def test_a_service_gets_one_address_in_each_family_beside_the_network_and_all_hosts_know_it(
    world: World,
) -> None:
    h1, h2, h3 = world.hosts
    assert await world.create(h2)
    await world.calm()
    (found,) = world.of(h1)
    assert found == world.of(h3)[0]
    assert (found.owner, found.record.origin) == (h2.host_id, ServiceAddressOrigin.OPERATOR)
    (range_,) = h1.live.view.service_ranges(world.network_id)
    subnets = world.network(h1).record.subnets
    for address, subnet, own in zip(found.record.addresses, range_.record.subnets, subnets, strict=True):
        assert ip_address(address) in ip_network(subnet)
        assert ip_network(subnet).prefixlen == ip_network(own).prefixlen
        assert not ip_network(subnet).overlaps(ip_network(own))
    assert h2.allocator.allocations[world.network_id].pool.owns(
        int(ip_address(found.record.addresses[0])) - int(ip_network(range_.record.subnets[0])[0])
    ), "from the space of the host that gave it"


@with_hosts(2)
async def test_the_same_again_changes_nothing_and_other_options_are_refused(world: World) -> None:
    h1, h2 = world.hosts
    options: dict[str, Any] = {
        "ports": (ServicePort(80, 8080),),
        "host_weights": (("h1", 2),),
        "is_sticky": True,
    }
    assert await world.create(h1, **options)
    await world.calm()
    head = h1.node.head(), h2.node.head()
    assert not await world.create(h1, **options)
    assert not await world.create(h2, **options)
    assert (h1.node.head(), h2.node.head()) == head
    with pytest.raises(RefusedError) as refused:
        await world.create(h2, balance=Balance.ZONE, keeps_failing=True)
    assert refused.value.code == "service-exists"
    assert refused.value.message == (
        f"service web of network app has the address {world.addresses(h1)[0][0]} already, and its ports are "
        "80:8080, its balance is spread, its weights are h1=2, its clients are sticky, its connections are not led "
        "to replicas that all fail"
    )
    assert "netagent service set web --network app" in refused.value.hint


@with_hosts(1)
async def test_options_are_changed_and_the_address_stays(world: World) -> None:
    (h1,) = world.hosts
    await world.create(h1, host_weights=(("h1", 2), ("h2", 5)))
    before = world.addresses(h1)
    change = ServiceAddressChange(
        ports=(ServicePort(80, 8080),),
        balance=Balance.ZONE,
        host_weights=(("h1", None), ("h3", 0)),
        is_sticky=True,
    )
    await h1.service_addresses.set(world.network(h1), WEB, change)
    record = world.of(h1)[0].record
    assert (record.ports, record.balance, record.is_sticky) == ((ServicePort(80, 8080),), Balance.ZONE, True)
    assert record.host_weights == (("h2", 5), ("h3", 0))
    assert world.addresses(h1) == before
    await h1.service_addresses.set(
        world.network(h1), WEB, ServiceAddressChange(ports=(), host_weights=(), is_sticky=False)
    )
    record = world.of(h1)[0].record
    assert (record.ports, record.host_weights, record.is_sticky, record.balance) == (
        (),
        (),
        False,
        Balance.ZONE,
    )
    many = tuple((f"x{n:03}", 1) for n in range(MAX_HOST_WEIGHTS + 1))
    with pytest.raises(InputError, match="weights for 65 hosts"):
        await h1.service_addresses.set(world.network(h1), WEB, ServiceAddressChange(host_weights=many))


@with_hosts(1)
async def test_a_service_does_not_take_the_name_of_a_container(world: World) -> None:
    (h1,) = world.hosts
    await world.replica(h1, 1)
    await world.calm()
    with pytest.raises(RefusedError, match="container c1 on h1, of service web, has the name c1") as caught:
        await world.create(h1, ServiceKey("c1"))
    assert "netagent service create web --network app" in str(caught.value)
    assert await world.create(h1)


@with_hosts(2)
async def test_only_the_host_that_gave_an_address_changes_and_removes_it(world: World) -> None:
    h1, h2 = world.hosts
    await world.create(h1)
    await world.calm()
    for attempt in (
        world.remove(h2),
        h2.service_addresses.set(world.network(h2), WEB, ServiceAddressChange(is_sticky=True)),
    ):
        with pytest.raises(RefusedError, match="got its address on host h1; type this command there"):
            await attempt
    with pytest.raises(NotFoundError, match="db of network app has no address of its own; give it one"):
        await world.remove(h2, DB)
    await world.remove(h1)
    await world.calm()
    assert world.of(h2) == ()


@with_hosts(1, subnets=("10.1.0.0/28",))
async def test_an_address_that_was_given_up_is_of_no_other_service_for_a_day_also_over_a_restart(
    world: World,
) -> None:
    (h1,) = world.hosts
    first = {}
    for number in range(13):
        await world.create(h1, ServiceKey(f"s{number}"))
        first[f"s{number}"] = world.addresses(h1, ServiceKey(f"s{number}"))
    assert len({one for addresses in first.values() for one in addresses}) == 13
    with pytest.raises(RefusedError) as refused:
        await world.create(h1)
    assert refused.value.code == "no-service-offset"
    for number in range(3):
        await world.remove(h1, ServiceKey(f"s{number}"))
    with pytest.raises(RefusedError, match="3 of them by services that were removed less than a day ago"):
        await world.create(h1)
    h1.restart()
    h1.meet(h1.host_id)
    await world.create(h1, ServiceKey("s1"))
    assert world.addresses(h1, ServiceKey("s1")) == first["s1"], "the same service gets its own again"
    with pytest.raises(RefusedError):
        await world.create(h1)
    await trio.sleep(QUARANTINE_S)
    await world.create(h1)
    assert world.addresses(h1)[0] in (first["s0"][0], first["s2"][0])


@with_hosts(2, subnets=("10.1.0.0/26",))
async def test_endpoints_lose_no_space_and_what_services_have_is_not_handed_on(world: World) -> None:
    h1, h2 = world.hosts
    for number in range(20):
        await world.create(h1, ServiceKey(f"s{number}"))
    taken = h1.allocator.services.in_use(world.network_id)
    theirs = await world.fill(h2)
    assert not set(theirs) & taken
    assert len(theirs) + len(await world.fill(h1)) == 61, "all offsets but three are of endpoints"


@with_hosts(2)
async def test_a_host_without_space_asks_for_some(world: World) -> None:
    h1, h2 = world.hosts
    await hand_on(h1.live, h1.allocator.grants, trio.lowlevel.checkpoint)
    await world.calm()
    assert h1.allocator.free_count(world.network_id)[1] == 0
    assert await world.create(h1)
    await world.calm()
    assert [one.owner for one in world.of(h2)] == [h1.host_id]


@with_hosts(2, subnets=("10.1.0.0/24",))
async def test_two_hosts_that_make_the_first_addresses_at_once_make_one_range(world: World) -> None:
    async with trio.open_nursery() as nursery:
        for one, service in zip(world.hosts, (WEB, DB), strict=True):
            nursery.start_soon(world.create, one, service)
    await world.calm()
    world.agree()
    assert len(world.hosts[0].live.view.service_ranges(world.network_id)) == 1
    assert all(world.of(one, service) for one in world.hosts for service in (WEB, DB))


@with_hosts(1)
async def test_a_network_is_not_removed_with_addresses_that_operators_gave(world: World) -> None:
    (h1,) = world.hosts
    await world.create(h1)
    with pytest.raises(RefusedError, match="operators added web to network app"):
        await h1.networks.remove("app", force=False)
    await world.remove(h1)
    await h1.service_addresses.ensure(world.network_id, WEB, ServiceAddressOrigin.LABEL)
    await h1.networks.remove("app", force=False)
    assert world.of(h1) == ()


@with_hosts(1)
async def test_new_networks_keep_clear_of_service_ranges(world: World) -> None:
    (h1,) = world.hosts
    await world.create(h1)
    (range_,) = h1.live.view.service_ranges(world.network_id)
    with pytest.raises(RefusedError, match="from which services of the network app have addresses"):
        await h1.networks.create(NetworkRequest(name="late", subnets=(range_.record.subnets[0],)))


@with_hosts(1)
async def test_nothing_is_left_of_an_address_that_could_not_be_written(world: World) -> None:
    (h1,) = world.hosts
    h1.journal.fail_with = FailedError("disk")
    with pytest.raises(FailedError, match="disk"):
        await world.create(h1)
    h1.journal.fail_with = None
    assert h1.allocator.services.in_use(world.network_id) == set()
    assert h1.live.view.service_ranges(world.network_id) == ()
    assert await world.create(h1)


@with_hosts(1)
async def test_a_host_that_leaves_gives_no_more(world: World) -> None:
    (h1,) = world.hosts
    with h1.context.closed(), pytest.raises(RefusedError, match="this host is leaving"):
        await world.create(h1)


@with_hosts(1)
async def test_what_a_label_made_becomes_the_operators(world: World) -> None:
    (h1,) = world.hosts
    await h1.service_addresses.ensure(world.network_id, WEB, ServiceAddressOrigin.LABEL)
    before = world.addresses(h1)
    assert not await world.create(h1)
    assert world.of(h1)[0].record.origin is ServiceAddressOrigin.OPERATOR
    assert world.addresses(h1) == before


@with_hosts(1)
async def test_a_network_that_is_removed_meanwhile_gets_no_address(world: World) -> None:
    (h1,) = world.hosts
    network = world.network(h1)
    await h1.publisher.put(RemovalRecord(world.network_id))
    with pytest.raises(NotFoundError):
        await h1.service_addresses.create(network, ServiceAddressRequest(service=WEB))
    assert await h1.service_addresses.ensure(world.network_id, WEB, ServiceAddressOrigin.LABEL) is None


@with_hosts(2)
async def test_nothing_stays_of_a_network_that_was_removed(world: World) -> None:
    h1, h2 = world.hosts
    await world.create(h1)
    await world.create(h1, DB)
    await world.remove(h1, DB)
    await h2.publisher.put(RemovalRecord(world.network_id))
    await world.calm()
    keeper = OwnRecords(
        live=h1.live, publisher=h1.publisher, allocator=h1.allocator, undecided=set, pursued=set
    )
    h1.allocator.forget_removed()
    await keeper.put_in_order()
    kinds = {type(one) for one in h1.live.view.records_of(h1.host_id, CLUSTER_SCOPE)}
    assert kinds == {HostRecord}
    assert list(h1.journal.load_freed_service_offsets()) == []
    assert h1.live.view.conflicts == ()


# -- hosts that go ------------------------------------------------------------------------------------------------


@with_hosts(3)
async def test_an_address_outlives_the_host_that_gave_it(world: World) -> None:
    h1, h2, h3 = world.hosts
    await world.create(h3)
    await world.create(h3, DB)
    await h1.service_addresses.create(world.network(h1), ServiceAddressRequest(service=ServiceKey("own")))
    await world.calm()
    before = {service: world.addresses(h1, service) for service in (WEB, DB, ServiceKey("own"))}
    world.fabric.cut([h1, h2], [h3])
    await h1.eviction.forget([h3.host_id], force=True, dead_for_s=0)
    await trio.sleep(1)
    for one in (h1, h2):
        one.live.view.check_invariants()
        assert {service: world.addresses(one, service) for service in before} == before
        assert [each.owner for each in world.of(one)] == [h1.host_id]
    await h1.service_addresses.set(world.network(h1), WEB, ServiceAddressChange(is_sticky=True))
    for number in range(40):
        await world.create(h2, ServiceKey(f"s{number}"))
        await world.create(h1, ServiceKey(f"t{number}"))
    await trio.sleep(1)
    every = [
        address
        for views in h1.live.view.service_addresses(world.network_id).values()
        for view in views
        for address in view.record.addresses
    ]
    assert len(every) == len(set(every)) == 2 * 83


@with_hosts(3)
async def test_an_address_stays_while_its_host_has_left_and_its_place_is_not_given_again(
    world: World,
) -> None:
    """Its space is the successor's by then."""
    h1, h2, h3 = world.hosts
    await world.create(h1)
    before = world.addresses(h1)
    with h1.context.closed():
        await hand_on(h1.live, h1.allocator.grants, world.calm)
    world.fabric.cut([h2, h3], [h1])
    assert world.addresses(h2) == before
    for number in range(60):
        await world.create(h2, ServiceKey(f"s{number}"))
    h2.live.view.check_invariants()
    assert world.addresses(h2) == before
    with pytest.raises(RefusedError, match=r"got its address on host h1; .*netagent forget h1"):
        await world.remove(h2)
    await h2.eviction.forget([h1.host_id], force=True, dead_for_s=0)
    assert world.addresses(h2) == before
    await world.remove(h2)
    assert world.of(h2) == ()


# -- cuts ---------------------------------------------------------------------------------------------------------


@with_hosts(4)
async def test_what_both_halves_of_a_cut_make_works_for_ever_and_names_give_one(world: World) -> None:
    h1, h2, h3, h4 = world.hosts
    world.fabric.cut([h1, h2], [h3, h4])
    await world.create(h2)
    await world.create(h4, is_sticky=True)
    await world.create(h4, DB)
    cut = {"h2": world.addresses(h2)[0], "h4": world.addresses(h4)[0]}
    world.fabric.heal()
    await world.calm()
    world.agree()
    assert [one.owner for one in world.of(h1)] == [h2.host_id, h4.host_id]
    assert world.addresses(h3) == [cut["h2"], cut["h4"]]
    for name, owner in (("h2", h2), ("h4", h4)):
        for address in cut[name]:
            found = h1.live.view.service_by_address(address)
            assert found is not None
            assert (found.owner, found.service) == (owner.host_id, WEB)
    assert not await world.create(h3), "it has an address"
    await world.remove(h2)
    await world.calm()
    assert world.addresses(h1) == [cut["h4"]]
    assert [one.text for one in h1.live.view.conflicts] == []


@with_hosts(4)
async def test_of_two_addresses_that_one_host_has_by_now_the_one_in_names_goes_last(world: World) -> None:
    h1, h2, h3, h4 = world.hosts
    world.fabric.cut([h1, h2], [h3, h4])
    await world.create(h2)
    await world.create(h4)
    world.fabric.heal()
    await world.calm()
    world.fabric.cut([h1, h2, h3], [h4])
    await h2.eviction.forget([h4.host_id], force=True, dead_for_s=0)
    first, second = world.addresses(h2)
    assert await world.remove(h2) == second
    assert world.addresses(h2) == [first]
    assert await world.remove(h2) == first


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_cut_no_address_is_of_two_services_and_none_is_lost(seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)

    @virtual
    async def run() -> None:
        async with trio.open_nursery() as nursery:
            world = World(nursery, 5, rng)
            await world.begin(subnets=("10.1.0.0/24",))
            given: dict[tuple[HostId, ServiceKey], tuple[str, ...]] = {}
            for round_ in range(6):
                sides = [rng.randrange(3) for _ in world.hosts]
                world.fabric.cut(
                    *(
                        [one for one, side in zip(world.hosts, sides, strict=True) if side == n]
                        for n in range(3)
                    )
                )
                await trio.sleep(0.1)
                for _ in range(6):
                    one, service = rng.choice(world.hosts), ServiceKey(f"s{rng.randrange(5)}")
                    if rng.random() < 0.3 and (one.host_id, service) in given:
                        await world.remove(one, service)
                        del given[one.host_id, service]
                    else:
                        try:
                            is_new = await world.create(one, service)
                        except FailedError:
                            continue  # it has no space, and cannot ask for any
                        if is_new:
                            (given[one.host_id, service],) = (
                                each.record.addresses
                                for each in world.of(one, service)
                                if each.owner == one.host_id
                            )
                world.fabric.heal()
                await world.calm()
                world.agree()
                view = world.hosts[0].live.view
                found = {
                    (each.owner, each.service): each.record.addresses
                    for views in view.service_addresses(world.network_id).values()
                    for each in views
                }
                assert found == given, f"round {round_}"
                every = [address for addresses in found.values() for address in addresses]
                assert len(every) == len(set(every))
                assert view.conflicts == ()
            nursery.cancel_scope.cancel()

    run()
