"""The probe network: one VXLAN device per host, without a bridge, with an address that the host's kernel answers.

It tells a dead agent from a dead host: an ICMPv6 echo to it needs only the other host's kernel and the VXLAN path,
not an agent. Its address, MAC and VNI follow from the cluster's and the host's identifiers, so nothing is allocated.

It also shows how large a packet a path carries. So its MTU is that of the largest network, and its packets must not
be fragmented on the path. The networks' own devices allow fragments: a path that reassembles is slow, but it works.
"""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass

from netagent.datapath.state import Device, EntryKey, KernelState, LinkKind, Tunnel, probe_alias
from netagent.model.ids import ClusterId, HostId, vxlan_name


@dataclass(frozen=True, slots=True)
class ProbePeer:
    """Another host's kernel, according to its host record."""

    host_id: HostId
    probe_address: str
    probe_mac: str
    underlay: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeInput:
    """This host's own place on the probe network, and its peers (without itself)."""

    vni: int
    address: str
    """IPv6, without prefix length."""
    mac: str
    mtu_bytes: int
    peers: tuple[ProbePeer, ...] = ()


def probe_vni(cluster_id: ClusterId) -> int:
    """Return a VNI of 1 … 2**22: networks' VNIs begin at 2**23, so the two can't collide."""
    return 1 + (int(cluster_id[:6], 16) & 0x3FFFFF)


def probe_address(cluster_id: ClusterId, host_id: HostId) -> str:
    """Return an IPv6 unique local address (RFC 4193): 40 bits of the cluster, subnet 0, 64 bits of the host."""
    raw = b"\xfd" + bytes.fromhex(cluster_id)[:5] + bytes(2) + bytes.fromhex(host_id)[:8]
    return str(ipaddress.IPv6Address(raw))


def probe_mac(host_id: HostId) -> str:
    """Return a locally administered MAC; from its own hash, so that it shares no bits with the address by
    accident."""
    digest = hashlib.sha256(b"probe mac " + bytes.fromhex(host_id)).digest()
    return "02:" + ":".join(f"{byte:02x}" for byte in digest[:5])


def probe_state(probe: ProbeInput, *, underlay: str, vxlan_port: int, cluster_id: ClusterId) -> KernelState:
    """Return the device and its address, without the entries for peers."""
    name = vxlan_name(probe.vni)
    device = Device(
        name=name,
        kind=LinkKind.VXLAN,
        alias=probe_alias(cluster_id),
        mac=probe.mac,
        mtu_bytes=probe.mtu_bytes,
        tunnel=Tunnel(vni=probe.vni, port=vxlan_port, local=underlay, dont_fragment=True),
    )
    return KernelState(
        devices={name: device},
        addresses=frozenset({(name, f"{probe.address}/64")}),
    )


def peer_entries(probe: ProbeInput, peer: ProbePeer) -> dict[EntryKey, str]:
    """Return the entries that lead to another host's probe device."""
    name = vxlan_name(probe.vni)
    return {
        ("neighbour", (name, peer.probe_address)): peer.probe_mac,
        ("self", (name, peer.probe_mac)): peer.underlay,
    }
