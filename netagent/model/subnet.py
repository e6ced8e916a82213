"""Addresses of a network as offsets.

A network has at most one IPv4 and one IPv6 subnet; an endpoint has the same offset from the base of each. So one
small number stands for all addresses of an endpoint, and grants of space count in these numbers.

    192.0.2.0/24, fd00::/64     offset 5  ->  192.0.2.5, fd00::5

No endpoint ever gets these three offsets: 0 (the subnet's base), 1 (the gateway) and the last one (IPv4 broadcast).
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import TypeAlias

GATEWAY_OFFSET = 1

MAX_OFFSETS = 1 << 20
"""A larger IPv4 subnet is used only up to here: a million endpoints in one network exceed the forwarding table of a
bridge, and the bound limits the memory of code that enumerates the space."""

OFFSETS_WITHOUT_IPV4 = 1 << 16
"""An IPv6 subnet alone has no natural bound; 65,536 endpoints fit every table of the kernel."""

MIN_OFFSETS = 4
"""The smallest network (an IPv4 /30): base, gateway, one endpoint, broadcast."""

MIN_IPV6_MTU_BYTES = 1280
"""RFC 8200 section 5: a network whose packets are smaller is IPv4 only."""

Subnet: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


@lru_cache(maxsize=4096)
def parse_subnet(text: str) -> Subnet:
    """Parse a CIDR. Raises ValueError on host bits or malformed text."""
    return ipaddress.ip_network(text)


def offset_count(subnets: tuple[str, ...]) -> int:
    """Return the number of offsets of the network, including the reserved ones."""
    for text in subnets:
        subnet = parse_subnet(text)
        if subnet.version == 4:
            return min(subnet.num_addresses, MAX_OFFSETS)
    return OFFSETS_WITHOUT_IPV4


def is_reserved(offset: int, count: int) -> bool:
    """True for the base, the gateway and the last of `count` offsets."""
    return offset <= GATEWAY_OFFSET or offset >= count - 1


def addresses_of(subnets: tuple[str, ...], offset: int) -> tuple[str, ...]:
    """Return one address for each subnet, in their order, without prefix length."""
    return tuple(str(parse_subnet(text)[offset]) for text in subnets)


def prefix_length(subnets: tuple[str, ...], address: str) -> int:
    """Return the prefix length of the subnet that contains an address, or that of a single host if none does: a lying
    host may change the subnets later."""
    host = ipaddress.ip_address(address)
    for subnet in map(parse_subnet, subnets):
        if host.version == subnet.version and host in subnet:
            return subnet.prefixlen
    return host.max_prefixlen


def gateways_of(subnets: tuple[str, ...]) -> tuple[str, ...]:
    """Return the gateway's address of each subnet, with prefix length; the same on every host."""
    return tuple(f"{parse_subnet(text)[GATEWAY_OFFSET]}/{parse_subnet(text).prefixlen}" for text in subnets)


def offset_of(subnets: tuple[str, ...], addresses: tuple[str, ...]) -> int | None:
    """Return the common offset of all addresses, one for each subnet in order; None if they differ or lie outside."""
    if len(addresses) != len(subnets):
        return None
    found: int | None = None
    for text, address_text in zip(subnets, addresses, strict=True):
        subnet = parse_subnet(text)
        address = ipaddress.ip_address(address_text)
        if address.version != subnet.version or address not in subnet:
            return None
        offset = int(address) - int(subnet.network_address)
        if found is not None and offset != found:
            return None
        found = offset
    if found is None or is_reserved(found, offset_count(subnets)):
        return None
    return found
