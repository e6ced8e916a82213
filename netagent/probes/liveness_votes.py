"""Decide together with other hosts whether a host is dead whose agent is away: ask whether they hear its kernel.

The membership gives a suspect time to refute, some ten seconds among 300 hosts, because only its agent was asked and
an agent may be slow. A kernel is not: it answers an echo in microseconds, or it is down, or the path to it is broken.
Other hosts tell the last two apart. So as soon as the kernel of a host whose agent is suspected, or dead, misses a
request of ours, a few other hosts are asked whether it answers *them*:

    QUORUM of them do not hear it, none does, nor do we     it is dead: agreed
    one of them hears it                                    it lives, and our path to it is broken: asked again later
    no host can be asked, or none of them knows             nothing: the membership decides as usual

A kernel that was silent long before its agent was suspected says nothing new (a firewall may drop echoes): then the
membership decides alone. So an agreement is wrong only if three faults come together, and it can't come and go with
an agent that is merely slow: before the next one the kernel must have answered.

The number of questions is limited in any case: WITNESSES per TOGETHER_S, each about all hosts in question.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from netagent.model.ids import HostId
from netagent.probes.liveness import MISSES_FOR_DOUBT, LivenessReport, SilentHost

WITNESSES: Final = 3
"""Asked in one round. Two must agree: with three, one of them may be dead itself, or the question lost."""
QUORUM: Final = 2
"""Hosts that hear nothing, in addition to this one; one where there is only one other."""
ROUND_S: Final = 0.5
"""Until other hosts are asked as well."""
TOGETHER_S: Final = 0.1
"""Least time between rounds: hosts that die together are in one question."""
HEARD_PAUSE_S: Final = 2.0
"""After a host heard the suspect, until the next question about it; doubles each time."""
LONGEST_PAUSE_S: Final = 60.0
FRESH_S: Final = 10.0
"""The kernel's silence and the suspicion belong together if they began within this time of each other. All other
hosts together probe an agent once a second, so a suspicion follows within some five seconds; a loaded cluster may
take twice as long."""
MAX_HOSTS: Final = 32
"""Bound of hosts in one request to a witness; beyond it: the others go into the next one. The first ones to fall
silent come first."""
MAX_OPEN: Final = 12
"""Bound of requests to witnesses without a response; beyond it: no further request is sent until one ends."""


@dataclass(frozen=True, slots=True)
class WitnessQuestion:
    """A question to `witness`: do these hosts' kernels answer it?"""

    witness: HostId
    hosts: tuple[HostId, ...]


@dataclass(slots=True)
class _Case:
    missing: SilentHost
    is_fresh: bool
    ask_at: float
    silent: set[HostId] = field(default_factory=set)
    """Witnesses that hear nothing."""
    agreed: bool = False
    heard_pause_s: float = HEARD_PAUSE_S


class LivenessVotes:
    """The state machine. Feed it the situation, testimonies and deadlines; drain questions and read `agreed`."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._cases: dict[HostId, _Case] = {}
        self._others = 0
        """How many hosts could be asked at the last question."""
        self._not_before = float("-inf")
        self._open: set[WitnessQuestion] = set()
        self._questions: list[WitnessQuestion] = []

    @property
    def agreed(self) -> frozenset[HostId]:
        """Hosts whose kernel is silent, as several hosts agree."""
        return frozenset(host_id for host_id, case in self._cases.items() if case.agreed)

    def set_situation(self, suspects: Mapping[HostId, SilentHost], now: float) -> None:
        """Set all hosts whose agent is suspected or declared dead, and whose kernel misses requests of ours."""
        for host_id in list(self._cases):
            if host_id not in suspects:
                del self._cases[host_id]
        for host_id, missing in suspects.items():
            case = self._cases.get(host_id)
            if case is None:
                is_fresh = now - missing.since <= FRESH_S
                self._cases[host_id] = case = _Case(missing, is_fresh, ask_at=now)
            case.missing = missing
            self._judge(case)

    def handle_testimony(
        self, question: WitnessQuestion, words: Mapping[HostId, LivenessReport], now: float
    ) -> None:
        """Take a witness's answer; empty when it gave none. Answers without a question are ignored."""
        if question not in self._open:
            return
        self._open.remove(question)
        for host_id in question.hosts:
            case = self._cases.get(host_id)
            word = words.get(host_id, LivenessReport.UNKNOWN)
            if case is None or case.agreed:
                continue
            if word is LivenessReport.SILENT:
                case.silent.add(question.witness)
            elif word is LivenessReport.HEARD:
                case.silent.clear()
                case.ask_at = now + case.heard_pause_s
                case.heard_pause_s = min(2 * case.heard_pause_s, LONGEST_PAUSE_S)
            self._judge(case)

    def handle_deadline(self, now: float, witnesses: Callable[[], Iterable[HostId]]) -> None:
        """Ask, if a round is due. Early or repeated calls do nothing. `witnesses` returns healthy hosts; it is called
        only when some are needed."""
        due = [host_id for host_id, case in self._cases.items() if self._is_open(case) and case.ask_at <= now]
        if not due or now < self._not_before or len(self._open) > MAX_OPEN - WITNESSES:
            return
        self._not_before = now + TOGETHER_S
        due.sort(key=lambda host_id: (self._cases[host_id].missing.since, host_id))
        hosts = tuple(due[:MAX_HOSTS])
        for host_id in hosts:
            self._cases[host_id].ask_at = now + ROUND_S
        busy = {question.witness for question in self._open}
        others = set(witnesses())
        self._others = len(others)
        free = sorted(others - busy)
        for witness in self._rng.sample(free, min(WITNESSES, len(free))):
            question = WitnessQuestion(witness, hosts)
            self._open.add(question)
            self._questions.append(question)

    def next_deadline(self) -> float:
        """Return when handle_deadline may have something to do."""
        if len(self._open) > MAX_OPEN - WITNESSES:
            return float("inf")  # until a testimony comes
        due_at = min(
            (case.ask_at for case in self._cases.values() if self._is_open(case)), default=float("inf")
        )
        return max(due_at, self._not_before)

    def drain(self) -> list[WitnessQuestion]:
        """Return questions to ask; `handle_testimony` must follow for each, with an answer or an empty one."""
        questions, self._questions = self._questions, []
        return questions

    def _is_open(self, case: _Case) -> bool:
        """Return whether testimonies are wanted."""
        return case.is_fresh and not case.agreed and not self._has_quorum(case)

    def _has_quorum(self, case: _Case) -> bool:
        return 0 < min(QUORUM, self._others) <= len(case.silent)

    def _judge(self, case: _Case) -> None:
        if self._has_quorum(case) and case.missing.misses >= MISSES_FOR_DOUBT:
            case.agreed = True

    def check_invariants(self) -> None:
        """Raise if there is an agreement without a witness, or too many questions in flight."""
        assert all(case.silent for case in self._cases.values() if case.agreed)
        assert len(self._open) <= MAX_OPEN
        assert len({question.witness for question in self._open}) == len(self._open)
