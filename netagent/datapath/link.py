"""Messages of links and addresses <-> bytes. The only file that knows pyroute2, and only as a codec.

What we send is rare (a handful for each network and container) and goes through pyroute2; what we read is not, and is
decoded by hand. Neighbours, which are frequent both ways, are in neighbour.py.
"""

from __future__ import annotations

import ipaddress
import secrets
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from netagent.datapath.neighbour import family_of
from netagent.datapath.netlink import HEADER, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Request
from netagent.datapath.state import Device, Kind, PortFlags, Tunnel

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22

_IFF_UP = 0x1
_IFA_F_NODAD, _IFA_F_PERMANENT = 0x02, 0x80
_ADDR_GEN_MODE_NONE = 1
_EXT_MASK_SKIP_STATS = 8


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
    master: int | None
    peer: int | None
    """Of a veth: the other end's index, in whatever namespace that is."""
    port: PortFlags | None
    tunnel: Tunnel | None
    mcast_snooping: bool


def link_dump() -> Request:
    """Ask for all links, without their counters."""
    return _link_request(RTM_GETLINK, 0, [("IFLA_EXT_MASK", _EXT_MASK_SKIP_STATS)])


def link_named(name: str) -> Request:
    """Ask for one link; by another name of it, too (see ip-link(8), altname)."""
    return _link_request(RTM_GETLINK, 0, [("IFLA_EXT_MASK", _EXT_MASK_SKIP_STATS), ("IFLA_IFNAME", name)])


def link_at(index: int) -> Request:
    """Ask for the link with this index."""
    return _link_request(RTM_GETLINK, 0, [("IFLA_EXT_MASK", _EXT_MASK_SKIP_STATS)], index=index)


def decode_link(body: bytes) -> LinkMessage:
    """A link from the body of RTM_NEWLINK or RTM_DELLINK.

    By hand, because every look at the kernel reads all links of the host: pyroute2 takes 0.8 ms for each of them,
    this 0.02 ms (measured).
    """
    _family, _type, index, flags, _change = _LINK_HEADER.unpack_from(body)
    found = _attributes(body, _LINK_HEADER.size)
    info = _attributes(found.get(_IFLA_LINKINFO, b""))
    data = _attributes(info.get(_INFO_DATA, b""))
    kind = _text(info.get(_INFO_KIND, b""))
    is_port = _text(info.get(_INFO_SLAVE_KIND, b"")) == "bridge"
    return LinkMessage(
        index=index,
        name=_text(found.get(_IFLA_IFNAME, b"")),
        alias=_text(found.get(_IFLA_IFALIAS, b"")),
        kind=kind,
        mac=found.get(_IFLA_ADDRESS, b"").hex(":"),
        mtu_bytes=_number(found.get(_IFLA_MTU)) or 0,
        up=bool(flags & _IFF_UP),
        master=_number(found.get(_IFLA_MASTER)),
        peer=_number(found.get(_IFLA_LINK)),
        port=_decode_port(_attributes(info.get(_INFO_SLAVE_DATA, b""))) if is_port else None,
        tunnel=_decode_tunnel(data) if kind == "vxlan" and data else None,
        mcast_snooping=kind == "bridge" and bool(_number(data.get(_BR_MCAST_SNOOPING))),
    )


_LINK_HEADER = struct.Struct("=BxHiII")  # struct ifinfomsg
_ATTRIBUTE = struct.Struct("=HH")
_NUMBER_MASK = 0x3FFF
"""Of an attribute's type: the two bits above say that it is nested or in network byte order."""
# <linux/if_link.h>
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER = 1, 3, 4, 5, 10
_IFLA_LINKINFO, _IFLA_IFALIAS = 18, 20
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_KIND, _INFO_SLAVE_DATA = 1, 2, 4, 5
_VXLAN_ID, _VXLAN_LOCAL, _VXLAN_LEARNING, _VXLAN_PORT, _VXLAN_LOCAL6 = 1, 4, 7, 15, 17
_BR_MCAST_SNOOPING = 23
_PORT_ATTRIBUTES = (
    ("learning", 8, "IFLA_BRPORT_LEARNING"),
    ("flood", 9, "IFLA_BRPORT_UNICAST_FLOOD"),
    ("mcast_flood", 27, "IFLA_BRPORT_MCAST_FLOOD"),
    ("bcast_flood", 30, "IFLA_BRPORT_BCAST_FLOOD"),
    ("neigh_suppress", 32, "IFLA_BRPORT_NEIGH_SUPPRESS"),
)
"""Field, number to read by, and pyroute2's name to write by."""


def _attributes(body: bytes, offset: int = 0) -> dict[int, bytes]:
    """Netlink attributes by their number; what does not fit its length ends them."""
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
    return PortFlags(**{field: bool(_number(data.get(number))) for field, number, _ in _PORT_ATTRIBUTES})


def _decode_tunnel(data: Mapping[int, bytes]) -> Tunnel:
    local = data.get(_VXLAN_LOCAL) or data.get(_VXLAN_LOCAL6)
    return Tunnel(
        vni=_number(data.get(_VXLAN_ID)) or 0,
        port=int.from_bytes(data.get(_VXLAN_PORT, b""), "big"),
        local=str(ipaddress.ip_address(local)) if local else "",
        learning=bool(_number(data.get(_VXLAN_LEARNING))),
    )


def choose_index() -> int:
    """An index for a link to be made; far above those that the kernel counts up by itself."""
    return 1 << 24 | secrets.randbits(24)


def create_link(device: Device, index: int) -> list[Request]:
    """A bridge or VXLAN device, down, without addresses of its own making, and marked as ours.

    The kernel takes no mark in the creating message, so it follows in the same `send`: a killed agent can't come
    between the two. It names the link by an index of our choice: if the link could not be made, because somebody
    else's has its name, then the mark finds nothing, instead of making that one ours.
    """
    attributes: list[Any] = [("IFLA_IFNAME", device.name), ("IFLA_MTU", device.mtu_bytes)]
    if device.mac is not None:
        attributes.append(("IFLA_ADDRESS", device.mac))
    attributes.append(_link_info(device.kind, _kind_data(device)))
    return [
        _link_request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, attributes, index=index),
        mark_link(index, device.alias),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class VethPair:
    """What `create_veth` makes: the host's end here; the other end in the namespace of `peer_netns_fd`, if given."""

    name: str
    alias: str
    mtu_bytes: int
    peer_name: str
    peer_mac: str
    peer_netns_fd: int | None


def create_veth(pair: VethPair, index: int) -> list[Request]:
    """Both ends, down, the host's end marked as in `create_link`."""
    peer: Any = ifinfmsg()
    peer["attrs"] = [
        ("IFLA_IFNAME", pair.peer_name),
        ("IFLA_ADDRESS", pair.peer_mac),
        ("IFLA_MTU", pair.mtu_bytes),
    ]
    if pair.peer_netns_fd is not None:
        peer["attrs"].append(("IFLA_NET_NS_FD", pair.peer_netns_fd))
    data = [("VETH_INFO_PEER", peer)]
    attributes = [("IFLA_IFNAME", pair.name), ("IFLA_MTU", pair.mtu_bytes), _link_info(Kind.VETH, data)]
    return [
        _link_request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, attributes, index=index),
        mark_link(index, pair.alias),
    ]


def mark_link(index: int, alias: str) -> Request:
    """Set the alias, and stop the kernel from giving the device an IPv6 link-local address."""
    no_addresses = {"attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _ADDR_GEN_MODE_NONE)]})]}
    return _link_request(
        RTM_NEWLINK, 0, [("IFLA_IFALIAS", alias), ("IFLA_AF_SPEC", no_addresses)], index=index
    )


def set_link(
    name: str,
    *,
    mtu_bytes: int | None = None,
    mac: str | None = None,
    master: int | None = None,
    up: bool | None = None,
) -> Request:
    """Change what is given. `master` is an index, 0 for none."""
    attributes: list[Any] = [("IFLA_IFNAME", name)]
    if mtu_bytes is not None:
        attributes.append(("IFLA_MTU", mtu_bytes))
    if mac is not None:
        attributes.append(("IFLA_ADDRESS", mac))
    if master is not None:
        attributes.append(("IFLA_MASTER", master))
    return _link_request(RTM_NEWLINK, 0, attributes, up=up)


def set_kind_options(device: Device) -> Request:
    """What can be changed of a bridge (snooping) or a VXLAN device (local address, learning) after it was made."""
    # The kernel refuses a change that names the port, even the port that it has.
    data = [(name, value) for name, value in _kind_data(device) if name != "IFLA_VXLAN_PORT"]
    return _link_request(RTM_NEWLINK, 0, [("IFLA_IFNAME", device.name), _link_info(device.kind, data)])


def set_port(name: str, flags: PortFlags) -> Request:
    """Flags of a bridge port."""
    data = {"attrs": [(attribute, int(getattr(flags, field))) for field, _, attribute in _PORT_ATTRIBUTES]}
    info = {"attrs": [("IFLA_INFO_SLAVE_KIND", "bridge"), ("IFLA_INFO_SLAVE_DATA", data)]}
    return _link_request(RTM_NEWLINK, 0, [("IFLA_IFNAME", name), ("IFLA_LINKINFO", info)])


def delete_link(name: str) -> Request:
    """Remove a link and all that sits on it."""
    return _link_request(RTM_DELLINK, 0, [("IFLA_IFNAME", name)])


def delete_link_index(index: int) -> Request:
    """Remove a link by its index."""
    return _link_request(RTM_DELLINK, 0, [], index=index)


def retire_link(index: int, group: int) -> Request:
    """Take a link down and out of its bridge, and put it into a group with others that are to go."""
    return _link_request(RTM_NEWLINK, 0, [("IFLA_MASTER", 0), ("IFLA_GROUP", group)], index=index, up=False)


def delete_link_group(group: int) -> Request:
    """Remove all links of a group."""
    return _link_request(RTM_DELLINK, 0, [("IFLA_GROUP", group)])


def _kind_data(device: Device) -> list[tuple[str, Any]]:
    if device.kind is Kind.BRIDGE:
        return [("IFLA_BR_MCAST_SNOOPING", int(device.mcast_snooping))]
    if device.tunnel is None:
        raise ValueError(f"{device.name}: only bridges and VXLAN devices are made from a Device")
    local = "IFLA_VXLAN_LOCAL6" if ":" in device.tunnel.local else "IFLA_VXLAN_LOCAL"
    return [
        ("IFLA_VXLAN_ID", device.tunnel.vni),
        ("IFLA_VXLAN_PORT", device.tunnel.port),
        (local, device.tunnel.local),
        ("IFLA_VXLAN_LEARNING", int(device.tunnel.learning)),
    ]


def _link_info(kind: Kind, data: list[tuple[str, Any]]) -> tuple[str, Any]:
    return "IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", kind.value), ("IFLA_INFO_DATA", {"attrs": data})]}


def _link_request(
    kind: int, flags: int, attributes: list[Any], *, index: int = 0, up: bool | None = None
) -> Request:
    message: Any = ifinfmsg()
    message["index"] = index
    message["attrs"] = attributes
    if up is not None:
        message["flags"], message["change"] = (_IFF_UP if up else 0), _IFF_UP
    return Request(kind, flags, _body(message))


def address_dump() -> Request:
    """Ask for the addresses of all links."""
    return Request(RTM_GETADDR, 0, _body(ifaddrmsg()))


def decode_address(body: bytes) -> tuple[int, str]:
    """(link index, "address/prefix length") from the body of RTM_NEWADDR or RTM_DELADDR."""
    _family, length, _flags, _scope, index = _ADDRESS_HEADER.unpack_from(body)
    found = _attributes(body, _ADDRESS_HEADER.size)
    raw = found.get(_IFA_LOCAL) or found[_IFA_ADDRESS]
    return index, f"{ipaddress.ip_address(raw)}/{length}"


_ADDRESS_HEADER = struct.Struct("=BBBBI")  # struct ifaddrmsg
_IFA_ADDRESS, _IFA_LOCAL = 1, 2


def set_address(index: int, cidr: str) -> Request:
    """Give a link an address, usable at once: duplicate detection would cost 1.7 s, and we know that it is unique."""
    return Request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, _address_body(index, cidr))


def delete_address(index: int, cidr: str) -> Request:
    """Take an address from a link."""
    return Request(RTM_DELADDR, 0, _address_body(index, cidr))


def _address_body(index: int, cidr: str) -> bytes:
    address, _, length = cidr.partition("/")
    message: Any = ifaddrmsg()
    message["index"], message["prefixlen"], message["family"] = index, int(length), family_of(address)
    attributes: list[Any] = [("IFA_LOCAL", address), ("IFA_ADDRESS", address)]
    if ":" in address:
        message["flags"] = _IFA_F_NODAD | _IFA_F_PERMANENT
        attributes = [("IFA_ADDRESS", address)]
    message["attrs"] = attributes
    return _body(message)


def _body(message: Any) -> bytes:
    message.encode()
    return bytes(message.data[HEADER.size :])
