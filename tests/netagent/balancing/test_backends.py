"""Backends: exactly the replicas that names lead to."""

from __future__ import annotations

import ipaddress
from typing import Any

from fakes.external import at, service
from fakes.names import ask, source_of
from fakes.registry import H1, H2, H3, N1, EndpointFields, Writer, endpoint, host, network
from fakes.zone import whole_table
from hypothesis import given
from hypothesis import strategies as st

from netagent.balancing.backends import Backend, backends_of, next_step_s, weights_at
from netagent.model.ids import HostId
from netagent.model.locality import AnswerOrder, Balance
from netagent.model.records import (
    AttachmentRecord,
    Drain,
    Group,
    Health,
    HealthNote,
    HostAddressRecord,
    HostProgram,
    Record,
    ServiceAddressRecord,
    ServiceKey,
    ServicePort,
)
from netagent.model.sandbox import Sandbox, SandboxId
from netagent.registry.view import RegistryView
from netgossip.slices import at_once
from netgossip.types import Member, MemberState

ORDERS = {
    Balance.SPREAD: AnswerOrder.SPREAD,
    Balance.NEAREST: AnswerOrder.NEAREST,
    Balance.ZONE: AnswerOrder.ZONE,
}
BOX = Sandbox(sandbox_id=SandboxId("c"), networks=(N1,))
WEB = ServiceAddressRecord(N1, ServiceKey("web"), ("10.9.0.5", "fd00:9::5"))


class World:
    """Three hosts and a network."""

    def __init__(self) -> None:
        self.view = RegistryView(H1)
        self.writers = {one: Writer(one) for one in (H1, H2, H3)}
        for number, one in enumerate((H1, H2, H3), start=1):
            self.put(one, host(f"h{number}", underlay=f"192.0.2.{number}"))
        self.put(H1, network(), AttachmentRecord(N1))

    def put(self, owner: HostId, *records: Record) -> None:
        for record in records:
            self.view = self.view.with_entries(self.writers[owner].put(record))

    def delete(self, owner: HostId, *records: Record) -> None:
        for record in records:
            self.view = self.view.with_entries(self.writers[owner].delete(record))

    def backends(self, record: ServiceAddressRecord = WEB) -> list[Backend]:
        return at_once(backends_of(self.view, record))

    def led_to(self, record: ServiceAddressRecord = WEB, octets: int = 4) -> list[str]:
        found = (one.address(octets) for one in self.backends(record))
        return sorted(str(ipaddress.ip_address(one)) for one in found if one)

    def named(self, name: str, rtype: str = "A") -> list[str]:
        said = ask(source_of(whole_table(self.view, (BOX,), "mesh.internal")), name, rtype)
        return sorted(said) if isinstance(said, list) else []


def with_fields(**fields: object) -> ServiceAddressRecord:
    return ServiceAddressRecord(N1, ServiceKey("web"), WEB.addresses, **fields)  # type: ignore[arg-type]


OWNERS = st.sampled_from([H1, H2, H3])
HEALTH = st.sampled_from(Health)
NOTES = st.none() | st.builds(HealthNote, since_s=st.just(1), keeps_names=st.booleans())
ENDPOINTS = st.lists(
    st.tuples(
        OWNERS,
        st.fixed_dictionaries(
            {
                "service": st.sampled_from(["web", "web", "db"]),
                "health": HEALTH,
                "health_note": NOTES,
                "drain": st.none() | st.none() | st.just(Drain(1, "anna")),
                "weight": st.integers(0, 3),
            }
        ),
    ),
    max_size=6,
)
HOSTS = st.fixed_dictionaries(
    {
        "zone": st.sampled_from(["", "Rack 1", "rack-2"]),
        "going_down": st.sampled_from([False, False, True]),
        "drain": st.none() | st.none() | st.just(Drain(1, "anna")),
    }
)
SEEN = st.tuples(
    st.sampled_from(MemberState), st.sampled_from([None, True, False]), st.sampled_from([None, 1, 4])
)


@given(
    endpoints=ENDPOINTS,
    hosts=st.tuples(HOSTS, HOSTS, HOSTS),
    seen=st.tuples(SEEN, SEEN),
    unreached=st.frozensets(st.sampled_from([H2, H3])),
    balance=st.sampled_from(sorted(ORDERS, key=str)),
    in_group=st.booleans(),
)
def test_connections_are_led_where_names_lead(
    *,
    endpoints: list[tuple[HostId, dict[str, Any]]],
    hosts: tuple[dict[str, Any], ...],
    seen: tuple[tuple[MemberState, bool | None, int | None], ...],
    unreached: frozenset[HostId],
    balance: Balance,
    in_group: bool,
) -> None:
    world = World()
    group = Group("shop", "web") if in_group else None
    world.put(H1, network(answer=ORDERS[balance], revision=1))
    for number, (owner, fields) in enumerate(zip((H1, H2, H3), hosts, strict=True), start=1):
        world.put(owner, host(f"h{number}", underlay=f"192.0.2.{number}", **fields))
    for number, (owner, one) in enumerate(endpoints, start=1):
        if in_group and one["service"] == "web":
            one |= {"service": f"web{number}", "group": group}
        world.put(owner, endpoint(number, offset=number + 10, **one))
    for other, (state, answers, distance) in zip((H2, H3), seen, strict=True):
        world.view = world.view.with_member(Member(other, ("192.0.2.9", 7956), state, 1))
        world.view = world.view.with_host_answers({other: answers}).with_distances({other: distance})
    world.view = world.view.with_unreached(unreached)
    record = ServiceAddressRecord(
        N1, ServiceKey("web", "shop" if in_group else None), WEB.addresses, balance=balance
    )
    name = "web.shop.app.mesh.internal" if in_group else "web.app.mesh.internal"
    assert world.led_to(record) == world.named(name)
    assert world.led_to(record, 16) == world.named(name, "AAAA")


def test_while_all_fail_a_service_may_keep_them() -> None:
    world = World()
    world.put(H2, endpoint(1, offset=11, health=Health.UNHEALTHY))
    world.put(H2, endpoint(2, offset=12, health=Health.UNHEALTHY, drain=Drain(1, "stop")))
    world.put(H3, endpoint(3, offset=13, health=Health.STARTING))
    assert world.led_to() == []
    assert world.led_to(with_fields(keeps_failing=True)) == ["10.1.0.11"]
    world.put(H3, endpoint(3, offset=13))
    assert world.led_to(with_fields(keeps_failing=True)) == ["10.1.0.13"]


def test_the_first_is_one_and_the_same_for_all_hosts() -> None:
    world = World()
    first = with_fields(balance=Balance.FIRST)
    world.put(H3, endpoint(1, offset=11), endpoint(2, offset=12))
    assert world.led_to(first) == ["10.1.0.11"]
    world.put(H2, endpoint(3, offset=13))
    assert world.led_to(first) == ["10.1.0.13"], "of equal weights the host with the smallest id"
    world.put(H3, endpoint(2, offset=12, weight=101, health=Health.HEALTHY, health_note=HealthNote(10**10)))
    assert world.led_to(first) == ["10.1.0.12"], "whatever its warm-up"
    world.view = world.view.with_unreached(frozenset([H3]))
    assert world.led_to(first) == ["10.1.0.13"]


def test_a_host_may_have_a_weight_of_its_own() -> None:
    world = World()
    world.put(H2, endpoint(1, offset=11))
    world.put(H3, endpoint(2, offset=12, weight=7))
    record = with_fields(host_weights=(("h3", 300), ("h9", 1)))
    assert {one.owner: one.weight for one in world.backends(record)} == {H2: 100, H3: 300}
    assert at_once(weights_at(world.backends(record), 4, 0)) == {
        bytes([10, 1, 0, 11]): 600,
        bytes([10, 1, 0, 12]): 1800,
    }


def test_a_share_grows_with_the_warm_up() -> None:
    world = World()
    world.put(H2, endpoint(1, offset=11))
    assert at_once(next_step_s(world.backends(), 1000)) is None
    up: EndpointFields = {"health": Health.HEALTHY, "health_note": HealthNote(1000)}
    world.put(H3, endpoint(2, offset=12, **up))
    shares = []
    now_s: int | None = 1000
    while now_s is not None:
        shares.append((now_s, at_once(weights_at(world.backends(), 4, now_s))[bytes([10, 1, 0, 12])]))
        now_s = at_once(next_step_s(world.backends(), now_s))
    assert shares == [(1000, 100), (1005, 200), (1010, 300), (1015, 400), (1020, 500), (1025, 600)]
    world.delete(H2, endpoint(1, offset=11))
    assert at_once(next_step_s(world.backends(), 1000)) is None, "one alone has every place anyway"


def test_an_external_service_stands_in_where_no_container_has_the_name() -> None:
    world = World()
    pg = ServiceAddressRecord(N1, ServiceKey("pg"), WEB.addresses)
    world.put(H2, service(1, target=at("203.0.113.50", "203.0.113.51")), service(2, target=at("2001:db8::1")))
    assert world.led_to(pg) == world.named("pg.app.mesh.internal") == ["203.0.113.50", "203.0.113.51"]
    assert world.led_to(pg, 16) == ["2001:db8::1"]
    world.put(H3, endpoint(1, offset=11, name="pg", service="pg", health=Health.STARTING))
    assert world.led_to(pg) == world.named("pg.app.mesh.internal") == []


def test_an_external_service_fits_if_its_port_is_the_one_that_is_led_to() -> None:
    world = World()
    world.put(H2, service(1, target=at("203.0.113.50")), service(2, target=at("203.0.113.51", port=None)))
    for ports, expected in (
        ((ServicePort(80, 5432),), ["203.0.113.50", "203.0.113.51"]),
        ((ServicePort(80, 80), ServicePort(5432, 5432)), ["203.0.113.51"]),
    ):
        assert (
            world.led_to(ServiceAddressRecord(N1, ServiceKey("pg"), WEB.addresses, ports=ports)) == expected
        )


def test_a_program_of_a_host_has_its_place() -> None:
    world = World()
    pg = ServiceAddressRecord(
        N1, ServiceKey("pg"), WEB.addresses, balance=Balance.NEAREST, host_weights=(("h2", 5),)
    )
    world.put(H1, network(host_access=True, revision=1))
    world.put(H2, HostAddressRecord(N1, 9, "02:00:00:00:00:09"), service(1, target=HostProgram(9100)))
    world.put(H3, service(2, target=at("203.0.113.50")))
    world.view = world.view.with_distances({H2: 3})
    assert world.led_to(pg) == ["10.1.0.9"]
    assert {one.weight for one in world.backends(pg)} == {5}
    world.view = world.view.with_unreached(frozenset([H2]))
    assert world.led_to(pg) == ["203.0.113.50"]
