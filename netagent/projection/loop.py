"""From what is known to what holds: kernel first, names after it, each time anything changes.

One loop reads the latest registry and the latest local endpoints, gives the reconciler the state that follows from
them, waits until it is in the kernel, and only then tells the resolver. So an answer names no endpoint before its
path exists. A kernel that refuses or hangs holds names back by PROGRAM_GRACE_S at most: a stuck datapath must not
take DNS down with it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from netagent.datapath.reconcile import Reconciler
from netagent.datapath.state import KernelState
from netagent.registry.live import Live

PROGRAM_GRACE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What the loop does, as functions of the latest `Live`."""

    desired: Callable[[Live], KernelState]
    publish_names: Callable[[Live], Awaitable[None]]
    probe: Callable[[Live], None]


class Projection:
    """Runs the loop, and lets others wait for it."""

    def __init__(self, live: Live, reconciler: Reconciler, steps: Steps) -> None:
        self._live = live
        self._reconciler = reconciler
        self._steps = steps
        self._given = 0
        self._followed = 0
        self._progress = trio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            revision = self._live.revision
            self._reconciler.set_desired(self._steps.desired(self._live), revision)
            self._steps.probe(self._live)
            self._given = revision
            self._note_progress()
            with trio.move_on_after(PROGRAM_GRACE_S):
                await self._reconciler.wait_programmed(revision)
            await self._steps.publish_names(self._live)
            self._followed = revision
            self._note_progress()
            await self._live.wait_newer(revision)

    async def wait_programmed(self, revision: int) -> None:
        """Until the kernel state of `revision` or a later one has been tried."""
        while self._given < revision:
            await self._progress.wait()
        await self._reconciler.wait_programmed(revision)

    async def wait_followed(self, revision: int) -> None:
        """Until kernel and names are those of `revision` or a later one."""
        while self._followed < revision:
            await self._progress.wait()

    def trouble_with(self, device: str) -> str | None:
        """Why the kernel refused something about this device."""
        return self._reconciler.trouble_with(device)

    def _note_progress(self) -> None:
        self._progress.set()
        self._progress = trio.Event()
