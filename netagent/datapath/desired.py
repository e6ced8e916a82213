"""What the kernel should hold, from what the registry says. Pure.

The inputs are plain values, so that this side needs no registry and can be tested without one. Addresses and MACs
are expected in canonical text (as `ipaddress` prints them, lower case), as the kernel's dump is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from netagent.datapath.probe_device import ProbeInput, ProbePeer, probe_state
from netagent.datapath.state import (
    CONTAINER_PORT,
    FLOODED_TUNNEL_PORT,
    TUNNEL_PORT,
    Device,
    KernelState,
    Kind,
    Tunnel,
    endpoint_alias,
    network_alias,
)
from netagent.model.ids import ClusterId, EndpointId, NetworkId, bridge_name, veth_name, vxlan_name

__all__ = ["LocalEndpoint", "NetworkInput", "ProbeInput", "ProbePeer", "RemoteEndpoint", "desired_state"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalEndpoint:
    """An endpoint of this host."""

    endpoint_id: EndpointId
    network_id: NetworkId
    mac: str
    addresses: tuple[str, ...]
    """"address/prefix length", IPv4 first."""
    netns_path: str
    netns_identity: tuple[int, int]
    """(device, inode) of the namespace; a path may come to mean another one."""
    ifname: str = ""
    """Name inside the namespace; empty: the first free `eth<N>`."""
    multicast: bool = False
    """Of its network: multicast and broadcast from the sandbox go there."""
    gateways: tuple[str, ...] = ()
    """Through these the sandbox reaches everything else, without prefix length; empty: not by this endpoint."""


@dataclass(frozen=True, slots=True)
class RemoteEndpoint:
    """An endpoint of another host."""

    endpoint_id: EndpointId
    mac: str
    addresses: tuple[str, ...]
    """Without prefix length."""
    underlay: str
    """Where its host receives VXLAN packets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkInput:
    """One network of which this host has local endpoints (or is about to have)."""

    network_id: NetworkId
    vni: int
    mtu_bytes: int
    multicast: bool = False
    """Broadcast and multicast reach every host that has endpoints here."""
    gateways: tuple[str, ...] = ()
    """The bridge's own addresses, "address/prefix length", the same on every host: the network's way out."""
    locals: tuple[LocalEndpoint, ...] = ()
    remotes: tuple[RemoteEndpoint, ...] = ()


def desired_state(
    networks: Iterable[NetworkInput],
    probe: ProbeInput | None,
    *,
    underlay: str,
    vxlan_port: int,
    cluster_id: ClusterId,
) -> KernelState:
    """All that this host's kernel should hold.

    A network given here gets its devices, whether or not it has endpoints yet: leave out the networks in which this
    host has none. Where two endpoints claim one address or MAC, the later one in order wins; deciding clashes is the
    registry's work.
    """
    # The underlay address may change, and containers remember the bridge's MAC.
    seed = underlay if probe is None else probe.mac
    devices: dict[str, Device] = {}
    neighbours: dict[tuple[str, str], str] = {}
    masters: dict[tuple[str, str], str] = {}
    selves: dict[tuple[str, str], str] = {}
    floods: set[tuple[str, str]] = set()
    addresses: set[tuple[str, str]] = set()
    for network in networks:
        bridge, tunnel = bridge_name(network.vni), vxlan_name(network.vni)
        for device in _network_devices(network, underlay, vxlan_port, cluster_id):
            devices[device.name] = replace(device, mac=device_mac(device.name, seed))
        addresses |= {(bridge, cidr) for cidr in network.gateways}
        for remote in network.remotes:
            for address in remote.addresses:
                neighbours[bridge, address] = remote.mac
            masters[bridge, remote.mac] = tunnel
            selves[tunnel, remote.mac] = remote.underlay
        if network.multicast:
            floods |= {(tunnel, remote.underlay) for remote in network.remotes}
        for local in network.locals:
            veth = veth_name(local.endpoint_id)
            devices[veth] = _veth(veth, local, network.mtu_bytes, bridge)
            masters[bridge, local.mac] = veth
            if network.gateways:
                neighbours |= _answered(bridge, local)
    if probe is not None:
        host = probe_state(probe, underlay=underlay, vxlan_port=vxlan_port, cluster_id=cluster_id)
        devices |= host.devices
        neighbours |= host.neighbours
        selves |= host.selves
        addresses |= host.addresses
    return KernelState(
        devices=devices,
        addresses=frozenset(addresses),
        neighbours=neighbours,
        masters=masters,
        selves=selves,
        floods=frozenset(floods),
    )


def _answered(bridge: str, local: LocalEndpoint) -> dict[tuple[str, str], str]:
    """Where the host sends what it routes to one of its own containers.

    It need not ask: its table of what it asked for has room for a thousand, and to ask by IPv6 it would need a
    link-local address."""
    return {(bridge, cidr.partition("/")[0]): local.mac for cidr in local.addresses}


def _network_devices(
    network: NetworkInput, underlay: str, vxlan_port: int, cluster_id: ClusterId
) -> tuple[Device, Device]:
    bridge, tunnel = bridge_name(network.vni), vxlan_name(network.vni)
    alias = network_alias(network.network_id, cluster_id)
    return (
        Device(
            name=bridge,
            kind=Kind.BRIDGE,
            alias=alias,
            mtu_bytes=network.mtu_bytes,
        ),
        Device(
            name=tunnel,
            kind=Kind.VXLAN,
            alias=alias,
            mtu_bytes=network.mtu_bytes,
            master=bridge,
            port=FLOODED_TUNNEL_PORT if network.multicast else TUNNEL_PORT,
            tunnel=Tunnel(vni=network.vni, port=vxlan_port, local=underlay),
        ),
    )


def _veth(name: str, local: LocalEndpoint, mtu_bytes: int, bridge: str) -> Device:
    return Device(
        name=name,
        kind=Kind.VETH,
        alias=endpoint_alias(local.endpoint_id),
        mtu_bytes=mtu_bytes,
        master=bridge,
        port=CONTAINER_PORT,
    )


def device_mac(name: str, seed: str) -> str:
    """A fixed MAC, so that a device made anew is the same, and different on every host.

    The second byte's range is kept apart from endpoints' MACs by the first: 06 is locally administered as 02 is.
    """
    digest = hashlib.sha256(f"{name} {seed}".encode()).digest()
    return "06:" + ":".join(f"{byte:02x}" for byte in digest[:5])
