"""Bodies of answers that are sent in parts, because they are long or have no end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import trio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

Watch: TypeAlias = Callable[[Callable[[bytes], Awaitable[None]]], Awaitable[None]]
"""Emits one part after the other until it is cancelled or finished."""


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
    """A body that continues until its client hangs up or the agent stops."""

    media_type = "application/x-ndjson"

    def __init__(self, run: Watch, stopping: trio.Event) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._run = run
        self._stopping = stopping

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send the body until the client hangs up."""

        async def emit(lines: bytes) -> None:
            await send({"type": "http.response.body", "body": lines, "more_body": True})

        async def hang_up() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            nursery.cancel_scope.cancel()

        async def stop() -> None:
            await self._stopping.wait()
            nursery.cancel_scope.cancel()

        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hang_up)
            nursery.start_soon(stop)
            await self._run(emit)
            nursery.cancel_scope.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})
