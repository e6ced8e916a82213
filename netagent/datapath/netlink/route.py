"""Routes from netlink's bytes, and ours as requests. Pure. Layout: rtnetlink(7), <linux/rtnetlink.h>."""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import NamedTuple

RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
OUR_PROTOCOL = 78
"""Marks a route as netagent's in `ip route`; unassigned in iproute2's rt_protos."""

_HEADER = struct.Struct(
    "=BBBBBBBBI"
)  # struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
_ATTRIBUTE = struct.Struct("=HH")
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC = 1, 4, 5, 6, 7
_RTN_UNICAST, _RTN_LOCAL = 1, 2
_MAIN_TABLE, _SCOPE_LINK, _SCOPE_ANY = 254, 253, 255
_LOCAL_TABLE, _SCOPE_HOST = 255, 254
_SCOPE_UNIVERSE, _RTNH_F_ONLINK = 0, 4
_RTM_F_CLONED = 0x200
_KERNEL_PROTOCOL, _KERNEL_METRIC6 = 2, 256
"""Protocol and metric of routes that the kernel creates itself, to the subnets of a device's addresses."""
_DEFAULT_METRIC = 8192
"""Any other default route of a container takes precedence over ours: runtimes and people use lower metrics."""


class Route(NamedTuple):
    """A destination and the device that leads there; 0 for several devices or none."""

    destination: ipaddress.IPv4Network | ipaddress.IPv6Network
    ifindex: int


class OwnRoute(NamedTuple):
    """A route of ours in the main table; `gateway` is '' for what is on the link."""

    destination: ipaddress.IPv4Network | ipaddress.IPv6Network
    gateway: str
    ifindex: int


class LocalRoute(NamedTuple):
    """A subnet whose addresses all are the namespace's own, the device that the route is at, and the source address
    of what is sent there ('' for the kernel's choice)."""

    subnet: str
    ifindex: int
    source: str


def route_request_body(family: int) -> bytes:
    """Return the body of an RTM_GETROUTE dump."""
    return _HEADER.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)


def request_body_at(family: int, ifindex: int) -> bytes:
    """Return the same for the routes of one device, if the kernel filters dumps (strict)."""
    return route_request_body(family) + _ATTRIBUTE.pack(8, _RTA_OIF) + struct.pack("=I", ifindex)


def request_body_of_subnets(family: int) -> bytes:
    """Return the body of an RTM_GETROUTE dump of the kernel's own routes for addresses, if it filters dumps."""
    return _HEADER.pack(family, 0, 0, 0, 0, _KERNEL_PROTOCOL, 0, 0, 0)


def request_body_to(address: str) -> bytes:
    """Return the body of an RTM_GETROUTE that asks for the route to an address."""
    packed = ipaddress.ip_address(address).packed
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    header = _HEADER.pack(family, 8 * len(packed), 0, 0, 0, 0, 0, 0, 0)
    return header + _ATTRIBUTE.pack(4 + len(packed), _RTA_DST) + packed


def is_local(body: bytes) -> bool:
    """Return whether the route in the body of RTM_NEWROUTE leads to the host itself."""
    kind: int = _HEADER.unpack_from(body)[7]
    return kind == _RTN_LOCAL


def on_link_body(cidr: str, ifindex: int, source: str) -> bytes:
    """Return the body of RTM_NEWROUTE: `cidr` is on this link, reached from `source`. Carries our mark."""
    network = ipaddress.ip_network(cidr)
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    header = _HEADER.pack(
        family, network.prefixlen, 0, 0, _MAIN_TABLE, OUR_PROTOCOL, _SCOPE_LINK, _RTN_UNICAST, 0
    )
    attributes = (
        (_RTA_DST, network.network_address.packed),
        (_RTA_OIF, struct.pack("=I", ifindex)),
        (_RTA_PREFSRC, ipaddress.ip_address(source).packed),
    )
    # Values are 4 or 16 bytes, so nothing needs padding.
    return header + b"".join(_ATTRIBUTE.pack(4 + len(value), kind) + value for kind, value in attributes)


def local_body(wanted: LocalRoute) -> bytes:
    """Return the body of RTM_NEWROUTE or RTM_DELROUTE for a local route. Carries our mark.

    It is at a device of ours and not at `lo`: so it goes with that device, and also counts for sockets that are bound
    to the device. Packets take `lo` all the same.
    """
    network = ipaddress.ip_network(wanted.subnet)
    is_four = network.version == 4
    header = _HEADER.pack(
        socket.AF_INET if is_four else socket.AF_INET6,
        network.prefixlen,
        0,
        0,
        _LOCAL_TABLE,
        OUR_PROTOCOL,
        _SCOPE_HOST if is_four else _SCOPE_UNIVERSE,
        _RTN_LOCAL,
        0,
    )
    attributes = [(_RTA_DST, network.network_address.packed), (_RTA_OIF, struct.pack("=I", wanted.ifindex))]
    if wanted.source:
        attributes.append((_RTA_PREFSRC, ipaddress.ip_address(wanted.source).packed))
    return header + b"".join(_ATTRIBUTE.pack(4 + len(value), kind) + value for kind, value in attributes)


def request_body_of_local(family: int) -> bytes:
    """Return the body of an RTM_GETROUTE dump of our local routes, if the kernel filters dumps (strict)."""
    return _HEADER.pack(family, 0, 0, 0, _LOCAL_TABLE, OUR_PROTOCOL, 0, _RTN_LOCAL, 0)


def decode_local(body: bytes) -> LocalRoute | None:
    """Decode a local route of ours in the body of RTM_NEWROUTE; None for any other route."""
    family, length, _src, _tos, _table, protocol, _scope, kind, flags = _HEADER.unpack_from(body)
    if (kind, protocol) != (_RTN_LOCAL, OUR_PROTOCOL) or flags & _RTM_F_CLONED:
        return None
    if family not in {socket.AF_INET, socket.AF_INET6}:
        return None
    found = _attributes(body)
    destination = found.get(_RTA_DST, bytes(4 if family == socket.AF_INET else 16))
    source = found.get(_RTA_PREFSRC)
    return LocalRoute(
        str(ipaddress.ip_network((destination, length))),
        struct.unpack("=I", found[_RTA_OIF])[0] if _RTA_OIF in found else 0,
        str(ipaddress.ip_address(source)) if source is not None else "",
    )


def subnet_body(cidr: str, ifindex: int) -> bytes:
    """Return the body of RTM_NEWROUTE for the subnet of a device's address, as the kernel creates it with the
    address.

    So the kernel also removes it with the address.
    """
    interface = ipaddress.ip_interface(cidr)
    is_four = interface.version == 4
    header = _HEADER.pack(
        socket.AF_INET if is_four else socket.AF_INET6,
        interface.network.prefixlen,
        0,
        0,
        _MAIN_TABLE,
        _KERNEL_PROTOCOL,
        _SCOPE_LINK if is_four else _SCOPE_UNIVERSE,
        _RTN_UNICAST,
        0,
    )
    attributes = (
        (_RTA_DST, interface.network.network_address.packed),
        (_RTA_OIF, struct.pack("=I", ifindex)),
        (_RTA_PREFSRC, interface.packed) if is_four else (_RTA_PRIORITY, struct.pack("=I", _KERNEL_METRIC6)),
    )
    return header + b"".join(_ATTRIBUTE.pack(4 + len(value), kind) + value for kind, value in attributes)


def default_body(gateway: str, ifindex: int) -> bytes:
    """Return the body of RTM_NEWROUTE for a default route through `gateway` on this link. Carries our mark."""
    address = ipaddress.ip_address(gateway)
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    # On the link, whatever routes exist: otherwise it would have to wait for the one to the subnet.
    header = _HEADER.pack(
        family, 0, 0, 0, _MAIN_TABLE, OUR_PROTOCOL, _SCOPE_UNIVERSE, _RTN_UNICAST, _RTNH_F_ONLINK
    )
    attributes = (
        (_RTA_OIF, struct.pack("=I", ifindex)),
        (_RTA_GATEWAY, address.packed),
        (_RTA_PRIORITY, struct.pack("=I", _DEFAULT_METRIC)),
    )
    return header + b"".join(_ATTRIBUTE.pack(4 + len(value), kind) + value for kind, value in attributes)


def decode_own(body: bytes) -> OwnRoute | None:
    """Decode a unicast route of ours in the main table; None for any other route."""
    found, (_, _, _, _, table, protocol, *_) = decode(body), _HEADER.unpack_from(body)
    if found is None or (table, protocol) != (_MAIN_TABLE, OUR_PROTOCOL):
        return None
    gateway = _attributes(body).get(_RTA_GATEWAY)
    text = str(ipaddress.ip_address(gateway)) if gateway is not None else ""
    return OwnRoute(found.destination, text, found.ifindex)


def removal_body(own: OwnRoute) -> bytes:
    """Return the body of RTM_DELROUTE for a route of ours, whatever its metric."""
    network = own.destination
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    header = _HEADER.pack(
        family, network.prefixlen, 0, 0, _MAIN_TABLE, OUR_PROTOCOL, _SCOPE_ANY, _RTN_UNICAST, 0
    )
    attributes = [(_RTA_DST, network.network_address.packed), (_RTA_OIF, struct.pack("=I", own.ifindex))]
    if own.gateway:
        attributes.append((_RTA_GATEWAY, ipaddress.ip_address(own.gateway).packed))
    return header + b"".join(_ATTRIBUTE.pack(4 + len(value), kind) + value for kind, value in attributes)


def decode(body: bytes) -> Route | None:
    """Decode the unicast route in the body of RTM_NEWROUTE; None for other kinds, and for the kernel's cache."""
    family, length, _src, _tos, _table, _protocol, _scope, kind, flags = _HEADER.unpack_from(body)
    if kind != _RTN_UNICAST or flags & _RTM_F_CLONED or family not in {socket.AF_INET, socket.AF_INET6}:
        return None
    found = _attributes(body)
    raw = found.get(_RTA_DST, bytes(4 if family == socket.AF_INET else 16))
    ifindex = struct.unpack("=I", found[_RTA_OIF])[0] if _RTA_OIF in found else 0
    return Route(ipaddress.ip_network((raw, length)), ifindex)


def _attributes(body: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    offset = _HEADER.size
    while offset + 4 <= len(body):
        size, attribute = _ATTRIBUTE.unpack_from(body, offset)
        if size < 4:
            break
        found[attribute] = body[offset + 4 : offset + size]
        offset += (size + 3) & ~3
    return found


def decode_main(body: bytes) -> Route | None:
    """Decode a route of the main table, which has the routes of a device's addresses; None for other tables, which
    few packets use: hosts with several uplinks often have a table for each, with copies of all routes."""
    return decode(body) if _HEADER.unpack_from(body)[4] == _MAIN_TABLE else None
