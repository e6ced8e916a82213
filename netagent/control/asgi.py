"""Serves an ASGI application by hypercorn on a socket that listens: the API's, or one of TCP.

Only local programs reach the API's sockets, and the agent knows their accounts. Those that may only read are bounded
in connections, so that they leave the agent to those that may change something. Strangers may reach a TCP socket, so
its connections are few and short.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h11 import H2CProtocolRequiredError, H2ProtocolAssumedError
from hypercorn.trio import run as hypercorn_run
from hypercorn.trio import serve as hypercorn_serve
from hypercorn.trio import tcp_server as hypercorn_connection
from hypercorn.trio.tcp_server import TCPServer
from starlette.applications import Starlette

from netagent.control import asker
from netagent.log import Limited
from netagent.model.author import current_author

IDLE_S = 5
"""After this many seconds a connection without a request, or with an incomplete header, is closed."""
MAX_HEADER_BYTES = 16 * 1024
MAX_CONNECTIONS = 64
"""Bound of connections of one bounded listener at the same time; beyond it: closed unread."""
MAX_PER_PEER = 16
"""Bound of connections of one address or account at the same time at a bounded listener; beyond it: closed unread. So
one stranger does not take the places of a load balancer."""
TCP_LIFE_S = 30.0
"""A TCP connection is closed after this many seconds, whatever it does, unless its request may keep it open."""
HANDSHAKE_S = 5.0
"""Within this many seconds a TCP client must have begun, and must have finished a handshake of TLS."""
SEND_S = 30.0
"""Within this many seconds a TCP client must take each part of an answer, also of a watch, or it is closed."""
WAIT_AT_STOP_S = 1.0
"""For so long a client is waited for once the agent stops, to send its request or to take the answer."""
DEAD_S = 60
"""After about this many seconds a TCP client that is gone without a word no longer has its connection."""
_TLS_HANDSHAKE = b"\x16"
"""The first octet of a client that speaks TLS (RFC 8446 section 5.1); no method of HTTP begins so."""

_limited = Limited(logging.getLogger(__name__))

_current: ContextVar[_Connection] = ContextVar("connection")


class _ListenerConfig(Config):
    """Hypercorn's, which each connection has, and what ours needs to know."""

    def __init__(self, *, is_bounded: bool, tls: ssl.SSLContext | None) -> None:
        super().__init__()
        self.is_bounded = is_bounded
        self.tls = tls
        self.ssl_handshake_timeout = HANDSHAKE_S
        self.peers: dict[TCPServer, str] = {}
        """The open connections of a bounded listener, with the peer's address or account."""
        self.is_stopping = False
        self._waits: set[trio.CancelScope] = set()

    def hurry(self) -> None:
        """Stop: from now on no client is waited for long."""
        self.is_stopping = True
        for scope in self._waits:
            _shorten(scope, WAIT_AT_STOP_S)

    @contextmanager
    def waiting(self, scope: trio.CancelScope) -> Iterator[None]:
        """Cancel the scope soon after the stop begins: within this block it waits for what a client does."""
        if self.is_stopping:
            _shorten(scope, WAIT_AT_STOP_S)
        self._waits.add(scope)
        try:
            yield
        finally:
            self._waits.discard(scope)

    def is_full(self, peer: str) -> bool:
        """True if the peer gets no further connection."""
        peers = self.peers.values()
        return len(peers) >= MAX_CONNECTIONS or sum(one == peer for one in peers) >= MAX_PER_PEER


async def serve_on(
    listener: socket.socket,
    app: Starlette,
    shutdown: trio.Event,
    *,
    grace_s: float,
    is_bounded: bool,
    tls: ssl.SSLContext | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `shutdown` is set and open requests have ended, at most `grace_s` later. Closes the listener. For
    `nursery.start`. With `tls`, clients may begin with TLS or without; the application sees which."""
    config = _ListenerConfig(is_bounded=is_bounded, tls=tls)
    config.bind = [f"fd://{listener.detach()}"]
    # Hypercorn logs an address for a browser; our own line names the socket.
    config.errorlog = logging.getLogger("hypercorn.error")
    config.accesslog = None
    config.include_server_header = False
    config.graceful_timeout = grace_s
    config.keep_alive_timeout = IDLE_S
    config.h11_max_incomplete_size = MAX_HEADER_BYTES

    async def stop() -> None:
        await shutdown.wait()
        config.hurry()
        app.state.stopping.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(_run, app, config, stop)
        task_status.started()


@contextmanager
def kept_open() -> Iterator[None]:
    """Let the connection of the present request live as long as this lasts, and count it to no peer: the caller has
    seen that the request may have it, and bounds their number. Strangers could otherwise hold all connections."""
    connection = _current.get(None)
    if connection is None:
        yield
        return
    with connection.outside_bounds():
        yield


def lift_deadline() -> None:
    """Let the connection of the present request live as long as it is used; it counts as before. For a request that
    has shown a token: a change must not be cancelled half way because strangers' connections are short."""
    connection = _current.get(None)
    if connection is not None:
        connection.life.deadline = math.inf


@contextmanager
def waiting_for_client(scope: trio.CancelScope) -> Iterator[None]:
    """Cancel the scope soon after the stop begins: within this block the present request waits for its client."""
    connection = _current.get(None)
    if connection is None:
        yield
        return
    with cast("_ListenerConfig", connection.config).waiting(scope):
        yield


def _shorten(scope: trio.CancelScope, most_s: float) -> None:
    scope.deadline = min(scope.deadline, trio.current_time() + most_s)


class _Connection(TCPServer):
    """A connection that leaves no reference cycle when it ends: hypercorn's refers to its protocol, whose methods
    refer to it. A cycle of some thirty objects per request would stay until the next garbage collection, and one
    that is frozen before the connection ends (netagent.daemon.memory) for hours. And one that notes who asks, or is
    bounded."""

    async def run(self) -> None:
        stream = cast("trio.SocketStream", self.stream)  # not SSL
        listener = cast("_ListenerConfig", self.config)
        peers = listener.peers
        try:
            is_local = self.is_local = stream.socket.family == socket.AF_UNIX
            self.waited_s = 0.0  # for the client since the stop began
            if is_local:
                asker.note(stream.socket)
                peer = current_author().account
            else:
                asker.note_stranger()
                _notice_the_dead(stream.socket)
                peer = peer_of(stream.socket.getpeername()[0])
            if listener.is_bounded and listener.is_full(peer):
                await trio.aclose_forcefully(stream)
                return
            if listener.is_bounded:
                peers[self] = peer
            with trio.move_on_after(math.inf if is_local else TCP_LIFE_S) as self.life:
                _current.set(self)
                if not is_local and listener.tls is not None:
                    self.stream = await _maybe_tls(stream, listener.tls)
                await super().run()
        except OSError:
            pass  # it went before its address was read
        except BaseExceptionGroup as group:
            # Whatever a stranger's octets make hypercorn do, it ends this connection and no other.
            others, faults = group.split(lambda error: not isinstance(error, Exception))
            _note_faults(faults)
            if others is not None:
                raise others from None
        except Exception as error:
            _note_faults(error)
        finally:
            stream.socket.close()
            peers.pop(self, None)
            vars(self).clear()

    async def protocol_send(self, event: Event) -> None:
        """Send, as hypercorn does: shielded, so that an answer which is cancelled ends between two of its parts. But
        not for ever: a client that reads nothing would hold its connection, and the agent's stop."""
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        listener = cast("_ListenerConfig", self.config)
        async with self.send_lock:
            begun = trio.current_time()
            scope = trio.CancelScope(shield=True, deadline=begun + self._patience_s(begun))
            with scope, listener.waiting(scope):
                if listener.is_stopping:
                    _shorten(scope, WAIT_AT_STOP_S - self.waited_s)  # all parts together
                try:
                    await self.stream.send_all(event.data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    await self.protocol.handle(Closed())
            if listener.is_stopping:
                self.waited_s += trio.current_time() - begun
            if scope.cancelled_caught:
                await trio.aclose_forcefully(self.stream)
                await self.protocol.handle(Closed())

    def _patience_s(self, now: float) -> float:
        """Return how long the client may take for the next part. On the agent's own sockets a reader may rest, as
        a pager does, and its account has its share of the places. A stranger's time ends with its connection's."""
        if self.is_local:
            return math.inf
        return min(SEND_S, max(WAIT_AT_STOP_S, self.life.deadline - now))

    async def _read_data(self) -> None:
        await super()._read_data()
        # The client is gone. Hypercorn's idle timer would keep the connection, which counts, for IDLE_S all the same.
        await self.idle_task.stop()

    @contextmanager
    def outside_bounds(self) -> Iterator[None]:
        """Neither end nor count the connection meanwhile."""
        peers = cast("_ListenerConfig", self.config).peers
        peer, life, before = peers.pop(self, None), self.life, self.life.deadline
        life.deadline = math.inf
        try:
            yield
        finally:
            life.deadline = before if before == math.inf else trio.current_time() + TCP_LIFE_S
            if peer is not None and vars(self):  # the connection still is
                peers[self] = peer


class _Http1Alone(ProtocolWrapper):
    """Closes a connection that turns to HTTP/2, which no client of ours speaks: its streams would count as one
    connection, however many requests they are."""

    async def handle(self, event: Event) -> None:
        try:
            await self.protocol.handle(event)
        except (H2ProtocolAssumedError, H2CProtocolRequiredError):
            await self.send(Closed())


def peer_of(address: str) -> str:
    """Return as whom an address counts: of IPv6 its /64, because a host has as many addresses there as it likes."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if parsed.version == 4:
        return str(parsed)
    return str(parsed.ipv4_mapped or ipaddress.IPv6Network((parsed, 64), strict=False))


def _notice_the_dead(connection: trio.socket.SocketType) -> None:
    """Have the kernel end the connection of a client that is gone: a watch that is quiet sends nothing by itself."""
    for option, value in (
        (socket.TCP_KEEPIDLE, DEAD_S // 2),
        (socket.TCP_KEEPINTVL, DEAD_S // 6),
        (socket.TCP_KEEPCNT, 3),
        (socket.TCP_USER_TIMEOUT, DEAD_S * 1000),
    ):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _note_faults(faults: BaseException | None) -> None:
    """Log of what kind they are, not what the client has sent."""
    kinds = set()
    pending = [] if faults is None else [faults]
    while pending:
        one = pending.pop()
        if isinstance(one, BaseExceptionGroup):
            pending += one.exceptions
        elif not isinstance(one, OSError):
            kinds.add(type(one).__name__)
    for kind in sorted(kinds):
        _limited.warning(kind, f"closed a connection of HTTP on which the server failed ({kind})")


async def _maybe_tls(stream: trio.SocketStream, context: ssl.SSLContext) -> Any:
    """Return the stream, behind TLS if the client begins with it."""
    with trio.move_on_after(HANDSHAKE_S):
        if await stream.socket.recv(1, socket.MSG_PEEK) == _TLS_HANDSHAKE:
            return trio.SSLStream(stream, context, server_side=True, https_compatible=True)
    return stream


# The classes that it creates per connection; hypercorn offers no other hook.
vars(hypercorn_run)["TCPServer"] = _Connection
vars(hypercorn_connection)["ProtocolWrapper"] = _Http1Alone


async def _run(
    app: Starlette,
    config: Config,
    stop: Callable[[], Awaitable[None]],
    *,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    # hypercorn's types require its own scope dictionaries; Starlette's are general mappings.
    framework = cast("Any", app)
    await hypercorn_serve(framework, config, shutdown_trigger=stop, mode="asgi", task_status=task_status)
