"""The resolver's own business: finished answers, their bounds, their end."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import dns.edns
import dns.message
import dns.rcode
import pytest

from netdns import constants as c
from netdns import name, rdata, special
from netdns.resolver import Resolver, ResolverConfig, Transport
from netdns.source import Found, NoData, NoSuchName, NotOurs, RRset
from netdns.testing import TableSource


class CountingSource(TableSource):
    lookups = 0

    def lookup(self, wire: bytes, rtype: int, client: Hashable) -> Found | NoData | NoSuchName | NotOurs:
        self.lookups += 1
        return super().lookup(wire, rtype, client)


def make(source: CountingSource | None = None, **options: Any) -> tuple[CountingSource, Resolver]:
    source = source or CountingSource("mesh.test")
    source.put("web.mesh.test", c.A, [rdata.a(f"10.0.0.{number}") for number in range(1, 4)])
    return source, Resolver(source=source, rng=random.Random(3), now=0.0, config=ResolverConfig(**options))


def ask(
    resolver: Resolver,
    qname: str,
    rtype: str = "A",
    *,
    client: str = "c",
    transport: Transport = Transport.UDP,
    **edns: Any,
) -> dns.message.Message:
    query = dns.message.make_query(qname, rtype, **edns)
    payload = resolver.handle_query(query.to_wire(), client, transport, "t", 1.0)
    resolver.check_invariants()
    assert payload is not None
    reply = dns.message.from_wire(payload)
    assert reply.id == query.id
    return reply


def test_the_same_octets_are_answered_without_a_lookup_until_the_version_moves() -> None:
    source, resolver = make()
    for _ in range(10):
        ask(resolver, "web.mesh.test")
        ask(resolver, "nosuch.mesh.test")
    assert source.lookups == 2
    source.put("web.mesh.test", c.A, [rdata.a("10.0.0.9")])
    assert ask(resolver, "web.mesh.test").answer[0][0].to_text() == "10.0.0.9"
    assert resolver.statistics()["hot_hits"] == 18


def test_clients_do_not_share_finished_answers() -> None:
    source, resolver = make()
    source.put("mine.mesh.test", c.A, [rdata.a("10.0.0.8")], client="a")
    assert ask(resolver, "mine.mesh.test", client="a").rcode() == dns.rcode.NOERROR
    assert ask(resolver, "mine.mesh.test", client="b").rcode() == dns.rcode.NXDOMAIN


def test_finished_answers_are_bounded_in_number_and_octets() -> None:
    source, resolver = make(hot_entries_per_client=8, hot_bytes_per_client=3000)
    source.put("big.mesh.test", c.A, [rdata.a(f"10.0.1.{number}") for number in range(60)])
    for number in range(100):
        ask(resolver, f"n{number}.mesh.test")  # make() checks the bounds at every step
    ask(resolver, "big.mesh.test", use_edns=0, payload=1232)
    ask(resolver, "web.mesh.test")


def test_a_large_set_by_tcp_is_turned_too() -> None:
    _, resolver = make()
    firsts = {
        ask(resolver, "web.mesh.test", transport=Transport.TCP).answer[0][0].to_text() for _ in range(40)
    }
    assert firsts == {"10.0.0.1", "10.0.0.2", "10.0.0.3"}


def test_canonical_name_and_glue() -> None:
    class Aliases:
        def version(self, client: Hashable) -> int:
            return 1

        def lookup(self, wire: bytes, rtype: int, client: Hashable) -> Found:
            target = name.from_text("web.mesh.test")
            if rtype == c.SRV:
                srv = RRset(c.SRV, 5, (rdata.srv(0, 0, 80, target),))
                return Found(srv, glue=((target, RRset(c.A, 5, (rdata.a("10.0.0.1"),))),))
            return Found(RRset(c.A, 5, (rdata.a("10.0.0.1"),)), canonical=target)

    resolver = Resolver(source=Aliases(), rng=random.Random(3), now=0.0)
    reply = ask(resolver, "www.mesh.test")
    assert [rrset.to_text() for rrset in reply.answer] == [
        "www.mesh.test. 5 IN CNAME web.mesh.test.",
        "web.mesh.test. 5 IN A 10.0.0.1",
    ]
    reply = ask(resolver, "_http._tcp.mesh.test", "SRV")
    assert [rrset.to_text() for rrset in reply.additional] == ["web.mesh.test. 5 IN A 10.0.0.1"]


def test_reverse_zones_cut_inside_a_label() -> None:
    inside = (
        "0.0.16.172.in-addr.arpa",
        "1.1.31.172.in-addr.arpa",
        "9.127.100.in-addr.arpa",
        "0.0.b.e.f.ip6.arpa",
    )
    outside = (
        "0.0.32.172.in-addr.arpa",
        "9.63.100.in-addr.arpa",
        "0.0.c.e.f.ip6.arpa",
        "in-addr.arpa",
        "ip6.arpa",
    )
    for text in inside:
        assert not isinstance(special.lookup_after(name.from_text(text), c.PTR), NotOurs), text
    for text in outside:
        assert isinstance(special.lookup_after(name.from_text(text), c.PTR), NotOurs), text
    assert isinstance(special.lookup_after(name.ROOT, c.A), NotOurs)
    assert isinstance(special.lookup_after(name.from_text("local"), c.A), NoData)


class WeightedSource(CountingSource):
    firsts: tuple[int, ...] = ()

    def lookup(self, wire: bytes, rtype: int, client: Hashable) -> Found | NoData | NoSuchName | NotOurs:
        found = super().lookup(wire, rtype, client)
        return Found(replace(found.rrset, firsts=self.firsts)) if isinstance(found, Found) else found


@pytest.mark.parametrize("transport", list(Transport))
@pytest.mark.parametrize("is_repeated", [False, True])
def test_a_record_is_first_as_often_as_the_source_says(transport: Transport, *, is_repeated: bool) -> None:
    source, resolver = make(WeightedSource("mesh.test"))
    assert isinstance(source, WeightedSource)
    source.firsts = (0, 0, 1, 0, 0, 2, 0, 0)
    firsts: Counter[str] = Counter()
    for number in range(800):
        options = [] if is_repeated else [dns.edns.GenericOption("65001", number.to_bytes(2, "big"))]
        reply = ask(resolver, "web.mesh.test", transport=transport, use_edns=0, options=options)
        assert len(reply.answer[0]) == 3
        firsts[reply.answer[0][0].to_text()] += 1
    assert firsts["10.0.0.1"] == pytest.approx(600, abs=60)
    assert firsts["10.0.0.2"] == pytest.approx(100, abs=40)


def test_every_record_of_a_large_set_is_first_for_some_client() -> None:
    source, resolver = make()
    source.put("big.mesh.test", c.A, [rdata.a(f"10.0.1.{number}") for number in range(60)])
    firsts = set()
    for client in range(100):
        for _ in range(8):
            reply = ask(resolver, "big.mesh.test", client=str(client), use_edns=0)
            firsts.add(reply.answer[0][0].to_text())
    assert len(firsts) == 60
