"""Random lives of a cluster: everything happens at once, and an oracle looks on at every step.

The oracle knows what each host had at each version that it ever gave out. What any host holds of another
must be what that host had at the version held: nothing lost in between, nothing resurrected. In the end all agree.
"""

from __future__ import annotations

import random

import pytest

from netgossip.testing import SimCluster
from netgossip.types import CLUSTER_SCOPE, Event, NodeId, OwnLogRaised, Scope, Version

NET = bytes(range(16))
NAMES = [f"n{number}" for number in range(1, 7)]


class Chaos:
    """A cluster of six, its oracle, and the dice."""

    def __init__(self, seed: int) -> None:
        print(f"seed {seed}")
        self.rng = random.Random(f"{seed} chaos")
        self.cluster = SimCluster(seed=seed, nodes=6, loss=0.1)
        self.truth: dict[tuple[Scope, NodeId, Version], dict[bytes, bytes]] = {}
        self.all_ids = frozenset(host.node_id for host in self.cluster.hosts.values())
        for name in NAMES:
            self.settle_in(name)

    def settle_in(self, name: str) -> None:
        host = self.cluster[name]
        host.on_event = self.refuse_raises
        with host.commanding() as node:
            node.records.set_scope_members(NET, self.all_ids, self.cluster.now)
        host.enter(NET)

    def refuse_raises(self, event: Event) -> None:
        assert not isinstance(event, OwnLogRaised), "no host lost a disk"

    def act(self) -> None:
        name = self.rng.choice(NAMES)
        host, dice = self.cluster[name], self.rng.random()
        if host.node is None:
            self.cluster.restart(name)
            self.settle_in(name)
        elif host.paused:
            host.paused = dice < 0.5
        elif dice < 0.72:
            scope = self.rng.choice([CLUSTER_SCOPE, NET])
            key = b"k%d" % self.rng.randrange(5)
            host.put(scope, key, self.rng.choice([None, b"%d" % self.rng.randrange(100)]))
            log = host.running.records.own_log(scope)
            assert log is not None
            live = {k: e.value for k, e in log.entries.items() if e.value is not None}
            self.truth[scope, host.node_id, Version(log.epoch, log.head)] = live
        elif dice < 0.78:
            host.paused = True
        elif dice < 0.84:
            self.cluster.crash(name)
        elif dice < 0.90:
            others = self.rng.sample(NAMES, 3)
            rest = [other for other in NAMES if other not in others]
            self.cluster.cut(others, rest, one_way=self.rng.random() < 0.3)
        else:
            self.cluster.heal()

    def look(self) -> None:
        for host in self.cluster.running():
            for scope in (CLUSTER_SCOPE, NET):
                for log in host.running.records.logs(scope):
                    live = {k: e.value for k, e in log.entries.items() if e.value is not None}
                    known = self.truth[scope, log.owner, Version(log.epoch, log.head)]
                    assert live == known, f"{host.name} holds something else of {log.owner}"


@pytest.mark.parametrize("seed", range(8))
def test_chaos(seed: int) -> None:
    chaos = Chaos(seed)
    for _ in range(150):
        chaos.act()
        chaos.cluster.run_for(chaos.rng.choice([0.0, 0.05, 0.5, 3.0]))
        chaos.look()
    chaos.cluster.heal()
    for name in NAMES:
        chaos.cluster[name].paused = False
        if chaos.cluster[name].node is None:
            chaos.cluster.restart(name)
            chaos.settle_in(name)
    chaos.cluster.run_until(chaos.cluster.converged, timeout_s=90)
    chaos.cluster.run_until(lambda: chaos.cluster.same_records(NET), timeout_s=30)
    chaos.look()
