"""How long clients wait for answers, as a histogram: from when a query was read to when its answer is sent. Pure."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import Final

BOUNDS_US: Final = (
    10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000,
)  # fmt: skip
"""In millionths of a second: an answer that is ready takes a few, one from upstream up to four seconds."""


class Latency:
    """Counts of answers by how long they took."""

    __slots__ = ("_counts", "_total_s")

    def __init__(self) -> None:
        self._total_s = 0.0
        self._counts = [0] * (len(BOUNDS_US) + 1)

    def observe(self, seconds: float, answers: int = 1) -> None:
        """Count answers that took so long each."""
        self._total_s += seconds * answers
        self._counts[bisect_left(BOUNDS_US, seconds * 1e6)] += answers

    def statistics(self, name: str) -> dict[str, int]:
        """Return the counts up to each bound by name, those of all answers, and the sum in millionths of a second."""
        counts = list(accumulate(self._counts))
        upto = {f"{name}_le_{bound}_us": count for bound, count in zip(BOUNDS_US, counts, strict=False)}
        return {**upto, f"{name}_count": counts[-1], f"{name}_sum_us": round(self._total_s * 1e6)}
