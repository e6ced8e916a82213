"""When the reconciler works, and whether it looks at the kernel first.

Looks come on notifications, on a timer, and after failures with growing pauses. However many notifications there are,
looking takes at most a fifth of the time, or pauses for PAUSE_MAX_S. The timer's look covers everything, and so does
the look after a failure that leaves the state unknown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import trio

INTERVAL_S = 10.0
"""Between looks when nothing happens: notifications can be lost, and there are none for some changes."""
SETTLE_S = 0.05
"""From the first notification to the look: changes come in bursts (a container's start is some twenty messages)."""
WHOLE_SHARE, WHOLE_MAX_S = 1000, 60.0
"""If a look at everything takes long, as with a thousand containers, the next one follows after so many times its
length, at most a minute. It finds changes without notifications; the kernel says so when a notification is lost."""
PAUSE_MAX_S = 1.0
"""After a look at ten thousand endpoints on a busy machine the pause would be longer; but repairs must happen within
two seconds, even if the damage comes right after the timer's look."""
RETRY_MIN_S, RETRY_MAX_S = 0.5, INTERVAL_S
"""Pauses before a retry; the timer looks in any case."""


@dataclass(slots=True)
class Schedule:
    """When to work, and whether to look first."""

    woken: trio.Event = field(default_factory=trio.Event)
    is_desired_new: bool = False
    look_at: float = -math.inf
    """-inf: before anything else."""
    earliest_look_at: float = -math.inf
    """Looking takes at most a fifth of the time, however many notifications there are, or pauses for PAUSE_MAX_S."""
    must_look: bool = True
    """The belief is unsound: look at everything before planning, whatever the reason for planning."""
    whole_at: float = -math.inf
    """When the timer asks for a look at everything."""
    retry_s: float = RETRY_MIN_S
    looks: int = 0
    trouble: str = ""

    def wake(self) -> None:
        """Note a new desired state."""
        self.is_desired_new = True
        self.woken.set()

    def sleep(self) -> None:
        """Forget the last event, because the loop has woken; the next event is a new one."""
        if self.woken.is_set():
            self.woken = trio.Event()

    def look_soon(self) -> None:
        """Note that something is not as believed."""
        at = max(trio.current_time() + SETTLE_S, self.earliest_look_at)
        if at < self.look_at:
            self.look_at = at
            self.woken.set()

    def is_look_due(self) -> bool:
        """True when the loop should dump before it plans."""
        return self.must_look or trio.current_time() >= self.look_at

    def is_due(self) -> bool:
        """True when there is something to do now."""
        return self.is_desired_new or trio.current_time() >= self.look_at

    def start_look(self) -> tuple[float, bool]:
        """Return the time, and whether to look at everything. A notification from now on calls for another look: it
        may concern a table that was read already."""
        now = trio.current_time()
        self.look_at = math.inf
        return now, self.must_look or now >= self.whole_at

    def end_look(self, started_at: float, interval_s: float, *, is_whole: bool) -> None:
        """End a successful look; the next is the timer's, if there was no notification in the meantime."""
        now = trio.current_time()
        self.looks += 1
        self.trouble = ""
        if is_whole:
            self.must_look = False
            self.whole_at = now + max(interval_s, min(WHOLE_SHARE * (now - started_at), WHOLE_MAX_S))
        self.earliest_look_at = now + min(4 * (now - started_at), PAUSE_MAX_S)
        self.look_at = max(min(self.look_at, self.whole_at), self.earliest_look_at)

    def failed(self, trouble: str) -> None:
        """Look at everything and try again after a pause that doubles."""
        self.trouble = trouble
        self.must_look = True
        self.retry()

    def retry(self) -> None:
        """Look and try again after a pause that doubles."""
        self.look_at = min(self.look_at, trio.current_time() + self.retry_s)
        self.retry_s = min(2 * self.retry_s, RETRY_MAX_S)

    def succeeded(self) -> None:
        """Note that the whole plan was done."""
        self.retry_s = RETRY_MIN_S
