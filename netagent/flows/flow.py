"""A flow with the names of its ends: what a container opened, to whom, how often and when last. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from netagent.datapath.flows.counters import FlowReading
from netagent.datapath.flows.layout import FlowKey, unpack_flow
from netagent.flows.departed import DepartedTarget, DepartedTargets
from netagent.flows.sources import FlowSource, FlowSources
from netagent.model.ids import HostId, NetworkId
from netagent.model.subnet import addresses_of, offset_count, parse_subnet
from netagent.registry.view import EndpointView, NetworkView, RegistryView
from netgossip.slices import Slices

PROTOCOLS: Final = {1: "icmp", 6: "tcp", 17: "udp", 33: "dccp", 58: "ipv6-icmp", 132: "sctp", 136: "udplite"}
"""Those that are counted."""

TargetKind: TypeAlias = Literal["endpoint", "host", "unknown", "outside"]
"""`unknown`: in the network, but no record says whose; `outside`: of no network of the cluster."""


@dataclass(frozen=True, slots=True)
class Flow:
    """Openings of one protocol from one source to one address and port, added up."""

    source: FlowSource
    protocol: str
    address: str
    port: int | None
    openings: int
    refused: int
    first_s: int
    """When the first opening was, in seconds since 1970 by the clock of the host that counts."""
    last_s: int
    departed: DepartedTarget | None = None
    """The container that had the address and is gone, if the host that counts knows it."""

    @property
    def flow_id(self) -> str:
        """The same for the same flow, on all hosts."""
        port = "" if self.port is None else f":{self.port}"
        source = self.source.endpoint_id[:12] or self.source.name
        return f"{source}>{self.address}/{self.protocol}{port}"


def named_flows(
    reading: FlowReading, sources: FlowSources, departed: DepartedTargets, view: RegistryView, epoch_s: float
) -> Slices[list[Flow]]:
    """Return what was counted, with the names of those who opened. `epoch_s`: when the kernel's monotonic clock
    began, in seconds since 1970."""
    found = []
    places = {share.number: place for place, share in reading.shares.items()}
    for raw_key, raw_count in reading.flows:
        key, count = unpack_flow(raw_key, raw_count)
        protocol = PROTOCOLS.get(key.protocol)
        if protocol is not None:
            source, address = sources.owner(view, places.get(key.source)), _text(key)
            found.append(
                Flow(
                    source,
                    protocol,
                    address,
                    key.port,
                    count.openings,
                    count.refused,
                    int(epoch_s + count.first_ns / 1e9),
                    int(epoch_s + count.last_ns / 1e9),
                    departed.at(source.network_id, address),
                )
            )
        yield
    return found


def _text(key: FlowKey) -> str:
    return str(ipaddress.ip_address(key.address))


@dataclass(frozen=True, slots=True)
class FlowTarget:
    """Where a flow leads, by the present records."""

    kind: TargetKind
    name: str
    """Of the container, host or network's gateway, or of the container that is gone; else the address."""
    endpoint: EndpointView | None = None
    departed: DepartedTarget | None = None
    """Of an address that is `unknown` by now."""


class FlowTargets:
    """Names the addresses that flows lead to, by one view."""

    def __init__(self, view: RegistryView) -> None:
        self._view = view
        self._hosts: dict[NetworkId, dict[str, HostId]] = {}

    def of(self, flow: Flow) -> FlowTarget:
        """Return who has the address in the network of the flow."""
        view, network_id = self._view, flow.source.network_id
        network = None if network_id is None else view.networks.get(network_id)
        if network is None:
            return _unknown(flow)
        endpoint = view.endpoint_by_address(flow.address, network.network_id)
        if endpoint is not None:
            return FlowTarget("endpoint", endpoint.record.name, endpoint)
        host_id = self._hosts_in(network).get(flow.address)
        if host_id is not None:
            host = view.hosts.get(host_id)
            return FlowTarget("host", host.unique_name if host is not None else host_id[:8])
        if _is_in(network.record.subnets, flow.address):
            return _unknown(flow)
        return FlowTarget("outside", flow.address)

    def _hosts_in(self, network: NetworkView) -> Mapping[str, HostId]:
        if network.network_id not in self._hosts:
            subnets = network.record.subnets
            self._hosts[network.network_id] = {
                address: host_id
                for host_id, one in self._view.host_addresses(network.network_id).items()
                if one.offset < offset_count(subnets)
                for address in addresses_of(subnets, one.offset)
            }
        return self._hosts[network.network_id]


def _unknown(flow: Flow) -> FlowTarget:
    name = flow.address if flow.departed is None else flow.departed.name
    return FlowTarget("unknown", name, departed=flow.departed)


def _is_in(subnets: tuple[str, ...], address: str) -> bool:
    host = ipaddress.ip_address(address)
    return any(host.version == subnet.version and host in subnet for subnet in map(parse_subnet, subnets))
