"""How far the other hosts are: classes of round-trip time that do not jump with each sample.

The probes of liveness bring a sample for each answer. No packet is faster than its path, but a busy host, a full
queue or this process itself makes many slower; so the fastest of the last WINDOW samples counts. A host changes its
class only when that is clearly beyond a bound (MARGIN), and not twice within HOLD_S: a path that alternates between
two routes changes the order of answers twice a minute at most. Only among the first WINDOW samples of a host each
faster one counts at once: the very first one often waits for an address resolution, or for a host that is starting.

The result of this host's previous agent is valid until the samples show otherwise.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from netagent.model.ids import HostId
from netagent.model.locality import class_of

WINDOW: Final = 8
"""Samples: 8 s in a cluster of 60 hosts, a quarter of an hour among 6,000."""
MARGIN: Final = 1.25
"""How far beyond a bound: by a quarter of it."""
HOLD_S: Final = 30.0


@dataclass(slots=True)
class _Measured:
    distance: int | None
    is_settled: bool
    """It has had all its first samples, or was known before."""
    samples: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    changed_at: float | None = None
    """None: it has not changed since the first samples."""


class Distances:
    """The state machine. Feed it samples; drain changes."""

    def __init__(self, adopted: Mapping[HostId, int] | None = None) -> None:
        self._hosts = {
            host_id: _Measured(distance, is_settled=True) for host_id, distance in (adopted or {}).items()
        }
        self._changes: dict[HostId, int | None] = {}

    def handle_rtt(self, host_id: HostId, rtt_s: float, now: float) -> None:
        """Note the round-trip time of an answer."""
        host = self._hosts.setdefault(host_id, _Measured(None, is_settled=False))
        host.samples.append(rtt_s)
        distance = self._judged(host, now)
        if distance != host.distance:
            host.changed_at = now if host.is_settled else None
            host.distance = self._changes[host_id] = distance
        host.is_settled |= len(host.samples) == WINDOW

    def _judged(self, host: _Measured, now: float) -> int:
        fastest_s, distance = min(host.samples), host.distance
        if distance is None or not host.is_settled:
            return class_of(fastest_s)
        if host.changed_at is not None and now < host.changed_at + HOLD_S:
            return distance
        is_nearer = class_of(fastest_s * MARGIN) < distance
        is_farther = len(host.samples) == WINDOW and class_of(fastest_s / MARGIN) > distance
        return class_of(fastest_s) if is_nearer or is_farther else distance

    def keep_only(self, hosts: Collection[HostId]) -> None:
        """Forget all other hosts, which are no longer tested."""
        for gone in self._hosts.keys() - set(hosts):
            del self._hosts[gone]
            self._changes[gone] = None

    def take_changes(self) -> dict[HostId, int | None]:
        """Return hosts whose class has changed since the last call; None: no longer known."""
        changes, self._changes = self._changes, {}
        return changes

    @property
    def classes(self) -> dict[HostId, int]:
        """Return the class of each host."""
        return {key: host.distance for key, host in self._hosts.items() if host.distance is not None}

    def rtt_s(self, host_id: HostId) -> float | None:
        """Return the fastest of the last round-trip times."""
        host = self._hosts.get(host_id)
        return min(host.samples, default=None) if host is not None else None
