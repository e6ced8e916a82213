"""Tombstones in logs whose owner has nothing more to say."""

from __future__ import annotations

from netgossip.records.table import TOMBSTONES_LIMIT
from netgossip.testing import SimCluster, SimHost
from netgossip.types import NodeId, Scope

NET = bytes(range(16))
MANY = TOMBSTONES_LIMIT


def cluster_of_three() -> tuple[SimCluster, list[SimHost]]:
    cluster = SimCluster(seed=30)
    hosts = [cluster.add(name) for name in ("h1", "h2", "h3")]
    cluster.run_for(5)
    all_ids = frozenset(host.node_id for host in hosts)
    for host in hosts:
        with host.commanding() as node:
            node.records.set_scope_members(NET, all_ids, cluster.now)
        host.enter(NET)
    return cluster, hosts


def tombstones(host: SimHost, owner: NodeId) -> int:
    log = host.running.records.log(NET, owner)
    return 0 if log is None else sum(entry.value is None for entry in log.entries.values())


def collect(cluster: SimCluster, host: SimHost) -> int:
    """What the application does now and then. How many logs it rewrote."""
    changes = host.running.records.rewrites(cluster.now, lambda _scope, key: key != b"never")
    for scope, key, value in changes:
        host.put(scope, key, value)
    return len(changes)


def withdraw(host: SimHost, count: int, scope: Scope = NET) -> None:
    for number in range(count):
        host.put(scope, b"gone %d" % number, b"v")
    for number in range(count):
        host.put(scope, b"gone %d" % number, None)


def test_tombstones_of_a_quiet_log_go_from_all_hosts_and_nothing_comes_back() -> None:
    cluster, (owner, reader, sleeper) = cluster_of_three()
    owner.put(NET, b"stays", b"v")
    for number in range(MANY):
        owner.put(NET, b"gone %d" % number, b"v")
    cluster.run_for(5)
    assert len(sleeper.records(NET)) == MANY + 1
    sleeper.stop()  # and its disk holds all of them
    for number in range(MANY):
        owner.put(NET, b"gone %d" % number, None)
    assert collect(cluster, owner) == 0, "none is overdue"
    cluster.run_for(24 * 60)
    assert tombstones(reader, owner.node_id) == MANY, "no time alone lets them go"
    assert collect(cluster, owner) == 1
    cluster.run_for(5)
    assert [tombstones(host, owner.node_id) for host in (owner, reader)] == [0, 0]
    assert reader.records(NET) == {(owner.node_id, b"stays"): b"v"}
    sleeper.start()
    all_ids = frozenset(host.node_id for host in (owner, reader, sleeper))
    with sleeper.commanding() as node:
        node.records.set_scope_members(NET, all_ids, cluster.now)
    cluster.run_for(15)
    assert [host.records(NET) for host in (owner, reader, sleeper)] == 3 * [{(owner.node_id, b"stays"): b"v"}]
    cluster.run_for(3600)
    assert collect(cluster, owner) == 0, "nothing is left to do"


def test_a_few_tombstones_are_worth_no_change() -> None:
    cluster, (owner, _, _) = cluster_of_three()
    owner.put(NET, b"stays", b"v")
    withdraw(owner, MANY - 1)
    cluster.run_for(3600)
    assert collect(cluster, owner) == 0
    withdraw(owner, 1)
    cluster.run_for(1)
    assert collect(cluster, owner) == 0, "that change has dropped the others"


def test_where_only_tombstones_or_what_must_not_be_rewritten_are_left_nothing_is_said() -> None:
    cluster, (owner, reader, _) = cluster_of_three()
    withdraw(owner, MANY)
    owner.put(NET, b"never", b"v")
    withdraw(reader, MANY)
    cluster.run_for(3600)
    heads = [host.running.records.head(NET) for host in (owner, reader)]
    assert [collect(cluster, host) for host in (owner, reader)] == [0, 0]
    assert [host.running.records.head(NET) for host in (owner, reader)] == heads
