"""The task that notes what other hosts cause: compares the view with the last one that it saw.

It begins at what the journal said, so what happened while this agent was away is told at its start. A host that has
just joined knows nothing yet: all that it then hears for the first time is no news, so it begins at what it knows
once its cluster's records are complete.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import Final

import trio

from netagent.events.channel import event
from netagent.events.kinds import EventLevel
from netagent.events.sources.view_changes import (
    News,
    conflict_news,
    conflicts_of,
    may_conflict_otherwise,
    news_between,
)
from netagent.registry.state_store import StateStore
from netagent.registry.view import RegistryView
from netgossip.slice_runner import in_slices
from netgossip.slices import Slices

PAUSE_S: Final = 1.0
"""Shortest time between two comparisons: many changes in a row cost one. What a host is called often comes a moment
after the host."""
CONFLICTS_S: Final = 5.0
"""Shortest time between two searches for conflicts, of which there may be as many as endpoints."""

_log = logging.getLogger("netagent.cluster")
_LEVELS: Final = {
    EventLevel.INFO: logging.INFO,
    EventLevel.WARNING: logging.WARNING,
    EventLevel.ERROR: logging.ERROR,
}


class ViewWatch:
    """Create it with the view of the journal; `run` once records of the cluster may be complete."""

    def __init__(self, live: StateStore) -> None:
        self._live = live
        self._seen: RegistryView | None = live.view if len(live.view.hosts) > 1 else None

    async def run(self) -> None:
        """Note what happens until cancelled."""
        revision = self._live.revision
        seen = self._seen or self._live.view
        judged, conflicts, due_at = seen, await in_slices(conflicts_of(seen)), trio.current_time()
        while True:
            view = self._live.view
            for one in await in_slices(news_between(seen, view)):
                tell(one)
            seen = view
            is_owed = may_conflict_otherwise(judged.store, view.store)
            if is_owed and trio.current_time() >= due_at:
                judged, before, conflicts = view, conflicts, await in_slices(conflicts_of(view))
                is_owed, due_at = False, trio.current_time() + CONFLICTS_S
                await in_slices(_tell_each(conflict_news(before, conflicts, view)))
            await trio.sleep(PAUSE_S)
            # A search that is owed is made in time, also if nothing else changes.
            with trio.move_on_at(due_at if is_owed else math.inf):
                revision = await self._live.wait_newer(revision)


def _tell_each(news: Iterable[News]) -> Slices[None]:
    for one in news:
        tell(one)
        yield


def tell(news: News) -> None:
    """Log one event."""
    extra = event(news.kind, news.subject, author=news.author)
    _log.log(_LEVELS[news.level], "%s", news.text, extra=extra)
