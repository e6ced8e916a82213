"""Gone backends: withdrawn, or their host is dead; not those that are only led away from."""

from __future__ import annotations

import ipaddress

import pytest
from fakes.balancing import World, service_address
from fakes.registry import H1, H2, H3, N1, endpoint, host

from netagent.balancing.tables import ServiceTableBuilder
from netagent.model.ids import HostId
from netagent.model.records import STOP, Drain, ForgetRecord, Health
from netgossip.types import Member, MemberState

ONE = {"10.1.0.11", "fd00:1::b"}


@pytest.fixture
def world() -> World:
    world = World()
    world.put(H1, service_address())
    world.put(H2, endpoint(1, offset=11))
    world.put(H3, endpoint(2, offset=12))
    world.build()
    return world


def gone(world: World) -> set[str]:
    return {str(ipaddress.ip_address(one)) for one in world.build().gone}


def see(world: World, owner: HostId, state: MemberState, *, answers: bool) -> None:
    member = Member(owner, ("192.0.2.9", 7956), state, 1)
    world.view = world.view.with_member(member).with_host_answers({owner: answers})


def test_a_withdrawn_replica_is_gone_once(world: World) -> None:
    world.delete(H2, endpoint(1))
    assert gone(world) == ONE
    assert set(world.led_to()) == {"10.1.0.12"}, "and the table leads there no more"
    assert gone(world) == set()


def test_one_that_gets_no_new_connections_is_not_gone(world: World) -> None:
    for record in (
        endpoint(1, offset=11, health=Health.UNHEALTHY),
        endpoint(1, offset=11, drain=Drain(1, STOP)),
        endpoint(1, offset=11, weight=0),
        endpoint(1, offset=11, service="other"),
    ):
        world.put(H2, record)
        assert gone(world) == set()
        assert set(world.led_to()) == {"10.1.0.12"}
    world.view = world.view.with_unreached(frozenset([H2]))
    assert gone(world) == set()
    world.delete(H2, endpoint(1))
    assert gone(world) == ONE, "the connections that it had when it was drained end with it"


def test_a_dead_host_takes_its_replicas_along(world: World) -> None:
    see(world, H2, MemberState.DEAD, answers=True)
    assert gone(world) == set(), "a dead agent alone takes nothing along"
    see(world, H2, MemberState.DEAD, answers=False)
    assert gone(world) == ONE
    see(world, H2, MemberState.ALIVE, answers=True)
    assert gone(world) == set()
    assert set(world.led_to()) == {"10.1.0.11", "10.1.0.12"}
    world.put(H3, ForgetRecord(H2, settled=True))
    assert gone(world) == ONE


def test_a_host_that_is_about_to_go_is_not_gone(world: World) -> None:
    world.put(H2, host("h2", underlay="192.0.2.2", going_down=True))
    assert gone(world) == set()
    see(world, H2, MemberState.LEFT, answers=True)
    assert gone(world) == ONE


def test_a_service_may_keep_its_connections(world: World) -> None:
    world.put(H1, service_address(keeps_connections=True))
    world.build()
    world.delete(H2, endpoint(1))
    assert gone(world) == set()
    world.put(H1, service_address(offset=9))
    world.build()
    world.delete(H3, endpoint(2))
    assert gone(world) == {"10.1.0.12", "fd00:1::c"}, "another address of the service does not"


def test_a_replica_with_another_address_is_gone_from_the_first(world: World) -> None:
    world.put(H2, endpoint(1, offset=21))
    assert gone(world) == ONE
    assert "10.1.0.21" in world.led_to()


def test_an_address_that_another_replica_holds_by_now_is_not_gone(world: World) -> None:
    world.delete(H2, endpoint(1))
    world.put(H2, endpoint(3, offset=11))
    assert gone(world) == set()
    assert set(world.led_to()) == {"10.1.0.11", "10.1.0.12"}
    world.delete(H2, endpoint(3))
    assert gone(world) == ONE


def test_a_network_that_this_host_leaves_ends_nothing(world: World) -> None:
    world.taken = frozenset()
    assert gone(world) == set()
    assert world.kernel == {}
    world.view = world.view.without_some(bytes.fromhex(N1), 10)
    assert gone(world) == set()
    world.taken = frozenset([N1])
    assert gone(world) == set()


def test_what_died_while_the_agent_was_away_is_gone_at_its_start(world: World) -> None:
    kernel = dict(world.kernel)
    world.builder = ServiceTableBuilder(H1, lambda address: kernel[address].places)
    world.delete(H2, endpoint(1))
    assert gone(world) == ONE
    world.builder = ServiceTableBuilder(H1, lambda address: kernel[address].places)
    world.put(H1, service_address(keeps_connections=True))
    assert gone(world) == set()
