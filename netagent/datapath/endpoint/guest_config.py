"""What a container's interface is to have: addresses and routes, as the requests that make them."""

from __future__ import annotations

import ipaddress

from netagent.datapath.netlink.link import set_address
from netagent.datapath.netlink.route import RTM_NEWROUTE, default_body, on_link_body
from netagent.datapath.netlink.route_socket import NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NetlinkRequest
from netagent.datapath.reconcile.desired import LocalEndpoint

_IPV4_EVERYBODY = ("224.0.0.0/4", "255.255.255.255/32")


def address_requests(endpoint: LocalEndpoint, index: int) -> list[NetlinkRequest]:
    """IPv4 without its subnet, which goes on a route of its own.

    Inside one subnet glibc's getaddrinfo(3) sorts IPv4 addresses by the longest common prefix with the client's
    (RFC 6724 rule 9): every client would stick to one replica of a service, whatever the order of the answer.
    """
    requests = [set_address(index, cidr) for cidr in endpoint.addresses if ":" in cidr]
    for one in _interfaces(endpoint):
        everybody = str(one.network.broadcast_address) if endpoint.multicast else None
        requests.append(set_address(index, f"{one.ip}/32", everybody))
    return requests


def route_requests(endpoint: LocalEndpoint, index: int) -> list[NetlinkRequest]:
    """The IPv4 subnet is on the link, and all multicast and broadcast where the network carries them: a program
    that names no interface goes by the routes. IPv6's the kernel derives from the address. Last, the way out."""
    everybody = _IPV4_EVERYBODY if endpoint.multicast else ()
    routes = [
        # Appended, never replaced: a route of somebody else's to the same place stays.
        NetlinkRequest(
            RTM_NEWROUTE, NLM_F_CREATE | NLM_F_APPEND, on_link_body(destination, index, str(one.ip))
        )
        for one in _interfaces(endpoint)
        for destination in (str(one.network), *everybody)
    ]
    # Never appended: of two IPv6 routes that makes one, with half of the traffic for each.
    flags = NLM_F_CREATE | NLM_F_EXCL
    return routes + [
        NetlinkRequest(RTM_NEWROUTE, flags, default_body(gateway, index)) for gateway in endpoint.gateways
    ]


def _interfaces(endpoint: LocalEndpoint) -> list[ipaddress.IPv4Interface]:
    return [ipaddress.IPv4Interface(cidr) for cidr in endpoint.addresses if ":" not in cidr]
