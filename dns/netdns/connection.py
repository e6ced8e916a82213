"""One client's TCP connection: a reader, a writer, and limits for both.

A client may send queries without waiting for answers, and answers leave when they are ready, in any order (RFC 7766
6.2.1 and 7). The time limit counts from the last whole message, so neither silence nor single octets keep a
connection open. A client that sends queries and does not read is cut off when its answers exceed the bound. One that
sends a message that is not a query (an empty message, an answer) is not read any further and gets no reply to it. The
connections of one client take turns, and together have as much time as another client has for datagrams.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

import trio

from netdns.message import is_query_untrusted
from netdns.turns import Turns

MAX_UNSENT_BYTES: Final = 256 * 2**10
"""Bound of unsent answers of one connection; beyond it: closed. Four of the longest possible, for a client that does
not read."""
LINGER_S: Final = 4.0
"""Waits for pending answers after the client closed its side: a little more than the upstream budget."""
_CHUNK_BYTES: Final = 4096
"""Read at once; some two hundred queries, which take a millisecond or two to answer."""


class Connection:
    """Exchanges length-prefixed messages. `answer(payload, connection)` returns a reply, or None if `put` brings
    it."""

    def __init__(
        self,
        sock: socket.socket,
        *,
        answer: Callable[[bytes, Connection], bytes | None],
        idle_s: Callable[[], float],
        turn: trio.Lock,
        turns: Turns,
    ) -> None:
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self._answer = answer
        self._idle_s = idle_s
        self._turn = turn
        self._turns = turns
        self._scope = trio.CancelScope()
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._awaited = 0
        self._ended = False
        self._wake = trio.Event()
        self.active_at = trio.current_time()

    def put(self, payload: bytes) -> None:
        """Send a reply that had to wait."""
        self._awaited -= 1
        self._queue(payload)

    def close(self) -> None:
        """Close at once; what is unsent is lost."""
        self._scope.cancel()
        self._stream.socket.close()

    async def run(self) -> None:
        """Serve until the client leaves or is too slow."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    await self._read()
                    self._ended = True
                    self._wake.set()
                    self._scope.deadline = trio.current_time() + LINGER_S
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self._stream.socket.close()

    def _queue(self, payload: bytes) -> None:
        self._unsent.append(len(payload).to_bytes(2, "big") + payload)
        self._unsent_bytes += 2 + len(payload)
        if self._unsent_bytes > MAX_UNSENT_BYTES:
            self._scope.cancel()
        self._wake.set()

    async def _read(self) -> None:
        received = bytearray()
        while True:
            data = None
            with trio.move_on_at(self.active_at + self._idle_s()):
                data = await self._stream.receive_some(_CHUNK_BYTES)
            if data:
                received += data
                # Outside of the time limit: waiting for a turn does not count as the client's silence.
                if not await self._take_messages(received):
                    return
            elif data is not None or trio.current_time() >= self.active_at + self._idle_s():
                return

    async def _take_messages(self, received: bytearray) -> bool:
        """Answer and remove the whole messages; False after one that is not a query."""
        while _has_message(received):
            async with self._turn:  # lets all other tasks run before it begins
                over_at = self._turns.begin()
                while _has_message(received):
                    if not self._take_message(received):
                        return False
                    if self._turns.is_over(over_at):
                        break
        return True

    def _take_message(self, received: bytearray) -> bool:
        end = 2 + int.from_bytes(received[:2], "big")
        payload = bytes(received[2:end])
        del received[:end]
        reply = self._answer(payload, self)
        if not is_query_untrusted(payload):
            return False  # no answer will come, so none must be waited for
        self.active_at = trio.current_time()
        if reply is None:
            self._awaited += 1
        else:
            self._queue(reply)
        return True

    async def _write(self) -> None:
        while True:
            while self._unsent:
                data = b"".join(self._unsent)
                self._unsent.clear()
                await self._stream.send_all(data)
                self._unsent_bytes -= len(data)
            if self._ended and self._awaited <= 0:
                return
            self._wake = trio.Event()
            await self._wake.wait()


def _has_message(received: bytearray) -> bool:
    return len(received) >= 2 and len(received) >= 2 + int.from_bytes(received[:2], "big")
