"""Questions to other agents and theirs to us, over the gossip's request messages."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable

import trio

from netagent.log import Limited
from netagent.model.ids import HostId
from netgossip.errors import GossipUsageError
from netgossip.node import GossipNode
from netgossip.types import RequestReceived, ResponseReceived

ANSWER_S = 1.5
"""For one peer: a round trip and a commit to its disk, with a resend in between."""
MAX_OPEN = 64
"""Questions of others worked on at once; further ones are dropped, and asked again by the peer's resend."""
MAX_OPEN_OF_PEER = 32
"""Of them, of one peer: a member that asks without end leaves the other half to the others."""

logger = logging.getLogger("netagent.rpc.client")


class RpcClient:
    """Turns request and response events into awaitable calls."""

    def __init__(self, node: GossipNode, flush: Callable[[], object]) -> None:
        self._node = node
        self._flush = flush
        self._waiting: dict[int, tuple[trio.Event, list[bytes | None]]] = {}
        self._open: Counter[str] = Counter()
        """Questions that are worked on, by peer."""
        self._limited = Limited(logger)

    async def ask(self, peer: HostId, payload: bytes, within_s: float = ANSWER_S) -> bytes | None:
        """The peer's answer; None when it gives none in time, or when too many questions of ours wait for answers."""
        try:
            request_id = self._node.request(peer, payload, trio.current_time(), within_s)
        except GossipUsageError as error:
            self._limited.warning("ask", f"a question was not asked: {error}")
            return None
        done, box = self._waiting[request_id] = (trio.Event(), [])
        self._flush()
        try:
            with trio.move_on_after(2 * within_s):
                await done.wait()
        finally:
            del self._waiting[request_id]
        return box[0] if box else None

    def note_response(self, event: ResponseReceived) -> None:
        """An answer came, or its time is over."""
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
        """Have `answer` work on a peer's question."""
        if self._open.total() < MAX_OPEN and self._open[event.peer] < MAX_OPEN_OF_PEER:
            self._open[event.peer] += 1
            nursery.start_soon(self._respond, event, answer)

    async def _respond(
        self, event: RequestReceived, answer: Callable[[HostId, bytes], Awaitable[bytes]]
    ) -> None:
        try:
            payload = await answer(HostId(event.peer), event.payload)
            self._node.respond(event, payload, trio.current_time())
        except Exception:
            # A peer's question must not end the agent. It hears nothing and asks somebody else.
            logger.exception("could not answer %s", event.peer[:8])
            return
        finally:
            self._open[event.peer] -= 1
            if not self._open[event.peer]:
                del self._open[event.peer]
        self._flush()
