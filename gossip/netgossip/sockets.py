"""The four sockets of a node: two ports, each for UDP and TCP."""

from __future__ import annotations

import errno
import ipaddress
import socket
from dataclasses import dataclass
from typing import Final

import trio

from netgossip.errors import GossipUsageError
from netgossip.types import Address, Channel

_IP_BIND_ADDRESS_NO_PORT: Final = 24
"""linux/in.h; valid for both address families."""

BUFFER_BYTES: Final = 4 * 1024 * 1024
"""Requested from the kernel for each UDP socket: 1,000 pushes of the largest size while the event loop is busy."""


@dataclass(frozen=True, slots=True)
class NodeSockets:
    """Bound and non-blocking; the TCP ones listen."""

    udp: dict[Channel, socket.socket]
    tcp: dict[Channel, socket.socket]

    def close(self) -> None:
        """Close all four."""
        for opened in (*self.udp.values(), *self.tcp.values()):
            opened.close()


def open_sockets(address: str, gossip_port: int, record_port: int) -> NodeSockets:
    """Bind both ports for UDP and TCP. Raises GossipUsageError that names the address, the port and the cause."""
    opened = NodeSockets({}, {})
    try:
        for channel, port in ((Channel.GOSSIP, gossip_port), (Channel.RECORD, record_port)):
            opened.udp[channel] = _bind(address, port, socket.SOCK_DGRAM)
            opened.tcp[channel] = _bind(address, port, socket.SOCK_STREAM)
    except GossipUsageError:
        opened.close()
        raise
    return opened


async def dial(destination: Address, own: NodeSockets) -> trio.SocketStream:
    """Connect from the address that datagrams are sent from, whatever other addresses the host has.

    Raises OSError, also for an address of the other family: a member that streams reach and datagrams do not would
    alternate between alive and dead.
    """
    family = socket.AF_INET6 if ":" in destination[0] else socket.AF_INET
    if family != own.udp[Channel.GOSSIP].family:
        raise OSError(errno.EAFNOSUPPORT, "its address is of the other IP version")
    dialled = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        source = own.udp[Channel.GOSSIP].getsockname()[0]
        if not ipaddress.ip_address(source).is_unspecified:
            # The kernel then chooses the port together with the destination, so that binding does not use up a port.
            dialled.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            await dialled.bind((source, 0))
        await dialled.connect(destination)
    except BaseException:
        dialled.close()
        raise
    return trio.SocketStream(dialled)


def _bind(address: str, port: int, kind: socket.SocketKind) -> socket.socket:
    stream = kind == socket.SOCK_STREAM
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    bound = socket.socket(family, kind | socket.SOCK_CLOEXEC)
    try:
        bound.setblocking(False)
        if stream:
            # Connections of our last run in TIME_WAIT must not block the bind.
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        bound.bind((address, port))
        if stream:
            bound.listen(128)
    except OSError as error:
        bound.close()
        what = f"{address} port {port} ({'TCP' if stream else 'UDP'})"
        if error.errno == errno.EADDRINUSE:
            raise GossipUsageError(f"{what} is in use by another program") from error
        raise GossipUsageError(f"{what} can't be bound: {error.strerror}") from error
    return bound
