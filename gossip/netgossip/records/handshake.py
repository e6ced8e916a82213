"""The handshake: which peers get a Hello, and when again. A peer proves that its present start is live by returning
the number of our Hello in its Welcome.

The pause doubles while there is no answer, but a peer that is heard gets a Hello within a second: the reason why its
answer was lost may be over.

What a peer says without a proof may be a recording, which costs its sender nothing. So it is answered rarely:
requests for content once a second, a Hello as often as a peer sends one, and it causes at most one Hello of ours per
second.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from netgossip.deadlines import NEVER
from netgossip.records.wire import NONCE_BYTES
from netgossip.types import NodeId

HELLOS_AT_ONCE: Final = 16
"""Bound of Hellos made in one go; beyond it: the others follow at once, after whatever else is to do. Each has an
offer (sessions.py): 3 ms."""
HELLO_MIN_S: Final = 0.1
HELLO_MAX_S: Final = 5.0
HELLO_HEARD_S: Final = 1.0
UNPROVEN_PAUSE_S: Final = 1.0
"""Between two answers to unproven messages: once the peer has proven itself, it gets all at once."""
WELCOME_PAUSE_S: Final = HELLO_MIN_S / 2
"""Between two answers to its Hellos: shorter than its own pause, because one lost answer delays all that follows."""


@dataclass(slots=True)
class _Handshake:
    due_at: float
    pause_s: float = HELLO_MIN_S


class Handshakes:
    """Peers that have not answered. A nonce is valid until the next one, also for an answer that comes late."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._waiting: dict[NodeId, _Handshake] = {}
        self._nonces: dict[NodeId, bytes] = {}
        self._hello_at: dict[NodeId, float] = {}
        self._answer_at: dict[tuple[NodeId, bool], float] = {}
        """When the next answer may be sent, to Hellos (True) and to other messages."""

    def begin(self, node_id: NodeId, now: float) -> None:
        """Send a Hello at once, and then until there is an answer."""
        self._waiting[node_id] = _Handshake(now)

    def is_under_way(self, node_id: NodeId) -> bool:
        """True while Hellos are sent to the peer."""
        return node_id in self._waiting

    def note_heard(self, node_id: NodeId, now: float) -> None:
        """Note an unproven message of the peer: send it a Hello soon."""
        handshake = self._waiting.get(node_id)
        if handshake is None:
            hello_at = self._hello_at.get(node_id, float("-inf"))
            self._waiting[node_id] = _Handshake(max(now, hello_at + HELLO_HEARD_S))
        else:
            handshake.due_at = min(handshake.due_at, now + HELLO_HEARD_S)

    def may_answer(self, node_id: NodeId, now: float, *, is_hello: bool = False) -> bool:
        """True if an unproven message may be answered now; the next one then has to wait."""
        if now < self._answer_at.get((node_id, is_hello), float("-inf")):
            return False
        pause_s = WELCOME_PAUSE_S if is_hello else UNPROVEN_PAUSE_S
        self._answer_at[node_id, is_hello] = now + pause_s
        return True

    def is_awaited(self, node_id: NodeId, nonce: bytes) -> bool:
        """True if this is the nonce of the last Hello, which has not been answered."""
        return self._nonces.get(node_id) == nonce

    def is_answer(self, node_id: NodeId, nonce: bytes) -> bool:
        """True if this is the nonce of the last Hello; no further one is sent then."""
        if self._nonces.get(node_id) != nonce:
            return False
        self._waiting.pop(node_id, None)
        self._nonces.pop(node_id, None)
        return True

    def stop_handshake(self, node_id: NodeId) -> None:
        """Stop sending Hellos: the peer is not expected to answer."""
        self._waiting.pop(node_id, None)

    def forget(self, node_id: NodeId) -> None:
        """Drop the peer; an answer would not count any more."""
        self._waiting.pop(node_id, None)
        self._nonces.pop(node_id, None)
        self._hello_at.pop(node_id, None)
        for is_hello in (False, True):
            self._answer_at.pop((node_id, is_hello), None)

    def take_due(self, now: float) -> list[tuple[NodeId, bytes]]:
        """Return the peers to send a Hello to now, each with a new nonce."""
        due = [
            (node_id, handshake) for node_id, handshake in self._waiting.items() if handshake.due_at <= now
        ][:HELLOS_AT_ONCE]
        for node_id, handshake in due:
            self._nonces[node_id] = self._rng.randbytes(NONCE_BYTES)
            self._hello_at[node_id] = now
            handshake.due_at = now + handshake.pause_s
            handshake.pause_s = min(2 * handshake.pause_s, HELLO_MAX_S)
        return [(node_id, self._nonces[node_id]) for node_id, _ in due]

    def next_deadline(self) -> float:
        """When `take_due` has something to return."""
        return min((handshake.due_at for handshake in self._waiting.values()), default=NEVER)
