"""This host's record follows what it says."""

from __future__ import annotations

from ipaddress import ip_network
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing
from fakes.agent_host import AgentHost
from fakes.registry import H1, H2, H3, Writer, host
from fakes.virtual import virtual

from netagent.errors import FailedError
from netagent.membership.host_record import (
    LOOK_S,
    MAX_ROUTES,
    RETRY_S,
    HostRecordKeeper,
    host_record,
    version_of_others,
)
from netagent.model.ids import ClusterId, HostId
from netagent.model.records import Drain, HostRecord, Record
from netagent.registry.view import RegistryView
from netgossip.types import CLUSTER_SCOPE, Member, MemberState


class Routes:
    def __init__(self) -> None:
        self.now: tuple[str, ...] = ("10.0.0.0/8",)
        self.error: OSError | FailedError | None = None

    async def __call__(self) -> tuple[str, ...]:
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        return self.now


def own_host() -> tuple[AgentHost, Routes, HostRecordKeeper]:
    one, routes = AgentHost(), Routes()
    return (
        one,
        routes,
        HostRecordKeeper(live=one.live, publisher=one.publisher, base=host("h1"), routes=routes),
    )


@virtual
async def test_it_is_written_when_it_changes_and_only_then() -> None:
    one, routes, own = own_host()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(own.run)
        await trio.sleep(10 * LOOK_S)
        assert len(one.node.heard) == 1
        routes.now = tuple(sorted(f"10.{n // 256}.{n % 256}.0/24" for n in range(2 * MAX_ROUTES)))
        await trio.sleep(2 * LOOK_S)
        record = one.live.view.hosts[one.host_id].record
        assert record is not None
        assert record.routes == routes.now[:MAX_ROUTES]
        nursery.cancel_scope.cancel()


ROUTES = {
    "10.9.0.0/16",
    "10.10.0.0/16",
    "10.10.0.0/24",
    "172.16.0.0/12",
    "192.0.2.0/24",
    "2001:db8::/64",
    "2001:db8:0:1::/64",
}


@virtual
async def test_routes_are_published_in_any_order() -> None:
    """The kernel's order and that of the addresses are not that of a record, which is that of the texts."""
    one, routes, own = own_host()
    by_address = sorted(map(ip_network, ROUTES), key=lambda n: (n.version, int(n[0]), n.prefixlen))
    routes.now = tuple(map(str, by_address))
    assert list(routes.now) != sorted(routes.now)
    await own.publish()
    (record,) = one.live.view.records_of(one.host_id, CLUSTER_SCOPE)
    assert isinstance(record, HostRecord)
    assert set(record.routes) == ROUTES
    await own.publish()
    assert len(one.node.heard) == 1, "the same again"


@virtual
async def test_a_move_that_could_not_be_published_is_published_soon() -> None:
    one, routes, own = own_host()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(own.run)
        await trio.sleep(LOOK_S + 1)  # `run` has just looked
        routes.error = OSError("netlink")
        with pytest.raises(OSError, match="netlink"):
            await own.move("192.0.2.77")
        routes.error = None
        await trio.sleep(2 * RETRY_S)
        assert one.live.view.hosts[one.host_id].address == "192.0.2.77"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("error", [OSError("netlink"), FailedError("disk")], ids=["kernel", "disk"])
@virtual
async def test_what_fails_is_tried_again(error: OSError | FailedError) -> None:
    one, routes, own = own_host()
    routes.error = error
    async with trio.open_nursery() as nursery:
        nursery.start_soon(own.run)
        await trio.sleep(5 * LOOK_S)
        routes.error = None
        await trio.sleep(2 * LOOK_S)
        assert one.live.view.hosts[one.host_id].name == "h1"
        nursery.cancel_scope.cancel()


@virtual
async def test_a_drain_goes_on_until_it_is_taken_back_and_fails_as_a_whole() -> None:
    one, routes, own = own_host()
    await own.set_drain(Drain(60, "anna"))
    assert one.live.view.drain_of_host(one.host_id) == Drain(60, "anna")
    assert not one.live.view.is_host_hidden(one.host_id)
    routes.error = FailedError("disk")
    with pytest.raises(FailedError):
        await own.set_drain(None)
    assert own.drain == one.live.view.drain_of_host(one.host_id) == Drain(60, "anna")
    routes.error = None
    await own.set_drain(None)
    assert one.live.view.drain_of_host(one.host_id) is None


@virtual
async def test_an_undrain_waits_for_the_drain_that_is_being_written() -> None:
    one, _, own = own_host()
    await own.publish()
    written = trio.Event()

    async def put(*records: Record) -> None:
        await written.wait()
        await one.publisher.put(*records)

    own.publisher = cast("Any", SimpleNamespace(put=put))
    async with trio.open_nursery() as nursery:
        for wanted in (Drain(60, "anna"), Drain(70, "bob"), None):
            nursery.start_soon(own.set_drain, wanted)
            await trio.testing.wait_all_tasks_blocked()
        written.set()
    assert own.drain is one.live.view.drain_of_host(one.host_id) is None


@virtual
async def test_going_down_stays_so_while_the_host_leaves_and_afterwards() -> None:
    one, _, own = own_host()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(own.run)
        async with own.going_down():
            assert one.live.view.is_host_hidden(one.host_id)
            await trio.sleep(10 * LOOK_S)
            assert one.live.view.is_host_hidden(one.host_id)
        await trio.sleep(10 * LOOK_S)
        assert one.live.view.is_host_hidden(one.host_id)
        nursery.cancel_scope.cancel()


@virtual
async def test_a_leave_that_fails_brings_the_names_back() -> None:
    one, _, own = own_host()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(own.run)
        with pytest.raises(FailedError):
            async with own.going_down():
                raise FailedError("the kernel says no")
        await trio.sleep(2 * LOOK_S)
        assert not one.live.view.is_host_hidden(one.host_id)
        nursery.cancel_scope.cancel()


@virtual
async def test_names_lead_to_a_host_that_comes_back_only_after_it_has_arrived() -> None:
    one, _, own = own_host()
    own.is_starting = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(own.run)
        await trio.sleep(2 * LOOK_S)
        assert one.live.view.is_host_hidden(one.host_id)
        await own.arrive()
        assert not one.live.view.is_host_hidden(one.host_id)
        nursery.cancel_scope.cancel()


def test_the_record_of_a_host_is_valid_and_its_probe_address_its_own() -> None:
    records = [
        host_record(
            name="h1",
            public_key=bytes(32),
            underlay="192.0.2.1",
            vxlan_port=4799,
            zone="a",
            ids=(ClusterId("c1" * 16), HostId(f"{number:02x}" * 16)),
        )
        for number in (1, 2)
    ]
    assert records[0].probe_address != records[1].probe_address
    assert records[0].probe_mac != records[1].probe_mac


def test_the_others_family_is_that_of_those_who_did_not_leave() -> None:
    view = RegistryView(H1).with_entries(Writer(H1).put(host("h1", underlay="2001:db8::1")))
    assert version_of_others(view) is None, "no other host"
    view = view.with_entries(Writer(H2).put(host("h2", underlay="192.0.2.2")))
    assert version_of_others(view) == 4
    view = view.with_member(Member(H3, ("2001:db8::3", 7956), MemberState.ALIVE, 1))
    assert version_of_others(view) is None, "one of each"
    assert version_of_others(view.with_member(Member(H2, ("192.0.2.2", 7956), MemberState.DEAD, 1))) is None
    assert version_of_others(view.with_member(Member(H2, ("192.0.2.2", 7956), MemberState.LEFT, 2))) == 6
