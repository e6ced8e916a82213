"""Auto-evict: evict hosts that have been silent for long, so that short-lived machines leave nothing behind.

Every host watches, because any may become the one that acts: the live host with the smallest id. It needs another
live host that acknowledges: a host that is cut off alone would otherwise evict all others. A host that announced its
leave has handed its space on, and is evicted soon.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import trio

from netagent.errors import NetagentError
from netagent.eviction.downtime import Downtime
from netagent.eviction.evict import Eviction
from netagent.journal.journal import Journal
from netagent.log import Limited
from netagent.model.ids import HostId
from netagent.periodic_task import PeriodicTask
from netagent.registry.state_store import StateStore
from netagent.registry.view import AgentState

LOOK_S = 2.0
"""Interval for looking at which hosts are due; a host that is heard for less than that in a week of silence may be
missed."""
SAVE_S = 60.0
"""Interval for journalling the counted silence: the most that a restart of the watcher costs the count."""
LEFT_S = 600.0
"""How long a host that left is shown as such."""
RETRY_S = 30.0
"""After an eviction that was refused."""

logger = logging.getLogger("netagent.eviction.auto_evict")
_limited = Limited(logger)


@dataclass(slots=True, kw_only=True)
class AutoEviction:
    """Watches until cancelled."""

    live: StateStore
    journal: Journal
    eviction: Eviction
    downtime: Downtime
    forget_after_s: Callable[[], float]
    """Seconds of silence; 0: never."""

    async def run(self) -> None:
        """Look for due hosts, journal the counts, evict."""
        saved_at = acted_at = float("-inf")
        task = PeriodicTask(LOOK_S)
        while True:
            now = trio.current_time()
            self.downtime.note(self.live.view, now)
            if now - saved_at >= SAVE_S:
                saved_at = now
                self.journal.note_silences(self.downtime.counted(now))
            due = self.due(now)
            if due and now - acted_at >= RETRY_S:
                try:
                    await self.eviction.forget_these(due)
                except NetagentError as error:
                    acted_at = now
                    _limited.warning("forget", f"cannot yet forget hosts that are gone: {error}")
            after_s = self.forget_after_s()
            await task.wait(min(LOOK_S, after_s / 4) if after_s else LOOK_S)

    def due(self, now: float) -> set[HostId]:
        """The hosts that this host has to evict now."""
        view, after_s = self.live.view, self.forget_after_s()
        living = [host_id for host_id, host in view.hosts.items() if host.agent is AgentState.ALIVE]
        if not after_s or view.local in view.evicted or min(living, default=view.local) != view.local:
            return set()
        found = set()
        against = view.store.evictions.get(view.local, frozenset())  # our eviction of them would not count
        for host_id, host in view.hosts.items():
            if host_id in against:
                continue
            silent_s = self.downtime.silent_s(host_id, now)
            if host.agent is AgentState.LEFT:
                if silent_s >= min(after_s, LEFT_S):
                    found.add(host_id)
            elif silent_s >= after_s and set(living) - {view.local}:
                found.add(host_id)
        return found
