"""Who is greeted, and when again: a peer proves that a start of its is live by repeating a number in its answer.

The pause doubles while there is no answer, but who is heard is greeted within a second: what kept its answer away may
be over.

What a peer says without a proof may be a recording, which costs its player nothing. So it is answered seldom: what it
asks of content once a second, its greetings as often as a peer greets, and it leads to a greeting once a second.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from netgossip.records.wire import NONCE_BYTES
from netgossip.types import NodeId

HELLO_MIN_S: Final = 0.1
HELLO_MAX_S: Final = 5.0
HELLO_HEARD_S: Final = 1.0
UNPROVEN_PAUSE_S: Final = 1.0
"""Between two answers to what a peer says without a proof: once it has proven itself, it hears all at once."""
WELCOME_PAUSE_S: Final = HELLO_MIN_S / 2
"""Between two answers to its greetings: no longer than they, and a lost one delays all that follows."""


@dataclass(slots=True)
class _Handshake:
    due_at: float
    pause_s: float = HELLO_MIN_S


class Handshakes:
    """Peers that have not answered. A number is good until the next one, also for an answer that comes late."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._waiting: dict[NodeId, _Handshake] = {}
        self._nonces: dict[NodeId, bytes] = {}
        self._greeted_at: dict[NodeId, float] = {}
        self._answer_at: dict[tuple[NodeId, bool], float] = {}
        """When the next answer may go, to greetings (True) and to others."""

    def begin(self, node_id: NodeId, now: float) -> None:
        """Greet at once, and then until there is an answer."""
        self._waiting[node_id] = _Handshake(now)

    def note_heard(self, node_id: NodeId, now: float) -> None:
        """Something came of it that is no proof."""
        greeting = self._waiting.get(node_id)
        if greeting is None:
            greeted_at = self._greeted_at.get(node_id, float("-inf"))
            self._waiting[node_id] = _Handshake(max(now, greeted_at + HELLO_HEARD_S))
        else:
            greeting.due_at = min(greeting.due_at, now + HELLO_HEARD_S)

    def may_answer(self, node_id: NodeId, now: float, *, is_greeting: bool = False) -> bool:
        """Whether something unproven is answered now; then the next one is not for a while."""
        if now < self._answer_at.get((node_id, is_greeting), float("-inf")):
            return False
        pause_s = WELCOME_PAUSE_S if is_greeting else UNPROVEN_PAUSE_S
        self._answer_at[node_id, is_greeting] = now + pause_s
        return True

    def is_answer(self, node_id: NodeId, nonce: bytes) -> bool:
        """Whether this is the number of the last greeting; then there is no further one."""
        if self._nonces.get(node_id) != nonce:
            return False
        self._waiting.pop(node_id, None)
        self._nonces.pop(node_id, None)
        return True

    def stop_handshake(self, node_id: NodeId) -> None:
        """It is not expected to answer."""
        self._waiting.pop(node_id, None)

    def forget(self, node_id: NodeId) -> None:
        """Nor would an answer count."""
        self._waiting.pop(node_id, None)
        self._nonces.pop(node_id, None)
        self._greeted_at.pop(node_id, None)
        for is_greeting in (False, True):
            self._answer_at.pop((node_id, is_greeting), None)

    def take_due(self, now: float) -> list[tuple[NodeId, bytes]]:
        """Whom to greet now, each with a new number."""
        due = [(node_id, greeting) for node_id, greeting in self._waiting.items() if greeting.due_at <= now]
        for node_id, greeting in due:
            self._nonces[node_id] = self._rng.randbytes(NONCE_BYTES)
            self._greeted_at[node_id] = now
            greeting.due_at = now + greeting.pause_s
            greeting.pause_s = min(2 * greeting.pause_s, HELLO_MAX_S)
        return [(node_id, self._nonces[node_id]) for node_id, _ in due]

    def next_deadline(self) -> float:
        """When `take_due` has somebody."""
        return min((greeting.due_at for greeting in self._waiting.values()), default=float("inf"))
