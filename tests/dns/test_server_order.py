"""The order of servers is the order of knowledge. Under virtual time; at the end once with real servers."""

from __future__ import annotations

from typing import TypeVar

import dns.message
import dns.rcode
import pytest
from dns.rcode import Rcode
from hypothesis import given, settings
from hypothesis import strategies as st

from netdns.forward import UpstreamQuery
from netdns.resolver import Transport
from netdns.testing import ReceivedQuery
from tests.dns.bench import TWO, Bench, question_of
from tests.dns.conftest import Play
from tests.dns.world import World, respond, respond_to, texts

SOA = ("test.", 900, "SOA", "ns.test. who.test. 1 2 3 4 900")
THREE = [*TWO, ("192.0.2.3", 53)]
T = TypeVar("T")
DEAD = None
"""In place of a server's delay."""


def found(query: UpstreamQuery) -> list[tuple[str, int, str, str]]:
    return [(question_of(query), 300, "A", "10.0.0.1")]


class Network:
    """Plays a scenario: each server answers after its delay, with a record or a denial."""

    def __init__(self, servers: list[tuple[str, int]] = TWO, **options: float) -> None:
        self.bench = Bench(servers, **options)
        self.delays: dict[str, float | None] = {}
        self.says: dict[str, str] = {}
        self._pending: list[tuple[float, int]] = []
        self._seen = self._checked = 0

    def _schedule(self) -> None:
        for index in range(self._seen, len(self.bench.sent)):
            _, command = self.bench.sent[index]
            delay = self.delays[command.server.address[-1]]
            if delay is not None:
                self._pending.append((self.bench.now + delay, index))
        self._seen = len(self.bench.sent)
        for check in self.bench.checks[self._checked :]:
            if self.delays[check.server.address[-1]] is not DEAD:
                self._pending.append((self.bench.now + 0.001, -1 - self.bench.checks.index(check)))
        self._checked = len(self.bench.checks)

    def run(self, until: float) -> None:
        """Go on to `until` (s since the start), with answers and deadlines in their order."""
        self._schedule()
        while True:
            answer_at, index = min(self._pending, default=(float("inf"), 0))
            deadline = self.bench.resolver.next_deadline()
            if min(answer_at, deadline) > 1000 + until:
                break
            self.bench.now = max(min(answer_at, deadline), self.bench.now)
            if answer_at <= deadline:
                self._pending.remove((answer_at, index))
                self._answer(index)
            else:
                self.bench.resolver.handle_deadline(self.bench.now)
                self.bench.drain()
            self._schedule()
        self.bench.now = 1000 + until

    def _answer(self, index: int) -> None:
        if index < 0:
            check = self.bench.checks[-1 - index]
            refusal = respond_to(
                ReceivedQuery(check.payload, 0, Transport.UDP), rcode=dns.rcode.REFUSED
            ).to_wire()
            self.bench.resolver.handle_upstream_datagram(check.exchange_id, refusal, self.bench.now)
            self.bench.drain()
            return
        query = self.bench.sent[index][1]
        match self.says[query.server.address[-1]]:
            case "found":
                self.bench.answer(*found(query), index=index)
            case "denied":
                self.bench.answer(rcode=dns.rcode.NXDOMAIN, authority=[SOA], index=index)
            case "empty":
                self.bench.answer(authority=[SOA], index=index)
            case "failed":
                self.bench.answer(rcode=dns.rcode.SERVFAIL, index=index)

    def ask(self, qname: str = "a.test") -> tuple[dns.message.Message, float]:
        """Return the reply and how long it took."""
        before, started = len(self.bench.replies), self.bench.now
        direct = self.bench.ask(qname)
        if direct is not None:
            return direct, 0.0
        while len(self.bench.replies) == before:
            self._schedule()
            answer_at = min((at for at, _ in self._pending), default=float("inf"))
            self.run(min(answer_at, self.bench.resolver.next_deadline()) - 1000)
        return self.bench.replies[-1], round(self.bench.now - started, 3)


def inside_and_outside(
    first_delay: float | None, second_delay: float | None = 0.001, says: str = "denied"
) -> Network:
    network = Network()
    network.delays = {"1": first_delay, "2": second_delay}
    network.says = {"1": "found", "2": says}
    return network


@pytest.mark.parametrize("denial", ["denied", "empty"])
@pytest.mark.parametrize("delay", [0.06, 0.12, 0.3, 1.0, 2.9, 4.2])
def test_a_slow_first_server_that_knows_wins_over_one_that_denies(delay: float, denial: str) -> None:
    network = inside_and_outside(delay, says=denial)
    for number in range(8):
        reply, took = network.ask(f"n{number}.test")
        assert reply.rcode() == dns.rcode.NOERROR
        assert texts(reply) == {"10.0.0.1"}
        assert took == delay


def test_a_first_server_that_was_slow_is_believed_when_it_is_fast_again() -> None:
    network = inside_and_outside(0.1)
    for number in range(10):
        network.ask(f"s{number}.test")
    network.delays["1"] = 0.002
    for number in range(150):
        reply, _ = network.ask(f"n{number}.test")
        assert texts(reply) == {"10.0.0.1"}, number


def test_lost_packets_of_the_first_server_lose_no_names() -> None:
    network = inside_and_outside(0.002)
    for number in range(50):
        network.delays["1"] = DEAD if number % 3 == 0 else 0.002
        network.bench.ask(f"n{number}.test")
        network.run(network.bench.now - 1000 + 0.3)
        if number % 3 == 0:  # only the first packet was lost: the repeated one is answered
            network.bench.answer(*found(network.bench.sent[-2][1]), index=-2)
    assert [texts(reply) for reply in network.bench.replies] == [{"10.0.0.1"}] * 50


def test_a_later_servers_record_is_brought_forward_and_gives_way() -> None:
    network = inside_and_outside(0.4)
    network.says = {"1": "denied", "2": "found"}
    reply, took = network.ask()
    assert (texts(reply), took) == ({"10.0.0.1"}, 0.101)
    assert reply.answer[0].ttl == 5, "kept no longer than a failure while the first has not answered"
    network.run(1)
    assert network.ask()[0].rcode() == dns.rcode.NXDOMAIN, "the first one's word is in the cache now"
    assert len(network.bench.sent) == 2


def test_a_denial_covers_for_a_server_that_fails_and_is_not_kept_for_long() -> None:
    network = inside_and_outside(0.15)
    network.says["1"] = "failed"
    reply, took = network.ask()
    assert (reply.rcode(), took) == (dns.rcode.NXDOMAIN, 0.15)
    assert reply.authority[0].ttl == 5
    network.run(6)
    network.says["1"] = "found"
    assert texts(network.ask()[0]) == {"10.0.0.1"}


def test_a_denial_of_the_first_server_counts_at_once_and_fully() -> None:
    network = inside_and_outside(0.002, says="found")
    network.says["1"] = "denied"
    reply, took = network.ask()
    assert (reply.rcode(), took) == (dns.rcode.NXDOMAIN, 0.002)
    assert reply.authority[0].ttl == 900
    assert len(network.bench.sent) == 1


def test_a_dead_first_server_costs_denials_once_and_records_one_hedge() -> None:
    network = inside_and_outside(DEAD, says="found")
    assert network.ask("r0.test")[1] == 0.101
    for number in range(1, 20):
        assert network.ask(f"r{number}.test")[1] == 0.001, (
            "it owes an answer: both are asked at the same time"
        )
    network = inside_and_outside(DEAD)
    assert network.ask("n0.test")[1] == 4.5
    network.run(4.6)
    taken = [network.ask(f"n{number}.test")[1] for number in range(1, 30)]
    assert taken == [0.001] * 29
    assert len([one for one in network.bench.sent if one[1].server.address[-1] == "1"]) == 1


def test_questions_that_no_server_answers_do_not_make_a_server_count_as_dead() -> None:
    """One container asks for a zone whose own servers are dead, and nothing else is asked meanwhile."""
    network = inside_and_outside(7.0)  # the first is alive: it answers checks, and this zone's names too late
    for number in range(10):
        reply, took = network.ask(f"x{number}.silent.test")
        assert (reply.rcode(), took) == (dns.rcode.NXDOMAIN, 4.5), "the second one's word, when time is over"
    network.delays["1"] = 0.03
    reply, took = network.ask("db.corp.test")
    assert (texts(reply), took) == ({"10.0.0.1"}, 0.03)
    assert network.bench.checks


def test_a_dead_first_server_is_found_back_and_its_names_with_it() -> None:
    network = inside_and_outside(DEAD)
    network.ask("n.test")
    network.run(9.0)
    network.ask("m.test")
    network.delays["1"] = 0.002
    network.run(15.0)  # more than 5 s after it was last asked
    for number in range(20):
        reply, _ = network.ask(f"k{number}.test")
        assert texts(reply) == {"10.0.0.1"}, "the question that learns that it is back has its answer already"


def test_a_dead_first_server_delays_one_denial_in_five_seconds_by_half_a_second() -> None:
    network = inside_and_outside(DEAD)
    network.ask("n.test")
    taken = []
    for number in range(100):
        network.run(10 + number / 10)
        taken.append(network.ask(f"n{number}.test")[1])
    assert sorted(taken)[-3:] == [0.001, 0.5, 0.5]


def test_when_all_servers_come_back_at_once_the_first_is_believed() -> None:
    network = inside_and_outside(DEAD, DEAD)
    for number in range(4):
        assert network.ask(f"n{number}.test")[0].rcode() == dns.rcode.SERVFAIL
    network.delays = {"1": 0.05, "2": 0.001}
    assert texts(network.ask("back.test")[0]) == {"10.0.0.1"}


def test_a_late_answer_is_there_for_the_next_try() -> None:
    network = inside_and_outside(6.0, DEAD)
    assert network.ask()[0].rcode() == dns.rcode.SERVFAIL
    network.run(6.1)
    assert texts(network.ask()[0]) == {"10.0.0.1"}
    assert len(network.bench.sent) == 2


@pytest.mark.parametrize("code", [dns.rcode.FORMERR, dns.rcode.NOTIMP])
@pytest.mark.parametrize("bare", [True, False])
def test_a_server_without_edns_is_asked_again_without(code: Rcode, bare: bool) -> None:
    bench = Bench(TWO)
    bench.ask("a.test")
    query = bench.sent[-1][1]
    heard = ReceivedQuery(query.payload, 0, Transport.UDP)
    wire = respond_to(heard, rcode=code).to_wire()
    wire = query.payload[:2] + bytes([0x80, code]) + bytes(8) if bare else wire
    bench.resolver.handle_upstream_datagram(query.exchange_id, wire, bench.now)
    bench.drain()
    assert [command.server.address[-1] for _, command in bench.sent] == ["1", "1"]
    assert [command.payload[11] for _, command in bench.sent] == [1, 0], "records in ADDITIONAL"
    bench.answer(("a.test.", 60, "A", "192.0.2.9"))
    assert texts(bench.replies[0]) == {"192.0.2.9"}
    bench.ask("b.test")
    assert bench.sent[-1][1].payload[11] == 0, "remembered"


def test_a_server_that_refuses_with_and_without_edns_is_not_remembered_as_one_without() -> None:
    bench = Bench(TWO)
    bench.ask("a.test")
    bench.answer(rcode=dns.rcode.NOTIMP)
    bench.answer(rcode=dns.rcode.NOTIMP)
    assert [command.server.address[-1] for _, command in bench.sent] == ["1", "1", "2"]
    bench.answer(("a.test.", 60, "A", "192.0.2.9"))
    bench.ask("b.test")
    assert bench.sent[-1][1].payload[11] == 1


delays = st.sampled_from([0.001, 0.03, 0.11, 0.4, 1.3, DEAD])
words = st.sampled_from(["found", "denied", "empty", "failed"])


def three_of(one: st.SearchStrategy[T]) -> st.SearchStrategy[list[T]]:
    return st.lists(one, min_size=3, max_size=3)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(three_of(delays), three_of(words), st.floats(0, 7)), min_size=1, max_size=8))
def test_a_denial_never_wins_over_an_earlier_server_that_has_not_failed(
    rows: list[tuple[list[float | None], list[str], float]],
) -> None:
    """Whatever the servers did before: what the first one knows that answers at all, no later one denies."""
    network = Network(THREE, failure_ttl_s=0.0)
    for number, (delays_s, says, pause) in enumerate(rows):
        network.delays = dict(zip("123", delays_s, strict=True))
        network.says = dict(zip("123", says, strict=True))
        alive = [one for one in "123" if network.delays[one] is not DEAD and network.says[one] != "failed"]
        was_down = network.bench.is_down(alive[0]) if alive else True
        reply, took = network.ask(f"n{number}.test")
        assert took <= 4.5
        if not was_down and network.says[alive[0]] == "found":
            assert texts(reply) == {"10.0.0.1"}
        network.run(network.bench.now - 1000 + pause)


def test_a_slow_first_server_wins_with_real_sockets(play: Play) -> None:
    """First a look-up as a libc with the same two servers does it: the first alone. Then ours."""

    async def scenario(world: World) -> None:
        def inside(heard: ReceivedQuery) -> list[tuple[float, bytes]]:
            name = question_text(heard)
            return [(0.15, respond_to(heard, (name, 60, "A", "10.0.0.1")).to_wire())]

        first = world.upstream(inside)
        second = world.upstream(respond(rcode=dns.rcode.NXDOMAIN, authority=[SOA]))
        for number in range(8):
            assert texts(await world.ask(f"n{number}.corp.test")) == {"10.0.0.1"}
        assert len(first.heard) >= 8
        assert second.heard, "the second was asked, and waited for"

    play(scenario)


def question_text(heard: ReceivedQuery) -> str:
    return dns.message.from_wire(heard.payload).question[0].name.to_text()
