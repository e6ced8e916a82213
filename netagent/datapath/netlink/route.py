"""Routes from netlink's bytes: where a host's packets go already. Pure. Layout: rtnetlink(7), <linux/rtnetlink.h>."""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import NamedTuple

RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
OUR_PROTOCOL = 78
"""Says in `ip route` that the route is netagent's; unassigned in iproute2's rt_protos."""

_HEADER = struct.Struct(
    "=BBBBBBBBI"
)  # struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
_ATTRIBUTE = struct.Struct("=HH")
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC = 1, 4, 5, 6, 7
_RTN_UNICAST, _RTN_LOCAL = 1, 2
_MAIN_TABLE, _SCOPE_LINK = 254, 253
_SCOPE_UNIVERSE, _RTNH_F_ONLINK = 0, 4
_RTM_F_CLONED = 0x200
_KERNEL_PROTOCOL, _KERNEL_METRIC6 = 2, 256
"""Of the routes that the kernel makes itself, to the subnets of a device's addresses."""
_DEFAULT_METRIC = 8192
"""Whatever other default route a container has or gets comes before ours: runtimes and people give theirs less."""


class Route(NamedTuple):
    """A destination and the device that leads there; 0 where there are several or none."""

    destination: ipaddress.IPv4Network | ipaddress.IPv6Network
    ifindex: int


def route_request_body(family: int) -> bytes:
    """The body of a RTM_GETROUTE dump."""
    return _HEADER.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)


def request_body_at(family: int, ifindex: int) -> bytes:
    """The same for the routes of one device, where the kernel is strict."""
    return route_request_body(family) + _ATTRIBUTE.pack(8, _RTA_OIF) + struct.pack("=I", ifindex)


def request_body_of_subnets(family: int) -> bytes:
    """The body of a RTM_GETROUTE dump of what the kernel made itself for addresses, where it is strict."""
    return _HEADER.pack(family, 0, 0, 0, 0, _KERNEL_PROTOCOL, 0, 0, 0)


def request_body_to(address: str) -> bytes:
    """The body of a RTM_GETROUTE that asks which way packets to an address take."""
    packed = ipaddress.ip_address(address).packed
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    header = _HEADER.pack(family, 8 * len(packed), 0, 0, 0, 0, 0, 0, 0)
    return header + _ATTRIBUTE.pack(4 + len(packed), _RTA_DST) + packed


def is_local(body: bytes) -> bool:
    """Whether the route in the body of RTM_NEWROUTE leads to the host itself."""
    kind: int = _HEADER.unpack_from(body)[7]
    return kind == _RTN_LOCAL


def on_link_body(cidr: str, ifindex: int, source: str) -> bytes:
    """The body of RTM_NEWROUTE: `cidr` is reached on this link, from `source`. Carries our mark."""
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


def subnet_body(cidr: str, ifindex: int) -> bytes:
    """The body of RTM_NEWROUTE: the subnet of this address of a device, as the kernel makes it with the address.

    So it goes with the address, too.
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
    """The body of RTM_NEWROUTE: everything else is reached through `gateway` on this link. Carries our mark."""
    address = ipaddress.ip_address(gateway)
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    # On the link, whatever routes there are: else it would have to wait for the one to the subnet.
    header = _HEADER.pack(
        family, 0, 0, 0, _MAIN_TABLE, OUR_PROTOCOL, _SCOPE_UNIVERSE, _RTN_UNICAST, _RTNH_F_ONLINK
    )
    attributes = (
        (_RTA_OIF, struct.pack("=I", ifindex)),
        (_RTA_GATEWAY, address.packed),
        (_RTA_PRIORITY, struct.pack("=I", _DEFAULT_METRIC)),
    )
    return header + b"".join(_ATTRIBUTE.pack(4 + len(value), kind) + value for kind, value in attributes)


def decode(body: bytes) -> Route | None:
    """The unicast route in the body of RTM_NEWROUTE; None for other kinds, and for the kernel's cache."""
    family, length, _src, _tos, _table, _protocol, _scope, kind, flags = _HEADER.unpack_from(body)
    if kind != _RTN_UNICAST or flags & _RTM_F_CLONED or family not in {socket.AF_INET, socket.AF_INET6}:
        return None
    raw = bytes(4 if family == socket.AF_INET else 16)
    ifindex = 0
    offset = _HEADER.size
    while offset + 4 <= len(body):
        size, attribute = _ATTRIBUTE.unpack_from(body, offset)
        if size < 4:
            break
        value = body[offset + 4 : offset + size]
        if attribute == _RTA_DST:
            raw = value
        elif attribute == _RTA_OIF:
            (ifindex,) = struct.unpack("=I", value)
        offset += (size + 3) & ~3
    return Route(ipaddress.ip_network((raw, length)), ifindex)


def decode_main(body: bytes) -> Route | None:
    """The same of the main table, where the routes of a device's addresses are; None for others, which few packets
    ask: whoever has several uplinks often copies all routes to a table for each."""
    return decode(body) if _HEADER.unpack_from(body)[4] == _MAIN_TABLE else None
