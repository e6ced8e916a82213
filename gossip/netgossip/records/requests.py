"""Requests to one peer, each answered once: for what the application can't put into records.

The client repeats a request until the answer comes or its deadline passes. The server reports a request once, however
often it comes, and keeps the answer for repetitions. If the server restarts in between, it reports the request again
after the restart: the application must then reach the same result (journal it first).

Bounds: the last ANSWERS_KEPT requests of each peer are remembered; an older one that is repeated counts as new.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from netgossip.deadlines import NEVER
from netgossip.errors import GossipUsageError
from netgossip.records.wire import PAYLOAD_LIMIT_BYTES, Message, Request, Response
from netgossip.types import NodeId, RequestReceived, ResponseReceived

ANSWERS_KEPT: Final = 64
"""Bound of responses kept per peer; beyond it: the oldest is dropped. A host asks for address space, a few networks
at a time."""
ASKED_LIMIT: Final = 1024
"""Bound of own requests without a response; beyond it: the caller is refused."""
FIRST_WAIT_S: Final = 0.1


class _PendingRequest:
    __slots__ = ("deadline", "due_at", "message", "peer", "tries")

    def __init__(self, peer: NodeId, message: Request, deadline: float, now: float) -> None:
        self.peer = peer
        self.message = message
        self.deadline = deadline
        self.due_at = now
        self.tries = 0


class Requests:
    """Both sides of requests. `send(peer, message)` queues a message."""

    def __init__(self, *, rng: random.Random, send: Callable[[NodeId, Message], None]) -> None:
        self._send = send
        self._next_id = rng.getrandbits(48)
        self._asked: dict[int, _PendingRequest] = {}
        self._answers: dict[NodeId, OrderedDict[tuple[int, int], bytes | None]] = {}
        self._reported: dict[tuple[NodeId, int], int] = {}

    def ask(self, peer: NodeId, payload: bytes, now: float, timeout_s: float) -> int:
        """Send a request; ResponseReceived follows in any case. Raises GossipUsageError."""
        if len(payload) > PAYLOAD_LIMIT_BYTES:
            raise GossipUsageError(f"a request has at most {PAYLOAD_LIMIT_BYTES} bytes, not {len(payload)}")
        if len(self._asked) >= ASKED_LIMIT:
            raise GossipUsageError(f"{ASKED_LIMIT} requests are waiting for answers")
        self._next_id += 1
        self._asked[self._next_id] = _PendingRequest(
            peer, Request(self._next_id, payload), now + timeout_s, now
        )
        return self._next_id

    def respond(self, event: RequestReceived, payload: bytes) -> None:
        """Answer a request. One that is no longer remembered goes unanswered. Raises GossipUsageError."""
        if len(payload) > PAYLOAD_LIMIT_BYTES:
            raise GossipUsageError(f"a response has at most {PAYLOAD_LIMIT_BYTES} bytes, not {len(payload)}")
        epoch = self._reported.pop((event.peer, event.request_id), None)
        answers = self._answers.get(event.peer, OrderedDict())
        if epoch is not None and (epoch, event.request_id) in answers:
            answers[epoch, event.request_id] = payload
            self._send(event.peer, Response(event.request_id, payload))

    def handle_request(self, peer: NodeId, epoch: int, message: Request) -> RequestReceived | None:
        """Return the event for a request that is new. `epoch` is the peer's start."""
        answers = self._answers.setdefault(peer, OrderedDict())
        key = (epoch, message.request_id)
        if key in answers:
            known = answers[key]
            if known is not None:
                self._send(peer, Response(message.request_id, known))
            return None
        answers[key] = None
        self._reported[peer, message.request_id] = epoch
        if len(answers) > ANSWERS_KEPT:
            (_, oldest), _ = answers.popitem(last=False)
            self._reported.pop((peer, oldest), None)
        return RequestReceived(peer, message.request_id, message.payload)

    def handle_response(self, peer: NodeId, message: Response) -> ResponseReceived | None:
        """Return the event for an awaited answer."""
        asked = self._asked.get(message.request_id)
        if asked is None or asked.peer != peer:
            return None
        del self._asked[message.request_id]
        return ResponseReceived(peer, message.request_id, message.payload)

    def handle_deadline(self, now: float, wait_s: Callable[[NodeId], float]) -> list[ResponseReceived]:
        """Repeat what is due; return the events for requests whose time is over."""
        over = [number for number, asked in self._asked.items() if asked.deadline <= now]
        events = [ResponseReceived(self._asked.pop(number).peer, number, None) for number in over]
        for asked in self._asked.values():
            if asked.due_at <= now:
                self._send(asked.peer, asked.message)
                wait = max(FIRST_WAIT_S, wait_s(asked.peer)) * 2 ** min(asked.tries, 4)
                asked.due_at, asked.tries = now + wait, asked.tries + 1
        return events

    def forget_peer(self, peer: NodeId) -> None:
        """Drop the requests of a peer. Ours to it run into their deadlines."""
        for _, number in self._answers.pop(peer, {}):
            self._reported.pop((peer, number), None)

    def next_deadline(self) -> float:
        """When `handle_deadline` has something to do."""
        return min((min(a.due_at, a.deadline) for a in self._asked.values()), default=NEVER)
