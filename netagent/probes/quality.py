"""Judge one path from rounds of echoes of several sizes. Pure; netagent.probes.path schedules all paths.

A path can carry pings and hang every transfer: a device on it may silently drop large packets. So the test is a
packet of full size, the largest MTU of the networks that both hosts are in. The probe device forbids fragmenting: a
packet that passes, passes in one piece.

A round is some packets at once, and a while for their answers.

    CALM     a packet of full size now and then; on a path known as smaller also one of its size, and one a byte more
    CHECK    an answer was missing: small and large ones side by side, until it is certain what passes
    SEARCH   small ones pass, full ones do not: sections between the two until the limit is known to the byte
    DOWN     nothing passes: a small one each second

Loss must not look like a limit: full size is only given up after DRY_ROUNDS rounds without one large answer but with
small ones, and a search tries each size twice and full size again in every round. At 20 % loss each way that happens
by chance once in a million checks; and a limit that was found too low by chance shows in the next calm round, because
one byte more passes. The result for a path changes only at the end of a check or search.

An interruption is not loss either: rounds in a row without any answer say nothing about the packets that a path loses
while it carries others, and would make it lossy for as long as the window remembers them.
"""

from __future__ import annotations

import enum
import math
from collections import Counter, deque
from dataclasses import dataclass, field

from netagent.probes.packet import SMALLEST_BYTES

KEEN_INTERVAL_S = 2.0
DOWN_INTERVAL_S = 1.0
CONFIRM_S = 0.2
"""From a first sign that a path is good again to the second."""
ROUND_S = 0.5
"""How long an answer may take; as long as netagent.probes.liveness waits."""
MIN_SEARCH_ROUND_S = 0.1
"""A search waits four round trips, but within this and ROUND_S: transfers hang meanwhile."""

DRY_ROUNDS = 4
CLEAR_ROUNDS = 4
"""So many rounds in a row with a large answer end a check."""
MAX_CHECK_ROUNDS = 12
SECTIONS = 5
"""Sections of the open range in each round of a search: 1,400 bytes take five rounds."""
BLANK_ROUNDS = 3
"""Rounds of a search without any answer, until the check begins again."""

LOSS_WINDOW = 40
MIN_LOSS_SAMPLES = 16
LOSSY_FROM, LOSSY_TO = 0.1, 0.03
"""Share of lost exchanges from which a path counts as lossy, and down to which it stays lossy."""
INTERRUPTION_ROUNDS = 2
"""Rounds in a row without any answer, from which on they do not count as lost packets."""
HEARD_S = 3.0
"""A host that misses our answers asks twice a second; three seconds of silence are not chance."""


class Quality(enum.Enum):
    """What a path can carry. The value is the word that users see."""

    UNKNOWN = "unknown"
    OK = "ok"
    LOSSY = "lossy"
    """Full size passes, but many packets are lost."""
    DEGRADED = "degraded"
    """Full size does not pass; smaller packets do."""
    ONE_WAY = "one-way"
    """Its packets reach us, but ours get no answer."""
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class PathTarget:
    """The address to test, and how large a packet should pass."""

    address: str
    wanted_bytes: int


@dataclass(frozen=True, slots=True)
class PathStatus:
    """What is known of the path to a host."""

    quality: Quality
    wanted_bytes: int
    size_bytes: int | None
    """The largest packet that passes in one piece; None while unknown."""
    loss: float | None
    """Share of the last exchanges (both ways) that was lost, 0 to 1; None: too few yet."""
    rtt_s: float | None
    limit_bytes: int | None = None
    """The same where it is less than wanted; kept while the path is down."""


class Phase(enum.Enum):
    """The purpose of the next round."""

    CALM = enum.auto()
    CHECK = enum.auto()
    SEARCH = enum.auto()
    DOWN = enum.auto()


@dataclass(slots=True)
class Round:
    """Packets of one moment, and which of them were answered."""

    sent_at: float
    sizes: dict[int, int] = field(default_factory=dict)
    """sequence -> size"""
    answered: set[int] = field(default_factory=set)

    def answers(self, size_bytes: int) -> int:
        """Return how many packets of this size came back."""
        return sum(1 for sequence in self.answered if self.sizes[sequence] == size_bytes)

    @property
    def is_complete(self) -> bool:
        """Return whether all packets were answered."""
        return len(self.answered) == len(self.sizes)


@dataclass(slots=True)
class Path:
    """One path. Ask for `sizes`, send them, pass the round to `judge`, and wait as long as it says."""

    target: PathTarget
    phase: Phase = Phase.CALM
    is_known: bool = False
    is_down: bool = False
    limit_bytes: int | None = None
    """The largest size that passes, if it is not the wanted one."""
    rtt_s: float | None = None
    heard_at: float = -math.inf
    _rounds: int = 0
    """Rounds of this check."""
    _clear_rounds: int = 0
    """Rounds with a large answer, in a row; in CALM: with one of full size on a path known as smaller."""
    _dry_rounds: int = 0
    """Rounds without a large answer, in a row; in SEARCH: without any answer."""
    _dry_answers: int = 0
    """Small answers in these rounds."""
    low_bytes: int = 0
    high_bytes: int = 0
    """Bounds of a search: the largest size that passed, the smallest that did not."""
    _is_lossy: bool = False
    _outcomes: deque[bool] = field(default_factory=lambda: deque(maxlen=LOSS_WINDOW))
    _blank_rounds: int = 0
    """Rounds without any answer up to now, in a row."""
    _blank_packets: int = 0
    """Packets of these rounds, as long as they may count as lost."""

    def retarget(self, target: PathTarget) -> None:
        """Set another wanted size."""
        self.target = target
        if self.limit_bytes is not None and self.limit_bytes >= target.wanted_bytes:
            self.limit_bytes = None
        self._begin(Phase.DOWN if self.is_down else Phase.CALM)

    def check(self) -> None:
        """Start a check, because another part saw a problem."""
        self._begin(Phase.CHECK)

    def sizes(self) -> list[int]:
        """Return the packets of the next round."""
        wanted, large = self.target.wanted_bytes, self._large_bytes
        match self.phase:
            case Phase.CALM if self.limit_bytes is not None:
                return [large, large + 1, wanted] if large + 1 < wanted else [large, wanted]
            case Phase.CALM:
                return [SMALLEST_BYTES, SMALLEST_BYTES, wanted] if self._is_lossy else [wanted]
            case Phase.CHECK:
                return [SMALLEST_BYTES, SMALLEST_BYTES, large]
            case Phase.SEARCH:
                return [self.low_bytes, *self._points(), *self._points(), wanted, wanted]
            case Phase.DOWN:
                return [SMALLEST_BYTES]

    def round_s(self) -> float:
        """Return how long to wait for its answers."""
        if self.phase is Phase.SEARCH and self.rtt_s is not None:
            return min(ROUND_S, max(MIN_SEARCH_ROUND_S, 4 * self.rtt_s))
        return ROUND_S

    def judge(self, done: Round) -> float | None:
        """Judge a round; return the pause from its beginning to the next one; None: the calm interval."""
        match self.phase:
            case Phase.CALM:
                return self._judge_calm(done)
            case Phase.CHECK:
                return self._judge_check(done)
            case Phase.SEARCH:
                return self._judge_search(done)
            case Phase.DOWN:
                return self._judge_down(done)

    def status(self, now: float) -> PathStatus:
        """Return what is known now."""
        size_bytes = self._large_bytes if self.is_known and not self.is_down else None
        if self.is_down:
            quality = Quality.ONE_WAY if now - self.heard_at <= HEARD_S else Quality.DOWN
        elif not self.is_known:
            quality = Quality.UNKNOWN
        elif self.limit_bytes is not None:
            quality = Quality.DEGRADED
        else:
            quality = Quality.LOSSY if self._is_lossy else Quality.OK
        wanted = self.target.wanted_bytes
        return PathStatus(quality, wanted, size_bytes, self._loss, self.rtt_s, self.limit_bytes)

    @property
    def _large_bytes(self) -> int:
        """Return the size that should pass, as far as is known."""
        return self.target.wanted_bytes if self.limit_bytes is None else self.limit_bytes

    @property
    def _loss(self) -> float | None:
        if len(self._outcomes) < MIN_LOSS_SAMPLES:
            return None
        return round(self._outcomes.count(False) / len(self._outcomes), 3)

    def _begin(self, phase: Phase) -> None:
        self.phase = phase
        self._rounds = self._clear_rounds = self._dry_rounds = self._dry_answers = 0
        if phase in {Phase.SEARCH, Phase.DOWN}:
            self._outcomes.clear()  # these losses were not random
            self._blank_rounds = self._blank_packets = 0
            self._is_lossy = False

    def _note_outcomes(self, done: Round) -> None:
        outcomes = [
            sequence in done.answered
            for sequence, size_bytes in done.sizes.items()
            if size_bytes in {SMALLEST_BYTES, self._large_bytes}
        ]
        if not done.answered:
            self._blank_rounds += 1
            self._blank_packets += len(outcomes)
            return
        if self._blank_rounds < INTERRUPTION_ROUNDS:
            outcomes = [False] * self._blank_packets + outcomes
        self._blank_rounds = self._blank_packets = 0
        self._outcomes.extend(outcomes)
        loss = self._loss
        if loss is not None:
            self._is_lossy = loss >= LOSSY_FROM or (self._is_lossy and loss > LOSSY_TO)

    def _judge_calm(self, done: Round) -> float | None:
        self._note_outcomes(done)
        large = self._large_bytes
        if not done.answers(large):
            self._begin(Phase.CHECK)
            return 0.0
        self.is_known, self.is_down = True, False
        if self.limit_bytes is None:
            return KEEN_INTERVAL_S if self._is_lossy else None
        self._clear_rounds = self._clear_rounds + 1 if done.answers(self.target.wanted_bytes) else 0
        if self._clear_rounds == 1:
            return CONFIRM_S
        if self._clear_rounds > 1:
            self.limit_bytes, self._clear_rounds = None, 0
        elif done.answers(large + 1):
            self._begin_search(large + 1)
            return 0.0
        return KEEN_INTERVAL_S

    def _judge_check(self, done: Round) -> float:
        self._note_outcomes(done)
        self._rounds += 1
        if done.answers(self._large_bytes):
            self._clear_rounds, self._dry_rounds, self._dry_answers = self._clear_rounds + 1, 0, 0
            # After bad news the first large answer is the good news.
            if self._clear_rounds >= CLEAR_ROUNDS or self.is_down or not self.is_known:
                return self._settle()
        else:
            self._clear_rounds, self._dry_rounds = 0, self._dry_rounds + 1
            self._dry_answers += done.answers(SMALLEST_BYTES)
        is_late = self._rounds >= MAX_CHECK_ROUNDS
        if is_late and self._dry_rounds == 0:
            return self._settle()
        if self._dry_rounds >= DRY_ROUNDS and self._dry_answers == 0:
            self.is_known, self.is_down = True, True
            self._begin(Phase.DOWN)
            return DOWN_INTERVAL_S
        if self._dry_rounds >= DRY_ROUNDS and (self._dry_answers > 1 or is_late):
            self._begin_search(SMALLEST_BYTES)
            return 0.0
        return ROUND_S

    def _begin_search(self, low_bytes: int) -> None:
        self._begin(Phase.SEARCH)
        self.low_bytes, self.high_bytes = low_bytes, self.target.wanted_bytes

    def _points(self) -> list[int]:
        """Return sizes between the bounds of a search, evenly spaced."""
        gap = self.high_bytes - self.low_bytes
        points = {self.low_bytes + max(1, gap * number // SECTIONS) for number in range(1, SECTIONS)}
        return sorted(point for point in points if self.low_bytes < point < self.high_bytes)

    def _judge_search(self, done: Round) -> float:
        answered = Counter(done.sizes[sequence] for sequence in done.answered)
        if not answered:
            self._dry_rounds += 1
            if self._dry_rounds >= BLANK_ROUNDS:
                self._begin(Phase.CHECK)
            return 0.0
        self._dry_rounds = 0
        if answered[self.target.wanted_bytes]:
            self.limit_bytes = None
            return self._settle()
        self.low_bytes = max(self.low_bytes, *answered)
        missed = [size for size in done.sizes.values() if size > self.low_bytes]
        self.high_bytes = min(self.high_bytes, *missed)
        if self.high_bytes - self.low_bytes > 1:
            return 0.0
        self.limit_bytes = self.low_bytes
        return self._settle()

    def _judge_down(self, done: Round) -> float:
        if not done.answered:
            return DOWN_INTERVAL_S
        self._begin(Phase.CHECK)
        return 0.0

    def _settle(self) -> float:
        """End a check or search."""
        self.is_known, self.is_down = True, False
        self._begin(Phase.CALM)
        return KEEN_INTERVAL_S

    def check_invariants(self) -> None:
        """Raise unless a limit, and a search's bounds, are below the wanted size."""
        wanted = self.target.wanted_bytes
        assert self.limit_bytes is None or SMALLEST_BYTES <= self.limit_bytes < wanted
        if self.phase is Phase.SEARCH:
            assert SMALLEST_BYTES <= self.low_bytes < self.high_bytes <= wanted
