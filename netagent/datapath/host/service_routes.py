"""Local routes to service addresses: in each sandbox, and on the host itself where it takes part in a network.

A service's addresses are from a range of their own, beside the network's subnets, and programs at the sockets lead
connections to a replica before any route is looked up. What they do not lead must end at once, and here: a ping, a
port that is not served, a service without replicas, a protocol that has no such hook. So one route per range makes
all its addresses the namespace's own: its kernel answers echoes, refuses connections, and asks no neighbour. The
route names the namespace's address in the network as the source: programs connect a datagram socket to learn theirs.

    ip route add local RANGE dev eth0 src OWN proto 78        in a sandbox, at the endpoint's interface
    ip route add local RANGE dev na-VNI src OWN proto 78      on a host with an address in the network, at the bridge

It is at that device and not at `lo`: so the routes of an endpoint are known by it and go with it, and they also count
for a socket that is bound to the device.

Where the host has such a route, packets for the range that arrive by a bridge are dropped before any rule looks at
them (netagent.firewall.publishing): they are of a sandbox that lacks the route, and the host must not answer for it.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Set

from netagent.datapath.netlink.route import (
    RTM_DELROUTE,
    RTM_GETROUTE,
    RTM_NEWROUTE,
    LocalRoute,
    decode_local,
    local_body,
    request_body_of_local,
)
from netagent.datapath.netlink.route_socket import NLM_F_APPEND, NLM_F_CREATE, Netlink, NetlinkRequest


def local_routes(ranges: Iterable[str], addresses: Iterable[str], ifindex: int) -> set[LocalRoute]:
    """Return the routes to these ranges at a device with these addresses, with or without prefix length; none to a
    range of a family that the device has no address of."""
    sources = {":" in one: one.partition("/")[0] for one in addresses}
    return {LocalRoute(one, ifindex, sources[":" in one]) for one in ranges if (":" in one) in sources}


async def follow_local_routes(
    netlink: Netlink, wanted: Set[LocalRoute], *, at: int | None = None
) -> set[LocalRoute]:
    """Make our local routes at the device `at` (None: in the whole namespace) the wanted ones; return those that were
    missing. OSError when the kernel refuses one; then the others are as wanted."""
    there = {one for one in await _own_routes(netlink) if at is None or one.ifindex == at}
    # Removed first: the kernel takes two IPv6 routes that differ only in their source for one.
    removed = [NetlinkRequest(RTM_DELROUTE, 0, local_body(one)) for one in sorted(there - wanted)]
    # Appended, never replaced: another program's route to the same destination stays.
    flags = NLM_F_CREATE | NLM_F_APPEND
    added = [NetlinkRequest(RTM_NEWROUTE, flags, local_body(one)) for one in sorted(wanted - there)]
    for error in await netlink.execute([*removed, *added]):
        if error is not None and error.errno not in {errno.EEXIST, errno.ESRCH}:
            raise error
    return {*(wanted - there)}


async def _own_routes(netlink: Netlink) -> set[LocalRoute]:
    found = set()
    for family in (socket.AF_INET, socket.AF_INET6):
        request = NetlinkRequest(RTM_GETROUTE, 0, request_body_of_local(family))
        try:
            messages = await netlink.dump(request, strict=True)
        except OSError as error:
            if error.errno != errno.ENOENT:  # otherwise the namespace never had an address of this family
                raise
            continue
        found |= {decode_local(message.body) for message in messages}
    return {one for one in found if one is not None}
