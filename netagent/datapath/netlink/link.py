"""Messages of links and addresses <-> bytes, by hand.

An attach sends a dozen of them while a caller waits, and every reading of the kernel decodes all links of the host:
pyroute2 takes 0.3 ms to encode the message that creates a veth and 0.8 ms to decode a link, this file 0.01 and
0.02 ms (measured). Layout: rtnetlink(7), <linux/if_link.h>. Neighbours are in neighbour.py; bridges and VXLAN devices
are created in device.py.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from netagent.datapath.netlink.neighbour import family_of
from netagent.datapath.netlink.route_socket import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NetlinkRequest
from netagent.datapath.state import LinkKind, PortFlags, Tunnel
from netagent.model.subnet import MIN_IPV6_MTU_BYTES

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22

WIREGUARD_KIND = "wireguard"
"""The kernel's name for the type. Not a LinkKind: the reconciler has nothing to do with the device."""

_IFF_UP, _IFF_NOARP, _IFF_LOWER_UP = 0x1, 0x80, 0x10000
_IFA_F_NODAD, _IFA_F_PERMANENT, _IFA_F_NOPREFIXROUTE = 0x02, 0x80, 0x200

_LINK_HEADER = struct.Struct("=BxHiII")  # struct ifinfomsg
_ADDRESS_HEADER = struct.Struct("=BBBBI")  # struct ifaddrmsg
_ATTRIBUTE = struct.Struct("=HH")
_NUMBER_MASK = 0x3FFF
"""Mask of an attribute's type: the two bits above say that it is nested or in network byte order."""
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER = 1, 3, 4, 5, 10
_IFLA_PROTINFO = 12
_IFLA_STATS, _IFLA_OPERSTATE, _IFLA_LINKINFO, _IFLA_STATS64 = 7, 16, 18, 23
_IFLA_IFALIAS, _IFLA_AF_SPEC, _IFLA_GROUP, _IFLA_NET_NS_FD, _IFLA_EXT_MASK = 20, 26, 27, 28, 29
_IFLA_GSO_MAX_SIZE = 41
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_KIND, _INFO_SLAVE_DATA = 1, 2, 4, 5
_VXLAN_ID, _VXLAN_LOCAL, _VXLAN_TTL, _VXLAN_LEARNING = 1, 4, 5, 7
_VXLAN_PORT, _VXLAN_LOCAL6, _VXLAN_DF = 15, 17, 29
_BR_STP, _BR_MCAST_SNOOPING, _VETH_INFO_PEER = 5, 23, 1
_INET6_ADDR_GEN_MODE, _ADDR_GEN_MODE_NONE = 8, 1
_EXT_MASK_SKIP_STATS = 8
_IF_OPER_UNKNOWN, _IF_OPER_UP = 0, 6
_PORT_STATE, _PORT_FORWARDING = 1, 3
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_CACHEINFO, _IFA_FLAGS = 1, 2, 4, 6, 8
_CACHEINFO = struct.Struct("=IIII")  # struct ifa_cacheinfo: preferred and valid, in seconds; two times
_FOR_EVER = 0xFFFFFFFF
_COUNTERS = frozenset({_IFLA_STATS, _IFLA_STATS64, _IFLA_AF_SPEC})
"""Counters, also those of an address family. `decode_link` reads none of them."""
_PORT_ATTRIBUTES = (
    ("learning", 8),
    ("flood", 9),
    ("mcast_flood", 27),
    ("bcast_flood", 30),
    ("neigh_suppress", 32),
    ("hairpin", 4),
    ("isolated", 33),
)
"""Attributes of a bridge port: the field, and IFLA_BRPORT_*."""


def _attribute(number: int, *parts: bytes) -> bytes:
    """Encode one netlink attribute, padded; `parts` are its value, attributes themselves if it is nested."""
    value = b"".join(parts)
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), number) + value + bytes(-len(value) % 4)


def _u32(number: int, value: int) -> bytes:
    return _attribute(number, value.to_bytes(4, sys.byteorder))


def _u8(number: int, value: int) -> bytes:
    return _attribute(number, bytes([value]))


def _name(name: str) -> bytes:
    return _attribute(_IFLA_IFNAME, name.encode(), b"\0")


def _mac(mac: str) -> bytes:
    return _attribute(_IFLA_ADDRESS, bytes.fromhex(mac.replace(":", "")))


_SKIP_STATS = _u32(_IFLA_EXT_MASK, _EXT_MASK_SKIP_STATS)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkMessage:
    """A link as a dump or a notification shows it, before indexes are turned into names."""

    index: int
    name: str
    alias: str
    kind: str
    """"" for a device that is not virtual."""
    mac: str
    mtu_bytes: int
    up: bool
    has_carrier: bool
    """For a veth: both ends are up."""
    is_operational: bool
    """Packets pass (see netagent.datapath.endpoint.veth_binding)."""
    master: int | None
    peer: int | None
    """For a veth: the other end's index, in whichever namespace it is."""
    port: PortFlags | None
    forwarding: bool
    """False for a bridge's port that only the bridge keeps shut."""
    tunnel: Tunnel | None
    mcast_snooping: bool
    stp: bool
    noarp: bool


@dataclass(frozen=True, slots=True)
class ReadLink:
    """A link with the message it was decoded from. The next message usually says the same and need not be decoded."""

    link: LinkMessage
    body: bytes
    parts: tuple[slice, ...]
    """Parts of the body without the counters, which some kernels send although they were not requested."""

    def is_still(self, body: bytes) -> bool:
        """Return whether a message says the same. Attribute headers are compared as well, so all is in its place."""
        return len(body) == len(self.body) and all(body[part] == self.body[part] for part in self.parts)


def read_link(body: bytes) -> ReadLink:
    """Decode like decode_link, and keep the message."""
    parts, start, offset = [], 0, _LINK_HEADER.size
    while offset + 4 <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if length < 4:
            break
        if kind & _NUMBER_MASK in _COUNTERS:
            parts.append(slice(start, offset + 4))
            start = offset + length
        offset += (length + 3) & ~3
    return ReadLink(decode_link(body), body, (*parts, slice(start, None)))


def link_dump() -> NetlinkRequest:
    """Ask for all links, without their counters."""
    return _link_request(RTM_GETLINK, 0, _SKIP_STATS)


def link_named(name: str) -> NetlinkRequest:
    """Ask for one link by a name, which may be an alternative one (see ip-link(8), altname)."""
    return _link_request(RTM_GETLINK, 0, _SKIP_STATS, _name(name))


def link_at(index: int) -> NetlinkRequest:
    """Ask for the link with this index."""
    return _link_request(RTM_GETLINK, 0, _SKIP_STATS, index=index)


def decode_link(body: bytes) -> LinkMessage:
    """Decode a link from the body of RTM_NEWLINK or RTM_DELLINK."""
    _family, _type, index, flags, _change = _LINK_HEADER.unpack_from(body)
    found = _attributes(body, _LINK_HEADER.size)
    info = _attributes(found.get(_IFLA_LINKINFO, b""))
    data = _attributes(info.get(_INFO_DATA, b""))
    kind = _text(info.get(_INFO_KIND, b""))
    is_bridge = kind == "bridge"
    oper = _number(found.get(_IFLA_OPERSTATE))
    is_port = _text(info.get(_INFO_SLAVE_KIND, b"")) == "bridge"
    port = _attributes(info.get(_INFO_SLAVE_DATA, b"")) if is_port else {}
    return LinkMessage(
        index=index,
        name=_text(found.get(_IFLA_IFNAME, b"")),
        alias=_text(found.get(_IFLA_IFALIAS, b"")),
        kind=kind,
        mac=found.get(_IFLA_ADDRESS, b"").hex(":"),
        mtu_bytes=_number(found.get(_IFLA_MTU)) or 0,
        up=bool(flags & _IFF_UP),
        has_carrier=bool(flags & _IFF_LOWER_UP),
        is_operational=oper == _IF_OPER_UP,
        master=_number(found.get(_IFLA_MASTER)),
        peer=_number(found.get(_IFLA_LINK)),
        port=_decode_port(port),
        forwarding=not (port and flags & _IFF_UP and oper in {_IF_OPER_UNKNOWN, _IF_OPER_UP})
        or _number(port.get(_PORT_STATE)) in {None, _PORT_FORWARDING},
        tunnel=_decode_tunnel(data) if kind == "vxlan" and data else None,
        mcast_snooping=is_bridge and bool(_number(data.get(_BR_MCAST_SNOOPING))),
        stp=is_bridge and bool(_number(data.get(_BR_STP))),
        noarp=is_bridge and bool(flags & _IFF_NOARP),
    )


def decode_bridge_port(body: bytes) -> tuple[int | None, PortFlags | None, bool]:
    """Decode a bridge's message about one of its ports (family AF_BRIDGE): the bridge, the flags, if packets pass."""
    found = _attributes(body, _LINK_HEADER.size)
    port = _attributes(found.get(_IFLA_PROTINFO, b""))
    return (
        _number(found.get(_IFLA_MASTER)),
        _decode_port(port),
        _number(port.get(_PORT_STATE)) == _PORT_FORWARDING,
    )


def _attributes(body: bytes, offset: int = 0) -> dict[int, bytes]:
    """Return netlink attributes by number; stop at one that does not fit its length."""
    found: dict[int, bytes] = {}
    while offset + 4 <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if length < 4:
            break
        found[kind & _NUMBER_MASK] = body[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode("utf-8", "replace")


def _number(raw: bytes | None) -> int | None:
    return None if raw is None else int.from_bytes(raw, sys.byteorder)


def _decode_port(data: Mapping[int, bytes]) -> PortFlags | None:
    if not data:
        return None
    return PortFlags(**{field: bool(_number(data.get(number))) for field, number in _PORT_ATTRIBUTES})


def _decode_tunnel(data: Mapping[int, bytes]) -> Tunnel:
    local = data.get(_VXLAN_LOCAL) or data.get(_VXLAN_LOCAL6)
    return Tunnel(
        vni=_number(data.get(_VXLAN_ID)) or 0,
        port=int.from_bytes(data.get(_VXLAN_PORT, b""), "big"),
        local=str(ipaddress.ip_address(local)) if local else "",
        learning=bool(_number(data.get(_VXLAN_LEARNING))),
        dont_fragment=_number(data.get(_VXLAN_DF)) == 1,
        ttl=_number(data.get(_VXLAN_TTL)) or 0,
    )


def choose_index() -> int:
    """Draw an index for a new link, far above those that the kernel counts up by itself."""
    return 1 << 24 | secrets.randbits(24)


MOST_SEGMENTED_BYTES: Final = 56 * 1024
"""The longest piece of a TCP stream that the kernel gives a container's interface at once; its own limit is 64 KiB.
wireguard-go sends the packets of a piece by one call, as one piece of UDP. Encrypted, 64 KiB of TCP would be just too
long for the underlay's device: the kernel would split the piece into single packets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VethPair:
    """The input of `create_veth`: the host's end here; the other end in the namespace of `peer_netns_fd`, if
    given."""

    name: str
    alias: str
    mtu_bytes: int
    peer_name: str
    peer_mac: str
    peer_netns_fd: int | None


def create_veth(pair: VethPair, index: int) -> list[NetlinkRequest]:
    """Create both ends, down, the host's end marked as in netagent.datapath.netlink.device.create_link."""
    peer = [_LINK_HEADER.pack(0, 0, 0, 0, 0), _name(pair.peer_name), _mac(pair.peer_mac)]
    peer.append(_u32(_IFLA_MTU, pair.mtu_bytes))
    peer.append(_u32(_IFLA_GSO_MAX_SIZE, MOST_SEGMENTED_BYTES))
    if pair.peer_netns_fd is not None:
        peer.append(_u32(_IFLA_NET_NS_FD, pair.peer_netns_fd))
    attributes = [_name(pair.name), _u32(_IFLA_MTU, pair.mtu_bytes)]
    attributes.append(_link_info(LinkKind.VETH, _attribute(_VETH_INFO_PEER, *peer)))
    return [
        _link_request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, *attributes, index=index),
        mark_link(index, pair.alias, pair.mtu_bytes),
    ]


def create_wireguard(name: str, index: int, alias: str, mtu_bytes: int) -> list[NetlinkRequest]:
    """Create a WireGuard device: down, without keys, and marked as ours (see device.create_link about the order)."""
    kind = _attribute(_IFLA_LINKINFO, _attribute(_INFO_KIND, WIREGUARD_KIND.encode()))
    attributes = [_name(name), _u32(_IFLA_MTU, mtu_bytes), kind]
    return [
        _link_request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, *attributes, index=index),
        mark_link(index, alias, mtu_bytes),
    ]


def mark_link(index: int, alias: str, mtu_bytes: int) -> NetlinkRequest:
    """Set the alias, and stop the kernel from giving the device an IPv6 link-local address.

    A device whose MTU is too small for IPv6 has no such setting, and the kernel refuses a message that names it.
    """
    attributes = [_attribute(_IFLA_IFALIAS, alias.encode())]
    if mtu_bytes >= MIN_IPV6_MTU_BYTES:
        no_addresses = _attribute(socket.AF_INET6, _u8(_INET6_ADDR_GEN_MODE, _ADDR_GEN_MODE_NONE))
        attributes.append(_attribute(_IFLA_AF_SPEC, no_addresses))
    return _link_request(RTM_NEWLINK, 0, *attributes, index=index)


def set_link(
    name: str,
    *,
    mtu_bytes: int | None = None,
    mac: str | None = None,
    master: int | None = None,
    up: bool | None = None,
) -> NetlinkRequest:
    """Change the given properties. `master` is an index, 0 for none."""
    attributes = [_name(name)]
    if mtu_bytes is not None:
        attributes.append(_u32(_IFLA_MTU, mtu_bytes))
    if mac is not None:
        attributes.append(_mac(mac))
    if master is not None:
        attributes.append(_u32(_IFLA_MASTER, master))
    return _link_request(RTM_NEWLINK, 0, *attributes, up=up)


def set_noarp(index: int, *, noarp: bool) -> NetlinkRequest:
    """Set whether a link does without neighbours."""
    header = _LINK_HEADER.pack(0, 0, index, _IFF_NOARP if noarp else 0, _IFF_NOARP)
    return NetlinkRequest(RTM_NEWLINK, 0, header)


def label_link(index: int, alias: str) -> NetlinkRequest:
    """Set only the alias."""
    return _link_request(RTM_NEWLINK, 0, _attribute(_IFLA_IFALIAS, alias.encode()), index=index)


def rename_link(index: int, name: str) -> NetlinkRequest:
    """Rename a link; kernels before 6.2 refuse while it is up."""
    return _link_request(RTM_NEWLINK, 0, _name(name), index=index)


def set_link_down(index: int) -> NetlinkRequest:
    """Take a link down, by index."""
    return _link_request(RTM_NEWLINK, 0, index=index, up=False)


def set_port(name: str, flags: PortFlags) -> NetlinkRequest:
    """Set the flags of a bridge port."""
    data = [_u8(number, getattr(flags, field)) for field, number in _PORT_ATTRIBUTES]
    info = [_attribute(_INFO_SLAVE_KIND, b"bridge"), _attribute(_INFO_SLAVE_DATA, *data)]
    return _link_request(RTM_NEWLINK, 0, _name(name), _attribute(_IFLA_LINKINFO, *info))


def open_port(name: str) -> NetlinkRequest:
    """Let packets pass a bridge port. ENETDOWN if the device itself is down."""
    info = [_attribute(_INFO_SLAVE_KIND, b"bridge")]
    info.append(_attribute(_INFO_SLAVE_DATA, _u8(_PORT_STATE, _PORT_FORWARDING)))
    return _link_request(RTM_NEWLINK, 0, _name(name), _attribute(_IFLA_LINKINFO, *info))


def delete_link(name: str) -> NetlinkRequest:
    """Remove a link and everything on it."""
    return _link_request(RTM_DELLINK, 0, _name(name))


def delete_link_index(index: int) -> NetlinkRequest:
    """Remove a link by its index."""
    return _link_request(RTM_DELLINK, 0, index=index)


def retire_link(index: int, group: int) -> NetlinkRequest:
    """Take a link down and out of its bridge, and put it into a group of links to remove."""
    return _link_request(
        RTM_NEWLINK, 0, _u32(_IFLA_MASTER, 0), _u32(_IFLA_GROUP, group), index=index, up=False
    )


def delete_link_group(group: int) -> NetlinkRequest:
    """Remove all links of a group."""
    return _link_request(RTM_DELLINK, 0, _u32(_IFLA_GROUP, group))


def _link_info(kind: LinkKind, *data: bytes) -> bytes:
    info = [_attribute(_INFO_KIND, kind.value.encode()), _attribute(_INFO_DATA, *data)]
    return _attribute(_IFLA_LINKINFO, *info)


def _link_request(
    kind: int, flags: int, *attributes: bytes, index: int = 0, up: bool | None = None
) -> NetlinkRequest:
    header = _LINK_HEADER.pack(0, 0, index, _IFF_UP if up else 0, 0 if up is None else _IFF_UP)
    return NetlinkRequest(kind, flags, header + b"".join(attributes))


def address_dump() -> NetlinkRequest:
    """Ask for the addresses of all links."""
    return NetlinkRequest(RTM_GETADDR, 0, _ADDRESS_HEADER.pack(0, 0, 0, 0, 0))


def decode_address(body: bytes) -> tuple[int, str]:
    """Decode (link index, "address/prefix length") from the body of RTM_NEWADDR or RTM_DELADDR."""
    _family, length, _flags, _scope, index = _ADDRESS_HEADER.unpack_from(body)
    found = _attributes(body, _ADDRESS_HEADER.size)
    raw = found.get(_IFA_LOCAL) or found[_IFA_ADDRESS]
    return index, f"{ipaddress.ip_address(raw)}/{length}"


def decode_broadcast(body: bytes) -> str | None:
    """Return the broadcast address of the IPv4 address in the body of RTM_NEWADDR; None: it has none."""
    raw = _attributes(body, _ADDRESS_HEADER.size).get(_IFA_BROADCAST)
    return str(ipaddress.IPv4Address(raw)) if raw is not None else None


def change_broadcast(index: int, address: str, broadcast: str | None) -> list[NetlinkRequest]:
    """Give the IPv4 address `address`/32 of a link another broadcast address.

    The kernel can't change it, and removes with an address the routes that have it as their source. So the link has
    the address a second time meanwhile, in a subnet of another size, without a route to that."""
    second = _address_body(index, f"{address}/31")
    no_route = _attribute(_IFA_FLAGS, struct.pack("=I", _IFA_F_NOPREFIXROUTE))
    return [
        NetlinkRequest(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, second + no_route),
        delete_address(index, f"{address}/32"),
        set_address(index, f"{address}/32", broadcast),
        NetlinkRequest(RTM_DELADDR, 0, second),
    ]


def set_address(index: int, cidr: str, broadcast: str | None = None) -> NetlinkRequest:
    """Give a link an address, usable at once: duplicate detection would cost 1.7 s, and the address is unique.

    `broadcast` is the IPv4 address of all hosts on the link. An IPv6 address without a subnet is not preferred: the
    host answers for it, but uses another source if it has one.
    """
    body = _address_body(index, cidr)
    if cidr.endswith("/128"):
        body += _attribute(_IFA_CACHEINFO, _CACHEINFO.pack(0, _FOR_EVER, 0, 0))
    if broadcast is not None:
        body += _attribute(_IFA_BROADCAST, ipaddress.IPv4Address(broadcast).packed)
    return NetlinkRequest(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, body)


def delete_address(index: int, cidr: str) -> NetlinkRequest:
    """Remove an address from a link."""
    return NetlinkRequest(RTM_DELADDR, 0, _address_body(index, cidr))


def _address_body(index: int, cidr: str) -> bytes:
    address, _, length = cidr.partition("/")
    packed = ipaddress.ip_address(address).packed
    flags, attributes = 0, [_attribute(_IFA_LOCAL, packed), _attribute(_IFA_ADDRESS, packed)]
    if ":" in address:
        flags, attributes = _IFA_F_NODAD | _IFA_F_PERMANENT, [_attribute(_IFA_ADDRESS, packed)]
    header = _ADDRESS_HEADER.pack(family_of(address), int(length), flags, 0, index)
    return header + b"".join(attributes)
