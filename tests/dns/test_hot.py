"""Finished answers: the same octets as without them, for as long as they are right, and within their bounds."""

from __future__ import annotations

from typing import Any

import dns.flags
import dns.message
import dns.rcode
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netdns import constants as c
from netdns import rdata
from netdns.hot import OVERHEAD_BYTES, HotTable
from netdns.resolver import Transport
from netdns.testing import TableSource
from tests.dns.bench import ONE, Bench
from tests.dns.world import wire_of

SOA = ("test.", 60, "SOA", "ns.test. who.test. 1 2 3 4 30")


def a_query(text: str = "a.test", rtype: str = "A", number: int = 7, cd: bool = False, **edns: Any) -> bytes:
    query = dns.message.make_query("a.test", rtype, id=number, **edns)
    query.flags |= dns.flags.CD if cd else 0
    name = wire_of(dns.name.from_text(text))
    return query.to_wire().replace(
        b"\x01a\x04test\x00", name
    )  # as spelled: make_query is for any spelling the same


def known(ttl: int = 30, **options: Any) -> Bench:
    """A resolver that has an answer of upstream's in its cache."""
    bench = Bench(ONE, **options)
    bench.ask()
    bench.answer(("a.test.", ttl, "A", "192.0.2.9"))
    return bench


def ask(bench: Bench, payload: bytes, transport: Transport = Transport.UDP) -> bytes:
    reply = bench.resolver.handle_query(payload, "client", transport, "token", bench.now)
    bench.drain()
    assert reply is not None, "asked upstream"
    return reply


def hits(bench: Bench) -> int:
    return bench.resolver.statistics()["hot_hits"]


def test_a_forwarded_answer_is_finished_once_a_second() -> None:
    bench = known()
    for tenths in range(0, 300, 4):
        bench.now = 1000.0 + tenths / 10
        before = bench.resolver.statistics()["cache_hits"] if tenths else 0
        for number in (1, 65535):
            reply = dns.message.from_wire(ask(bench, a_query(number=number)))
            assert (reply.id, reply.answer[0].ttl) == (number, 30 - tenths // 10)
        assert bench.resolver.statistics()["cache_hits"] - before <= 1
    statistics = bench.resolver.statistics()
    assert statistics["cache_hits"] == 30
    assert statistics["hot_hits"] == 150 - 30
    assert statistics["queries"] == 151
    bench.now = 1030.0
    assert bench.ask() is None, "the TTL is over"


def test_it_ends_with_the_answer_and_not_with_the_second() -> None:
    bench = known(ttl=1)
    bench.now += 0.75
    ask(bench, a_query())
    bench.now += 0.25
    assert bench.ask() is None


VARIANTS: list[dict[str, Any]] = [
    {},
    {"text": "A.tesT"},
    {"cd": True},
    {"use_edns": 0},
    {"use_edns": 0, "payload": 4096},
    {"use_edns": 0, "ednsflags": 0x4000},
    {"want_dnssec": True},
    {"text": "a.TEST", "want_dnssec": True, "cd": True},
]


def test_whoever_asks_otherwise_gets_an_answer_of_its_own() -> None:
    bench = Bench(ONE)
    for variant in VARIANTS:  # DO and CD are other questions to upstream
        if bench.resolver.handle_query(a_query(**variant), "client", Transport.UDP, "x", bench.now) is None:
            bench.drain()
            bench.answer(("a.test.", 30, "A", "192.0.2.9"))
    bench.now += 1  # what is finished so far is over
    before = hits(bench)
    for _ in range(3):
        for number, variant in enumerate(VARIANTS):
            payload = a_query(number=number, **variant)
            raw = ask(bench, payload)
            reply = dns.message.from_wire(raw)
            assert reply.id == number
            assert raw[12:20] == payload[12:20], "the spelling is the client's"
            assert bool(reply.flags & dns.flags.CD) == variant.get("cd", False)
            assert (reply.edns >= 0) == bool({"use_edns", "want_dnssec"} & variant.keys())
            assert bool(reply.ednsflags & dns.flags.DO) == variant.get("want_dnssec", False)
    assert hits(bench) - before == 2 * len(VARIANTS)


@pytest.mark.parametrize("change", ["default", "own", "near", "none"])
def test_when_servers_change_what_they_said_is_gone(change: str) -> None:
    bench = known()
    for _ in range(2):
        ask(bench, a_query())
    assert hits(bench) == 1
    other = ("192.0.2.77", 53)
    if change == "default":
        bench.resolver.set_default_upstreams([other])
    else:
        options: dict[str, Any] = {
            "own": {"servers": [other]},
            "near": {"near": ("127.0.0.11", 53)},
            "none": {"forwarding": False},
        }
        bench.resolver.set_upstreams("client", **options[change])
    if change == "none":
        assert dns.message.from_wire(ask(bench, a_query())).rcode() == dns.rcode.REFUSED
    else:
        assert bench.ask() is None
        assert bench.sent[-1][1].server.address in {"192.0.2.77", "127.0.0.11"}
    assert hits(bench) == 1


def test_when_the_source_takes_a_name_upstream_has_it_no_more() -> None:
    bench = Bench(ONE)
    source = bench.resolver._source
    assert isinstance(source, TableSource)
    bench.ask("web", "TXT")
    bench.answer(("web.", 30, "TXT", "theirs"))
    payload = dns.message.make_query("web", "TXT", id=3).to_wire()
    for _ in range(2):
        assert b"theirs" in ask(bench, payload)
    assert hits(bench) == 1
    source.put("web", c.TXT, [rdata.txt(b"ours")])
    assert b"ours" in ask(bench, payload)


def test_failures_and_what_comes_by_tcp_are_not_kept() -> None:
    bench = Bench(ONE)
    bench.ask()
    bench.answer(rcode=dns.rcode.SERVFAIL)
    for _ in range(3):
        assert dns.message.from_wire(ask(bench, a_query())).rcode() == dns.rcode.SERVFAIL
    other = known()
    for _ in range(3):
        ask(other, a_query(), Transport.TCP)
    assert hits(bench) == hits(other) == 0


def test_what_is_said_nearby_is_never_finished() -> None:
    bench = Bench(ONE)
    bench.resolver.set_upstreams("client", near=("127.0.0.11", 53))
    for number in range(3):
        assert bench.ask() is None
        assert len(bench.sent) == number + 1
        bench.answer(("a.test.", 30, "A", "192.0.2.9"))
    assert hits(bench) == 0


def test_many_forwarded_names_stay_within_the_bounds() -> None:
    bench = Bench(ONE, hot_entries_per_client=8, hot_bytes_per_client=9000)
    for round_ in range(2):
        for number in range(40):
            text = f"n{number}.test"
            if bench.ask(text) is None:
                bench.answer(*[(f"{text}.", 60, "A", f"192.0.2.{n}") for n in range(1 + number)])
            bench.ask(text)
            bench.ask(text)  # Bench.drain checks the bounds after each step
        assert hits(bench) > 0, round_


def test_counts_outlive_a_client() -> None:
    bench = known()
    for _ in range(3):
        ask(bench, a_query())
    before = bench.resolver.statistics()
    bench.resolver.forget_client("client")
    after = bench.resolver.statistics()
    assert before["hot_hits"] == after["hot_hits"] == 2
    assert before["queries"] == after["queries"]


def test_a_driver_may_ask_the_table_itself() -> None:
    bench = known()
    assert bench.resolver.hot_table("client").answer(a_query(), bench.now) is None
    reply = ask(bench, a_query())
    table = bench.resolver.hot_table("client")
    assert table.answer(a_query(), bench.now) == reply
    assert table.answer(b"", bench.now) is None
    assert table.answer(a_query(), bench.now + 1) is None


actions: st.SearchStrategy[tuple[str, Any, dict[str, Any]]] = st.one_of(
    st.tuples(st.just("ask"), st.integers(0, 2), st.sampled_from(VARIANTS)),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.0, 2.5, 9.0]), st.just({})),
    st.tuples(st.just("servers"), st.integers(0, 1), st.just({})),
    st.tuples(st.just("own"), st.integers(0, 2), st.just({})),
    st.tuples(st.just("lose"), st.integers(0, 2), st.just({})),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(actions, max_size=40), st.integers(0, 3))
def test_with_and_without_finished_answers_a_client_hears_the_same(
    rows: list[tuple[str, Any, dict[str, Any]]], ttl: int
) -> None:
    """One resolver keeps finished answers, the other has no room for any; the same happens to both."""
    hot, cold = (Bench(ONE, hot_bytes_per_client=size) for size in (3000, 0))
    names = [f"{letter}.mesh.test" for letter in "ab"] + ["a.test"]
    for number, (action, value, variant) in enumerate(rows):
        heard = []
        for bench in (hot, cold):
            source = bench.source
            if action == "wait":
                bench.run_until(bench.now - 1000 + value)
            elif action == "servers":
                bench.resolver.set_default_upstreams([(f"192.0.2.{value + 1}", 53)])
            elif action == "own":
                source.put(names[value], c.A, [rdata.a(f"10.0.0.{number + 1}")])
            elif action == "lose":
                source.remove(names[value])
            else:
                options = {key: item for key, item in variant.items() if key != "text"}
                text = names[value].upper() if "text" in variant else names[value]
                payload = a_query(text, number=number, **options)
                reply = bench.resolver.handle_query(payload, "client", Transport.UDP, "x", bench.now)
                bench.drain()
                if reply is None:
                    bench.answer((f"{names[value]}.", ttl, "A", "192.0.2.9"))
                heard.append(reply)
        assert len(set(heard)) <= 1
    assert hits(cold) == 0


def test_a_table_replaces_and_never_holds_more_than_it_may() -> None:
    table = HotTable(max_entries=2, max_bytes=2 * (OVERHEAD_BYTES + 20))
    table.keep(b"idq1", b"idone", 10.0)
    table.keep(b"idq1", b"idtwo", 10.0)
    table.check_invariants()
    assert table.answer(b"xyq1", 9.9) == b"xytwo"
    assert table.answer(b"xyq1", 10.0) is None
    table.keep(b"idq2", b"id" + b"b" * 10, 10.0)
    table.keep(b"idq3", b"id" + b"c" * 10, 10.0)  # no room: the others go
    table.check_invariants()
    assert [table.answer(b"id" + key, 1.0) is not None for key in (b"q1", b"q2", b"q3")] == [
        False,
        False,
        True,
    ]
    table.keep(b"idq4", b"id" + b"d" * 5000, 10.0)  # larger than all there is
    table.check_invariants()
    assert table.answer(b"idq4", 1.0) is None
    assert table.keep_turning(b"idq5", lambda order: b"%d" % order, orders=range(3), turn=0) == b"id1"
    assert [table.answer(b"abq5", 1.0) for _ in range(4)] == [b"ab2", b"ab0", b"ab1", b"ab2"]
    table.clear()
    table.check_invariants()
    assert table.answer(b"idq5", 1.0) is None
    # An order that is in the list more often comes more often, and is made once.
    made: list[int] = []

    def finish(order: int) -> bytes:
        made.append(order)
        return b"%d" % order

    assert table.keep_turning(b"idq6", finish, orders=(7, 7, 2), turn=2) == b"id7"
    assert [table.answer(b"abq6", 1.0) for _ in range(5)] == [b"ab7", b"ab2", b"ab7", b"ab7", b"ab2"]
    assert made == [7, 2]
