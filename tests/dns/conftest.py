"""The fixture that plays a scenario."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from netdns.resolver import ResolverConfig
from tests.dns.world import World

Scenario = Callable[[World], Awaitable[None]]
Play = Callable[..., None]
"""The fixture `play`: a scenario, and options of ResolverConfig."""


@pytest.fixture
def play() -> Play:
    """Run a scenario against a running server with one listener, `ask`."""

    def run(scenario: Scenario, **options: Any) -> None:
        async def main() -> None:
            async with trio.open_nursery() as nursery:
                world = World(nursery, ResolverConfig(**options))
                world.listen("ask")
                nursery.start_soon(world.server.run)
                with trio.fail_after(30):
                    await scenario(world)
                world.resolver.check_invariants()
                assert "internal_errors" not in world.server.statistics()
                for stream in world.streams:
                    await stream.aclose()
                nursery.cancel_scope.cancel()

        trio.run(main)

    return run
