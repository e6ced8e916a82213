"""What the doctor last found, for all readers of the page: it runs at most once at a time, and not again at once.

The doctor reads the kernel and asks the resolver, which costs more than the rest of the page. So a reader who opens
the overview gets what it found within the last KEPT_S; the button runs it anew, at most once in PAUSE_S. A request
that comes while it runs waits, and gets that answer.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import trio

KEPT_S: Final = 300.0
PAUSE_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Examined:
    """An answer of the doctor."""

    answer: dict[str, Any]
    at_s: float
    """By the wall clock, for people."""
    ended_at: float
    """By trio's clock."""


class Examination:
    """The doctor, as often as it may run."""

    def __init__(self, run: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        self._run = run
        self._turn = trio.Lock()
        self._last: Examined | None = None

    async def read(self, *, anew: bool) -> Examined:
        """Return what it found, at most KEPT_S ago; with `anew`, at most PAUSE_S ago."""
        async with self._turn:
            last, age_s = self._last, PAUSE_S if anew else KEPT_S
            if last is None or trio.current_time() - last.ended_at >= age_s:
                answer = await self._run()
                last = self._last = Examined(answer, time.time(), trio.current_time())
        return last
