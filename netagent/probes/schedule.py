"""When each target is tested next, and which echo requests are on their way. Pure; the one schedule of all tests:
liveness, paths, checksums, and `netagent ping`.

A request gets a sequence number that no other request on its way has, so an answer belongs to one request. Each
machine decides by itself how often it tests and what an answer proves.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

from netgossip.deadlines import DeadlineHeap

Target = TypeVar("Target", bound=Hashable)

_SEQUENCES = 1 << 16


class EchoSchedule(Generic[Target]):
    """One deadline for each target, and any number of requests on their way."""

    def __init__(self) -> None:
        self._due: DeadlineHeap[Target] = DeadlineHeap()
        self._sent: dict[int, tuple[Target, float]] = {}
        """By sequence number: the target, and when it was sent."""
        self._sequence = -1
        self.plan = self._due.set
        self.planned_at = self._due.at
        self.take_due = self._due.pop_due
        self.next_deadline = self._due.next

    def send(self, target: Target, now: float) -> int:
        """Note a request that leaves now; return its sequence number."""
        assert len(self._sent) < _SEQUENCES
        self._sequence = (self._sequence + 1) % _SEQUENCES
        while self._sequence in self._sent:
            self._sequence = (self._sequence + 1) % _SEQUENCES
        self._sent[self._sequence] = target, now
        return self._sequence

    def sent(self, sequence: int) -> tuple[Target, float] | None:
        """Return the target of a request on its way, and when it was sent; None if there is none."""
        return self._sent.get(sequence)

    def end(self, sequences: Iterable[int]) -> None:
        """Wait no longer for these: answered, or too late."""
        for sequence in sequences:
            self._sent.pop(sequence, None)

    def drop(self, target: Target, sequences: Iterable[int] = ()) -> None:
        """Test this target no longer; `sequences` are its requests on their way."""
        self._due.discard(target)
        self.end(sequences)

    def waiting(self) -> dict[int, Target]:
        """Return the requests on their way."""
        return {sequence: target for sequence, (target, _) in self._sent.items()}

    def check_invariants(self) -> None:
        """Raise if a deadline is lost."""
        self._due.check_invariants()
