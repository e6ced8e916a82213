"""Find out whether a container still has TCP connections, from the kernel's list for its network namespace.

`/proc/thread-self/net/tcp` belongs to the namespace of the reading thread. It has one line per socket; reading stops
at the first one that counts, so a container with very many connections costs no more than one with few.
"""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Collection, Iterable
from pathlib import Path

from netagent.datapath.endpoint.netns import reopened_netns, run_in_netns
from netagent.errors import RefusedError
from netagent.model.sandbox import Netns

_FILES = ("tcp", "tcp6")

_UNDER_WAY = {0x01, 0x03, 0x04, 0x08, 0x09, 0x0B}
"""ESTABLISHED, SYN_RECV, FIN_WAIT1, CLOSE_WAIT, LAST_ACK, CLOSING (include/net/tcp_states.h): data may still be in
flight. In FIN_WAIT2 and TIME_WAIT the peer has everything."""


async def has_connection(netns: Netns, addresses: Collection[str]) -> bool:
    """Return whether a TCP connection from or to one of `addresses` is open in the namespace.

    False when the namespace is gone, or can't be inspected.
    """
    packed = {_packed(address) for address in addresses}

    def look() -> bool:
        for name in _FILES:
            with Path(f"/proc/thread-self/net/{name}").open(encoding="ascii") as lines:
                if is_any_under_way(lines, packed):
                    return True
        return False

    try:
        with reopened_netns(netns) as fd:
            return await run_in_netns(fd, look)
    except (OSError, RefusedError):
        return False


def is_any_under_way(lines: Iterable[str], local: Collection[bytes]) -> bool:
    """Return whether one of the table's lines is such a connection of a `local` address (16 octets each)."""
    for line in lines:
        fields = line.split(None, 4)
        if len(fields) < 4 or ":" not in fields[1]:
            continue  # the header line
        if int(fields[3], 16) in _UNDER_WAY and _address(fields[1].partition(":")[0]) in local:
            return True
    return False


def _packed(address: str) -> bytes:
    one = ipaddress.ip_address(address)
    return one.packed if one.version == 6 else bytes(10) + b"\xff\xff" + one.packed


def _address(text: str) -> bytes:
    """Decode 32-bit words in machine order; IPv4 becomes the mapped form that an IPv6 socket shows."""
    words = [int(text[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(text), 8)]
    packed = b"".join(words)
    return packed if len(packed) == 16 else bytes(10) + b"\xff\xff" + packed
