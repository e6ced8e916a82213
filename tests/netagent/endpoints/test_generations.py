"""Hosts that come and are killed for good, generation after generation, without any command.

Real registry, allocator, eviction, auto-evict, cleanup and upkeep on every host, under virtual time. The host that
evicts is killed itself a little later: the ids are drawn, so the smallest one that lives is another one every time.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from fakes.agent_host import AgentHost, Fabric
from fakes.registry import event as event_of
from fakes.registry import host as host_record
from fakes.rows import reserve
from fakes.virtual import virtual

from netagent.daemon.own_records import OwnRecords
from netagent.errors import FailedError
from netagent.eviction.auto_evict import RETRY_S, AutoEviction
from netagent.eviction.cleanup import Cleanup
from netagent.eviction.downtime import Downtime
from netagent.eviction.evict import Eviction
from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import HostId, NetworkId
from netagent.model.records import ForgetRecord
from netagent.model.request import NetworkRequest
from netagent.registry.record_codec import encode
from netgossip.types import CLUSTER_SCOPE, EntriesChanged, Entry, MemberState

TOP_UP_S = 5.0
SUBNET = "10.1.0.0/22"
USABLE = 1024 - 3
FORGET_AFTER_S = 60.0


class Generations:
    """Those that live, on a fabric that they enter and leave."""

    def __init__(self, nursery: trio.Nursery, forget_after_s: float) -> None:
        self.nursery, self.forget_after_s = nursery, forget_after_s
        self.fabric = Fabric(nursery, 0)
        self.living = self.fabric.hosts
        self.lives: dict[HostId, trio.CancelScope] = {}
        self.numbers = list(range(1, 10_000))
        self.fabric.rng.shuffle(self.numbers)
        self.count = 0

    async def come(self) -> AgentHost:
        """One more host: it hears what those who live know, they hear of it, and its agent works."""
        one = AgentHost(self.numbers.pop(), self.fabric)
        one.name = f"h{one.host_id[-4:]}"
        one.allocator.space_requests._ask = functools.partial(self.ask, one)
        one.node.is_waited_for = lambda peer: any(other.host_id == peer for other in self.living)
        if self.living:
            for copy in copies(self.living[0]):
                one.hear(copy)
        for other in self.living:
            one.hear(whole(other))
            one.node.acknowledged[other.host_id] = other.node.acknowledged[one.host_id] = 0
            one.meet(other.host_id)
            other.meet(one.host_id)
            one.node.received[other.host_id] = other.node.head()
        one.meet(one.host_id)
        self.living.append(one)
        one.downtime = Downtime({})
        one.eviction = Eviction(one.live, one.publisher, one.node, one.allocator, one.downtime, one.flush)
        scope = trio.CancelScope()
        self.lives[one.host_id] = scope
        self.nursery.start_soon(self.live, one, scope)
        await one.publisher.put(host_record(one.name))
        return one

    async def live(self, one: AgentHost, scope: trio.CancelScope) -> None:
        with scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.upkeep_of(one).run)
                nothing: Any = NothingHeld()
                nursery.start_soon(Cleanup(one.live, nothing, nothing, nothing, one.flush).run)
                nursery.start_soon(self.vigil_of(one).run)
                while True:
                    for network_id in one.live.view.networks:
                        await one.allocator.space_requests.top_up(network_id)
                    await trio.sleep(TOP_UP_S)

    def upkeep_of(self, one: AgentHost) -> OwnRecords:
        return OwnRecords(
            live=one.live,
            publisher=one.publisher,
            allocator=one.allocator,
            undecided=lambda: one.networks.in_work,
            pursued=lambda: one.eviction.in_work,
        )

    def vigil_of(self, one: AgentHost) -> AutoEviction:
        return AutoEviction(
            live=one.live,
            journal=one.journal,
            eviction=one.eviction,
            downtime=one.downtime,
            forget_after_s=lambda: self.forget_after_s,
        )

    async def ask(self, asking: AgentHost, host_id: HostId, payload: bytes) -> bytes:
        await trio.sleep(self.fabric.latency_s())
        for other in self.living:
            if other.host_id == host_id:
                return await other.allocator.grants.answer_request(asking.host_id, payload)
        return await trio.sleep_forever()

    def kill(self, *gone: AgentHost) -> None:
        for one in gone:
            self.living.remove(one)
            self.lives.pop(one.host_id).cancel()
        for other in self.living:
            for one in gone:
                other.meet(one.host_id, MemberState.DEAD)

    async def attach(self, one: AgentHost) -> LocalEndpointRow:
        self.count += 1
        (network_id,) = one.live.view.networks
        return await reserve(one.allocator, f"{self.count:032x}", network_id, name=f"c{self.count}")


def whole(other: AgentHost) -> EntriesChanged:
    """All that a host has written for all."""
    log = other.node.own_logs.get(CLUSTER_SCOPE)
    entries = log.entries.values() if log else ()
    return event_of(other.host_id, *entries, replaced=True, scope=CLUSTER_SCOPE)


def copies(other: AgentHost) -> Iterator[EntriesChanged]:
    """What it holds of others, the dead among them."""
    for (scope, owner), log in other.live.view.store.records.items():
        if scope == CLUSTER_SCOPE and owner != other.host_id:
            entries = (
                Entry(scope, owner, key, encode(held.record), held.version) for key, held in log.items()
            )
            yield event_of(owner, *entries, replaced=True, scope=scope)


class NothingHeld:
    """The membership, the records and the journal of a host that cleans up; only the view is looked at here."""

    def members(self) -> dict[Any, Any]:
        return {}

    def scopes_of(self, node_id: str) -> frozenset[Any]:
        return frozenset()

    def drop_owner(self, node_id: str) -> None:
        pass

    def forget(self, node_id: str, now: float) -> None:
        pass

    def readmit_owner(self, node_id: Any) -> None:
        raise AssertionError("no host returns")

    def note_member_gone(self, node_id: str) -> None:
        pass


@virtual
async def check_generations(killed: int, at_once: int, forget_after_s: float = FORGET_AFTER_S) -> None:
    """So many hosts come, each with a container, and are killed, but for the last two; then one more comes."""
    with trio.fail_after(1_000_000):
        async with trio.open_nursery() as nursery:
            world = Generations(nursery, forget_after_s)
            await world.come()
            first = await world.come()
            made, _ = await first.networks.create(NetworkRequest(name="app", subnets=(SUBNET,)))
            gone: set[Any] = set()
            while len(gone) < killed:
                for _ in range(min(at_once, killed - len(gone))):
                    await world.attach(await world.come())
                    await trio.sleep(1)
                dying = world.living[: min(at_once, killed - len(gone))]
                world.kill(*dying)
                gone |= {one.host_id for one in dying}
                await trio.sleep(FORGET_AFTER_S + RETRY_S)
            last = await world.come()
            await world.attach(last)
            check_what_is_left(world, made.network_id, gone)
            nursery.cancel_scope.cancel()


def check_what_is_left(world: Generations, network_id: NetworkId, gone: set[HostId]) -> None:
    """Those who live own everything, each address once, and of the dead there is a note each."""
    assert len(world.living) == 3
    owners: dict[Any, Any] = {}
    for one in world.living:
        view = one.live.view
        view.check_invariants()
        assert set(view.hosts) == {other.host_id for other in world.living}
        assert set(view.evicted) == gone
        assert {owner for _, owner in view.store.records} <= {other.host_id for other in world.living}
        one.allocator.free_count(network_id)
        for held in one.allocator.allocations[network_id].pool.owned:
            for offset in range(held.first, held.last + 1):
                assert owners.setdefault(offset, one.name) == one.name
    assert len([offset for offset in owners if 2 <= offset <= 1022]) == USABLE
    written = [
        record for one in world.living for record in one.live.view.records_of(one.host_id, CLUSTER_SCOPE)
    ]
    assert sum(isinstance(record, ForgetRecord) for record in written) == len(gone)
    assert len(written) < len(gone) + 100, "the rest is of those who live"
    sizes = sum(len(encode(record)) for record in written if isinstance(record, ForgetRecord))
    assert sizes == 26 * len(gone), "what is left of a host is 26 bytes"


def test_a_hundred_hosts_that_came_and_were_killed_leave_room_for_one_more() -> None:
    check_generations(100, 20)


def test_where_no_host_is_forgotten_the_dead_keep_the_room() -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(FailedError, match="no free address"), flatten_subgroups=True):
        check_generations(100, 20, forget_after_s=0)


@pytest.mark.long
def test_five_hundred_hosts_that_came_and_were_killed_leave_room_for_one_more() -> None:
    check_generations(500, 25)
