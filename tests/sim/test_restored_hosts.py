"""One host is restored from a backup, taken at any point of its life and restored at any later one.

Hosts follow each other's records as the application does: who has a record of taking part in NET takes part, hears
and asked; who has left says nothing in NET any more. In the end all hold of each host what it holds of itself, also
in scopes in which it takes no part any more and of which its backup knows nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from netgossip.testing import SimCluster, SimHost
from netgossip.types import CLUSTER_SCOPE, EntriesChanged, Event, NodeId, Scope

NET = bytes(range(16))
TAKES_PART = b"takes part in NET"


class Application:
    """What makes a host enter NET, leave it, and know who is in."""

    def __init__(self, cluster: SimCluster, host: SimHost) -> None:
        self.cluster = cluster
        self.host = host
        self.is_in = False
        host.on_event = self.handle

    def handle(self, event: Event) -> None:
        if isinstance(event, EntriesChanged) and event.scope == CLUSTER_SCOPE:
            self.follow()

    def follow(self) -> None:
        members = {owner for owner, key in self.host.records() if key == TAKES_PART}
        with self.host.commanding() as node:
            node.records.set_scope_members(NET, frozenset(members), self.cluster.now)
            if self.host.node_id in members:
                self.is_in = True
                node.records.enter_scope(NET, self.cluster.now)
            elif self.is_in:
                self.is_in = False
                node.records.exit_scope(NET)
                disk = self.host.disk.logs
                for scope, owner in [k for k in disk if k[0] == NET and k[1] != self.host.node_id]:
                    del disk[scope, owner]


def _lives(host: SimHost) -> list[Callable[[], object]]:
    """Everything that a host does, step by step."""
    return [
        lambda: host.put(CLUSTER_SCOPE, b"host", b"1"),
        lambda: host.put(CLUSTER_SCOPE, TAKES_PART, b"1"),
        lambda: host.put(NET, b"web", b"1"),
        lambda: host.put(NET, b"db", b"1"),
        lambda: host.put(NET, b"web", None),
        lambda: host.put(NET, b"db", None),
        lambda: host.put(CLUSTER_SCOPE, TAKES_PART, None),
        lambda: host.put(CLUSTER_SCOPE, TAKES_PART, b"2"),
        lambda: host.put(NET, b"cache", b"1"),
        lambda: host.put(CLUSTER_SCOPE, b"host", b"2"),
    ]


STEPS = 10


def _held(host: SimHost, scope: Scope, owner: NodeId) -> dict[bytes, bytes]:
    return {key: value for (one, key), value in host.records(scope).items() if one == owner}


@pytest.mark.parametrize("loss", [0.0, 0.15])
@pytest.mark.parametrize("saved", range(STEPS))
def test_nothing_is_left_of_what_a_restored_host_does_not_know(saved: int, loss: float) -> None:
    for restored in range(saved + 1, STEPS + 1):
        print(f"saved before step {saved}, restored before step {restored}")
        cluster = SimCluster(seed=100 * saved + restored, nodes=4, loss=loss)
        cluster.run_until(cluster.converged, timeout_s=30)
        applications = [Application(cluster, host) for host in cluster.hosts.values()]
        for name in ("n1", "n2"):
            cluster[name].put(CLUSTER_SCOPE, TAKES_PART, b"1")
        host = cluster["n3"]
        backup = cluster.backup("n3")
        for number, step in enumerate(_lives(host)[:restored]):
            if number == saved:
                backup = cluster.backup("n3")
            step()
            cluster.run_until(cluster.converged, timeout_s=30)
            cluster.run_until(lambda: cluster["n1"].records(NET) == cluster["n2"].records(NET), timeout_s=30)
        cluster.restart("n3", disk=backup)
        applications[2].is_in = False
        applications[2].follow()
        cluster.run_until(cluster.converged, timeout_s=60)
        cluster.run_for(20)
        for other in cluster.running():
            if NET in {log.scope for log in other.running.records.logs(NET)}:
                assert _held(other, NET, host.node_id) == _held(host, NET, host.node_id), other.name
            kept = other.disk.logs.get((NET, host.node_id))
            live = {k for k, e in kept.entries.items() if e.value is not None} if kept else set()
            assert live <= _held(host, NET, host.node_id).keys()
