"""The resolver's machine under virtual time."""

from __future__ import annotations

import random

import dns.message

from netdns.resolver import Resolver, ResolverConfig, Transport, UpstreamClose, UpstreamQuery
from netdns.testing import Heard, TableSource
from tests.dns.world import respond_to

ONE = [("192.0.2.1", 53)]
TWO = [("192.0.2.1", 53), ("192.0.2.2", 53)]


class Bench:
    """A resolver, a virtual clock, and what it sent: (seconds since the start, command)."""

    def __init__(self, servers, **options) -> None:
        self.now = 1000.0
        config = ResolverConfig(**options)
        source = TableSource("mesh.test")
        self.resolver = Resolver(source=source, rng=random.Random(1), now=self.now, config=config)
        self.resolver.set_default_upstreams(servers)
        self.sent: list[tuple[float, UpstreamQuery]] = []
        self.closed: set[int] = set()
        self.replies: list[dns.message.Message] = []

    def drain(self) -> None:
        output = self.resolver.drain()
        for command in output.upstream:
            if isinstance(command, UpstreamClose):
                self.closed.add(command.exchange_id)
            else:
                self.sent.append((round(self.now - 1000, 3), command))
        self.replies += [
            dns.message.from_wire(reply.payload) for reply in output.replies if reply.token == "token"
        ]
        assert self.resolver.drain().replies == ()
        self.resolver.check_invariants()

    def ask(
        self, qname: str = "a.test", rtype: str = "A", transport: Transport = Transport.UDP
    ) -> dns.message.Message | None:
        query = dns.message.make_query(qname, rtype)
        reply = self.resolver.handle_query(query.to_wire(), "client", transport, "token", self.now)
        self.drain()
        return None if reply is None else dns.message.from_wire(reply)

    def run_until(self, at: float) -> None:
        while (deadline := self.resolver.next_deadline()) <= 1000 + at:
            self.now = max(deadline, self.now)
            self.resolver.handle_deadline(self.now)
            self.drain()
        self.now = 1000 + at

    def answer(self, *records, index: int = -1, **options) -> None:
        query = self.sent[index][1]
        reply = respond_to(Heard(query.payload, 0, Transport.UDP), *records, **options).to_wire()
        self.resolver.handle_upstream_datagram(query.exchange_id, reply, self.now)
        self.drain()
