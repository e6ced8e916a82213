"""Random lives in which disks are restored from backups, scopes are left and entered, and tombstones go at once.

Nothing can be said of each step then: what a lost disk knew is taken back in the end. But in the end every host holds
of each host exactly what that host holds of itself, in memory and on disk; and every host knows so.
"""

from __future__ import annotations

import copy
import random
from dataclasses import replace

import pytest

from netgossip.config import GossipConfig
from netgossip.testing import Disk, SimCluster
from netgossip.types import CLUSTER_SCOPE, Log, NodeId, Scope, ScopeSynced

NET = bytes(range(16))
NAMES = [f"n{number}" for number in range(1, 6)]


class LostDisks:
    """A cluster of five and its backups."""

    def __init__(self, seed: int) -> None:
        print(f"seed {seed}")
        self.rng = random.Random(f"{seed} lost disks")
        config = replace(GossipConfig.local(), tombstone_s=1.0)
        self.cluster = SimCluster(seed=seed, nodes=5, loss=0.1, config=config)
        self.all_ids = frozenset(host.node_id for host in self.cluster.hosts.values())
        self.backups: dict[str, Disk] = {}
        for name in NAMES:
            self.settle_in(name)

    def settle_in(self, name: str) -> None:
        host = self.cluster[name]
        with host.commanding() as node:
            node.records.set_scope_members(NET, self.all_ids, self.cluster.now)
        host.enter(NET)

    def restart(self, name: str) -> None:
        disk = None
        if name in self.backups and self.rng.random() < 0.5:
            disk = copy.deepcopy(self.backups[name])
        self.cluster.restart(name, disk=disk)
        self.settle_in(name)

    def leave_and_enter(self, name: str) -> None:
        host = self.cluster[name]
        with host.commanding() as node:
            node.records.exit_scope(NET)
        for scope, owner in [key for key in host.disk.logs if key[0] == NET and key[1] != host.node_id]:
            del host.disk.logs[scope, owner]
        self.settle_in(name)

    def act(self) -> None:
        name = self.rng.choice(NAMES)
        host, dice = self.cluster[name], self.rng.random()
        if host.node is None:
            self.restart(name)
        elif host.paused:
            host.paused = dice < 0.5
        elif dice < 0.56:
            key, value = b"k%d" % self.rng.randrange(5), b"%d" % self.rng.randrange(100)
            host.put(self.rng.choice([CLUSTER_SCOPE, NET]), key, self.rng.choice([None, value]))
        elif dice < 0.6:
            host.paused = True
        elif dice < 0.65:
            self.leave_and_enter(name)
        elif dice < 0.7:
            self.backups[name] = self.cluster.backup(name)
        elif dice < 0.8:
            self.cluster.crash(name)
        elif dice < 0.9:
            others = self.rng.sample(NAMES, 2)
            rest = [other for other in NAMES if other not in others]
            self.cluster.cut(others, rest, one_way=self.rng.random() < 0.3)
        else:
            self.cluster.heal()


def live(log: Log | None) -> dict[bytes, bytes]:
    entries = {} if log is None else log.entries
    return {key: entry.value for key, entry in entries.items() if entry.value is not None}


def by_owner(cluster: SimCluster, scope: Scope) -> dict[NodeId, dict[bytes, bytes]]:
    return {host.node_id: live(host.running.records.own_log(scope)) for host in cluster.running()}


@pytest.mark.parametrize("seed", range(6))
def test_in_the_end_all_hold_what_each_holds_of_itself(seed: int) -> None:
    lives = LostDisks(seed)
    cluster = lives.cluster
    for _ in range(120):
        lives.act()
        cluster.run_for(lives.rng.choice([0.0, 0.05, 0.5, 3.0]))
    cluster.heal()
    for name in NAMES:
        cluster[name].paused = False
        if cluster[name].node is None:
            lives.restart(name)
    cluster.run_until(cluster.converged, timeout_s=90)
    cluster.run_until(lambda: cluster.same_records(NET), timeout_s=30)
    cluster.run_for(15)
    for scope in (CLUSTER_SCOPE, NET):
        truth = by_owner(cluster, scope)
        for host in cluster.running():
            held = {log.owner: live(log) for log in host.running.records.logs(scope)}
            kept = {owner: live(log) for (where, owner), log in host.disk.logs.items() if where == scope}
            assert {owner: held.get(owner, {}) for owner in truth} == truth
            assert kept == held
            assert not host.running.records.unacknowledged(scope)
            assert ScopeSynced(scope) in host.events
