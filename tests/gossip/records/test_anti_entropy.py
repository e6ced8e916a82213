"""When scopes are compared, and when they are synced."""

from __future__ import annotations

import random
from collections import Counter

from netgossip.config import GossipConfig
from netgossip.deadlines import NEVER
from netgossip.records.anti_entropy import AT_ONCE, TRIES, AntiEntropy
from netgossip.types import CLUSTER_SCOPE, NodeId, Scope, Version

A, B, C = "aa" * 16, "bb" * 16, "cc" * 16
CONFIG = GossipConfig.lan()


def exchange() -> AntiEntropy:
    return AntiEntropy(config=CONFIG, rng=random.Random(1))


def abc(scope: Scope) -> list[NodeId]:
    return [A, B, C]


def no_peers(scope: Scope) -> list[NodeId]:
    return []


def at_once(peer: NodeId) -> float:
    return 0.0


def test_a_synced_scope_is_compared_each_interval_with_one_random_peer() -> None:
    machine = exchange()
    machine.enter(CLUSTER_SCOPE, 0.0)
    machine.synced(CLUSTER_SCOPE)
    asked: Counter[NodeId] = Counter()
    now = 0.0
    for _ in range(300):
        now = machine.next_deadline()
        for peer, scope in machine.take_due(now, abc, at_once):
            asked[peer] += 1
            machine.answered(scope, peer)
    assert 0.95 < now / 299 / CONFIG.digest_interval_s < 1.05
    assert min(asked.values()) > 70, "no peer is favoured"


def test_until_synced_it_does_not_wait_for_the_interval() -> None:
    machine = exchange()
    machine.enter(CLUSTER_SCOPE, 0.0)
    asked = 0
    while machine.next_deadline() < 1.0:
        asked += len(machine.take_due(machine.next_deadline(), abc, at_once))
    assert asked >= 3


def test_without_an_answer_a_comparison_is_repeated_and_then_given_up() -> None:
    machine = exchange()
    machine.compare(CLUSTER_SCOPE, A, 1.0)
    times = []
    while machine.next_deadline() < NEVER:
        times.append(machine.next_deadline())
        assert machine.take_due(times[-1], no_peers, at_once) == [(A, CLUSTER_SCOPE)]
    assert len(times) == TRIES
    assert times[0] == 1.0


def test_an_answer_ends_it() -> None:
    machine = exchange()
    machine.compare(CLUSTER_SCOPE, A, 0.0)
    machine.take_due(0.0, no_peers, at_once)
    machine.answered(CLUSTER_SCOPE, A)
    assert machine.next_deadline() == NEVER


def test_a_later_wish_does_not_put_off_an_earlier_one() -> None:
    machine = exchange()
    machine.compare(CLUSTER_SCOPE, A, 1.0)
    machine.compare(CLUSTER_SCOPE, A, 2.0)
    assert machine.next_deadline() == 1.0
    machine.compare(CLUSTER_SCOPE, A, 0.5)
    assert machine.next_deadline() == 0.5


def test_a_peer_confirms_once_all_that_it_held_has_come() -> None:
    machine = exchange()
    machine.enter(CLUSTER_SCOPE, 0.0)
    held = {A: Version(1, 0), B: Version(1, 0)}
    machine.expect(CLUSTER_SCOPE, C, {A: Version(1, 2), B: Version(1, 1)})
    held[A] = Version(1, 2)
    machine.reached(CLUSTER_SCOPE, held.__getitem__)
    assert machine.unsynced() == [(CLUSTER_SCOPE, 0.0, frozenset())]
    held[B] = Version(2, 0)
    machine.reached(CLUSTER_SCOPE, held.__getitem__)
    assert machine.unsynced() == [(CLUSTER_SCOPE, 0.0, frozenset({C}))]
    machine.synced(CLUSTER_SCOPE)
    assert machine.unsynced() == []


def test_a_large_scope_is_compared_with_a_few_at_a_time() -> None:
    machine = exchange()
    peers = [f"{number:032x}" for number in range(100)]
    for peer in peers:
        machine.compare(CLUSTER_SCOPE, peer, 0.0)
    assert len(machine.take_due(0.0, no_peers, at_once)) == AT_ONCE
    asked = 0
    while machine.next_deadline() < NEVER:
        due = machine.take_due(machine.next_deadline(), no_peers, at_once)
        assert len(due) <= 2 * AT_ONCE
        asked += len(due)
        for peer, scope in due:
            machine.answered(scope, peer)
    assert asked == len(peers)


def test_a_scope_that_was_left_plans_nothing() -> None:
    machine = exchange()
    machine.enter(CLUSTER_SCOPE, 0.0)
    machine.compare(CLUSTER_SCOPE, A, 0.0)
    machine.leave(CLUSTER_SCOPE)
    assert machine.next_deadline() == NEVER


def test_whatever_happens_to_hundreds_of_comparisons_the_next_one_is_known() -> None:
    rng = random.Random(3)
    peers = [f"{number:032x}" for number in range(40)]
    scopes = [CLUSTER_SCOPE, bytes(range(16))]
    machine, now, taken = exchange(), 0.0, 0
    for scope in scopes:
        machine.enter(scope, now)
    for _ in range(3000):
        scope, peer = rng.choice(scopes), rng.choice(peers)
        match rng.randrange(40):
            case 0:
                machine.forget_peer(peer)
            case 1:
                machine.leave(scope)
                machine.enter(scope, now)
            case number if number < 20:
                machine.compare(scope, peer, now + rng.choice([0.0, 0.0, 1.0]))
            case number if number < 32:
                machine.answered(scope, peer)
            case _:
                assert machine.next_deadline() < NEVER
                now = max(now, machine.next_deadline())
                due = machine.take_due(now, lambda _: peers, at_once)
                first = Counter(scope for _, scope in due)
                assert len(set(due)) == len(due)
                taken += len(due)
                assert machine.next_deadline() > now, "what was due is planned again, or done"
                assert max(first.values(), default=0) <= len(peers)
        machine.check_invariants()
    assert taken > 200
