"""Which hosts does this one reach? For names: where they have another replica, they lead to none behind a dead path.

An agent that answers says nothing of the overlay: something between two hosts may drop VXLAN and pass the rest. The
probes of liveness know. A host is *unreached* when MISSES_FOR_SILENCE of them in a row stayed without answer, and
reached again when it has been answering for STEADY_S: so neither one lost packet nor one that came through by chance
turns an answer over, and a path that comes and goes stays where it is.

What an earlier agent of this host had found out is believed until the probes tell otherwise: who starts has asked
nobody yet.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from netagent.model.ids import HostId

STEADY_S = 5.0
"""Longer than liveness takes to call a host silent anew (MISSES_FOR_SILENCE requests, KEEN_INTERVAL_S apart)."""


class ReachableHosts:
    """The machine. Feed it what liveness says, and deadlines; `unreached` is a level."""

    def __init__(self, unreached: Collection[HostId] = ()) -> None:
        self._unreached = set(unreached)
        self._returning: dict[HostId, float] = {}
        """Unreached hosts that answer, and until when they have to go on."""

    @property
    def unreached(self) -> frozenset[HostId]:
        """Now."""
        return frozenset(self._unreached)

    def keep_only(self, hosts: Collection[HostId]) -> None:
        """Forget all others: they are asked no longer."""
        self._unreached.intersection_update(hosts)
        for gone in self._returning.keys() - set(hosts):
            del self._returning[gone]

    def handle_answer(self, host_id: HostId, now: float, *, answers: bool) -> None:
        """Its kernel answers this host's probes, or has fallen silent."""
        if not answers:
            self._unreached.add(host_id)
            self._returning.pop(host_id, None)
        elif host_id in self._unreached:
            self._returning.setdefault(host_id, now + STEADY_S)

    def handle_deadline(self, now: float) -> None:
        """Who has been answering for long enough is reached again."""
        for host_id in [known for known, until in self._returning.items() if until <= now]:
            del self._returning[host_id]
            self._unreached.discard(host_id)

    def next_deadline(self) -> float:
        """When handle_deadline has something to do; infinity if never."""
        return min(self._returning.values(), default=math.inf)

    def check_invariants(self) -> None:
        """Only who is unreached can return."""
        assert self._returning.keys() <= self._unreached
