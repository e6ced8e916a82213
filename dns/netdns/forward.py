"""Asking upstream: the machine between "nobody here knows" and one answer or one failure.

A *flight* is one question on its way for everybody who asked it meanwhile; a second client with the same question
joins (RFC 5452 7: never two at once, or guessing gets cheap). A flight makes *exchanges*, each with a socket, a port
and a message id of its own, all random:

    0 ms             best server
    2 RTT            next server, if there is one (50 to 250 ms: a lost packet should not be felt)
    250, 500, ... ms every server again, waiting twice as long each round
    at once          the next server, when one says SERVFAIL, REFUSED or NOTIMP, or the network refuses it
    at once          the same server by TCP when it truncated, without EDNS when it did not understand EDNS
    3.5 s            failure: a stub gives up at 5 s, and must hear why before

A server near the client (`Server.near`) comes before all others and alone: it knows names that they don't, so theirs
must not win because it is slower. They are asked when the network refuses it, or half of the time is over; when it
says that it has no answer, that is the answer.

The first good answer wins. A message counts only from the server that was asked, at the socket that asked (the driver
connects each socket, so the kernel sees to that), with the id and the question. Anything else is counted and dropped,
and the wait goes on; somebody who guesses gets a few tries, then the flight goes on by TCP.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from netdns import constants as c
from netdns import edns, opaque
from netdns.cache import Key
from netdns.config import ResolverConfig, Transport
from netdns.errors import FormatError
from netdns.message import render_query
from netdns.servers import Server
from netdns.upstream import FAILURE_S, Upstreams

_MAX_OPEN: Final = 4
"""Exchanges of one flight; the oldest is closed for a fifth. Bounds sockets to four a flight."""
_MAX_WRONG: Final = 8
"""Messages with a wrong id or question before UDP is given up. Blind guessing needs 2**15 for each port."""

Waiter = TypeVar("Waiter", bound=Hashable)


@dataclass(frozen=True, slots=True)
class UpstreamQuery:
    """Open a fresh socket connected to `server` and send. For TCP the payload has its length in front."""

    exchange_id: int
    transport: Transport
    server: Server
    payload: bytes


@dataclass(frozen=True, slots=True)
class UpstreamClose:
    """Close the exchange's socket. The number is never used again."""

    exchange_id: int


@dataclass(slots=True)
class _Exchange:
    exchange_id: int
    key: Key
    server: Server
    transport: Transport
    message_id: int
    payload: bytes
    sent_at: float
    with_opt: bool
    received: bytearray = field(default_factory=bytearray)
    wrong: int = 0


@dataclass(slots=True)
class _Flight(Generic[Waiter]):
    question: bytes
    servers: tuple[Server, ...]
    deadline_at: float
    waiters: list[Waiter]
    attempts: int = 0
    due_at: float = 0.0
    transport: Transport = Transport.UDP
    exchanges: list[int] = field(default_factory=list)
    failed: set[Server] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Landed(Generic[Waiter]):
    """A flight's end. `answer` None: nobody could say."""

    key: Key
    waiters: tuple[Waiter, ...]
    answer: opaque.OpaqueAnswer | None


class Forwarder(Generic[Waiter]):
    """All flights. `rng` must not be predictable outside of tests."""

    def __init__(self, *, rng: random.Random, config: ResolverConfig) -> None:
        self._rng = rng
        self._config = config
        self._upstreams = Upstreams()
        self._flights: dict[Key, _Flight[Waiter]] = {}
        self._exchanges: dict[int, _Exchange] = {}
        self._sent: dict[bytes, int] = {}
        self._due: list[tuple[float, int, Key]] = []
        self._last_id = 0
        self._commands: list[UpstreamQuery | UpstreamClose] = []
        self._landed: list[Landed[Waiter]] = []
        self.counts: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._flights)

    def ask(self, key: Key, waiter: Waiter, now: float) -> bool:
        """Start a flight or join one. False when there are too many: nothing has changed then."""
        flight = self._flights.get(key)
        if flight is not None:
            flight.waiters.append(waiter)
            self.counts["joined"] += 1
            return True
        if len(self._flights) >= self._config.max_flights:
            return False
        question = key.name + key.rtype.to_bytes(2, "big") + c.IN.to_bytes(2, "big")
        servers = self._upstreams.ranked(key.servers, now)
        flight = _Flight(question, servers, now + self._config.budget_s, [waiter])
        self._flights[key] = flight
        self._attempt(key, flight, now)
        return True

    def handle_datagram(self, exchange_id: int, payload: bytes, now: float) -> None:
        """A datagram came on the exchange's socket."""
        exchange = self._exchanges.get(exchange_id)
        if exchange is not None:
            self._receive(exchange, payload, now)

    def handle_stream_data(self, exchange_id: int, data: bytes, now: float) -> None:
        """Octets came on the exchange's connection, in any cut."""
        exchange = self._exchanges.get(exchange_id)
        if exchange is None:
            return
        exchange.received += data
        if len(exchange.received) >= 2:
            end = 2 + int.from_bytes(exchange.received[:2], "big")
            if len(exchange.received) >= end:
                self._receive(exchange, bytes(exchange.received[2:end]), now)

    def handle_end(self, exchange_id: int, now: float) -> None:
        """The exchange's socket failed, or the server closed it."""
        exchange = self._exchanges.get(exchange_id)
        if exchange is not None:
            self.counts["network_errors"] += 1
            self._upstreams.note_rtt(exchange.server, FAILURE_S)
            self._server_failed(exchange, now)

    def claim_loop(self, payload: bytes, now: float) -> bool:
        """Say whether a query that reached us is one that we sent. Its server is then left alone for a minute."""
        exchange = self._exchanges.get(self._sent.get(payload, 0))
        if exchange is None:
            return False
        self.counts["loops"] += 1
        if (
            exchange.server.near is None
        ):  # nobody there for a moment: a packet to learn it never leaves the host
            self._upstreams.note_loop(exchange.server, now)
        self._server_failed(exchange, now)
        return True

    def handle_deadline(self, now: float) -> None:
        """Retry or give up where it is time."""
        while self._due and self._due[0][0] <= now:
            due_at, _, key = heapq.heappop(self._due)
            flight = self._flights.get(key)
            if flight is None or flight.due_at != due_at:
                continue  # a flight that has landed or was moved
            if now >= flight.deadline_at:
                self.counts["timeouts"] += 1
                self._land(key, flight, None, now)
            else:
                self._attempt(key, flight, now)

    def next_deadline(self) -> float:
        """Return when handle_deadline has something to do; infinity if never."""
        while self._due:
            due_at, _, key = self._due[0]
            flight = self._flights.get(key)
            if flight is not None and flight.due_at == due_at:
                return due_at
            heapq.heappop(self._due)
        return float("inf")

    def drain(self) -> tuple[UpstreamQuery | UpstreamClose, ...]:
        """Return what the driver must do, in order."""
        commands = tuple(self._commands)
        self._commands.clear()
        return commands

    def take_landed(self) -> tuple[Landed[Waiter], ...]:
        """Return the flights that ended. Ask after every call above."""
        landed = tuple(self._landed)
        self._landed.clear()
        return landed

    def _attempt(self, key: Key, flight: _Flight[Waiter], now: float) -> None:
        """Ask the next server that has not failed, and set the time for the one after."""
        servers = self._candidates(flight, now)
        if not servers:
            self._land(key, flight, None, now)
            return
        server = servers[flight.attempts % len(servers)]
        flight.attempts += 1
        rounds = flight.attempts // len(servers)
        retry_s = self._config.retransmit_s
        if rounds:
            wait_s = retry_s * 2 ** (rounds - 1)
        else:
            wait_s = min(max(2 * self._upstreams.rtt_s(server), self._config.hedge_s), retry_s)
        self._send(key, flight, server, now)
        flight.due_at = min(now + wait_s, flight.deadline_at)
        self._last_id += 1
        heapq.heappush(self._due, (flight.due_at, self._last_id, key))

    def _candidates(self, flight: _Flight[Waiter], now: float) -> list[Server]:
        servers = [server for server in flight.servers if server not in flight.failed]
        near_first = now < flight.deadline_at - self._config.budget_s / 2
        return [server for server in servers if (server.near is not None) is near_first] or servers

    def _send(self, key: Key, flight: _Flight[Waiter], server: Server, now: float) -> None:
        if len(flight.exchanges) >= _MAX_OPEN:
            self._close(self._exchanges[flight.exchanges[0]])
        with_opt = self._upstreams.speaks_edns(server, now)
        opt = edns.render_opt(self._config.udp_limit_bytes, dnssec_ok=key.dnssec_ok) if with_opt else b""
        flags = c.RD | (c.CD if key.checking_disabled else 0)
        message_id = self._rng.getrandbits(16)
        payload = render_query(message_id, key.name, key.rtype, flags=flags, opt=opt)
        self._last_id += 1
        exchange = _Exchange(self._last_id, key, server, flight.transport, message_id, payload, now, with_opt)
        self._exchanges[exchange.exchange_id] = exchange
        self._sent[payload] = exchange.exchange_id
        flight.exchanges.append(exchange.exchange_id)
        self.counts["sent"] += 1
        if flight.transport is Transport.TCP:
            payload = len(payload).to_bytes(2, "big") + payload
        self._commands.append(UpstreamQuery(exchange.exchange_id, flight.transport, server, payload))

    def _receive(self, exchange: _Exchange, payload: bytes, now: float) -> None:
        flight = self._flights[exchange.key]
        rcode = _bare_refusal(payload)
        answer, truncated = None, False
        try:
            if payload[:2] != exchange.message_id.to_bytes(2, "big"):
                raise FormatError("another id")
            if rcode is None:
                answer, truncated = opaque.answer_untrusted(
                    payload,
                    flight.question,
                    max_ttl_s=self._config.max_ttl_s,
                    max_negative_ttl_s=self._config.max_negative_ttl_s,
                )
                rcode = answer.rcode
        except FormatError:
            self._wrong(exchange, flight, now)
            return
        self._upstreams.note_rtt(exchange.server, now - exchange.sent_at)
        if rcode == c.FORMERR and exchange.with_opt:
            self._upstreams.note_no_edns(exchange.server, now)
            self._again(exchange, flight, now)
        elif answer is None or rcode not in {c.NOERROR, c.NXDOMAIN}:
            self.counts["bad_answers"] += 1
            if exchange.server.near is None:
                self._server_failed(exchange, now)
            else:
                self._land(exchange.key, flight, None, now)
        elif truncated and exchange.transport is Transport.UDP:
            flight.transport = Transport.TCP
            self._again(exchange, flight, now)
        else:
            self._close(exchange)
            self._land(exchange.key, flight, answer, now)

    def _wrong(self, exchange: _Exchange, flight: _Flight[Waiter], now: float) -> None:
        self.counts["refused_answers"] += 1
        exchange.wrong += 1
        if exchange.transport is Transport.TCP:
            self._server_failed(exchange, now)
        elif exchange.wrong >= _MAX_WRONG:
            flight.transport = Transport.TCP
            self._again(exchange, flight, now)

    def _again(self, exchange: _Exchange, flight: _Flight[Waiter], now: float) -> None:
        """The same server at once, in another way."""
        self._close(exchange)
        self._send(exchange.key, flight, exchange.server, now)

    def _server_failed(self, exchange: _Exchange, now: float) -> None:
        flight = self._flights[exchange.key]
        flight.failed.add(exchange.server)
        self._close(exchange)
        busy = {self._exchanges[number].server for number in flight.exchanges} - flight.failed
        if not busy:
            flight.attempts = 0
            self._attempt(exchange.key, flight, now)

    def _close(self, exchange: _Exchange) -> None:
        del self._exchanges[exchange.exchange_id]
        if self._sent.get(exchange.payload) == exchange.exchange_id:
            del self._sent[exchange.payload]
        self._flights[exchange.key].exchanges.remove(exchange.exchange_id)
        self._commands.append(UpstreamClose(exchange.exchange_id))

    def _land(
        self, key: Key, flight: _Flight[Waiter], answer: opaque.OpaqueAnswer | None, now: float
    ) -> None:
        silent = [self._exchanges[number] for number in flight.exchanges]
        self._upstreams.note_slower((exchange.server, now - exchange.sent_at) for exchange in silent)
        for exchange in silent:
            self._close(exchange)
        del self._flights[key]
        self._landed.append(Landed(key, tuple(flight.waiters), answer))

    def check_invariants(self) -> None:
        """Flights and exchanges point at each other, and nothing waits for ever."""
        assert len(self._flights) <= self._config.max_flights
        listed = {number for flight in self._flights.values() for number in flight.exchanges}
        assert listed == set(self._exchanges)
        assert set(self._sent.values()) <= listed
        for flight in self._flights.values():
            assert len(flight.exchanges) <= _MAX_OPEN
            assert flight.due_at <= flight.deadline_at
            assert any(entry[0] == flight.due_at for entry in self._due)


def _bare_refusal(payload: bytes) -> int | None:
    """Return the rcode of an answer without a question, as old servers send it for what they do not understand."""
    if len(payload) < c.HEADER_BYTES or not payload[2] & 0x80 or payload[4:6] != b"\x00\x00":
        return None
    rcode = payload[3] & 0xF
    return rcode if rcode not in {c.NOERROR, c.NXDOMAIN} else None
