"""Upstream sockets under trio: executes the resolver's commands and reports what arrives. Makes no decisions.

Every exchange has a fresh socket: the kernel picks its port at random and, because the socket is connected, drops
datagrams from any other address or port and reports a server that does not exist. `open_socket` opens it: a server
near a client must be asked from inside that client's network.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import TypeAlias

import trio

from netdns.constants import TCP_BYTES
from netdns.resolver import Resolver, Transport, UpstreamClose, UpstreamQuery, UpstreamRepeat
from netdns.servers import UpstreamServer

OpenSocket: TypeAlias = Callable[[UpstreamServer, socket.SocketKind], socket.socket]
"""Opens a socket, not connected yet, from which the server can be reached. May raise OSError. Must not wait."""


class Exchanges:
    """Open exchanges, each a task. The resolver bounds how many there are."""

    def __init__(
        self,
        resolver: Resolver,
        nursery: trio.Nursery,
        clock: Callable[[], float],
        flush: Callable[[], None],
        open_socket: OpenSocket,
    ) -> None:
        self._resolver = resolver
        self._nursery = nursery
        self._clock = clock
        self._flush = flush
        self._open_socket = open_socket
        self._scopes: dict[int, trio.CancelScope] = {}
        self._sockets: dict[int, tuple[socket.socket, bytes]] = {}

    def __len__(self) -> int:
        return len(self._scopes)

    def apply(self, command: UpstreamQuery | UpstreamRepeat | UpstreamClose) -> None:
        """Start or stop an exchange, or send its octets again."""
        if isinstance(command, UpstreamRepeat):
            if command.exchange_id in self._sockets:
                sock, payload = self._sockets[command.exchange_id]
                try:
                    sock.send(payload)
                except BlockingIOError:
                    pass  # as if the network had lost it
                except OSError:
                    # The kernel reports an error to one call only: the task that waits to receive won't see this one.
                    self._scopes[command.exchange_id].cancel()
            return
        if isinstance(command, UpstreamClose):
            scope = self._scopes.get(command.exchange_id)
            if scope is not None:
                scope.cancel()
            return
        self._scopes[command.exchange_id] = trio.CancelScope()
        self._nursery.start_soon(self._run, command)

    async def _run(self, query: UpstreamQuery) -> None:
        exchange = self._datagrams if query.transport is Transport.UDP else self._stream
        try:
            with self._scopes[query.exchange_id]:
                with contextlib.suppress(OSError, trio.BrokenResourceError):
                    await exchange(query)
                self._resolver.handle_upstream_end(query.exchange_id, self._clock())
                self._flush()
        finally:
            del self._scopes[query.exchange_id]

    async def _datagrams(self, query: UpstreamQuery) -> None:
        with self._open_socket(query.server, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.connect(_address(query))
            sock.send(query.payload)
            self._sockets[query.exchange_id] = sock, query.payload
            try:
                while True:
                    await trio.lowlevel.wait_readable(sock)
                    with contextlib.suppress(BlockingIOError):
                        payload = sock.recv(TCP_BYTES)
                        self._resolver.handle_upstream_datagram(query.exchange_id, payload, self._clock())
                        self._flush()
            finally:
                del self._sockets[query.exchange_id]

    async def _stream(self, query: UpstreamQuery) -> None:
        with trio.socket.from_stdlib_socket(self._open_socket(query.server, socket.SOCK_STREAM)) as sock:
            await sock.connect(_address(query))
            stream = trio.SocketStream(sock)
            await stream.send_all(query.payload)
            while data := await stream.receive_some():
                self._resolver.handle_upstream_stream_data(query.exchange_id, data, self._clock())
                self._flush()


def open_here(server: UpstreamServer, kind: socket.SocketKind) -> socket.socket:
    """Open a socket in the process's own network."""
    return socket.socket(socket.AF_INET6 if ":" in server.address else socket.AF_INET, kind)


def _address(query: UpstreamQuery) -> tuple[str, int] | tuple[str, int, int, int]:
    """Resolve a zone such as fe80::1%eth0, without any query."""
    address, port, _ = query.server
    if "%" not in address:
        return address, port
    host, zone = address.split("%", 1)
    return (host, port, 0, socket.if_nametoindex(zone))
