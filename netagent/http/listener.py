"""The agent's TCP listener for HTTP, by the key `http`; with TLS where other hosts can reach it.

It joins the routes of several folders, which say themselves what they answer. An address that is taken, or that
the host does not have yet, is tried again: neither may keep an agent from starting.
"""

from __future__ import annotations

import functools
import logging
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Final

import trio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute

from netagent.access.token_store import TokenStore
from netagent.control.asgi import serve_on
from netagent.errors import FailedError
from netagent.http.gate import Gate, is_beyond_loopback

RETRY_S: Final = 2.0
BACKLOG_CONNECTIONS: Final = 64
"""Bound of connections waiting to be accepted; beyond it: the kernel drops their first packets."""
GRACE_S: Final = 1.0

_log = logging.getLogger(__name__)


class HttpListener:
    """Serves while `run` runs."""

    def __init__(
        self,
        place: str,
        *routes: Sequence[BaseRoute],
        tokens: TokenStore,
        make_tls: Callable[[], ssl.SSLContext],
    ) -> None:
        """`make_tls` is called in a thread, where other hosts can reach the listener. It may raise FailedError."""
        self.place = place
        """`127.0.0.1:7958`, as the key has it."""
        self.trouble: str | None = None
        """Why it does not serve; None: it does."""
        self._make_tls = make_tls if is_beyond_loopback(place) else None
        gate = Middleware(Gate, tokens=tokens)
        self._app = Starlette(routes=[one for part in routes for one in part], middleware=[gate])
        self._app.router.redirect_slashes = False

    def add(self, routes: Sequence[BaseRoute]) -> None:
        """Serve these as well. Before `run`."""
        self._app.router.routes.extend(routes)

    async def run(self, shutdown: trio.Event) -> None:
        """Serve until `shutdown` is set and open requests have ended."""
        self._app.state.stopping = trio.Event()
        while not shutdown.is_set():
            try:
                tls = await trio.to_thread.run_sync(self._make_tls) if self._make_tls else None
                listener = _listening(self.place)
            except (FailedError, OSError) as error:
                trouble = (
                    os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
                )
                if trouble != self.trouble:
                    _log.warning("cannot serve HTTP on %s: %s", self.place, trouble)
                self.trouble = trouble
                with trio.move_on_after(RETRY_S):
                    await shutdown.wait()
                continue
            self.trouble = None
            _log.info("serving HTTP on http%s://%s", "s" if tls else "", self.place)
            async with trio.open_nursery() as nursery:
                await nursery.start(
                    functools.partial(
                        serve_on, listener, self._app, shutdown, grace_s=GRACE_S, is_bounded=True, tls=tls
                    )
                )


def _listening(place: str) -> socket.socket:
    address, _, port = place.rpartition(":")
    family = socket.AF_INET6 if address.startswith("[") else socket.AF_INET
    where = (address.strip("[]"), int(port))
    listener = socket.create_server(where, family=family, backlog=BACKLOG_CONNECTIONS)
    listener.setblocking(False)
    return listener
