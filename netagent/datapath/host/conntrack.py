"""Delete tracked connections whose destination has changed, so that the kernel looks at them anew.

The kernel decides once per connection where to translate it to. TCP connections end and begin again, but a flow of
datagrams may never end: a sender to a port that was published in the meantime, or that leads to another container
now, would never reach it. So such flows are deleted, and the next datagram counts as the first one.

The messages are those of <linux/netfilter/nfnetlink_conntrack.h>; attribute numbers are written in the calls.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Collection, Iterator, Mapping
from typing import Final, NamedTuple

from netagent.datapath.netlink.nftables import exchange, nest, split_attributes

_SUBSYSTEM: Final = 1
_GET, _DELETE = 1, 2
_DUMP, _ACK = 0x300, 0x4
_ERROR: Final = 2
_TUPLE_ORIGINAL, _TUPLE_REPLY, _STATUS, _ZONE = 1, 2, 3, 18
_SEEN_REPLY: Final = 1 << 1
_UDP: Final = 17
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)


class _Flow(NamedTuple):
    original: bytes
    """The tuple's attributes, as the kernel sent them."""
    zone: bytes
    port: int
    is_translated: bool
    is_answered: bool
    answers_from: bytes
    """The address that the answers come from."""


def forget_datagrams(sock: socket.socket, ports: Mapping[int, Collection[bytes]]) -> int:
    """Delete flows to these ports of the host that are translated or unanswered, except those that are answered from
    one of the port's addresses; return their number.

    `sock` as netagent.datapath.netlink.nftables.open_socket opens it. OSError with the kernel's reason."""
    count = 0
    for family in _FAMILIES if ports else ():
        for flow in list(_flows(sock, family)):
            if flow.port not in ports or flow.answers_from in ports[flow.port]:
                continue
            if flow.is_translated or not flow.is_answered:
                _forget(sock, family, flow)
                count += 1
    return count


def _flows(sock: socket.socket, family: int) -> Iterator[_Flow]:
    for kind, body in exchange(sock, _SUBSYSTEM << 8 | _GET, _DUMP, family, b""):
        if kind != _SUBSYSTEM << 8:
            continue
        parts = dict(split_attributes(body[4:]))
        original, reply = parts.get(_TUPLE_ORIGINAL, b""), parts.get(_TUPLE_REPLY, b"")
        protocol, port = _protocol(original)
        if protocol == _UDP:
            status = int.from_bytes(parts.get(_STATUS, b""), "big")
            answers_from = _addresses(reply)[0]
            is_translated = _addresses(original)[1] != answers_from
            is_answered = bool(status & _SEEN_REPLY)
            yield _Flow(original, parts.get(_ZONE, b""), port, is_translated, is_answered, answers_from)


def _forget(sock: socket.socket, family: int, flow: _Flow) -> None:
    wanted = nest(_TUPLE_ORIGINAL, flow.original)
    if flow.zone:
        wanted += struct.pack("=HH", 4 + len(flow.zone), _ZONE) + flow.zone + bytes(-len(flow.zone) % 4)
    for kind, body in exchange(sock, _SUBSYSTEM << 8 | _DELETE, _ACK, family, wanted):
        code = -struct.unpack_from("=i", body)[0] if kind == _ERROR else 0
        if code not in {0, errno.ENOENT}:  # ENOENT: the flow has expired in the meantime
            raise OSError(code, f"conntrack: {os.strerror(code)}")


def _addresses(flow: bytes) -> tuple[bytes, bytes]:
    """Return source and destination."""
    parts = dict(split_attributes(dict(split_attributes(flow)).get(1, b"")))
    return parts.get(1, parts.get(3, b"")), parts.get(2, parts.get(4, b""))


def _protocol(flow: bytes) -> tuple[int, int]:
    """Return the protocol's number, and the destination port."""
    parts = dict(split_attributes(dict(split_attributes(flow)).get(2, b"")))
    return int.from_bytes(parts.get(1, b""), "big"), int.from_bytes(parts.get(3, b""), "big")
