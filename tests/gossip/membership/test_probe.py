"""Who is asked when, and what an answer counts for."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from netgossip.config import GossipConfig
from netgossip.membership.probe import NACK_GRACE_S, PREFERRED_LIMIT, RELAYS_LIMIT, Prober, RoundRobin

LAN = GossipConfig.lan()
ASKER = ("192.0.2.9", 7956)


def prober() -> Prober:
    return Prober(LAN, random.Random(1))


def test_every_member_is_probed_once_per_round_in_ever_new_order() -> None:
    order = RoundRobin(random.Random(1))
    names = [str(n) for n in range(20)]
    rounds = [[order.take(lambda: names, lambda _: True) for _ in names] for _ in range(10)]
    assert all(sorted(map(str, one)) == sorted(names) for one in rounds)
    assert len({tuple(one) for one in rounds}) == 10


def test_a_newcomer_is_asked_within_the_round_and_the_unwanted_are_not() -> None:
    order = RoundRobin(random.Random(1))
    names = ["a", "b", "c"]
    order.take(lambda: names, lambda _: True)
    order.add("new")
    order.add("new")
    taken = [order.take(list, lambda name: name != "a") for _ in range(4)]
    assert Counter(taken)["new"] == 1
    assert "a" not in taken
    assert taken[-1] is None


def test_a_preferred_member_comes_next_but_not_twice_in_a_row() -> None:
    order = RoundRobin(random.Random(1))
    names = [str(n) for n in range(20)]
    for name in ("7", "gone", "3", "7"):
        order.prefer(name)
    taken = [order.take(lambda: names, lambda name: name in names) for _ in range(4)]
    assert (taken[0], taken[2]) == ("7", "3")
    for number in range(2 * PREFERRED_LIMIT):
        order.prefer(str(number))
    assert (
        sum(order.take(list, lambda _: True) is not None for _ in range(3 * PREFERRED_LIMIT))
        <= 20 + PREFERRED_LIMIT
    )


def test_a_member_that_is_no_longer_preferable_waits_for_its_turn() -> None:
    order = RoundRobin(random.Random(1))
    for name in ("suspected", "doubted"):
        order.prefer(name)
    taken = order.take(list, lambda _: True, preferable=lambda name: name != "suspected")
    assert taken == "doubted"


def test_places_of_newcomers_are_uniform() -> None:
    places: Counter[int] = Counter()
    for seed in range(2000):
        order = RoundRobin(random.Random(seed))
        for name in "abcde":
            order.add(name)
        order.add("new")
        places[[order.take(list, lambda _: True) for _ in range(6)].index("new")] += 1
    assert all(250 < places[place] < 420 for place in range(6))


def test_an_answer_counts_only_for_what_is_in_flight() -> None:
    machine = prober()
    probe = machine.begin("a", patience_s=1.0, now=10.0)
    assert machine.acked(probe.sequence + 1) is None
    assert machine.acked(probe.sequence) is probe
    assert machine.acked(probe.sequence) is None


def test_deadlines_follow_from_health() -> None:
    machine = prober()
    probe = machine.begin("a", patience_s=3.0, now=10.0)
    assert probe.escalate_at == 10.5
    assert probe.deadline == pytest.approx(13.0 + NACK_GRACE_S)
    assert machine.next_deadline() == 10.5
    probe.escalated = True
    assert machine.next_deadline() == probe.deadline
    machine.postpone(2.0)
    assert machine.next_deadline() == pytest.approx(15.0 + NACK_GRACE_S)


def test_silent_helpers_count_against_our_health() -> None:
    machine = prober()
    probe = machine.begin("a", patience_s=1.0, now=0.0)
    assert probe.health_delta() == 1
    probe.escalated, probe.helpers = True, 3
    assert probe.health_delta() == 3
    for host in ("h1", "h2", "h2"):
        machine.nacked(probe.sequence, (host, 1))
    machine.nacked(probe.sequence + 1, ("h3", 1))
    assert probe.health_delta() == 1
    machine.nacked(probe.sequence, ("h3", 1))
    assert probe.health_delta() == 0


def test_a_helper_reports_silence_once_before_the_probers_deadline() -> None:
    machine = prober()
    machine.relay(ASKER, 77, wants_nack=True, now=0.0)
    machine.relay(ASKER, 78, wants_nack=False, now=0.0)
    assert machine.next_deadline() == pytest.approx(0.4)
    assert machine.nacks_due(0.3) == []
    assert [relay.requester_sequence for relay in machine.nacks_due(0.4)] == [77]
    assert machine.nacks_due(0.5) == []
    assert machine.next_deadline() == pytest.approx(1.0)
    machine.nacks_due(1.0)
    assert machine.relays == {}


def test_relays_are_bounded() -> None:
    machine = prober()
    sequences = [machine.relay(ASKER, n, wants_nack=True, now=0.0) for n in range(RELAYS_LIMIT + 1)]
    assert sequences[-1] is None
    assert len(set(sequences)) == RELAYS_LIMIT + 1
