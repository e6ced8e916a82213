"""The task beside the inbox: what waits there is taken in, or out, piece by piece, and others run in between."""

from __future__ import annotations

import trio

from netagent.membership.event_queue import EventQueue
from netagent.slices import turn
from netgossip.types import Event, Scope


class EventIntake:
    """For the gossip's driver, one for each inbox."""

    def __init__(self, event_queue: EventQueue) -> None:
        self._inbox = event_queue
        self._came = trio.Event()

    def handle(self, events: tuple[Event, ...]) -> None:
        """The events of one step; see Inbox."""
        self._inbox.handle(events)
        self._note()

    def forget_scope(self, scope: Scope) -> None:
        """This host has left a network; see Inbox."""
        self._inbox.forget_scope(scope)
        self._note()

    def _note(self) -> None:
        if self._inbox.is_behind:
            self._came.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._came.wait()
            self._came = trio.Event()
            while self._inbox.is_behind:
                async with turn():
                    self._inbox.take_piece()
