"""Nodes that others refuse for good. A failure names its seed; the same seed gives the same run."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from netgossip.testing import SimCluster, SimHost
from netgossip.types import CLUSTER_SCOPE, MemberState, RefusalHeard, RequestReceived

SEEDS = (1, 2, 3)


def started(seed: int, nodes: int) -> SimCluster:
    print(f"seed {seed}")
    cluster = SimCluster(seed=seed, nodes=nodes)
    cluster.run_until(cluster.converged, timeout_s=60)
    return cluster


def refuse(cluster: SimCluster, gone: SimHost, by: Iterable[SimHost]) -> None:
    for host in by:
        with host.commanding() as node:
            node.refuse_peer(gone.node_id, f"revoked by {host.name}", cluster.now)


def knows(host: SimHost, other: SimHost) -> bool:
    return other.node_id in host.running.members()


def heard(host: SimHost) -> set[str]:
    return {event.text for event in host.events if isinstance(event, RefusalHeard)}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_refused_node_is_out_and_does_not_come_back(seed: int) -> None:
    """Though it lives, restarts, and comes as a copy from a backup; and it learns why."""
    cluster = started(seed, 5)
    gone, others = cluster["n5"], [cluster[f"n{number}"] for number in range(1, 5)]
    backup = cluster.backup("n5")
    refuse(cluster, gone, others)
    assert not any(knows(one, gone) for one in others)
    gone.put(CLUSTER_SCOPE, b"after", b"1")

    def stays_out(duration_s: float) -> None:
        before = sum(len(one.events) for one in others)
        cluster.run_for(duration_s)
        assert not any(knows(one, gone) for one in others)
        assert (gone.node_id, b"after") not in others[0].records()
        news = [event for one in others for event in one.events]
        assert len(news) == before, "nothing changes for the others"

    cluster.run_until(lambda: bool(heard(gone)), timeout_s=60)
    assert heard(gone) <= {f"revoked by {one.name}" for one in others}
    stays_out(120)
    assert any(one.running.statistics()["record_refused_sender_is_revoked"] for one in others)
    assert any(one.running.statistics()["gossip_refused_revoked"] for one in others)
    for disk in (None, backup):
        cluster.crash("n5")
        cluster.restart("n5", disk=disk)
        gone.events.clear()
        cluster.run_until(lambda: bool(heard(gone)), timeout_s=60)
        stays_out(120)
    for one in others:
        one.running.check_invariants()


@pytest.mark.parametrize("seed", SEEDS)
def test_refusals_meet_across_cuts_and_others_stay_members(seed: int) -> None:
    """Some hosts refuse it only after a cut during which it spread news of itself among them."""
    cluster = started(seed, 6)
    rng = random.Random(seed)
    gone = cluster["n6"]
    others = [cluster[f"n{number}"] for number in range(1, 6)]
    rng.shuffle(others)
    near, far = others[:3], others[3:]
    cluster.cut([one.name for one in near], [one.name for one in (*far, gone)])
    refuse(cluster, gone, near)
    cluster.run_for(rng.uniform(1, 60))
    cluster.heal()
    cluster.run_for(rng.uniform(0, 20))
    refuse(cluster, gone, far)
    cluster.run_until(
        lambda: all(one.state_of(other) is MemberState.ALIVE for one in others for other in others),
        timeout_s=120,
    )
    assert not any(knows(one, gone) for one in others)


def test_requests_of_a_refused_node_are_not_answered_and_it_may_be_readmitted() -> None:
    cluster = started(1, 3)
    gone, others = cluster["n3"], [cluster["n1"], cluster["n2"]]
    refuse(cluster, gone, others)
    with gone.commanding() as node:
        node.records.request(others[0].node_id, b"?", cluster.now, 1.0)
    cluster.run_for(5)
    assert not [event for event in others[0].events if isinstance(event, RequestReceived)]
    for one in others:
        with one.commanding() as node:
            node.readmit_peer(gone.node_id)
    cluster.run_until(cluster.converged, timeout_s=120)
