"""A node that was stopped or starved of CPU doubts itself rather than others.

The answers that it waits for lie unread in the socket, so everybody gets the time back during which it did not
listen, and a while to be heard; and Lifeguard makes it slower to accuse.
"""

from __future__ import annotations

from collections import Counter

from netgossip.config import GossipConfig
from netgossip.membership.awareness import Awareness
from netgossip.membership.probe import Prober
from netgossip.membership.state_updates import StateUpdates


class LocalStall:
    """`note` what the driver has measured; `make_up` for a timer that came late."""

    def __init__(
        self,
        *,
        config: GossipConfig,
        state_updates: StateUpdates,
        prober: Prober,
        awareness: Awareness,
        counts: Counter[str],
    ) -> None:
        self._timeout_s = config.probe_timeout_s
        self._state_updates = state_updates
        self._prober = prober
        self._awareness = awareness
        self._counts = counts
        self._noted_at = float("-inf")

    def note(self, lag_s: float, now: float) -> None:
        """The event loop was late by so much."""
        if lag_s > self._timeout_s / 2 and now != self._noted_at:
            self._noted_at = now  # the driver and our own timer may both have noticed
            self._counts["lags"] += 1
            self._awareness.apply(+1)

    def make_up(self, late_s: float, now: float) -> None:
        """A timer that is never set into the past comes late by so much: all that runs out has as much time more."""
        self.note(late_s, now)
        if late_s > self._timeout_s:
            self._prober.postpone(late_s + self._timeout_s)
            self._state_updates.postpone(late_s + self._timeout_s)
