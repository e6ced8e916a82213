"""Creating and removing networks, alone and on several hosts at once. A failure names its seed."""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Callable
from types import SimpleNamespace, UnionType
from typing import Any

import pytest
import trio
from fakes.agent_host import HANG, AgentHost, Fabric, Hang
from fakes.registry import H2, N1, N2, Writer, endpoint, host, network
from fakes.virtual import virtual

from netagent.endpoints import networks
from netagent.endpoints.networks import SETTLE_S
from netagent.errors import FailedError, InputError, NotFoundError, RefusedError
from netagent.journal.journal import DiskFullError
from netagent.model.ids import HostId, NetworkId
from netagent.model.locality import AnswerOrder
from netagent.model.publication import Publication
from netagent.model.records import (
    AttachmentRecord,
    GrantRecord,
    NetworkOption,
    NetworkOptionsRecord,
    NetworkRecord,
    Policy,
    PublishedServiceRecord,
    Record,
    RemovalRecord,
    ServiceKey,
)
from netagent.model.request import NetworkRequest
from netagent.registry.view import NetworkView, RegistryView
from netgossip.types import CLUSTER_SCOPE, MemberState


def own_records(one: AgentHost, kind: UnionType | type[Any]) -> Any:
    return [r for r in one.live.view.records_of(one.host_id, CLUSTER_SCOPE) if isinstance(r, kind)]


@pytest.fixture(autouse=True)
def ids(monkeypatch: pytest.MonkeyPatch) -> random.Random:
    """Networks' random ids follow from the seed."""
    rng = random.Random(0)
    monkeypatch.setattr(networks, "os", SimpleNamespace(urandom=rng.randbytes))
    return rng


async def together(
    size: int, test: Callable[..., Any], *, seed: int = 1, ids: random.Random | None = None
) -> None:
    """Run `test(hosts)` on hosts that know each other."""
    rng = random.Random(seed)
    if ids is not None:
        ids.seed(seed)
    async with trio.open_nursery() as nursery:
        fabric = Fabric(nursery, size, rng)
        await fabric.tell_hosts()
        for one in fabric.hosts:
            one.steps.delay_s["journal"] = lambda: rng.choice([0.0, 0.002, 0.01, 0.04])
            nursery.start_soon(keep_own_networks, one)
        await test(fabric.hosts)
        nursery.cancel_scope.cancel()


async def keep_own_networks(one: AgentHost) -> None:
    """As the agent does: what yielded unused is withdrawn."""
    revision = 0
    while True:
        revision = await one.live.wait_newer(revision)
        yielded = {n.network_id for n in one.live.view.yielded_networks if n.owner == one.host_id}
        gone = [
            record
            for record in own_records(one, NetworkRecord | GrantRecord)
            if record.network_id in yielded - one.networks.in_work
        ]
        if gone:
            await one.publisher.withdraw(*gone)


async def quiet(hosts: list[AgentHost]) -> None:
    while any(one.node.unacknowledged(CLUSTER_SCOPE) for one in hosts):
        await trio.sleep(0.01)
    await trio.sleep(1.0)


# -- alone ----------------------------------------------------------------------------------------------------------


@virtual
async def test_a_network_is_made_once() -> None:
    one = AgentHost()
    made, created = await one.networks.create(NetworkRequest(name="app"))
    assert created
    assert one.live.view.network_named("app") == made
    assert await one.networks.create(NetworkRequest(name="app")) == (made, False)
    assert len(own_records(one, NetworkRecord)) == 1
    assert one.networks.in_work == set()


@virtual
async def test_the_same_name_with_other_options_is_refused_with_the_difference() -> None:
    one = AgentHost()
    await one.networks.create(NetworkRequest(name="app", subnets=("10.5.0.0/24",)))
    with pytest.raises(RefusedError, match=r"its subnets are 10\.5\.0\.0/24") as caught:
        await one.networks.create(NetworkRequest(name="app", subnets=("10.6.0.0/24",), internal=True))
    assert (caught.value.code, caught.value.exit_status) == ("network-exists", 4)
    assert "not internal" in str(caught.value)


@virtual
async def test_several_creations_of_one_host_are_one() -> None:
    one = AgentHost()
    outcomes = []

    async def create() -> None:
        outcomes.append(await one.networks.create(NetworkRequest(name="app")))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(create)
    assert sorted(created for _, created in outcomes) == [False] * 4 + [True]
    assert len({made.network_id for made, _ in outcomes}) == 1


# -- sharing out ----------------------------------------------------------------------------------------------------


@virtual
async def test_when_create_returns_every_live_host_owns_space_and_knows_it() -> None:
    async def test(hosts: list[AgentHost]) -> None:
        made, _ = await hosts[0].networks.create(NetworkRequest(name="app"))
        for one in hosts:
            await one.allocator.allocations.confirm(made.network_id)
            free, owned = one.allocator.free_count(made.network_id)
            assert free == owned > 0, one.name

    await together(3, test)


@virtual
async def test_silent_hosts_hold_a_creation_up_for_a_bounded_time() -> None:
    async def test(hosts: list[AgentHost]) -> None:
        for one in hosts[:2]:
            one.node.acknowledged[hosts[2].host_id] = -(10**9)
        begun = trio.current_time()
        _, created = await hosts[0].networks.create(NetworkRequest(name="app"))
        assert created
        assert trio.current_time() - begun < 3 * SETTLE_S

    await together(3, test)


@virtual
async def test_the_dead_and_the_departed_get_no_space() -> None:
    one = AgentHost()
    for number, state in enumerate((MemberState.ALIVE, MemberState.DEAD, MemberState.LEFT), 2):
        one.meet(HostId(f"{number:032x}"), state)
        one.hear(Writer(HostId(f"{number:032x}")).put(host(f"h{number}")))
    one.meet(HostId(f"{5:032x}"), MemberState.ALIVE)
    one.hear(
        Writer(HostId(f"{5:032x}")).put(host("h5", going_down=True))
    )  # it leaves, and has handed on what it had
    await one.networks.create(NetworkRequest(name="app"))
    assert {grant.to for grant in own_records(one, GrantRecord)} == {H2}


# -- at the same instant --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3, 5])
@virtual
async def test_created_on_every_host_at_one_instant_it_is_one_network_and_no_error(
    ids: random.Random, size: int
) -> None:
    for seed in range(60):
        rng = random.Random(seed)
        outcomes: list[Any] = []

        async def test(
            hosts: list[AgentHost], rng: random.Random = rng, outcomes: list[Any] = outcomes, seed: int = seed
        ) -> None:
            async def create(one: AgentHost) -> None:
                await trio.sleep(rng.choice([0.0, rng.uniform(0, 0.02), rng.uniform(0, 0.1)]))
                outcomes.append(await one.networks.create(NetworkRequest(name="app")))

            async with trio.open_nursery() as nursery:
                for one in hosts:
                    nursery.start_soon(create, one)
            await quiet(hosts)
            made = {network_.network_id for network_, _ in outcomes}
            assert len(made) == 1, f"seed {seed}"
            assert sum(created for _, created in outcomes) == 1, f"seed {seed}"
            for one in hosts:
                assert set(one.live.view.networks) == made, f"seed {seed}"
                assert one.live.view.conflicts == (), f"seed {seed}"
                assert own_records(one, NetworkRecord) == [] or one.host_id == next(iter(outcomes))[0].creator

        await together(size, test, seed=seed, ids=ids)


@pytest.mark.parametrize("subnets", [(), ("10.5.0.0/24",)], ids=["chosen", "asked"])
@virtual
async def test_different_networks_of_one_instant_never_overlap(
    ids: random.Random, subnets: tuple[str, ...]
) -> None:
    for seed in range(40):
        outcomes: list[Any] = []
        refusals: list[str] = []

        async def test(
            hosts: list[AgentHost],
            outcomes: list[Any] = outcomes,
            refusals: list[str] = refusals,
            seed: int = seed,
        ) -> None:
            for one in hosts:  # a pool with room for two
                surroundings = one.networks._surroundings

                def narrow(view: RegistryView, get: Callable[[RegistryView], Any] = surroundings) -> Any:
                    return dataclasses.replace(get(view), pools=("10.160.0.0/19",))

                one.networks._surroundings = narrow

            async def create(one: AgentHost) -> None:
                try:
                    outcomes.append(
                        await one.networks.create(NetworkRequest(name=f"n-{one.name}", subnets=subnets))
                    )
                except (RefusedError, FailedError) as error:
                    refusals.append(error.code)

            async with trio.open_nursery() as nursery:
                for one in hosts[:2]:
                    nursery.start_soon(create, one)
            await quiet(hosts)
            assert outcomes, f"seed {seed}: no creator won"
            assert set(refusals) <= {"subnet-in-use", "pool-contended", "pool-full", "no-subnet"}
            for one in hosts:
                assert one.live.view.conflicts == (), f"seed {seed}"
                assert set(one.live.view.networks) == {made.network_id for made, _ in outcomes}

        await together(3, test, seed=seed, ids=ids)


@virtual
async def test_the_winner_waits_until_the_loser_has_said_so() -> None:
    """The loser judged before it heard of us, and is already giving space away: it was first."""
    one = AgentHost()
    rival = Writer(H2)
    one.meet(H2)
    one.hear(rival.put(host("h2")))
    late = network(NetworkId("f" * 32), "app", vni=77, subnets=("10.9.0.0/24",))
    outcomes = []

    async def create() -> None:
        outcomes.append(await one.networks.create(NetworkRequest(name="app")))

    async with trio.open_nursery() as nursery:
        one.steps.delay_s["journal"] = lambda: 0.01
        nursery.start_soon(create)
        await trio.sleep(0.005)
        one.hear(rival.put(late))
        await trio.sleep(0.1)
        assert outcomes == []
        one.hear(rival.put(GrantRecord(late.network_id, 128, 191, one.host_id, 1)))
    assert outcomes == [(one.live.view.networks[late.network_id], False)]
    assert own_records(one, NetworkRecord | GrantRecord) == []


@virtual
async def test_a_loser_that_dies_is_not_waited_for_for_ever() -> None:
    one = AgentHost()
    rival = Writer(H2)
    one.meet(H2)
    one.hear(rival.put(host("h2")))
    async with trio.open_nursery() as nursery:
        one.steps.delay_s["journal"] = lambda: 0.01
        nursery.start_soon(one.networks.create, NetworkRequest(name="app"))
        await trio.sleep(0.005)
        one.hear(rival.put(network(NetworkId("f" * 32), "app", vni=77, subnets=("10.9.0.0/24",))))
        begun = trio.current_time()
    assert trio.current_time() - begun <= 3 * SETTLE_S
    assert own_records(one, NetworkRecord)


@virtual
async def test_a_network_removed_while_it_is_made_is_said_to_be_gone() -> None:
    one = AgentHost()
    one.meet(H2)
    async with trio.open_nursery() as nursery:
        one.node.acknowledged[H2] = 0

        async def create() -> None:
            with pytest.raises(RefusedError, match="removed at the same moment"):
                await one.networks.create(NetworkRequest(name="app"))

        nursery.start_soon(create)
        await trio.sleep(SETTLE_S / 2)
        (made,) = one.live.view.networks
        one.hear(Writer(H2).put(RemovalRecord(made)))


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("fault", [DiskFullError("/var: the disk is full"), HANG], ids=["full", "cancelled"])
@virtual
async def test_a_creation_that_fails_leaves_no_record(position: int, fault: DiskFullError | Hang) -> None:
    one = AgentHost()
    one.meet(H2)
    one.steps.fault = (position, fault)
    async with trio.open_nursery() as nursery:

        async def create() -> None:
            with contextlib.suppress(DiskFullError):
                await one.networks.create(NetworkRequest(name="app"))

        nursery.start_soon(create)
        await one.steps.reached.wait()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert own_records(one, NetworkRecord | GrantRecord) == []
    assert one.networks.in_work == set()
    assert (await one.networks.create(NetworkRequest(name="app")))[1]


# -- removing -------------------------------------------------------------------------------------------------------


@virtual
async def test_a_network_whose_only_host_has_no_agent_is_not_taken_for_unused() -> None:
    """Its kernel answers, so its containers work; but no other host knows of them."""
    one = AgentHost()
    other = Writer(H2)
    for record in (host("h2"), network(), AttachmentRecord(N1)):
        one.hear(other.put(record))
    one.meet(H2, MemberState.DEAD)
    one.live.update_view(lambda view: view.with_host_answers({H2: True}))
    with pytest.raises(RefusedError, match="known only on h2, and no agent answers there") as caught:
        await one.networks.remove("app", force=False)
    assert caught.value.code == "network-not-known"
    assert await one.networks.prune() == []
    one.live.update_view(lambda view: view.with_host_answers({H2: False}))
    assert [each.name for each in await one.networks.prune()] == ["app"], "the host is gone as well"


@virtual
async def test_a_network_in_use_is_removed_by_force_only() -> None:
    one = AgentHost()
    one.meet(H2)
    other = Writer(H2)
    records: list[Record] = [host("h2"), network(), AttachmentRecord(N1)]
    records += [endpoint(n, offset=n + 2) for n in range(7)]
    for record in records:
        one.hear(other.put(record))
    with pytest.raises(RefusedError, match=r"is in use by web0 on h2, .* and 2 more") as caught:
        await one.networks.remove("app", force=False)
    assert (caught.value.code, caught.value.exit_status) == ("network-in-use", 4)
    assert one.participation._guests == {}, "looking into a network ends"
    removed = await one.networks.remove("app", force=True)
    assert removed.network_id == N1
    assert one.live.view.is_removed(N1)
    with pytest.raises(NotFoundError, match="no network 'app'"):
        await one.networks.remove("app", force=True)


@virtual
async def test_endpoints_of_a_host_that_is_down_do_not_keep_a_network() -> None:
    one = AgentHost()
    other = Writer(H2)
    for record in (host("h2", going_down=True), network(), endpoint()):
        one.hear(other.put(record))
    await one.networks.remove("app", force=False)
    assert one.live.view.is_removed(N1)


@virtual
async def test_a_network_that_cannot_be_looked_into_is_not_removed() -> None:
    one = AgentHost()
    one.is_syncing = False
    other = Writer(H2)
    for record in (
        host("h2"),
        network(),
        network(N2, "back", subnets=("10.2.0.0/24",)),
        AttachmentRecord(N1),
    ):
        one.hear(other.put(record))
    with pytest.raises(FailedError, match=r"asked: h2"):
        await one.networks.remove("app", force=False)
    assert not one.live.view.is_removed(N1)
    assert one.participation._guests == {}


@virtual
async def test_multicast_and_links_contradict_each_other() -> None:
    async def test(hosts: list[AgentHost]) -> None:
        request = NetworkRequest(name="app", policy=Policy.LINKS, multicast=True)
        with pytest.raises(InputError, match="multicast reaches all containers"):
            await hosts[0].networks.create(request)
        made, _ = await hosts[0].networks.create(NetworkRequest(name="app", policy=Policy.LINKS))
        assert made.record.policy is Policy.LINKS

    await together(1, test)


# -- setting options ------------------------------------------------------------------------------------------------


POLICY, ANSWER, SHARED = NetworkOption.POLICY, NetworkOption.ANSWER_ORDER, NetworkOption.SHARED_NAMES


def named(one: AgentHost, name: str) -> NetworkView:
    network = one.live.view.network_named(name)
    assert network is not None
    return network


def fabric_of(hosts: list[AgentHost]) -> Fabric:
    fabric = hosts[0].fabric
    assert fabric is not None
    return fabric


def changed_numbers(one: AgentHost) -> list[tuple[str, str, int]]:
    (record,) = own_records(one, NetworkOptionsRecord)
    return [(change.option.value, change.value, change.number) for change in record.changes]


@virtual
async def test_any_host_sets_an_option_for_all_and_once() -> None:
    async def test(hosts: list[AgentHost]) -> None:
        await hosts[0].networks.create(NetworkRequest(name="app"))
        done = await hosts[1].networks.set("app", {POLICY: "links", ANSWER: "spread"}, "root")
        assert done.former == {POLICY: "open"}, "what has its value already does not change"
        assert not done.unheard
        for one in hosts:
            assert named(one, "app").record.policy is Policy.LINKS, one.name
        again = await hosts[2].networks.set("app", {POLICY: "links"}, "root")
        assert (again.former, again.network) == ({}, named(hosts[2], "app"))
        assert not own_records(hosts[2], NetworkOptionsRecord)
        await hosts[2].networks.set("app", {POLICY: "audit", ANSWER: "zone"}, "ann")
        await hosts[1].networks.set("app", {POLICY: "links"}, "root")
        assert changed_numbers(hosts[1]) == [("policy", "links", 4)]
        assert changed_numbers(hosts[2]) == [("policy", "audit", 3), ("answer_order", "zone", 1)]
        for one in hosts:
            assert named(one, "app").record.policy is Policy.LINKS
            assert named(one, "app").record.answer is AnswerOrder.ZONE
        with pytest.raises(RefusedError, match="already exists, and its policy is links"):
            await hosts[0].networks.create(NetworkRequest(name="app"))

    await together(3, test)


@pytest.mark.parametrize("seed", range(4))
@virtual
async def test_two_sides_of_a_cut_set_options_and_agree_after_it(seed: int) -> None:
    async def test(hosts: list[AgentHost]) -> None:
        fabric, sides = fabric_of(hosts), (hosts[:1], hosts[1:])
        await hosts[0].networks.create(NetworkRequest(name="app"))
        fabric.cut(*sides)
        await hosts[0].networks.set("app", {POLICY: "links", ANSWER: "zone"}, "ann")
        await hosts[1].networks.set("app", {ANSWER: "nearest"}, "bob")
        await hosts[2].networks.set("app", {ANSWER: "zone"}, "bob")
        await hosts[2].networks.set("app", {ANSWER: "nearest", SHARED: "refuse"}, "bob")
        fabric.heal()
        await quiet(hosts)
        for one in hosts:
            record = named(one, "app").record
            assert (record.policy, record.answer) == (Policy.LINKS, AnswerOrder.NEAREST), one.name
            assert record.refuses_shared_names
        await hosts[0].networks.set("app", {ANSWER: "spread"}, "ann")
        await quiet(hosts)
        assert all(named(one, "app").record.answer is AnswerOrder.SPREAD for one in hosts)

    await together(3, test, seed=seed)


@virtual
async def test_each_side_asked_for_what_excludes_the_other_and_the_stricter_counts() -> None:
    async def test(hosts: list[AgentHost]) -> None:
        fabric = fabric_of(hosts)
        await hosts[0].networks.create(NetworkRequest(name="app"))
        fabric.cut(hosts[:1], hosts[1:])
        await hosts[0].networks.set("app", {NetworkOption.MULTICAST: "yes"}, "ann")
        await hosts[1].networks.set("app", {POLICY: "links"}, "bob")
        fabric.heal()
        await quiet(hosts)
        for one in hosts:
            record = named(one, "app").record
            assert (record.policy, record.multicast) == (Policy.LINKS, False), one.name

    await together(2, test)


@virtual
async def test_a_change_that_contradicts_another_option_is_refused_and_nothing_done() -> None:
    one = AgentHost()
    await one.networks.create(NetworkRequest(name="app", multicast=True))
    with pytest.raises(RefusedError, match="--multicast yes with --policy links") as caught:
        await one.networks.set("app", {ANSWER: "zone", POLICY: "links"}, "root")
    assert caught.value.code == "options-exclude-each-other"
    assert "--multicast no" in str(caught.value)
    assert not own_records(one, NetworkOptionsRecord)
    with pytest.raises(NotFoundError):
        await one.networks.set("none", {POLICY: "links"}, "root")
    await one.networks.set("app", {NetworkOption.MULTICAST: "no", POLICY: "links"}, "root")
    assert named(one, "app").record.policy is Policy.LINKS


@virtual
async def test_a_network_with_published_services_does_not_become_internal() -> None:
    one = AgentHost()
    network, _ = await one.networks.create(NetworkRequest(name="app"))
    published = PublishedServiceRecord(network.network_id, ServiceKey("web"), Publication(80, 8080))
    await one.publisher.put(published)
    with pytest.raises(RefusedError, match="could not reach web of network app any more") as caught:
        await one.networks.set("app", {NetworkOption.INTERNAL: "yes"}, "root")
    assert "netagent unpublish --service NAME PORT:PORT --network app" in str(caught.value)
    await one.networks.set("app", {NetworkOption.MULTICAST: "yes"}, "root")
    await one.publisher.withdraw(published)
    await one.networks.set("app", {NetworkOption.INTERNAL: "yes"}, "root")
    assert named(one, "app").record.internal
    # Whatever a host that did not know of it yet has published meanwhile.
    await one.publisher.put(published)
    await one.networks.set("app", {NetworkOption.HOST_ACCESS: "yes"}, "root")


@virtual
async def test_a_full_disk_refuses_the_change_and_nothing_is_done() -> None:
    one = AgentHost()
    await one.networks.create(NetworkRequest(name="app"))
    one.steps.fault = ("journal", DiskFullError("/var: the disk is full"))
    with pytest.raises(DiskFullError):
        await one.networks.set("app", {POLICY: "links"}, "root")
    assert named(one, "app").record.policy is Policy.OPEN


@virtual
async def test_hosts_that_do_not_acknowledge_are_named() -> None:
    async def test(hosts: list[AgentHost]) -> None:
        await hosts[0].networks.create(NetworkRequest(name="app"))
        fabric_of(hosts).loses = lambda _sender, _target: True
        done = await hosts[0].networks.set("app", {POLICY: "links"}, "root")
        assert done.unheard == {hosts[1].host_id}

    await together(2, test)


@virtual
async def test_from_open_to_links_every_host_audits_first() -> None:
    async def test(hosts: list[AgentHost]) -> None:
        await hosts[0].networks.create(NetworkRequest(name="app"))
        seen: list[Policy] = []

        async def watch(one: AgentHost) -> None:
            revision = 0
            while True:
                revision = await one.live.wait_newer(revision)
                policy = named(one, "app").record.policy
                if seen[-1:] != [policy]:
                    seen.append(policy)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, hosts[1])
            await trio.testing.wait_all_tasks_blocked()
            begun_at = trio.current_time()
            done = await hosts[0].networks.set("app", {POLICY: "links"}, "root")
            assert trio.current_time() - begun_at >= networks.AUDIT_S
            assert done.former == {POLICY: "open"}
            await quiet(hosts)
            nursery.cancel_scope.cancel()
        assert seen[-2:] == [Policy.AUDIT, Policy.LINKS]
        assert Policy.OPEN not in seen[1:]

    await together(2, test)
