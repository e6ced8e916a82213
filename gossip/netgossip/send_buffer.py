"""The driver's side of one stream: what is to be sent, and the tasks that live for it."""

from __future__ import annotations

from collections import deque

import trio


class SendBuffer:
    """Bytes on their way out. `scope` is of everything that is done for the stream."""

    __slots__ = ("closing", "queue", "queued_bytes", "scope", "wake")

    def __init__(self) -> None:
        self.queue: deque[bytes] = deque()
        self.queued_bytes = 0
        self.closing = False
        self.wake = trio.Event()
        self.scope = trio.CancelScope()

    async def write(self, transport: trio.SocketStream, both: trio.CancelScope) -> None:
        """Send what is queued, also what comes later; once it is all and we are closing, end `both` directions."""
        while True:
            while self.queue:
                data = self.queue.popleft()
                await transport.send_all(data)
                self.queued_bytes -= len(data)
            if self.closing:
                both.cancel()
                return
            await self.wake.wait()
            self.wake = trio.Event()
