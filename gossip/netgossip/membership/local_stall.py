"""Local stall: a node that was stopped or starved of CPU doubts itself rather than others.

The answers that it waits for lie unread in the socket, so every deadline is extended by the time during which it did
not listen, plus one probe timeout for answers to be read; and Lifeguard makes it slower to accuse.
"""

from __future__ import annotations

from collections import Counter

from netgossip.config import GossipConfig
from netgossip.membership.awareness import Awareness
from netgossip.membership.probe import Prober
from netgossip.membership.state_updates import StateUpdates


class LocalStall:
    """Call `note` with the lag that the driver measured, `make_up` with the lateness of a timer."""

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
        """Count a lag of the event loop."""
        if lag_s > self._timeout_s / 2 and now != self._noted_at:
            self._noted_at = now  # the driver and our own timer may both have noticed
            self._counts["lags"] += 1
            self._awareness.apply(+1)

    def make_up(self, late_s: float, now: float) -> None:
        """Extend all deadlines by the lateness of a timer that is never set into the past."""
        self.note(late_s, now)
        if late_s > self._timeout_s:
            self._prober.postpone(late_s + self._timeout_s)
            self._state_updates.postpone(late_s + self._timeout_s)
