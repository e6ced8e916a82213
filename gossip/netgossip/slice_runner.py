"""Run long work in slices under trio, so that it never blocks the event loop for long: other tasks run between two
slices.

`in_slices` runs a generator (netgossip.slices) and returns its result. `TaskRunner` runs the steps that a machine has
pending. All long work of an event loop takes turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

import trio

from netgossip.slices import Slices

T = TypeVar("T")

SLICE_S: Final = 0.002
"""Length of a slice in seconds: a tenth of the longest time for which the loop may block. A task that becomes ready
at the worst moment waits for the rest of one round of the loop and for the next one, each with a slice and some short
steps."""
STEPS_S: Final = 0.001
"""How long pending steps run before other tasks do. What the application does with their outcome takes longer."""

_turn: Final[trio.lowlevel.RunVar[trio.Lock]] = trio.lowlevel.RunVar("turn")


def turn() -> trio.Lock:
    """Return the lock that is held for one slice of any long work in this event loop. Without it, one round of the
    loop could run a slice of each work in progress, and other tasks would wait for all of them."""
    try:
        return _turn.get()
    except LookupError:
        _turn.set(lock := trio.Lock())
        return lock


async def in_slices(slices: Slices[T]) -> T:
    """Run the generator and return its result. Other tasks run once before it begins and whenever SLICE_S is used
    up. There is no checkpoint after the last slice, so a cancellation cannot discard a finished result."""
    while True:
        async with turn():
            began = time.perf_counter()
            while True:
                try:
                    next(slices)
                except StopIteration as end:
                    result: T = end.value
                    return result
                if time.perf_counter() - began > SLICE_S:
                    break


class Steppable(Protocol):
    """A machine that may have pending work."""

    @property
    def has_pending_work(self) -> bool:
        """True while `run_step` has something to do."""

    def run_step(self) -> None:
        """Do a millisecond of it."""


class TaskRunner:
    """Runs a machine's pending work in steps. Call `note` after every input; `run` is a task of its own. `flush`
    carries out what a step led to."""

    def __init__(self, machine: Steppable, flush: Callable[[], object] = lambda: None) -> None:
        self._machine = machine
        self._flush = flush
        self._came = trio.Event()
        self._done = trio.Event()

    def note(self) -> None:
        """Wake the runner if the machine has pending work."""
        if self._machine.has_pending_work:
            self._came.set()

    async def wait_done(self) -> None:
        """Wait until the machine has no pending work. A task that would bring it more long work should wait for that
        first."""
        while self._machine.has_pending_work:
            await self._done.wait()

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            await self._came.wait()
            self._came = trio.Event()
            while self._machine.has_pending_work:
                async with turn():
                    began = time.perf_counter()
                    self._machine.run_step()
                    while self._machine.has_pending_work and time.perf_counter() - began < STEPS_S:
                        self._machine.run_step()
                    self._flush()
            self._done.set()
            self._done = trio.Event()
