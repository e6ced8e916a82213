"""What other hosts are given, and that nothing is given twice."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing
from fakes.allocators import Cluster, virtual
from fakes.registry import N1
from hypothesis import given, settings
from hypothesis import strategies as st

from netagent.errors import FailedError, RefusedError
from netagent.model.records import ForgetRecord


@virtual
async def test_two_hosts_that_are_short_do_not_trade_for_ever(make: Callable[..., Cluster]) -> None:
    cluster = make(2, subnets=("10.1.0.0/26",))
    await cluster.create()
    for _ in range(100):
        for one in cluster.hosts:
            while one.allocator.free_count(N1)[0] > 2:
                await one.attach()
            await one.allocator.space_requests.top_up(N1)
            cluster.settle()
    assert cluster.questions < 20, "after a refusal there is a pause"


@virtual
async def test_a_host_that_leaves_hands_on_all_it_owns(make: Callable[..., Cluster]) -> None:
    cluster = make(3)
    await cluster.create()
    one, two, three = cluster.hosts
    before = three.allocator.free_count(N1)[1]
    given = two.allocator.free_count(N1)[1]
    await two.allocator.grants.hand_over(N1, three.host_id)
    cluster.settle()
    assert two.allocator.free_count(N1) == (0, 0)
    await three.allocator.allocations.confirm(N1)
    assert three.allocator.free_count(N1)[1] == before + given
    assert one.allocator.free_count(N1)[1] == 253 - before - given


@settings(max_examples=60)
@given(st.integers(0, 2**32))
def test_a_host_restored_from_a_backup_gives_nothing_twice_once_it_is_synced(seed: int) -> None:
    """Whatever it handed on since the backup: the receiver has repeated the grant in a log of its own."""
    cluster = Cluster(4, ("10.1.0.0/26",))
    try:
        trio.run(_restore, cluster, random.Random(seed), clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        cluster.close()


@virtual
async def test_a_host_that_is_about_to_be_evicted_gets_no_space(make: Callable[..., Cluster]) -> None:
    cluster = make(3)
    await cluster.create(shares=False)
    _, two, three = cluster.hosts
    await three.publisher.put(ForgetRecord(two.host_id))
    cluster.settle()
    with pytest.raises(RefusedError, match="asked h1: 0 of 0 free"):
        await two.attach()
    await three.publisher.withdraw(ForgetRecord(two.host_id))
    cluster.settle()
    assert (await two.attach()).addresses


async def _restore(cluster: Cluster, rng: random.Random) -> None:
    await cluster.create(shares=rng.random() < 0.5)
    backups = {one: one.backup() for one in cluster.hosts}
    running: dict[str, Any] = {}  # endpoint -> its host and address
    for _ in range(80):
        one = rng.choice(cluster.hosts)
        match rng.choice(["attach", "attach", "attach", "static", "detach", "top-up", "backup", "restore"]):
            case "attach" | "static" as how:
                with contextlib.suppress(RefusedError, FailedError):
                    row = await one.attach(rng.randrange(2, 63) if how == "static" else None)
                    assert row.offset not in {offset for _, offset in running.values()}, (
                        "it is on two containers"
                    )
                    running[row.endpoint_id] = one, row.offset
            case "detach":
                for row in one.journal.load_endpoints()[:3]:
                    await one.allocator.release(row)
                    running.pop(row.endpoint_id)
            case "top-up":
                await one.allocator.space_requests.top_up(N1)
            case "backup":
                backups[one] = one.backup()
            case "restore":
                one.restore(backups[one])
                await one.allocator.allocations.confirm(N1)
                # Garbage collection: an endpoint attached since then loses its interface, one detached since has
                # none.
                known = {row.endpoint_id: row for row in one.journal.load_endpoints()}
                running = {e: place for e, place in running.items() if place[0] is not one or e in known}
                for endpoint_id, row in known.items():
                    if endpoint_id not in running:
                        await one.allocator.release(row)
        cluster.settle()
