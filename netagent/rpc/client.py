"""Our requests to other agents and theirs to us, over the gossip's request messages."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable

import trio

from netagent.log import Limited
from netagent.model.ids import HostId
from netgossip.errors import GossipUsageError
from netgossip.records.replication import Replication
from netgossip.types import RequestReceived, ResponseReceived

ANSWER_S = 1.5
"""Timeout for one peer: a round trip and a commit to its disk, with a resend in between."""
MAX_OPEN = 64
"""Bound of requests of other agents worked on; beyond it: dropped; the requester repeats."""
MAX_OPEN_OF_PEER = 32
"""Bound of requests of one peer worked on; beyond it: dropped; the requester repeats. A member that sends requests
without end leaves the other half to the others."""

logger = logging.getLogger("netagent.rpc.client")


class RpcClient:
    """Turns request and response events into awaitable calls."""

    def __init__(self, records: Replication, flush: Callable[[], object]) -> None:
        self._records = records
        self._flush = flush
        self._waiting: dict[int, tuple[trio.Event, list[bytes | None]]] = {}
        self._open: Counter[str] = Counter()
        """Requests that are worked on, by peer."""
        self._limited = Limited(logger)

    async def ask(self, peer: HostId, payload: bytes, within_s: float = ANSWER_S) -> bytes | None:
        """Return the peer's answer; None when none comes in time, or when too many requests of ours wait for
        answers."""
        try:
            request_id = self._records.request(peer, payload, trio.current_time(), within_s)
        except GossipUsageError as error:
            self._limited.warning("ask", f"a request was not sent: {error}")
            return None
        # Registered before the flush, which may already report the answer.
        done, box = self._waiting[request_id] = (trio.Event(), [])
        self._flush()
        try:
            with trio.move_on_after(2 * within_s):
                await done.wait()
        finally:
            del self._waiting[request_id]
        return box[0] if box else None

    def note_response(self, event: ResponseReceived) -> None:
        """Note that an answer came, or that its time is over."""
        if event.request_id in self._waiting:
            done, box = self._waiting[event.request_id]
            box.append(event.payload)
            done.set()

    def note_request(
        self,
        event: RequestReceived,
        nursery: trio.Nursery,
        answer: Callable[[HostId, bytes], Awaitable[bytes]],
    ) -> None:
        """Start `answer` for a peer's request."""
        if self._open.total() < MAX_OPEN and self._open[event.peer] < MAX_OPEN_OF_PEER:
            self._open[event.peer] += 1
            nursery.start_soon(self._respond, event, answer)

    async def _respond(
        self, event: RequestReceived, answer: Callable[[HostId, bytes], Awaitable[bytes]]
    ) -> None:
        try:
            payload = await answer(HostId(event.peer), event.payload)
            self._records.respond(event, payload)
        except Exception:
            # A peer's request must not end the agent. The peer gets no answer and asks another host.
            logger.exception("could not answer %s", event.peer[:8])
            return
        finally:
            self._open[event.peer] -= 1
            if not self._open[event.peer]:
                del self._open[event.peer]
        self._flush()
