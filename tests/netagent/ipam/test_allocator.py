"""Several hosts' allocators, wired by hand: records reach others only when a test delivers them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import random
from types import SimpleNamespace

import pytest
import trio
import trio.testing
from fakes.memory_journal import MemoryJournal
from fakes.record_node import FakeNode
from fakes.registry import N1, event, grant, host, identifier, network
from hypothesis import given, settings
from hypothesis import strategies as st

from netagent.errors import FailedError, InputError, NetagentError, NoError, RefusedError
from netagent.ipam.allocator import Allocator
from netagent.ipam.asking import ASK_TIMEOUT_S
from netagent.ipam.pool import COOL_DOWN_S
from netagent.ipam.request import SpaceRequest, encode_granted
from netagent.ipam.space import share_out
from netagent.model.records import ForgetRecord, HostAddressRecord, RemovalRecord
from netagent.registry.journal import DiskFullError
from netagent.registry.publish import Publisher
from netagent.registry.row import LocalEndpointRow, Stage
from netagent.registry.view import RegistryView
from netgossip.types import EntriesChanged, Member, MemberState, Version

WRONG_ANSWERS = [
    b"",
    b"\xff",
    encode_granted(grant(N1, 4, 7, identifier(9))),
    encode_granted(grant(identifier(0xA9), 4, 7, identifier(2))),
    encode_granted(grant(N1, 4, 4000, identifier(2))),
]


class Host:
    """One agent's allocator. Its journal outlives `restart`; what it heard from others does not."""

    def __init__(self, cluster, number):
        self.cluster, self.host_id, self.name = cluster, identifier(number), f"h{number}"
        self.journal = MemoryJournal()
        self.node = FakeNode(self.host_id)
        self.is_up = True
        self.restart()

    def restart(self):
        own = [
            event(self.host_id, *log.entries.values(), scope=log.scope)
            for log in self.node.logs.values()
            if log.entries
        ]
        self.view = RegistryView(self.host_id)
        for one in own:
            self.view = self.view.with_entries(one)
        self.heard = {self.host_id: len(self.node.heard)}
        publisher = Publisher(self.node, self.journal, self.hear_own)
        self.publisher = publisher
        self.allocator = Allocator(
            view=lambda: self.view,
            journal=self.journal,
            publisher=publisher,
            ask=self.ask,
            rows=self.journal.load_endpoints(),
        )

    def backup(self):
        """What a copy of the journal's file holds."""
        return self.journal.db.serialize(), dict(self.node.logs)

    def restore(self, backup):
        """A start from that copy, at which it hears all of the others, and they that its log begins anew."""
        copy, logs = backup
        self.journal.db.deserialize(copy)
        logs = [raised(log, self.node.logs[log.scope]) for log in logs.values()]
        self.node = FakeNode(self.host_id, logs)
        for log in logs:
            entries = tuple(log.entries.values())
            self.node.heard.append(
                EntriesChanged(log.scope, self.host_id, log.epoch, log.head, 0, entries, replaced=True)
            )
        self.restart()
        for other in self.cluster.hosts:
            other.heard[self.host_id] = 0
            other.hear(self)
            self.hear(other)

    def hear_own(self):
        self.hear(self)

    def hear(self, other):
        """Take in what another host has published so far."""
        start = self.heard.get(other.host_id, 0)
        for one in other.node.heard[start:]:
            self.view = self.view.with_entries(one)
        self.heard[other.host_id] = len(other.node.heard)

    async def ask(self, host_id, payload):
        await trio.lowlevel.checkpoint()
        self.cluster.questions += 1
        peer = self.cluster.by_id[host_id]
        if not peer.is_up:
            await trio.sleep_forever()
        return await peer.allocator.giving.answer_request(self.host_id, payload)

    async def attach(self, offset=None):
        self.cluster.count += 1
        row = LocalEndpointRow(
            endpoint_id=identifier(0xE000 + self.cluster.count), network_id=N1, name="web", service="web"
        )
        return await self.allocator.reserve(row, offset)


def raised(log, lost):
    """The log as its owner tells it again, above the past that it has lost."""
    entries = {
        key: dataclasses.replace(one, version=Version(lost.epoch + 1, number))
        for number, (key, one) in enumerate(log.entries.items(), 1)
    }
    return dataclasses.replace(log, epoch=lost.epoch + 1, head=len(entries), entries=entries)


class Cluster:
    def __init__(self, size, subnets=("10.1.0.0/24", "fd00:1::/64")):
        self.count = self.questions = 0
        self.hosts = [Host(self, number + 1) for number in range(size)]
        self.by_id = {one.host_id: one for one in self.hosts}
        self.subnets = subnets

    async def create(self, *, shares=True):
        first, *others = self.hosts
        await first.publisher.put(network(N1, subnets=self.subnets))
        if shares:
            count = 1 << (32 - int(self.subnets[0].partition("/")[2]))
            await first.publisher.put(*share_out(N1, count, [one.host_id for one in others]))
        for one in self.hosts:
            await one.publisher.put(host(one.name))
        self.settle()
        for one in self.hosts:
            await one.allocator.holdings.confirm(N1)
        self.settle()

    def settle(self):
        for one in self.hosts:
            for other in self.hosts:
                one.hear(other)

    def close(self):
        for one in self.hosts:
            one.journal.close()


def virtual(function):
    """Run an async test under virtual time; it gets a function that makes clusters."""

    @functools.wraps(function)
    def test(**parameters):
        clusters = []

        def make(*args, **options):
            clusters.append(Cluster(*args, **options))
            return clusters[-1]

        try:
            trio.run(
                functools.partial(function, make, **parameters),
                clock=trio.testing.MockClock(autojump_threshold=0),
            )
        finally:
            for one in clusters:
                one.close()

    names = list(inspect.signature(function).parameters.values())[1:]
    test.__signature__ = inspect.Signature(names)  # what pytest must give; `make` is ours
    return test


@virtual
async def test_a_row_is_filled_in_and_on_disk(make):
    cluster = make(1)
    await cluster.create()
    row = await cluster.hosts[0].attach()
    assert (row.offset, row.addresses, row.stage) == (2, ("10.1.0.2", "fd00:1::2"), Stage.RESERVED)
    assert row.mac == "02:00:00:00:00:02"
    assert cluster.hosts[0].journal.load_endpoints() == [row]


@virtual
async def test_a_mac_that_the_user_gave_stays(make):
    cluster = make(1)
    await cluster.create()
    row = LocalEndpointRow(
        endpoint_id=identifier(1), network_id=N1, name="w", service="w", mac="02:11:22:33:44:55"
    )
    assert (await cluster.hosts[0].allocator.reserve(row)).mac == "02:11:22:33:44:55"


@virtual
async def test_with_the_creator_gone_the_others_attach_at_once_and_differ(make):
    cluster = make(3)
    await cluster.create()
    cluster.hosts[0].is_up = False
    rows = [await one.attach() for one in cluster.hosts[1:] for _ in range(20)]
    assert len({row.offset for row in rows}) == 40
    assert cluster.questions == 0
    assert trio.current_time() == 0


@virtual
async def test_a_host_without_space_asks_and_uses_what_it_gets_at_once(make):
    cluster = make(2)
    await cluster.create(shares=False)
    row = await cluster.hosts[1].attach()
    assert row.offset >= 64
    assert cluster.questions == 1
    again = await cluster.hosts[1].attach()
    assert again.offset == row.offset + 1
    assert cluster.questions == 1


@virtual
async def test_tasks_that_run_out_together_ask_once(make):
    cluster = make(2)
    await cluster.create(shares=False)
    offsets = []

    async def attach():
        offsets.append((await cluster.hosts[1].attach()).offset)

    async with trio.open_nursery() as nursery:
        for _ in range(30):
            nursery.start_soon(attach)
    assert len(set(offsets)) == 30
    assert cluster.questions == 1


@virtual
async def test_a_network_can_be_filled_to_the_last_address_from_anywhere(make):
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
async def test_a_full_network_says_whom_it_asked(make):
    cluster = make(3, subnets=("10.1.0.0/27",))
    await cluster.create()
    for one in cluster.hosts:
        for _ in range(one.allocator.free_count(N1)[1]):
            await one.attach()
    with pytest.raises(RefusedError, match="asked h1: 0 of 15 free, h2: 0 of 7 free") as refused:
        await cluster.hosts[2].attach()
    assert refused.value.code == "subnet-full"


@virtual
async def test_who_does_not_answer_is_named_within_five_seconds(make):
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
async def test_a_host_that_is_declared_dead_is_not_waited_for(make):
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
async def test_those_who_live_are_asked_before_those_of_whom_nothing_is_known(make):
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
async def test_who_waited_for_another_s_question_tells_what_that_one_heard(make):
    cluster = make(2)
    await cluster.create(shares=False)
    cluster.hosts[0].is_up = False
    asking = cluster.hosts[1]
    async with trio.open_nursery() as nursery:
        for _ in range(4):  # they ask one after the other, 1.5 s each
            nursery.start_soon(asking.allocator.asking.top_up, N1)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(FailedError, match="asked h1: no answer"):
            await asking.attach()


@virtual
async def test_an_address_by_name(make):
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
async def test_an_address_that_a_host_has_itself_is_refused_by_its_name(make):
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
            RefusedError, match=f"10.1.0.{offset} is in use: {whose} has it itself"
        ) as refused:
            await asking.attach(offset)
        assert refused.value.code == "address-in-use"
    three.is_up = two.is_up = one.is_up = False
    with pytest.raises(RefusedError, match="host h1 has it itself"):
        await three.attach(2)


@virtual
async def test_released_addresses_cool_down_also_across_a_restart(make):
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
async def test_a_full_disk_leaves_no_trace(make):
    cluster = make(2)
    await cluster.create()
    one, two = cluster.hosts
    before = one.allocator.free_count(N1)
    one.journal.fail_with = DiskFullError("full")
    with pytest.raises(DiskFullError):
        await one.attach()
    with pytest.raises(DiskFullError):
        await one.allocator.giving.answer_request(two.host_id, SpaceRequest(N1, None, True).encode())
    one.journal.fail_with = None
    assert one.allocator.free_count(N1) == before
    assert one.journal.load_endpoints() == []


@virtual
async def test_unknown_and_removed_networks(make):
    cluster = make(2)
    await cluster.create()
    one, two = cluster.hosts
    row = await two.attach()
    await one.publisher.put(RemovalRecord(N1))
    cluster.settle()
    with pytest.raises(NoError):
        await two.attach()
    assert b"none" in await one.allocator.giving.answer_request(
        two.host_id, SpaceRequest(N1, None, True).encode()
    )
    await two.allocator.release(row)
    assert two.journal.load_endpoints() == []
    assert two.journal.load_cooling() == [], "it will never be used again"


@pytest.mark.parametrize("restarts", [False, True])
@virtual
async def test_nothing_is_kept_of_a_removed_network(make, restarts):
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
    assert not one.allocator.holdings._known
    assert not one.allocator.holdings._cooling


@virtual
async def test_a_network_removed_while_an_address_of_it_is_released(make, monkeypatch):
    cluster = make(1)
    await cluster.create()
    (one,) = cluster.hosts
    row = await one.attach()
    write = one.journal.transaction

    async def remove_first(statements):
        monkeypatch.undo()
        await one.publisher.put(RemovalRecord(N1))
        cluster.settle()
        one.allocator.forget_removed()
        return await write(statements)

    monkeypatch.setattr(one.journal, "transaction", remove_first)
    await one.allocator.release(row)
    assert one.journal.load_cooling() == []


@virtual
async def test_a_network_removed_while_asking(make):
    cluster = make(2)
    await cluster.create(shares=False)
    one, two = cluster.hosts

    async def remove_first(peer, payload):
        answer = await one.allocator.giving.answer_request(peer, payload)
        await one.publisher.put(RemovalRecord(N1))
        two.hear(one)
        return answer

    with pytest.MonkeyPatch.context() as patch:
        giving = SimpleNamespace(answer_request=remove_first)
        removing = SimpleNamespace(is_up=True, allocator=SimpleNamespace(giving=giving))
        patch.setattr(cluster, "by_id", {one.host_id: removing})
        with pytest.raises(NoError):
            await two.attach()
    assert two.journal.load_endpoints() == []


@virtual
@pytest.mark.parametrize("answer", WRONG_ANSWERS)
async def test_a_peer_that_answers_wrongly_is_named_and_not_asked_for_ever(make, answer):
    cluster = make(2)
    await cluster.create(shares=False)
    one, two = cluster.hosts

    async def lie(peer, payload):
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one.allocator.giving, "answer_request", lie)
        with pytest.raises(NetagentError, match="asked h1: answered wrongly"):
            await two.attach()
    assert cluster.questions == 1
    assert two.allocator.free_count(N1) == (0, 0)


@virtual
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (encode_granted(grant(N1, 4, 7, identifier(2))), "which gave another one"),
        (b"", "which answered wrongly"),
    ],
)
async def test_an_address_that_its_owner_did_not_give_is_not_taken(make, answer, why):
    cluster = make(2)
    await cluster.create(shares=False)
    one, two = cluster.hosts

    async def give_another(peer, payload):
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one.allocator.giving, "answer_request", give_another)
        with pytest.raises(FailedError, match=f"10.1.0.200 belongs to host h1, {why}") as caught:
            await two.attach(200)
    assert caught.value.code == "space-unreachable"
    assert not two.journal.load_endpoints()


@virtual
async def test_topping_up_ahead_of_need(make):
    cluster = make(2, subnets=("10.1.0.0/26",))
    await cluster.create()
    one, two = cluster.hosts
    free, usable = two.allocator.free_count(N1)
    assert not await two.allocator.asking.top_up(N1)
    for _ in range(free - usable // 4):
        await two.attach()
    assert await two.allocator.asking.top_up(N1)
    assert two.allocator.free_count(N1)[1] > usable
    assert not await one.allocator.asking.top_up(N1)


@virtual
async def test_two_hosts_that_are_short_do_not_trade_for_ever(make):
    cluster = make(2, subnets=("10.1.0.0/26",))
    await cluster.create()
    for _ in range(100):
        for one in cluster.hosts:
            while one.allocator.free_count(N1)[0] > 2:
                await one.attach()
            await one.allocator.asking.top_up(N1)
            cluster.settle()
    assert cluster.questions < 20, "after a refusal there is a pause"


@virtual
async def test_a_host_that_leaves_hands_on_all_it_owns(make):
    cluster = make(3)
    await cluster.create()
    one, two, three = cluster.hosts
    before = three.allocator.free_count(N1)[1]
    given = two.allocator.free_count(N1)[1]
    await two.allocator.giving.surrender(N1, three.host_id)
    cluster.settle()
    assert two.allocator.free_count(N1) == (0, 0)
    await three.allocator.holdings.confirm(N1)
    assert three.allocator.free_count(N1)[1] == before + given
    assert one.allocator.free_count(N1)[1] == 253 - before - given


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.sampled_from([("10.1.0.0/28",), ("10.1.0.0/26",)]))
def test_no_two_endpoints_ever_share_an_address(seed, subnets):
    """Random attaches, detaches, crashes, late news and full disks on four hosts."""
    cluster = Cluster(4, subnets)
    try:
        trio.run(_churn, cluster, random.Random(seed), clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        cluster.close()


async def _churn(cluster, rng):
    await cluster.create(shares=rng.random() < 0.7)
    for _ in range(60):
        one, other = rng.sample(cluster.hosts, 2)
        match rng.choice(
            ["attach", "attach", "attach", "static", "detach", "crash", "news", "power", "disk", "top-up"]
        ):
            case "attach" | "static" as how:
                with contextlib.suppress(RefusedError, FailedError, NoError):
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
                    await one.allocator.asking.top_up(N1)
        offsets = [row.offset for each in cluster.hosts for row in each.journal.load_endpoints()]
        assert len(offsets) == len(set(offsets)), f"an address was given twice: {sorted(offsets)}"
    cluster.settle()
    views = {dataclasses.astuple(space) for each in cluster.hosts if (space := _space(each)) is not None}
    assert len(views) == 1, "hosts that know the same disagree on who owns what"


def _space(one):
    one.allocator.free_count(N1)
    return one.allocator.holdings[N1].space


@settings(max_examples=60)
@given(st.integers(0, 2**32))
def test_a_host_restored_from_a_backup_gives_nothing_twice_once_it_has_heard_the_others(seed):
    """Whatever it handed on since the backup: who got it has repeated the grant in a log of its own."""
    cluster = Cluster(4, ("10.1.0.0/26",))
    try:
        trio.run(_restore, cluster, random.Random(seed), clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        cluster.close()


async def _restore(cluster, rng):
    await cluster.create(shares=rng.random() < 0.5)
    backups = {one: one.backup() for one in cluster.hosts}
    running = {}  # endpoint -> its host and address
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
                await one.allocator.asking.top_up(N1)
            case "backup":
                backups[one] = one.backup()
            case "restore":
                one.restore(backups[one])
                await one.allocator.holdings.confirm(N1)
                # The janitor: attached since then loses its interface, detached since has none.
                known = {row.endpoint_id: row for row in one.journal.load_endpoints()}
                running = {e: place for e, place in running.items() if place[0] is not one or e in known}
                for endpoint_id, row in known.items():
                    if endpoint_id not in running:
                        await one.allocator.release(row)
        cluster.settle()


@virtual
async def test_who_is_about_to_be_forgotten_is_given_nothing(make):
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
