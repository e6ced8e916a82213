"""A program: a run of a cluster with losses, a cut and a restart, printed. `one_run.py SEED`."""

from __future__ import annotations

import sys

from netgossip.testing import SimCluster
from netgossip.types import CLUSTER_SCOPE

NETS = [bytes([number]) * 16 for number in range(1, 5)]


def run(seed: int) -> SimCluster:
    """Seven hosts, all of them in four scopes."""
    cluster = SimCluster(seed=seed, nodes=7, loss=0.1)
    cluster.run_for(10)
    members = frozenset(host.node_id for host in cluster.running())
    for host in cluster.running():
        for scope in NETS:
            with host.commanding() as node:
                node.records.set_scope_members(scope, members, cluster.now)
            host.enter(scope)
        for scope in (CLUSTER_SCOPE, *NETS):
            host.put(scope, b"h", host.name.encode())
    cluster.run_for(10)
    cluster.crash("n2")
    cluster.cut(("n1", "n3"), ("n5", "n6", "n7"))
    cluster.run_for(40)
    cluster.heal()
    cluster.restart("n2")
    cluster.run_for(30)
    return cluster


if __name__ == "__main__":
    ended = run(int(sys.argv[1]))
    print("\n".join(ended.log))
    print(ended.datagrams_sent, ended.bytes_sent)
