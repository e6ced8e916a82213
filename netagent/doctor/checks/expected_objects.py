"""What this host's kernel should hold according to the records, and what each object belongs to. Pure.

The agent may have built its desired state long ago and step by step. A new builder builds it here from all records,
so that a fault in the agent's memory shows as well.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Final

from immutables import Map

from netagent.datapath.host.uplink import Underlay
from netagent.datapath.state import KernelState
from netagent.model.ids import ClusterId, EndpointId, HostId, NetworkId, bridge_name, veth_name, vxlan_name
from netagent.projection.desired_state import DesiredStateBuilder
from netagent.registry.state_store import Snapshot
from netagent.registry.view import AgentState, EndpointView, RegistryView
from netgossip.slices import Slices


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What determines the kernel's state in addition to the records."""

    cluster_id: ClusterId
    domain: str
    underlay: Underlay
    vxlan_port: int


_COMPARED_PER_SLICE: Final = 512


def intended_state(
    known: Snapshot, situation: Situation, about: Collection[EndpointView] | None = None
) -> Slices[KernelState]:
    """Return everything that the records and this host's endpoints require of the kernel. With `about`, without the
    entries of other endpoints on other hosts, of which there may be tens of thousands, and without flood entries that
    only those need."""
    if about is not None:
        known = replace(known, view=(yield from _reduced(known.view, about)))
    builder = DesiredStateBuilder(situation.cluster_id, vxlan_port=situation.vxlan_port)
    return (yield from builder.make(known, situation.underlay)).state


def _reduced(view: RegistryView, about: Collection[EndpointView]) -> Slices[RegistryView]:
    """Return the view for the builder, with all endpoints that may claim an entry of one of `about`. That is not only
    itself: a fenced one has an address of another, and a MAC may be derived for one and chosen for another."""
    by_network: Map[NetworkId, Map[EndpointId, EndpointView]] = Map()
    for network_id in {one.network_id for one in about}:
        records = [one.record for one in about if one.network_id == network_id]
        macs = {record.mac for record in records}
        addresses = (address for record in records for address in record.addresses)
        holders = (view.endpoint_by_address(address, network_id) for address in addresses)
        kept = {one.endpoint_id: one for one in holders if one is not None}
        for number, endpoint in enumerate(view.endpoints_in(network_id).values()):
            if endpoint.record.mac in macs:
                kept[endpoint.endpoint_id] = endpoint
            if number % _COMPARED_PER_SLICE == 0:
                yield
        by_network = by_network.set(network_id, Map(kept))
    return replace(view, store=replace(view.store, by_network=by_network))


def host_text(view: RegistryView, host_id: HostId) -> str:
    """Return a host's name, or the beginning of its id."""
    host = view.hosts.get(host_id)
    return (host.unique_name or host.name) if host is not None else host_id[:8]


def endpoint_text(view: RegistryView, endpoint: EndpointView) -> str:
    """Return, for example, `web on h2`."""
    return f"{endpoint.record.name} on {host_text(view, endpoint.owner)}"


def owners(view: RegistryView) -> Slices[Mapping[tuple[str, str], str]]:
    """Describe what objects of the kernel belong to, by (device, address or MAC); a device itself by (device, "")."""
    found: dict[tuple[str, str], str] = {}
    for network_id, network in view.networks.items():
        bridge, tunnel = bridge_name(network.record.vni), vxlan_name(network.record.vni)
        found[bridge, ""] = found[tunnel, ""] = f"network {network.unique_name}"
        for endpoint in view.endpoints_in(network_id).values():
            text = endpoint_text(view, endpoint)
            found[bridge, endpoint.record.mac] = found[tunnel, endpoint.record.mac] = text
            for address in endpoint.record.addresses:
                found[bridge, address] = text
            if endpoint.owner == view.local:
                found[veth_name(endpoint.endpoint_id), ""] = text
            yield
    return found


def addresses_of_others(view: RegistryView) -> dict[str, str]:
    """Return the addresses of the other hosts by host name, without those that left."""
    hosts = (
        (host_text(view, host_id), host) for host_id, host in view.hosts.items() if host_id != view.local
    )
    return {name: host.address for name, host in hosts if host.address and host.agent is not AgentState.LEFT}
