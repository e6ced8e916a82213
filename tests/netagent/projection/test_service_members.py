"""Namespaces become members after their routes and before their names, and stay until no name leads there."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import replace

import pytest
import trio
from fakes.registry import H1, H2, N1, N2, Writer, host, network
from fakes.rows import local_row
from fakes.virtual import virtual
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from netagent.datapath.endpoint.attach import RoutedRanges
from netagent.datapath.reconcile.host_service_routes import HostRoutes, HostServiceRoutes
from netagent.datapath.sockets.layout import Member
from netagent.datapath.sockets.service_tables import ServiceTables
from netagent.journal.rows import Bound, LocalEndpointRow, Published
from netagent.model.ids import NetworkId
from netagent.model.records import HostAddressRecord, Record, ServiceRangeRecord
from netagent.model.sandbox import Netns, SandboxId
from netagent.projection.service_members import SETTLE_S, ServiceMembers
from netagent.projection.service_ranges import RangesHere, ranges_here
from netagent.registry.state_store import StateStore
from netagent.registry.view import RegistryView

RANGES1 = ("10.2.0.0/24", "fd00:2::/64")
RANGES2 = ("10.4.0.0/24", "fd00:4::/64")
VNI1, VNI2 = network(N1).vni, network(N2).vni
GONE = b"\x0a\0\0\1"
HOST_COOKIE, HOST = 1, Netns("/proc/self/ns/net", (4, 1), "b" * 32)


NUMBERS = st.integers(1, 4)
NETWORKS = st.sampled_from([N1, N2])
THEN = st.sampled_from([True, False, None])
"""Whether a table is published after a change, and whether the resolver process confirms it."""


class Tables(ServiceTables):
    """The kernel's members, and what was done in which order."""

    def __init__(self, members: Iterable[Member] = ()) -> None:
        self.members = frozenset(members)
        self.is_working = True
        self.steps: list[str] = []

    @property
    def usable_members(self) -> Set[Member]:
        return self.members if self.is_working else frozenset()

    def is_usable(self, member: Member) -> bool:
        return self.is_working and member in self.members

    async def used_members(self, backends: Iterable[bytes]) -> list[Member]:
        return list(self.members) if GONE in backends else []

    async def set_members(self, members: Iterable[Member]) -> None:
        self.members = frozenset(members)
        self.steps.append("members")


class HostsRoutes(HostServiceRoutes):
    def __init__(self) -> None:
        self.bridges: set[str] = set()

    def has_routes(self, bridge: str) -> bool:
        return bridge in self.bridges


class World:
    """One host with sandboxes by number, whose cookie is 100 and the number."""

    def __init__(self, *members: Member) -> None:
        self.tables = Tables(members)
        self.routed = RoutedRanges()
        self.host_routes = HostsRoutes()
        self.is_on = True
        self.known_cookies = True
        self.without_socket: set[int] = set()
        self.cookies: dict[int, int] = {}
        """Of sandboxes that have another one."""
        self.writers = {H1: Writer(H1), H2: Writer(H2)}
        self.live = StateStore(RegistryView(H1), {})
        self.members = ServiceMembers(
            self.tables,
            self.routed,
            self.host_routes,
            cookie_of=self._cookie_of,
            host=HOST,
            host_cookie=HOST_COOKIE,
            is_on=lambda: self.is_on,
            wake=self.live.note_change,
        )
        self.write(host(), network(N1), network(N2, "other", subnets=("10.3.0.0/24", "fd00:3::/64")))

    def _cookie_of(self, sandbox_id: SandboxId) -> int | None:
        number = int(sandbox_id.rpartition("-")[2])
        if not self.known_cookies or number in self.without_socket:
            return None
        return self.cookies.get(number, 100 + number)

    def write(self, *records: Record) -> None:
        for record in records:
            event = self.writers[H1].put(record)
            self.live.update_view(lambda view, event=event: view.with_entries(event))  # type: ignore[misc]

    def withdraw(self, record: Record) -> None:
        self.live.update_view(lambda view: view.with_entries(self.writers[H1].delete(record)))

    async def publish(self, *, confirmed: bool = True) -> dict[int, set[NetworkId]]:
        """One round of the loop of names; what the table says of each sandbox that translates."""
        await self.members.follow(self.live.now)
        self.tables.steps.append("names")
        if confirmed:
            await self.members.note_told()
        boxes = {row.sandbox_id for row in self.live.rows.values() if row.sandbox_id is not None}
        return {
            int(box.rpartition("-")[2]): set(self.members.translates(box))
            for box in boxes
            if self.members.translates(box)
        }


def netns(number: int) -> Netns:
    return Netns(f"/run/netns/c{number}", (4, number), "b" * 32)


def row(number: int, network_id: NetworkId = N1, box: int | None = None) -> LocalEndpointRow:
    stage = Published(netns(number if box is None else box), f"eth{number}")
    return local_row(f"{number:032x}", network_id, stage=stage)


def member(number: int, vni: int = VNI1) -> Member:
    return Member(100 + number, vni)


@virtual
async def test_a_sandbox_translates_once_it_has_routes_and_the_kernel_has_it_as_a_member() -> None:
    world = World()
    world.live.set_row(row(1))
    world.routed.note(row(1).endpoint_id, ())
    assert await world.publish() == {}
    world.write(ServiceRangeRecord(N1, RANGES1))
    assert await world.publish() == {}
    assert world.tables.members == frozenset()
    world.routed.note(row(1).endpoint_id, RANGES1)
    world.tables.steps.clear()
    assert await world.publish() == {1: {N1}}
    assert world.tables.steps == ["members", "names"]
    world.tables.is_working = False
    world.members.note_kernel_changed()
    assert await world.publish() == {}
    assert world.tables.members == {member(1)}
    world.tables.is_working = True
    world.members.note_kernel_changed()
    assert await world.publish() == {1: {N1}}


@virtual
async def test_a_member_is_struck_after_its_names() -> None:
    world = World()
    world.write(ServiceRangeRecord(N1, RANGES1))
    world.live.set_row(row(1))
    world.routed.note(row(1).endpoint_id, RANGES1)
    world.live.set_row(row(2))
    world.routed.note(row(2).endpoint_id, RANGES1)
    assert await world.publish() == {1: {N1}, 2: {N1}}
    leaving = row(1)
    world.live.set_row(replace(leaving, stage=Bound(netns(1), "eth1")))
    world.tables.steps.clear()
    assert await world.publish(confirmed=False) == {2: {N1}}
    assert world.tables.members == {member(1), member(2)}
    assert await world.publish() == {2: {N1}}
    assert world.tables.members == {member(2)}
    assert world.tables.steps == ["names", "names", "members"]
    world.live.drop_row(leaving.endpoint_id)
    assert await world.publish() == {2: {N1}}


@virtual
async def test_of_two_networks_each_is_judged_for_itself() -> None:
    world = World()
    world.write(ServiceRangeRecord(N1, RANGES1), ServiceRangeRecord(N2, RANGES2))
    world.live.set_row(row(1, N1, box=7))
    world.live.set_row(row(2, N2, box=7))
    world.routed.note(row(1).endpoint_id, RANGES1)
    world.routed.note(row(2).endpoint_id, ())
    assert await world.publish() == {7: {N1}}
    world.routed.note(row(2).endpoint_id, RANGES2)
    assert await world.publish() == {7: {N1, N2}}
    assert world.tables.members == {member(7), member(7, VNI2)}
    assert await world.members.users([GONE]) == ([netns(7)], True)
    # As a start finds it before the cookies of all sandboxes are known.
    world.tables.members |= {Member(99_999, VNI1)}
    assert await world.members.users([GONE]) == ([netns(7)], False)
    world.tables.members -= {Member(99_999, VNI1)}
    world.withdraw(ServiceRangeRecord(N1, RANGES1))
    assert await world.publish() == {7: {N2}}
    assert world.tables.members == {member(7, VNI2)}


@virtual
async def test_after_a_start_what_the_kernel_has_stays_until_it_was_looked_at() -> None:
    world = World(member(1), member(2), member(9))
    world.write(ServiceRangeRecord(N1, RANGES1))
    for number in (1, 2):
        world.live.set_row(row(number))
    assert await world.publish() == {1: {N1}, 2: {N1}}
    assert world.tables.members == {member(1), member(2)}
    world.routed.note(row(2).endpoint_id, ())  # refused
    assert await world.publish() == {1: {N1}}


@virtual
async def test_a_namespace_whose_cookie_is_not_known_yet_follows() -> None:
    world = World()
    world.write(ServiceRangeRecord(N1, RANGES1))
    world.known_cookies = False
    world.live.set_row(row(1))
    assert await world.publish() == {}
    world.known_cookies = True
    world.live.note_change()
    assert await world.publish() == {1: {N1}}


@pytest.mark.parametrize("has_socket", [True, False], ids=["socket there", "socket later"])
@virtual
async def test_a_container_at_a_reused_inode_gets_its_own_cookie(has_socket: bool) -> None:
    world = World()
    world.write(ServiceRangeRecord(N1, RANGES1))
    world.live.set_row(row(1, box=7))
    assert await world.publish() == {7: {N1}}
    world.live.drop_row(row(1).endpoint_id)
    world.live.set_row(row(2, box=7))
    world.cookies[7] = 900
    if not has_socket:
        world.without_socket = {7}
        assert await world.publish() == {}
        assert world.tables.members == frozenset()
        world.without_socket = set()
        world.live.note_change()
    assert await world.publish() == {7: {N1}}
    assert world.tables.members == {Member(900, VNI1)}


@virtual
async def test_the_cookie_goes_with_the_last_row_also_when_a_range_changes_at_once() -> None:
    world = World()
    world.write(ServiceRangeRecord(N1, RANGES1))
    world.live.set_row(row(1))
    assert await world.publish() == {1: {N1}}
    world.live.drop_row(row(1).endpoint_id)
    world.write(ServiceRangeRecord(N2, RANGES2))
    assert await world.publish() == {}
    world.without_socket = {1}
    world.live.set_row(
        row(1)
    )  # under the same endpoint id, so that nothing but the dropped cookie tells them apart
    assert await world.publish() == {}
    assert world.tables.members == frozenset()


@virtual
async def test_a_sandbox_stays_a_member_while_its_socket_is_away() -> None:
    world = World()
    world.write(ServiceRangeRecord(N1, RANGES1))
    world.live.set_row(row(1))
    assert await world.publish() == {1: {N1}}
    world.without_socket = {1}
    world.live.set_row(replace(row(1), weight=7))
    assert await world.publish() == {1: {N1}}
    assert world.tables.members == {member(1)}


@virtual
async def test_after_a_start_without_sockets_members_stay_until_all_cookies_are_known() -> None:
    world = World(member(1), member(2), member(9))
    world.write(ServiceRangeRecord(N1, RANGES1))
    for number in (1, 2):
        world.live.set_row(row(number))
    world.without_socket = {1, 2}
    assert await world.publish() == {}
    assert world.tables.members == {member(1), member(2), member(9)}
    world.without_socket = {2}
    world.live.note_change()
    assert await world.publish() == {1: {N1}}
    assert world.tables.members == {member(1), member(2), member(9)}
    world.without_socket = set()
    world.live.note_change()
    assert await world.publish() == {1: {N1}, 2: {N1}}
    assert world.tables.members == {member(1), member(2)}


@virtual
async def test_after_a_start_members_do_not_wait_for_ever_for_a_socket() -> None:
    world = World(member(1), member(9))
    world.write(ServiceRangeRecord(N1, RANGES1))
    world.live.set_row(row(1))
    world.without_socket = {1}
    await world.publish()
    await trio.sleep(SETTLE_S - 0.1)
    await world.publish()
    assert world.tables.members == {member(1), member(9)}
    await trio.sleep(0.1)
    await world.publish()
    assert world.tables.members == frozenset()


@virtual
async def test_switched_off_at_a_start_without_sockets_members_go_after_the_names() -> None:
    world = World(member(1))
    world.write(ServiceRangeRecord(N1, RANGES1))
    world.live.set_row(row(1))
    world.without_socket = {1}
    world.is_on = False
    await world.publish(confirmed=False)
    assert world.tables.members == {member(1)}
    await world.publish()
    assert world.tables.members == frozenset()


@pytest.mark.parametrize("is_new", [False, True], ids=["in its life", "at its start"])
@virtual
async def test_switched_off_names_go_first_then_members_then_routes(is_new: bool) -> None:
    world = World(*([member(1)] if is_new else []))
    world.write(ServiceRangeRecord(N1, RANGES1))
    world.live.set_row(row(1))
    if not is_new:
        assert await world.publish() == {1: {N1}}
    world.is_on = False
    world.live.note_change()
    assert await world.publish(confirmed=False) == {}
    assert world.tables.members == {member(1)}
    assert world.members.ranges(world.live.view) == {N1: RANGES1}
    revision = world.live.revision
    assert await world.publish() == {}
    assert world.tables.members == frozenset()
    assert world.live.revision > revision, "the routes follow at once"
    assert world.members.ranges(world.live.view) == {}
    world.is_on = True
    assert await world.publish() == {1: {N1}}
    assert world.members.ranges(world.live.view) == {N1: RANGES1}


@virtual
async def test_the_host_is_a_member_where_it_has_an_address_and_routes() -> None:
    world = World()
    world.write(ServiceRangeRecord(N1, RANGES1), ServiceRangeRecord(N2, RANGES2))
    assert world.members.host_routes(world.live.view) == []
    world.write(HostAddressRecord(N1, 9, "06:00:00:00:00:01"))
    (wanted,) = world.members.host_routes(world.live.view)
    assert wanted == HostRoutes(wanted.bridge, VNI1, RANGES1, ("10.1.0.9", "fd00:1::9"))
    await world.publish()
    assert world.tables.members == frozenset()
    world.host_routes.bridges = {wanted.bridge}
    await world.publish()
    assert world.tables.members == {Member(HOST_COOKIE, VNI1)}
    assert await world.members.users([GONE]) == ([HOST], True)
    assert world.members.translates_for_host(world.live.view) == {N1}
    world.is_on = False
    await world.publish()
    assert world.tables.members == frozenset()
    assert world.members.translates_for_host(world.live.view) == frozenset()
    assert world.members.host_routes(world.live.view) == []


def test_a_range_that_overlaps_a_route_of_this_host_is_not_used_here() -> None:
    world, here = World(), RangesHere()
    world.write(ServiceRangeRecord(N1, RANGES1))
    before = here.of(world.live.view)
    assert before == {N1: RANGES1}
    world.write(host(routes=("172.17.0.0/16",)))
    assert here.of(world.live.view) is before
    world.write(host(routes=("10.2.0.0/16", "172.17.0.0/16")))
    assert here.of(world.live.view) == {} == ranges_here(world.live.view)


class Steps(RuleBasedStateMachine):
    """What is made step by step is what the rows, ranges and routes of the moment say; and no name leads to a service
    address in a namespace that is no member."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.told: dict[SandboxId, frozenset[Member]] = {}
        """By the tables that the resolver process may have: the last that it has confirmed, and those after it."""

    @initialize()
    def begin(self) -> None:
        self.have_range(N1, there=True, then=None)
        for number in (1, 2):
            self.world.live.set_row(row(number))

    @rule(number=NUMBERS, network_id=NETWORKS, box=NUMBERS, published=st.booleans(), then=THEN)
    def put(
        self, number: int, network_id: NetworkId, box: int, *, published: bool, then: bool | None
    ) -> None:
        made = row(number, network_id, box=box)
        self.world.live.set_row(made if published else replace(made, stage=Bound(netns(box))))
        self._publish(then)

    @rule(number=NUMBERS, then=THEN)
    def drop(self, number: int, then: bool | None) -> None:
        self.world.live.drop_row(row(number).endpoint_id)
        self.world.routed.note(row(number).endpoint_id, None)
        self._publish(then)

    @rule(
        number=NUMBERS, ranges=st.sampled_from([(), RANGES1, RANGES2, (*RANGES1, *RANGES2), None]), then=THEN
    )
    def route(self, number: int, ranges: tuple[str, ...] | None, then: bool | None) -> None:
        self.world.routed.note(row(number).endpoint_id, ranges)
        self._publish(then)

    @rule(network_id=NETWORKS, there=st.booleans(), then=THEN)
    def have_range(self, network_id: NetworkId, *, there: bool, then: bool | None) -> None:
        record = ServiceRangeRecord(network_id, RANGES1 if network_id == N1 else RANGES2)
        (self.world.write if there else self.world.withdraw)(record)
        self._publish(then)

    @rule(is_on=st.booleans(), works=st.booleans(), known=st.booleans(), then=THEN)
    def turn(self, *, is_on: bool, works: bool, known: bool, then: bool | None) -> None:
        self.world.is_on, self.world.known_cookies = is_on, known
        self.world.live.note_change()
        if works is not self.world.tables.is_working:
            self.world.tables.is_working = works
            self.world.members.note_kernel_changed()
        self._publish(then)

    def _publish(self, confirmed: bool | None) -> None:
        if confirmed is None:
            return
        world = self.world
        trio.run(world.members.follow, world.live.now)
        boxes = {row.sandbox_id for row in world.live.rows.values() if row.sandbox_id is not None}
        says = {box: frozenset(self._members(box, world.members.translates(box))) for box in boxes}
        for box in {*says, *self.told}:
            self.told[box] = self.told.get(box, frozenset()) | says.get(box, frozenset())
        assert not world.tables.is_working or frozenset().union(*self.told.values()) <= world.tables.members
        if confirmed:
            trio.run(world.members.note_told)
            self.told = says
        if world.known_cookies:
            wanted = {box: self._wanted(box) for box in boxes}
            working = world.tables.is_working
            assert says == {
                box: frozenset(self._members(box, wanted[box] if working else ())) for box in boxes
            }
            if confirmed and world.tables.is_working:
                expected = {one for box in boxes for one in self._members(box, wanted[box])}
                assert world.tables.members == expected

    def _members(self, box: SandboxId, networks: Iterable[NetworkId]) -> list[Member]:
        return [member(int(box.rpartition("-")[2]), network(one).vni) for one in networks]

    def _wanted(self, box: SandboxId) -> set[NetworkId]:
        world, found = self.world, set()
        ranges = ranges_here(world.live.view) if world.is_on else {}
        for one in world.live.rows.values():
            routed = world.routed.of(one.endpoint_id)
            subnets = {*ranges.get(one.network_id, ())}
            if (
                one.sandbox_id == box
                and one.is_published
                and subnets
                and (routed is None or subnets & routed)
            ):
                found.add(one.network_id)
        return found


TestSteps = Steps.TestCase
TestSteps.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
