"""The driver: listeners and upstream sockets under trio, one timer, and no decision about DNS.

A listener is a pair of sockets that belong to one client. They are opened elsewhere, for example inside a container's
network namespace; any program that can send to them is that client, so no answer depends on an address that could be
forged.

Datagrams are handled in batches (batch.py): wait until the socket is readable, receive what is there, send the
finished answers, and then ask the resolver for the others until the client's turn is over (turns.py). The remaining
ones wait for the client's next turn, after those of the other listeners, so that one client cannot starve them.
Waiting for each datagram would cost two passes through the event loop. A client's connections share one turn.
"""

from __future__ import annotations

import contextlib
import logging
import math
import socket
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

import trio

from netdns.batch import DATAGRAM_BYTES, SIZE, Batch, open_batch
from netdns.connection import Connection
from netdns.errors import UsageError
from netdns.exchange import Exchanges, OpenSocket, open_here
from netdns.latency import Latency
from netdns.resolver import Resolver, Transport
from netdns.source import Client
from netdns.turns import LATER_S, Turns

_log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 64
"""Bound of TCP connections of one client; beyond it: the one idle for longest is closed."""
IDLE_S: Final = 10.0
IDLE_CROWDED_S: Final = 2.0
"""From the last whole message to the close; the second when three quarters of the connections are taken."""
RETIRING_S: Final = 10.0
"""Longer than a query is forwarded; a stub resolver usually waits 5 s at most."""
_BACKLOG: Final = 128
"""Bound of TCP connections of one client waiting to be accepted; beyond it: the kernel refuses. Twice what a client
may have."""
_ACCEPT_PAUSE_S: Final = 0.1
"""While the process lacks descriptors or memory: the socket stays readable, and the loop would spin."""


class _Listener:
    def __init__(self, client: Client, udp: socket.socket, tcp: socket.socket) -> None:
        self.client = client
        self.udp = udp
        self.tcp = tcp
        self.is_ipv4 = udp.family is socket.AF_INET
        self.scope = trio.CancelScope()
        self.streams_turn = trio.Lock()
        self.connections: set[Connection] = set()
        self.received_at = 0.0
        """When the queries in `left` were read."""
        self.left: deque[tuple[bytes, object]] = deque()
        """Queries received but not answered yet, which come next, with their senders: at most SIZE."""
        self.closed = False
        self.ended = trio.Event()

    def idle_s(self) -> float:
        return IDLE_CROWDED_S if len(self.connections) > MAX_CONNECTIONS * 3 // 4 else IDLE_S

    def close(self, *, running: bool) -> None:
        self.closed = True
        self.ended.set()
        self.scope.cancel()
        for sock in (self.udp, self.tcp):
            if running:
                trio.lowlevel.notify_closing(sock)
            sock.close()
        for connection in self.connections:
            connection.close()


class Server:
    """Serves a resolver. `clock` must be the one that the resolver's `now` comes from.

    `open_socket` opens the sockets for upstream servers, and must know how to reach servers that are near a client.
    `before_answers` is called before queries are answered, once for many, to check whether the servers have changed.
    It must not wait.
    """

    def __init__(
        self,
        resolver: Resolver,
        *,
        clock: Callable[[], float] = time.monotonic,
        open_socket: OpenSocket = open_here,
        before_answers: Callable[[], None] = lambda: None,
    ) -> None:
        self._resolver = resolver
        self._clock = clock
        self._open_socket = open_socket
        self._before_answers = before_answers
        self._turns = Turns(clock)
        self._batch = open_batch()
        self._listeners: dict[Client, _Listener] = {}
        self._retiring: set[_Listener] = set()
        self._nursery: trio.Nursery | None = None
        self._exchanges: Exchanges | None = None
        self._timer_at = math.inf
        self._timer_moved = trio.Event()
        self._counts: Counter[str] = Counter()
        self._answered = Latency()
        """How long the clients waited whose queries were answered at once."""

    def add_listener(self, client: Client, udp: socket.socket, tcp: socket.socket) -> None:
        """Answer on two bound sockets; they are closed by remove_listener or at the end of `run`.

        Possible before and during `run`. Raises UsageError if the client has a listener; the sockets are then still
        the caller's.
        """
        if client in self._listeners:
            raise UsageError(f"client {client!r} has a listener")
        udp.setblocking(False)
        tcp.setblocking(False)
        tcp.listen(_BACKLOG)  # harmless on a socket that listens already
        listener = self._listeners[client] = _Listener(client, udp, tcp)
        if self._nursery is not None:
            self._nursery.start_soon(self._serve, listener)

    def remove_listener(self, client: Client) -> None:
        """Close a client's sockets and connections at once, and forget it. Does nothing without a listener."""
        listener = self._listeners.pop(client, None)
        if listener is not None:
            listener.close(running=self._nursery is not None)
            self._turns.end(client, unsated=False)
            self._resolver.forget_client(client)
        for old in [one for one in self._retiring if one.client == client]:
            old.close(running=self._nursery is not None)

    def replace_listener(self, client: Client, udp: socket.socket, tcp: socket.socket) -> None:
        """Answer a client on other sockets from now on. For RETIRING_S the old ones still answer what they receive or
        have received; then they are closed. Raises UsageError without a listener."""
        old = self._listeners.pop(client, None)
        if old is None:
            raise UsageError(f"client {client!r} has no listener")
        self.add_listener(client, udp, tcp)
        if self._nursery is None:
            old.close(running=False)
        else:
            self._retiring.add(old)
            self._nursery.start_soon(self._retire, old)

    async def _retire(self, old: _Listener) -> None:
        try:
            with trio.move_on_after(RETIRING_S):
                await old.ended.wait()
        finally:
            self._retiring.discard(old)
            if not old.closed:
                old.close(running=True)

    def clients(self) -> tuple[Client, ...]:
        """Return the clients with listeners, in the order of adding."""
        return tuple(self._listeners)

    def statistics(self) -> dict[str, int]:
        """Return the resolver's counters and this driver's."""
        connections = sum(len(listener.connections) for listener in self._listeners.values())
        return {
            **self._resolver.statistics(),
            **self._counts,
            **self._answered.statistics("answered"),
            "connections": connections,
            "exchanges": len(self._exchanges or ()),
        }

    async def run(self) -> None:
        """Serve until cancelled. Call it only once."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                sockets = self._open_socket
                self._exchanges = Exchanges(self._resolver, nursery, self._clock, self._flush, sockets)
                for listener in self._listeners.values():
                    nursery.start_soon(self._serve, listener)
                await self._run_timer()
        finally:
            for client in self.clients():
                self.remove_listener(client)
            self._nursery = None

    async def _run_timer(self) -> None:
        while True:
            self._timer_at = self._resolver.next_deadline()
            self._timer_moved = trio.Event()
            with trio.move_on_after(max(self._timer_at - self._clock(), 0)):
                await self._timer_moved.wait()
            self._resolver.handle_deadline(self._clock())
            self._flush()

    def _flush(self) -> None:
        """Do everything that the resolver wants done."""
        output = self._resolver.drain()
        for reply in output.replies:
            assert isinstance(reply.token, tuple)
            listener, peer = reply.token
            if isinstance(peer, Connection):
                peer.put(reply.payload)
            elif not listener.closed:
                self._send(listener, reply.payload, peer)
        assert self._exchanges is not None
        for command in output.upstream:
            self._exchanges.apply(command)
        if self._resolver.next_deadline() < self._timer_at:
            self._timer_moved.set()

    async def _serve(self, listener: _Listener) -> None:
        with listener.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._serve_datagrams, listener)
                await self._serve_connections(listener, nursery)

    async def _serve_datagrams(self, listener: _Listener) -> None:
        while not listener.closed:
            with contextlib.suppress(trio.ClosedResourceError):
                if listener.left:
                    await trio.lowlevel.checkpoint()
                else:
                    await trio.lowlevel.wait_readable(listener.udp)
                # It may have been closed since this task was woken: then the resolver has forgotten the client.
                if not listener.closed and self._answer_datagrams(listener):
                    self._flush()

    def _answer_datagrams(self, listener: _Listener) -> bool:
        """Take a turn; return whether the resolver may want something done.

        Nothing here waits, so source and servers stay as they are, and the finished answers right, for all of it. A
        whole batch of finished answers fits into a turn, so the clock is read only after the others. At least one of
        the others is answered, or a client whose finished answers use up the turn would wait for ever.
        """
        self._before_answers()
        now = self._clock()
        over_at = self._turns.begin()
        taken = 0
        if not listener.left:
            listener.received_at = now
            if self._batch is not None and listener.is_ipv4:
                taken = self._answer_batch(self._batch, listener, now)
                if finished := taken - len(listener.left):
                    self._answered.observe(self._clock() - now, finished)
            else:
                taken = self._take_singly(listener)
        has_asked = bool(listener.left)
        while listener.left:
            payload, peer = listener.left.popleft()
            reply = self._ask(payload, listener, Transport.UDP, peer, now)
            now = self._clock()
            if reply is None:
                over_at -= LATER_S
            else:
                self._send(listener, reply, peer)
                self._answered.observe(now - listener.received_at)
            if now >= over_at:
                break
        self._turns.end(listener.client, unsated=bool(listener.left) or taken == SIZE)
        return has_asked

    def _answer_batch(self, batch: Batch, listener: _Listener, now: float) -> int:
        """Receive a batch, send the finished answers, and leave the other queries; return the number received."""
        descriptor = listener.udp.fileno()
        try:
            lengths = batch.receive(descriptor)
        except OSError:
            self._counts["receive_errors"] += 1
            return 0
        table = self._resolver.hot_table(listener.client)
        first, count = 0, len(lengths)
        while first < count:
            end = table.answer_in_place(batch.slots, lengths, batch.reply_bytes, first, now)
            if end > first:
                failed = batch.send(descriptor, first, end)
                if failed:
                    self._counts["send_errors"] += failed
            if end < count:
                listener.left.append((bytes(batch.slots[end][: lengths[end]]), batch.peer(end)))
            first = end + 1
        return count

    def _take_singly(self, listener: _Listener) -> int:
        """Receive without a batch; return the number received. Finished answers are found later."""
        for taken in range(SIZE):
            try:
                listener.left.append(
                    listener.udp.recvfrom(DATAGRAM_BYTES, socket.MSG_DONTWAIT)
                )  # a copy, because the query may wait
            except BlockingIOError:
                return taken
            except OSError:
                self._counts["receive_errors"] += 1
                return taken
        return SIZE

    def _send(self, listener: _Listener, payload: bytes, peer: object) -> None:
        """Send a datagram; it may be lost: a full buffer or a peer that is gone is no reason to wait."""
        try:
            listener.udp.sendto(payload, socket.MSG_DONTWAIT, peer)  # type: ignore[call-overload]  # as recvfrom gave it
        except OSError:
            self._counts["send_errors"] += 1

    def _ask(
        self, payload: bytes, listener: _Listener, transport: Transport, peer: object, now: float
    ) -> bytes | None:
        try:
            return self._resolver.handle_query(payload, listener.client, transport, (listener, peer), now)
        except Exception:
            # A fault in a record source must cost one answer, not the names of every container on the host.
            self._counts["internal_errors"] += 1
            _log.exception("query of client %r failed: %s", listener.client, payload.hex())
            return None

    async def _serve_connections(self, listener: _Listener, nursery: trio.Nursery) -> None:
        while not listener.closed:
            try:
                await trio.lowlevel.wait_readable(listener.tcp)
                sock, _ = listener.tcp.accept()
            except trio.ClosedResourceError:
                return
            except (BlockingIOError, ConnectionAbortedError):
                continue
            except OSError:
                self._counts["accept_errors"] += 1
                await trio.sleep(_ACCEPT_PAUSE_S)
                continue
            if len(listener.connections) >= MAX_CONNECTIONS:
                self._counts["connections_displaced"] += 1
                oldest = min(listener.connections, key=lambda connection: connection.active_at)
                listener.connections.discard(oldest)
                oldest.close()
            sock.setblocking(False)
            connection = Connection(
                sock,
                answer=self._answerer(listener),
                idle_s=listener.idle_s,
                turn=listener.streams_turn,
                turns=self._turns,
            )
            listener.connections.add(connection)
            nursery.start_soon(self._serve_connection, listener, connection)

    def _answerer(self, listener: _Listener) -> Callable[[bytes, Connection], bytes | None]:
        def answer(payload: bytes, connection: Connection) -> bytes | None:
            self._before_answers()
            began_at = self._clock()
            reply = self._ask(payload, listener, Transport.TCP, connection, began_at)
            if reply is not None:
                self._answered.observe(self._clock() - began_at)
            self._flush()
            return reply

        return answer

    async def _serve_connection(self, listener: _Listener, connection: Connection) -> None:
        try:
            await connection.run()
        finally:
            listener.connections.discard(connection)
