"""What the resolver process's broker does for the confined part: nothing else, and nothing that a request describes.

A request is a number, and a socket that says in which sandbox. What is opened there is fixed here, so that code of an
attacker's in the confined part could do with the broker what the part itself does with it: have sockets in the
sandboxes of this host, read the host's resolv.conf, and listen on a port in the agent's place. It can have nothing
done in the host's own network namespace by way of a socket.
"""

from __future__ import annotations

import enum
import errno
import fcntl
import ipaddress
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from netagent.datapath.endpoint import netns
from netagent.datapath.endpoint.dns_redirect import (
    end_port_redirect,
    end_redirect,
    open_exempt,
    open_redirect,
)
from netagent.resolver.channel import is_netfilter
from netagent.resolver.feed_server import open_feed_listener
from netagent.resolver.system import capabilities
from netagent.resolver.system.broker import BrokerAnswer, BrokerClient, Operation
from netagent.resolver.system.host_servers import ChangedFile

T = TypeVar("T")

_SIOCGSKNS: Final = 0x894C  # <linux/sockios.h>: a descriptor of the namespace that a socket is in
_STAND_IN_BACKLOG: Final = 16
"""Bound of connections waiting to be accepted while the agent is away; beyond it: the kernel drops their first
packets."""


class Privilege(enum.IntEnum):
    """The operations."""

    OPEN_REDIRECT = 1
    OPEN_FEED_LISTENER = 2
    OPEN_EXEMPT_UDP = 3
    OPEN_EXEMPT_TCP = 4
    BIND_PORT_53 = 5
    END_REDIRECT = 6
    END_PORT_REDIRECT = 7
    STAND_IN = 8
    READ_SERVERS = 9
    READ_USAGE = 10


def operations(resolv_conf: Path, read_usage: Callable[[], bytes]) -> dict[int, Operation]:
    """Return what the broker does. `read_usage`: the kernel's figures of the confined part."""
    servers = ChangedFile(resolv_conf)

    def read_servers(_: bytes, __: socket.socket | None) -> BrokerAnswer:
        news = servers.news()
        return BrokerAnswer() if news is None else BrokerAnswer(b"=" + news)

    def usage(_: bytes, __: socket.socket | None) -> BrokerAnswer:
        return BrokerAnswer(read_usage())

    return {
        Privilege.OPEN_REDIRECT: _inside(lambda: (open_redirect(),)),
        Privilege.OPEN_FEED_LISTENER: _inside(lambda: (open_feed_listener(),)),
        Privilege.OPEN_EXEMPT_UDP: _inside(lambda: (open_exempt(socket.SOCK_DGRAM),)),
        Privilege.OPEN_EXEMPT_TCP: _inside(lambda: (open_exempt(socket.SOCK_STREAM),)),
        Privilege.BIND_PORT_53: _inside(netns.bound_resolver_sockets),
        Privilege.END_REDIRECT: _ending(end_redirect),
        Privilege.END_PORT_REDIRECT: _ending(end_port_redirect),
        Privilege.STAND_IN: _stand_in,
        Privilege.READ_SERVERS: read_servers,
        Privilege.READ_USAGE: usage,
    }


def _inside(fn: Callable[[], tuple[socket.socket, ...]]) -> Operation:
    def operation(_: bytes, sock: socket.socket | None) -> BrokerAnswer:
        if sock is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        with capabilities.raised():
            if not _is_foreign(sock):
                raise OSError(errno.EPERM, os.strerror(errno.EPERM))
            return BrokerAnswer(sockets=netns.call_in_netns_of(sock, fn))

    return operation


def _is_foreign(sock: socket.socket) -> bool:
    """Whether a socket is in another network namespace than this process."""
    there = fcntl.ioctl(sock, _SIOCGSKNS)
    try:
        return not os.path.samestat(os.fstat(there), Path("/proc/self/ns/net").stat())
    finally:
        os.close(there)


def _ending(end: Callable[[socket.socket], None]) -> Operation:
    def operation(_: bytes, sock: socket.socket | None) -> BrokerAnswer:
        if sock is None or not is_netfilter(sock):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        with capabilities.raised():
            end(sock)
        return BrokerAnswer()

    return operation


def _stand_in(place: bytes, __: socket.socket | None) -> BrokerAnswer:
    try:
        text, _, port = place.decode("ascii").rpartition(":")
        # An address alone: a name would be looked up, and so say something to a name server.
        address = ipaddress.ip_address(text.strip("[]"))
        number = int(port)
        if not 0 < number < 65536:
            raise ValueError(number)
    except ValueError:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL)) from None
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    with capabilities.raised():  # the port may be below 1024
        listener = socket.create_server((str(address), number), family=family, backlog=_STAND_IN_BACKLOG)
    listener.setblocking(False)
    return BrokerAnswer(sockets=(listener,))


class Privileges:
    """The confined part's side: the operations as functions. Each raises OSError."""

    def __init__(self, client: BrokerClient) -> None:
        self._client = client

    def open_redirect(self, sock: socket.socket) -> socket.socket:
        """Redirect queries past a runtime's resolver, in the namespace of a socket."""
        return self._one(Privilege.OPEN_REDIRECT, sock)

    def open_feed_listener(self, sock: socket.socket) -> socket.socket:
        """Listen for requests of feeds there."""
        return self._one(Privilege.OPEN_FEED_LISTENER, sock)

    def open_exempt(self, sock: socket.socket, kind: socket.SocketKind) -> socket.socket:
        """Return a socket there from which a runtime's resolver can be asked."""
        udp = kind is socket.SOCK_DGRAM
        return self._one(Privilege.OPEN_EXEMPT_UDP if udp else Privilege.OPEN_EXEMPT_TCP, sock)

    def bind_port_53(self, sock: socket.socket) -> tuple[socket.socket, socket.socket]:
        """Return a UDP and a TCP socket there that have port 53 themselves."""
        _, sockets = self._client.request(Privilege.BIND_PORT_53, sock=sock)
        udp, tcp = sockets
        return udp, tcp

    def end_redirect(self, redirect: socket.socket) -> None:
        """Remove the table of `open_redirect` at once."""
        self._client.request(Privilege.END_REDIRECT, sock=redirect)

    def end_port_redirect(self, redirect: socket.socket) -> None:
        """Remove the table that leads port 53 to our sockets at once."""
        self._client.request(Privilege.END_PORT_REDIRECT, sock=redirect)

    def listen_in_place_of_agent(self, place: str) -> socket.socket:
        """Listen on the address of the agent's listener."""
        _, sockets = self._client.request(Privilege.STAND_IN, place.encode("ascii", "replace"))
        return sockets[0]

    def read_servers(self) -> bytes | None:
        """Return the content of the host's resolv.conf if it has changed since the last call."""
        payload, _ = self._client.request(Privilege.READ_SERVERS)
        return payload[1:] if payload else None

    def read_usage(self) -> bytes:
        """Return what the kernel says of this process, which can't read its own /proc."""
        payload, _ = self._client.request(Privilege.READ_USAGE)
        return payload

    def _one(self, privilege: Privilege, sock: socket.socket) -> socket.socket:
        _, sockets = self._client.request(privilege, sock=sock)
        return sockets[0]
