"""A server near a client: asked first, believed, and never remembered. Under virtual time."""

from __future__ import annotations

from typing import Any

import dns.rcode
import pytest
from dns.rcode import Rcode

from netdns.resolver import Transport
from tests.dns.bench import TWO, Bench

NEAR = ("127.0.0.11", 53)


def near_bench(servers: list[tuple[str, int]] = TWO, **options: Any) -> Bench:
    bench = Bench(servers)
    bench.resolver.set_upstreams("client", near=NEAR, **options)
    return bench


def asked(bench: Bench) -> list[tuple[float, str]]:
    return [(at, command.server.address) for at, command in bench.sent]


def test_a_near_server_is_alone_for_half_of_the_time() -> None:
    bench = near_bench()
    bench.ask()
    bench.run_until(10)
    assert asked(bench) == [(0, "127.0.0.11"), (2.25, "192.0.2.1"), (2.35, "192.0.2.2")]
    assert [at for at, _ in bench.heard][:4] == [0, 0.25, 0.75, 1.75]
    assert {command.server.near for at, command in bench.sent if at < 1} == {"client"}
    assert [reply.rcode() for reply in bench.replies] == [dns.rcode.SERVFAIL]


def test_when_nobody_is_near_the_others_are_asked_at_once() -> None:
    bench = near_bench()
    for _ in range(2):  # and near again first for the next question
        bench.ask()
        bench.resolver.handle_upstream_end(bench.sent[-1][1].exchange_id, bench.now)
        bench.drain()
        bench.answer(("a.test.", 60, "A", "192.0.2.9"))
    assert [address for _, address in asked(bench)] == ["127.0.0.11", "192.0.2.1"] * 2
    assert len(bench.replies) == 2


@pytest.mark.parametrize(
    ("qname", "rtype", "rcode"),
    [
        ("db", "A", dns.rcode.NXDOMAIN),
        ("9.0.18.172.in-addr.arpa", "PTR", dns.rcode.NXDOMAIN),
        ("printer.local", "A", dns.rcode.NXDOMAIN),
    ],
)
def test_names_that_never_leave_are_asked_for_nearby_alone(qname: str, rtype: str, rcode: Rcode) -> None:
    bench = near_bench()
    bench.ask(qname, rtype)
    bench.answer((f"{qname}.", 600, "TXT", "near"))
    assert bench.replies[0].answer
    bench.ask(qname, rtype)
    bench.run_until(10)
    assert {address for _, address in asked(bench)} == {"127.0.0.11"}
    assert bench.replies[1].rcode() == rcode


def test_a_client_that_may_not_look_outside_may_look_near() -> None:
    bench = near_bench(forwarding=False)
    bench.ask()
    bench.answer(("a.test.", 600, "A", "192.0.2.9"))
    bench.ask()
    bench.run_until(10)
    assert {address for _, address in asked(bench)} == {"127.0.0.11"}
    assert [reply.rcode() for reply in bench.replies] == [dns.rcode.NOERROR, dns.rcode.REFUSED]


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED])
def test_a_near_server_without_an_answer_has_the_last_word(rcode: Rcode) -> None:
    bench = near_bench()
    bench.ask()
    bench.answer(rcode=rcode)
    assert [reply.rcode() for reply in bench.replies] == [dns.rcode.SERVFAIL]
    assert len(bench.sent) == 1


def test_what_is_said_nearby_is_asked_for_each_time() -> None:
    bench = near_bench()
    for number in range(3):
        bench.ask()
        assert len(bench.sent) == number + 1
        bench.answer(("a.test.", 600, "A", "192.0.2.9"))
    assert len(bench.replies) == 3


def test_a_near_server_cannot_give_what_the_source_hides() -> None:
    bench = near_bench(veiled=lambda address: address.startswith(b"\x0a"))
    for address, rcode in (("192.0.2.9", dns.rcode.NOERROR), ("10.0.0.9", dns.rcode.NXDOMAIN)):
        bench.ask()
        bench.answer(("a.test.", 60, "CNAME", "b.test."), ("b.test.", 60, "A", address))
        assert bench.replies[-1].rcode() == rcode


def test_a_near_server_that_is_ourselves_is_tried_again_with_the_next_question() -> None:
    bench = near_bench()
    for _ in range(2):
        bench.ask()
        for is_probe in (False, True):
            payload = (bench.probes[-1] if is_probe else bench.sent[-1][1]).payload
            assert bench.resolver.handle_query(payload, "client", Transport.UDP, "loop", bench.now) is None
            bench.drain()
        bench.answer(("a.test.", 60, "A", "192.0.2.9"))
    assert [address for _, address in asked(bench)] == ["127.0.0.11", "192.0.2.1"] * 2
