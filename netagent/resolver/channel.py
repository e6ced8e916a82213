"""A local SOCK_SEQPACKET connection on which a message may carry the sockets of a sandbox (SCM_RIGHTS), under trio.

Received descriptors are not trusted: only a bound UDP socket together with a listening TCP socket is accepted, with
or without a netfilter socket after them. All others are closed at once, so that no message can fill the table of open
files.
"""

from __future__ import annotations

import array
import os
import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple

import trio

from netagent.resolver.protocol import MAX_MESSAGE_BYTES

_MAX_DESCRIPTORS: Final = 3
_NETLINK_NETFILTER: Final = 12  # <linux/netlink.h>
_DESCRIPTOR_BYTES: Final = array.array("i").itemsize
_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(_MAX_DESCRIPTORS * _DESCRIPTOR_BYTES)
"""The kernel closes descriptors that do not fit."""


class SocketPair(NamedTuple):
    """The sockets for one sandbox's queries: a bound UDP socket and a listening TCP socket."""

    udp: socket.socket
    tcp: socket.socket
    port_redirect: socket.socket | None = None
    """Owns the redirect from 127.0.0.11 port 53 to their port. None: they have port 53 themselves."""

    def close(self) -> None:
        """Close our copies. The sockets live as long as any process has a copy."""
        self.udp.close()
        self.tcp.close()
        if self.port_redirect is not None:
            close_aside(self.port_redirect)

    def copy(self) -> SocketPair:
        """Return copies, which the caller closes separately.

        `socket.dup` does not do: it sets the blocking mode, which all copies share. The process would then block in a
        read that should return at once, and with it the names of every container.
        """
        return SocketPair(*(socket.socket(fileno=os.dup(one.fileno())) for one in self if one is not None))


def close_aside(owner: socket.socket) -> None:
    """Close the socket that owns an nftables table, without waiting.

    Closing the last copy blocks until every processor has left the table: some 15 ms, in which no other name would be
    answered.
    """
    threading.Thread(target=owner.close, name="close", daemon=True).start()


async def connect(path: Path) -> trio.socket.SocketType:
    """Connect to the socket at a path. Raises OSError."""
    connection = trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        await connection.connect(str(path))
    except BaseException:
        connection.close()
        raise
    return connection


class SocketChannel:
    """One connection. Tasks may send while another one receives."""

    def __init__(self, connection: trio.socket.SocketType) -> None:
        self._connection = connection
        self._sending = trio.Lock()  # two tasks may not wait for room at once

    def __enter__(self) -> SocketChannel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    @property
    def peer_process(self) -> int:
        """Return the process that opened the other end, or listened for it."""
        credentials = self._connection.getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, 3 * _DESCRIPTOR_BYTES
        )
        return array.array("i", credentials)[0]

    async def send(self, payload: bytes, sockets: SocketPair | None = None) -> None:
        """Send one message as a whole. Raises OSError when the other side is gone.

        While this waits for room, another task may close the sockets, and their numbers may be given to other files;
        therefore copies are sent.
        """
        if sockets is None:
            async with self._sending:
                await self._connection.sendmsg([payload], [], socket.MSG_NOSIGNAL)
            return
        copies = sockets.copy()
        try:
            descriptors = array.array("i", [one.fileno() for one in copies if one is not None])
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)]
            async with self._sending:
                await self._connection.sendmsg([payload], ancillary, socket.MSG_NOSIGNAL)
        finally:
            copies.close()

    async def receive(self) -> tuple[bytes, SocketPair | None] | None:
        """Return the next message and the sockets that it carried; None when the other side has closed.

        A message longer than the limit is returned with one byte too many, which every parser refuses.
        """
        payload, ancillary, _, _ = await self._connection.recvmsg(
            MAX_MESSAGE_BYTES + 1, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
        )
        pair = _take_pair_untrusted(_descriptors(ancillary))
        if payload:
            return payload, pair
        if pair is not None:
            pair.close()
        return None


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    descriptors: list[int] = []
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            whole = len(data) - len(data) % _DESCRIPTOR_BYTES
            descriptors += array.array("i", data[:whole])
    return descriptors


def _take_pair_untrusted(descriptors: list[int]) -> SocketPair | None:
    """Return the pair if it is one; otherwise close everything."""
    sockets: list[socket.socket] = []
    for descriptor in descriptors:
        try:
            sockets.append(socket.socket(fileno=descriptor))
        except OSError:  # not a socket
            os.close(descriptor)
    whole = len(sockets) == len(descriptors) in {2, 3} and all(map(is_netfilter, sockets[2:]))
    if whole and _is_udp(sockets[0]) and _is_listening_tcp(sockets[1]):
        return SocketPair(*sockets)
    for one in sockets:
        one.close()
    return None


def is_netfilter(one: socket.socket) -> bool:
    """Whether it is a netlink socket for netfilter."""
    return one.family == socket.AF_NETLINK and one.proto == _NETLINK_NETFILTER


def _is_udp(one: socket.socket) -> bool:
    return one.family in (socket.AF_INET, socket.AF_INET6) and one.type == socket.SOCK_DGRAM


def _is_listening_tcp(one: socket.socket) -> bool:
    internet = one.family in (socket.AF_INET, socket.AF_INET6) and one.type == socket.SOCK_STREAM
    return internet and bool(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
