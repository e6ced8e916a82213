"""Lifeguard's first part: a node that has reason to doubt itself waits longer before it accuses others.

The score is 0 when all is well. It rises when our probe fails although the helpers did not confirm that the target is
at fault, when we must refute that we are dead, and when our own event loop lags; it falls with each probe that
succeeds. The deadline for an ack is probe_interval * (score + 1).

Source: A. Dadgar, J. Phillips, J. Currey, "Lifeguard", arXiv:1707.00788; memberlist's awareness.go.
"""

from __future__ import annotations


class Awareness:
    """The local health score, 0 (healthy) to `max_multiplier` - 1."""

    def __init__(self, max_multiplier: int) -> None:
        self._max_score = max_multiplier - 1
        self.score = 0

    def apply(self, delta: int) -> None:
        """Raise or lower the score within its bounds."""
        self.score = min(max(self.score + delta, 0), self._max_score)

    def stretched_s(self, interval_s: float) -> float:
        """Stretch `interval_s`, the maximum on a healthy node, by our score."""
        return interval_s * (self.score + 1)
