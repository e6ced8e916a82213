"""Space that is asked for ahead of need, and handed on."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing
from fakes.allocators import Cluster, Host, virtual
from fakes.registry import H1, H2, H3, N1, Writer, host, identifier, network

from netagent.errors import NetagentError, NotFoundError
from netagent.ipam.prefetch import TOP_UP_S, hand_on, keep_prefetched
from netagent.ipam.space_requests import Ask
from netagent.model.ids import HostId, NetworkId
from netagent.registry.state_store import StateStore
from netagent.registry.view import RegistryView
from netgossip.types import Member, MemberState

GONE = NetworkId(identifier(0xA2))
"""A network that is removed while a task looks at it."""


class Space:
    """An allocator that notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def top_up(self, network_id: NetworkId) -> None:
        self.asked.append(network_id)
        if network_id == GONE:
            raise NetagentError("it is gone")

    async def hand_over(self, network_id: NetworkId, successor: HostId) -> None:
        self.asked.append((network_id, successor))
        if network_id == GONE:
            raise NotFoundError("it is gone")


def live(*alive: HostId) -> StateStore:
    view = RegistryView(H1)
    writer = Writer(H2)
    for record in (host("h2"), network(GONE, "gone"), network()):
        view = view.with_entries(writer.put(record))
    for host_id in alive:
        view = view.with_member(Member(host_id, ("192.0.2.2", 7956), MemberState.ALIVE, 1))
    return StateStore(view, {})


@pytest.mark.parametrize(("alive", "successors"), [((H1, H3, H2), {H2}), ((H1,), set())])
def test_the_first_live_host_gets_all_of_it(alive: tuple[HostId, ...], successors: set[HostId]) -> None:
    space: Any = Space()
    trio.run(hand_on, live(*alive), space, trio.lowlevel.checkpoint)
    assert set(space.asked) == {(one, successor) for one in (GONE, N1) for successor in successors}


def test_a_successor_that_begins_to_leave_meanwhile_gets_no_further_network() -> None:
    seen = live(H1, H2, H3)
    second, third = Writer(H2), Writer(H3)
    second.sequence = 3  # of what `live` has written
    seen.update_view(lambda view: view.with_entries(third.put(host("h3"))))
    space: Any = Space()

    async def hand_over(network_id: NetworkId, successor: HostId) -> bool:
        space.asked.append((network_id, successor))
        seen.update_view(lambda view: view.with_entries(second.put(host("h2", going_down=True))))
        return True

    space.hand_over = hand_over
    trio.run(hand_on, seen, space, trio.lowlevel.checkpoint)
    assert [successor for _, successor in space.asked][:2] == [H2, H3]


def _who_leaves_at_once(cluster: Cluster, leaving: list[Host], rng: random.Random) -> Callable[..., Any]:
    """Has these hosts leave as Departure has them; what they say reaches others at moments that `rng` chooses."""

    async def wait_heard() -> None:
        for _ in range(rng.randrange(1, 5)):
            await trio.sleep(rng.uniform(0, 0.01))
        cluster.settle()

    async def leave(one: Host) -> None:
        await trio.sleep(rng.uniform(0, 0.02))
        async with one.allocator.space_requests.closed():
            await one.publisher.put(host(one.name, going_down=True))
            await wait_heard()
            seen: Any = _Seen(one)
            await hand_on(seen, one.allocator.grants, wait_heard)
            assert not await one.allocator.space_requests.top_up(N1)

    async def scenario() -> None:
        await cluster.create()
        for one in cluster.hosts:
            for other in cluster.hosts:
                member = Member(other.host_id, ("192.0.2.2", 7956), MemberState.ALIVE, 1)
                one.view = one.view.with_member(member)
        async with trio.open_nursery() as nursery:
            for one in leaving:
                nursery.start_soon(leave, one)
        cluster.settle()
        for one in cluster.hosts:
            assert (one.allocator.free_count(N1)[1] == 0) is (one in leaving)
        stay = [one for one in cluster.hosts if one not in leaving]
        counts = stay[0].allocator.allocations[N1].space.usable_counts()
        assert sum(counts[one.host_id] for one in stay) == 253, "all of it"

    return scenario


class _Seen:
    def __init__(self, one: Host) -> None:
        self._one = one

    @property
    def view(self) -> RegistryView:
        return self._one.view


@pytest.mark.parametrize("seed", range(30))
def test_hosts_that_leave_at_once_leave_nothing_to_each_other(seed: int) -> None:
    rng = random.Random(seed)
    cluster = Cluster(5)
    try:
        leaving = rng.sample(cluster.hosts, rng.randrange(1, 4))
        scenario = _who_leaves_at_once(cluster, leaving, rng)
        trio.run(scenario, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        cluster.close()


@virtual
async def test_what_is_being_asked_for_when_a_host_begins_to_leave_is_handed_on_as_well(
    make: Callable[..., Cluster],
) -> None:
    cluster = make(3)
    await cluster.create(shares=False)
    one, _, _ = cluster.hosts
    two: Any = cluster.hosts[1]
    at_the_other, answered = trio.Event(), trio.Event()
    ask: Ask = two.ask

    async def slow(host_id: HostId, payload: bytes) -> bytes | None:
        at_the_other.set()
        await answered.wait()
        return await ask(host_id, payload)

    two.ask = slow
    two.restart()
    cluster.settle()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(two.allocator.space_requests.top_up, N1)
        await at_the_other.wait()
        nursery.start_soon(_release_after, answered, 0.5)
        async with two.allocator.space_requests.closed():
            assert two.allocator.free_count(N1)[1] > 0, "it was waited for"
            assert await two.allocator.grants.hand_over(N1, one.host_id)
            assert not await two.allocator.space_requests.top_up(N1)
            assert two.allocator.free_count(N1)[1] == 0
    assert await two.allocator.space_requests.top_up(N1), "a leave that failed leaves a host that goes on"


async def _release_after(event: trio.Event, delay_s: float) -> None:
    await trio.sleep(delay_s)
    event.set()


def test_every_network_is_looked_at_again_and_again() -> None:
    async def scenario() -> None:
        with trio.move_on_after(TOP_UP_S + 1):
            await keep_prefetched(live(), space)

    space: Any = Space()
    trio.run(scenario, clock=trio.testing.MockClock(autojump_threshold=0))
    assert sorted(space.asked) == sorted([GONE, N1] * 2)
