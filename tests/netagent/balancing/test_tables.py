"""Step by step or from scratch: whatever happens in whatever order, the kernel gets the same tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from fakes.balancing import RANGES, SUBNETS, WEB, World, packed, service_address
from fakes.external import ServiceFields, at, service
from fakes.registry import H1, H2, H3, N1, N2, endpoint, host, network
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from netagent.balancing.backends import backends_of, weights_at
from netagent.balancing.places import shares
from netagent.balancing.tables import BuiltTables, ServiceTableBuilder
from netagent.datapath.sockets.layout import PLACES
from netagent.model.ids import HostId, NetworkId
from netagent.model.locality import Balance
from netagent.model.records import (
    STOP,
    AttachmentRecord,
    Drain,
    ForgetRecord,
    Group,
    Health,
    HealthNote,
    Record,
    RemovalRecord,
    ServiceAddressRecord,
    ServiceKey,
    ServicePort,
    ServiceRangeRecord,
)
from netagent.registry.view import RegistryView
from netgossip.slices import Slices, at_once
from netgossip.types import Member, MemberState

HOSTS = st.sampled_from([H1, H2, H3])
NETWORKS = st.sampled_from([N1, N2])
KEYS = st.sampled_from([WEB, ServiceKey("db", "shop"), ServiceKey("pg")])
Places = Mapping[bytes, tuple[bytes, ...]]


class StepByStep(RuleBasedStateMachine):
    """Any number of changes, then a build, sometimes given up in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @initialize()
    def begin(self) -> None:
        world = self.world
        world.put(H1, endpoint(1, N1, 11))
        world.put(H2, endpoint(2, N1, 12), service_address())
        world.put(H3, service_address(WEB, N2), endpoint(3, N2, addresses=("10.2.0.9",)))
        self.made()

    @rule(
        owner=HOSTS,
        number=st.integers(1, 3),
        state=st.fixed_dictionaries(
            {
                "going_down": st.booleans(),
                "drain": st.none() | st.just(Drain(1, "anna")),
                "zone": st.sampled_from(["", "rack1"]),
            }
        ),
    )
    def host_record(self, owner: HostId, number: int, state: dict[str, Any]) -> None:
        # Few names, so that two hosts have one.
        self.world.put(owner, host(f"h{number}", underlay=f"192.0.2.{number}", **state))

    @rule(
        owner=HOSTS,
        number=st.integers(1, 6),
        place=NETWORKS,
        offset=st.integers(11, 16),
        state=st.fixed_dictionaries(
            {
                "health": st.sampled_from(Health),
                "health_note": st.none() | st.builds(HealthNote, since_s=st.integers(980, 1040)),
                "drain": st.none() | st.just(Drain(1, STOP)),
                "group": st.sampled_from([None, Group("shop", "db")]),
                "weight": st.sampled_from([0, 1, 100]),
                "service": st.sampled_from(["web", "pg"]),
            }
        ),
    )
    def endpoint_record(
        self, owner: HostId, number: int, place: NetworkId, offset: int, state: dict[str, Any]
    ) -> None:
        # Few ids and addresses, so that they clash, move between hosts and networks, and come back.
        addresses = (f"10.1.0.{offset}", f"fd00:1::{offset:x}") if place == N1 else (f"10.2.0.{offset}",)
        self.world.put(owner, endpoint(number, place, addresses=addresses, **state))

    @rule(owner=HOSTS, number=st.integers(1, 6), place=NETWORKS)
    def endpoint_gone(self, owner: HostId, number: int, place: NetworkId) -> None:
        self.world.delete(owner, endpoint(number, place))

    @rule(
        owner=HOSTS,
        key=KEYS,
        place=NETWORKS,
        offset=st.integers(5, 7),
        fields=st.fixed_dictionaries(
            {
                "balance": st.sampled_from(Balance),
                "is_sticky": st.booleans(),
                "keeps_failing": st.booleans(),
                "host_weights": st.sampled_from([(), (("h2", 300),)]),
                "ports": st.sampled_from([(), (ServicePort(80, 5432),)]),
            }
        ),
    )
    def service_address_record(
        self, owner: HostId, key: ServiceKey, place: NetworkId, offset: int, fields: dict[str, Any]
    ) -> None:
        self.world.put(owner, service_address(key, place, offset, **fields))

    @rule(owner=HOSTS, place=NETWORKS, offset=st.integers(5, 7))
    def service_address_gone(self, owner: HostId, place: NetworkId, offset: int) -> None:
        self.world.delete(owner, service_address(WEB, place, offset))

    @rule(place=NETWORKS, is_there=st.booleans())
    def service_range(self, place: NetworkId, *, is_there: bool) -> None:
        (self.world.put if is_there else self.world.delete)(H1, ServiceRangeRecord(place, RANGES[place]))

    @rule(network_id=NETWORKS, name=st.sampled_from(["app", "back"]), vni=st.integers(7, 8))
    def network_record(self, network_id: NetworkId, name: str, vni: int) -> None:
        self.world.put(H2, network(network_id, name, subnets=SUBNETS[network_id], vni=vni, revision=1))

    @rule(network_id=NETWORKS, is_removed=st.booleans())
    def removal(self, network_id: NetworkId, *, is_removed: bool) -> None:
        (self.world.put if is_removed else self.world.delete)(H3, RemovalRecord(network_id))

    @rule(
        owner=HOSTS,
        number=st.integers(1, 2),
        place=NETWORKS,
        fields=st.fixed_dictionaries(
            {
                "name": st.sampled_from(["web", "web3", "pg"]),
                "target": st.sampled_from([at("203.0.113.50"), at("203.0.113.51", "2001:db8::1", port=None)]),
            }
        ),
    )
    def external_service(self, owner: HostId, number: int, place: NetworkId, fields: ServiceFields) -> None:
        self.world.put(owner, service(number, place, **fields))

    @rule(owner=HOSTS, number=st.integers(1, 2), place=NETWORKS)
    def external_service_gone(self, owner: HostId, number: int, place: NetworkId) -> None:
        self.world.delete(owner, service(number, place))

    @rule(owner=HOSTS, state=st.sampled_from(MemberState), answers=st.sampled_from([None, True, False]))
    def seen(self, owner: HostId, state: MemberState, *, answers: bool | None) -> None:
        member = Member(owner, ("192.0.2.9", 7956), state, 1)
        self.world.view = self.world.view.with_member(member).with_host_answers({owner: answers})

    @rule(unreached=st.frozensets(HOSTS), owner=HOSTS, distance=st.sampled_from([None, 1, 5]))
    def probed(self, unreached: frozenset[HostId], owner: HostId, distance: int | None) -> None:
        self.world.view = self.world.view.with_unreached(unreached).with_distances({owner: distance})

    @rule(owner=HOSTS, gone=HOSTS, is_said=st.booleans())
    def forget(self, owner: HostId, gone: HostId, *, is_said: bool) -> None:
        (self.world.put if is_said else self.world.delete)(owner, ForgetRecord(gone, settled=True))

    @rule(taken=st.frozensets(NETWORKS))
    def takes_part(self, taken: frozenset[NetworkId]) -> None:
        self.world.taken = taken

    @rule(seconds=st.integers(1, 12))
    def time_passes(self, seconds: int) -> None:
        self.world.now_s += seconds
        self.made()  # its timer has rung

    @rule(slices=st.integers(0, 12))
    def made_in_part(self, slices: int) -> None:
        making, before = self.world.building(), self.places()
        for _ in range(slices):
            try:
                next(making)
            except StopIteration as end:
                self.check(before, end.value)
                return
        making.close()

    @rule()
    def made(self) -> None:
        before = self.places()
        self.check(before, at_once(self.world.building()))

    def places(self) -> Places:
        return {address: entry.places for address, entry in self.world.builder.entries.items()}

    def check(self, before: Places, built: BuiltTables) -> None:
        world = self.world
        world.take(built)
        fresh = ServiceTableBuilder(H1, lambda address: before.get(address, ()))
        expected = at_once(fresh.build(world.view, world.networks, world.now_s))
        assert world.kernel == world.builder.entries == dict(expected.changed)
        assert built.next_s == expected.next_s
        for place in world.networks:
            for views in world.view.service_addresses(place).values():
                for one in views:
                    self.check_shares(one.record)

    def check_shares(self, record: ServiceAddressRecord) -> None:
        backends = at_once(backends_of(self.world.view, record))
        for address in packed(*record.addresses):
            weights = at_once(weights_at(backends, len(address), self.world.now_s))
            places = Counter(self.world.kernel[address].places)
            assert places.keys() <= weights.keys()
            assert places.total() == (PLACES if weights else 0)
            if len(address) == 4:
                assert places == at_once(shares(weights, bytes.fromhex(H1)))

    @invariant()
    def every_index_follows(self) -> None:
        self.world.view.check_invariants()

    def teardown(self) -> None:
        self.made()


TestStepByStep = StepByStep.TestCase
TestStepByStep.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


@pytest.fixture
def world() -> World:
    world = World()
    world.put(H1, AttachmentRecord(N1), service_address())
    world.put(H2, endpoint(1, offset=11))
    world.put(H3, endpoint(2, offset=12))
    world.build()
    return world


def test_both_families_of_a_service_have_the_same_backend_at_the_same_place(world: World) -> None:
    world.put(H3, endpoint(3, offset=13, weight=55))
    world.build()
    old, new = (world.kernel[one].places for one in packed("10.8.0.5", "fd00:8::5"))
    assert len(old) == len(new) == PLACES
    assert [one[-1] for one in old] == [one[-1] for one in new]


def test_a_service_with_one_family_of_backends_refuses_the_other() -> None:
    world = World()
    world.put(H1, service(1, name="pg"), service_address(ServiceKey("pg")))
    world.build()
    old, new = (world.kernel[one].places for one in packed("10.8.0.5", "fd00:8::5"))
    assert (set(old), new) == (set(packed("203.0.113.50")), ())


def test_an_entry_says_what_the_record_says(world: World) -> None:
    ports = (ServicePort(80, 8080),)
    world.put(H1, service_address(ports=ports, is_sticky=True))
    world.build()
    (address,) = packed("10.8.0.5")
    entry = world.kernel[address]
    assert (entry.network, entry.ports, entry.is_sticky) == (network().vni, ports, True)


def test_both_addresses_of_a_service_lead_to_its_replicas(world: World) -> None:
    world.put(H2, service_address(offset=9))
    world.build()
    assert world.led_to("10.8.0.5") == world.led_to("10.8.0.9")
    world.delete(H1, service_address())
    built = world.build()
    assert set(built.changed) == set(packed("10.8.0.5", "fd00:8::5"))
    assert set(built.changed.values()) == {None}
    assert set(world.led_to("10.8.0.9")) == {"10.1.0.11", "10.1.0.12"}


def test_a_start_goes_on_with_what_the_kernel_has(world: World) -> None:
    kernel = world.kernel
    world.builder = ServiceTableBuilder(H1, lambda address: kernel[address].places)
    world.put(H3, endpoint(3, offset=13))
    built = world.build()
    assert built.is_whole
    assert set(world.led_to()) == {"10.1.0.11", "10.1.0.12", "10.1.0.13"}
    for address, entry in kernel.items():
        moved = [
            now for was, now in zip(entry.places, world.kernel[address].places, strict=True) if was != now
        ]
        assert set(moved) <= {*packed("10.1.0.13", "fd00:1::d")}
    assert built.gained == set(packed("10.1.0.13", "fd00:1::d"))


def counted(making: Slices[BuiltTables]) -> tuple[int, BuiltTables]:
    """How many slices it was made in: the measure of the work."""
    slices = 0
    while True:
        try:
            next(making)
        except StopIteration as end:
            return slices, end.value
        slices += 1


@pytest.mark.parametrize("count", [20, 200])
def test_a_change_of_one_replica_costs_the_entries_of_its_service(count: int) -> None:
    world = World()
    for number in range(count):
        record = endpoint(number + 1, offset=number + 10, service=f"s{number}")
        world.put(H2, record, service_address(ServiceKey(f"s{number}"), offset=number + 10))
    slices, built = counted(world.building())
    world.take(built)
    assert slices >= count
    assert len(world.kernel) == 2 * count
    changed = endpoint(1, offset=10, service="s0", health=Health.UNHEALTHY)
    for record in (changed, endpoint(1, offset=10, service="s0")):
        world.put(H2, record)
        slices, built = counted(world.building())
        assert slices <= 2
        assert set(built.changed) == set(packed("10.8.0.10", "fd00:8::a"))
        world.take(built)
    world.put(H3, host("h3", agent_version="9", underlay="192.0.2.3"))
    assert counted(world.building()) == (0, BuiltTables({}, frozenset(), frozenset(), False, None))


def test_shares_grow_with_time_alone(world: World) -> None:
    world.put(H3, endpoint(2, offset=12, health=Health.HEALTHY, health_note=HealthNote(1000)))
    found = []
    next_s: int | None = world.now_s
    while next_s is not None:
        world.now_s = next_s
        next_s = world.build().next_s
        found.append((world.now_s, world.led_to()["10.1.0.12"]))
    assert [now_s for now_s, _ in found] == [1000, 1005, 1010, 1015, 1020, 1025]
    counts = [count for _, count in found]
    assert counts == sorted(counts)
    assert 8 <= counts[0] <= 10
    assert counts[-1] == 32


def put(owner: HostId, *records: Record) -> Callable[[World], None]:
    return lambda world: world.put(owner, *records)


def see(change: Callable[[RegistryView], RegistryView]) -> Callable[[World], None]:
    def changed(world: World) -> None:
        world.view = change(world.view)

    return changed


@pytest.mark.parametrize(
    "change",
    [
        see(lambda view: view.with_distances({H2: 3})),
        see(lambda view: view.with_unreached(frozenset([H2]))),
        see(lambda view: view.with_member(Member(H2, ("192.0.2.2", 7956), MemberState.LEFT, 2))),
        put(H2, host("h2", underlay="192.0.2.2", zone="rack2")),
        put(H1, host("h1", underlay="192.0.2.1", zone="rack2")),
        put(H2, host("h2", underlay="192.0.2.2", drain=Drain(1, "anna"))),
        put(H2, host("h9", underlay="192.0.2.2")),
        put(H2, endpoint(1, offset=11, weight=7)),
        put(H2, endpoint(1, offset=11, health=Health.STARTING)),
        put(H3, endpoint(7, offset=17, name="pg", service="own")),
        put(H3, service(2, name="pg", target=at("203.0.113.51"))),
        put(H2, service(1, name="other")),
        put(H1, network(N1, "app", subnets=SUBNETS[N1], vni=9, revision=1)),
    ],
)
@pytest.mark.parametrize("balance", [Balance.SPREAD, Balance.NEAREST, Balance.ZONE, Balance.FIRST])
def test_each_kind_of_change_is_noticed(balance: Balance, change: Callable[[World], None]) -> None:
    world = World()
    options: dict[str, Any] = {"balance": balance, "host_weights": (("h9", 1),)}
    world.put(H1, service_address(**options), service_address(ServiceKey("pg"), offset=6, **options))
    world.put(H1, service_address(ServiceKey("new"), N2, offset=7))
    world.put(H2, endpoint(1, offset=11), service(1, name="pg"))
    world.put(H3, endpoint(2, offset=12), host("h3", underlay="192.0.2.3", zone="rack3"))
    world.view = world.view.with_distances({H2: 2, H3: 2})
    world.build()
    before = {address: entry.places for address, entry in world.kernel.items()}
    change(world)
    assert not world.build().is_whole
    fresh = ServiceTableBuilder(H1, lambda address: before.get(address, ()))
    assert world.kernel == at_once(fresh.build(world.view, world.networks, world.now_s)).changed
