"""`GET /metrics` on the `http` listener. An agent that nothing scrapes loads no library for it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from netagent.daemon.agent import Agent
from netagent.loop_passes import LoopPasses

if TYPE_CHECKING:
    from netagent.openmetrics.text import SharedText


def routes(agent: Agent, passes: LoopPasses) -> list[Route]:
    """Return `/metrics`. `passes`: of the event loop that this runs in."""
    return [Route("/metrics", _Answers(agent, passes).metrics)]


class _Answers:
    def __init__(self, agent: Agent, passes: LoopPasses) -> None:
        self._agent = agent
        self._passes = passes
        self._loading = trio.Lock()
        self._text: SharedText | None = None

    async def metrics(self, _request: Request) -> Response:
        async with self._loading:
            if self._text is None:
                # In a thread, so that other tasks run between two of its parts.
                await trio.to_thread.run_sync(import_module, "netagent.metrics.collect")
        from netagent.metrics.collect import Collection
        from netagent.openmetrics.text import CONTENT_TYPE, SharedText

        if self._text is None:
            self._text = SharedText(Collection(self._agent, self._passes).pieces)
        headers = {"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"}
        return Response(await self._text.get(), headers=headers)
