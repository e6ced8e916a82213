"""A machine is cloned while it is down, state and all, and both copies start within the same second: each must name
the other by the first full exchange, whatever else makes them raise their incarnations meanwhile."""

from __future__ import annotations

import random

import pytest

from netgossip.config import GossipConfig
from netgossip.testing import SimCluster, SimHost
from netgossip.types import IdentityClash, MemberChanged

WITHIN_S = GossipConfig.local().push_pull_interval_s * 1.1 + 1


def _names(one: SimHost, other: SimHost) -> bool:
    return IdentityClash((other.ip, 7956)) in one.events


@pytest.mark.parametrize("seed", range(40))
def test_both_copies_name_each_other(seed: int) -> None:
    rng = random.Random(seed)
    cluster = SimCluster(seed=seed, nodes=3, latency_s=(0.000_2, 0.01))
    cluster.run_until(cluster.converged, 30)
    witness, original, copy = cluster["n1"], cluster["n2"], cluster["n3"]
    with copy.commanding() as node:
        node.leave(cluster.now)
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
    assert original.running.incarnation < 40, "they do not outbid each other for ever"
    told = [e.member for e in witness.events if isinstance(e, MemberChanged)]
    assert len(told) < 10, told
    assert not [e for e in witness.events if isinstance(e, IdentityClash)]
