"""The host's own network under the overlay: the address that VXLAN packets carry, and the existing routes."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection, Sequence
from contextlib import closing

from netagent.datapath.host.uplink import Underlay, Uplinks, addresses_of, choose, is_fixed, listed
from netagent.datapath.netlink.link import LinkMessage, address_dump, decode_address, decode_link, link_at
from netagent.datapath.netlink.route import RTM_GETROUTE, decode, route_request_body
from netagent.datapath.netlink.route_socket import Netlink, NetlinkRequest, open_socket
from netagent.datapath.state import is_ours
from netagent.errors import FailedError, InputError
from netagent.model.allowed import is_particular

# Documentation addresses (RFC 5737, RFC 3849): nothing is sent, the kernel only names the source that it would use.
_ANYWHERE = ((socket.AF_INET, "203.0.113.1"), (socket.AF_INET6, "2001:db8:ffff::1"))

_IPV6_ADDR_PREFERENCES, _PREFER_PUBLIC = 72, 0x2  # linux/in6.h
_IFA_F_TEMPORARY, _IFA_F_DEPRECATED, _IFA_F_TENTATIVE = 0x01, 0x20, 0x40
_FLEETING = _IFA_F_TEMPORARY | _IFA_F_DEPRECATED | _IFA_F_TENTATIVE

_LINK_LOCAL = b"\xfe\x80" + bytes(14)
_RT_SCOPE_LINK = 253  # linux/rtnetlink.h

_INTERNAL_KINDS = {"bridge", "veth", "dummy"}
"""Kinds of links that normally lead to this host only."""


async def find_underlay(wanted: str | None) -> Underlay:
    """Find the address to advertise at a start (netagent.datapath.host.uplink defines which one).

    InputError when `wanted` is not on this host; FailedError when there is no address at all.
    """
    with closing(Netlink(open_socket())) as netlink:
        uplinks = await look(netlink)
    found = choose(uplinks, wanted)
    if found is not None:
        return found
    if is_fixed(wanted):
        raise InputError(
            f"this host does not have the address {wanted}",
            code="no-such-address",
            thing=wanted or "",
            hint=f"it has {listed(uplinks.candidates)}; correct `advertise` or `bind`",
        )
    raise FailedError(
        "this host has no address that other hosts could reach",
        code="no-address",
        hint="bring a network device up, then start the agent again",
    )


async def look(netlink: Netlink) -> Uplinks:
    """Read the host's present addresses and default routes."""
    sources = (_source_address(family, target) for family, target in _ANYWHERE)
    candidates, outlets = await _candidates(netlink)
    return Uplinks(tuple(candidates), tuple(source for source in sources if source), outlets)


def require_devices(uplinks: Uplinks, devices: Sequence[str]) -> None:
    """Raise InputError for a device that has no address."""
    for device in devices:
        if device not in addresses_of(uplinks, devices):
            known = ", ".join(dict.fromkeys(candidate.device for candidate in uplinks.candidates)) or "none"
            raise InputError(
                f"the device {device} is down or has no address",
                code="no-such-device",
                thing=device,
                hint=f"devices with an address: {known}; correct `interfaces`",
            )


async def host_routes(netlink: Netlink) -> tuple[str, ...]:
    """Return the CIDRs that the host reaches by devices that are not ours, IPv4 first, without default routes."""
    routes = []
    for family in (socket.AF_INET, socket.AF_INET6):
        for message in await netlink.dump(NetlinkRequest(RTM_GETROUTE, 0, route_request_body(family))):
            if _LINK_LOCAL in message.body:
                continue  # one for each end of each container's interface
            route = decode(message.body)
            if route is not None and is_particular(route.destination):
                routes.append(route)
    # Only the links that these routes use: a host with a thousand containers has a thousand more.
    links = await _links(netlink, {route.ifindex for route in routes})
    # A link that vanished between the two reads took its routes along. It may have been ours, and other hosts must
    # not learn that this host has a route of its own to a subnet of the cluster. Index 0: no link, or several.
    kept = {index for index, link in links.items() if not is_ours(link.alias) and link.name != "lo"} | {0}
    found = {route.destination for route in routes if route.ifindex in kept}
    return tuple(str(network) for network in sorted(found, key=lambda n: (n.version, int(n[0]), n.prefixlen)))


async def _candidates(netlink: Netlink) -> tuple[list[Underlay], frozenset[str]]:
    """Return all addresses of the host that other hosts may reach, IPv4 first, in the kernel's order; and the
    outlets.

    Temporary IPv6 addresses (RFC 8981) come last, because they change every day.
    """
    addresses = []
    for message in await netlink.dump(address_dump()):
        if message.body[0] == socket.AF_INET6 and message.body[3] == _RT_SCOPE_LINK:
            continue  # such as those of each end of each container's interface
        index, cidr = decode_address(message.body)
        address = ipaddress.ip_interface(cidr).ip
        if not address.is_link_local:
            addresses.append((index, address, message.body[2]))
    links = {
        index: link
        for index, link in (await _links(netlink, {index for index, _, _ in addresses})).items()
        if link.up and link.name != "lo" and not is_ours(link.alias)
    }
    found = []
    fleeting = set()
    for index, address, flags in addresses:
        if index in links:
            found.append(Underlay(str(address), links[index].name, links[index].mtu_bytes))
            if address.version == 6 and flags & _FLEETING:
                fleeting.add(str(address))
    internal = {link.name for link in links.values() if link.kind in _INTERNAL_KINDS}
    outlets = frozenset(one.device for one in found) - internal
    return sorted(found, key=lambda one: (":" in one.address, one.address in fleeting)), outlets


async def _links(netlink: Netlink, indexes: Collection[int]) -> dict[int, LinkMessage]:
    """Read links by index, without those that are gone."""
    found = {index: await netlink.find(link_at(index)) for index in indexes if index}
    return {index: decode_link(message.body) for index, message in found.items() if message is not None}


def _source_address(family: int, target: str) -> str:
    """Return the source address that the kernel would use to `target`; empty for none. For IPv6 a lasting one."""
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_ADDR_PREFERENCES, _PREFER_PUBLIC)
        try:
            sock.connect((target, 9))
        except OSError:
            return ""
        return str(sock.getsockname()[0])
