"""Turn the registry and this host's endpoints into the firewall's inputs. Pure.

Like everything in the kernel, the inputs follow the records alone: a member that is silent stays one.

Part of them are the allowed flows of networks in which only linked services may be reached (or will be: `audit`), as
packets that arrive by this host's ports. They too follow the records, including a host's own. So both ends of a link
decide alike, and keep deciding while an agent is away.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import chain
from operator import is_
from typing import Final, TypeVar, cast

from netagent.datapath.host.forwarding import IPV4, IPV6
from netagent.datapath.host.probe_device import probe_mac
from netagent.datapath.host.uplink import version_of
from netagent.datapath.reconcile.desired import device_mac
from netagent.firewall.inputs import (
    DEFAULT_AGENT_PORTS,
    AllowedFlow,
    FirewallInput,
    GuardedEndpoint,
    GuardedNetwork,
    PortForward,
    ServiceForward,
)
from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import EndpointId, HostId, NetworkId, bridge_name, veth_name, vxlan_name
from netagent.model.publication import ANYWHERE
from netagent.model.records import Policy
from netagent.projection.datapath_input import networks_here, networks_taken_part, own_cidrs
from netagent.projection.service_ranges import Ranges, RangesHere
from netagent.registry.encryption import tunnel_address_of
from netagent.registry.links import linked_from, linked_to
from netagent.registry.view import AgentState, EndpointView, NetworkView, RegistryView


def allowed_flows(
    view: RegistryView, rows: Iterable[LocalEndpointRow], networks: Mapping[NetworkId, NetworkView]
) -> tuple[frozenset[AllowedFlow], frozenset[AllowedFlow]]:
    """Return the flows that may open connections, and the flows that may only reply.

    For each endpoint of this host, these are the packets that leave it and, if the other end of a link is on another
    host, those that arrive by the tunnel."""
    requests: set[AllowedFlow] = set()
    answers: set[AllowedFlow] = set()
    if view.local in view.evicted:
        return frozenset(), frozenset()
    for row in rows:
        network, own = networks.get(row.network_id), view.endpoints.get(row.endpoint_id)
        if network is None or network.record.policy is Policy.OPEN or own is None:
            continue
        veth, tunnel = veth_name(row.endpoint_id), vxlan_name(network.record.vni)
        for server in linked_from(view, own):
            requests.update(_between(veth, own, server))
            if server.owner != view.local:
                answers.update(_between(tunnel, server, own))
        for client in linked_to(view, own):
            answers.update(_between(veth, own, client))
            if client.owner != view.local:
                requests.update(_between(tunnel, client, own))
    return frozenset(requests), frozenset(answers)


def _between(port: str, source: EndpointView, destination: EndpointView) -> Iterator[AllowedFlow]:
    for one in source.record.addresses:
        for other in destination.record.addresses:
            if (":" in one) == (":" in other):
                yield port, one, other


T = TypeVar("T")


class InputCache:
    """Parts of the last input, and the objects that they were built from. As long as these are the same objects, so
    is the part: a view shares everything unchanged with the previous one."""

    def __init__(self) -> None:
        self._parts: dict[str, tuple[tuple[object, ...], object]] = {}
        self.members = _Members()
        self.ranges = RangesHere()
        self._endpoints: dict[EndpointId, tuple[LocalEndpointRow, NetworkView | None, GuardedEndpoint]] = {}

    def endpoints(
        self, rows: Iterable[LocalEndpointRow], networks: Mapping[NetworkId, NetworkView]
    ) -> tuple[GuardedEndpoint, ...]:
        """Convert endpoints one by one, as far as a row or its network is another object."""
        known, self._endpoints = self._endpoints, {}
        for row in rows:
            network, one = networks.get(row.network_id), known.get(row.endpoint_id)
            if one is None or one[0] is not row or one[1] is not network:
                one = row, network, _endpoint(row, network)
            self._endpoints[row.endpoint_id] = one
        return tuple(one for _, _, one in self._endpoints.values())

    def __call__(self, part: str, of: tuple[object, ...], make: Callable[[], T]) -> T:
        """Return the part, rebuilt if one of these objects is another one."""
        known = self._parts.get(part)
        if known is not None and len(known[0]) == len(of) and all(map(is_, known[0], of)):
            return cast("T", known[1])
        made = make()
        self._parts[part] = of, made
        return made


_NOTHING_LENT: Final[Mapping[str, frozenset[str]]] = {IPV4: frozenset(), IPV6: frozenset()}


def firewall_input(
    view: RegistryView,
    rows: Iterable[LocalEndpointRow],
    *,
    vxlan_port: int,
    agent_ports: tuple[int, ...] = DEFAULT_AGENT_PORTS,
    underlay: str = "",
    connections: int = 0,
    tunnel: str = "",
    is_fenced: bool = False,
    limits: Mapping[HostId, int],
    lent: Mapping[str, frozenset[str]] = _NOTHING_LENT,
    default_routes: Collection[EndpointId] = (),
    service_forwards: tuple[ServiceForward, ...] = (),
    kept: InputCache | None = None,
) -> FirewallInput:
    """Return the networks that this host has devices of, its endpoints, and the hosts that it may hear.

    `limits`: the largest packet, in bytes, that the path to a host carries; only for paths that carry too little.
    `lent`: devices by family (netagent.datapath.host.forwarding). `default_routes`: endpoints with their sandboxes'
    default route. `service_forwards`: netagent.projection.published_services. `kept`: the cache of the previous call,
    whose `rows` must be the same object if they are equal; then only what has changed is rebuilt.
    """
    kept = kept or InputCache()
    seed = probe_mac(view.local)
    ranges = kept.ranges.of(view)
    own = view.hosts.get(view.local)
    places = (rows, view.networks, view.store.host_addresses, own)
    networks = kept("networks here", places, lambda: _networks_by_id(view, rows))
    restricted = [one for one in networks.values() if one.record.policy is not Policy.OPEN]
    inside = [view.endpoints_in(one.network_id) for one in restricted]
    requests, answers = kept(
        "ways",
        (rows, networks, view.evicted, *inside),
        lambda: allowed_flows(view, rows if restricted else (), networks),
    )
    return FirewallInput(
        vxlan_port=vxlan_port,
        agent_ports=agent_ports,
        underlay=underlay,
        connections=connections,
        tunnel=tunnel,
        is_fenced=is_fenced,
        # Includes endpoints that are being attached: an interface's packets are judged from the first one.
        endpoints=kept(
            "endpoints",
            (rows, networks),
            lambda: kept.endpoints(rows, networks),
        ),
        networks=kept(
            "networks",
            (networks, view.store.host_addresses),
            lambda: tuple(_network(view, network, seed) for network in networks.values()),
        ),
        members=kept.members.of(view),
        subnets=kept("subnets", (view.networks, ranges, own), lambda: _subnets(view, ranges)),
        own_ranges=kept(
            "own ranges",
            (networks, ranges, view.store.host_addresses),
            lambda: tuple(
                subnet
                for network_id, network in networks.items()
                if own_cidrs(view, network)
                for subnet in ranges.get(network_id, ())
            ),
        ),
        lent4=lent[IPV4],
        lent6=lent[IPV6],
        clamps={key: size for one in networks.values() for key, size in _clamps(view, one, limits)},
        requests=requests,
        answers=answers,
        port_forwards=kept(
            "port_forwards",
            (rows, networks, *sorted(default_routes)),
            lambda: tuple(
                port_forward
                for row in rows
                if row.network_id in networks and not networks[row.network_id].record.internal
                for port_forward in port_forwards_of(row, default_routes)
            ),
        ),
        service_forwards=service_forwards,
    )


def _networks_by_id(view: RegistryView, rows: Iterable[LocalEndpointRow]) -> dict[NetworkId, NetworkView]:
    here = networks_here(view, networks_taken_part(view, {row.network_id for row in rows}))
    return {network.network_id: network for network in here}


def _subnets(view: RegistryView, ranges: Ranges) -> tuple[str, ...]:
    networks = (one for one in view.networks.values() if not view.has_own_address(one))
    subnets = {subnet for one in networks for subnet in one.record.subnets}
    return tuple(sorted(subnets.union(*ranges.values())))


def port_forwards_of(row: LocalEndpointRow, default_routes: Collection[EndpointId]) -> Iterator[PortForward]:
    """Yield the published ports of a complete endpoint; before that, connections would reach nothing."""
    if not row.is_published:
        return
    for one in row.publish:
        for address in filter(one.serves, row.addresses):
            for number in range(one.count):
                yield PortForward(
                    protocol=one.protocol,
                    host_port=one.host_port + number,
                    container=address,
                    port=one.port + number,
                    address="" if one.address in ANYWHERE else one.address,
                    needs_snat=row.endpoint_id not in default_routes,
                )


def _endpoint(row: LocalEndpointRow, network: NetworkView | None) -> GuardedEndpoint:
    bridge = bridge_name(network.record.vni) if network is not None else ""
    veth = veth_name(row.endpoint_id)
    return GuardedEndpoint(veth=veth, mac=row.mac, addresses=row.addresses, bridge=bridge)


class _Members:
    """The source addresses of other hosts' VXLAN packets, updated from view to view."""

    def __init__(self) -> None:
        self._seen: RegistryView | None = None
        self._addresses: dict[HostId, tuple[str, ...]] = {}
        self._members: frozenset[str] = frozenset()

    def of(self, view: RegistryView) -> frozenset[str]:
        """Return the addresses of the hosts that we send to; the same object as long as they are the same."""
        seen, self._seen = self._seen, view
        touched = view.touched_since(seen) if seen is not None else None
        before = self._addresses
        if touched is None:
            found = ((host_id, _tunnel_ends(view, host_id)) for host_id in view.hosts)
            self._addresses = {host_id: address for host_id, address in found if address}
        else:
            changed = {host_id: _tunnel_ends(view, host_id) for host_id in touched.hosts}
            changed = {host_id: one for host_id, one in changed.items() if before.get(host_id, ()) != one}
            if changed:
                self._addresses = {host_id: one for host_id, one in {**before, **changed}.items() if one}
        if self._addresses is not before:
            self._members = frozenset(chain.from_iterable(self._addresses.values()))
        return self._members


def _tunnel_ends(view: RegistryView, host_id: HostId) -> tuple[str, ...]:
    """Return its underlay address, and the one in the encrypted tunnel if it has one; none: we send it nothing."""
    host = view.hosts.get(host_id)
    if host is None or host.record is None or host_id == view.local or host.agent is AgentState.LEFT:
        return ()
    inside = tunnel_address_of(view, host_id, version_of(host.record.underlay))
    return (host.record.underlay,) if inside is None else (host.record.underlay, inside)


def _clamps(
    view: RegistryView, network: NetworkView, limits: Mapping[HostId, int]
) -> Iterator[tuple[tuple[str, str], int]]:
    """Return the endpoints behind paths that carry less than the network's MTU."""
    mtu_bytes = network.record.mtu_bytes
    device = vxlan_name(network.record.vni)
    for host_id, size in limits.items():
        said = view.endpoints_said(host_id, network.network_id) if size < mtu_bytes else ()
        for endpoint in map(view.endpoints_in(network.network_id).get, said):
            if endpoint is not None and endpoint.owner == host_id:
                yield (device, endpoint.record.mac), size


def limits_of(view: RegistryView, clamps: Mapping[tuple[str, str], int]) -> dict[HostId, int]:
    """Derive path limits from clamps that were found in the kernel: the inverse of `_clamps`. Until a new agent has
    tried the paths itself, it uses what the last one knew."""
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
        restricted=network.record.policy is not Policy.OPEN,
        audited=network.record.policy is Policy.AUDIT,
        multicast=network.record.multicast,
        has_egress=not network.record.internal,
        egress=network.record.egress,
        host_addresses=tuple(cidr.partition("/")[0] for cidr in own_cidrs(view, network)),
    )
