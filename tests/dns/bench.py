"""The resolver's machine under virtual time."""

from __future__ import annotations

import random
import re
from typing import Any

import dns.message

from netdns.resolver import (
    Resolver,
    ResolverConfig,
    Transport,
    UpstreamClose,
    UpstreamQuery,
    UpstreamRepeat,
)
from netdns.servers import UpstreamServer
from netdns.testing import ReceivedQuery, TableSource
from tests.dns.world import respond_to

ONE = [("192.0.2.1", 53)]
TWO = [("192.0.2.1", 53), ("192.0.2.2", 53)]


def question_of(command: UpstreamQuery) -> str:
    """What an upstream query asks for."""
    payload = command.payload[2:] if command.transport is Transport.TCP else command.payload
    return dns.message.from_wire(payload).question[0].name.to_text()


class Bench:
    """A resolver, a virtual clock, and what it sent: (seconds since the start, command).

    `heard` is each datagram that a server gets, repeated ones too: (seconds, the address's last digit). Probes for
    loops and checks of silent servers are apart.
    """

    def __init__(self, servers: list[tuple[str, int]], **options: Any) -> None:
        self.now = 1000.0
        self.speaks_edns = False
        config = ResolverConfig(**options)
        self.source = TableSource("mesh.test")
        self.resolver = Resolver(source=self.source, rng=random.Random(1), now=self.now, config=config)
        self.resolver.set_default_upstreams(servers)
        self.sent: list[tuple[float, UpstreamQuery]] = []
        self.heard: list[tuple[float, str]] = []
        self.probes: list[UpstreamQuery] = []
        self.checks: list[UpstreamQuery] = []
        self.closed: set[int] = set()
        self.replies: list[dns.message.Message] = []

    def drain(self) -> None:
        output = self.resolver.drain()
        for command in output.upstream:
            if isinstance(command, UpstreamClose):
                self.closed.add(command.exchange_id)
            elif isinstance(command, UpstreamRepeat):
                for _, one in self.sent:
                    if one.exchange_id == command.exchange_id:
                        self.heard.append((round(self.now - 1000, 3), one.server.address[-1]))
            elif re.fullmatch(r"[0-9a-f]{16}\.test\.", question_of(command)):
                self.probes.append(command)
            elif question_of(command) == ".":
                self.checks.append(command)
            else:
                self.sent.append((round(self.now - 1000, 3), command))
                self.heard.append((round(self.now - 1000, 3), command.server.address[-1]))
        self.replies += [
            dns.message.from_wire(reply.payload) for reply in output.replies if reply.token == "token"
        ]
        assert self.resolver.drain().replies == ()
        self.resolver.check_invariants()

    def ask(
        self, qname: str = "a.test", rtype: str = "A", transport: Transport = Transport.UDP
    ) -> dns.message.Message | None:
        query = dns.message.make_query(qname, rtype)
        if self.speaks_edns:
            query.use_edns(0)
        reply = self.resolver.handle_query(query.to_wire(), "client", transport, "token", self.now)
        self.drain()
        return None if reply is None else dns.message.from_wire(reply)

    def run_until(self, at: float) -> None:
        while (deadline := self.resolver.next_deadline()) <= 1000 + at:
            self.now = max(deadline, self.now)
            self.resolver.handle_deadline(self.now)
            self.drain()
        self.now = 1000 + at

    def wire_answer(self, *records: tuple[str, int, str, str], index: int = -1, **options: Any) -> bytes:
        """Return what a server says to a query that was sent to it."""
        return respond_to(
            ReceivedQuery(self.sent[index][1].payload, 0, Transport.UDP), *records, **options
        ).to_wire()

    def answer(self, *records: tuple[str, int, str, str], index: int = -1, **options: Any) -> None:
        query = self.sent[index][1]
        reply = self.wire_answer(*records, index=index, **options)
        self.resolver.handle_upstream_datagram(query.exchange_id, reply, self.now)
        self.drain()

    def is_down(self, digit: str) -> bool:
        """Whether a server, by the last digit of its address, is passed over for its silence."""
        upstreams = self.resolver._forwarder._upstreams
        return upstreams.is_down(UpstreamServer(f"192.0.2.{digit}", 53))
