"""Rejoin: a host learns that the cluster has evicted it, and begins anew under another identity, or, if an operator
has revoked it, stays outside until it is invited.

Its endpoints are fenced meanwhile (netagent.endpoints.fencing).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import trio

from netagent.journal import statements
from netagent.journal.journal import Journal
from netagent.registry.state_store import StateStore


async def wait_evicted(
    live: StateStore, ended: trio.Event, is_refused: Callable[[], bool] = lambda: False
) -> bool:
    """Wait until the cluster has evicted this host, or a member has said so (`is_refused`, with a change of the
    state): True; False when its run there has `ended` before."""
    async with trio.open_nursery() as nursery:

        async def end() -> None:
            await ended.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(end)
        revision = 0
        while live.view.local not in live.view.evicted and not is_refused():
            revision = await live.wait_newer(revision)
        nursery.cancel_scope.cancel()
    return not ended.is_set()


async def reset_journal(journal_file: Path) -> None:
    """Reduce the journal to what the next identity may use: the members to dial, and what is fenced. No other part
    may have it open."""
    with closing(Journal.open(journal_file)) as journal:
        await journal.transaction(statements.start_anew())
