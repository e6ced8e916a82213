"""The desired state from scratch, by other code than DesiredStateBuilder: an oracle for it, and states for kernel
tests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from netagent.datapath.host.probe_device import ProbeInput, peer_entries, probe_state
from netagent.datapath.reconcile.desired import (
    LocalEndpoint,
    NetworkInput,
    flood_entries,
    local_entries,
    network_addresses,
    network_devices,
    remote_entries,
    veth_device,
)
from netagent.datapath.state import AddressKey, Device, KernelState
from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import ClusterId, EndpointId
from netagent.projection.datapath_input import (
    addresses_inside,
    bare_network,
    local_endpoint,
    networks_here,
    networks_taken_part,
    underlay_towards,
)
from netagent.registry.view import RegistryView


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
class InhabitedNetwork(NetworkInput):
    """A network with its endpoints."""

    locals: tuple[LocalEndpoint, ...] = ()
    remotes: tuple[RemoteEndpoint, ...] = ()


def desired_state(
    networks: Iterable[InhabitedNetwork],
    probe: ProbeInput | None,
    *,
    underlay: str,
    vxlan_port: int,
    cluster_id: ClusterId,
) -> KernelState:
    """Everything that this host's kernel should hold. Of two endpoints with one MAC, the later one wins."""
    seed = underlay if probe is None else probe.mac
    devices: dict[str, Device] = {}
    addresses: set[AddressKey] = set()
    state = KernelState()
    for network in networks:
        own = network_devices(network, seed, underlay=underlay, vxlan_port=vxlan_port, cluster_id=cluster_id)
        devices |= {device.name: device for device in own}
        addresses |= network_addresses(network)
        for remote in network.remotes:
            entries = remote_entries(network, remote.mac, remote.addresses, remote.underlay) | flood_entries(
                network, remote.underlay
            )
            state = state.with_entries(entries)
        for local in network.locals:
            veth = veth_device(network, local)
            devices[veth.name] = veth
            state = state.with_entries(local_entries(network, local))
    state = replace(state, devices=devices, addresses=frozenset(addresses))
    if probe is None:
        return state
    host = probe_state(probe, underlay=underlay, vxlan_port=vxlan_port, cluster_id=cluster_id)
    state = replace(
        state, devices={**state.devices, **host.devices}, addresses=state.addresses | host.addresses
    )
    for peer in sorted(probe.peers, key=lambda one: one.host_id, reverse=True):
        state = state.with_entries(peer_entries(probe, peer))
    return state


def network_inputs(
    view: RegistryView, rows: Iterable[LocalEndpointRow], underlay: str
) -> list[InhabitedNetwork]:
    """The networks of this host with all endpoints that its address `underlay` can reach."""
    rows = sorted(rows, key=lambda row: row.endpoint_id)
    here = networks_here(view, networks_taken_part(view, {row.network_id for row in rows}))
    found: list[InhabitedNetwork] = []
    for network in here:
        endpoints = sorted(view.endpoints_in(network.network_id).items())
        # The later one wins: endpoints over hosts, and of two hosts the smaller id.
        remotes = [
            RemoteEndpoint(EndpointId(host_id), own.mac, addresses_inside(network, own), to)
            for host_id, own in sorted(view.host_addresses(network.network_id).items(), reverse=True)
            if (to := underlay_towards(view, host_id, underlay)) is not None
        ]
        remotes += [
            RemoteEndpoint(endpoint.endpoint_id, endpoint.record.mac, endpoint.record.addresses, to)
            for _, endpoint in endpoints
            if (to := underlay_towards(view, endpoint.owner, underlay)) is not None
        ]
        bare = bare_network(view, network)
        found.append(
            InhabitedNetwork(
                **{one.name: getattr(bare, one.name) for one in fields(bare)},
                locals=tuple(
                    local_endpoint(row, network) for row in rows if row.network_id == network.network_id
                ),
                remotes=tuple(remotes),
            )
        )
    return found
