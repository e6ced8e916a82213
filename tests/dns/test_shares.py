"""What one client takes of flights and of waiting, and what is left for the others. Under virtual time."""

from __future__ import annotations

from collections import Counter

import dns.message
import dns.rcode

from netdns.resolver import Resolver, Transport, UpstreamQuery
from tests.dns.bench import ONE, Bench, question_of
from tests.dns.world import texts

FLIGHTS = 512


class Crowd:
    """Many clients of one resolver whose one server is silent but for what is answered by hand."""

    def __init__(self, **options: int) -> None:
        self.bench = Bench(ONE, **options)
        self.resolver: Resolver = self.bench.resolver
        self.replies: dict[str, Counter[str]] = {}

    def ask(self, client: str, qname: str) -> str | None:
        """Return the code of an answer at once."""
        query = dns.message.make_query(qname, "A").to_wire()
        reply = self.resolver.handle_query(query, client, Transport.UDP, "token", self.bench.now)
        self.drain()
        if reply is None:
            return None
        return dns.rcode.to_text(dns.message.from_wire(reply).rcode())

    def drain(self) -> None:
        """As the bench does, with the replies counted by client."""
        output = self.resolver.drain()
        for reply in output.replies:
            message = dns.message.from_wire(reply.payload)
            code = dns.rcode.to_text(message.rcode())
            self.replies.setdefault(str(reply.client), Counter())[code] += 1
        self.bench.sent += [(0.0, one) for one in output.upstream if isinstance(one, UpstreamQuery)]

    def answer(self, qname: str) -> None:
        """The server answers a question at last, and all turns are taken."""
        (query,) = [one for _, one in self.bench.sent if question_of(one) == f"{qname}."]
        index = [one for _, one in self.bench.sent].index(query)
        wire = self.bench.wire_answer((f"{qname}.", 60, "A", "192.0.2.9"), index=index)
        self.resolver.handle_upstream_datagram(query.exchange_id, wire, self.bench.now)
        self.drain()
        while self.resolver.next_deadline() <= self.bench.now:
            self.resolver.handle_deadline(self.bench.now)
            self.drain()
        self.resolver.check_invariants()

    @property
    def flights(self) -> int:
        return self.resolver.statistics()["flights"]


def test_a_client_that_asks_for_a_silent_zone_leaves_the_others_their_flights() -> None:
    crowd = Crowd()
    for second in range(4):
        for number in range(50):
            for hog in ("h1", "h2", "h3", "h4"):
                crowd.ask(hog, f"x{second}-{number}-{hog}.silent.test")
        crowd.bench.now += 1
    assert crowd.flights == FLIGHTS
    for number in range(100):
        assert crowd.ask("victim", f"n{number}.test") is None, "it waits for upstream, as it should"
    assert crowd.flights == FLIGHTS
    crowd.resolver.check_invariants()
    crowd.answer("n7.test")
    assert crowd.replies["victim"] == {"NOERROR": 1}
    lost = {client: counter["SERVFAIL"] for client, counter in crowd.replies.items() if client != "victim"}
    assert sum(lost.values()) == 100
    assert max(lost.values()) - min(lost.values()) <= 1, "those who hold most give most"
    assert crowd.resolver.statistics()["cache_entries"] == 1, "what was crowded out has not failed"


def test_one_client_does_not_take_all_flights_even_when_it_is_alone() -> None:
    crowd = Crowd()
    codes = Counter(crowd.ask("hog", f"x{number}.test") for number in range(300))
    assert codes == {None: 128, "SERVFAIL": 172}


def test_a_client_that_asks_ten_times_its_quota_is_refused_the_rest_and_its_neighbour_nothing() -> None:
    crowd = Crowd(queries_per_client_s=100, query_burst_per_client=200)
    codes: Counter[str | None] = Counter()
    for tenth in range(10):
        for number in range(200):
            codes[crowd.ask("hog", f"x{tenth}-{number}.mesh.test")] += 1
        assert crowd.ask("neighbour", f"y{tenth}.mesh.test") == "NXDOMAIN"
        crowd.bench.now += 0.1
    assert codes["NXDOMAIN"] in range(285, 296), "a burst, and 0.9 s of its rate"
    assert codes["REFUSED"] == 2000 - codes["NXDOMAIN"]
    assert crowd.resolver.statistics()["refused_over_rate"] == codes["REFUSED"]
    assert crowd.resolver.over_rate(since=crowd.bench.now - 1) == ["hog"]
    crowd.bench.now += 2
    again = Counter(crowd.ask("hog", f"z{number}.mesh.test") for number in range(300))
    assert again == {"NXDOMAIN": 200, "REFUSED": 100}, "after a pause it has a burst again"
    assert crowd.resolver.over_rate(since=crowd.bench.now + 1) == []


def test_what_repeats_itself_does_not_count() -> None:
    crowd = Crowd(queries_per_client_s=1, query_burst_per_client=2)
    query = dns.message.make_query("x.mesh.test", "A").to_wire()
    for _ in range(50):
        reply = crowd.resolver.handle_query(query, "one", Transport.UDP, "token", crowd.bench.now)
        assert reply is not None
        assert dns.message.from_wire(reply).rcode() == dns.rcode.NXDOMAIN


def test_a_flight_that_others_joined_goes_on_for_them() -> None:
    crowd = Crowd(max_flights=4, max_flights_per_client=4)
    for number in range(4):
        crowd.ask("hog", f"x{number}.test")
    crowd.ask("friend", "x0.test")
    assert crowd.ask("victim", "y.test") is None
    crowd.resolver.check_invariants()
    assert crowd.replies["hog"] == {"SERVFAIL": 2}, "its two oldest"
    crowd.answer("x0.test")
    assert crowd.replies["friend"] == {"NOERROR": 1}
    crowd.answer("y.test")
    assert crowd.replies["victim"] == {"NOERROR": 1}


def test_two_hundred_askers_of_one_question_are_all_answered() -> None:
    for clients in (["one"] * 200, [f"c{number}" for number in range(200)]):
        crowd = Crowd()
        assert [crowd.ask(client, "a.test") for client in clients] == [None] * 200
        assert crowd.flights == 1
        crowd.answer("a.test")
        assert sum(counter["NOERROR"] for counter in crowd.replies.values()) == 200


def test_those_who_joined_are_answered_a_few_at_a_time() -> None:
    crowd = Crowd(answers_a_turn=10)
    for _ in range(25):
        crowd.ask("one", "a.test")
    (query,) = [one for _, one in crowd.bench.sent if question_of(one) == "a.test."]
    wire = crowd.bench.wire_answer(("a.test.", 60, "A", "192.0.2.9"), index=0)
    crowd.resolver.handle_upstream_datagram(query.exchange_id, wire, crowd.bench.now)
    turns = []
    while crowd.resolver.next_deadline() <= crowd.bench.now:
        turns.append(len(crowd.resolver.drain().replies))
        crowd.resolver.handle_deadline(crowd.bench.now)
    assert [*turns, len(crowd.resolver.drain().replies)] == [10, 10, 5]
    crowd.resolver.check_invariants()


def test_waiting_is_bounded_and_the_bound_is_shared() -> None:
    crowd = Crowd(max_waiting=100, max_waiting_per_client=80)
    codes = Counter(crowd.ask("hog", "a.test") for _ in range(90))
    assert codes == {None: 80, "SERVFAIL": 10}
    codes = Counter(crowd.ask("other", "a.test") for _ in range(90))
    assert codes == {None: 50, "SERVFAIL": 40}, "20 that were free, and up to the share of each of two"
    assert crowd.ask("third", "a.test") is None
    crowd.answer("a.test")
    assert crowd.replies == {"hog": {"NOERROR": 80}, "other": {"NOERROR": 50}, "third": {"NOERROR": 1}}
    assert crowd.ask("hog", "b.test") is None, "all of it is free again"


def test_a_forgotten_client_holds_no_place_when_its_flights_have_ended() -> None:
    crowd = Crowd(max_waiting=4, max_waiting_per_client=4)
    for _ in range(4):
        crowd.ask("gone", "a.test")
    crowd.resolver.forget_client("gone")
    crowd.answer("a.test")
    assert crowd.replies == {}
    assert [crowd.ask("next", "b.test") for _ in range(4)] == [None] * 4


def test_the_answer_to_a_shared_question_is_the_same_for_all_who_asked_differently() -> None:
    crowd = Crowd()
    assert crowd.ask("one", "A.test") is None
    assert crowd.ask("two", "a.TEST") is None
    crowd.answer("a.test")
    assert {client: counter["NOERROR"] for client, counter in crowd.replies.items()} == {"one": 1, "two": 1}
    assert texts(dns.message.from_wire(crowd.bench.wire_answer(("a.test.", 60, "A", "192.0.2.9")))) == {
        "192.0.2.9"
    }
