"""From what the registry says to what the kernel should hold, shown as the commands one would type."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

from fakes.scratch_state import InhabitedNetwork, RemoteEndpoint, desired_state

from netagent.datapath.host.probe_device import ProbeInput, ProbePeer, probe_address, probe_mac, probe_vni
from netagent.datapath.reconcile.desired import LocalEndpoint
from netagent.datapath.reconcile.ip_commands import render
from netagent.datapath.reconcile.operations import DeleteEntry, SetEntry
from netagent.datapath.reconcile.plan import plan
from netagent.datapath.state import TUNNEL_PORT, KernelState, LinkKind, endpoint_of, is_ours
from netagent.model.ids import ClusterId, EndpointId, HostId, NetworkId, vni_of
from netgossip.slices import at_once

CLUSTER = ClusterId("c1" * 16)
NETWORK = NetworkId("0a" * 16)

LOCAL = LocalEndpoint(
    endpoint_id=EndpointId("00000002" * 4),
    network_id=NETWORK,
    vni=90,
    mtu_bytes=1400,
    mac="02:0a:00:00:00:02",
    addresses=("10.66.0.2/20", "fd66::2/64"),
)
REMOTE = RemoteEndpoint(
    EndpointId("00000003" * 4), "02:0a:00:00:00:03", ("10.66.0.3", "fd66::3"), "192.0.2.2"
)
NET = InhabitedNetwork(network_id=NETWORK, vni=90, mtu_bytes=1400, locals=(LOCAL,), remotes=(REMOTE,))
PROBE = ProbeInput(
    vni=77,
    address="fdc1::1",
    mac="02:11:11:11:11:11",
    mtu_bytes=1450,
    peers=(ProbePeer(HostId("22" * 16), "fdc1::2", "02:22:22:22:22:22", "192.0.2.2"),),
)


def state(*networks: InhabitedNetwork, probe: ProbeInput | None = None) -> KernelState:
    return desired_state(networks, probe, underlay="192.0.2.1", vxlan_port=4799, cluster_id=CLUSTER)


def rendered(desired: KernelState, observed: KernelState) -> list[str]:
    """The plan's commands in its order, with those of one table sorted: their order does not matter."""
    tables = groupby(
        at_once(plan(desired, observed)),
        key=lambda one: one.key[0] if isinstance(one, SetEntry | DeleteEntry) else one,
    )
    return [command for _, group in tables for command in sorted(map(render, group))]


FLAGS = (
    "bridge link set dev nx-90 learning off flood off mcast_flood {flood} bcast_flood {flood} neigh_suppress on"
    " hairpin off isolated off"
)


def test_a_network_from_nothing() -> None:
    alias = f"netagent network {NETWORK} cluster {CLUSTER}"
    assert (
        "\n".join(rendered(state(NET), KernelState()))
        == f"""\
ip link add na-90 address 06:d5:6c:5f:db:e8 mtu 1400 type bridge mcast_snooping 0 stp_state 0
ip link set na-90 alias '{alias}' addrgenmode none
ip link add nx-90 address 06:6b:8e:b9:d5:71 mtu 1400 type vxlan id 90 dstport 4799 local 192.0.2.1 nolearning ttl auto
ip link set nx-90 alias '{alias}' addrgenmode none
ip link set na-90 up
ip link set nx-90 master na-90
{FLAGS.format(flood="off")}
ip link set nx-90 up
bridge fdb replace 02:0a:00:00:00:03 dev nx-90 dst 192.0.2.2 self permanent
bridge fdb replace 02:0a:00:00:00:03 dev nx-90 master static sticky
ip neigh replace 10.66.0.3 lladdr 02:0a:00:00:00:03 dev na-90 nud permanent
ip neigh replace fd66::3 lladdr 02:0a:00:00:00:03 dev na-90 nud permanent"""
    )


def test_a_network_with_multicast_floods_once_to_each_host() -> None:
    neighbour = replace(REMOTE, endpoint_id=EndpointId("00000004" * 4), mac="02:0a:00:00:00:04", addresses=())
    far = replace(
        neighbour, endpoint_id=EndpointId("00000005" * 4), mac="02:0a:00:00:00:05", underlay="192.0.2.3"
    )
    quiet = replace(NET, remotes=(REMOTE, neighbour, far))
    loud = replace(quiet, multicast=True)
    assert rendered(state(loud), state(quiet)) == [
        FLAGS.format(flood="on"),
        "bridge fdb append 00:00:00:00:00:00 dev nx-90 dst 192.0.2.2 self permanent",
        "bridge fdb append 00:00:00:00:00:00 dev nx-90 dst 192.0.2.3 self permanent",
    ]
    left = rendered(state(replace(loud, remotes=(REMOTE, neighbour))), state(loud))
    assert left[0] == "bridge fdb del 00:00:00:00:00:00 dev nx-90 dst 192.0.2.3 self"


def test_a_network_without_multicast_floods_to_nobody() -> None:
    assert not state(NET).floods
    assert state(NET).devices["nx-90"].port == TUNNEL_PORT


def test_the_probe_network_from_nothing() -> None:
    alias = f"netagent probe cluster {CLUSTER}"
    assert (
        "\n".join(rendered(state(probe=PROBE), KernelState()))
        == f"""\
ip link add nx-77 address 02:11:11:11:11:11 mtu 1450 type vxlan id 77 dstport 4799 local 192.0.2.1 nolearning \
df set ttl auto
ip link set nx-77 alias '{alias}' addrgenmode none
ip link set nx-77 up
ip addr replace fdc1::1/64 dev nx-77 nodad
bridge fdb replace 02:22:22:22:22:22 dev nx-77 dst 192.0.2.2 self permanent
ip neigh replace fdc1::2 lladdr 02:22:22:22:22:22 dev nx-77 nud permanent"""
    )


def test_a_local_endpoint_is_a_port_of_the_bridge() -> None:
    veth = state(NET).devices["nv00000002"]
    assert (veth.kind, veth.master, veth.mtu_bytes) == (LinkKind.VETH, "na-90", 1400)
    assert endpoint_of(veth.alias) == LOCAL.endpoint_id
    assert state(NET).masters["na-90", LOCAL.mac] == "nv00000002"
    assert ("nx-90", LOCAL.mac) not in state(NET).selves


def test_a_network_without_endpoints_has_its_devices() -> None:
    empty = InhabitedNetwork(network_id=NETWORK, vni=90, mtu_bytes=1400)
    assert set(state(empty).devices) == {"na-90", "nx-90"}
    assert state() == KernelState()


def test_every_device_is_marked() -> None:
    assert all(is_ours(device.alias) for device in state(NET, probe=PROBE).devices.values())
    assert not is_ours("eth0 of another")
    assert endpoint_of(f"netagent network {NETWORK} cluster {CLUSTER}") is None


def test_the_same_records_give_the_same_devices_and_hosts_differ() -> None:
    assert state(NET) == state(NET)
    other = desired_state([NET], None, underlay="192.0.2.2", vxlan_port=4799, cluster_id=CLUSTER)
    assert other.devices["nx-90"].mac != state(NET).devices["nx-90"].mac


def test_probe_values_follow_from_the_identifiers() -> None:
    assert probe_address(CLUSTER, HostId("ab" * 16)) == "fdc1:c1c1:c1c1:0:abab:abab:abab:abab"
    assert probe_mac(HostId("ab" * 16)).startswith("02:")
    assert probe_mac(HostId("ab" * 16)) != probe_mac(HostId("ac" * 16))
    for cluster in ("00" * 16, "ff" * 16, "c1" * 16):
        assert 1 <= probe_vni(ClusterId(cluster)) <= 2**22 < vni_of(NetworkId("00" * 16))
