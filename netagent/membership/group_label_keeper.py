"""Keeps in the journal which labels groups have had, and forgets groups that are gone."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from functools import partial

import trio

from netagent.journal.journal import Journal
from netagent.membership.group_label_memory import GroupLabelMemory
from netagent.model.ids import NetworkId
from netagent.registry.state_store import StateStore
from netagent.registry.view import RegistryView
from netgossip.slice_runner import in_slices

NOTED_AT_ONCE = 200
"""Labels that are noted before other tasks run."""


class GroupLabelKeeper:
    """One for each run of the cluster."""

    def __init__(self, live: StateStore, journal: Journal) -> None:
        self._live = live
        self._journal = journal
        self._memory = GroupLabelMemory(journal.load_group_labels())

    def gone(self, network_id: NetworkId, group: str) -> Mapping[str, int]:
        """Since when (Unix time) a group has had no endpoint with a label in a network, by label."""
        return self._memory.gone((network_id, group))

    async def run(self) -> None:
        """Follow the registry until cancelled."""
        while True:
            known = self._live.now
            now = trio.current_time()
            await in_slices(self._memory.follow(known.view, now=now, time_s=int(time.time())))
            if gone := self._memory.take_due(now):
                self._live.update_view(partial(RegistryView.without_labels_had, keys=gone))
            # To its end also when the agent stops: what was taken is not noted again.
            with trio.CancelScope(shield=True):
                for number, (key, statement) in enumerate(self._memory.take_statements(), 1):
                    self._journal.note_group_label(key, statement)
                    if number % NOTED_AT_ONCE == 0:
                        await trio.lowlevel.checkpoint()
            due = self._memory.next_due
            with trio.move_on_at(math.inf if due is None else due):
                await self._live.wait_newer(known.revision)
