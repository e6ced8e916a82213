"""Check of a container's namespace: the interface exists and has its addresses.

A socket can be bound to an address only if it is local in the namespace; this needs no netlink and no parser.
"""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Sequence

from netagent.datapath.endpoint.netns import run_in_netns

_FAMILIES = {False: socket.AF_INET, True: socket.AF_INET6}
_SIOCGIFFLAGS, _IFF_UP = 0x8913, 0x1  # netdevice(7)


async def missing_in(netns_fd: int, ifname: str, addresses: Sequence[str]) -> str:
    """Return what is missing, in words; '' if nothing is. OSError when the namespace cannot be entered."""
    return await run_in_netns(netns_fd, lambda: _missing(ifname, addresses))


def _missing(ifname: str, addresses: Sequence[str]) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            answer = fcntl.ioctl(asking, _SIOCGIFFLAGS, struct.pack("16sh22x", ifname.encode(), 0))
        except OSError:
            return f"the interface {ifname}"
    if not struct.unpack_from("h", answer, 16)[0] & _IFF_UP:
        return f"the carrier of {ifname}, which is down,"
    for address in addresses:
        with socket.socket(_FAMILIES[":" in address], socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((address, 0))
            except OSError:
                return f"the address {address} on {ifname}"
    return ""
