"""Step by step or from scratch: whatever happens in whatever order, the desired state is the same."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from fakes.registry import H1, H2, H3, N1, N2, Writer, endpoint, host, network
from fakes.scratch_state import desired_state, network_inputs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from immutables import Map

from netagent.daemon.controllers import SandboxBuilder
from netagent.datapath.host.uplink import Underlay
from netagent.datapath.state import DesiredChange, EntryKey, KernelState, Table
from netagent.endpoints.validation import sandboxes
from netagent.journal.rows import Bound, LocalEndpointRow
from netagent.membership.participation import LeftHosts
from netagent.model.ids import ClusterId, EndpointId, HostId, NetworkId, veth_name
from netagent.model.records import (
    AttachmentRecord,
    ForgetRecord,
    HostAddressRecord,
    Policy,
    Record,
    RemovalRecord,
)
from netagent.model.sandbox import Netns, SandboxId
from netagent.projection.datapath_input import probe_input
from netagent.projection.desired_state import DesiredStateBuilder
from netagent.projection.firewall_input import InputCache, firewall_input
from netagent.registry.changelog import MAX_STEPS
from netagent.registry.state_store import Snapshot, StateStore
from netagent.registry.view import AgentState, RegistryView
from netgossip.slices import at_once
from netgossip.types import Member, MemberState

CLUSTER = ClusterId("c1" * 16)
PORT = 4799
HOME = Underlay("192.0.2.1", "eth0", 1500)
HOSTS = st.sampled_from([H2, H3])
NETWORKS = st.sampled_from([N1, N2])
NETS = st.sampled_from(["192.0.2.", "2001:db8::"])
"""Of the underlay: a host of the other family is at no tunnel's other end."""
TABLES: tuple[Table, ...] = ("neighbour", "master", "self", "flood")


def no_networks(sandbox_id: SandboxId) -> frozenset[NetworkId]:
    return frozenset()


def scratch(known: Snapshot, underlay: Underlay) -> KernelState:
    """The oracle: everything from all records, by other code."""
    return desired_state(
        network_inputs(known.view, known.rows.values(), underlay.address),
        probe_input(known.view, CLUSTER, underlay.mtu_bytes, underlay.address),
        underlay=underlay.address,
        vxlan_port=PORT,
        cluster_id=CLUSTER,
    )


def own_id(number: int) -> EndpointId:
    """Different at its beginning, which names the interface."""
    return EndpointId(f"{0xF000 + number:08x}" * 4)


def row(number: int, network_id: NetworkId) -> LocalEndpointRow:
    return LocalEndpointRow(
        endpoint_id=own_id(number),
        network_id=network_id,
        name=f"own{number}",
        service="own",
        offset=100 + number,
        addresses=(f"10.1.0.{100 + number}", f"fd00:1::{100 + number:x}"),
        mac=f"0a:00:00:00:00:{number:02x}",  # as remote ones have it: a clash
        stage=Bound(Netns("/run/netns/x", (4, 100 + number), "b")),
    )


def differing(old: KernelState, new: KernelState) -> set[EntryKey]:
    return {
        (table, place)
        for table in TABLES
        for place in {*old.table(table), *new.table(table)}
        if old.table(table).get(place) != new.table(table).get(place)
    }


@dataclass
class World:
    """A host in two networks, and the writers of three hosts."""

    live: StateStore = field(default_factory=lambda: StateStore(RegistryView(H1), {}))
    writers: dict[HostId, Writer] = field(default_factory=lambda: {one: Writer(one) for one in (H1, H2, H3)})

    def put(self, owner: HostId, record: Record) -> None:
        self.live.update_view(lambda view: view.with_entries(self.writers[owner].put(record)))

    def delete(self, owner: HostId, record: Record) -> None:
        self.live.update_view(lambda view: view.with_entries(self.writers[owner].delete(record)))


class StepByStep(RuleBasedStateMachine):
    """After any number of changes the state is made; sometimes the making is given up in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.underlay = HOME
        self.maker = DesiredStateBuilder(CLUSTER, vxlan_port=PORT)
        self.state = KernelState()
        self.kept, self.left, self.boxes = InputCache(), LeftHosts(), SandboxBuilder()

    @initialize()
    def begin(self) -> None:
        for number, owner in enumerate((H1, H2, H3), start=1):
            self.host_record(owner, number)
        self.network_record(N1, 7, multicast=True)
        self.network_record(N2, 8, multicast=False)
        self.world.live.set_row(row(1, N1))

    @rule(owner=HOSTS, number=st.integers(1, 4), net=NETS)
    def host_record(self, owner: HostId, number: int, net: str = "192.0.2.") -> None:
        self.world.put(
            owner,
            host(
                f"h{number}",
                underlay=f"{net}{number}",
                probe_address=f"fd00::{number}",
                probe_mac=f"02:11:00:00:00:{number:02x}",
            ),
        )

    @rule(network_id=NETWORKS, vni=st.sampled_from([7, 8]), multicast=st.booleans())
    def network_record(self, network_id: NetworkId, vni: int, *, multicast: bool) -> None:
        policy = Policy.OPEN if multicast else Policy.LINKS
        record = network(network_id, network_id[-2:], vni=vni, multicast=multicast, policy=policy, revision=1)
        self.world.put(H2, record)

    @rule(owner=st.sampled_from([H1, H2, H3]), number=st.integers(1, 6), place=NETWORKS, at=st.integers(2, 6))
    def endpoint_record(self, owner: HostId, number: int, place: NetworkId, at: int) -> None:
        # Few MACs and addresses, so that they clash, move and come back.
        self.world.put(owner, endpoint(number, place, at, mac=f"0a:00:00:00:00:{number % 3:02x}"))

    @rule(owner=st.sampled_from([H1, H2, H3]), number=st.integers(1, 6), place=NETWORKS)
    def endpoint_gone(self, owner: HostId, number: int, place: NetworkId) -> None:
        self.world.delete(owner, endpoint(number, place))

    @rule(owner=HOSTS, state=st.sampled_from(MemberState))
    def member(self, owner: HostId, state: MemberState) -> None:
        self.world.live.update_view(lambda view: view.with_member(Member(owner, ("192.0.2.9", 1), state, 1)))

    @rule(owner=HOSTS, network_id=NETWORKS, is_in=st.booleans())
    def attachment(self, owner: HostId, network_id: NetworkId, *, is_in: bool) -> None:
        (self.world.put if is_in else self.world.delete)(owner, AttachmentRecord(network_id))

    @rule(owner=HOSTS, network_id=NETWORKS, offset=st.integers(2, 6), is_in=st.booleans())
    def host_inside(self, owner: HostId, network_id: NetworkId, offset: int, *, is_in: bool) -> None:
        record = HostAddressRecord(network_id, offset, f"06:00:00:00:00:{offset:02x}")
        (self.world.put if is_in else self.world.delete)(owner, record)

    @rule(owner=HOSTS, gone=st.sampled_from([H1, H2, H3]), is_said=st.booleans())
    def forget(self, owner: HostId, gone: HostId, *, is_said: bool) -> None:
        (self.world.put if is_said else self.world.delete)(owner, ForgetRecord(gone, settled=True))

    @rule(network_id=NETWORKS, is_removed=st.booleans())
    def removal(self, network_id: NetworkId, *, is_removed: bool) -> None:
        (self.world.put if is_removed else self.world.delete)(H3, RemovalRecord(network_id))

    @rule(number=st.integers(1, 3), network_id=NETWORKS)
    def local(self, number: int, network_id: NetworkId) -> None:
        self.world.live.set_row(row(number, network_id))

    @rule(number=st.integers(1, 3))
    def local_gone(self, number: int) -> None:
        self.world.live.drop_row(own_id(number))

    @rule(address=st.sampled_from(["192.0.2.1", "192.0.2.5", "2001:db8::1"]))
    def moved(self, address: str) -> None:
        self.underlay = replace(self.underlay, address=address)

    @rule(slices=st.integers(0, 20))
    def made_in_part(self, slices: int) -> None:
        known = self.world.live.now
        making = self.maker.make(known, self.underlay)
        for _ in range(slices):
            try:
                next(making)
            except StopIteration as end:
                self.check(known, end.value)
        making.close()

    @rule()
    def others_made(self) -> None:
        """The firewall's input, the sandboxes and who has left: the same, and the same object as long as it is."""
        known = self.world.live.now
        rows, view = known.rows.listed(), known.view
        wanted = firewall_input(view, rows, vxlan_port=PORT, limits={})
        for _ in range(2):
            found = firewall_input(view, rows, vxlan_port=PORT, limits={}, kept=self.kept)
            assert replace(found, endpoints=()) == replace(wanted, endpoints=())
            assert set(found.endpoints) == set(wanted.endpoints)
        assert self.left.of(view) == {one for one, h in view.hosts.items() if h.agent is AgentState.LEFT}
        assert self.left.of(view) is self.left.of(view)
        internal = frozenset({NetworkId(N2)})
        boxes = self.boxes.make(known.rows, internal, no_networks, frozenset())
        assert boxes == Map(sandboxes(rows, internal))
        assert boxes is self.boxes.make(known.rows, internal, no_networks, frozenset())

    @rule()
    def made(self) -> None:
        known = self.world.live.now
        self.check(known, at_once(self.maker.make(known, self.underlay)))

    def check(self, known: Snapshot, wanted: DesiredChange | None) -> None:
        if wanted is None:  # asked again after its end
            return
        assert wanted.state == scratch(known, self.underlay)
        if wanted.touched is not None:
            assert differing(self.state, wanted.state) <= wanted.touched
        self.state = wanted.state

    @invariant()
    def every_index_follows(self) -> None:
        self.world.live.view.check_invariants()

    def teardown(self) -> None:
        self.made()


TestStepByStep = StepByStep.TestCase
TestStepByStep.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def world_of(count: int) -> World:
    world = World()
    world.put(H1, host("h1"))
    world.put(H2, host("h2", underlay="192.0.2.2"))
    world.put(H2, network(N1, "app", vni=7, subnets=("10.1.0.0/16", "fd00:1::/64")))
    for number in range(1, count + 1):
        mac = f"0a:00:00:00:{number >> 8:02x}:{number & 255:02x}"
        addresses = (f"10.1.{number >> 8}.{number & 255}", f"fd00:1::{number:x}")
        world.put(H2, endpoint(number, addresses=addresses, mac=mac))
    world.live.set_row(row(1, N1))
    return world


def test_a_change_of_one_endpoint_touches_its_entries_alone_in_few_slices() -> None:
    """However many there are: the number of slices is the measure of the work."""
    for count in (10, 300):
        world = world_of(count)
        maker = DesiredStateBuilder(CLUSTER, vxlan_port=PORT)
        whole = list(maker.make(world.live.now, HOME))
        assert len(whole) >= count
        world.put(H2, endpoint(count + 1, addresses=("10.1.200.1", "fd00:1::c801"), mac="0a:00:00:00:99:99"))
        making = maker.make(world.live.now, HOME)
        slices = 0
        try:
            while True:
                next(making)
                slices += 1
        except StopIteration as end:
            wanted = end.value
        assert slices <= 2
        assert {key[1][1] for key in wanted.touched} == {"10.1.200.1", "fd00:1::c801", "0a:00:00:00:99:99"}
        assert wanted.state == scratch(world.live.now, HOME)


def test_a_reader_that_comes_too_late_gets_the_whole_truth() -> None:
    world = world_of(5)
    maker = DesiredStateBuilder(CLUSTER, vxlan_port=PORT)
    at_once(maker.make(world.live.now, HOME))
    for number in range(MAX_STEPS + 5):
        world.put(H2, endpoint(1, name=f"x{number}", addresses=("10.1.0.1", "fd00:1::1")))
    wanted = at_once(maker.make(world.live.now, HOME))
    assert wanted.touched is None
    assert wanted.state == scratch(world.live.now, HOME)


def test_a_veth_says_what_the_bridge_knows_behind_it() -> None:
    world = world_of(1)
    state = at_once(DesiredStateBuilder(CLUSTER, vxlan_port=PORT).make(world.live.now, HOME)).state
    veth = state.devices[veth_name(row(1, N1).endpoint_id)]
    assert veth.master is not None
    assert veth.guest_mac is not None
    assert state.masters[veth.master, veth.guest_mac] == veth.name
