"""How long a change of ours takes until every live peer in its scope has acknowledged it. Pure.

One change per scope is measured at a time, the next one after it: a sample, whose cost does not grow with the
changes. A peer that goes away meanwhile is not waited for; a change without a peer to acknowledge it does not count.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from netgossip.histogram import Histogram
from netgossip.types import NodeId, Scope, Version

BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
GIVEN_UP_S: Final = 60.0
"""After this long a measurement is counted as it is, and makes room for the next."""
SCOPES_LIMIT: Final = 256
"""Bound of scopes in which a change is measured at the same time; beyond it: changes of further ones are not."""


class _Measurement:
    __slots__ = ("began_at", "version", "waiting")

    def __init__(self, version: Version, waiting: set[NodeId], began_at: float) -> None:
        self.version = version
        self.waiting = waiting
        self.began_at = began_at


class Propagation:
    """Measures changes of our own logs."""

    def __init__(self) -> None:
        self.lags = Histogram(BOUNDS_S)
        self._running: dict[Scope, _Measurement] = {}

    def begin(self, scope: Scope, version: Version, peers: Iterable[NodeId], now: float) -> None:
        """Note that our log of the scope is at `version` now, which these peers are to learn."""
        running = self._running.get(scope)
        if running is not None and now - running.began_at < GIVEN_UP_S:
            return
        if running is not None:
            self.lags.observe(now - running.began_at)
            del self._running[scope]
        if (waiting := set(peers)) and len(self._running) < SCOPES_LIMIT:
            self._running[scope] = _Measurement(version, waiting, now)

    def handle_held(self, scope: Scope, peer: NodeId, held: Version, now: float) -> None:
        """Note that a peer holds our log of the scope at this version."""
        running = self._running.get(scope)
        if running is not None and held >= running.version and peer in running.waiting:
            running.waiting.discard(peer)
            if not running.waiting:
                self.lags.observe(now - running.began_at)
                del self._running[scope]

    def forget(self, scope: Scope, peer: NodeId) -> None:
        """Note that a peer is not waited for any more."""
        running = self._running.get(scope)
        if running is not None and peer in running.waiting:
            running.waiting.discard(peer)
            if not running.waiting:
                del self._running[scope]

    def forget_scope(self, scope: Scope) -> None:
        """Drop a scope in which we write no more."""
        self._running.pop(scope, None)

    def __len__(self) -> int:
        return len(self._running)
