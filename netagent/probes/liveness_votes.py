"""Is a host dead whose agent is away? Others are asked whether they hear its kernel.

The membership gives a suspect time to refute, some ten seconds among 300 hosts, because only its agent was asked and
an agent may be slow. A kernel is not: it answers an echo in microseconds, or it is not there, or the way to it is
broken. Other hosts tell the last two apart. So as soon as the kernel of a host whose agent is suspected, or dead,
misses a request of ours, a few other hosts are asked whether it answers *them*:

    nobody hears it, QUORUM of them say so, nor do we       it is dead: agreed
    somebody hears it                                       it lives, and the way from us is broken: asked again later
    nobody can be asked, or they do not know                nothing: the membership goes on to decide as ever

A kernel that was silent long before its agent was suspected says nothing new (a firewall may drop echoes): then the
membership decides alone. So what is agreed on needs three faults at once to be wrong, and can't come and go with an
agent that is merely slow: before the next time the kernel must have answered.

Questions are few whatever happens: WITNESSES each TOGETHER_S, each about all hosts that are in question.
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
"""Hosts that hear nothing, beside ourselves; one where there is only one other."""
ROUND_S: Final = 0.5
"""Until others are asked as well."""
TOGETHER_S: Final = 0.1
"""From one round to the next at least: of hosts that die together all are in one question."""
HEARD_PAUSE_S: Final = 2.0
"""After somebody heard a host, until anybody is asked about it again; each time twice as long."""
LONGEST_PAUSE_S: Final = 60.0
FRESH_S: Final = 10.0
"""The kernel's silence and the suspicion belong together when they began within this of each other. All others
together ask an agent once a second, so a suspicion follows within some five; a burdened cluster may take twice as
long."""
MAX_HOSTS: Final = 32
"""In one question. Of more, the first ones to fall silent come first."""
MAX_OPEN: Final = 12
"""Questions without an answer; as long as there are so many nothing further is asked."""


@dataclass(frozen=True, slots=True)
class WitnessQuestion:
    """Ask `witness` whether these hosts' kernels answer it."""

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
    """The machine. Feed it the situation, testimonies and deadlines; drain questions and read `agreed`."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._cases: dict[HostId, _Case] = {}
        self._others = 0
        """How many could be asked when somebody last was."""
        self._not_before = float("-inf")
        self._open: set[WitnessQuestion] = set()
        self._questions: list[WitnessQuestion] = []

    @property
    def agreed(self) -> frozenset[HostId]:
        """Hosts of which several agree that their kernel is silent."""
        return frozenset(host_id for host_id, case in self._cases.items() if case.agreed)

    def set_situation(self, suspects: Mapping[HostId, SilentHost], now: float) -> None:
        """All hosts whose agent is suspected, or declared dead, and whose kernel misses requests of ours."""
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
        """A witness's answer; without words when it gave none. What was not asked is ignored."""
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
        """Ask, if a round is due. Early or repeated calls do nothing. `witnesses` gives the hosts of which nothing is
        wrong; it is called only when some are needed."""
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
        """When handle_deadline may have something to do."""
        if len(self._open) > MAX_OPEN - WITNESSES:
            return float("inf")  # until a testimony comes
        due_at = min(
            (case.ask_at for case in self._cases.values() if self._is_open(case)), default=float("inf")
        )
        return max(due_at, self._not_before)

    def drain(self) -> list[WitnessQuestion]:
        """Questions to ask; each must be followed by a `handle_testimony`, with or without words."""
        questions, self._questions = self._questions, []
        return questions

    def _is_open(self, case: _Case) -> bool:
        """Whether testimonies are wanted."""
        return case.is_fresh and not case.agreed and not self._has_quorum(case)

    def _has_quorum(self, case: _Case) -> bool:
        return 0 < min(QUORUM, self._others) <= len(case.silent)

    def _judge(self, case: _Case) -> None:
        if self._has_quorum(case) and case.missing.misses >= MISSES_FOR_DOUBT:
            case.agreed = True

    def check_invariants(self) -> None:
        """Nothing is agreed on without a witness; questions in flight are few."""
        assert all(case.silent for case in self._cases.values() if case.agreed)
        assert len(self._open) <= MAX_OPEN
        assert len({question.witness for question in self._open}) == len(self._open)
