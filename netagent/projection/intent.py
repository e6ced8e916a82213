"""What the registry and this host's endpoints mean for the kernel: the datapath's inputs. Pure.

Neighbours and forwarding entries follow the record alone. A host that is silent keeps its entries, so that nobody is
cut off by an agent's or a link's trouble; they go when the owner deletes the record, leaves, or is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable

from netagent.datapath.desired import LocalEndpoint, NetworkInput, ProbeInput, ProbePeer, RemoteEndpoint
from netagent.datapath.probe_device import probe_address, probe_mac, probe_vni
from netagent.model.ids import ClusterId, HostId
from netagent.registry.row import LocalEndpointRow
from netagent.registry.view import AgentState, NetworkView, RegistryView


def network_inputs(view: RegistryView, rows: Iterable[LocalEndpointRow]) -> list[NetworkInput]:
    """The networks of which this host has endpoints, each with all its endpoints."""
    by_network: dict[str, list[LocalEndpointRow]] = {}
    for row in rows:
        by_network.setdefault(row.network_id, []).append(row)
    inputs = []
    for network_id in sorted(by_network):
        network = view.networks.get(by_network[network_id][0].network_id)
        # A network whose VNI is another one's must not be built: its packets would reach the other one's containers.
        if network is not None and network.holds_vni:
            inputs.append(_network_input(view, network, by_network[network_id]))
    return inputs


def _network_input(view: RegistryView, network: NetworkView, rows: list[LocalEndpointRow]) -> NetworkInput:
    return NetworkInput(
        network_id=network.network_id,
        vni=network.record.vni,
        mtu_bytes=network.record.mtu_bytes,
        multicast=network.record.multicast,
        gateways=network.record.gateways,
        # Also those that are being attached: an interface that is there before its row says so is not a leftover.
        locals=tuple(local_endpoint(row, network) for row in rows),
        remotes=tuple(_remotes(view, network)),
    )


def local_endpoint(row: LocalEndpointRow, network: NetworkView) -> LocalEndpoint:
    """The row as the datapath wants it."""
    prefixes = [subnet.rpartition("/")[2] for subnet in network.record.subnets]
    return LocalEndpoint(
        endpoint_id=row.endpoint_id,
        network_id=row.network_id,
        mac=row.mac,
        addresses=tuple(
            f"{address}/{length}" for address, length in zip(row.addresses, prefixes, strict=True)
        ),
        netns_path=row.netns_path,
        netns_identity=(row.netns_dev, row.netns_inode),
        ifname=row.ifname,
        multicast=network.record.multicast,
    )


def _remotes(view: RegistryView, network: NetworkView) -> Iterable[RemoteEndpoint]:
    if view.local in view.forgotten:
        return  # our containers have addresses that others may have by now: until they end, they are alone
    for endpoint_id, endpoint in sorted(view.endpoints_in(network.network_id).items()):
        host = view.hosts.get(endpoint.owner)
        if (
            endpoint.owner == view.local
            or host is None
            or host.record is None
            or host.agent is AgentState.LEFT
        ):
            continue
        yield RemoteEndpoint(
            endpoint_id, endpoint.record.mac, endpoint.record.addresses, host.record.underlay
        )


def probe_input(
    view: RegistryView, cluster_id: ClusterId, underlay_mtu_bytes: int, underlay: str
) -> ProbeInput:
    """This host's place on the probe network."""
    overhead = 70 if ":" in underlay else 50
    peers = [
        ProbePeer(host_id, host.record.probe_address, host.record.probe_mac, host.record.underlay)
        for host_id, host in sorted(view.hosts.items())
        if host.record is not None and host_id != view.local and host.agent is not AgentState.LEFT
    ]
    return ProbeInput(
        vni=probe_vni(cluster_id),
        address=probe_address(cluster_id, view.local),
        mac=probe_mac(view.local),
        mtu_bytes=max(1280, underlay_mtu_bytes - overhead, *_shared_mtus(view).values()),
        peers=tuple(peers),
    )


def path_targets(view: RegistryView) -> dict[HostId, tuple[str, int]]:
    """For each other host that is in a network with this one: its probe address, and the largest packet to pass."""
    return {
        host_id: (host.record.probe_address, mtu_bytes)
        for host_id, mtu_bytes in _shared_mtus(view).items()
        if (host := view.hosts.get(host_id)) is not None
        and host.record is not None
        and host.agent is not AgentState.LEFT
    }


def _shared_mtus(view: RegistryView) -> dict[HostId, int]:
    """The largest MTU of the networks that each other host takes part in together with this one."""
    found: dict[HostId, int] = {}
    for network_id, network in view.networks.items():
        hosts = view.attachments(network_id)
        if view.local in hosts:
            for host_id in hosts - {view.local}:
                found[host_id] = max(found.get(host_id, 0), network.record.mtu_bytes)
    return found


def probe_targets(view: RegistryView) -> dict[HostId, tuple[str, bool]]:
    """For each other host its probe address, and whether its agent is in doubt."""
    return {
        host_id: (host.record.probe_address, host.agent is not AgentState.ALIVE)
        for host_id, host in view.hosts.items()
        if host.record is not None and host_id != view.local and host.agent is not AgentState.LEFT
    }
