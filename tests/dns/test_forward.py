"""The upstream machine and the resolver around it under virtual time: schedule, TTLs, bounds."""

from __future__ import annotations

from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netdns.errors import UsageError
from netdns.resolver import Transport
from netdns.testing import ReceivedQuery
from tests.dns.bench import ONE, TWO, Bench, question_of
from tests.dns.world import respond_to

SOA = ("test.", 86400, "SOA", "ns.test. who.test. 1 2 3 4 86400")


def test_schedule_with_one_server() -> None:
    bench = Bench(ONE)
    bench.ask()
    bench.run_until(10)
    assert [at for at, _ in bench.heard] == [0, 0.25, 0.75, 1.75, 3.75]
    assert len(bench.sent) == 1  # one socket, one id: more of them would make guessing easier
    (reply,) = bench.replies
    assert reply.rcode() == dns.rcode.SERVFAIL
    assert bench.closed == {command.exchange_id for command in [bench.sent[0][1], *bench.checks]}
    assert len(bench.checks) == 2
    assert bench.resolver.next_deadline() == float("inf")


def test_schedule_with_two_servers_hedges_first() -> None:
    bench = Bench(TWO)
    bench.ask()
    bench.run_until(10)
    assert bench.heard[:6] == [(0, "1"), (0.1, "2"), (0.25, "1"), (0.35, "2"), (0.75, "1"), (0.85, "2")]
    assert len(bench.replies) == 1


def test_never_more_than_four_sockets_a_flight() -> None:
    bench = Bench([(f"192.0.2.{number}", 53) for number in range(1, 7)])
    bench.ask()
    bench.run_until(4.4)
    assert len([one for _, one in bench.sent if one.exchange_id not in bench.closed]) == 4
    bench.answer(rcode=dns.rcode.SERVFAIL, index=0)
    assert [command.server.address[-1] for _, command in bench.sent] == ["1", "2", "3", "4", "5"]


def test_a_name_that_takes_upstream_four_seconds() -> None:
    bench = Bench(ONE)
    bench.ask()
    bench.run_until(4)
    bench.answer(("a.test.", 60, "A", "192.0.2.9"))
    (reply,) = bench.replies
    assert reply.rcode() == dns.rcode.NOERROR


def test_early_and_repeated_deadlines_do_nothing() -> None:
    bench = Bench(ONE)
    bench.ask()
    for _ in range(3):
        bench.resolver.handle_deadline(bench.now + 0.1)
        bench.drain()
    assert len(bench.sent) == 1


@pytest.mark.parametrize("ttl", [30, 604800])
def test_t131_t132_ttl_counts_down_from_the_cap(ttl: int) -> None:
    bench = Bench(ONE)
    bench.ask()
    bench.answer(("a.test.", ttl, "A", "192.0.2.9"))
    first = min(ttl, 3600)
    assert bench.replies[0].answer[0].ttl == first
    bench.now += 3
    reply = bench.ask()
    assert reply is not None
    assert reply.answer[0].ttl == first - 3
    bench.now += first - 3
    assert bench.ask() is None
    assert len(bench.sent) == 2


@pytest.mark.parametrize("ttl", [0, 0x80000001])
def test_t21_t132_zero_and_negative_ttl_are_not_kept(ttl: int) -> None:
    bench = Bench(ONE)
    bench.ask()
    query = bench.sent[0][1]
    wire = respond_to(
        ReceivedQuery(query.payload, 0, Transport.UDP), ("a.test.", 0x0BADBEEF, "A", "192.0.2.9")
    ).to_wire()
    wire = wire.replace(b"\x0b\xad\xbe\xef", ttl.to_bytes(4, "big"))
    bench.resolver.handle_upstream_datagram(query.exchange_id, wire, bench.now)
    bench.drain()
    assert bench.replies[0].answer[0].ttl == 0
    assert bench.ask() is None


def test_t42_t44_negative_answers_keep_their_soa_and_count_down() -> None:
    bench = Bench(ONE)
    bench.ask(rtype="AAAA")
    bench.answer(authority=[SOA])
    assert bench.replies[0].authority[0].ttl == 900
    bench.now += 3
    reply = bench.ask(rtype="AAAA")
    assert reply is not None
    assert reply.authority[0].ttl == 897


def test_t43_a_negative_answer_without_soa_is_not_kept() -> None:
    bench = Bench(ONE)
    bench.ask()
    bench.answer(rcode=dns.rcode.NXDOMAIN)
    assert bench.replies[0].rcode() == dns.rcode.NXDOMAIN
    assert bench.ask() is None


def test_t45_alias_then_nothing() -> None:
    bench = Bench(ONE)
    bench.ask()
    bench.answer(("a.test.", 60, "CNAME", "gone.test."), rcode=dns.rcode.NXDOMAIN, authority=[SOA])
    assert bench.replies[0].rcode() == dns.rcode.NXDOMAIN
    assert bench.replies[0].answer[0][0].to_text() == "gone.test."


def test_t116_records_beside_the_answer_are_not_used_for_other_questions() -> None:
    bench = Bench(ONE)
    bench.ask()
    bench.answer(("a.test.", 60, "A", "192.0.2.9"), ("www.bank.test.", 60, "A", "203.0.113.66"))
    assert bench.ask("www.bank.test") is None
    assert len(bench.sent) == 2


def test_t123_a_failure_is_remembered_for_a_while() -> None:
    bench = Bench(ONE)
    bench.ask()
    bench.answer(rcode=dns.rcode.SERVFAIL)
    assert bench.replies[0].rcode() == dns.rcode.SERVFAIL
    bench.now += 1
    reply = bench.ask()
    assert reply is not None
    assert reply.rcode() == dns.rcode.SERVFAIL
    bench.now += 30
    assert bench.ask() is None


def test_too_many_flights_fail_at_once() -> None:
    bench = Bench(ONE, max_flights=3)
    assert [bench.ask(f"n{number}.test") for number in range(3)] == [None] * 3
    reply = bench.ask("n4.test")
    assert reply is not None
    assert reply.rcode() == dns.rcode.SERVFAIL
    assert bench.ask("n0.test") is None  # joining is free


def test_a_forgotten_client_gets_nothing_any_more() -> None:
    bench = Bench(ONE)
    bench.ask()
    bench.resolver.forget_client("client")
    bench.answer(("a.test.", 60, "A", "192.0.2.9"))
    assert bench.replies == []


def test_messages_by_tcp_in_any_cut() -> None:
    bench = Bench(ONE)
    bench.ask()
    bench.answer(flags=dns.flags.TC)
    query = bench.sent[-1][1]
    assert query.transport is Transport.TCP
    assert int.from_bytes(query.payload[:2], "big") == len(query.payload) - 2
    heard = ReceivedQuery(query.payload[2:], 0, Transport.TCP)
    wire = respond_to(heard, ("a.test.", 60, "A", "192.0.2.9")).to_wire()
    for octet in len(wire).to_bytes(2, "big") + wire:
        bench.resolver.handle_upstream_stream_data(query.exchange_id, bytes([octet]), bench.now)
        bench.drain()
    assert len(bench.replies) == 1


@pytest.mark.parametrize("server", [("localhost", 53), ("192.0.2.1", 0), ("192.0.2.1", 65536), ("", 53)])
def test_upstream_servers_must_be_addresses(server: tuple[str, int]) -> None:
    bench = Bench(ONE)
    with pytest.raises(UsageError):
        bench.resolver.set_default_upstreams([server])
    with pytest.raises(UsageError):
        bench.resolver.set_upstreams("client", [server])
    bench.resolver.set_upstreams("client", [("fe80::1%eth0", 53)])


NEAR = ("127.0.0.11", 53)

actions = st.one_of(
    st.tuples(st.just("ask"), st.integers(0, 3), st.integers(0, 2)),
    st.tuples(st.just("wait"), st.floats(0, 1), st.just(0)),
    st.tuples(st.just("good"), st.integers(0, 9), st.just(0)),
    st.tuples(st.just("deny"), st.integers(0, 9), st.sampled_from([0, 3])),
    st.tuples(st.just("bad"), st.integers(0, 9), st.sampled_from([1, 2, 5])),
    st.tuples(st.just("noise"), st.integers(0, 9), st.binary(max_size=40)),
    st.tuples(st.just("end"), st.integers(0, 9), st.just(0)),
    st.tuples(st.just("echo"), st.integers(0, 9), st.just(0)),
    st.tuples(st.just("loop"), st.integers(0, 9), st.just(0)),
)
THREE = [*TWO, ("192.0.2.3", 53)]


@settings(max_examples=150, deadline=None)
@given(st.lists(actions, max_size=40), st.sampled_from([None, NEAR]))
def test_every_query_gets_one_reply_in_time_whatever_happens(
    rows: list[tuple[str, Any, Any]], near: tuple[str, int] | None
) -> None:
    bench, asked = Bench(THREE, failure_ttl_s=0.0), 0
    bench.resolver.set_upstreams("client", near=near)
    direct = 0
    for action, number, extra in rows:
        if action == "ask":
            asked += 1
            direct += bench.ask(f"n{number}.test") is not None
        elif action == "wait":
            bench.run_until(bench.now - 1000 + number)
        elif bench.sent:
            query = bench.sent[number % len(bench.sent)][1]
            wire = query.payload[2:] if query.transport is Transport.TCP else query.payload
            if action == "echo":
                bench.resolver.handle_query(wire, "client", Transport.UDP, "loop", bench.now)
            elif action == "loop" and bench.probes:
                probe = bench.probes[number % len(bench.probes)]
                bench.resolver.handle_query(probe.payload, "client", Transport.UDP, "loop", bench.now)
            elif action == "end":
                bench.resolver.handle_upstream_end(query.exchange_id, bench.now)
            else:
                heard = ReceivedQuery(wire, 0, query.transport)
                found = [(question_of(query), 60, "A", "192.0.2.9")] if action == "good" else []
                data = extra if action == "noise" else respond_to(heard, *found, rcode=extra).to_wire()
                bench.resolver.handle_upstream_datagram(query.exchange_id, data, bench.now)
            bench.drain()
    bench.run_until(bench.now - 1000 + 4.5)
    assert len(bench.replies) + direct == asked
    bench.run_until(bench.now - 1000 + 7)  # servers that are listened to further, and checked
    assert bench.resolver.next_deadline() == float("inf")
    sent = [command for _, command in bench.sent] + bench.probes + bench.checks
    assert bench.closed == {command.exchange_id for command in sent}


@pytest.mark.parametrize("rtype", ["HTTPS", "TYPE90", "TYPE97", "TYPE16640", "TYPE65345"])
def test_types_whose_octets_are_letters_are_forwarded_as_all_others(rtype: str) -> None:
    """HTTPS is 65, an A: only the name of a question is the same in both cases."""
    bench = Bench(ONE)
    data = "1 . alpn=h2" if rtype == "HTTPS" else r"\# 4 01020304"
    bench.ask("a.test", rtype)
    bench.answer(("a.test.", 60, rtype, data))
    assert [rrset.rdtype for rrset in bench.replies[-1].answer] == [dns.rdatatype.from_text(rtype)]


def test_an_answer_to_another_type_is_none_though_lower_case_makes_them_the_same() -> None:
    bench = Bench(ONE)
    bench.ask("a.test", "HTTPS")
    reply = bytearray(bench.wire_answer())
    assert reply[20:22] == b"\0A"
    reply[20:22] = b"\0a"
    bench.resolver.handle_upstream_datagram(bench.sent[-1][1].exchange_id, bytes(reply), bench.now)
    bench.drain()
    assert bench.replies == []
