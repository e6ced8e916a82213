"""A server that leads back to us: proven by a probe of our own alone. Under virtual time."""

from __future__ import annotations

import dns.message
import dns.rcode

from netdns.resolver import Transport
from tests.dns.bench import ONE, TWO, Bench, question_of
from tests.dns.world import texts


def hear(bench: Bench, payload: bytes, client: str = "pihole") -> bytes | None:
    """A query arrives at a listener."""
    reply = bench.resolver.handle_query(payload, client, Transport.UDP, "loop", bench.now)
    bench.drain()
    return reply


def test_a_loop_is_found_with_the_first_question_that_comes_back() -> None:
    bench = Bench(TWO)
    bench.ask("a.test")
    forwarded = dns.message.make_query("a.test", "A").to_wire()  # by a forwarder, with an id of its own
    assert hear(bench, forwarded) is None
    assert [command.server.address for command in bench.probes] == ["192.0.2.1"]
    looping = dns.message.make_query(question_of(bench.probes[0]), "TXT").to_wire()
    assert hear(bench, looping) is None
    bench.answer(("a.test.", 60, "A", "192.0.2.9"))
    assert [texts(reply) for reply in bench.replies] == [{"192.0.2.9"}]
    assert bench.sent[-1][1].server.address == "192.0.2.2"
    bench.now += 1
    bench.ask("b.test")
    assert bench.sent[-1][1].server.address == "192.0.2.2"
    bench.now += 60
    bench.ask("c.test")
    asked = [one.server.address for _, one in bench.sent if question_of(one) == "c.test."]
    assert asked[0] == "192.0.2.1", "it may be mended"
    assert bench.resolver.statistics()["upstream_loops"] == 1


def test_all_flights_leave_a_server_that_is_proven_to_loop() -> None:
    bench = Bench(ONE)
    for number in range(20):
        bench.ask(f"n{number}.test")
    hear(bench, dns.message.make_query("n3.test", "A").to_wire())
    hear(bench, bench.probes[0].payload)
    assert [reply.rcode() for reply in bench.replies] == [dns.rcode.SERVFAIL] * 20


def test_guessing_what_we_ask_proves_nothing() -> None:
    """All 2**16 ids of a question under way, with and without EDNS: what proved a loop before."""
    bench = Bench(ONE, max_waiting_per_client=10)
    bench.ask("a.test")
    sent = bench.sent[0][1].payload
    for message_id in range(0x10000):
        bench.resolver.handle_query(
            message_id.to_bytes(2, "big") + sent[2:], "evil", Transport.UDP, "x", bench.now
        )
    bench.drain()
    assert "upstream_loops" not in bench.resolver.statistics()
    assert len(bench.probes) == 1
    bench.answer(("a.test.", 60, "A", "192.0.2.9"))
    assert texts(bench.replies[0]) == {"192.0.2.9"}


def test_a_probes_name_has_64_bits_that_are_drawn_anew_and_go_to_one_server() -> None:
    labels: set[int] = set()
    for _ in range(20):
        bench = Bench(TWO)
        bench.resolver._forwarder._rng.seed(len(labels))
        bench.ask("a.test")
        hear(bench, dns.message.make_query("a.test", "A").to_wire())
        (probe,) = bench.probes
        label, *rest = question_of(probe).split(".")
        assert rest == ["test", ""]
        labels.add(int(label, 16))
    assert len(labels) == 20
    assert max(labels).bit_length() > 60


def test_a_probe_is_over_in_two_seconds_and_one_a_minute_is_sent() -> None:
    bench = Bench(ONE)
    for _ in range(50):
        bench.ask("a.test")
    assert len(bench.probes) == 1
    bench.run_until(3)
    assert bench.probes[0].exchange_id in bench.closed
    bench.run_until(50)
    for _ in range(2):
        bench.ask("b.test")
    assert len(bench.probes) == 1
    bench.run_until(100)
    for _ in range(2):
        bench.ask("c.test")
    assert len(bench.probes) == 2
    bench.run_until(103)
    hear(bench, bench.probes[1].payload)
    assert "upstream_loops" not in bench.resolver.statistics(), "what comes too late is a stranger's question"


def test_a_server_that_answers_the_probe_is_no_loop_and_the_answer_is_nobodys() -> None:
    bench = Bench(ONE)
    for _ in range(2):
        bench.ask("a.test")
    probe = bench.probes[0]
    answer = dns.message.make_response(dns.message.from_wire(probe.payload))
    answer.set_rcode(dns.rcode.NXDOMAIN)
    bench.resolver.handle_upstream_datagram(probe.exchange_id, answer.to_wire(), bench.now)
    bench.drain()
    assert probe.exchange_id in bench.closed
    assert bench.resolver.statistics()["cache_entries"] == 0
    assert bench.replies == []
    bench.answer(("a.test.", 60, "A", "192.0.2.9"))
    assert len(bench.replies) == 2
