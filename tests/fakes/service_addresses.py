"""Short ways to write service ranges and service addresses in tests. They fit `fakes.registry.network()`."""

from __future__ import annotations

import dataclasses
from typing import TypedDict, Unpack

from fakes.registry import N1
from netagent.model.ids import NetworkId
from netagent.model.locality import Balance
from netagent.model.records import (
    ServiceAddressOrigin,
    ServiceAddressRecord,
    ServiceKey,
    ServicePort,
    ServiceRangeRecord,
)
from netagent.model.subnet import addresses_of


class AddressFields(TypedDict, total=False):
    addresses: tuple[str, ...]
    origin: ServiceAddressOrigin
    ports: tuple[ServicePort, ...]
    balance: Balance
    host_weights: tuple[tuple[str, int], ...]
    is_sticky: bool
    keeps_failing: bool
    keeps_connections: bool


def subnets_of(number: int) -> tuple[str, ...]:
    """The subnets of a range: as large as those of `network()`."""
    return f"10.9.{number}.0/24", f"fd00:9:{number:x}::/64"


def service_range(number: int = 1, network_id: NetworkId = N1) -> ServiceRangeRecord:
    return ServiceRangeRecord(network_id, subnets_of(number))


def service_address(
    name: str = "web",
    offset: int = 5,
    network_id: NetworkId = N1,
    *,
    group: str | None = None,
    within: int = 1,
    **fields: Unpack[AddressFields],
) -> ServiceAddressRecord:
    """The address of a service at an offset of range number `within`."""
    addresses = addresses_of(subnets_of(within), offset)
    usual = ServiceAddressRecord(network_id, ServiceKey(name, group), addresses)
    return dataclasses.replace(usual, **fields)
