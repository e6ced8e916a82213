"""Step by step or from scratch: whatever happens in whatever order, the resolver's table is the same."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from fakes.external import ServiceFields, alias, at, data, service
from fakes.external import state as state_of
from fakes.registry import H1, H2, H3, N1, N2, EndpointFields, HostFields, Writer, endpoint, host, network
from fakes.service_addresses import service_address, service_range
from fakes.zone import whole_table
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from netagent.model.ids import HostId, NetworkId
from netagent.model.records import (
    STOP,
    AttachmentRecord,
    Drain,
    EndpointRecord,
    ForgetRecord,
    Group,
    Health,
    HostAddressRecord,
    HostProgram,
    Record,
    RemovalRecord,
    ServiceAddressOrigin,
    ServiceAddressRecord,
)
from netagent.model.sandbox import Sandbox, SandboxId
from netagent.registry.changelog import MAX_STEPS
from netagent.registry.view import RegistryView
from netagent.resolver.index import NetworkIndex
from netagent.resolver.name_table import EndpointRow, Key, Row, RowKind, changes_between
from netagent.resolver.zone import BuiltTable, ZoneBuilder
from netagent.resolver.zone_source import ZoneSource
from netgossip.slices import Slices, at_once
from netgossip.types import Member, MemberState

DOMAIN = "mesh.internal"
HOSTS = st.sampled_from([H1, H2, H3])
NETWORKS = st.sampled_from([N1, N2])
GROUPS = st.sampled_from([None, Group("shop"), Group("shop", "db"), Group("blog", "db")])
SERVICE_ADDRESSES = st.sampled_from(
    [
        ipaddress.ip_address(one).packed
        for within in (1, 2)
        for offset in (3, 4)
        for one in service_address("web", offset, N1, within=within).addresses
    ]
)
BOX = {SandboxId("c"): Sandbox(sandbox_id=SandboxId("c"), networks=(N1,))}


class StepByStep(RuleBasedStateMachine):
    """After any number of changes the table is made and its difference sent; sometimes the making is given up in the
    middle."""

    def __init__(self) -> None:
        super().__init__()
        self.view = RegistryView(H1)
        self.writers = {one: Writer(one) for one in (H1, H2, H3)}
        self.boxes = BOX
        self.feeds: frozenset[NetworkId] = frozenset()
        self.refused: dict[bytes, str] = {}
        self.maker = ZoneBuilder(DOMAIN)
        self.table: Mapping[Key, Row] = {}
        self.source = ZoneSource()

    def put(self, owner: HostId, record: Record) -> None:
        self.view = self.view.with_entries(self.writers[owner].put(record))

    def delete(self, owner: HostId, record: Record) -> None:
        self.view = self.view.with_entries(self.writers[owner].delete(record))

    @initialize()
    def begin(self) -> None:
        for number, owner in enumerate((H1, H2, H3), start=1):
            self.host_record(owner, number, {})
        self.network_record(N1, "app", 1)
        self.network_record(N2, "back", 1)
        for number, (owner, place) in enumerate([(H1, N1), (H2, N1), (H2, N2), (H3, N2)], start=1):
            self.put(owner, endpoint(number, place, number + 1))
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
    def host_record(self, owner: HostId, number: int, state: HostFields) -> None:
        # Few names, so that two hosts have one.
        fields: HostFields = {**state, "underlay": f"192.0.2.{number}"}
        self.put(owner, host(f"h{number}", **fields))

    @rule(owner=HOSTS)
    def host_record_gone(self, owner: HostId) -> None:
        self.delete(owner, host())

    @rule(network_id=NETWORKS, name=st.sampled_from(["app", "back"]), octet=st.integers(1, 2))
    def network_record(self, network_id: NetworkId, name: str, octet: int) -> None:
        self.put(H2, network(network_id, name, subnets=(f"10.{octet}.0.0/24", "fd00:1::/64"), revision=1))

    @rule(network_id=NETWORKS, is_removed=st.booleans())
    def removal(self, network_id: NetworkId, *, is_removed: bool) -> None:
        (self.put if is_removed else self.delete)(H3, RemovalRecord(NetworkId(network_id)))

    @rule(owner=HOSTS, network_id=NETWORKS, is_in=st.booleans())
    def attachment(self, owner: HostId, network_id: NetworkId, *, is_in: bool) -> None:
        (self.put if is_in else self.delete)(owner, AttachmentRecord(NetworkId(network_id)))

    @rule(
        owner=HOSTS,
        number=st.integers(1, 6),
        place=NETWORKS,
        at=st.integers(2, 6),
        state=st.fixed_dictionaries(
            {
                "health": st.sampled_from(Health),
                "drain": st.none() | st.just(Drain(1, STOP)),
                "group": GROUPS,
                "aliases": st.lists(st.sampled_from(["www", "x"]), max_size=1).map(tuple),
            }
        ),
    )
    def endpoint_record(
        self, owner: HostId, number: int, place: NetworkId, at: int, state: EndpointFields
    ) -> None:
        # Few ids and addresses, so that they clash, move between hosts and networks, and come back.
        self.put(owner, endpoint(number, place, at, **state))

    @rule(owner=HOSTS, number=st.integers(1, 6), place=NETWORKS)
    def endpoint_gone(self, owner: HostId, number: int, place: NetworkId) -> None:
        self.delete(owner, endpoint(number, place))

    @rule(
        owner=HOSTS,
        number=st.integers(1, 2),
        place=NETWORKS,
        fields=st.fixed_dictionaries(
            {
                "name": st.sampled_from(
                    ["web", "web3", "pg"]
                ),  # the first two are names of containers as well
                "target": st.sampled_from([at("203.0.113.50"), HostProgram(9100)]),
                "ttl_s": st.none() | st.just(30),
            }
        ),
    )
    def external_service(self, owner: HostId, number: int, place: NetworkId, fields: ServiceFields) -> None:
        self.put(owner, service(number, place, **fields))

    @rule(
        owner=HOSTS, number=st.integers(1, 2), turn=st.integers(0, 2), place=NETWORKS, expired=st.booleans()
    )
    def external_state(
        self, owner: HostId, number: int, turn: int, place: NetworkId, *, expired: bool
    ) -> None:
        self.put(owner, dataclasses.replace(state_of(number, turn, place), expired_s=9 if expired else None))

    @rule(owner=HOSTS, place=NETWORKS, offset=st.integers(8, 9), is_there=st.booleans())
    def host_address(self, owner: HostId, place: NetworkId, offset: int, *, is_there: bool) -> None:
        record = HostAddressRecord(place, offset, "06:00:00:00:00:09")
        (self.put if is_there else self.delete)(owner, record)

    @rule(owner=HOSTS, number=st.integers(1, 3), name=st.sampled_from(["web", "shop", "*.shop"]))
    def own_name(self, owner: HostId, number: int, name: str) -> None:
        self.put(owner, alias(number, name, "web"))

    @rule(owner=HOSTS, number=st.integers(1, 3))
    def own_data(self, owner: HostId, number: int) -> None:
        self.put(owner, data(number, "shop", addresses=("203.0.113.9",), texts=("v=1",)))

    @rule(owner=HOSTS, number=st.integers(1, 3), kind=st.sampled_from([service, state_of, alias]))
    def added_gone(self, owner: HostId, number: int, kind: Any) -> None:
        self.delete(owner, kind(number))

    @rule(owner=HOSTS, number=st.integers(1, 2), place=NETWORKS, is_there=st.booleans())
    def service_range(self, owner: HostId, number: int, place: NetworkId, *, is_there: bool) -> None:
        (self.put if is_there else self.delete)(owner, service_range(number, place))

    @rule(
        owner=HOSTS,
        record=st.builds(
            service_address,
            st.sampled_from(["web", "db"]),
            st.integers(3, 4),
            NETWORKS,
            group=st.sampled_from([None, "shop"]),
            origin=st.sampled_from(ServiceAddressOrigin),
        ),
        is_there=st.booleans(),
    )
    def service_address(self, owner: HostId, record: ServiceAddressRecord, *, is_there: bool) -> None:
        # Few addresses, so that they move between services, owners and networks.
        (self.put if is_there else self.delete)(owner, record)

    @rule(owner=HOSTS, state=st.sampled_from(MemberState))
    def member(self, owner: HostId, state: MemberState) -> None:
        self.view = self.view.with_member(Member(owner, ("192.0.2.9", 1), state, 1))

    @rule(owner=HOSTS, answers=st.sampled_from([True, False, None]))
    def answer(self, owner: HostId, answers: bool | None) -> None:
        self.view = self.view.with_host_answers({owner: answers})

    @rule(silent=st.frozensets(HOSTS))
    def agreed(self, silent: frozenset[HostId]) -> None:
        self.view = self.view.with_silent(silent)

    @rule(unreached=st.frozensets(HOSTS))
    def probed(self, unreached: frozenset[HostId]) -> None:
        self.view = self.view.with_unreached(unreached)

    @rule(owner=HOSTS, distance=st.sampled_from([None, 1, 5]))
    def measured(self, owner: HostId, distance: int | None) -> None:
        self.view = self.view.with_distances({owner: distance})

    @rule(owner=HOSTS, gone=HOSTS, is_said=st.booleans())
    def forget(self, owner: HostId, gone: HostId, *, is_said: bool) -> None:
        (self.put if is_said else self.delete)(owner, ForgetRecord(gone, settled=True))

    @rule(owner=HOSTS)
    def host_buried(self, owner: HostId) -> None:
        self.view = self.view.without_host(owner)
        self.writers[owner].sequence += 1

    @rule(network_id=NETWORKS, most=st.integers(1, 3))
    def scope_left(self, network_id: NetworkId, most: int) -> None:
        self.view = self.view.without_some(bytes.fromhex(network_id), most)

    @rule(
        networks=st.lists(
            st.tuples(st.lists(NETWORKS, unique=True), st.sampled_from([None, "shop", "blog"])), max_size=3
        )
    )
    def sandboxes(self, networks: list[tuple[list[NetworkId], str | None]]) -> None:
        self.boxes = {}
        for number, (inside, group) in enumerate(networks):
            box = Sandbox(sandbox_id=SandboxId(f"c{number}"), networks=tuple(inside), group=group)
            self.boxes[box.sandbox_id] = box

    @rule(network_id=NETWORKS, group=st.sampled_from(["shop", "blog"]))
    def labels_had_forgotten(self, network_id: NetworkId, group: str) -> None:
        self.view = self.view.without_labels_had([(network_id, group)])

    @rule(feeds=st.frozensets(NETWORKS))
    def feeds_wanted(self, feeds: frozenset[NetworkId]) -> None:
        self.feeds = feeds

    @rule(refused=st.frozensets(SERVICE_ADDRESSES))
    def kernel_full(self, refused: frozenset[bytes]) -> None:
        self.refused = dict.fromkeys(refused, "the table is full")

    @rule(slices=st.integers(0, 12))
    def made_in_part(self, slices: int) -> None:
        making = self.maker.build(self.view, self.boxes, self.feeds, self.refused)
        for _ in range(slices):
            try:
                next(making)
            except StopIteration as end:
                self.check(end.value)
                return
        making.close()

    @rule()
    def made(self) -> None:
        self.check(at_once(self.maker.build(self.view, self.boxes, self.feeds, self.refused)))

    def check(self, made: BuiltTable) -> None:
        expected = whole_table(self.view, self.boxes.values(), DOMAIN, self.feeds, self.refused)
        assert dict(made.table) == expected
        if made.touched is not None:
            every = {*self.table, *expected}
            assert made.touched == {key for key in every if self.table.get(key) != expected.get(key)}
        self.source.apply(changes_between(self.table, made.table, made.touched))
        assert dict(self.source.rows) == expected
        self.table = made.table

    @invariant()
    def every_index_follows(self) -> None:
        self.view.check_invariants()

    def teardown(self) -> None:
        self.made()


TestStepByStep = StepByStep.TestCase
TestStepByStep.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


_ADDRESSED = st.one_of(
    st.builds(service_range, st.integers(1, 2), NETWORKS),
    st.builds(
        service_address,
        st.sampled_from(["web", "db"]),
        st.integers(3, 4),
        NETWORKS,
        within=st.integers(1, 2),
        group=st.sampled_from([None, "shop"]),
        origin=st.sampled_from(ServiceAddressOrigin),
    ),
)


@settings(max_examples=150)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from([H1, H2]), _ADDRESSED, st.sampled_from([True, True, False])),
            st.lists(NETWORKS, unique=True, max_size=2),
            st.frozensets(SERVICE_ADDRESSES),
        ),
        max_size=30,
    )
)
def test_rows_of_service_addresses_follow_step_by_step(steps: list[Any]) -> None:
    """The machine above tries many other kinds, and hardly ever enough of these that meet."""
    world = StepByStep()
    world.begin()
    world.put(H1, service_range(1, N1))
    world.put(H2, service_range(2, N2))
    for step in steps:
        if isinstance(step, list):
            world.boxes = {one: dataclasses.replace(box, networks=tuple(step)) for one, box in BOX.items()}
        elif isinstance(step, frozenset):
            world.refused = dict.fromkeys(step, "the table is full")
        else:
            owner, record, is_there = step
            (world.put if is_there else world.delete)(owner, record)
        world.made()


def test_an_address_that_another_service_gets_keeps_its_row() -> None:
    """Whichever of the two services is looked at first."""
    world = StepByStep()
    world.begin()
    world.put(H1, service_range(1, N1))
    for name in ("web", "db", "web", "api", "db", "api"):
        world.put(H1, service_address(name, 3, N1))
        world.made()
    assert [key[0] for key in world.table].count(RowKind.SERVICE_ADDRESS) == 1


def world_of(count: int) -> StepByStep:
    """`count` endpoints on ten hosts."""
    world = StepByStep()
    world.writers |= {HostId(f"{number:032x}"): Writer(HostId(f"{number:032x}")) for number in range(10, 20)}
    for number in range(10, 20):
        world.put(HostId(f"{number:032x}"), host(f"x{number}", underlay=f"192.0.2.{number}"))
    world.put(H1, network(N1, subnets=("10.1.0.0/16", "fd00:1::/64")))
    for number in range(count):
        world.put(HostId(f"{number % 10 + 10:032x}"), numbered(number))
    return world


def numbered(number: int, **fields: Any) -> EndpointRecord:
    at = number + 2
    addresses = (f"10.1.{at >> 8}.{at & 255}", f"fd00:1::{at:x}")
    mac = f"0a:00:00:00:{at >> 8:02x}:{at & 255:02x}"
    return endpoint(number, addresses=addresses, mac=mac, **fields)


def counted(making: Slices[BuiltTable]) -> tuple[int, BuiltTable]:
    """How many slices it was made in: the measure of the work."""
    slices = 0
    while True:
        try:
            next(making)
        except StopIteration as end:
            return slices, end.value
        slices += 1


def kinds(made: BuiltTable) -> list[RowKind]:
    assert made.touched is not None
    return sorted(kind for kind, _ in made.touched)


@pytest.mark.parametrize("count", [20, 400])
def test_a_change_of_one_endpoint_costs_one_row_here_and_in_the_resolver_process(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = world_of(count)
    slices, made = counted(world.maker.build(world.view, BOX))
    assert slices >= count
    world.check(made)
    indexed: list[EndpointRow] = []

    def noting(
        known: Callable[[NetworkIndex, EndpointRow], None],
    ) -> Callable[[NetworkIndex, EndpointRow], None]:
        def noted(self: NetworkIndex, row: EndpointRow) -> None:
            indexed.append(row)
            known(self, row)

        return noted

    for name in ("add", "discard"):
        monkeypatch.setattr(NetworkIndex, name, noting(getattr(NetworkIndex, name)))
    for record in (numbered(count), numbered(count, service="api"), numbered(count, health=Health.UNHEALTHY)):
        indexed.clear()
        world.put(HostId(f"{10:032x}"), record)
        slices, made = counted(world.maker.build(world.view, BOX))
        assert slices == 1
        assert kinds(made) == [RowKind.ENDPOINT]
        looked_at = LookedAt(made.table)
        changes = list(changes_between(world.table, looked_at, made.touched))
        assert len(looked_at.keys_read) <= 2
        world.source.apply(changes)
        assert {row.endpoint_id for row in indexed} == {record.endpoint_id}
        world.table = made.table
        assert dict(world.source.rows) == whole_table(world.view, BOX.values(), DOMAIN)


class LookedAt(dict[Key, Row]):
    """A table that notes which rows are read, and is not to be walked through."""

    def __init__(self, table: Mapping[Key, Row]) -> None:
        super().__init__(table)
        self.keys_read: list[Any] = []

    def get(self, key: Key, default: Any = None) -> Any:
        self.keys_read.append(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.keys_read.append(key)
        return super().__contains__(key)

    def __iter__(self) -> Iterator[Key]:
        raise AssertionError("walked through")


@pytest.mark.parametrize("count", [20, 400])
def test_a_host_that_is_hidden_costs_its_own_rows(count: int) -> None:
    world = world_of(count)
    at_once(world.maker.build(world.view, BOX))
    one = HostId(f"{10:032x}")
    world.view = world.view.with_member(Member(one, ("192.0.2.10", 1), MemberState.ALIVE, 1))
    slices, made = counted(world.maker.build(world.view, BOX))
    assert (slices, kinds(made)) == (0, []), "its names are the same"
    for state in (MemberState.LEFT, MemberState.ALIVE):
        world.view = world.view.with_member(Member(one, ("192.0.2.10", 1), state, 2))
        slices, made = counted(world.maker.build(world.view, BOX))
        assert slices == count // 10
        assert kinds(made) == [RowKind.HOST, *[RowKind.ENDPOINT] * (count // 10)]
        assert dict(made.table) == whole_table(world.view, BOX.values(), DOMAIN)


def test_who_comes_too_late_gets_the_whole_truth() -> None:
    world = world_of(5)
    at_once(world.maker.build(world.view, BOX))
    for number in range(MAX_STEPS + 5):
        world.put(HostId(f"{11:032x}"), numbered(1, name=f"x{number}"))
    made = at_once(world.maker.build(world.view, BOX))
    assert made.touched is None
    assert dict(made.table) == whole_table(world.view, BOX.values(), DOMAIN)
