"""The driver's side of a node's long work: it is done piece by piece, and others run in between."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol

import trio

PIECE_S: Final = 0.001
"""How long it goes on in one go. What the application makes of the outcome takes longer than that."""


class Steppable(Protocol):
    """A machine that may be behind."""

    @property
    def has_pending_work(self) -> bool:
        """True while `run_step` has something to do."""

    def run_step(self) -> None:
        """Do a millisecond of it."""


class TaskRunner:
    """`note` after every input; `run` beside that. All that takes long has one `turn`."""

    def __init__(self, node: Steppable, turn: trio.Lock) -> None:
        self._node = node
        self._came = trio.Event()
        self._done = trio.Event()
        self.turn = turn

    def note(self) -> None:
        """The node may be behind now."""
        if self._node.has_pending_work:
            self._came.set()

    async def wait_done(self) -> None:
        """Until the node is not behind: who brings it more of what takes long should wait for that."""
        while self._node.has_pending_work:
            await self._done.wait()

    async def run(self, flush: Callable[[], None]) -> None:
        """Until cancelled; `flush` carries out what a piece led to."""
        while True:
            await self._came.wait()
            self._came = trio.Event()
            while self._node.has_pending_work:
                async with self.turn:
                    began = time.perf_counter()
                    self._node.run_step()
                    while self._node.has_pending_work and time.perf_counter() - began < PIECE_S:
                        self._node.run_step()
                    flush()
            self._done.set()
            self._done = trio.Event()
