"""How a host that the cluster has forgotten goes on: it learns of it, and begins anew under another identity.

Its endpoints are fenced meanwhile (netagent.endpoints.fencing).
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import trio

from netagent.journal import statements
from netagent.journal.journal import Journal
from netagent.registry.state_store import StateStore


async def wait_forgotten(live: StateStore, ended: trio.Event) -> bool:
    """True once the cluster has forgotten this host; False when its life there has `ended` before."""
    async with trio.open_nursery() as nursery:

        async def end() -> None:
            await ended.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(end)
        revision = 0
        while live.view.local not in live.view.forgotten:
            revision = await live.wait_newer(revision)
        nursery.cancel_scope.cancel()
    return not ended.is_set()


async def begin_anew(journal_file: Path) -> None:
    """Leave nothing in the journal but what the next identity may use: whom to dial, and what is fenced. When nobody
    else has it open."""
    with closing(Journal.open(journal_file)) as journal:
        await journal.transaction(statements.start_anew())
