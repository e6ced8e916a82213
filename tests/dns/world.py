"""A real Server on loopback with the records of the checklist, a scriptable upstream, and dnspython as the client."""

from __future__ import annotations

import ipaddress
import random
import time
from collections.abc import Callable, Iterable
from typing import Any

import dns.flags
import dns.message
import dns.rrset
import trio

from netdns import constants as c
from netdns import name, rdata
from netdns.config import ResolverConfig
from netdns.resolver import Resolver
from netdns.server import Server
from netdns.testing import ReceivedQuery, TableSource, UpstreamDouble, listening_pair

BOUND_S = 8.0
"""On any single wait: above the 3.5 s budget of the resolver, and only reached when something is broken."""

WEB_A = ("10.1.0.11", "10.1.0.12", "10.1.0.13")
WEB_AAAA = ("fd00:1::11", "fd00:1::12", "fd00:1::13")


def _put_service(
    source: TableSource, service: str, network: str, a: Iterable[str], aaaa: Iterable[str] = ()
) -> None:
    """As a resolver for containers has it: the full name, name.network, and the bare name."""
    v4, v6 = [rdata.a(text) for text in a], [rdata.aaaa(text) for text in aaaa]
    for client in ("ask",):
        for owner in (f"{service}.{network}.mesh.internal", f"{service}.mesh.internal", service):
            for rtype, data in ((c.A, v4), (c.AAAA, v6)):
                if data:
                    source.put(owner, rtype, data, client=client)


def make_source() -> TableSource:
    """The fixture of the checklist."""
    source = TableSource(
        "mesh.internal", "0.1.10.in-addr.arpa", "0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa", serial=77
    )
    _put_service(source, "web", "front", WEB_A, WEB_AAAA)
    _put_service(source, "db", "back", ["10.2.0.21"])
    _put_service(source, "six", "front", [], ["fd00:1::66"])
    _put_service(source, "big", "front", [f"10.1.0.{number}" for number in range(100, 160)])
    _put_service(source, "huge", "front", [f"10.1.{number}.1" for number in range(200)])
    _put_service(source, "*.apps", "front", ["10.1.0.50"])
    _put_service(source, "x.apps", "front", ["10.1.0.51"])
    source.put("secret.mesh.internal", c.A, [rdata.a("10.9.0.9")], client="other")
    source.put("database", c.A, [rdata.a("10.2.0.21")], client="ask")
    source.put("web.mesh.internal", c.TXT, [rdata.txt(b"v" * 300, b"version=3")], client="ask")
    target = name.from_text("web.front.mesh.internal")
    source.put("_http._tcp.web.mesh.internal", c.SRV, [rdata.srv(0, 1, 8080, target)], client="ask")
    for text in (*WEB_A[:1], *WEB_AAAA[:1]):
        source.put(
            ipaddress.ip_address(text).reverse_pointer,
            c.PTR,
            [rdata.ptr(name.from_text("web.h1.front.mesh.internal"))],
            client="ask",
        )
    return source


class World:
    """What a scenario plays with."""

    def __init__(self, nursery: trio.Nursery, config: ResolverConfig) -> None:
        self.nursery = nursery
        self.source = make_source()
        self.resolver = Resolver(
            source=self.source, rng=random.Random(5), now=time.monotonic(), config=config
        )
        self.server = Server(self.resolver)
        self.addresses: dict[str, tuple[str, int]] = {}
        self.upstreams: list[UpstreamDouble] = []
        self.streams: list[trio.SocketStream] = []

    def listen(self, client: str) -> tuple[str, int]:
        udp, tcp = listening_pair()
        self.addresses[client] = udp.getsockname()
        self.server.add_listener(client, udp, tcp)
        return self.addresses[client]

    def upstream(self, behave: Callable[[ReceivedQuery], Iterable[tuple[float, bytes]]]) -> UpstreamDouble:
        """Start a server and append it to the default ones."""
        double = UpstreamDouble(behave)
        self.nursery.start_soon(double.run)
        self.upstreams.append(double)
        self.resolver.set_default_upstreams([each.address for each in self.upstreams])
        return double

    async def raw(self, payload: bytes, client: str = "ask", wait_s: float = BOUND_S) -> bytes | None:
        """Send octets by UDP; return the first answer, None if none comes in time."""
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
            await sock.connect(self.addresses[client])
            await sock.send(payload)
            with trio.move_on_after(wait_s):
                return await sock.recv(65535)
        return None

    async def send(self, query: dns.message.Message, client: str = "ask") -> dns.message.Message:
        payload = await self.raw(query.to_wire(), client)
        assert payload is not None, f"no answer to {query.question}"
        reply = dns.message.from_wire(payload)
        assert reply.id == query.id
        return reply

    async def ask(
        self,
        qname: str,
        rtype: str = "A",
        *,
        client: str = "ask",
        rclass: str = "IN",
        flags: int = dns.flags.RD,
        **edns: Any,
    ) -> dns.message.Message:
        query = dns.message.make_query(qname, rtype, rclass, flags=flags, **edns)
        return await self.send(query, client)

    async def stream(self, client: str = "ask") -> trio.SocketStream:
        """Connect; closed at the end of the scenario."""
        stream = await trio.open_tcp_stream(*self.addresses[client])
        self.streams.append(stream)
        return stream

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Look every 5 ms; the scenario's own bound ends a wait for what never comes."""
        while not condition():
            await trio.sleep(0.005)

    async def is_alive(self) -> None:
        assert texts(await self.ask("web")) == set(WEB_A)


async def send_message(stream: trio.SocketStream, query: dns.message.Message) -> None:
    wire = query.to_wire()
    await stream.send_all(len(wire).to_bytes(2, "big") + wire)


async def receive_message(stream: trio.SocketStream) -> dns.message.Message:
    data = b""
    while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
        want = 2 + int.from_bytes(data[:2], "big") - len(data) if len(data) >= 2 else 2 - len(data)
        chunk = await stream.receive_some(want)
        assert chunk, "the server closed the connection"
        data += chunk
    return dns.message.from_wire(data[2:])


def option(code: int, data: bytes) -> dns.edns.Option:
    return dns.edns.GenericOption(dns.edns.OptionType.make(code), data)


def wire_of(name: dns.name.Name) -> bytes:
    wire = name.to_wire()
    assert wire is not None
    return wire


def texts(message: dns.message.Message) -> set[str]:
    """The data of the ANSWER section."""
    return {item.to_text() for rrset in message.answer for item in rrset}


def respond(
    *records: tuple[str, int, str, str],
    rcode: int = 0,
    authority: Iterable[tuple[str, int, str, str]] = (),
    flags: int = 0,
) -> Callable[[ReceivedQuery], list[tuple[float, bytes]]]:
    """A behaviour: these records (owner, TTL, type, data) whatever the question."""

    def behave(heard: ReceivedQuery) -> list[tuple[float, bytes]]:
        return [(0.0, respond_to(heard, *records, rcode=rcode, authority=authority, flags=flags).to_wire())]

    return behave


def respond_to(
    heard: ReceivedQuery,
    *records: tuple[str, int, str, str],
    rcode: int = 0,
    authority: Iterable[tuple[str, int, str, str]] = (),
    flags: int = 0,
) -> dns.message.Message:
    """One answer to edit further."""
    query = dns.message.from_wire(heard.payload)
    message = dns.message.make_response(query, recursion_available=True)
    message.flags |= flags
    message.set_rcode(dns.rcode.Rcode.make(rcode))
    for section, rows in ((message.answer, records), (message.authority, authority)):
        for owner, ttl, rtype, data in rows:
            section.append(dns.rrset.from_text(owner, ttl, "IN", rtype, data))
    return message


def silence(heard: ReceivedQuery) -> list[tuple[float, bytes]]:
    return []
