"""Answers that Starlette has no class for: bodies in parts, because they are long or have no end, and problems."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import TypeAlias

import trio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from netagent.control.problem import MEDIA_TYPE, problem_of
from netagent.errors import NetagentError

Watch: TypeAlias = Callable[[Callable[[bytes], Awaitable[None]]], Awaitable[None]]
"""Emits one part after the other until it is cancelled or finished."""


def problem_response(error: NetagentError, *, status: int | None = None) -> Response:
    """Return the error as a problem document."""
    status = status or error.http_status
    # RFC 9110 section 11.6.1.
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    body = json.dumps(problem_of(error, status=status))
    return Response(body, status_code=status, media_type=MEDIA_TYPE, headers=headers)


class PartsResponse(Response):
    """A body in parts; other tasks run between them."""

    media_type = "application/json"

    def __init__(self, parts: list[bytes], status: int = 200) -> None:
        super().__init__(status_code=status)
        self.headers["content-length"] = str(sum(map(len, parts)))
        self._parts = parts

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send the body."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        self._parts.reverse()
        while self._parts:
            await send({"type": "http.response.body", "body": self._parts.pop(), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class WatchResponse(Response):
    """A body that continues until its client hangs up, the agent stops or what allows it ends."""

    media_type = "application/x-ndjson"

    def __init__(self, run: Watch, held: AbstractContextManager[object], *ends: trio.Event) -> None:
        """`held` is closed at the end, also if not even the beginning can be sent."""
        super().__init__()
        del self.headers["content-length"]
        self._run = run
        self._held = held
        self._ends = ends

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send the body until the client hangs up."""
        with self._held:
            await self._send_all(receive, send)

    async def _send_all(self, receive: Receive, send: Send) -> None:

        async def emit(lines: bytes) -> None:
            await send({"type": "http.response.body", "body": lines, "more_body": True})

        async def hang_up() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            nursery.cancel_scope.cancel()

        async def stop(end: trio.Event) -> None:
            await end.wait()
            nursery.cancel_scope.cancel()

        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hang_up)
            for end in self._ends:
                nursery.start_soon(stop, end)
            await self._run(emit)
            nursery.cancel_scope.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})
