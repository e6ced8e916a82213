"""Step by step or from scratch: whatever happens in whatever order, tables and windows show the same."""

from __future__ import annotations

import dataclasses
from typing import Any

from fakes.external import at, service
from fakes.registry import H1, H2, H3, N1, N2, Writer, endpoint, host, network
from fakes.service_addresses import service_address, service_range
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from netagent.control.present import Presenter
from netagent.model.ids import HostId, NetworkId
from netagent.model.records import Drain, Group, Health, Record, RemovalRecord
from netagent.page.cluster_tables import ClusterTables
from netagent.page.table_query import TableQuery
from netagent.page.window import (
    ENDPOINT_ORDERS,
    SERVICE_ORDERS,
    Window,
    is_endpoint_wanted,
    is_service_wanted,
)
from netagent.registry.view import RegistryView
from netgossip.slices import at_once
from netgossip.types import Member, MemberState

HOSTS = st.sampled_from([H1, H2, H3])
NETWORKS = st.sampled_from([N1, N2])
RANGES = {N1: 1, N2: 2}
"""Of service addresses."""
SERVICE_QUERIES = [
    TableQuery(),
    TableQuery(sort="state"),
    TableQuery(sort="replicas", is_descending=True, limit=2),
    TableQuery(words=("h1",), network="app"),
]
ENDPOINT_QUERIES = [
    TableQuery(),
    TableQuery(sort="host", is_descending=True, offset=1, limit=2),
    TableQuery(state="trouble"),
    TableQuery(words=("app",), host="h2"),
]


def shown(tables: ClusterTables) -> dict[str, Any]:
    """All that the tables hold but the versions of rows."""
    services = {
        row_id: {
            name.name: getattr(row, name.name) for name in dataclasses.fields(row) if name.name != "version"
        }
        for row_id, row in tables.services.items()
    }
    return {"endpoints": tables.endpoints, "services": services, "hosts": tables.hosts}


class StepByStep(RuleBasedStateMachine):
    """After any number of changes the tables follow; sometimes that is given up in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.view = RegistryView(H1)
        self.writers = {one: Writer(one) for one in (H1, H2, H3)}
        self.tables = ClusterTables()
        self.sets = self.tables.listen()
        self.services = [
            Window(self.tables.services, one, SERVICE_ORDERS, is_service_wanted) for one in SERVICE_QUERIES
        ]
        self.endpoints = [
            Window(self.tables.endpoints, one, ENDPOINT_ORDERS, is_endpoint_wanted)
            for one in ENDPOINT_QUERIES
        ]

    def put(self, owner: HostId, record: Record) -> None:
        self.view = self.view.with_entries(self.writers[owner].put(record))

    def delete(self, owner: HostId, record: Record) -> None:
        self.view = self.view.with_entries(self.writers[owner].delete(record))

    @initialize()
    def begin(self) -> None:
        for number, owner in enumerate((H1, H2, H3), start=1):
            self.put(owner, host(f"h{number}"))
        self.put(H1, network(N1, "app"))
        self.put(H1, network(N2, "back", subnets=("10.2.0.0/24", "fd00:2::/64")))
        for place, number in RANGES.items():
            self.put(H1, service_range(number, place))
        for number, (owner, place) in enumerate([(H1, N1), (H2, N1), (H2, N2), (H3, N2)], start=1):
            self.put(owner, endpoint(number, place, number + 1))
        self.follow()

    @rule(
        owner=HOSTS,
        name=st.sampled_from(["h1", "h2"]),
        going=st.booleans(),
        drain=st.none() | st.just(Drain(1, "anna")),
    )
    def host_record(self, owner: HostId, name: str, drain: Drain | None, *, going: bool) -> None:
        self.put(owner, host(name, going_down=going, drain=drain))

    @rule(owner=HOSTS)
    def host_gone(self, owner: HostId) -> None:
        self.delete(owner, host())

    @rule(network_id=NETWORKS, name=st.sampled_from(["app", "back"]))
    def network_record(self, network_id: NetworkId, name: str) -> None:
        self.put(H2, network(network_id, name, revision=1))

    @rule(network_id=NETWORKS, is_removed=st.booleans())
    def removal(self, network_id: NetworkId, *, is_removed: bool) -> None:
        (self.put if is_removed else self.delete)(H3, RemovalRecord(network_id))

    @rule(
        owner=HOSTS,
        number=st.integers(1, 6),
        place=NETWORKS,
        at=st.integers(2, 6),
        health=st.sampled_from(Health),
        drain=st.none() | st.just(Drain(1, "anna")),
        group=st.sampled_from([None, Group("shop", "db")]),
        links=st.sampled_from([(), ("db", "web")]),
    )
    def endpoint_record(self, owner: HostId, number: int, place: NetworkId, at: int, **fields: Any) -> None:
        # Few ids and addresses, so that they clash, move between hosts and networks, and come back.
        self.put(owner, endpoint(number, place, at, **fields))

    @rule(owner=HOSTS, number=st.integers(1, 6), place=NETWORKS)
    def endpoint_gone(self, owner: HostId, number: int, place: NetworkId) -> None:
        self.delete(owner, endpoint(number, place))

    @rule(
        owner=HOSTS,
        number=st.integers(1, 2),
        place=NETWORKS,
        name=st.sampled_from(["web", "pg"]),
        is_there=st.booleans(),
    )
    def external(self, owner: HostId, number: int, place: NetworkId, name: str, *, is_there: bool) -> None:
        record = service(number, place, name=name, target=at("203.0.113.50"))
        (self.put if is_there else self.delete)(owner, record)

    @rule(
        owner=HOSTS,
        place=NETWORKS,
        name=st.sampled_from(["web", "cache"]),
        offset=st.integers(5, 6),
        group=st.sampled_from([None, "shop"]),
        is_there=st.booleans(),
    )
    def own_address(
        self, owner: HostId, place: NetworkId, name: str, offset: int, group: str | None, *, is_there: bool
    ) -> None:
        record = service_address(name, offset, place, group=group, within=RANGES[place])
        (self.put if is_there else self.delete)(owner, record)

    @rule(owner=HOSTS, state=st.sampled_from(MemberState))
    def member(self, owner: HostId, state: MemberState) -> None:
        self.view = self.view.with_member(Member(owner, ("192.0.2.9", 1), state, 1))

    @rule(owner=HOSTS, answers=st.sampled_from([True, False, None]))
    def answer(self, owner: HostId, answers: bool | None) -> None:
        self.view = self.view.with_host_answers({owner: answers})

    @rule(unreached=st.frozensets(HOSTS))
    def probed(self, unreached: frozenset[HostId]) -> None:
        self.view = self.view.with_unreached(unreached)

    @rule(owner=HOSTS)
    def host_buried(self, owner: HostId) -> None:
        self.view = self.view.without_host(owner)
        self.writers[owner].sequence += 1

    @rule(slices=st.integers(0, 8))
    def follow_in_part(self, slices: int) -> None:
        following = self.tables.follow(Presenter(self.view, "mesh.internal"))
        for _ in range(slices):
            if next(following, "end") == "end":
                return
        following.close()

    @rule()
    def follow(self) -> None:
        present = Presenter(self.view, "mesh.internal")
        at_once(self.tables.follow(present))
        fresh = ClusterTables()
        at_once(fresh.follow(present))
        assert shown(self.tables) == shown(fresh)
        endpoints, services = self.sets
        for window in self.services:
            for row_id in services:
                window.look_again(row_id)
        for other in self.endpoints:
            for row_id in endpoints:
                other.look_again(row_id)
        services.clear()
        endpoints.clear()
        for window, query in zip(self.services, SERVICE_QUERIES, strict=True):
            new = Window(fresh.services, query, SERVICE_ORDERS, is_service_wanted)
            at_once(new.fill())
            assert (window.matching, window.in_sight()) == (new.matching, new.in_sight())
        for other, query in zip(self.endpoints, ENDPOINT_QUERIES, strict=True):
            newer = Window(fresh.endpoints, query, ENDPOINT_ORDERS, is_endpoint_wanted)
            at_once(newer.fill())
            assert (other.matching, other.in_sight()) == (newer.matching, newer.in_sight())

    def teardown(self) -> None:
        self.follow()


TestStepByStep = StepByStep.TestCase
TestStepByStep.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_a_service_that_has_only_an_address_is_down_and_there() -> None:
    """It has a row while it has its address, with replicas or without."""
    view, writer, tables = RegistryView(H1), Writer(H1), ClusterTables()

    def followed(*records: Record, gone: tuple[Record, ...] = ()) -> list[tuple[str, str, int]]:
        nonlocal view
        for record in records:
            view = view.with_entries(writer.put(record))
        for record in gone:
            view = view.with_entries(writer.delete(record))
        at_once(tables.follow(Presenter(view, "mesh.internal")))
        return [(row.title, row.word, row.total) for row in tables.services.values()]

    address = service_address("web")
    followed(host("h1"), network(N1, "app"), service_range())
    assert followed(address) == [("web.app", "down", 0)]
    assert followed(endpoint(1, service="web")) == [("web.app", "up", 1)]
    assert followed(gone=(endpoint(1),)) == [("web.app", "down", 0)]
    assert followed(gone=(address,)) == []


def test_what_follows_a_change_does_not_grow_with_the_endpoints() -> None:
    """20 or 240 endpoints: one of them changes, and as many slices follow."""

    def slices_for(count: int) -> int:
        view, writer = RegistryView(H1), Writer(H1)
        records: tuple[Record, ...] = (
            host("h1"),
            network(N1, "app"),
            *(endpoint(n, offset=n + 1) for n in range(1, count + 1)),
        )
        for record in records:
            view = view.with_entries(writer.put(record))
        assert len(view.endpoints) == count
        tables = ClusterTables()
        at_once(tables.follow(Presenter(view, "mesh.internal")))
        view = view.with_entries(writer.put(endpoint(7, offset=8, health=Health.UNHEALTHY)))
        return sum(1 for _ in tables.follow(Presenter(view, "mesh.internal")))

    assert slices_for(20) == slices_for(240) < 10
