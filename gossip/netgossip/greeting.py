"""Who is greeted, and when again: a peer proves that a start of its is live by repeating a number in its answer.

The pause doubles while there is no answer, but who is heard is greeted within a second: what kept its answer away may
be over.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from netgossip.record_wire import NONCE_BYTES
from netgossip.types import NodeId

HELLO_MIN_S: Final = 0.1
HELLO_MAX_S: Final = 5.0
HELLO_HEARD_S: Final = 1.0


@dataclass(slots=True)
class _Greeting:
    due_at: float
    pause_s: float = HELLO_MIN_S


class Greetings:
    """Peers that have not answered. A number is good until the next one, also for an answer that comes late."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._waiting: dict[NodeId, _Greeting] = {}
        self._nonces: dict[NodeId, bytes] = {}

    def begin(self, node_id: NodeId, now: float) -> None:
        """Greet at once, and then until there is an answer."""
        self._waiting[node_id] = _Greeting(now)

    def note_heard(self, node_id: NodeId, now: float) -> None:
        """Something came of it that is no proof."""
        greeting = self._waiting.get(node_id)
        if greeting is None:
            self.begin(node_id, now)
        else:
            greeting.due_at = min(greeting.due_at, now + HELLO_HEARD_S)

    def is_answer(self, node_id: NodeId, nonce: bytes) -> bool:
        """Whether this is the number of the last greeting; then there is no further one."""
        if self._nonces.get(node_id) != nonce:
            return False
        self.forget(node_id)
        return True

    def hush(self, node_id: NodeId) -> None:
        """It is not expected to answer."""
        self._waiting.pop(node_id, None)

    def forget(self, node_id: NodeId) -> None:
        """Nor would an answer count."""
        self._waiting.pop(node_id, None)
        self._nonces.pop(node_id, None)

    def take_due(self, now: float) -> list[tuple[NodeId, bytes]]:
        """Whom to greet now, each with a new number."""
        due = [(node_id, greeting) for node_id, greeting in self._waiting.items() if greeting.due_at <= now]
        for node_id, greeting in due:
            self._nonces[node_id] = self._rng.randbytes(NONCE_BYTES)
            greeting.due_at = now + greeting.pause_s
            greeting.pause_s = min(2 * greeting.pause_s, HELLO_MAX_S)
        return [(node_id, self._nonces[node_id]) for node_id, _ in due]

    def next_deadline(self) -> float:
        """When `take_due` has somebody."""
        return min((greeting.due_at for greeting in self._waiting.values()), default=float("inf"))
