"""Findings about service addresses, and the lines of `inspect --why` for one."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import pytest
from fakes.balancing import World, packed, service_address
from fakes.registry import H1, H2, H3, endpoint

from netagent.datapath.sockets.adoption import NAMES
from netagent.datapath.sockets.layout import Member, ServiceEntry, pack_ports, pack_service
from netagent.doctor.checks.object_status import State
from netagent.doctor.checks.service_checks import (
    MOST_NAMED,
    NO_ROOM,
    ServiceFacts,
    SocketFacts,
    service_findings,
)
from netagent.doctor.explain_service import MOST_SHOWN, replica_reasons, service_lines
from netagent.model.locality import Balance
from netagent.model.records import Drain, Health, ServicePort
from netgossip.slices import at_once

ONE = Member(7, 1161)


@pytest.fixture
def world() -> World:
    world = World()
    world.put(H1, service_address(ports=(ServicePort(80, 8080),)))
    world.put(H2, endpoint(1, offset=11))
    world.put(H3, endpoint(2, offset=12))
    world.build()
    return world


def seen(world: World, **fields: Any) -> SocketFacts:
    """A kernel that is as it should be, but for the fields."""
    entries = world.kernel.values()
    facts = SocketFacts(
        programs=frozenset(NAMES.values()),
        services={entry.address: pack_service(entry) for entry in entries},
        ports={key: value for entry in entries for key, value in pack_ports(entry).items()},
        members=frozenset([ONE]),
    )
    return dataclasses.replace(facts, **fields)


def texts(world: World, kernel: SocketFacts, **fields: Any) -> list[str]:
    facts = ServiceFacts(
        wanted=world.kernel, members=frozenset([ONE]), seen=kernel, trouble=None, resets=None
    )
    facts = dataclasses.replace(facts, **fields)
    return [one.message for one in service_findings(facts, lambda _address: "web in network app")]


def test_a_kernel_as_it_should_be_has_no_finding(world: World) -> None:
    assert texts(world, seen(world)) == []


def test_a_host_that_leads_nothing_needs_nothing(world: World) -> None:
    broken = SocketFacts(problem="no right")
    assert texts(world, broken, trouble="no right", members=frozenset()) == []
    assert texts(world, broken, trouble="no right", wanted={}) == []


def test_each_difference_is_named(world: World) -> None:
    old, new = packed("10.8.0.5", "fd00:8::5")
    whole = seen(world)
    without = {one: value for one, value in whole.services.items() if one != old}
    assert texts(world, seen(world, services=without)) == [
        "service address 10.8.0.5 (web in network app) is missing"
    ]
    other = ServiceEntry(
        new, world.kernel[new].network, world.kernel[new].places[:1], (ServicePort(80, 8080),)
    )
    assert texts(world, seen(world, services={**whole.services, new: pack_service(other)})) == [
        "service address fd00:8::5 (web in network app) is altered"
    ]
    stray = ServiceEntry(packed("10.8.0.9")[0], 1, ())
    assert texts(world, seen(world, services={**whole.services, stray.address: pack_service(stray)})) == [
        "service address 10.8.0.9 (web in network app) is left over"
    ]
    assert len(texts(world, seen(world, ports={}))) == 2
    assert texts(world, seen(world, programs=frozenset(NAMES.values()) - {"netagent_conn4"})) == [
        "program netagent_conn4 is not attached at the root of the control groups"
    ]
    assert texts(world, seen(world, members=frozenset([Member(8, 1161)]))) == [
        "1 of these namespaces the kernel does not know that they use service addresses",
        "1 namespaces use service addresses that should not",
    ]


def test_why_a_host_leads_nothing_is_said_once(world: World) -> None:
    (text,) = texts(world, SocketFacts(), trouble="the kernel is too old")
    assert text.endswith("not led to replicas on this host: the kernel is too old")
    (text,) = texts(world, seen(world), resets="no CONFIG_INET_DIAG_DESTROY")
    assert "no CONFIG_INET_DIAG_DESTROY" in text
    (text,) = texts(world, SocketFacts(problem="no right"))
    assert text == "the programs cannot be read: no right"


def test_an_address_without_room_is_said_with_the_cause(world: World) -> None:
    old, _ = packed("10.8.0.5", "fd00:8::5")
    without = {one: value for one, value in seen(world).services.items() if one != old}
    full = seen(world, services=without)
    refused = {old: "the kernel's table is full"}
    assert texts(world, full, refused=refused) == [
        "service address 10.8.0.5 (web in network app) is missing: the kernel's table is full"
    ]
    (line,) = service_lines([world.kernel[old]], full, (), "", refused)
    assert (line.state, line.reason, line.fix) == (State.MISSING, "the kernel's table is full", NO_ROOM)
    (line,) = service_lines([world.kernel[old]], seen(world), (), "", refused)
    assert (line.state, line.reason) == (State.PRESENT, "")


def test_many_differences_are_counted(world: World) -> None:
    strays = {bytes([10, 8, 1, number]): bytes(264) for number in range(MOST_NAMED + 5)}
    found = texts(world, seen(world, services={**seen(world).services, **strays}))
    assert len(found) == MOST_NAMED + 1
    assert found[-1] == "5 more are wrong"


def lines(world: World, idle: str = "", **fields: Any) -> list[tuple[str, State, str]]:
    record = service_address(**fields)
    replicas = at_once(replica_reasons(world.view, record))
    entries = [world.kernel[one] for one in packed(*record.addresses)]
    return [
        (one.thing, one.state, one.reason) for one in service_lines(entries, seen(world), replicas, idle, {})
    ]


def test_each_replica_has_its_places_or_a_reason(world: World) -> None:
    host_text = "gets no answer from h3 over the overlay, and there are others"
    world.put(H2, endpoint(3, offset=13, weight=0), endpoint(4, offset=14, drain=Drain(1, "anna")))
    world.put(H2, endpoint(5, offset=15, health=Health.STARTING))
    world.view = world.view.with_unreached(frozenset([H3]))
    world.build()
    found = lines(world)
    assert found[:3] == [
        ("10.8.0.5 leads to 1 backend", State.PRESENT, ""),
        ("fd00:8::5 leads to 1 backend", State.PRESENT, ""),
        ("web1 on h2 has 64 of 64 places", State.PRESENT, ""),
    ]
    reasons = {thing: reason for thing, _, reason in found[3:]}
    assert reasons == {
        "web2 on h3 has no place": f"this host {host_text}",
        "web3 on h2 has no place": "its weight is 0",
        "web4 on h2 has no place": "hidden: drained by anna, since 1970-01-01 00:00:01 UTC",
        "web5 on h2 has no place": "hidden: its health check has not succeeded yet",
    }


def test_what_the_balance_leaves_out_says_so(world: World) -> None:
    world.put(H1, service_address(balance=Balance.FIRST, ports=(ServicePort(80, 8080),)))
    world.build()
    found = lines(world, balance=Balance.FIRST)
    assert found[-1] == (
        "web2 on h3 has no place",
        State.NOT_NEEDED,
        "the service leads to its first replica: the one with the most weight",
    )


def test_a_host_that_does_not_translate_says_why(world: World) -> None:
    assert {(state, reason) for _, state, reason in lines(world, idle="the kernel is too old")} == {
        (State.NOT_NEEDED, "the kernel is too old")
    }


def test_many_replicas_are_counted(world: World) -> None:
    for number in range(3, 40):
        world.put(H2, endpoint(number, offset=number + 10, weight=1))
    world.build()
    found = Counter("more" in thing for thing, _, _ in lines(world))
    assert found == {False: 2 + MOST_SHOWN, True: 1}
