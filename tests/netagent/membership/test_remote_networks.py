"""Networks that a host takes no part in, fetched for answers only: over real gossip, under virtual time."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from fakes.registry import N1, N2, N3, endpoint, network
from fakes.virtual import virtual

from netagent.commands.presenters import COMPARE_S, wait_changed
from netagent.membership import remote_networks
from netagent.membership.event_queue import EventQueue
from netagent.membership.remote_networks import ASK_S, FRESH_S, LINGER_S, PEERS, RemoteNetworks
from netagent.model.ids import HostId, NetworkId
from netagent.model.records import AttachmentRecord, EndpointRecord, NetworkRecord
from netagent.registry.cluster_overview import ClusterOverview, GapReason
from netagent.registry.record_codec import encode, key_of, scope_of
from netagent.registry.state_store import StateStore
from netagent.registry.view import AgentState, RegistryView
from netgossip.testing import SimCluster, SimHost
from netgossip.types import CLUSTER_SCOPE, EntriesChanged

STEP_S = 0.005


class _Sink:
    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *_: None


class _OnClock:
    """A node of the simulation, whose clock began earlier than trio's."""

    def __init__(self, sim_host: SimHost, sim: SimCluster) -> None:
        self._host, self._sim = sim_host, sim
        self.compared: list[bytes] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            with self._host.commanding() as node:
                if name in {"set_scope_members", "enter_scope", "catch_up"}:
                    arguments = (*arguments[:-1], self._sim.now)
                if name == "catch_up":
                    self.compared.append(arguments[0])
                return getattr(node.records, name)(*arguments)

        return call


class World:
    """`h1` is the one that is asked; all others take part in the networks that `attach` names."""

    def __init__(self, size: int = 4, seed: int = 3) -> None:
        self.sim = SimCluster(seed=seed)
        for number in range(1, size + 1):
            self.sim.add(f"h{number}")
        self.sim.run_until(self.sim.converged, 60.0)
        self.me = self.sim["h1"]
        self.live = StateStore(RegistryView(HostId(self.me.node_id)), {})
        self.entered: set[NetworkId] = set()
        self.journalled: list[EntriesChanged] = []
        self.node = _OnClock(self.me, self.sim)
        records: Any = self.node
        self.remote = RemoteNetworks(
            records,
            self.live,
            lambda: None,
            is_entered=self.entered.__contains__,
            rng=random.Random(7),
        )
        sink: Any = _Sink()
        journal: Any = SimpleNamespace(note_replica=self.journalled.append, note_member=lambda _: None)
        self.event_queue = EventQueue(
            live=self.live,
            journal=journal,
            participation=sink,
            rpc=sink,
            on_request=lambda _: None,
            on_raised=lambda _: None,
            on_taken=lambda _: None,
            is_held=lambda *_: True,
            is_for_answers=self.remote.holds,
            clock=lambda: self.sim.now,
        )
        self._taken = 0

    def put(
        self, name: str, record: AttachmentRecord | EndpointRecord | NetworkRecord, *, deleted: bool = False
    ) -> None:
        scope, key = key_of(record)
        self.sim[name].put(scope, key, None if deleted else encode(record))

    def attach(self, network_id: NetworkId, *names: str) -> None:
        for name in names:
            self.put(name, AttachmentRecord(network_id))
            self.sim[name].enter(scope_of(network_id))
        members = frozenset(self.sim[name].node_id for name in names)
        for name in names:
            with self.sim[name].commanding() as node:
                node.records.set_scope_members(scope_of(network_id), members, self.sim.now)

    def step(self, duration_s: float = STEP_S) -> None:
        self.sim.run_for(duration_s)
        events = self.me.events[self._taken :]
        self._taken = len(self.me.events)
        self.event_queue.handle(tuple(events))
        while self.event_queue.has_pending_work:
            self.event_queue.run_step()

    async def run(self) -> None:
        while True:
            await trio.sleep(STEP_S)
            self.step()

    def id_of(self, name: str) -> HostId:
        return HostId(self.sim[name].node_id)


@pytest.fixture
def world() -> World:
    one = World()
    one.put("h2", network(N1, "app"))
    one.attach(N1, "h2", "h3")
    one.put("h2", endpoint(1))
    one.put("h3", endpoint(2, offset=3))
    one.step(5.0)
    return one


async def asked(world: World, wanted: set[NetworkId] | None = None) -> ClusterOverview:
    """The overview, while the simulated cluster goes on."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.run)
        found = await world.remote.overview(wanted)
        nursery.cancel_scope.cancel()
    return found


@virtual
async def test_a_host_that_takes_no_part_fetches_from_members_that_do(world: World) -> None:
    assert not world.live.view.endpoints
    began = trio.current_time()
    found = await asked(world)
    assert {one.record.name for one in found.view.endpoints.values()} == {"web1", "web2"}
    assert set(found.told_by) == {N1}
    assert set(found.told_by[N1]) <= {world.id_of("h2"), world.id_of("h3")}
    assert not found.gaps
    assert trio.current_time() - began < ASK_S / 2, "it waits for no host"
    found.view.check_invariants()


@virtual
async def test_nothing_of_it_reaches_registry_or_journal_and_no_host_pushes_to_this_one(world: World) -> None:
    before = world.live.view
    await asked(world)
    assert world.live.view.endpoints == before.endpoints
    assert not [event for event in world.journalled if event.scope != CLUSTER_SCOPE]
    assert world.id_of("h1") not in world.live.view.attachments(N1)


@virtual
async def test_an_answer_is_as_the_network_is_now_and_costs_no_question_within_a_moment(world: World) -> None:
    await asked(world)
    compared = len(world.node.compared)
    await asked(world)
    assert len(world.node.compared) == compared, "it was compared a moment ago"
    world.put("h3", endpoint(2, offset=3), deleted=True)
    world.put("h2", endpoint(1, service="site"))
    world.put("h2", endpoint(5, offset=9))
    world.step(1.0)
    await trio.sleep(2 * FRESH_S)
    found = await asked(world)
    assert len(world.node.compared) == compared + 1
    assert {e.record.service for e in found.view.endpoints.values()} == {"site", "web"}
    assert {one.record.name for one in found.view.endpoints.values()} == {"web1", "web5"}
    found.view.check_invariants()


@virtual
async def test_every_watcher_sees_a_removal_whoever_read_the_list_before_it(world: World) -> None:
    await asked(world)
    cluster: Any = SimpleNamespace(live=world.live, gossip=SimpleNamespace(remote_networks=world.remote))
    seen = await wait_changed(cluster, -1)
    found: list[list[str]] = []

    async def watch() -> None:
        await wait_changed(cluster, seen)
        overview = await world.remote.overview()
        found.append([one.record.name for one in overview.view.endpoints.values()])

    world.put("h2", endpoint(1), deleted=True)
    world.step(1.0)
    await trio.sleep(2 * FRESH_S)
    await asked(world)  # a command on the same host reads it first
    with trio.move_on_after(3 * COMPARE_S):
        async with trio.open_nursery() as nursery, trio.open_nursery() as watchers:
            nursery.start_soon(world.run)
            watchers.start_soon(watch)
            watchers.start_soon(watch)
    assert found == [["web2"], ["web2"]]


@virtual
async def test_the_overview_follows_the_registry_as_well(world: World) -> None:
    await asked(world)
    world.put("h4", network(N2, "other"))
    world.sim.crash("h4")
    world.step(20.0)
    found = await asked(world)
    assert {one.name for one in found.view.networks.values()} == {"app", "other"}
    assert found.view.hosts[world.id_of("h4")].agent is AgentState.DEAD
    assert len(found.view.endpoints) == 2
    found.view.check_invariants()


@virtual
async def test_members_that_are_away_are_named_and_nothing_is_made_up(world: World) -> None:
    world.sim.crash("h2")
    world.sim.crash("h3")
    world.step(120.0)
    (gap,) = (await asked(world)).gaps
    assert gap.reason is GapReason.AWAY
    assert set(gap.hosts) == {world.id_of("h2"), world.id_of("h3")}


@virtual
async def test_a_host_that_enters_while_no_other_member_is_alive_reports_their_records_as_missing(
    world: World,
) -> None:
    world.sim.crash("h2")
    world.sim.crash("h3")
    world.step(120.0)
    world.attach(N1, "h1")
    world.entered.add(N1)
    world.put("h1", endpoint(7, offset=12))
    world.step(5.0)
    (gap,) = (await asked(world)).gaps
    assert gap.reason is GapReason.MISSING
    assert set(gap.hosts) == {world.id_of("h2"), world.id_of("h3")}
    assert not world.remote.local_overview.gaps, "it was not asked for others"
    world.sim.restart("h2")
    world.attach(N1, "h1", "h2")
    world.step(30.0)
    assert not (await asked(world)).gaps, "one that answers tells all that it knows"
    world.sim.crash("h2")
    world.step(120.0)
    assert not (await asked(world)).gaps, "what it said is held, and it held what h3 said"


@virtual
async def test_who_is_alive_and_does_not_answer_is_named_after_a_bounded_time(world: World) -> None:
    world.sim.cut(["h1"], ["h2", "h3"])
    began = trio.current_time()
    found = await asked(world)
    assert trio.current_time() - began <= ASK_S + 2 * STEP_S
    (gap,) = found.gaps
    assert gap.reason is GapReason.SILENT
    assert set(gap.hosts) == {world.id_of("h2"), world.id_of("h3")}
    assert not found.told_by
    assert not found.view.endpoints


@virtual
async def test_one_member_that_is_silent_keeps_no_answer_back(world: World) -> None:
    world.sim.cut(["h1"], ["h3"])
    found = await asked(world)
    assert len(found.view.endpoints) == 2, "the other one has all records"
    assert not found.gaps
    assert found.told_by[N1] == (world.id_of("h2"),)


@virtual
async def test_fetched_records_are_shown_as_old_when_no_member_answers_any_more(world: World) -> None:
    await asked(world)
    world.sim.cut(["h1"], ["h2", "h3"])
    await trio.sleep(2 * FRESH_S)
    found = await asked(world)
    assert len(found.view.endpoints) == 2
    (gap,) = found.gaps
    assert gap.is_old


@virtual
async def test_other_networks_than_the_wanted_one_are_not_asked_about(world: World) -> None:
    world.put("h2", network(N2, "other"))
    world.attach(N2, "h2")
    world.put("h2", endpoint(7, N2))
    world.step(3.0)
    found = await asked(world, {N2})
    assert world.node.compared == [scope_of(N2)]
    assert set(found.told_by) == {N2}


@virtual
async def test_it_is_dropped_some_time_after_the_last_question(world: World) -> None:
    await asked(world)
    with trio.move_on_after(2 * LINGER_S):
        await world.remote.run()
    assert not world.remote.is_used
    assert not world.node.outline(scope_of(N1))
    assert world.remote._view is None
    assert len((await asked(world)).view.endpoints) == 2


@virtual
async def test_really_entering_drops_what_was_fetched_so_that_registry_and_journal_get_all(
    world: World,
) -> None:
    await asked(world)
    world.remote.release(N1)
    world.entered.add(N1)
    world.me.enter(scope_of(N1))
    world.attach(N1, "h1", "h2", "h3")
    world.step(5.0)
    assert len(world.live.view.endpoints) == 2
    assert {e.owner for e in world.journalled if e.scope == scope_of(N1)} == {
        world.id_of("h2"),
        world.id_of("h3"),
    }
    found = await asked(world)
    assert len(found.view.endpoints) == 2
    assert not found.told_by
    found.view.check_invariants()


@virtual
async def test_at_most_a_few_members_are_asked_and_too_many_records_end_the_asking(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(size=7)
    others = [f"h{number}" for number in range(2, 8)]
    for network_id, name in ((N1, "app"), (N2, "other"), (N3, "third")):
        number = int(network_id[-1])
        world.put("h2", network(network_id, name, subnets=(f"10.{number}.0.0/24", f"fd00:{number}::/64")))
        world.attach(network_id, *others)
        for offset in range(2, 6):
            addresses = (f"10.{number}.0.{offset}", f"fd00:{number}::{offset:x}")
            world.put("h3", endpoint(16 * number + offset, network_id, addresses=addresses))
    world.step(5.0)
    monkeypatch.setattr(remote_networks, "AT_ONCE", 1)
    monkeypatch.setattr(remote_networks, "MAX_ENTRIES", 6)
    found = await asked(world)
    assert all(len(hosts) <= PEERS for hosts in found.told_by.values())
    assert len(found.told_by) == 2, "four records, then eight: enough"
    (gap,) = found.gaps
    assert gap.reason is GapReason.NOT_ASKED
    assert len(found.view.endpoints) == 8
