"""Compute what the kernel should hold from the registry's contents. Pure.

The inputs are plain values, so that this side needs no registry and can be tested without one. Addresses and MACs
are expected in canonical text (as `ipaddress` prints them, lower case), as the kernel's dumps are decoded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from netagent.datapath.state import (
    CONTAINER_PORT,
    FLOODED_TUNNEL_PORT,
    TUNNEL_PORT,
    AddressKey,
    Device,
    EntryKey,
    LinkKind,
    Tunnel,
    endpoint_alias,
    network_alias,
)
from netagent.model.ids import ClusterId, EndpointId, NetworkId, bridge_name, veth_name, vxlan_name
from netagent.model.sandbox import Netns


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalEndpoint:
    """An endpoint of this host."""

    endpoint_id: EndpointId
    network_id: NetworkId
    vni: int
    """Names the bridge."""
    mtu_bytes: int
    mac: str
    addresses: tuple[str, ...]
    """"address/prefix length", IPv4 first."""
    netns: Netns | None = None
    """None while a runtime is about to name it."""
    ifname: str | None = None
    """Name inside the namespace; None: the first free `eth<N>`."""
    multicast: bool = False
    """Whether the network carries them: multicast and broadcast from the sandbox go there."""
    gateways: tuple[str, ...] = ()
    """Default gateways of the sandbox, without prefix length; empty: this endpoint gives it no default route."""
    service_ranges: tuple[str, ...] = ()
    """Subnets of service addresses, which are the sandbox's own (netagent.datapath.host.service_routes)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkInput:
    """One network in which this host takes part, without its endpoints."""

    network_id: NetworkId
    vni: int
    mtu_bytes: int
    multicast: bool = False
    """Broadcast and multicast reach every host that has endpoints here."""
    gateways: tuple[str, ...] = ()
    """The bridge's own addresses, "address/prefix length", the same on every host: the network's default gateways."""


def remote_entries(
    network: NetworkInput, mac: str, addresses: Iterable[str], underlay: str
) -> dict[EntryKey, str]:
    """Return the entries that lead to an endpoint of another host, which receives VXLAN packets at `underlay`.
    `addresses` have no prefix length."""
    bridge, tunnel = bridge_name(network.vni), vxlan_name(network.vni)
    entries: dict[EntryKey, str] = {("neighbour", (bridge, address)): mac for address in addresses}
    entries["master", (bridge, mac)] = tunnel
    entries["self", (tunnel, mac)] = underlay
    return entries


def local_entries(network: NetworkInput, local: LocalEndpoint) -> dict[EntryKey, str]:
    """Return the entries that lead to an endpoint of this host.

    Where the host routes for its containers, it also gets a neighbour entry for each: the kernel's table of dynamic
    ones has room for a thousand, and for IPv6 the host would need a link-local address to ask from.
    """
    bridge = bridge_name(network.vni)
    entries: dict[EntryKey, str] = {("master", (bridge, local.mac)): veth_name(local.endpoint_id)}
    for cidr in local.addresses if network.gateways else ():
        entries["neighbour", (bridge, cidr.partition("/")[0])] = local.mac
    return entries


def network_addresses(network: NetworkInput) -> set[AddressKey]:
    """Return the bridge's own addresses."""
    return {(bridge_name(network.vni), cidr) for cidr in network.gateways}


def flood_entries(network: NetworkInput, underlay: str) -> dict[EntryKey, str]:
    """Return the entry for broadcast and multicast to a host in the network; none if the network carries neither."""
    return {("flood", (vxlan_name(network.vni), underlay)): ""} if network.multicast else {}


def network_devices(
    network: NetworkInput, seed: str, *, underlay: str, vxlan_port: int, cluster_id: ClusterId
) -> tuple[Device, Device]:
    """Return bridge and VXLAN device, with MACs derived from their names and `seed`."""
    bridge, tunnel = bridge_name(network.vni), vxlan_name(network.vni)
    alias = network_alias(network.network_id, cluster_id)
    return (
        Device(
            name=bridge,
            kind=LinkKind.BRIDGE,
            alias=alias,
            mtu_bytes=network.mtu_bytes,
            mac=device_mac(bridge, seed),
        ),
        Device(
            name=tunnel,
            kind=LinkKind.VXLAN,
            alias=alias,
            mac=device_mac(tunnel, seed),
            mtu_bytes=network.mtu_bytes,
            master=bridge,
            port=FLOODED_TUNNEL_PORT if network.multicast else TUNNEL_PORT,
            tunnel=Tunnel(vni=network.vni, port=vxlan_port, local=underlay),
        ),
    )


def veth_device(network: NetworkInput, local: LocalEndpoint) -> Device:
    """Return the host's side of a local endpoint's interface."""
    return Device(
        name=veth_name(local.endpoint_id),
        kind=LinkKind.VETH,
        alias=endpoint_alias(local.endpoint_id),
        mtu_bytes=network.mtu_bytes,
        master=bridge_name(network.vni),
        port=CONTAINER_PORT,
        guest_mac=local.mac,
    )


def device_mac(name: str, seed: str) -> str:
    """Return a fixed MAC: a device that is created again gets the same, and each host another one.

    The first byte distinguishes it from endpoints' MACs: 06 is locally administered as 02 is.
    """
    digest = hashlib.sha256(f"{name} {seed}".encode()).digest()
    return "06:" + ":".join(f"{byte:02x}" for byte in digest[:5])
