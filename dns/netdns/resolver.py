"""Resolver: the one public state machine. Queries in, replies out, upstream exchanges as commands; no socket, no
clock.

    reply = resolver.handle_query(payload, client, Transport.UDP, token, now)   # bytes: send them; None: nothing yet
    resolver.handle_upstream_datagram(exchange_id, payload, now)                # and _stream_data, _end
    resolver.handle_deadline(now)                                               # early or repeated calls do nothing
    output = resolver.drain()                                                   # after every call above
    resolver.next_deadline()                                                    # ask again after every call above

A query passes up to three levels. The first is the client's table of finished answers (`hot.py`): a dict from the
query's octets, less its id, to the octets of the answer, own or upstream's, in a few tenths of a microsecond. A
driver may use it directly, by `hot_table`. The second parses the query and asks the source. Both answer at once. The
third is the cache and upstream; answers that have to wait leave by `drain`.
"""

from __future__ import annotations

import ipaddress
import math
import random
from collections import Counter, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, TypeAlias

from netdns import answer as answers
from netdns import constants as c
from netdns import opaque, rebinding
from netdns.cache import Cache, CachedAnswer, CacheKey
from netdns.config import ResolverConfig, Transport
from netdns.errors import FormatError, UsageError
from netdns.forward import Forwarder, Landed, UpstreamClose, UpstreamQuery, UpstreamRepeat
from netdns.hot import HotTable
from netdns.latency import Latency
from netdns.message import Query, Reply, is_query_untrusted, query_untrusted, render, render_refusal
from netdns.servers import Servers, UpstreamServer
from netdns.source import Client, RecordSource
from netdns.upstream import ServerHealth

__all__ = [
    "Output",
    "QueryReply",
    "Resolver",
    "ResolverConfig",
    "Transport",
    "UpstreamClose",
    "UpstreamQuery",
    "UpstreamRepeat",
]


class QueryReply(NamedTuple):
    """A reply that had to wait. `token` is the one given with the query."""

    client: Client
    token: Hashable
    transport: Transport
    payload: bytes


@dataclass(frozen=True, slots=True)
class Output:
    """What the driver must do now. Upstream commands in order."""

    replies: tuple[QueryReply, ...] = ()
    upstream: tuple[UpstreamQuery | UpstreamRepeat | UpstreamClose, ...] = ()


Veil: TypeAlias = Callable[[bytes], bool]
"""Whether an address (4 or 16 octets) from a server near a client is one that only the source may give, or hides."""


IsInside: TypeAlias = Callable[[bytes], bool]
"""Whether an address (4 or 16 octets) from a server is one that no outside server may give."""


def _sees_all(_address: bytes) -> bool:
    return False


class _View:
    """Everything kept for one client."""

    __slots__ = (
        *("forwarding", "full_at", "gone", "hot", "near", "over_rate_at", "servers"),
        *("veiled", "version", "waiting"),
    )

    def __init__(self, hot: HotTable) -> None:
        self.full_at = -math.inf
        """When the client may ask a whole burst again, if it asks nothing until then."""
        self.over_rate_at = -math.inf
        """When a query of it was last refused because it asked too many."""
        self.forwarding = True
        self.gone = False
        self.servers: Servers | None = None
        self.near: Servers = ()
        self.veiled: Veil = _sees_all
        self.version: int | None = None
        self.hot = hot
        self.waiting = 0


class _Waiter(NamedTuple):
    view: _View
    client: Client
    token: Hashable
    transport: Transport
    query: Query
    otherwise: Reply
    asked_at: float


class Resolver:
    """Answers the queries of many clients from one source, and from upstream what the source does not own.

    `rng` makes ids and orders: `random.SystemRandom()` outside of tests, because with a predictable id any machine
    that can send packets could answer in upstream's place. Clients need no announcement. `is_inside` recognises
    addresses that only the source may give: an upstream answer with one of them becomes an empty one, with extended
    error 15.
    """

    def __init__(
        self,
        *,
        source: RecordSource,
        rng: random.Random,
        now: float,
        config: ResolverConfig | None = None,
        is_inside: IsInside = rebinding.is_loopback,
    ) -> None:
        self._source = source
        self._rng = rng
        self._now = now
        self._config = config or ResolverConfig()
        self._views: dict[Client, _View] = {}
        self._default_servers: Servers = ()
        self._cache = Cache(max_entries=self._config.cache_entries, max_bytes=self._config.cache_bytes)
        self._forwarder: Forwarder[_Waiter] = Forwarder(rng=rng, config=self._config)
        self._is_inside = is_inside
        self._waiting = 0
        self._waiting_clients = 0
        self._unanswered: deque[tuple[_Waiter, Landed[_Waiter]]] = deque()
        self._replies: list[QueryReply] = []
        self._hot_hits = 0
        self._rcodes: Counter[int] = Counter()
        """Of the replies, but for those from the clients' present tables of finished answers with RCODE 0."""
        self._waited = Latency()
        """How long the clients waited whose queries went upstream."""
        self._counts: Counter[str] = Counter()

    def set_default_upstreams(self, servers: Sequence[tuple[str, int]]) -> None:
        """Set the (address, port) of the servers for clients without their own, best first. Raises UsageError."""
        self._default_servers = _checked(servers)
        for view in self._views.values():
            view.hot.clear()

    def set_upstreams(
        self,
        client: Client,
        servers: Sequence[tuple[str, int]] | None = None,
        *,
        forwarding: bool = True,
        near: tuple[str, int] | None = None,
        veiled: Veil | None = None,
    ) -> None:
        """Give a client servers of its own (None: the default ones) or forbid it to resolve outside names.

        Without `forwarding` a name that the source does not own is REFUSED with extended error 18. `near` is a server
        in the client's own network. It is asked first for all names that the source does not own, including those
        that never leave a host, and without `forwarding` too. Its names may change at any moment, so its answers are
        not kept; an answer with an address for which `veiled` returns True counts as "no such name": the source hides
        it. Raises UsageError for an invalid address; then nothing has changed.
        """
        checked = None if servers is None else _checked(servers)
        checked_near = () if near is None else _checked([near], near=client)
        view = self._view(client)
        view.servers = checked
        view.near = checked_near
        view.veiled = veiled or _sees_all
        view.forwarding = forwarding
        view.hot.clear()

    def forget_client(self, client: Client) -> None:
        """Drop everything kept for a client, and the answers that it waits for."""
        view = self._views.pop(client, None)
        if view is not None:
            view.gone = True
            self._hot_hits += view.hot.hits
            self._count_finished(view.hot)

    def hot_table(self, client: Client) -> HotTable:
        """Return the finished answers of a client, for use by UDP before `handle_query`.

        They are right until the source or the servers change, or anything waits.
        """
        view = self._views.get(client)
        if view is None:
            view = self._view(client)
        version = self._source.version(client)
        if version != view.version:
            view.hot.clear()
            view.version = version
        return view.hot

    def handle_query(
        self, payload: bytes, client: Client, transport: Transport, reply_token: Hashable, now: float
    ) -> bytes | None:
        """Answer a query at once if possible.

        None means that there is nothing to send now: the answer comes by `drain` with `reply_token`, or the octets
        get none. Any octets are harmless.
        """
        if transport is Transport.UDP:
            finished = self.hot_table(client).answer(payload, now)
            if finished is not None:
                return finished
        reply = self._reply(payload, client, transport, reply_token, now)
        if reply is not None:
            self._rcodes[reply[3] & 0xF] += 1
        return reply

    def _reply(
        self, payload: bytes, client: Client, transport: Transport, reply_token: Hashable, now: float
    ) -> bytes | None:
        view = self._view(client)
        self._now = now
        if not is_query_untrusted(payload):
            self._counts["refused_not_a_query"] += 1
            return None
        if payload[2] & 0x78:
            self._counts["refused_opcode"] += 1
            return self._refuse(payload, c.NOTIMP)
        if not self._may_ask(view, now):
            self._counts["refused_over_rate"] += 1
            view.over_rate_at = now
            return self._refuse(payload, c.REFUSED)
        try:
            query = query_untrusted(payload)
        except FormatError:
            self._counts["refused_format"] += 1
            return self._refuse(payload, c.FORMERR)
        self._counts["asked"] += 1
        return self._answer(
            payload, query, view, _Waiter(view, client, reply_token, transport, query, _UNREACHABLE, now), now
        )

    def _may_ask(self, view: _View, now: float) -> bool:
        """Count one more query of a client; return whether it may ask it: a token bucket, kept as the time at which
        it is full."""
        full_at = max(view.full_at, now) + 1 / self._config.queries_per_client_s
        if full_at - now > self._config.query_burst_per_client / self._config.queries_per_client_s:
            return False
        view.full_at = full_at
        return True

    def over_rate(self, since: float) -> list[Client]:
        """Return the clients that have had a query refused since then because they asked too many."""
        return [client for client, view in self._views.items() if view.over_rate_at >= since]

    def handle_upstream_datagram(self, exchange_id: int, payload: bytes, now: float) -> None:
        """Handle a datagram on the socket of an UpstreamQuery by UDP."""
        self._forwarder.handle_datagram(exchange_id, payload, now)
        self._settle(now)

    def handle_upstream_stream_data(self, exchange_id: int, data: bytes, now: float) -> None:
        """Handle octets on the connection of an UpstreamQuery by TCP, in pieces of any size."""
        self._forwarder.handle_stream_data(exchange_id, data, now)
        self._settle(now)

    def handle_upstream_end(self, exchange_id: int, now: float) -> None:
        """Note that the socket of an UpstreamQuery could not be opened, failed, or was closed by the server."""
        self._forwarder.handle_end(exchange_id, now)
        self._settle(now)

    def handle_deadline(self, now: float) -> None:
        """Retry and give up where it is time."""
        self._forwarder.handle_deadline(now)
        self._settle(now)

    def next_deadline(self) -> float:
        """Return when to call handle_deadline; infinity if nothing waits."""
        return self._now if self._unanswered else self._forwarder.next_deadline()

    def drain(self) -> Output:
        """Return what has to be done since the last call. A second call returns nothing."""
        replies = tuple(self._replies)
        self._replies.clear()
        return Output(replies, self._forwarder.drain())

    def statistics(self) -> dict[str, int]:
        """Return counters since the start and present sizes.

        `queries` counts understood queries, `refused_<reason>` the others; `rcode_<number>` all replies.
        """
        upstream = {f"upstream_{reason}": count for reason, count in self._forwarder.counts.items()}
        hot_hits = self._hot_hits + sum(view.hot.hits for view in self._views.values())
        rcodes, hot_negative = self._rcodes.copy(), 0
        for view in self._views.values():
            rcodes.update(view.hot.negative)
            hot_negative += view.hot.negative.total()
        rcodes[0] += sum(view.hot.hits for view in self._views.values()) - hot_negative
        sizes = {
            "clients": len(self._views),
            "queries": hot_hits + self._counts["asked"],
            "hot_hits": hot_hits,
            "cache_entries": len(self._cache),
            "cache_bytes": self._cache.size_bytes,
            "flights": len(self._forwarder),
        }
        replies = {f"rcode_{rcode}": count for rcode, count in rcodes.items()}
        return {**self._counts, **upstream, **sizes, **replies, **self._waited.statistics("waited")}

    def server_health(self) -> dict[str, ServerHealth]:
        """Return the health of the servers for clients without their own, by address, in the configured order."""
        return {one.address: self._forwarder.health(one) for one in self._default_servers}

    def _count_finished(self, hot: HotTable) -> None:
        """Count the replies of a table that is dropped."""
        self._rcodes.update(hot.negative)
        self._rcodes[0] += hot.hits - hot.negative.total()

    def check_invariants(self) -> None:
        """Raise unless every table is within its bound and every waiting query is counted once."""
        self._cache.check_invariants()
        self._forwarder.check_invariants()
        for view in self._views.values():
            view.hot.check_invariants()
            assert 0 <= view.waiting <= self._config.max_waiting_per_client
        assert 0 <= self._waiting_clients <= self._waiting
        assert self._forwarder.next_deadline() <= self._now + self._config.budget_s or not len(
            self._forwarder
        )

    def _view(self, client: Client) -> _View:
        view = self._views.get(client)
        if view is None:
            hot = HotTable(
                max_entries=self._config.hot_entries_per_client, max_bytes=self._config.hot_bytes_per_client
            )
            view = self._views[client] = _View(hot)
        return view

    def _answer(self, payload: bytes, query: Query, view: _View, waiter: _Waiter, now: float) -> bytes | None:
        if self._forwarder.claim_probe(query.name, now):
            self._settle(now)
            return None
        decision = answers.decide(
            query, self._source, waiter.client, forwarding=view.forwarding, near=bool(view.near)
        )
        if isinstance(decision, Reply):
            self._counts[f"answered_rcode_{decision.rcode}"] += 1
            if waiter.transport is Transport.UDP and decision.rcode in {c.NOERROR, c.NXDOMAIN}:
                return self._keep_hot(payload, query, decision, view)
            return self._render(query, decision, waiter.transport, self._rng.choice(_beginnings(decision)))
        if decision.otherwise is not None:
            return self._forward(payload, view.near, waiter._replace(otherwise=decision.otherwise), now)
        far = self._default_servers if view.servers is None else view.servers
        return self._forward(payload, view.near + far, waiter, now)

    def _forward(self, payload: bytes, servers: Servers, waiter: _Waiter, now: float) -> bytes | None:
        view, query = waiter.view, waiter.query
        if not servers:
            return self._fail(
                waiter, answers.failure(c.EDE_NO_REACHABLE_AUTHORITY, "no upstream server is known")
            )
        key = CacheKey(servers, query.name, query.rtype, query.dnssec_ok, bool(query.flags & c.CD))
        kept = self._cache.get(key, now)
        if kept is not None:
            self._counts["cache_hits"] += 1
            if kept.answer is None:
                return self._fail(waiter, waiter.otherwise)
            return self._relay_kept(payload, waiter, kept, now)
        if not self._may_wait(view) or not self._forwarder.ask(key, waiter, waiter.client, now):
            return self._fail(waiter, _CROWDED)
        self._counts["forwarded"] += 1
        self._waiting += 1
        self._waiting_clients += not view.waiting
        view.waiting += 1
        self._settle(now)
        return None

    def _may_wait(self, view: _View) -> bool:
        """Return whether one more query of a client may wait: beyond the bound for all, up to its equal share."""
        if view.waiting >= self._config.max_waiting_per_client:
            return False
        share = self._config.max_waiting // max(self._waiting_clients, 1)
        return self._waiting < self._config.max_waiting or view.waiting < share

    def _settle(self, now: float) -> None:
        """Answer waiting clients whose question has been decided, as many as one turn has time for."""
        self._now = now
        for landed in map(self._without_rebinding, self._forwarder.take_landed()):
            answer = landed.answer
            keep_s = self._config.failure_ttl_s if answer is None else answer.keep_s
            if landed.crowded or landed.key.servers[0].near is not None:
                keep_s = 0
            if not landed.crowded:
                self._cache.put(landed.key, answer, keep_s, now)
            self._unanswered.extend((waiter, landed) for waiter in landed.waiters)
        for _ in range(min(len(self._unanswered), self._config.answers_a_turn)):
            waiter, landed = self._unanswered.popleft()
            waiter.view.waiting -= 1
            self._waiting -= 1
            self._waiting_clients -= not waiter.view.waiting
            if not waiter.view.gone:
                payload = self._landed(waiter, landed)
                self._rcodes[payload[3] & 0xF] += 1
                self._waited.observe(now - waiter.asked_at)
                self._replies.append(QueryReply(waiter.client, waiter.token, waiter.transport, payload))

    def _without_rebinding(self, landed: Landed[_Waiter]) -> Landed[_Waiter]:
        answer = landed.answer
        if answer is None or not any(map(self._is_inside, answer.addresses)):
            return landed
        is_near = landed.key.servers[0].near is not None
        if is_near and any(any(map(one.view.veiled, answer.addresses)) for one in landed.waiters[:1]):
            return landed  # addresses that the source hides from the client do not exist for it: see _landed
        self._counts["answers_that_lead_inside"] += 1
        return replace(landed, answer=opaque.emptied(answer, ede=_LEADS_INSIDE))

    def _landed(self, waiter: _Waiter, landed: Landed[_Waiter]) -> bytes:
        """Write the answer for a client that waited."""
        answer = landed.answer
        if answer is None:
            return self._fail(waiter, _CROWDED if landed.crowded else waiter.otherwise)
        is_near = landed.key.servers[0].near is not None
        if is_near and any(map(waiter.view.veiled, answer.addresses)):
            return self._render(waiter.query, answers.absence(waiter.query), waiter.transport, 0)
        return self._relay(waiter, answer, age_s=0)

    def _relay_kept(self, payload: bytes, waiter: _Waiter, kept: CachedAnswer, now: float) -> bytes:
        """Relay a cached answer, and keep it finished for as long as its TTLs show the same numbers."""
        assert kept.answer is not None
        age_s = int(now - kept.stored_at)
        answer = kept.answer
        if any(map(self._is_inside, answer.addresses)):  # the address was outside when the answer came
            answer = opaque.emptied(answer, ede=_LEADS_INSIDE)
        reply = self._relay(waiter, answer, age_s=age_s)
        if waiter.transport is Transport.UDP:
            waiter.view.hot.keep(payload, reply, min(kept.stored_at + age_s + 1, kept.expires_at))
        return reply

    def _fail(self, waiter: _Waiter, reply: Reply) -> bytes:
        self._counts["failed"] += 1
        return self._render(waiter.query, reply, waiter.transport, 0)

    def _relay(self, waiter: _Waiter, answer: opaque.OpaqueAnswer, *, age_s: int) -> bytes:
        return opaque.relay(
            answer,
            waiter.query,
            age_s=age_s,
            limit_bytes=self._limit_bytes(waiter.query, waiter.transport),
            our_size_bytes=self._config.udp_limit_bytes,
        )

    def _refuse(self, payload: bytes, rcode: int) -> bytes:
        return render_refusal(payload, rcode, our_size_bytes=self._config.udp_limit_bytes)

    def _limit_bytes(self, query: Query, transport: Transport) -> int:
        if transport is Transport.TCP:
            return c.TCP_BYTES
        return query.udp_limit_bytes(self._config.udp_limit_bytes)

    def _render(self, query: Query, reply: Reply, transport: Transport, turn: int) -> bytes:
        limit_bytes = self._limit_bytes(query, transport)
        our_size_bytes = self._config.udp_limit_bytes
        return render(query, reply, limit_bytes=limit_bytes, our_size_bytes=our_size_bytes, turn=turn)

    def _keep_hot(self, payload: bytes, query: Query, reply: Reply, view: _View) -> bytes:
        """Keep the answer for clients that send the same octets again, and return it in one order."""
        orders = self._kept_orders(_beginnings(reply))
        if len(orders) == 1:
            rendered = self._render(query, reply, Transport.UDP, orders[0])
            view.hot.keep(payload, rendered, math.inf)
            return rendered

        def finish(order: int) -> bytes:
            return self._render(query, reply, Transport.UDP, order)[2:]

        # A random start: a question that is seldom repeated octet for octet must not always get the first order.
        return view.hot.keep_turning(payload, finish, orders=orders, turn=self._rng.randrange(len(orders)))

    def _kept_orders(self, beginnings: Sequence[int]) -> Sequence[int]:
        """Return the orders to keep: all, or some at even distances from a random one, so that each record has its
        share of the first places among all clients."""
        most = self._config.max_rotations
        if len(beginnings) <= most or len(set(beginnings)) <= most:
            return beginnings
        offset = self._rng.random()
        return [beginnings[int((place + offset) * len(beginnings) / most)] for place in range(most)]


_ONE_ORDER: Final = (0,)


def _beginnings(reply: Reply) -> Sequence[int]:
    """Return the indexes with which answers may begin in the RRset that rotates."""
    return reply.answers[-1][1].beginnings if reply.answers else _ONE_ORDER


_CROWDED: Final = answers.failure(c.EDE_OTHER, "too many queries are waiting for upstream")
_LEADS_INSIDE: Final = (c.EDE_BLOCKED, "an outside name server gave an inside address")
_UNREACHABLE: Final = answers.failure(c.EDE_NO_REACHABLE_AUTHORITY, "no upstream server gave an answer")


def _checked(servers: Sequence[tuple[str, int]], *, near: Client = None) -> Servers:
    for address, port in servers:
        try:
            ipaddress.ip_address(address)
        except ValueError as error:
            raise UsageError(f"upstream server {address!r}: not an IP address") from error
        if not 0 < port < 65536:
            raise UsageError(f"upstream server {address}: no port {port}")
    return tuple(dict.fromkeys(UpstreamServer(address, port, near) for address, port in servers))
