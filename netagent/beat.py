"""When a task that looks at something again and again looks next: at the beats that all such tasks share. Pure.

An idle agent spends more on waking up than on what it wakes up for. Tasks whose pauses end at the same moment share
one wake-up. Each looks no later than its own pause says, so what was promised within a time still holds; a pause
shorter than a beat is kept as it is. The clock of trio begins at a random number, so the beats of two agents differ.
"""

from __future__ import annotations

from typing import Final

BEAT_S: Final = 0.5
"""The shortest pause of a task that looks again and again; the others are multiples of it."""
_SLACK_S: Final = 0.001
"""A timer that ends a moment before a beat must not end the next pause at that very beat."""


def beat_within(now: float, pause_s: float) -> float:
    """The last beat that comes no later than `pause_s` from `now`."""
    at = (now + pause_s) // BEAT_S * BEAT_S
    return at if at > now + _SLACK_S else now + pause_s
