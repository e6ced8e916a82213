"""Serves an ASGI application by hypercorn on a socket that listens: the API's, or one of TCP.

Only local programs reach the API's socket, and the agent knows their accounts. Strangers may reach a TCP socket, so
its connections are few and short.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any, cast

import trio
from hypercorn.config import Config
from hypercorn.trio import run as hypercorn_run
from hypercorn.trio import serve as hypercorn_serve
from hypercorn.trio.tcp_server import TCPServer
from starlette.applications import Starlette

from netagent.control import asker

IDLE_S = 5
"""After this many seconds a connection without a request, or with an incomplete header, is closed."""
MAX_HEADER_BYTES = 16 * 1024
MAX_TCP_CONNECTIONS = 64
"""Bound of TCP connections at the same time; beyond it: closed unread."""
MAX_PER_PEER = 16
"""Bound of TCP connections of one address at the same time; beyond it: closed unread. So one stranger does not take
the places of a load balancer."""
TCP_LIFE_S = 30.0
"""A TCP connection is closed after this many seconds, whatever it does."""

_tcp_connections: dict[TCPServer, str] = {}
"""With the address of the peer."""


async def serve_on(
    listener: socket.socket,
    app: Starlette,
    shutdown: trio.Event,
    *,
    grace_s: float,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `shutdown` is set and open requests have ended, at most `grace_s` later. Closes the listener. For
    `nursery.start`."""
    config = Config()
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
        app.state.stopping.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(_run, app, config, stop)
        task_status.started()


class _Connection(TCPServer):
    """A connection that leaves no reference cycle when it ends: hypercorn's refers to its protocol, whose methods
    refer to it. A cycle of some thirty objects per request would stay until the next garbage collection, and one
    that is frozen before the connection ends (netagent.daemon.memory) for hours. And one that notes who asks, or is
    bounded."""

    async def run(self) -> None:
        stream = cast("trio.SocketStream", self.stream)  # not SSL
        try:
            if stream.socket.family == socket.AF_UNIX:
                asker.note(stream.socket)
                await super().run()
            elif _is_full(peer := stream.socket.getpeername()[0]):
                await trio.aclose_forcefully(stream)
            else:
                _tcp_connections[self] = peer
                asker.note_stranger()
                with trio.move_on_after(TCP_LIFE_S):
                    await super().run()
        except OSError:
            pass  # it went before its address was read
        finally:
            _tcp_connections.pop(self, None)
            vars(self).clear()


def _is_full(peer: str) -> bool:
    peers = _tcp_connections.values()
    return len(peers) >= MAX_TCP_CONNECTIONS or sum(one == peer for one in peers) >= MAX_PER_PEER


vars(hypercorn_run)["TCPServer"] = (
    _Connection  # the class it creates per connection; hypercorn offers no other hook
)


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
