"""Forwarding: the state machine from a question without a local answer to one answer or one failure.

A *flight* is one question in flight for all clients that asked it meanwhile; a second client with the same question
joins (RFC 5452 7: never two at once, or guessing gets cheap). A flight has one *exchange* for each server that it
asks, with a socket, a port and a message id of its own, all random:

    0 ms             the first server
    2 RTT            the next server (50 to 250 ms: a lost packet should not be noticed); at once when the first owes
                     other answers for longer than usual
    250, 750, ... ms the same octets again to a silent server, on the same socket: a server that needs 4 s for
                     a name may answer any of them
    at once          the next server, when one says SERVFAIL, REFUSED or NOTIMP, or the network refuses it
    at once          the same server by TCP when it truncated, without EDNS when it did not understand EDNS
    4.5 s            failure: a stub gives up at 5 s, and must get the reason before

Servers are asked in the order of resolv.conf, because an earlier one may know names that later ones deny.

    a record                     counts at once, whichever server returns it
    "no such name", "no record"  counts when each earlier server has failed; until then it is kept

A server has failed when it says so, when the network says so, when its time is over, or when it is down
(upstream.py). An answer that came before an earlier server's is kept no longer than a failure; the flight continues
to listen to that server, and its answer replaces the other one in the cache.

A server near the client (`UpstreamServer.near`) is asked before all others and alone: it knows names that they don't,
so theirs must not win because it is slower. They are asked when the network refuses it, or half of the time is over;
when it says that it has no answer, that is the answer.

A message counts only if it comes from the server that was asked, on the socket that asked (the driver connects each
socket, so the kernel ensures this), with the id and the question. Anything else is counted and dropped, and the wait
continues; after a few of them, which a sender who guesses needs, the flight continues by TCP.

Flights are shared fairly among the clients that start them (`owner`). When all are taken, an owner with fewer than
the largest one gets a place: the oldest flight of the largest owner fails for that owner. Joining takes no place.

A server may lead back to us. If a question arrives while it is in flight, we ask its servers, at most once a minute
each, for a name with 64 random bits under `test` (RFC 6761 6.2). If that name arrives here, the server is skipped for
a minute. Only this proves a loop: clients can guess what we ask, but not that name, and only servers that the server
itself asks ever see it, which are the root's.
"""

from __future__ import annotations

import dataclasses
import heapq
import random
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from netdns import constants as c
from netdns import edns, opaque
from netdns.cache import CacheKey
from netdns.config import ResolverConfig, Transport
from netdns.errors import FormatError
from netdns.message import render_query
from netdns.name import ROOT
from netdns.servers import UpstreamServer
from netdns.source import Name
from netdns.upstream import ServerHealth, Upstreams

_MAX_OPEN: Final = 4
"""Bound of servers that one such query waits for; beyond it: a fifth is asked when one of them has failed. Each holds
a socket."""
_MAX_LATE: Final = 128
"""Bound of servers listened to after their query was answered, probes for loops, checks of silent servers; beyond it:
no further ones."""
_MAX_WRONG: Final = 8
"""Messages with a wrong id or question before UDP is given up. Blind guessing needs 2**15 for each port."""
_SECOND_CHANCE_S: Final = 0.5
"""How long a denial waits for a server that is down but asked as well: two tries of a server that is back."""
_PROBE_S: Final = 2.0
"""How long a probe may take to come back to us."""
_CHECK_S: Final = 1.0
"""How long a server may take for a question that needs no other server."""
_PROBE_ZONE: Final[Name] = b"\x04test\x00"
_REFUSES_EDNS: Final = frozenset({c.FORMERR, c.NOTIMP})
"""RFC 6891 7 wants FORMERR; older servers say NOTIMP as well."""
_NEVER: Final = float("inf")

Waiter = TypeVar("Waiter", bound=Hashable)


@dataclass(frozen=True, slots=True)
class UpstreamQuery:
    """Open a fresh socket connected to `server` and send. For TCP the payload has its length in front."""

    exchange_id: int
    transport: Transport
    server: UpstreamServer
    payload: bytes


@dataclass(frozen=True, slots=True)
class UpstreamRepeat:
    """Send the exchange's payload again on its socket. UDP only."""

    exchange_id: int


@dataclass(frozen=True, slots=True)
class UpstreamClose:
    """Close the exchange's socket. The number is never used again."""

    exchange_id: int


@dataclass(slots=True, eq=False)
class _Exchange(Generic[Waiter]):
    exchange_id: int
    key: CacheKey
    server: UpstreamServer
    transport: Transport
    message_id: int
    sent_at: float
    with_opt: bool
    again_at: float
    flight: _Flight[Waiter] | None = None
    """None for a probe or a check, or if the flight has ended but the answer is still of use."""
    refused_opt: bool = False
    """Whether it is without OPT because the server had just refused one."""
    is_probe: bool = False
    is_check: bool = False
    sendings: int = 1
    received: bytearray = field(default_factory=bytearray)
    wrong: int = 0


@dataclass(slots=True, eq=False)
class _Flight(Generic[Waiter]):
    key: CacheKey
    servers: tuple[UpstreamServer, ...]
    """In the configured order."""
    patience: dict[UpstreamServer, float]
    """Until when a server's silence keeps later servers' denials waiting."""
    unasked: list[UpstreamServer]
    """In the order of asking: servers that are down come last."""
    deadline_at: float
    owner: Hashable
    waiters: list[tuple[Hashable, Waiter]]
    next_at: float = 0.0
    """When the next of `unasked` is due."""
    due_at: float = _NEVER
    transport: Transport = Transport.UDP
    exchanges: dict[UpstreamServer, _Exchange[Waiter]] = field(default_factory=dict)
    failed: set[UpstreamServer] = field(default_factory=set)
    denial: tuple[int, opaque.OpaqueAnswer] | None = None
    """A negative answer that waits, and the position of its server."""


@dataclass(frozen=True, slots=True)
class Landed(Generic[Waiter]):
    """A flight's end. `answer` None: no server answered.

    `crowded`: for these waiters the flight ended because there are too many; that says nothing about the question.
    Without waiters it is a better answer to a question that has been answered already.
    """

    key: CacheKey
    waiters: tuple[Waiter, ...]
    answer: opaque.OpaqueAnswer | None
    crowded: bool = False


class Forwarder(Generic[Waiter]):
    """All flights. `rng` must not be predictable outside of tests."""

    def __init__(self, *, rng: random.Random, config: ResolverConfig) -> None:
        self._rng = rng
        self._config = config
        self._upstreams = Upstreams()
        self._flights: dict[CacheKey, _Flight[Waiter]] = {}
        self._owned: dict[Hashable, dict[CacheKey, None]] = {}
        self._asking: Counter[tuple[Name, int]] = Counter()
        self._exchanges: dict[int, _Exchange[Waiter]] = {}
        self._late: set[int] = set()
        self._probes: dict[Name, _Exchange[Waiter]] = {}
        self._checks: dict[UpstreamServer, _Exchange[Waiter]] = {}
        self._due: list[tuple[float, int, _Flight[Waiter] | _Exchange[Waiter]]] = []
        self._last_id = 0
        self._commands: list[UpstreamQuery | UpstreamRepeat | UpstreamClose] = []
        self._landed: list[Landed[Waiter]] = []
        self.counts: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._flights)

    def health(self, server: UpstreamServer) -> ServerHealth:
        """Return whether a server answers, how fast, and what was sent to it."""
        return self._upstreams.health(server)

    def ask(self, key: CacheKey, waiter: Waiter, owner: Hashable, now: float) -> bool:
        """Start a flight for `owner` or join one. False when there are too many: then nothing has changed."""
        known = self._asking[key.name, key.rtype] > 0
        flight = self._flights.get(key)
        if flight is not None:
            flight.waiters.append((owner, waiter))
            self.counts["joined"] += 1
        elif self._make_room(owner):
            flight = self._start(key, waiter, owner, now)
        else:
            return False
        if known:
            self._look_for_loops(flight, now)
        return True

    def handle_datagram(self, exchange_id: int, payload: bytes, now: float) -> None:
        """Handle a datagram on the exchange's socket."""
        exchange = self._exchanges.get(exchange_id)
        if exchange is not None:
            self._receive(exchange, payload, now)

    def handle_stream_data(self, exchange_id: int, data: bytes, now: float) -> None:
        """Handle octets on the exchange's connection, in pieces of any size."""
        exchange = self._exchanges.get(exchange_id)
        if exchange is None:
            return
        exchange.received += data
        if len(exchange.received) >= 2:
            end = 2 + int.from_bytes(exchange.received[:2], "big")
            if len(exchange.received) >= end:
                self._receive(exchange, bytes(exchange.received[2:end]), now)

    def handle_end(self, exchange_id: int, now: float) -> None:
        """Note that the exchange's socket failed, or the server closed it."""
        exchange = self._exchanges.get(exchange_id)
        if exchange is not None:
            self.counts["network_errors"] += 1
            self._server_failed(exchange, now)

    def claim_probe(self, name: Name, now: float) -> bool:
        """Return whether a question that reached us is a probe of ours. Its server is then skipped for a minute."""
        probe = self._probes.get(name)
        if probe is None:
            return False
        self.counts["loops"] += 1
        server = probe.server
        self._upstreams.note_loop(server, now)
        self._close(probe)
        for exchange in [one for one in self._exchanges.values() if one.server == server]:
            if exchange.exchange_id in self._exchanges:  # not closed meanwhile, with its flight
                self._server_failed(exchange, now)
        return True

    def handle_deadline(self, now: float) -> None:
        """Retry or give up where it is time."""
        while self._due and self._due[0][0] <= now:
            due_at, _, what = heapq.heappop(self._due)
            if not self._is_due(due_at, what):
                continue  # one that has ended or was rescheduled
            if isinstance(what, _Exchange):
                self._close(what)
                if what.is_check:
                    self._upstreams.note_silent_check(what.server, what.sent_at)
                elif not what.is_probe:
                    self._upstreams.note_silence(what.server, what.sendings, what.sent_at)
                if not what.is_probe:
                    self._check(what.server, what.sent_at, now)
            elif now >= what.deadline_at:
                self._time_is_over(what, now)
            else:
                self._advance(what, now)

    def next_deadline(self) -> float:
        """Return when handle_deadline has something to do; infinity if never."""
        while self._due:
            due_at, _, what = self._due[0]
            if self._is_due(due_at, what):
                return due_at
            heapq.heappop(self._due)
        return _NEVER

    def drain(self) -> tuple[UpstreamQuery | UpstreamRepeat | UpstreamClose, ...]:
        """Return what the driver must do, in order."""
        commands = tuple(self._commands)
        self._commands.clear()
        return commands

    def take_landed(self) -> tuple[Landed[Waiter], ...]:
        """Return the flights that ended. Call after every call above."""
        landed = tuple(self._landed)
        self._landed.clear()
        return landed

    # --- flights ------------------------------------------------------------------------------------------------

    def _start(self, key: CacheKey, waiter: Waiter, owner: Hashable, now: float) -> _Flight[Waiter]:
        deadline_at = now + self._config.budget_s
        servers = tuple(server for server in key.servers if not self._upstreams.is_looping(server, now))
        down = [server for server in servers if self._upstreams.is_down(server)]
        all_down = len(down) == len(servers)
        tried = [server for server in down if all_down or self._upstreams.is_to_be_tried(server, now)]
        patience = dict.fromkeys(servers, deadline_at)
        patience.update(dict.fromkeys(down, now))
        patience.update(dict.fromkeys(tried, now + _SECOND_CHANCE_S))
        unasked = [server for server in servers if server not in down] + [
            server for server in down if server not in tried
        ]
        if servers and servers[0].near is not None and len(servers) > 1:
            patience[servers[0]] = now + self._config.budget_s / 2
        flight = _Flight(key, servers, patience, unasked, deadline_at, owner, [(owner, waiter)], next_at=now)
        self._flights[key] = flight
        self._owned.setdefault(owner, {})[key] = None
        self._asking[key.name, key.rtype] += 1
        for server in tried[:_MAX_OPEN]:
            self._send(flight, server, now)
        self._advance(flight, now)
        return flight

    def _make_room(self, owner: Hashable) -> bool:
        """Return whether `owner` may start a flight, if need be in place of the largest owner's oldest."""
        mine = len(self._owned.get(owner, ()))
        if mine >= self._config.max_flights_per_client:
            return False
        while len(self._flights) >= self._config.max_flights:
            largest, theirs = max(self._owned.items(), key=lambda item: len(item[1]))
            if len(theirs) <= mine + 1:
                return False
            # Each round takes one flight from the largest owner, and no waiter gets one twice: so it terminates.
            self._displace(self._flights[next(iter(theirs))], largest)
        return True

    def _displace(self, flight: _Flight[Waiter], owner: Hashable) -> None:
        """End a flight for its owner. If others wait for it, the first one of them becomes its owner."""
        self.counts["displaced"] += 1
        out = tuple(waiter for one, waiter in flight.waiters if one == owner)
        flight.waiters = [(one, waiter) for one, waiter in flight.waiters if one != owner]
        if flight.waiters:
            self._disown(flight)
            flight.owner = flight.waiters[0][0]
            self._owned.setdefault(flight.owner, {})[flight.key] = None
            self._landed.append(Landed(flight.key, out, None, crowded=True))
            return
        for exchange in list(flight.exchanges.values()):
            self._upstreams.note_unheard(exchange.server)
            self._close(exchange)
        self._remove(flight)
        self._landed.append(Landed(flight.key, out, None, crowded=True))

    def _advance(self, flight: _Flight[Waiter], now: float) -> None:
        """Do what is due, and set the time of the next step."""
        if self._land_denial(flight, now):
            return
        for exchange in flight.exchanges.values():
            if exchange.again_at <= now:
                exchange.sendings += 1
                exchange.again_at = now + self._config.retransmit_s * 2 ** (exchange.sendings - 1)
                self._commands.append(UpstreamRepeat(exchange.exchange_id))
                self._upstreams.note_asked(exchange.server, now)
                self.counts["sent"] += 1
                self._check(exchange.server, exchange.sent_at, now)
        while flight.unasked and flight.next_at <= now and len(flight.exchanges) < _MAX_OPEN:
            server = flight.unasked.pop(0)
            self._send(flight, server, now)
            flight.next_at = now + self._head_start_s(flight, server, now)
        if not flight.exchanges:  # all have failed, so there is no denial to wait with either
            self._land(flight, None, 0, now)
            return
        self._set_due(flight, now)

    def _head_start_s(self, flight: _Flight[Waiter], server: UpstreamServer, now: float) -> float:
        """Return how long the next server must wait for this one."""
        if server.near is not None:
            return flight.patience[server] - now
        least_s, most_s = self._config.hedge_s, self._config.retransmit_s
        wait_s = min(max(2 * self._upstreams.rtt_s(server), least_s), most_s)
        return 0.0 if self._upstreams.is_suspect(server, wait_s, now) else wait_s

    def _set_due(self, flight: _Flight[Waiter], now: float) -> None:
        due_at = min(exchange.again_at for exchange in flight.exchanges.values())
        if flight.unasked and len(flight.exchanges) < _MAX_OPEN:
            due_at = min(due_at, flight.next_at)
        if flight.denial is not None:
            for server in flight.servers[: flight.denial[0]]:
                if server not in flight.failed and flight.patience[server] > now:
                    due_at = min(due_at, flight.patience[server])
        due_at = min(due_at, flight.deadline_at)
        if due_at != flight.due_at:
            flight.due_at = due_at
            self._push(due_at, flight)

    def _push(self, due_at: float, what: _Flight[Waiter] | _Exchange[Waiter]) -> None:
        self._last_id += 1
        heapq.heappush(self._due, (due_at, self._last_id, what))

    def _is_due(self, due_at: float, what: _Flight[Waiter] | _Exchange[Waiter]) -> bool:
        if isinstance(what, _Exchange):
            return what.exchange_id in self._late
        return what.due_at == due_at and self._flights.get(what.key) is what

    def _land_denial(self, flight: _Flight[Waiter], now: float) -> bool:
        """Land with the denial that was kept, if no earlier server can contradict it any more."""
        if flight.denial is None:
            return False
        place, answer = flight.denial
        if self._may_contradict(flight, flight.servers[:place], now):
            return False
        self._land(flight, answer, place, now)
        return True

    def _may_contradict(
        self, flight: _Flight[Waiter], servers: tuple[UpstreamServer, ...], now: float
    ) -> bool:
        """Return whether one of these servers has not failed yet."""
        return any(flight.patience[server] > now for server in servers if server not in flight.failed)

    def _time_is_over(self, flight: _Flight[Waiter], now: float) -> None:
        self.counts["timeouts"] += 1
        for exchange in flight.exchanges.values():
            self._upstreams.note_silence(exchange.server, exchange.sendings, exchange.sent_at)
        if flight.denial is not None:
            self._land(flight, flight.denial[1], flight.denial[0], now)
        else:
            self._land(flight, None, len(flight.servers), now)

    def _land(
        self, flight: _Flight[Waiter], answer: opaque.OpaqueAnswer | None, place: int, now: float
    ) -> None:
        """End a flight with the answer of the server at `place`, and keep listening to earlier ones."""
        earlier = flight.servers[:place]
        for exchange in list(flight.exchanges.values()):
            if (
                exchange.server in earlier
                and exchange.server.near is None
                and self._keep_listening(exchange, now)
            ):
                continue
            if exchange.server not in earlier:
                self._upstreams.note_unheard(exchange.server)
            self._close(exchange)
        if (
            answer is not None
            and earlier
            and (not answer.positive or self._may_contradict(flight, earlier, now))
        ):
            answer = _kept_at_most(answer, int(self._config.failure_ttl_s))
        self._remove(flight)
        self._landed.append(Landed(flight.key, tuple(waiter for _, waiter in flight.waiters), answer))

    def _keep_listening(self, exchange: _Exchange[Waiter], now: float) -> bool:
        if len(self._late) >= _MAX_LATE:
            return False
        assert exchange.flight is not None
        del exchange.flight.exchanges[exchange.server]
        exchange.flight = None
        self._make_late(exchange, now + self._config.budget_s)
        return True

    def _make_late(self, exchange: _Exchange[Waiter], until: float) -> None:
        self._late.add(exchange.exchange_id)
        self._push(until, exchange)

    def _remove(self, flight: _Flight[Waiter]) -> None:
        del self._flights[flight.key]
        self._disown(flight)
        question = (flight.key.name, flight.key.rtype)
        self._asking[question] -= 1
        if not self._asking[question]:
            del self._asking[question]

    def _disown(self, flight: _Flight[Waiter]) -> None:
        owned = self._owned[flight.owner]
        del owned[flight.key]
        if not owned:
            del self._owned[flight.owner]

    # --- exchanges ----------------------------------------------------------------------------------------------

    def _send(
        self, flight: _Flight[Waiter], server: UpstreamServer, now: float, *, refused_opt: bool = False
    ) -> None:
        with_opt = not refused_opt and self._upstreams.speaks_edns(server, now)
        exchange = self._open(flight.key, server, flight.transport, now, with_opt=with_opt)
        exchange.flight = flight
        exchange.refused_opt = refused_opt
        flight.exchanges[server] = exchange
        self._upstreams.note_asked(server, now)

    def _open(
        self, key: CacheKey, server: UpstreamServer, transport: Transport, now: float, *, with_opt: bool
    ) -> _Exchange[Waiter]:
        opt = edns.render_opt(self._config.udp_limit_bytes, dnssec_ok=key.dnssec_ok) if with_opt else b""
        flags = c.RD | (c.CD if key.checking_disabled else 0)
        message_id = self._rng.getrandbits(16)
        payload = render_query(message_id, key.name, key.rtype, flags=flags, opt=opt)
        again_at = now + self._config.retransmit_s
        if transport is Transport.TCP:
            payload = len(payload).to_bytes(2, "big") + payload
            again_at = _NEVER
        self._last_id += 1
        exchange: _Exchange[Waiter] = _Exchange(
            self._last_id, key, server, transport, message_id, now, with_opt, again_at
        )
        self._exchanges[exchange.exchange_id] = exchange
        self.counts["sent"] += 1
        self._commands.append(UpstreamQuery(exchange.exchange_id, transport, server, payload))
        return exchange

    def _receive(self, exchange: _Exchange[Waiter], payload: bytes, now: float) -> None:
        rcode = _bare_refusal(payload)
        answer, truncated = None, False
        key = exchange.key
        try:
            if payload[:2] != exchange.message_id.to_bytes(2, "big"):
                raise FormatError("another id")
            if rcode is None:
                answer, truncated = opaque.answer_untrusted(
                    payload,
                    key.name + key.rtype.to_bytes(2, "big") + c.IN.to_bytes(2, "big"),
                    max_ttl_s=self._config.max_ttl_s,
                    max_negative_ttl_s=self._config.max_negative_ttl_s,
                )
                rcode = answer.rcode
        except FormatError:
            self._wrong(exchange, now)
            return
        self._upstreams.note_answer(exchange.server, now - exchange.sent_at, now)
        good = answer if rcode in {c.NOERROR, c.NXDOMAIN} else None
        if good is not None and exchange.refused_opt:
            self._upstreams.note_no_edns(exchange.server, now)
        flight = exchange.flight
        if flight is None:
            if good is not None and not truncated and not (exchange.is_probe or exchange.is_check):
                self._landed.append(Landed(key, (), good))
            self._close(exchange)
        elif rcode in _REFUSES_EDNS and exchange.with_opt:
            self._close(exchange)
            self._send(flight, exchange.server, now, refused_opt=True)
            self._set_due(flight, now)
        elif good is None:
            self.counts["bad_answers"] += 1
            if exchange.server.near is None:
                self._server_failed(exchange, now)
            else:
                self._land(flight, None, 0, now)
        elif truncated and exchange.transport is Transport.UDP:
            self._go_on_by_tcp(exchange, flight, now)
        else:
            self._answered(exchange, flight, good, now)

    def _answered(
        self, exchange: _Exchange[Waiter], flight: _Flight[Waiter], answer: opaque.OpaqueAnswer, now: float
    ) -> None:
        place = flight.servers.index(exchange.server)
        self._close(exchange)
        if answer.positive:
            self._land(flight, answer, place, now)
            return
        # Servers after one that has denied the name know less than it does, so they are not waited for.
        flight.denial = (place, answer)
        behind = flight.servers[place + 1 :]
        flight.unasked = [server for server in flight.unasked if server not in behind]
        for other in [one for server, one in flight.exchanges.items() if server in behind]:
            self._upstreams.note_unheard(other.server)
            self._close(other)
        self._advance(flight, now)

    def _go_on_by_tcp(self, exchange: _Exchange[Waiter], flight: _Flight[Waiter], now: float) -> None:
        flight.transport = Transport.TCP
        self._close(exchange)
        self._send(flight, exchange.server, now)
        self._set_due(flight, now)

    def _wrong(self, exchange: _Exchange[Waiter], now: float) -> None:
        self.counts["refused_answers"] += 1
        exchange.wrong += 1
        if exchange.transport is Transport.TCP:
            self._server_failed(exchange, now)
        elif exchange.wrong >= _MAX_WRONG:
            if exchange.flight is None:
                self._close(exchange)
            else:
                self._go_on_by_tcp(exchange, exchange.flight, now)

    def _server_failed(self, exchange: _Exchange[Waiter], now: float) -> None:
        """Note that the server can't answer this question: the next one is due."""
        flight = exchange.flight
        self._close(exchange)
        if flight is not None:
            flight.failed.add(exchange.server)
            if not flight.exchanges:
                flight.next_at = now
            self._advance(flight, now)

    def _close(self, exchange: _Exchange[Waiter]) -> None:
        del self._exchanges[exchange.exchange_id]
        if exchange.flight is not None:
            del exchange.flight.exchanges[exchange.server]
        self._late.discard(exchange.exchange_id)
        if exchange.is_probe:
            del self._probes[exchange.key.name]
        if exchange.is_check:
            del self._checks[exchange.server]
        self._commands.append(UpstreamClose(exchange.exchange_id))

    # --- loops --------------------------------------------------------------------------------------------------

    def _look_for_loops(self, flight: _Flight[Waiter], now: float) -> None:
        """Send probes for a question that arrived while it is in flight: a server may have sent it to us."""
        probed = {probe.server for probe in self._probes.values()} if self._probes else frozenset()
        for server in flight.exchanges:
            if (
                server in probed
                or len(self._late) >= _MAX_LATE
                or not self._upstreams.take_probe(server, now)
            ):
                continue
            label = f"{self._rng.getrandbits(64):016x}".encode()
            key = CacheKey(
                (server,), b"\x10" + label + _PROBE_ZONE, c.TXT, dnssec_ok=False, checking_disabled=False
            )
            probe = self._open(key, server, Transport.UDP, now, with_opt=False)
            probe.is_probe = True
            self._probes[key.name] = probe
            self._make_late(probe, now + _PROBE_S)
            self.counts["probes"] += 1

    def _check(self, server: UpstreamServer, sent_at: float, now: float) -> None:
        """Ask a server that has been silent since `sent_at` for something that each server has at hand."""
        if server in self._checks or len(self._late) >= _MAX_LATE:
            return
        if self._upstreams.needs_check(server, sent_at):
            key = CacheKey((server,), ROOT, c.SOA, dnssec_ok=False, checking_disabled=False)
            check = self._open(key, server, Transport.UDP, now, with_opt=False)
            check.is_check = True
            self._checks[server] = check
            self._make_late(check, now + _CHECK_S)
            self.counts["checks"] += 1

    def check_invariants(self) -> None:
        """Raise unless flights and exchanges point at each other, each flight has an owner, and all have a
        deadline."""
        assert len(self._flights) <= self._config.max_flights
        assert len(self._late) <= _MAX_LATE
        in_flight = {
            one.exchange_id for flight in self._flights.values() for one in flight.exchanges.values()
        }
        assert not in_flight & self._late
        assert in_flight | self._late == set(self._exchanges)
        assert {probe.exchange_id for probe in self._probes.values()} <= self._late
        assert {check.exchange_id for check in self._checks.values()} <= self._late
        owned = [(key, owner) for owner, keys in self._owned.items() for key in keys]
        assert sorted(map(str, owned)) == sorted(
            str((key, flight.owner)) for key, flight in self._flights.items()
        )
        assert sum(self._asking.values()) == len(self._flights)
        for flight in self._flights.values():
            assert 0 < len(flight.exchanges) <= _MAX_OPEN
            assert flight.waiters
            assert flight.owner in {owner for owner, _ in flight.waiters}
            assert flight.due_at <= flight.deadline_at
            assert any(due_at == flight.due_at for due_at, _, what in self._due if what is flight)
        for exchange_id in self._late:
            assert any(what is self._exchanges[exchange_id] for _, _, what in self._due)


def _kept_at_most(answer: opaque.OpaqueAnswer, seconds: int) -> opaque.OpaqueAnswer:
    """Return the same answer with its lifetime limited, for clients and for the cache."""
    ttls = tuple((offset, min(ttl_s, seconds)) for offset, ttl_s in answer.ttls)
    return dataclasses.replace(answer, ttls=ttls, keep_s=min(answer.keep_s, seconds))


def _bare_refusal(payload: bytes) -> int | None:
    """Return the rcode of an answer without a question, as old servers send it for queries they do not understand."""
    if len(payload) < c.HEADER_BYTES or not payload[2] & 0x80 or payload[4:6] != b"\x00\x00":
        return None
    rcode = payload[3] & 0xF
    return rcode if rcode not in {c.NOERROR, c.NXDOMAIN} else None
