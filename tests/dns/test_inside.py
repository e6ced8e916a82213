"""Names that do not go outside because they look like ours, and addresses that do not come from there."""

from __future__ import annotations

import random
from collections.abc import Hashable
from typing import Any

import dns.edns
import dns.message
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netdns import rebinding, special
from netdns.resolver import Resolver, Transport
from netdns.source import Found, NoData, NoSuchName, NotOurs
from netdns.testing import TableSource
from tests.dns.bench import ONE, Bench, question_of
from tests.dns.world import texts

NEAR = ("127.0.0.11", 53)
OURS = bytes([10, 0, 0])


def code_and_errors(bench: Bench) -> tuple[str, list[int]]:
    reply = bench.replies[-1]
    return dns.rcode.to_text(reply.rcode()), [int(option.code) for option in reply.options]


def edns_bench(**options: Any) -> Bench:
    """One whose client speaks EDNS, so that it hears of extended errors."""
    bench = Bench(ONE, **options)
    bench.speaks_edns = True
    return bench


@pytest.mark.parametrize(
    ("rtype", "address"),
    [
        ("A", "127.0.0.1"),
        ("A", "0.0.0.0"),
        ("AAAA", "::1"),
        ("AAAA", "::"),
        ("AAAA", "::ffff:127.0.0.1"),
    ],
)
def test_t139_a_name_outside_does_not_lead_to_the_containers_own_ports(rtype: str, address: str) -> None:
    bench = edns_bench()
    bench.ask("evil.test", rtype)
    bench.answer(("evil.test.", 60, rtype, address))
    assert code_and_errors(bench) == ("NOERROR", [dns.edns.EDECode.BLOCKED])
    assert bench.replies[-1].answer == bench.replies[-1].authority == []
    kept = bench.ask("evil.test", rtype)
    assert kept is not None, "it is not asked for again"
    assert kept.answer == []
    assert [int(option.code) for option in kept.options] == [dns.edns.EDECode.BLOCKED]
    assert bench.resolver.statistics()["answers_that_lead_inside"] == 1


def test_one_such_address_among_others_spoils_the_answer() -> None:
    bench = edns_bench()
    bench.ask("evil.test")
    bench.answer(
        ("evil.test.", 60, "CNAME", "more.evil.test."),
        ("more.evil.test.", 60, "A", "198.51.100.1"),
        ("more.evil.test.", 60, "A", "127.0.0.1"),
    )
    assert code_and_errors(bench) == ("NOERROR", [dns.edns.EDECode.BLOCKED])
    assert bench.replies[-1].answer == []


@pytest.mark.parametrize("address", ["127.0.0.2", "192.168.1.1", "10.9.9.9", "172.16.0.1", "169.254.169.254"])
def test_block_lists_of_mail_servers_and_private_servers_outside_are_left_alone(address: str) -> None:
    bench = edns_bench()
    bench.ask("2.0.0.127.zen.test")
    bench.answer(("2.0.0.127.zen.test.", 60, "A", address))
    assert texts(bench.replies[-1]) == {address}


def test_the_users_subnets_are_the_sources_alone_to_give() -> None:
    bench = edns_bench()
    bench.resolver._is_inside = lambda address: address.startswith(OURS)
    for address, code in (("10.0.0.9", [15]), ("10.0.1.9", [])):
        bench.ask(f"n{address}.test")
        bench.answer((f"n{address}.test.", 60, "A", address))
        assert code_and_errors(bench) == ("NOERROR", code)


def test_an_answer_from_before_a_network_was_made_does_not_lead_into_it() -> None:
    """Who knows which subnet comes next could have an answer kept for an hour before."""
    bench = edns_bench()
    bench.ask("evil.test")
    bench.answer(("evil.test.", 3600, "A", "10.0.0.9"))
    kept = bench.ask("evil.test")
    assert kept is not None
    assert texts(kept) == {"10.0.0.9"}
    bench.resolver._is_inside = lambda address: address.startswith(OURS)
    bench.run_until(bench.now + 1.5)  # a finished answer counts for a second
    reply = bench.ask("evil.test")
    assert reply is not None
    assert reply.answer == []
    assert [int(option.code) for option in reply.options] == [dns.edns.EDECode.BLOCKED]


def test_what_is_hidden_from_a_client_stays_absent_when_it_comes_from_near() -> None:
    """The runtime's resolver gives an address of ours: NXDOMAIN as before, for the name is one of ours."""
    bench = Bench(ONE)
    bench.resolver._is_inside = lambda address: address.startswith(OURS)
    bench.resolver.set_upstreams("client", near=NEAR, veiled=lambda address: address == OURS + b"\x09")
    for address, code in (("10.0.0.9", dns.rcode.NXDOMAIN), ("10.0.0.8", dns.rcode.NOERROR)):
        bench.ask()
        bench.answer(("a.test.", 60, "A", address))
        assert bench.replies[-1].rcode() == code
        assert bench.replies[-1].answer == []


def test_a_late_answer_is_looked_at_as_well() -> None:
    bench = Bench([*ONE, ("192.0.2.2", 53)])
    bench.ask()
    bench.run_until(0.2)
    bench.answer(("a.test.", 60, "A", "198.51.100.1"))
    bench.answer(("a.test.", 60, "A", "127.0.0.1"), index=0)
    reply = bench.ask()
    assert reply is not None
    assert reply.answer == []


@pytest.mark.parametrize("rtype", ["HTTPS", "SVCB"])
@pytest.mark.parametrize(
    ("parameters", "leads_inside"),
    [
        ("ipv4hint=198.51.100.1", False),
        ("ipv4hint=127.0.0.2,192.168.1.1", False),
        ("alpn=h2", False),
        ("ipv4hint=198.51.100.1,127.0.0.1", True),
        ("alpn=h2 port=8443 ipv4hint=10.0.0.9", True),
        ("ipv4hint=198.51.100.1 ipv6hint=2001:db8::1,::1", True),
        ("ipv6hint=::ffff:10.0.0.9", True),
        ("ipv6hint=::ffff:198.51.100.1", False),
    ],
)
def test_hints_are_addresses_as_well(rtype: str, parameters: str, leads_inside: bool) -> None:
    bench = edns_bench()
    bench.resolver._is_inside = lambda address: (
        rebinding.is_loopback(address) or rebinding.unmapped(address).startswith(OURS)
    )
    bench.ask("evil.test", rtype)
    bench.answer(("evil.test.", 60, rtype, f"1 www.evil.test. {parameters}"))
    kept = bench.ask("evil.test", rtype)
    for reply in (bench.replies[-1], kept):
        assert reply is not None
        assert bool(reply.answer) is not leads_inside
        assert [int(option.code) for option in reply.options] == [15] * leads_inside


def test_an_alias_of_a_service_has_no_hints() -> None:
    bench = edns_bench()
    bench.ask("evil.test", "HTTPS")
    bench.answer(("evil.test.", 60, "HTTPS", "0 www.evil.test."))
    assert bench.replies[-1].answer


@pytest.mark.parametrize(
    "data",
    [
        b"\0\1\0" + b"\0\6\0\0" + b"\0\4\0\4" + bytes([10, 0, 0, 9]),  # in a wrong order
        b"\0\1\0" + (b"\0\4\0\4" + bytes([192, 0, 2, 1])) + (b"\0\4\0\4" + bytes([10, 0, 0, 9])),
        b"\0\1\0" + b"\0\4\1\0" + bytes([10, 0, 0, 9]),  # cut off
        b"\0\1\xc0\x0c" + b"\0\4\0\4" + bytes([10, 0, 0, 9]),  # a target that is compressed
        b"\0\1\0" + b"\0\4\0\6" + bytes([10, 0, 0, 9]) + b"\0\0",  # an address and a half
    ],
)
def test_hints_that_only_a_careless_client_reads_count_too(data: bytes) -> None:
    assert bytes([10, 0, 0, 9]) in rebinding.hints_untrusted(data)


@given(st.binary(max_size=300))
def test_any_octets_may_stand_in_a_service_record(data: bytes) -> None:
    assert all(len(address) in {4, 16} for address in rebinding.hints_untrusted(data))


class Lookalike(TableSource):
    """Names below `app` look like its own."""

    def lookup(self, wire: bytes, rtype: int, client: Hashable) -> Found | NoData | NoSuchName | NotOurs:
        if wire.endswith(b"\x03app\x00"):
            return NotOurs(special.empty_zone(b"\x00"))
        return super().lookup(wire, rtype, client)


def test_a_name_that_looks_like_the_sources_does_not_leave_the_host() -> None:
    bench = Bench(ONE)
    bench.resolver = Resolver(source=Lookalike("mesh.test"), rng=random.Random(1), now=bench.now)
    bench.resolver.set_default_upstreams(ONE)
    reply = bench.ask("gone.app")
    assert reply is not None
    assert reply.rcode() == dns.rcode.NXDOMAIN
    assert [rrset.name.to_text() for rrset in reply.authority] == ["."]
    assert bench.sent == []
    # A server in the client's own network is inside, and may know it.
    bench.resolver.set_upstreams("client", near=NEAR)
    bench.ask("gone.app")
    bench.answer(("gone.app.", 60, "A", "172.18.0.9"))
    assert texts(bench.replies[-1]) == {"172.18.0.9"}
    bench.ask("gone2.app")
    bench.answer(rcode=dns.rcode.NXDOMAIN)
    assert bench.replies[-1].rcode() == dns.rcode.NXDOMAIN
    assert {command.server.address for _, command in bench.sent} == {"127.0.0.11"}
    assert question_of(bench.sent[-1][1]) == "gone2.app."
    assert bench.resolver.handle_query(b"", "client", Transport.UDP, "x", bench.now) is None
