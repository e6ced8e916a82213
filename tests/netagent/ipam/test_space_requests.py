"""Which hosts are asked for space, when, for how long, and what the error says of those that gave none."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
from fakes.allocators import Cluster, virtual
from fakes.registry import N1, grant, identifier

from netagent.errors import FailedError, NetagentError, NotFoundError, RefusedError
from netagent.ipam.messages import encode_granted
from netagent.ipam.space_requests import ASK_ONE_TIMEOUT_S, ASK_TIMEOUT_S, SILENT_S
from netagent.model.ids import HostId, NetworkId
from netagent.model.records import RemovalRecord
from netgossip.types import Member, MemberState

WRONG_ANSWERS = [
    b"",
    b"\xff",
    encode_granted(grant(N1, 4, 7, HostId(identifier(9)))),
    encode_granted(grant(NetworkId(identifier(0xA9)), 4, 7, HostId(identifier(2)))),
    encode_granted(grant(N1, 4, 4000, HostId(identifier(2)))),
]


@virtual
async def test_a_host_without_space_asks_and_uses_what_it_gets_at_once(make: Callable[..., Cluster]) -> None:
    cluster = make(2)
    await cluster.create(shares=False)
    row = await cluster.hosts[1].attach()
    assert row.offset >= 64
    assert cluster.questions == 1
    again = await cluster.hosts[1].attach()
    assert again.offset == row.offset + 1
    assert cluster.questions == 1


@virtual
async def test_tasks_that_run_out_together_ask_once(make: Callable[..., Cluster]) -> None:
    cluster = make(2)
    await cluster.create(shares=False)
    offsets = []

    async def attach() -> None:
        offsets.append((await cluster.hosts[1].attach()).offset)

    async with trio.open_nursery() as nursery:
        for _ in range(30):
            nursery.start_soon(attach)
    assert len(set(offsets)) == 30
    assert cluster.questions == 1


@virtual
async def test_a_full_network_says_whom_it_asked(make: Callable[..., Cluster]) -> None:
    cluster = make(3, subnets=("10.1.0.0/27",))
    await cluster.create()
    for one in cluster.hosts:
        for _ in range(one.allocator.free_count(N1)[1]):
            await one.attach()
    with pytest.raises(RefusedError, match="asked h1: 0 of 15 free, h2: 0 of 7 free") as refused:
        await cluster.hosts[2].attach()
    assert refused.value.code == "subnet-full"


@virtual
async def test_who_does_not_answer_is_named_within_five_seconds(make: Callable[..., Cluster]) -> None:
    cluster = make(6)
    await cluster.create(shares=False)
    for one in cluster.hosts[1:]:
        await one.attach()
    cluster.settle()
    for one in cluster.hosts:
        one.is_up = one is cluster.hosts[1]
    while cluster.hosts[1].allocator.free_count(N1)[0]:
        await cluster.hosts[1].attach()
    with pytest.raises(FailedError, match="h1: no answer") as failed:
        await cluster.hosts[1].attach()
    assert failed.value.code == "space-unreachable"
    assert trio.current_time() <= ASK_TIMEOUT_S


@virtual
async def test_a_host_that_is_declared_dead_is_not_waited_for(make: Callable[..., Cluster]) -> None:
    cluster = make(2)
    await cluster.create(shares=False)
    asking = cluster.hosts[1]
    asking.view = asking.view.with_member(
        Member(cluster.hosts[0].host_id, ("192.0.2.1", 1), MemberState.DEAD, 1)
    )
    with pytest.raises(FailedError, match="h1: no answer"):
        await asking.attach()
    assert cluster.questions == 0


@virtual
async def test_those_who_live_are_asked_before_those_of_whom_nothing_is_known(
    make: Callable[..., Cluster],
) -> None:
    cluster = make(3)
    await cluster.create()
    h1, h2, h3 = cluster.hosts
    while h3.allocator.free_count(N1)[0]:
        await h3.attach()
    h1.is_up = False  # it has most
    h3.view = h3.view.with_member(Member(h2.host_id, ("192.0.2.2", 1), MemberState.ALIVE, 1))
    await h3.attach()
    assert trio.current_time() == 0


@virtual
async def test_who_did_not_answer_is_asked_last_for_a_while(make: Callable[..., Cluster]) -> None:
    """A host has lost power, and many containers start elsewhere instead: not each of them waits for it."""
    cluster = make(3)
    await cluster.create()
    h1, _, h3 = cluster.hosts
    h1.is_up = False  # it has most, and no host knows yet that it is dead
    asked: list[Any] = []
    while len(asked) < 4:
        before, began = cluster.questions, trio.current_time()
        await h3.attach()
        if cluster.questions > before:
            asked.append(trio.current_time() - began)
        cluster.settle()
    assert asked == [ASK_ONE_TIMEOUT_S, 0, 0, 0]
    await trio.sleep(SILENT_S)
    h1.is_up = True
    while h3.allocator.free_count(N1)[0]:
        await h3.attach()
    before = cluster.questions
    await h3.attach()
    assert cluster.questions == before + 1, "the one with most is asked first again"


@virtual
async def test_an_attach_that_waited_for_another_request_reports_that_ones_answers(
    make: Callable[..., Cluster],
) -> None:
    cluster = make(2)
    await cluster.create(shares=False)
    cluster.hosts[0].is_up = False
    asking = cluster.hosts[1]
    async with trio.open_nursery() as nursery:
        for _ in range(4):  # they ask one after the other, 1.5 s each
            nursery.start_soon(asking.allocator.space_requests.top_up, N1)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(FailedError, match="asked h1: no answer"):
            await asking.attach()


@virtual
async def test_a_network_removed_while_asking(make: Callable[..., Cluster]) -> None:
    cluster = make(2)
    await cluster.create(shares=False)
    one, two = cluster.hosts

    async def remove_first(peer: HostId, payload: bytes) -> bytes | None:
        answer = await one.allocator.grants.answer_request(peer, payload)
        await one.publisher.put(RemovalRecord(N1))
        two.hear(one)
        return answer

    with pytest.MonkeyPatch.context() as patch:
        giving = SimpleNamespace(answer_request=remove_first)
        removing = SimpleNamespace(is_up=True, allocator=SimpleNamespace(grants=giving))
        patch.setattr(cluster, "by_id", {one.host_id: removing})
        with pytest.raises(NotFoundError):
            await two.attach()
    assert two.journal.load_endpoints() == []


@virtual
@pytest.mark.parametrize("answer", WRONG_ANSWERS)
async def test_a_peer_that_answers_wrongly_is_named_and_not_asked_for_ever(
    make: Callable[..., Cluster], answer: bytes
) -> None:
    cluster = make(2)
    await cluster.create(shares=False)
    one, two = cluster.hosts

    async def lie(peer: HostId, payload: bytes) -> bytes:
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one.allocator.grants, "answer_request", lie)
        with pytest.raises(NetagentError, match="asked h1: answered wrongly"):
            await two.attach()
    assert cluster.questions == 1
    assert two.allocator.free_count(N1) == (0, 0)


@virtual
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (encode_granted(grant(N1, 4, 7, HostId(identifier(2)))), "which gave another address"),
        (b"", "which answered wrongly"),
    ],
)
async def test_an_address_that_its_owner_did_not_give_is_not_taken(
    make: Callable[..., Cluster], answer: bytes, why: str
) -> None:
    cluster = make(2)
    await cluster.create(shares=False)
    one, two = cluster.hosts

    async def give_another(peer: HostId, payload: bytes) -> bytes:
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one.allocator.grants, "answer_request", give_another)
        with pytest.raises(FailedError, match=f"10.1.0.200 belongs to host h1, {why}") as caught:
            await two.attach(200)
    assert caught.value.code == "space-unreachable"
    assert not two.journal.load_endpoints()


@virtual
async def test_topping_up_ahead_of_need(make: Callable[..., Cluster]) -> None:
    cluster = make(2, subnets=("10.1.0.0/26",))
    await cluster.create()
    one, two = cluster.hosts
    free, usable = two.allocator.free_count(N1)
    assert not await two.allocator.space_requests.top_up(N1)
    for _ in range(free - usable // 4):
        await two.attach()
    assert await two.allocator.space_requests.top_up(N1)
    assert two.allocator.free_count(N1)[1] > usable
    assert not await one.allocator.space_requests.top_up(N1)
