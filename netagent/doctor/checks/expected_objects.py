"""What this host's kernel should hold according to the records, and what each object belongs to. Pure.

The agent may have built its desired state long ago and step by step. A new builder builds it here from all records,
so that a fault in the agent's memory shows as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from netagent.datapath.host.uplink import Underlay
from netagent.datapath.state import KernelState
from netagent.model.ids import ClusterId, HostId, bridge_name, veth_name, vxlan_name
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


def intended_state(known: Snapshot, situation: Situation) -> Slices[KernelState]:
    """Return everything that the records and this host's endpoints require of the kernel."""
    builder = DesiredStateBuilder(situation.cluster_id, vxlan_port=situation.vxlan_port)
    return (yield from builder.make(known, situation.underlay)).state


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
