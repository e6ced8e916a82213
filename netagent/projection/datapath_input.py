"""Turn the registry and this host's endpoints into the datapath's inputs. Pure.

Neighbours and forwarding entries follow the records alone. A host that is silent keeps its entries, so that trouble
of an agent or a link cuts off no container; they go when the owner deletes the record, leaves, or is evicted.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import replace

from netagent.datapath.host.probe_device import (
    ProbeInput,
    ProbePeer,
    probe_address,
    probe_mac,
    probe_vni,
)
from netagent.datapath.host.uplink import Underlay, is_one_family, version_of
from netagent.datapath.reconcile.desired import LocalEndpoint, NetworkInput
from netagent.journal.rows import LocalEndpointRow
from netagent.model.address.tunnel import (
    WIREGUARD_BYTES,
    tunnel_address,
    tunnel_number,
)
from netagent.model.ids import ClusterId, HostId, NetworkId
from netagent.model.records import HostAddressRecord
from netagent.model.subnet import addresses_of, offset_count, prefix_length
from netagent.registry.encryption import is_encrypted, own_salt, sends_from_tunnel, tunnel_address_of
from netagent.registry.view import AgentState, NetworkView, RegistryView


def networks_taken_part(view: RegistryView, inhabited: Set[NetworkId]) -> set[NetworkId]:
    """Return the networks that this host takes part in itself, or by its endpoints, which are in `inhabited`."""
    hosted = {network_id for network_id, hosts in view.store.host_addresses.items() if view.local in hosts}
    return hosted | inhabited


def networks_here(view: RegistryView, network_ids: Iterable[NetworkId]) -> list[NetworkView]:
    """Return those of the networks that should be built, by id.

    A network whose VNI belongs to another one must not be: its packets would reach the other one's containers.
    Nor one that this host's own address is in: the host would send what is for others to its bridge.
    """
    found = (view.networks.get(network_id) for network_id in sorted(network_ids))
    return [network for network in found if network is not None and not view.why_not_built(network)]


def bare_network(view: RegistryView, network: NetworkView) -> NetworkInput:
    """Return the network without its endpoints."""
    return NetworkInput(
        network_id=network.network_id,
        vni=network.record.vni,
        mtu_bytes=network.record.mtu_bytes,
        multicast=network.record.multicast,
        gateways=(*network.record.gateways, *own_cidrs(view, network)),
    )


def own_cidrs(view: RegistryView, network: NetworkView) -> tuple[str, ...]:
    """Return this host's own addresses in a network made with `--host-access`, with prefix lengths."""
    own = view.host_addresses(network.network_id).get(view.local)
    addresses = addresses_inside(network, own) if own is not None else ()
    return tuple(
        f"{address}/{subnet.rpartition('/')[2]}"
        for address, subnet in zip(addresses, network.record.subnets, strict=False)
    )


def local_endpoint(row: LocalEndpointRow, network: NetworkView) -> LocalEndpoint:
    """Convert a row for the datapath."""
    return LocalEndpoint(
        endpoint_id=row.endpoint_id,
        network_id=row.network_id,
        vni=network.record.vni,
        mtu_bytes=network.record.mtu_bytes,
        mac=row.mac,
        addresses=tuple(f"{one}/{prefix_length(network.record.subnets, one)}" for one in row.addresses),
        netns=row.netns,
        ifname=row.ifname,
        multicast=network.record.multicast,
    )


def underlay_towards(view: RegistryView, host_id: HostId, underlay: str) -> str | None:
    """Return another host's underlay address to send containers' packets to; None: send none.

    An address of another family than our own `underlay` can't be the other end of a tunnel: the kernel would refuse
    its entries for ever. If this host sends by the encrypted tunnel alone, the other end is inside.
    """
    if view.local in view.evicted:
        # Evicted: other hosts' containers may have our containers' addresses by now, so ours stay isolated.
        return None
    host = view.hosts.get(host_id)
    if host_id == view.local or host is None or host.record is None or host.agent is AgentState.LEFT:
        return None
    if is_encrypted(view):
        return tunnel_address_of(view, host_id, version_of(underlay))
    return host.record.underlay if is_one_family(host.record.underlay, underlay) else None


def vxlan_underlay(view: RegistryView, underlay: Underlay, *, encrypted: bool | None = None) -> Underlay:
    """Return where this host's VXLAN devices send from: its `underlay`, or its place in the encrypted tunnel.
    `encrypted`: None: as the registry says."""
    if not (is_encrypted(view) if encrypted is None else encrypted):
        return underlay
    inside = replace(underlay, mtu_bytes=underlay.mtu_bytes - WIREGUARD_BYTES)
    if not (sends_from_tunnel(view) if encrypted is None else encrypted):
        return inside
    number = tunnel_number(view.local, own_salt(view))
    return replace(inside, address=tunnel_address(number, version=version_of(underlay.address)))


def addresses_inside(network: NetworkView, own: HostAddressRecord) -> tuple[str, ...]:
    """Return the host's addresses in the network by this record; none for a subnet that the network does not have."""
    subnets = network.record.subnets
    return addresses_of(subnets, own.offset) if own.offset < offset_count(subnets) else ()


def probe_input(
    view: RegistryView, cluster_id: ClusterId, underlay_mtu_bytes: int, underlay: str
) -> ProbeInput:
    """Return this host's place on the probe network."""
    overhead = 70 if ":" in underlay else 50
    peers = [
        ProbePeer(host_id, host.record.probe_address, host.record.probe_mac, address)
        for host_id, host in sorted(view.hosts.items())
        if host.record is not None and (address := _probed_at(view, host_id, underlay)) is not None
    ]
    return ProbeInput(
        vni=probe_vni(cluster_id),
        address=probe_address(cluster_id, view.local),
        mac=probe_mac(view.local),
        mtu_bytes=max(1280, underlay_mtu_bytes - overhead, *_shared_mtus(view).values()),
        peers=tuple(peers),
    )


def _probed_at(view: RegistryView, host_id: HostId, underlay: str) -> str | None:
    """As `underlay_towards`, also for a host that was evicted: it has to see others answer."""
    host = view.hosts.get(host_id)
    if host_id == view.local or host is None or host.record is None or host.agent is AgentState.LEFT:
        return None
    if is_encrypted(view):
        return tunnel_address_of(view, host_id, version_of(underlay))
    return host.record.underlay if is_one_family(host.record.underlay, underlay) else None


def path_targets(view: RegistryView) -> dict[HostId, tuple[str, int]]:
    """Map each other host that shares a network with this one to its probe address and the largest packet to pass."""
    return {
        host_id: (host.record.probe_address, mtu_bytes)
        for host_id, mtu_bytes in _shared_mtus(view).items()
        if (host := view.hosts.get(host_id)) is not None
        and host.record is not None
        and host.agent is not AgentState.LEFT
    }


def _shared_mtus(view: RegistryView) -> dict[HostId, int]:
    """Return, by host, the largest MTU of the networks that it shares with this one."""
    found: dict[HostId, int] = {}
    for network_id, network in view.networks.items():
        hosts = view.attachments(network_id)
        if view.local in hosts:
            for host_id in hosts - {view.local}:
                found[host_id] = max(found.get(host_id, 0), network.record.mtu_bytes)
    return found


def probe_targets(view: RegistryView) -> dict[HostId, tuple[str, bool]]:
    """Map each other host to its probe address, and whether its agent is in doubt."""
    return {
        host_id: (host.record.probe_address, host.agent is not AgentState.ALIVE)
        for host_id, host in view.hosts.items()
        if host.record is not None and host_id != view.local and host.agent is not AgentState.LEFT
    }
