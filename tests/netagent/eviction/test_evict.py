"""Evicting hosts that are gone for good, on hosts that exchange records with a latency."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
from fakes.agent_host import AgentHost, Fabric
from fakes.external import alias, service, service_id, state
from fakes.rows import reserve
from fakes.virtual import virtual
from trio import Nursery

from netagent.daemon.own_records import OwnRecords
from netagent.errors import InputError, NotFoundError, RefusedError
from netagent.eviction.auto_evict import LEFT_S, AutoEviction
from netagent.eviction.evict import REVOKE_S
from netagent.external.view import external_service, own_names
from netagent.model.ids import HostId, KeyId, NetworkId
from netagent.model.records import AttachmentRecord, ForgetRecord, RemovalRecord
from netagent.model.request import NetworkRequest
from netagent.registry.view import RegistryView, compromised_keys
from netagent.registry.views import NetworkView
from netgossip.types import CLUSTER_SCOPE, MemberState

APP = NetworkRequest(name="app", subnets=("10.1.0.0/24",))


def named(view: RegistryView, name: str) -> NetworkView:
    found = view.network_named(name)
    assert found is not None
    return found


class Cluster:
    """Hosts with everything that eviction needs, and their background tasks."""

    def __init__(self, nursery: Nursery, size: int) -> None:
        self.fabric = Fabric(nursery, size)
        self.hosts = self.fabric.hosts
        self.alive = {one.host_id for one in self.hosts}
        for one in self.hosts:
            one.node.is_waited_for = partial(self._is_live, one)
            nursery.start_soon(self._keep_up, one)

    @staticmethod
    def _is_live(one: AgentHost, peer: str) -> bool:
        hosts = one.live.view.hosts
        return peer in hosts and hosts[HostId(peer)].is_live

    @staticmethod
    async def _keep_up(one: AgentHost) -> None:
        upkeep = OwnRecords(
            live=one.live,
            publisher=one.publisher,
            allocator=one.allocator,
            undecided=lambda: one.networks.in_work,
            pursued=lambda: one.eviction.in_work,
        )
        await upkeep.run()

    def kill(self, *gone: AgentHost) -> None:
        """All other hosts see that their agents and kernels are silent."""
        self.alive -= {one.host_id for one in gone}
        for one in self.hosts:
            if one.host_id not in self.alive:
                continue
            for other in gone:
                one.meet(other.host_id, MemberState.DEAD)
                one.live.update_view(lambda view: view.with_host_answers({other.host_id: False}))
                one.downtime.note(one.live.view, trio.current_time())

    async def calm(self) -> None:
        while any(one.node.unacknowledged(CLUSTER_SCOPE) for one in self.hosts if one.host_id in self.alive):
            await trio.sleep(0.01)
        await trio.sleep(0.1)

    def owners(self, network_id: NetworkId) -> dict[str, int]:
        """How many addresses each host believes it owns; no two hosts may believe the same."""
        believed: dict[int, str] = {}
        for one in self.hosts:
            if one.host_id in self.alive:
                one.allocator.free_count(network_id)
                for held in one.allocator.allocations[network_id].pool.owned:
                    for offset in range(held.first, held.last + 1):
                        assert believed.setdefault(offset, one.name) == one.name
        return {one.name: list(believed.values()).count(one.name) for one in self.hosts}


def on_hosts(size: int) -> Callable[[Callable[[Cluster], Awaitable[None]]], Callable[[], None]]:
    """Run a test with a cluster of `count` hosts, under virtual time."""

    def decorate(test: Callable[[Cluster], Awaitable[None]]) -> Callable[[], None]:
        @virtual
        async def run() -> None:
            with trio.fail_after(80_000):
                async with trio.open_nursery() as nursery:
                    cluster = Cluster(nursery, size)
                    await cluster.fabric.tell_hosts()
                    await test(cluster)
                    nursery.cancel_scope.cancel()

        run.__name__ = test.__name__
        return run

    return decorate


def evictions(host: AgentHost) -> set[tuple[str, bool]]:
    own = host.live.view.records_of(host.host_id, CLUSTER_SCOPE)
    return {(one.host_id, one.settled) for one in own if isinstance(one, ForgetRecord)}


@on_hosts(4)
async def test_the_writer_takes_over_all_that_the_host_owned(cluster: Cluster) -> None:
    h1, h2, h3, _ = cluster.hosts
    made, _ = await h3.networks.create(APP)  # the creator itself is to go
    await cluster.calm()
    before = cluster.owners(made.network_id)
    cluster.kill(h3)
    done = await h2.eviction.forget(["h3"], dead_for_s=0, force=False)
    await cluster.calm()
    assert [host.host_id for host in done.hosts] == [h3.host_id]
    after = cluster.owners(made.network_id)
    assert after["h2"] == before["h2"] + before["h3"]
    assert sum(after.values()) == sum(before.values())
    assert done.address_count >= before["h3"] - 3
    for one in (h1, h2, cluster.hosts[3]):
        view = one.live.view
        assert h3.host_id not in view.hosts
        assert view.is_host_hidden(h3.host_id)
        assert named(view, "app").owner == h2.host_id
        view.check_invariants()


@on_hosts(3)
async def test_what_is_left_of_the_space_is_one_record_for_each_range(cluster: Cluster) -> None:
    h1, _, h3 = cluster.hosts
    made, _ = await h1.networks.create(APP)
    await cluster.calm()
    cluster.kill(h3)
    await h1.eviction.forget(["h3"], dead_for_s=0, force=False)
    await cluster.calm()
    own = [
        grant
        for (writer, _), grant in h1.live.view.grant_map(made.network_id).items()
        if writer == h1.host_id
    ]
    assert {grant.to for grant in own} == {h1.host_id, cluster.hosts[1].host_id}
    assert len(own) == 2, "the grant to h3 says nothing any more"


@on_hosts(3)
async def test_a_host_that_is_silent_to_several_is_evicted_before_it_is_silent_to_us(
    cluster: Cluster,
) -> None:
    h1, _, h3 = cluster.hosts
    cluster.kill(h3)
    view = h1.live.view.with_host_answers({h3.host_id: True})
    h1.live.update_view(lambda _: view.with_silent(frozenset({h3.host_id})))
    await h1.eviction.forget(["h3"], dead_for_s=0, force=False)
    assert h3.host_id in h1.live.view.evicted


@on_hosts(3)
async def test_a_live_host_is_not_evicted(cluster: Cluster) -> None:
    h1, h2, h3 = cluster.hosts
    with pytest.raises(RefusedError, match="agent of h2 is alive"):
        await h1.eviction.forget(["h2"], dead_for_s=0, force=False)
    cluster.kill(h3)
    h1.live.update_view(lambda view: view.with_host_answers({h3.host_id: True}))
    with pytest.raises(RefusedError, match="its kernel answers"):
        await h1.eviction.forget(["h3"], dead_for_s=0, force=False)
    with pytest.raises(InputError, match="is this host"):
        await h1.eviction.forget(["h1"], dead_for_s=0, force=True)
    with pytest.raises(NotFoundError, match="no host 'h9'"):
        await h1.eviction.forget(["h9"], dead_for_s=0, force=False)
    assert not h1.live.view.evicted
    assert not evictions(h1)
    await h1.eviction.forget(["h2"], dead_for_s=0, force=True)
    await cluster.calm()
    assert h2.host_id in h2.live.view.evicted, "it learns of it"
    assert h2.live.view.hosts[h2.host_id].record, "and still sees what it has to end"


@on_hosts(3)
async def test_only_hosts_that_were_silent_for_long_enough_are_evicted(cluster: Cluster) -> None:
    h1, h2, h3 = cluster.hosts
    cluster.kill(h3)
    await trio.sleep(3600)
    with pytest.raises(RefusedError, match="h3 has been silent for 3600 s, less than the 7200 s"):
        await h1.eviction.forget(["h3"], dead_for_s=7200, force=True)
    cluster.kill(h2)
    done = await h1.eviction.forget([], dead_for_s=3000, force=False)
    assert [host.host_id for host in done.hosts] == [h3.host_id], "without names: all that were"
    assert not (await h1.eviction.forget([], dead_for_s=3000, force=False)).hosts


@on_hosts(4)
async def test_a_live_host_that_does_not_acknowledge_stops_it(cluster: Cluster) -> None:
    h1, h2, h3, h4 = cluster.hosts
    made, _ = await h1.networks.create(APP)
    await cluster.calm()
    cluster.kill(h4)
    h1.node.acknowledged[h3.host_id] = 0
    cluster.fabric.loses = lambda sender, target: target is h3
    with pytest.raises(RefusedError, match="h3 did not acknowledge within 5 s"):
        await h1.eviction.forget(["h4"], dead_for_s=0, force=False)
    await trio.sleep(1)
    assert not h2.live.view.evicted
    assert not evictions(h1)
    done = await h1.eviction.forget(["h4"], dead_for_s=0, force=True)
    assert done.unheard == ("h3",)
    assert h4.host_id in h1.live.view.evicted
    cluster.alive.discard(h3.host_id)
    assert cluster.owners(made.network_id)["h1"] > 100


@on_hosts(5)
async def test_of_several_at_once_the_smallest_id_is_the_successor(cluster: Cluster) -> None:
    made, _ = await cluster.hosts[0].networks.create(APP)
    await cluster.calm()
    before = cluster.owners(made.network_id)
    cluster.kill(cluster.hosts[4])
    successors = cluster.hosts[1:4]
    async with trio.open_nursery() as nursery:
        for one in reversed(successors):
            nursery.start_soon(partial(one.eviction.forget, ["h5"], dead_for_s=0, force=False))
    await cluster.calm()
    words = {one.name: evictions(one) for one in cluster.hosts[:4]}
    settled = [name for name, said in words.items() if (cluster.hosts[4].host_id, True) in said]
    assert settled == ["h2"]
    assert all(is_settled for said in words.values() for _, is_settled in said), "the others took theirs back"
    after = cluster.owners(made.network_id)
    assert after["h2"] == before["h2"] + before["h5"]


@on_hosts(4)
async def test_the_successor_of_a_successor_keeps_everything_that_the_cluster_needs(cluster: Cluster) -> None:
    h1, h2, h3, h4 = cluster.hosts
    made, _ = await h4.networks.create(APP)
    old, _ = await h4.networks.create(NetworkRequest(name="old"))
    await h4.networks.remove("old", force=True)
    await cluster.calm()
    before = sum(cluster.owners(made.network_id).values())
    for gone, successor in ((h4, h3), (h3, h2)):
        cluster.kill(gone)
        await successor.eviction.forget([gone.name], dead_for_s=0, force=False)
        await cluster.calm()
    for one in (h1, h2):
        view = one.live.view
        assert set(view.evicted) == {h3.host_id, h4.host_id}
        assert view.is_removed(old.network_id)
        assert named(view, "app").network_id == made.network_id
        # Everything holds when all that the two wrote is dropped.
        bare = view.without_host(h3.host_id).without_host(h4.host_id)
        assert set(bare.evicted) == {h3.host_id, h4.host_id}
        assert bare.is_removed(old.network_id)
        assert named(bare, "app").record.revision == 2
        one.live.update_view(lambda _: bare)
    assert sum(cluster.owners(made.network_id).values()) == before
    assert RemovalRecord(old.network_id) in h2.live.view.records_of(h2.host_id, CLUSTER_SCOPE)


@on_hosts(3)
async def test_a_network_whose_only_hosts_are_evicted_can_be_removed(cluster: Cluster) -> None:
    h1, _, h3 = cluster.hosts
    made, _ = await h3.networks.create(APP)
    await h3.publisher.put(AttachmentRecord(made.network_id))
    await cluster.calm()
    cluster.kill(h3)
    await h1.eviction.forget(["h3"], dead_for_s=0, force=False)
    assert not h1.live.view.attachments(made.network_id)
    await h1.networks.remove("app", force=False)
    assert h1.live.view.is_removed(made.network_id)


def auto_eviction(host: AgentHost, after_s: int) -> AutoEviction:
    return AutoEviction(
        live=host.live,
        journal=host.journal,
        eviction=host.eviction,
        downtime=host.downtime,
        forget_after_s=lambda: after_s,
    )


@on_hosts(4)
async def test_a_host_that_is_silent_for_long_is_evicted_by_the_smallest_id(cluster: Cluster) -> None:
    *rest, h4 = cluster.hosts
    async with trio.open_nursery() as nursery:
        for one in rest:
            nursery.start_soon(auto_eviction(one, 1000).run)
        cluster.kill(h4)
        await trio.sleep(990)
        assert not rest[0].live.view.evicted
        await trio.sleep(20)
        assert set(rest[2].live.view.evicted) == {h4.host_id}
        assert set(rest[2].live.view.evicted[h4.host_id]) == {rest[0].host_id}
        nursery.cancel_scope.cancel()


@on_hosts(2)
async def test_a_host_that_is_alone_evicts_only_hosts_that_left(cluster: Cluster) -> None:
    h1, h2 = cluster.hosts
    async with trio.open_nursery() as nursery:
        nursery.start_soon(auto_eviction(h1, 1000).run)
        cluster.kill(h2)
        await trio.sleep(5000)
        assert not h1.live.view.evicted, "perhaps it is we who are cut off"
        h1.meet(h2.host_id, MemberState.LEFT)
        await trio.sleep(LEFT_S + 10)
        assert set(h1.live.view.evicted) == {h2.host_id}
        nursery.cancel_scope.cancel()


@on_hosts(3)
async def test_never_means_never(cluster: Cluster) -> None:
    h1, h2, h3 = cluster.hosts
    async with trio.open_nursery() as nursery:
        nursery.start_soon(auto_eviction(h1, 0).run)
        cluster.kill(h3)
        h1.meet(h2.host_id, MemberState.ALIVE)
        await trio.sleep(70_000)
        assert not h1.live.view.evicted
        nursery.cancel_scope.cancel()


@on_hosts(3)
async def test_addresses_that_were_inherited_are_handed_out(cluster: Cluster) -> None:
    h1, h2, h3 = cluster.hosts
    made, _ = await h1.networks.create(NetworkRequest(name="app", subnets=("10.1.0.0/28",)))
    await cluster.calm()
    cluster.kill(h2, h3)
    await h1.eviction.forget(["h2", "h3"], dead_for_s=0, force=False)
    taken = set()
    for number in range(13):
        taken.add((await reserve(h1.allocator, f"{number:032x}", made.network_id)).offset)
    assert taken == set(range(2, 15))


@on_hosts(3)
async def test_of_two_that_evicted_each_other_a_third_evicts_the_one_that_is_gone(cluster: Cluster) -> None:
    h1, h2, h3 = cluster.hosts
    made, _ = await h1.networks.create(APP)
    await cluster.calm()
    before = cluster.owners(made.network_id)
    reported = {one: len(one.node.heard) for one in (h1, h2)}
    cluster.fabric.loses = lambda sender, target: True
    for one, other in ((h1, h2), (h2, h1)):
        for gone in (other, h3):
            one.meet(gone.host_id, MemberState.DEAD)
            one.live.update_view(lambda view: view.with_host_answers({gone.host_id: False}))
        await one.eviction.forget([other.name], dead_for_s=0, force=True)
    # The partition ends; h2 sends its eviction, and is gone for good before it receives any record.
    cluster.fabric.loses = lambda sender, target: False
    h1.meet(h3.host_id, MemberState.ALIVE)
    for sender, hearers in ((h2, (h1, h3)), (h1, (h3,))):
        for said in sender.node.heard[reported[sender] :]:
            for one in hearers:
                one.hear(said)
                one.node.received[sender.host_id] = sender.node.head()
    cluster.kill(h2)
    await trio.sleep(1)
    for one in (h1, h3):
        assert not one.live.view.evicted, "neither word counts"
    with pytest.raises(RefusedError, match="on another host; if there is none, let one join") as refused:
        await h1.eviction.forget(["h2"], dead_for_s=0, force=True)
    assert refused.value.code == "contested"
    await h3.eviction.forget(["h2"], dead_for_s=0, force=False)
    await trio.sleep(1)
    for one in (h1, h3):
        assert set(one.live.view.evicted) == {h2.host_id}
    assert sum(cluster.owners(made.network_id).values()) == sum(before.values()), (
        "all of the space has an owner"
    )


@on_hosts(5)
async def test_hosts_that_fell_silent_together_are_evicted_together(cluster: Cluster) -> None:
    """What one of them had handed to another may be known to no other host."""
    h1, _, h3, h4, h5 = cluster.hosts
    cluster.kill(h5)
    await trio.sleep(60)
    cluster.kill(h3, h4)
    await trio.sleep(60)
    for names in (["h3"], ["h4"], ["h4", "h5"]):
        with pytest.raises(
            RefusedError, match=r"h[34] fell silent together with h[34], and may hold"
        ) as refused:
            await h1.eviction.forget(names, dead_for_s=0, force=False)
        assert refused.value.code == "not-alone"
    assert not evictions(h1)
    assert not (await h1.eviction.forget_these({h3.host_id})).hosts, "nor by itself"
    done = await h1.eviction.forget_these({h3.host_id, h5.host_id})
    assert [host.host_id for host in done.hosts] == [h5.host_id], "who died alone is not held up"
    done = await h1.eviction.forget(["h3", "h4"], dead_for_s=0, force=False)
    assert {host.host_id for host in done.hosts} == {h3.host_id, h4.host_id}


@on_hosts(4)
async def test_a_successor_is_evicted_together_with_the_host_that_it_was_about_to_evict(
    cluster: Cluster,
) -> None:
    """It may have gone on, without another host knowing."""
    h1, h2, h3, h4 = cluster.hosts
    cluster.kill(h4)
    await trio.sleep(60)
    await h3.eviction._intend({h4.host_id})
    await trio.sleep(60)
    assert h1.live.view.about_to_evict(h4.host_id) == {h3.host_id}
    cluster.kill(h3)
    await trio.sleep(60)
    with pytest.raises(RefusedError, match="h3 was about to forget h4 when it went away") as refused:
        await h1.eviction.forget(["h3"], dead_for_s=0, force=False)
    assert refused.value.code == "not-alone"
    assert not (await h2.eviction.forget_these({h3.host_id})).hosts, "nor by itself"
    done = await h1.eviction.forget(["h3", "h4"], dead_for_s=0, force=False)
    assert {host.host_id for host in done.hosts} == {h3.host_id, h4.host_id}


@on_hosts(4)
async def test_a_host_that_is_known_to_return_is_overruled_by_force(cluster: Cluster) -> None:
    h1, _, h3, h4 = cluster.hosts
    cluster.kill(h3, h4)
    await trio.sleep(60)
    await h1.eviction.forget(["h3"], dead_for_s=0, force=True)
    assert set(h1.live.view.evicted) == {h3.host_id}


@on_hosts(3)
async def test_what_operators_added_outlives_the_host_where_they_did(cluster: Cluster) -> None:
    h1, h2, h3 = cluster.hosts
    made, _ = await h1.networks.create(APP)
    place = made.network_id
    await h3.publisher.put(
        service(1, place), service(2, place, ttl_s=30), alias(1, network_id=place, place=place)
    )
    await h3.publisher.put(dataclasses.replace(state(2, 1, place), expired_s=9))
    await cluster.calm()
    cluster.kill(h3)
    for host in (h1, h2):
        found = external_service(host.live.view, place, service_id(1))
        assert found is not None
        assert found.answering, "the death of its owner changes nothing"
    await h2.eviction.forget(["h3"], dead_for_s=0, force=False)
    await cluster.calm()
    for host in (h1, h2):
        for number, count in ((1, 1), (2, 0)):
            found = external_service(host.live.view, place, service_id(number))
            assert found is not None
            assert (found.owner, len(found.answering)) == (h2.host_id, count)
        assert [one.owner for one in own_names(host.live.view, place)] == [h2.host_id]


@on_hosts(2)
async def test_a_network_with_additions_is_removed_only_with_force_and_they_go_with_it(
    cluster: Cluster,
) -> None:
    h1, h2 = cluster.hosts
    made, _ = await h1.networks.create(APP)
    place = made.network_id
    records = (service(1, place, ttl_s=30), state(1, 1, place), alias(1, network_id=place, place=place))
    await h2.publisher.put(*records)
    await cluster.calm()
    with pytest.raises(RefusedError, match="operators added pg, shop to network app"):
        await h1.networks.remove("app", force=False)
    assert await h1.networks.prune() == []
    await h1.networks.remove("app", force=True)
    await cluster.calm()
    assert not set(records) & set(h2.live.view.records_of(h2.host_id, CLUSTER_SCOPE))


@on_hosts(3)
async def test_a_host_takes_back_what_it_found_out_once_another_one_goes_on(cluster: Cluster) -> None:
    h1, h2, h3 = cluster.hosts
    made, _ = await h1.networks.create(APP)
    place = made.network_id
    await h3.publisher.put(service(1, place, ttl_s=30))
    await cluster.calm()
    await h2.publisher.put(state(1, 1, place))
    await cluster.calm()
    assert state(1, 1, place) in h2.live.view.records_of(h2.host_id, CLUSTER_SCOPE)
    await h3.publisher.put(state(1, 2, place))
    await cluster.calm()
    assert state(1, 1, place) not in h2.live.view.records_of(h2.host_id, CLUSTER_SCOPE)
    await h3.publisher.withdraw(service(1, place))
    await cluster.calm()
    assert state(1, 2, place) not in h3.live.view.records_of(h3.host_id, CLUSTER_SCOPE)


@on_hosts(4)
async def test_a_live_host_is_revoked_and_its_space_taken_over(cluster: Cluster) -> None:
    h1, h2, h3, h4 = cluster.hosts
    await h3.networks.create(APP)
    await cluster.calm()
    h2.eviction.key_ids = lambda _host: (KeyId("ab" * 16),)
    before = trio.current_time()
    done = await h2.eviction.revoke(["h3"])
    assert trio.current_time() - before <= 4 * REVOKE_S
    await trio.sleep(2.0)
    assert [host.host_id for host in done.hosts] == [h3.host_id]
    for one in (h1, h2, h4):
        view = one.live.view
        assert dict(view.compromised) == {h3.host_id: {h2.host_id}}
        assert compromised_keys(view) == {KeyId("ab" * 16)}
        assert named(view, "app").owner == h2.host_id
    assert h3.live.view.revoked[h3.host_id] == {h2.host_id}
    # A second host's word, by the id: its name is gone.
    again = await h1.eviction.revoke([h3.host_id[:8]])
    assert [host.host_id for host in again.hosts] == [h3.host_id]
    await trio.sleep(2.0)
    assert h4.live.view.compromised[h3.host_id] == {h1.host_id, h2.host_id}
    with pytest.raises(InputError, match="is this host"):
        await h1.eviction.revoke(["h1"])


@on_hosts(3)
async def test_only_a_host_that_is_named_is_revoked(cluster: Cluster) -> None:
    h1, h2, h3 = cluster.hosts
    cluster.kill(h3)
    await trio.sleep(60.0)
    await h1.eviction.forget([], dead_for_s=30.0, force=False)
    assert set(h1.live.view.evicted) == {h3.host_id}
    assert not h1.live.view.revoked
    cluster.kill(h2)
    await h1.eviction.forget(["h2"], dead_for_s=0, force=True)
    assert set(h1.live.view.revoked) == {h2.host_id}
    assert not h1.live.view.compromised
