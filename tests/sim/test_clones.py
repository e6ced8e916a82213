"""A machine is cloned while it is down, state and all, and the copies start within the same second: each must name
another by the first full exchange, whatever else makes them raise their incarnations meanwhile."""

from __future__ import annotations

import random
from copy import deepcopy

import pytest

from netgossip.config import GossipConfig
from netgossip.testing import SimCluster, SimHost
from netgossip.types import IdentityConflict, IdentityContested, MemberChanged

WITHIN_S = GossipConfig.local().push_pull_interval_s * 1.1 + 1


def _names(one: SimHost, other: SimHost) -> bool:
    return IdentityConflict((other.ip, 7956)) in one.events


def _has_found_out(host: SimHost) -> bool:
    return any(isinstance(event, IdentityConflict) for event in host.events)


@pytest.mark.parametrize("seed", range(40))
def test_both_copies_name_each_other(seed: int) -> None:
    rng = random.Random(seed)
    cluster = SimCluster(seed=seed, nodes=3, latency_s=(0.000_2, 0.01))
    cluster.run_until(cluster.converged, 30)
    witness, original, copy = cluster["n1"], cluster["n2"], cluster["n3"]
    with copy.commanding() as node:
        node.membership.leave(cluster.now)
    cluster.run_for(1)
    for host in (original, copy):
        cluster.crash(host.name)
        host.events.clear()
    copy.node_id, disk = original.node_id, cluster.backup(original.name)
    cluster.run_for(rng.uniform(0.3, 1))
    cluster.restart(original.name)
    cluster.run_for(rng.uniform(0, 0.6))
    cluster.restart(copy.name, disk=disk)
    witness.events.clear()
    cluster.run_until(lambda: _names(original, copy) and _names(copy, original), WITHIN_S)
    cluster.run_for(60)
    assert original.running.membership.incarnation < 40, "they do not outbid each other for ever"
    reported = [e.member for e in witness.events if isinstance(e, MemberChanged)]
    assert len(reported) < 10, reported
    assert not _has_found_out(witness)
    named = {frozenset((e.held, e.other)) for e in witness.events if isinstance(e, IdentityContested)}
    assert named == {frozenset(((original.ip, 7956), (copy.ip, 7956)))}, "a third host reports both"


@pytest.mark.parametrize("seed", range(20))
def test_none_of_three_copies_is_left_out(seed: int) -> None:
    """It took up to a minute for the third: the other two had answered each other so often that they were silent."""
    rng = random.Random(f"{seed} three")
    cluster = SimCluster(seed=seed, nodes=5, latency_s=(0.005, 0.05))
    cluster.run_until(cluster.converged, 30)
    copies = [cluster[f"n{number}"] for number in (2, 3, 4)]
    for one in copies[1:]:
        with one.commanding() as node:
            node.membership.leave(cluster.now)
    cluster.run_for(1)
    for one in copies:
        cluster.crash(one.name)
        one.events.clear()
        one.node_id = copies[0].node_id
    original = cluster.backup("n2")
    for one in copies:
        cluster.restart(one.name, disk=deepcopy(original))
        cluster.run_for(rng.choice((0.0, rng.uniform(0, 2))))
    reported = [event for event in cluster["n1"].events if isinstance(event, MemberChanged)]
    cluster.run_until(lambda: all(map(_has_found_out, copies)), WITHIN_S)
    cluster.run_for(60)
    assert max(one.running.membership.incarnation for one in copies) < 80, (
        "they do not outbid each other for ever"
    )
    assert len([e for e in cluster["n1"].events if isinstance(e, MemberChanged)]) < len(reported) + 10
