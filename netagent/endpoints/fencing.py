"""Fencing of this host's endpoints after the cluster has evicted it.

Other hosts own their addresses by now. So this host takes the endpoints down as by a detach and keeps only a note of
each, which `endpoints` shows and the journal keeps for the host's next identity. The note goes when the container is
attached again (netagent.endpoints.context), when a user detaches it, or when its namespace is gone.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection

from netagent.endpoints.targets import is_at_its_path
from netagent.journal import statements
from netagent.journal.journal import Journal
from netagent.model.ids import EndpointId
from netagent.registry.state_store import StateStore

logger = logging.getLogger("netagent.endpoints.fencing")


async def fence_all(live: StateStore, journal: Journal, remove_all: Callable[[], Awaitable[int]]) -> int:
    """Note all endpoints, then `remove_all`; return their number. May be called again after a failure."""
    rows = [row for row in live.rows.values() if row.is_published]
    await journal.transaction([statements.fence(row) for row in rows])
    live.set_fenced({**live.fenced, **{row.endpoint_id: row for row in rows}})
    await remove_all()
    return len(rows)


async def unfence(live: StateStore, journal: Journal, endpoint_ids: Collection[EndpointId]) -> None:
    """Drop the notes of some endpoints."""
    if endpoint_ids:
        await journal.transaction([statements.unfence(one) for one in endpoint_ids])
        live.drop_fenced(endpoint_ids)


async def sweep_fenced(live: StateStore, journal: Journal, boot_id: str) -> None:
    """Drop the notes of containers that are gone."""
    gone = [
        key
        for key, row in live.fenced.items()
        if row.netns is None or row.netns.boot_id != boot_id or not is_at_its_path(row)
    ]
    await unfence(live, journal, gone)
