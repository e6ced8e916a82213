"""Which addresses to dial again, and when: for ever, with a growing and jittered pause.

memberlist tries to join once and forgets dead members after 30 s, so that clusters which were cut in two stay two.
Here every address that should be a member's and is not stays wanted until it is.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from netgossip.deadlines import NEVER
from netgossip.types import Address

DIALS_LIMIT: Final = 4
"""Dials at once: an address that swallows packets holds its slot for a whole stream timeout."""
WANTED_LIMIT: Final = 4096
"""Addresses kept; those beyond wait until others are reached."""


@dataclass(slots=True)
class _Attempt:
    pause_s: float
    due_at: float
    in_flight: bool = False


class Redial:
    """The addresses that are wanted, each with its own pause between `min_s` and `max_s`."""

    def __init__(self, *, min_s: float, max_s: float, rng: random.Random) -> None:
        self._min_s = min_s
        self._max_s = max_s
        self._rng = rng
        self._attempts: dict[Address, _Attempt] = {}

    def want(self, addresses: Iterable[Address], now: float) -> None:
        """Dial exactly these from now on; new ones at once."""
        wanted = dict.fromkeys(addresses)
        for address in [known for known in self._attempts if known not in wanted]:
            del self._attempts[address]
        for address in wanted:
            if len(self._attempts) >= WANTED_LIMIT:
                break
            if address not in self._attempts:
                self._attempts[address] = _Attempt(self._min_s, now)

    def take_due(self, now: float) -> list[Address]:
        """Return the addresses to dial now; `ended` must follow for each."""
        free = DIALS_LIMIT - sum(attempt.in_flight for attempt in self._attempts.values())
        due = [a for a, attempt in self._attempts.items() if not attempt.in_flight and attempt.due_at <= now]
        due = due[: max(free, 0)]
        for address in due:
            self._attempts[address].in_flight = True
        return due

    def ended(self, address: Address, now: float) -> None:
        """Note that an attempt is over, whatever its outcome: an address that answered and is still wanted (it is not
        what the member there calls its own) pauses like one that did not answer."""
        if (attempt := self._attempts.pop(address, None)) is None:
            return
        attempt.in_flight = False
        attempt.due_at = now + attempt.pause_s * self._rng.uniform(0.5, 1.0)
        attempt.pause_s = min(attempt.pause_s * 2, self._max_s)
        self._attempts[address] = attempt  # to the end: those that wait longest go first

    def next_deadline(self) -> float:
        """When the next address is due, those in flight excepted."""
        if sum(attempt.in_flight for attempt in self._attempts.values()) >= DIALS_LIMIT:
            return NEVER
        waiting = (attempt.due_at for attempt in self._attempts.values() if not attempt.in_flight)
        return min(waiting, default=NEVER)
