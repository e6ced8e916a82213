"""`GET /metrics` on the `http` listener. An agent that nothing scrapes loads no library for it."""

from __future__ import annotations

from importlib import import_module

import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from netagent.daemon.agent import Agent


def routes(agent: Agent) -> list[Route]:
    """Return `/metrics`."""
    made = None
    loading = trio.Lock()

    async def metrics(_request: Request) -> Response:
        nonlocal made
        async with loading:
            if made is None:
                # In a thread: other tasks run between two of its parts.
                await trio.to_thread.run_sync(import_module, "netagent.metrics.scrape")
                from netagent.metrics import scrape

                made = (
                    scrape.Scrapes(agent),
                    {"Content-Type": scrape.CONTENT_TYPE, "Cache-Control": "no-store"},
                )
        scrapes, headers = made
        return Response(await scrapes.text(), headers=headers)

    return [Route("/metrics", metrics)]
