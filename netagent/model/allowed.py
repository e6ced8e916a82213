"""Which subnets, MTUs and addresses are allowed in a request, and therefore in a record. Pure.

The same rules hold for both. A record comes from a host that may lie, and every host makes devices, routes and rules
in its kernel from it.
"""

from __future__ import annotations

import ipaddress

from netagent.model.subnet import MIN_IPV6_MTU_BYTES

MIN_MTU_BYTES = 576
"""Every IPv4 host accepts packets of this size (RFC 1122 section 3.3.2)."""
MAX_MTU_BYTES = 65535 - 70
"""The largest packet less the overhead of VXLAN over IPv6."""
PREFIX_LENGTHS = {4: (8, 30), 6: (64, 108)}
"""Bounds of prefix lengths. IPv4: a /30 has one address beside base, gateway and broadcast. IPv6: an endpoint has one
offset in both families, and IPv4 has up to 2**20 of them; a link's subnet has /64 (RFC 4291 section 2.5.1)."""
WIDEST_PREFIX = 3
"""A wider route means "everywhere": a default route, or the halves and eighths that VPNs use instead of one."""

_NOT_IN_INTERNET = tuple(
    map(
        ipaddress.ip_network,
        ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15"),
    )
) + tuple(map(ipaddress.ip_network, ("198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "fc00::/7")))
"""Private, shared, for benchmarks and for documents (RFC 6890)."""

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_NOT_FOR_HOSTS = tuple(
    map(
        ipaddress.ip_network,
        ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32"),
    )
) + tuple(map(ipaddress.ip_network, ("::/128", "::1/128", "::ffff:0:0/96", "fe80::/10", "ff00::/8")))


def subnet_flaw(subnet: _Network) -> tuple[str, str] | None:
    """Return why a network cannot have this subnet, as a clause, and what to use instead; None if it can."""
    low, high = PREFIX_LENGTHS[subnet.version]
    if not low <= subnet.prefixlen <= high:
        return "has no usable size", f"use a prefix length from {low} to {high}"
    if any(one.version == subnet.version and one.overlaps(subnet) for one in _NOT_FOR_HOSTS):
        return (
            "is not for hosts: it is multicast, loopback, link-local or unspecified",
            "use a private range such as 10.160.0.0/20",
        )
    return None


def range_flaw(subnet: _Network) -> str:
    """Return why addresses of services cannot be from this subnet, as a clause; '' if they can. What is sent there
    does not leave the sandbox, and no record may cut a container off from hosts of the Internet."""
    if any(one.version == subnet.version and _contains(one, subnet) for one in _NOT_IN_INTERNET):
        return ""
    return "is not private: hosts of the Internet may have its addresses"


def _contains(outer: _Network, inner: _Network) -> bool:
    return outer.prefixlen <= inner.prefixlen and inner.network_address in outer


def mtu_flaw(mtu_bytes: int, *, has_ipv6: bool) -> str:
    """Return why a network cannot have this MTU, as a clause; '' if it can."""
    if not MIN_MTU_BYTES <= mtu_bytes <= MAX_MTU_BYTES:
        return f"is not between {MIN_MTU_BYTES} and {MAX_MTU_BYTES} bytes"
    if has_ipv6 and mtu_bytes < MIN_IPV6_MTU_BYTES:
        return f"is too small for IPv6, which needs {MIN_IPV6_MTU_BYTES} bytes"
    return ""


def underlay_flaw(text: str) -> str:
    """Return why other hosts cannot reach a host at this address, as a clause; '' if they can."""
    address = ipaddress.ip_address(text)
    if any(one.version == address.version and address in one for one in _NOT_FOR_HOSTS):
        return "is loopback, link-local, multicast or unspecified: no other host can reach it"
    return ""


def outside_flaw(text: str) -> str:
    """Return why a service cannot be outside the cluster at this address, as a clause; '' if it can."""
    address = ipaddress.ip_address(text)
    if any(one.version == address.version and address in one for one in _NOT_FOR_HOSTS):
        return "is loopback, link-local, multicast or unspecified: it is no other machine's"
    return ""


def is_particular(destination: _Network) -> bool:
    """True for the destination of a route that a network could overlap by mistake."""
    return not (
        destination.prefixlen <= WIDEST_PREFIX
        or destination.is_multicast
        or destination.is_link_local
        or destination.is_loopback
    )
