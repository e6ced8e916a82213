"""Until a new interface passes packets: what a container sends in its first moment must not be lost.

All requests are done when these lines run, and two things are still to come, each by a task of the kernel's own:

    a carrier     makes the link operational (RFC 2863): its queue is started, the bridge's port forwards
    an address    of IPv6 is put among the host's own, whether or not duplicates are looked for

Until then what is sent, or comes in answer, is dropped without a word. Both take about a millisecond.
"""

from __future__ import annotations

from collections.abc import Iterable

import trio

from netagent.datapath.netlink.link import decode_link, link_named
from netagent.datapath.netlink.route import RTM_GETROUTE, is_local, request_body_to
from netagent.datapath.netlink.route_socket import Netlink, NetlinkRequest

_LIMIT_S, _LOOK_S = 1.0, 0.001
"""The first look mostly finds it so: recent kernels see to a link when somebody asks for it. Others delay what comes
within a second of the last change of links."""


async def wait_ready(ends: Iterable[tuple[Netlink, str]], inside: Netlink, addresses: Iterable[str]) -> None:
    """Until both ends of a pair (where to ask for it, its name) and its IPv6 `addresses` do their work.

    Returns as well when one does not: somebody has set it down or taken it away in the same moment, which the
    reconciler sees to. OSError as Netlink.find.
    """
    with trio.move_on_after(_LIMIT_S):
        for netlink, name in ends:
            while (found := await netlink.find(link_named(name))) and not decode_link(
                found.body
            ).is_operational:
                await trio.sleep(_LOOK_S)
        for address in addresses:
            question = NetlinkRequest(RTM_GETROUTE, 0, request_body_to(address))
            while not await _is_own(inside, question):
                await trio.sleep(_LOOK_S)


async def _is_own(netlink: Netlink, question: NetlinkRequest) -> bool:
    try:
        found = await netlink.find(question)
    except OSError:  # unreachable
        return False
    return found is not None and is_local(found.body)
