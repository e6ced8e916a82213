"""What tests of the firewall are made of: our tables in a throw-away namespace, kept as the agent keeps them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from kernel.overlay import Namespace

from netagent.datapath import nftables
from netagent.datapath.netns import opened_netns, run_in_netns
from netagent.firewall.driver import Tables
from netagent.firewall.guard import Guard
from netagent.firewall.inputs import FirewallInput


async def tables_of(namespace: Namespace, memory: Path | None = None) -> Tables:
    with opened_netns(namespace.path) as fd:
        sock = await run_in_netns(fd, nftables.open_socket)
    return Tables(sock, nft=("nsenter", f"--net={namespace.path}", "nft"), memory=memory)


@asynccontextmanager
async def guarding(
    namespace: Namespace, given: FirewallInput, memory: Path | None = None
) -> AsyncIterator[Guard]:
    """The tables hold within the block, and stay behind it, as when an agent stops."""
    guard = Guard(await tables_of(namespace, memory))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(guard.run)
        await give(guard, given, 1)
        yield guard
        nursery.cancel_scope.cancel()


async def give(guard: Guard, given: FirewallInput | None, generation: int) -> None:
    guard.set_desired(given, generation)
    with trio.fail_after(10):
        await guard.wait_tried(generation)
    assert not guard.trouble
