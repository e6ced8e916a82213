"""Lifeguard's second part: how long a suspected member has to refute before it is declared dead.

One accuser may be the faulty node itself, so alone it must wait `max_s`. Each further member that agrees cuts the
time, logarithmically, down to `min_s` with K confirmations:

    timeout(c) = max(min_s, max_s - (max_s - min_s) * ln(c + 1) / ln(K + 1))       c confirmations of K

    min_s = suspicion_mult * max(1, log10(max(1, N))) * probe_interval_s,  max_s = suspicion_max_timeout_mult * min_s

K = suspicion_mult - 2 (the accuser and one lost message are subtracted), or 0 when there are not so many others; with
K = 0 the time is min_s at once. Only the first K confirmations are passed on to others.

Source: arXiv:1707.00788; memberlist's suspicion.go and state.go.
"""

from __future__ import annotations

import math

from netgossip.config import GossipConfig

CONFIRMATIONS_KEPT = 32
"""Bound on the names remembered, whatever `suspicion_mult` says."""


def shortest_s(config: GossipConfig, members: int) -> float:
    """The time to refute when all members agree, in a cluster of `members`."""
    return config.suspicion_mult * max(1.0, math.log10(max(1, members))) * config.probe_interval_s


class Suspicion:
    """One member under suspicion."""

    def __init__(self, *, config: GossipConfig, members: int, accuser: str, now: float) -> None:
        self.began_at = now
        self.min_s = shortest_s(config, members)
        self.max_s = self.min_s * config.suspicion_max_timeout_mult
        wanted = min(max(config.suspicion_mult - 2, 0), CONFIRMATIONS_KEPT)
        self._wanted = wanted if members - 2 >= wanted else 0
        self._accusers = {accuser}

    @property
    def confirmations(self) -> int:
        """How many members agreed with the first accuser."""
        return len(self._accusers) - 1

    def confirm(self, accuser: str) -> bool:
        """Note that `accuser` agrees. True when this is new and should be passed on."""
        if accuser in self._accusers or self.confirmations >= self._wanted:
            return False
        self._accusers.add(accuser)
        return True

    @property
    def timeout_s(self) -> float:
        """Time to refute, from the beginning; shrinks with confirmations, within [min_s, max_s]."""
        if self._wanted == 0:
            return self.min_s
        part = math.log(self.confirmations + 1) / math.log(self._wanted + 1)
        return max(self.min_s, self.max_s - (self.max_s - self.min_s) * part)

    @property
    def deadline(self) -> float:
        """When the member must be declared dead."""
        return self.began_at + self.timeout_s

    def postpone(self, delay_s: float) -> None:
        """Give the member `delay_s` more, because we did not listen for that long."""
        self.began_at += delay_s
