"""Which address an endpoint gets, how long it is kept, and what a failure leaves."""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Callable

import pytest
import trio
import trio.testing
from fakes.allocators import Cluster, Host, virtual
from fakes.registry import N1
from hypothesis import given, settings
from hypothesis import strategies as st

from netagent.errors import FailedError, InputError, NotFoundError, RefusedError
from netagent.ipam.messages import SpaceRequest
from netagent.ipam.pool import COOL_DOWN_S
from netagent.ipam.space import AddressSpace
from netagent.journal.journal import DiskFullError
from netagent.journal.statements import Statement
from netagent.model.records import HostAddressRecord, RemovalRecord


@virtual
async def test_a_row_is_filled_in_and_on_disk(make: Callable[..., Cluster]) -> None:
    cluster = make(1)
    await cluster.create()
    row = await cluster.hosts[0].attach()
    assert (row.offset, row.addresses) == (2, ("10.1.0.2", "fd00:1::2"))
    assert row.mac == "02:00:00:00:00:02"
    assert cluster.hosts[0].journal.load_endpoints() == [row]


@virtual
async def test_with_the_creator_gone_the_others_attach_at_once_and_differ(
    make: Callable[..., Cluster],
) -> None:
    cluster = make(3)
    await cluster.create()
    cluster.hosts[0].is_up = False
    rows = [await one.attach() for one in cluster.hosts[1:] for _ in range(20)]
    assert len({row.offset for row in rows}) == 40
    assert cluster.questions == 0
    assert trio.current_time() == 0


@virtual
async def test_a_network_can_be_filled_to_the_last_address_from_anywhere(
    make: Callable[..., Cluster],
) -> None:
    cluster = make(3, subnets=("10.1.0.0/27",))
    await cluster.create()
    rows = [await cluster.hosts[2].attach() for _ in range(29)]
    assert sorted(row.offset for row in rows) == list(range(2, 31))
    with pytest.raises(
        RefusedError, match="all 29 addresses of this host are in use, no other host owns any"
    ):
        await cluster.hosts[2].attach()
    await cluster.hosts[2].allocator.release(rows[7])
    assert (await cluster.hosts[2].attach()).offset == rows[7].offset


@virtual
async def test_an_address_by_name(make: Callable[..., Cluster]) -> None:
    cluster = make(3)
    await cluster.create()
    one, two, _ = cluster.hosts
    assert (await two.attach(200)).addresses[0] == "10.1.0.200", "asked for and granted by its owner"
    cluster.settle()
    for asking in (one, two):
        with pytest.raises(RefusedError) as refused:
            await asking.attach(200)
        assert refused.value.code == "address-in-use"
    for offset in (0, 1, 255, 4000, -1):
        with pytest.raises(InputError):
            await two.attach(offset)
    one.is_up = False
    with pytest.raises(FailedError) as failed:
        await two.attach(201)
    assert failed.value.code == "space-unreachable"
    assert "h1" in failed.value.message


@virtual
async def test_an_address_that_a_host_has_itself_is_refused_by_its_name(make: Callable[..., Cluster]) -> None:
    """Also where the space is owned by another host than the one that has the address, as after a cut."""
    cluster = make(3)
    await cluster.create()
    one, two, three = cluster.hosts
    for holder, offset in ((one, 2), (two, 3)):
        if holder is one:
            assert await one.allocator.hold(N1, offset) == offset
        await holder.allocator.keep_for_host(HostAddressRecord(N1, offset, "06:00:00:00:00:01"))
    cluster.settle()
    for asking, offset, whose in ((one, 2, "this host"), (two, 2, "host h1"), (one, 3, "host h2")):
        with pytest.raises(
            RefusedError, match=f"10.1.0.{offset} is in use: it is the address of {whose} itself"
        ) as refused:
            await asking.attach(offset)
        assert refused.value.code == "address-in-use"
    three.is_up = two.is_up = one.is_up = False
    with pytest.raises(RefusedError, match="it is the address of host h1 itself"):
        await three.attach(2)


@virtual
async def test_released_addresses_cool_down_also_across_a_restart(make: Callable[..., Cluster]) -> None:
    cluster = make(1, subnets=("10.1.0.0/29",))
    await cluster.create()
    one = cluster.hosts[0]
    rows = [await one.attach() for _ in range(3)]
    await one.allocator.release(rows[0])
    one.restart()
    assert one.journal.load_cooling() == [(N1, 2)]
    assert [(await one.attach()).offset for _ in range(3)] == [5, 6, 2]
    await one.allocator.release(rows[1])
    assert one.allocator.cooling_count(N1) == 1
    await trio.sleep(COOL_DOWN_S)
    assert one.allocator.cooling_count(N1) == 0
    assert one.allocator.free_count(N1) == (1, 5)
    assert one.journal.load_cooling() == []


@virtual
async def test_a_full_disk_leaves_no_trace(make: Callable[..., Cluster]) -> None:
    cluster = make(2)
    await cluster.create()
    one, two = cluster.hosts
    before = one.allocator.free_count(N1)
    one.journal.fail_with = DiskFullError("full")
    with pytest.raises(DiskFullError):
        await one.attach()
    with pytest.raises(DiskFullError):
        await one.allocator.grants.answer_request(two.host_id, SpaceRequest(N1, None, True).encode())
    one.journal.fail_with = None
    assert one.allocator.free_count(N1) == before
    assert one.journal.load_endpoints() == []


@virtual
async def test_unknown_and_removed_networks(make: Callable[..., Cluster]) -> None:
    cluster = make(2)
    await cluster.create()
    one, two = cluster.hosts
    row = await two.attach()
    await one.publisher.put(RemovalRecord(N1))
    cluster.settle()
    with pytest.raises(NotFoundError):
        await two.attach()
    assert b"none" in await one.allocator.grants.answer_request(
        two.host_id, SpaceRequest(N1, None, True).encode()
    )
    await two.allocator.release(row)
    assert two.journal.load_endpoints() == []
    assert two.journal.load_cooling() == [], "it will never be used again"


@pytest.mark.parametrize("restarts", [False, True])
@virtual
async def test_nothing_is_kept_of_a_removed_network(make: Callable[..., Cluster], restarts: bool) -> None:
    cluster = make(1)
    await cluster.create()
    (one,) = cluster.hosts
    await one.allocator.release(await one.attach())
    if restarts:
        one.restart()
    one.allocator.forget_removed()
    assert one.journal.load_cooling() != []
    await one.publisher.put(RemovalRecord(N1))
    cluster.settle()
    one.allocator.forget_removed()
    assert one.journal.load_cooling() == []
    assert not one.allocator.allocations._known
    assert not one.allocator.allocations._cooling


@virtual
async def test_a_network_removed_while_an_address_of_it_is_released(
    make: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = make(1)
    await cluster.create()
    (one,) = cluster.hosts
    row = await one.attach()
    write = one.journal.transaction

    async def remove_first(statements: list[Statement]) -> list[int]:
        monkeypatch.undo()
        await one.publisher.put(RemovalRecord(N1))
        cluster.settle()
        one.allocator.forget_removed()
        return await write(statements)

    monkeypatch.setattr(one.journal, "transaction", remove_first)
    await one.allocator.release(row)
    assert one.journal.load_cooling() == []


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.sampled_from([("10.1.0.0/28",), ("10.1.0.0/26",)]))
def test_no_two_endpoints_ever_share_an_address(seed: int, subnets: tuple[str, ...]) -> None:
    """Random attaches, detaches, crashes, late news and full disks on four hosts."""
    cluster = Cluster(4, subnets)
    try:
        trio.run(_churn, cluster, random.Random(seed), clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        cluster.close()


async def _churn(cluster: Cluster, rng: random.Random) -> None:
    await cluster.create(shares=rng.random() < 0.7)
    for _ in range(60):
        one, other = rng.sample(cluster.hosts, 2)
        match rng.choice(
            ["attach", "attach", "attach", "static", "detach", "crash", "news", "power", "disk", "top-up"]
        ):
            case "attach" | "static" as how:
                with contextlib.suppress(RefusedError, FailedError, NotFoundError):
                    await one.attach(rng.randrange(2, 15) if how == "static" else None)
            case "detach" if one.journal.load_endpoints():
                with contextlib.suppress(DiskFullError):
                    await one.allocator.release(rng.choice(one.journal.load_endpoints()))
            case "crash":
                one.restart()
            case "news":
                one.hear(other)
            case "power":
                one.is_up = not one.is_up
            case "disk":
                one.journal.fail_with = None if one.journal.fail_with else DiskFullError("full")
            case "top-up" if N1 in one.view.networks:
                with contextlib.suppress(DiskFullError):
                    await one.allocator.space_requests.top_up(N1)
        offsets = [row.offset for each in cluster.hosts for row in each.journal.load_endpoints()]
        assert len(offsets) == len(set(offsets)), f"an address was given twice: {sorted(offsets)}"
    cluster.settle()
    views = {dataclasses.astuple(space) for each in cluster.hosts if (space := _space(each)) is not None}
    assert len(views) == 1, "hosts that know the same disagree on who owns what"


def _space(one: Host) -> AddressSpace:
    one.allocator.free_count(N1)
    return one.allocator.allocations[N1].space
