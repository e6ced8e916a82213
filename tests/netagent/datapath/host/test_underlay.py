"""Which routes a host tells the others that it has."""

from __future__ import annotations

import socket

import trio

from netagent.datapath.host.underlay import host_routes
from netagent.datapath.netlink import link
from netagent.datapath.netlink.route import RTM_NEWROUTE, subnet_body
from netagent.datapath.netlink.route_socket import Netlink, NetlinkMessage, NetlinkRequest
from netagent.datapath.state import MARK

RTM_NEWLINK = 16
ROUTES = {"10.1.0.0/20": 5, "10.2.0.0/20": 6, "10.3.0.0/20": 7}
OURS, OTHERS = 5, 6


class Kernel(Netlink):
    """Routes by three links, one of which is gone when it is asked for."""

    def __init__(self) -> None:
        """Without a socket."""

    async def dump(self, request: NetlinkRequest, *, strict: bool = False) -> list[NetlinkMessage]:
        await trio.lowlevel.checkpoint()
        if request.body[0] != socket.AF_INET:
            return []
        return [NetlinkMessage(RTM_NEWROUTE, subnet_body(cidr, index)) for cidr, index in ROUTES.items()]

    async def find(self, request: NetlinkRequest) -> NetlinkMessage | None:
        await trio.lowlevel.checkpoint()
        index = link._LINK_HEADER.unpack_from(request.body)[2]
        header = link._LINK_HEADER.pack(0, 1, index, 1, 0)
        names = {OURS: ("na-7", MARK), OTHERS: ("eth0", "")}
        if index not in names:
            return None
        name, alias = names[index]
        texts = ((link._IFLA_IFNAME, name), (link._IFLA_IFALIAS, alias))
        return NetlinkMessage(
            RTM_NEWLINK, header + b"".join(link._attribute(k, v.encode(), b"\0") for k, v in texts)
        )


def test_the_route_of_a_link_that_goes_meanwhile_is_not_told() -> None:
    """A bridge of ours that goes at a start: its route would overlap its own network on all other hosts."""
    assert trio.run(host_routes, Kernel()) == ("10.2.0.0/20",)
