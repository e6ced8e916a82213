"""Which peers get our log, when, and again."""

from __future__ import annotations

from itertools import pairwise

from netgossip.config import GossipConfig
from netgossip.deadlines import NEVER
from netgossip.records.dissemination import LONGEST_RTT_S, QUICK_TRIES, Dissemination
from netgossip.records.wire import NO_VERSION, DeltaAck
from netgossip.types import CLUSTER_SCOPE, NodeId, Version

A, B = "aa" * 16, "bb" * 16
V1, V2 = Version(1, 1), Version(1, 2)
CONFIG = GossipConfig.lan()
MOST = 32


def dissemination() -> Dissemination:
    return Dissemination(config=CONFIG)


def ack(held: Version, own: Version = NO_VERSION, *, holding: bool = True) -> DeltaAck:
    return DeltaAck(CLUSTER_SCOPE, holding, held, own)


def nothing(owner: NodeId) -> Version:
    return NO_VERSION


def test_a_change_is_due_at_once_for_each_peer() -> None:
    machine = dissemination()
    machine.changed(CLUSTER_SCOPE, [A, B], 5.0)
    assert machine.next_deadline() == 5.0
    assert machine.take_due(5.0, MOST) == [(A, CLUSTER_SCOPE, None), (B, CLUSTER_SCOPE, None)]
    assert machine.take_due(5.0, MOST) == []


def test_without_an_ack_it_is_sent_again_quickly_and_then_each_interval() -> None:
    machine = dissemination()
    machine.changed(CLUSTER_SCOPE, [A], 0.0)
    times = []
    for _ in range(QUICK_TRIES + 2):
        now = machine.next_deadline()
        assert machine.take_due(now, MOST) == [(A, CLUSTER_SCOPE, None)]
        times.append(now)
    gaps = [round(b - a, 3) for a, b in pairwise(times)]
    assert gaps[: QUICK_TRIES - 1] == [0.03, 0.06, 0.12]
    assert set(gaps[QUICK_TRIES - 1 :]) == {CONFIG.digest_interval_s}


def test_the_round_trip_sets_the_pace() -> None:
    machine = dissemination()
    machine.changed(CLUSTER_SCOPE, [A], 0.0)
    machine.take_due(0.0, MOST)
    machine.sent(A, CLUSTER_SCOPE, NO_VERSION, V1, 0.0)
    machine.handle_ack(A, ack(V1), V1, 0.1)
    assert round(machine.resend_s(A), 6) == 0.3
    assert machine.resend_s(B) == CONFIG.resend_min_s


def pushed(machine: Dissemination, at: float) -> None:
    assert machine.take_due(at, MOST)
    machine.sent(A, CLUSTER_SCOPE, NO_VERSION, V1, at)


def test_a_path_longer_than_the_shortest_wait_is_measured_as_well() -> None:
    """No first push to such a peer is ever answered before its repetition: each change went there three times."""
    machine = dissemination()
    machine.changed(CLUSTER_SCOPE, [A], 0.0)
    for at in (0.0, 0.03, 0.09):
        pushed(machine, at)
    machine.handle_ack(A, ack(V1), V1, 0.11)
    assert round(machine.resend_s(A), 6) == 0.33
    machine.changed(CLUSTER_SCOPE, [A], 1.0)
    pushed(machine, 1.0)
    pushed(machine, 1.33)
    machine.handle_ack(A, ack(V1), V1, 1.44)
    assert round(machine.resend_s(A), 6) == 0.33, "from then on answers to repetitions tell nothing"


def test_a_peer_that_stood_still_is_no_long_path() -> None:
    machine = dissemination()
    machine.changed(CLUSTER_SCOPE, [A], 0.0)
    for at in (0.0, 0.03):
        pushed(machine, at)
    machine.handle_ack(A, ack(V1), V1, 60.0)
    assert machine.resend_s(A) == 3 * LONGEST_RTT_S


def test_an_ack_that_lags_asks_for_more_but_not_in_a_circle() -> None:
    machine = dissemination()
    machine.changed(CLUSTER_SCOPE, [A], 0.0)
    machine.take_due(0.0, MOST)
    machine.sent(A, CLUSTER_SCOPE, V1, V2, 0.0)
    assert machine.handle_ack(A, ack(NO_VERSION), V2, 0.001)
    machine.sent(A, CLUSTER_SCOPE, NO_VERSION, V2, 0.001)
    assert not machine.handle_ack(A, ack(NO_VERSION), V2, 0.002)
    assert machine.next_deadline() < NEVER
    assert not machine.handle_ack(A, ack(V2), V2, 0.003)
    machine.settled(A, CLUSTER_SCOPE)
    assert machine.next_deadline() == NEVER


def test_a_peer_that_takes_no_part_gets_no_push_until_it_sends_something() -> None:
    machine = dissemination()
    machine.changed(CLUSTER_SCOPE, [A], 0.0)
    machine.take_due(0.0, MOST)
    assert not machine.handle_ack(A, ack(NO_VERSION, holding=False), V1, 0.0)
    assert machine.next_deadline() == NEVER
    assert machine.is_absent(A, CLUSTER_SCOPE)
    assert machine.lacking(CLUSTER_SCOPE, [A], V1, nothing) == frozenset()
    machine.note(A, CLUSTER_SCOPE)
    assert machine.lacking(CLUSTER_SCOPE, [A], V1, nothing) == {A}


def test_lacking_looks_both_ways() -> None:
    machine = dissemination()
    assert machine.lacking(CLUSTER_SCOPE, [A], V1, nothing) == {A}
    machine.handle_ack(A, ack(V1, own=V2), V1, 0.0)
    assert machine.lacking(CLUSTER_SCOPE, [A], V1, nothing) == {A}, "we lack what A has"
    assert machine.lacking(CLUSTER_SCOPE, [A], V1, lambda owner: V2) == frozenset()
    assert machine.lacking(CLUSTER_SCOPE, [A], V2, lambda owner: V2) == {A}, "A lacks what we have"
    machine.reset_peer(A)
    assert machine.lacking(CLUSTER_SCOPE, [A], V1, lambda owner: V2) == {A}


def test_a_peer_that_went_away_leaves_no_deadline() -> None:
    machine = dissemination()
    machine.changed(CLUSTER_SCOPE, [A], 0.0)
    machine.forget_peer(A)
    assert machine.next_deadline() == NEVER
    assert machine.take_due(1.0, MOST) == []
