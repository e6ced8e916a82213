"""What the registry and this host's endpoints mean for the firewall: its inputs. Pure.

As everything that the kernel is told, it follows the records alone: a member that is silent stays one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final

from netagent.datapath.desired import device_mac
from netagent.datapath.forwarding import IPV4, IPV6
from netagent.datapath.probe_device import probe_mac
from netagent.firewall.inputs import DEFAULT_AGENT_PORTS, Door, FirewallInput, GuardedEndpoint, GuardedNetwork
from netagent.model.ids import EndpointId, HostId, bridge_name, veth_name, vxlan_name
from netagent.model.publication import ANYWHERE
from netagent.model.records import Policy
from netagent.projection.intent import own_cidrs
from netagent.projection.linking import ways
from netagent.registry.row import LocalEndpointRow, Stage
from netagent.registry.view import AgentState, NetworkView, RegistryView

_NOTHING_LENT: Final[Mapping[str, frozenset[str]]] = {IPV4: frozenset(), IPV6: frozenset()}


def firewall_input(
    view: RegistryView,
    rows: Iterable[LocalEndpointRow],
    *,
    vxlan_port: int,
    agent_ports: tuple[int, ...] = DEFAULT_AGENT_PORTS,
    limits: Mapping[HostId, int],
    lent: Mapping[str, frozenset[str]] = _NOTHING_LENT,
    leading_out: Collection[EndpointId] = (),
) -> FirewallInput:
    """The networks that this host has devices of, its endpoints, and whom it may hear.

    `limits`: the largest packet, in bytes, that the path to a host carries; only of paths that carry too little.
    `lent`: devices by family (netagent.datapath.forwarding). `leading_out`: endpoints by which their sandboxes reach
    what is not in our networks.
    """
    rows, seed = list(rows), probe_mac(view.local)
    hosted = {one for one in view.networks if view.local in view.host_addresses(one)}
    here = sorted({row.network_id for row in rows} | hosted)
    known = [view.networks.get(network_id) for network_id in here]
    networks = {network.network_id: network for network in known if network is not None and network.holds_vni}
    requests, answers = ways(view, rows, networks)
    return FirewallInput(
        vxlan_port=vxlan_port,
        agent_ports=agent_ports,
        # Also those that are being attached: what comes out of an interface is judged from its first packet.
        endpoints=tuple(_endpoint(row, networks.get(row.network_id)) for row in rows),
        networks=tuple(_network(view, network, seed) for network in networks.values()),
        members=members(view),
        subnets=tuple(sorted({subnet for one in view.networks.values() for subnet in one.record.subnets})),
        lent4=lent[IPV4],
        lent6=lent[IPV6],
        clamps={key: size for one in networks.values() for key, size in _clamps(view, one, limits)},
        requests=requests,
        answers=answers,
        doors=tuple(
            door for row in rows if row.network_id in networks for door in doors_of(row, leading_out)
        ),
    )


def doors_of(row: LocalEndpointRow, leading_out: Collection[EndpointId]) -> Iterator[Door]:
    """Published ports, one by one, of an endpoint that is whole: who comes in before would find nobody."""
    if row.stage is not Stage.PUBLISHED:
        return
    for one in row.publish:
        for address in filter(one.serves, row.addresses):
            for number in range(one.count):
                yield Door(
                    protocol=one.protocol,
                    host_port=one.host_port + number,
                    container=address,
                    port=one.port + number,
                    address="" if one.address in ANYWHERE else one.address,
                    is_beside=row.endpoint_id not in leading_out,
                )


def _endpoint(row: LocalEndpointRow, network: NetworkView | None) -> GuardedEndpoint:
    bridge = bridge_name(network.record.vni) if network is not None else ""
    veth = veth_name(row.endpoint_id)
    return GuardedEndpoint(veth=veth, mac=row.mac, addresses=row.addresses, bridge=bridge)


def members(view: RegistryView) -> frozenset[str]:
    """The addresses that other hosts' VXLAN packets come from: of those that we send some to."""
    return frozenset(
        host.record.underlay
        for host_id, host in view.hosts.items()
        if host.record is not None and host_id != view.local and host.agent is not AgentState.LEFT
    )


def _clamps(
    view: RegistryView, network: NetworkView, limits: Mapping[HostId, int]
) -> Iterator[tuple[tuple[str, str], int]]:
    """The endpoints behind paths that carry less than the network's MTU."""
    mtu_bytes = network.record.mtu_bytes
    device = vxlan_name(network.record.vni)
    for host_id, size in limits.items():
        said = view.endpoints_said(host_id, network.network_id) if size < mtu_bytes else ()
        for endpoint in map(view.endpoints_in(network.network_id).get, said):
            if endpoint is not None and endpoint.owner == host_id:
                yield (device, endpoint.record.mac), size


def limits_of(view: RegistryView, clamps: Mapping[tuple[str, str], int]) -> dict[HostId, int]:
    """What clamps that were found in the kernel say of paths: the inverse of `_clamps`. Until a new agent has tried
    the paths itself, it goes on with what the last one knew."""
    limits: dict[HostId, int] = {}
    devices = {device for device, _ in clamps}
    for network_id, network in view.networks.items():
        device = vxlan_name(network.record.vni)
        if device not in devices:
            continue
        for endpoint in view.endpoints_in(network_id).values():
            size_bytes = clamps.get((device, endpoint.record.mac))
            if size_bytes is not None and endpoint.owner != view.local:
                limits[endpoint.owner] = size_bytes
    return limits


def _network(view: RegistryView, network: NetworkView, seed: str) -> GuardedNetwork:
    bridge = bridge_name(network.record.vni)
    return GuardedNetwork(
        bridge=bridge,
        bridge_mac=device_mac(bridge, seed),
        tunnel=vxlan_name(network.record.vni),
        restricted=network.record.policy is Policy.LINKS,
        multicast=network.record.multicast,
        has_way_out=not network.record.internal,
        host_addresses=tuple(cidr.partition("/")[0] for cidr in own_cidrs(view, network)),
    )
