"""Answers on the agent's `http` listener while the agent is away: with the resolver process's metrics, so that the
counters of names are read without a gap; to all else with 503.

It knows neither tokens nor TLS. So it gives metrics to programs of this host alone, by a name of loopback: not to
strangers, nor to another site's page in a browser of this host (netagent.model.address.loopback).

The agent names the address when it connects. When its connection ends, whatever the reason, the process opens the
listener; when an agent connects, it closes it. An agent that starts connects first and listens later, and tries again
while the address is taken.

The process can open no listener below port 1024 and can't read what the kernel says of it: `listen` and `read_usage`
do that.
"""

from __future__ import annotations

import json
import logging
import math
import socket
from collections.abc import Callable, Mapping
from typing import Final

import trio

from netagent.feeds.request import FeedRequest, RequestError, RequestReader
from netagent.model.address.loopback import is_loopback, is_name_of_loopback
from netagent.openmetrics.away import away_families
from netagent.openmetrics.text import CONTENT_TYPE, Pieces, SharedText

RETRY_S: Final = 1.0
"""Pause before an address that is taken is tried again: the agent may still be closing."""
REQUEST_S: Final = 5.0
MAX_CONNECTIONS: Final = 8
"""Bound of connections to the listener while the agent is away; beyond it: closed unread."""

_log = logging.getLogger(__name__)


class StandIn:
    """Call `agent_came` and `agent_went`; `run` until cancelled. `statistics`: the process's counters."""

    def __init__(
        self,
        statistics: Callable[[], Mapping[str, int]],
        *,
        listen: Callable[[str], socket.socket],
        read_usage: Callable[[], bytes],
    ) -> None:
        self._statistics = statistics
        self._listen = listen
        self._read_usage = read_usage
        self._place = ""
        self._away_since: float | None = None
        """None: an agent is connected."""
        self._changed = trio.Event()
        self._open = 0
        self._text = SharedText(self._pieces)

    def agent_came(self) -> None:
        """Leave the listener to the agent."""
        self._away_since, self._place = None, ""
        self._ring()

    def set_place(self, place: str) -> None:
        """Note the address that the connected agent listens on, as its configuration has it; empty: none."""
        self._place = place

    def agent_went(self) -> None:
        """Answer in the agent's place."""
        self._away_since = trio.current_time()
        self._ring()

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            changed = self._changed
            if self._away_since is None or not self._place:
                await changed.wait()
                continue
            try:
                listener = trio.socket.from_stdlib_socket(self._listen(self._place))
            except OSError as error:
                _log.info("cannot answer on %s in the agent's place: %s", self._place, error)
                with trio.move_on_after(RETRY_S):
                    await changed.wait()
                continue
            _log.info("the agent is away: answering on %s in its place", self._place)
            with listener:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._serve, listener, nursery)
                    await changed.wait()
                    nursery.cancel_scope.cancel()

    def _ring(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _serve(self, listener: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        while True:
            try:
                sock, _ = await listener.accept()
            except OSError:  # gone already, or no descriptor is left
                await trio.sleep(RETRY_S)
                continue
            if self._open >= MAX_CONNECTIONS:
                sock.close()
                continue
            self._open += 1
            nursery.start_soon(self._converse, sock)

    async def _converse(self, sock: trio.socket.SocketType) -> None:
        try:
            with sock, trio.move_on_after(REQUEST_S):
                try:
                    request = await _read(sock)
                    answer = b"" if request is None else await self._answer(request, sock)
                except RequestError as error:
                    answer = _response(error.status, "text/plain", f"{error}\n".encode("ascii", "replace"))
                await _send(sock, answer)
                # Closed with unread octets, the connection would be reset, and the answer lost.
                sock.shutdown(socket.SHUT_WR)
                while await sock.recv(4096):
                    pass
        except OSError:
            pass  # the client went
        finally:
            self._open -= 1

    async def _answer(self, request: FeedRequest, sock: trio.socket.SocketType) -> bytes:
        if request.feed == "metrics":
            is_local = all(is_loopback(end[0]) for end in (sock.getsockname(), sock.getpeername()))
            if not (is_local and is_name_of_loopback(request.host)):
                raise RequestError(
                    403, "while the agent is away, metrics are for http://127.0.0.1 on its host"
                )
            kind, text = await self._metrics()
            return _response(200, kind, text, is_head=request.is_head)
        said = {"schema": 1, "status": "down", "cause": "the agent of this host is away"}
        return _response(503, "application/json", json.dumps(said).encode(), is_head=request.is_head)

    async def _metrics(self) -> tuple[str, bytes]:
        return CONTENT_TYPE, await self._text.get()

    async def _pieces(self) -> Pieces:
        away_s = trio.current_time() - (self._away_since or -math.inf)
        return away_families(self._statistics(), away_s, self._read_usage())


async def _read(sock: trio.socket.SocketType) -> FeedRequest | None:
    reader = RequestReader()
    while data := await sock.recv(4096):
        request = reader.receive_untrusted(data)
        if request is not None:
            return request
    return None


async def _send(sock: trio.socket.SocketType, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[await sock.send(rest) :]


def _response(status: int, kind: str, body: bytes, *, is_head: bool = False) -> bytes:
    head = (
        f"HTTP/1.1 {status} {'OK' if status == 200 else 'Error'}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode("ascii") + (b"" if is_head else body)
