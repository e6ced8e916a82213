"""Which hosts this one reaches. Names lead to replicas behind a dead path only if there is no other replica.

An agent that answers says nothing about the overlay: a device between two hosts may drop VXLAN and pass the rest. The
probes of liveness know. A host is *unreached* when MISSES_FOR_SILENCE of them in a row stayed without answer, and
reached again when it has been answering for STEADY_S. So neither one lost packet nor one that came through by chance
changes an answer, and a path that comes and goes stays unreached.

The result of this host's previous agent is valid until the probes show otherwise, because a new agent has not tested
any host yet.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from netagent.model.ids import HostId

STEADY_S = 5.0
"""Longer than liveness takes to call a host silent again (MISSES_FOR_SILENCE requests, KEEN_INTERVAL_S apart)."""


class ReachableHosts:
    """The state machine. Feed it liveness's results, and deadlines; read `unreached`."""

    def __init__(self, unreached: Collection[HostId] = ()) -> None:
        self._unreached = set(unreached)
        self._returning: dict[HostId, float] = {}
        """Unreached hosts that answer, and until when they must keep answering."""

    @property
    def unreached(self) -> frozenset[HostId]:
        """The hosts that are unreached now."""
        return frozenset(self._unreached)

    def keep_only(self, hosts: Collection[HostId]) -> None:
        """Forget all other hosts, which are no longer tested."""
        self._unreached.intersection_update(hosts)
        for gone in self._returning.keys() - set(hosts):
            del self._returning[gone]

    def handle_answer(self, host_id: HostId, now: float, *, answers: bool) -> None:
        """Note that its kernel answers this host's probes, or has fallen silent."""
        if not answers:
            self._unreached.add(host_id)
            self._returning.pop(host_id, None)
        elif host_id in self._unreached:
            self._returning.setdefault(host_id, now + STEADY_S)

    def handle_deadline(self, now: float) -> None:
        """Mark hosts as reached that have been answering for long enough."""
        for host_id in [known for known, until in self._returning.items() if until <= now]:
            del self._returning[host_id]
            self._unreached.discard(host_id)

    def next_deadline(self) -> float:
        """Return when handle_deadline has something to do; infinity if never."""
        return min(self._returning.values(), default=math.inf)

    def check_invariants(self) -> None:
        """Raise if a host returns that is not unreached."""
        assert self._returning.keys() <= self._unreached
