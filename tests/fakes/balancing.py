"""A cluster with service addresses, and what the kernel of its first host has."""

from __future__ import annotations

import ipaddress
from collections import Counter
from typing import Any, Final

from fakes.registry import H1, H2, H3, N1, N2, Writer, host, network
from netagent.balancing.tables import BuiltTables, ServiceTableBuilder
from netagent.datapath.sockets.layout import ServiceEntry
from netagent.model.ids import HostId, NetworkId
from netagent.model.records import Record, ServiceAddressRecord, ServiceKey, ServiceRangeRecord
from netagent.registry.view import NetworkView, RegistryView
from netgossip.slices import Slices, at_once

SUBNETS: Final = {N1: ("10.1.0.0/24", "fd00:1::/64"), N2: ("10.2.0.0/24",)}
RANGES: Final = {N1: ("10.8.0.0/24", "fd00:8::/64"), N2: ("10.9.0.0/24",)}
WEB: Final = ServiceKey("web")


def packed(*addresses: str) -> tuple[bytes, ...]:
    return tuple(ipaddress.ip_address(one).packed for one in addresses)


def service_address(
    key: ServiceKey = WEB, network_id: NetworkId = N1, offset: int = 5, **fields: Any
) -> ServiceAddressRecord:
    bases = [ipaddress.ip_network(one).network_address for one in RANGES[network_id]]
    return ServiceAddressRecord(network_id, key, tuple(str(base + offset) for base in bases), **fields)


class World:
    """Three hosts and two networks; a builder that has seen each state."""

    def __init__(self) -> None:
        self.view = RegistryView(H1)
        self.writers = {one: Writer(one) for one in (H1, H2, H3)}
        self.taken = frozenset([N1, N2])
        self.now_s = 1000
        self.builder = ServiceTableBuilder(H1, lambda _address: ())
        self.kernel: dict[bytes, ServiceEntry] = {}
        for number, owner in enumerate((H1, H2, H3), start=1):
            self.put(owner, host(f"h{number}", underlay=f"192.0.2.{number}"))
        for network_id, name in ((N1, "app"), (N2, "back")):
            self.put(H1, network(network_id, name, subnets=SUBNETS[network_id]))
            self.put(H1, ServiceRangeRecord(network_id, RANGES[network_id]))

    def put(self, owner: HostId, *records: Record) -> None:
        for record in records:
            self.view = self.view.with_entries(self.writers[owner].put(record))

    def delete(self, owner: HostId, *records: Record) -> None:
        for record in records:
            self.view = self.view.with_entries(self.writers[owner].delete(record))

    @property
    def networks(self) -> dict[NetworkId, NetworkView]:
        return {one: self.view.networks[one] for one in self.taken if one in self.view.networks}

    def building(self) -> Slices[BuiltTables]:
        return self.builder.build(self.view, self.networks, self.now_s)

    def build(self) -> BuiltTables:
        return self.take(at_once(self.building()))

    def take(self, built: BuiltTables) -> BuiltTables:
        if built.is_whole:
            self.kernel = {one: entry for one, entry in built.changed.items() if entry is not None}
        for address, entry in built.changed.items():
            if entry is None:
                del self.kernel[address]
            else:
                self.kernel[address] = entry
        return built

    def led_to(self, address: str = "10.8.0.5") -> Counter[str]:
        (octets,) = packed(address)
        return Counter(str(ipaddress.ip_address(one)) for one in self.kernel[octets].places)
