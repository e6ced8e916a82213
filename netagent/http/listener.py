"""The agent's TCP listener for HTTP, by the key `http`.

An address that is taken, or that the host does not have yet, is tried again: neither may keep an agent from starting.
"""

from __future__ import annotations

import functools
import logging
import os
import socket
from collections.abc import Callable
from typing import Final

import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from netagent.control.asgi import serve_on
from netagent.http.health import NO_CLUSTER, HealthAnswer, service_health
from netagent.registry.view import RegistryView

RETRY_S: Final = 2.0
BACKLOG_CONNECTIONS: Final = 64
"""Bound of connections waiting to be accepted; beyond it: the kernel drops their first packets."""
GRACE_S: Final = 1.0

GetView = Callable[[], RegistryView | None]
"""The registry; None while this host is in no cluster."""

_log = logging.getLogger(__name__)


class HttpListener:
    """Serves while `run` runs."""

    def __init__(self, place: str, view: GetView) -> None:
        self.place = place
        """`127.0.0.1:7958`, as the key has it."""
        self.trouble: str | None = None
        """Why it does not serve; None: it does."""
        self._view = view
        self._app = Starlette(
            routes=[
                Route("/healthz", self._agent_health),
                Route("/healthz/service/{name}", self._service_health),
            ]
        )
        self._app.router.redirect_slashes = False

    async def run(self, shutdown: trio.Event) -> None:
        """Serve until `shutdown` is set and open requests have ended."""
        self._app.state.stopping = trio.Event()
        while not shutdown.is_set():
            try:
                listener = _listening(self.place)
            except OSError as error:
                trouble = os.strerror(error.errno) if error.errno else str(error)
                if trouble != self.trouble:
                    _log.warning("cannot serve HTTP on %s: %s", self.place, trouble)
                self.trouble = trouble
                with trio.move_on_after(RETRY_S):
                    await shutdown.wait()
                continue
            self.trouble = None
            _log.info("serving HTTP on http://%s", self.place)
            async with trio.open_nursery() as nursery:
                await nursery.start(
                    functools.partial(serve_on, listener, self._app, shutdown, grace_s=GRACE_S)
                )

    async def _agent_health(self, _request: Request) -> Response:
        return _response(NO_CLUSTER if self._view() is None else HealthAnswer(200, "up"))

    async def _service_health(self, request: Request) -> Response:
        view, asked = self._view(), request.query_params
        if view is None:
            return _response(NO_CLUSTER)
        name = request.path_params["name"].lower()
        return _response(service_health(view, name, asked.get("network"), asked.get("group")))


def _response(answer: HealthAnswer) -> Response:
    body: dict[str, object] = {"schema": 1, "status": answer.health}
    if answer.cause:
        body["cause"] = answer.cause
    counts = {} if answer.replicas is None else {"replicas": answer.replicas, "up": answer.up}
    return JSONResponse({**body, **counts}, answer.status, headers={"Cache-Control": "no-store"})


def _listening(place: str) -> socket.socket:
    address, _, port = place.rpartition(":")
    family = socket.AF_INET6 if address.startswith("[") else socket.AF_INET
    where = (address.strip("[]"), int(port))
    listener = socket.create_server(where, family=family, backlog=BACKLOG_CONNECTIONS)
    listener.setblocking(False)
    return listener
