"""What the kernel should hold follows the records alone: silence of a host takes nothing away."""

from __future__ import annotations

from fakes.registry import H1, H2, H3, N1, N2, Writer, endpoint, grant, host, network
from fakes.rows import local_row
from fakes.scratch_state import network_inputs

from netagent.datapath.host.uplink import Underlay
from netagent.model.address.tunnel import WIREGUARD_BYTES, is_tunnel_address
from netagent.model.ids import ClusterId, HostId
from netagent.model.records import (
    AttachmentRecord,
    EncryptionRecord,
    EncryptionStage,
    HostAddressRecord,
    Record,
    TunnelRecord,
)
from netagent.projection.datapath_input import path_targets, probe_input, probe_targets, vxlan_underlay
from netagent.registry.encryption import tunnel_address_of
from netagent.registry.view import RegistryView
from netgossip.types import Member, MemberState

ROW = local_row("e" * 32, N1, addresses=("10.1.0.2", "fd00:1::2"), mac="02::1")
CLUSTER = ClusterId("c1" * 16)
HERE = "192.0.2.1"


class World:
    def __init__(self) -> None:
        self.view = RegistryView(H1)
        self.writers = {owner: Writer(owner) for owner in (H1, H2, H3)}
        self.put(H1, host("h1"), network())
        self.put(H2, host("h2", underlay="192.0.2.2", probe_address="fd00::2"), endpoint(2, offset=3))
        self.member(H2, MemberState.ALIVE)

    def put(self, owner: HostId, *records: Record) -> None:
        for record in records:
            self.view = self.view.with_entries(self.writers[owner].put(record))

    def member(self, owner: HostId, state: MemberState) -> None:
        self.view = self.view.with_member(Member(owner, ("192.0.2.9", 7956), state, 1))

    def remotes(self) -> list[str]:
        (one,) = network_inputs(self.view, [ROW], HERE)
        return [remote.underlay for remote in one.remotes]


def test_a_network_is_built_where_it_has_endpoints_and_nowhere_else() -> None:
    world = World()
    assert network_inputs(world.view, [], HERE) == []
    (one,) = network_inputs(world.view, [ROW], HERE)
    assert one.locals[0].addresses == ("10.1.0.2/24", "fd00:1::2/64")
    assert [remote.addresses for remote in one.remotes] == [("10.1.0.3", "fd00:1::3")]


def test_a_network_has_its_gateways_on_the_bridge_unless_it_is_internal() -> None:
    world = World()
    (one,) = network_inputs(world.view, [ROW], HERE)
    assert one.gateways == ("10.1.0.1/24", "fd00:1::1/64")
    world.put(H1, network(internal=True, revision=1))
    (one,) = network_inputs(world.view, [ROW], HERE)
    assert one.gateways == ()


def test_neither_a_dead_agent_nor_a_silent_kernel_takes_paths_away() -> None:
    world = World()
    world.member(H2, MemberState.DEAD)
    world.view = world.view.with_host_answers({H2: False})
    assert world.remotes() == ["192.0.2.2"]
    world.put(H2, host("h2", underlay="192.0.2.2", going_down=True))
    assert world.remotes() == ["192.0.2.2"], "open connections go on while names lead elsewhere"


def test_a_host_that_left_or_an_endpoint_without_host_has_no_path() -> None:
    world = World()
    world.put(H3, endpoint(3, offset=4))
    assert world.remotes() == ["192.0.2.2"]
    world.member(H2, MemberState.LEFT)
    assert world.remotes() == []
    assert probe_targets(world.view) == {}
    assert probe_input(world.view, CLUSTER, 1500, HERE).peers == ()


def test_a_host_of_the_other_family_has_no_path_until_both_are_of_one() -> None:
    world = World()
    assert network_inputs(world.view, [ROW], "2001:db8::1")[0].remotes == ()
    probe = probe_input(world.view, CLUSTER, 1300, "2001:db8::1")
    assert (probe.mtu_bytes, probe.peers) == (1280, ())
    world.put(
        H2,
        host("h2", underlay="2001:db8::2", probe_address="fd00::2"),
        HostAddressRecord(N1, 9, "06:00:00:00:00:09"),
    )
    assert world.remotes() == []
    (one,) = network_inputs(world.view, [ROW], "2001:db8::1")
    assert [remote.underlay for remote in one.remotes] == ["2001:db8::2"] * 2
    assert probe_targets(world.view) == {H2: ("fd00::2", False)}, "its silence is known, and shown"


def test_in_a_cluster_that_encrypts_only_the_other_end_of_the_tunnel_is_sent_to() -> None:
    world = World()
    here = Underlay(HERE, "eth0", 1500)
    assert vxlan_underlay(world.view, here) == here
    world.put(H1, EncryptionRecord(True, 1, 0, "root", stage=EncryptionStage.SENDING, is_reached=False))
    first = vxlan_underlay(world.view, here)
    assert (first.address, first.mtu_bytes) == (HERE, 1500 - WIREGUARD_BYTES), "the remotes move first"
    (one,) = network_inputs(world.view, [ROW], first.address)
    assert one.remotes == ()
    world.put(H1, EncryptionRecord(True, 1, 0, "root", stage=EncryptionStage.SENDING))
    inside = vxlan_underlay(world.view, here)
    assert is_tunnel_address(inside.address)
    assert inside.mtu_bytes == 1500 - WIREGUARD_BYTES
    (one,) = network_inputs(world.view, [ROW], inside.address)
    assert one.remotes == (), "no packet leaves for a host without an end of the tunnel"
    assert probe_input(world.view, CLUSTER, 1420, inside.address).peers == ()
    world.put(H2, TunnelRecord(bytes(32), 7955))
    (one,) = network_inputs(world.view, [ROW], inside.address)
    assert [remote.underlay for remote in one.remotes] == [tunnel_address_of(world.view, H2, 4)]


def test_of_two_networks_with_one_vni_only_the_holder_is_built() -> None:
    world = World()
    world.put(H2, network(N2, "back", vni=world.view.networks[N1].record.vni, subnets=("10.2.0.0/24",)))
    world.put(H2, grant(N2, 4, 7, H1))
    other = local_row("f" * 32, N2, addresses=("10.2.0.2",))
    assert [one.network_id for one in network_inputs(world.view, [ROW, other], HERE)] == [N1]


def test_the_probe_network_has_all_hosts_and_room_for_ipv6() -> None:
    world = World()
    probe = probe_input(world.view, CLUSTER, 1300, HERE)
    assert probe.mtu_bytes == 1280
    assert [peer.underlay for peer in probe.peers] == ["192.0.2.2"]
    assert probe_targets(world.view) == {H2: ("fd00::2", False)}
    world.member(H2, MemberState.SUSPECT)
    assert probe_targets(world.view) == {H2: ("fd00::2", True)}


def test_hosts_that_share_a_network_are_probed_at_its_size() -> None:
    world = World()
    assert path_targets(world.view) == {}, "no host takes part yet"
    world.put(H2, AttachmentRecord(N1))
    assert path_targets(world.view) == {}, "this host does not"
    world.put(H1, AttachmentRecord(N1))
    mtu_bytes = world.view.networks[N1].record.mtu_bytes
    assert path_targets(world.view) == {H2: ("fd00::2", mtu_bytes)}
    world.put(H1, network(N2, "jumbo", subnets=("10.2.0.0/24",), mtu_bytes=8000), AttachmentRecord(N2))
    world.put(H2, AttachmentRecord(N2))
    assert path_targets(world.view) == {H2: ("fd00::2", 8000)}
    assert probe_input(world.view, CLUSTER, 1500, HERE).mtu_bytes == 8000
    world.member(H2, MemberState.LEFT)
    assert path_targets(world.view) == {}
