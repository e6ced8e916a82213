"""Changes that are longer than a datagram: whole clusters under virtual time, with loss, and with hosts of a release
that knows no parts. A failure names its seed; the same seed gives the same run."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import pytest

from netgossip.config import GossipConfig
from netgossip.records.parts import Assembly
from netgossip.testing import SLICE_S, SimCluster, SimHost
from netgossip.types import CLUSTER_SCOPE

RECORDS = 32


def counted(hosts: Iterable[SimHost], name: str) -> int:
    return sum(int(host.running.statistics().get(f"record_{name}", 0)) for host in hosts)


def change(cluster: SimCluster, host: SimHost, value: bytes) -> None:
    """All records of a host, in one change."""
    chance = random.Random(value)
    with host.commanding() as node:
        records = [
            (CLUSTER_SCOPE, b"%d" % number, value + chance.randbytes(150)) for number in range(RECORDS)
        ]
        node.records.commit(node.records.prepare(records), cluster.now)


def have_all(cluster: SimCluster) -> bool:
    return cluster.same_records() and not any(
        host.running.records.unacknowledged(CLUSTER_SCOPE) for host in cluster.running()
    )


def started(seed: int, nodes: int, *, loss: float = 0.0, old: Iterable[str] = ()) -> SimCluster:
    """A cluster that has found together; some of its hosts neither announce parts nor expect any."""
    print(f"seed {seed}")
    cluster = SimCluster(seed=seed, nodes=nodes, loss=loss)
    for name in old:
        cluster[name].running.records._transport._assembles = 0
    cluster.run_until(cluster.converged, timeout_s=60)
    for host in cluster.running():
        host.put(CLUSTER_SCOPE, b"h", host.name.encode())
    cluster.run_until(lambda: have_all(cluster), timeout_s=60)
    cluster.run_for(5)
    return cluster


def test_a_change_of_many_records_reaches_all_without_a_stream() -> None:
    cluster = started(1, 10)
    streams = counted(cluster.running(), "streams_dialled")
    change(cluster, cluster["n1"], b"1")
    took_s = cluster.run_until(lambda: have_all(cluster), timeout_s=1)
    assert took_s <= 2 * cluster.latency_s[1] + SLICE_S, "there and back"
    assert counted(cluster.running(), "messages_assembled") == 9
    assert counted(cluster.running(), "streams_dialled") == streams
    assert counted(cluster.running(), "deltas_applied") >= 9


@pytest.mark.parametrize("loss", [0.05, 0.2, 0.4])
@pytest.mark.parametrize("seed", range(1, 6))
def test_lost_parts_are_made_up_for(seed: int, loss: float) -> None:
    cluster = started(seed, 6)
    cluster.loss = loss
    for number in range(10):
        change(cluster, cluster[f"n{1 + number % 3}"], b"%d" % number)
        cluster.run_until(
            lambda: have_all(cluster), timeout_s=10.0
        )  # of 24 seeds at 40 % the longest took 6.2 s
    hosts = cluster.running()
    assert counted(hosts, "messages_assembled") < counted(hosts, "messages_in_parts")
    cluster.run_for(5)
    assert all(len(host.running.records._transport._assembly) == 0 for host in hosts)


@pytest.mark.parametrize("seed", range(1, 6))
def test_hosts_of_a_release_that_knows_no_parts_get_streams(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = ("n2", "n4", "n6")
    cluster = started(seed, 6, loss=0.05, old=old)
    others = [host for host in cluster.running() if host.name not in old]
    heard: set[str] = set()
    names = {id(host.running.records._transport._assembly): host.name for host in cluster.running()}
    add = Assembly.add

    def noted(self: Assembly, *arguments: Any) -> bytes | None:
        heard.add(names[id(self)])
        return add(self, *arguments)

    monkeypatch.setattr(Assembly, "add", noted)
    for number in range(6):
        change(cluster, cluster[f"n{number + 1}"], b"%d" % number)
        cluster.run_until(lambda: have_all(cluster), timeout_s=3.0)
    assert heard == {host.name for host in others}
    dialled = counted(cluster.running(), "streams_dialled")
    assert dialled >= 3 * 5 + 3 * 3, "from each of the old ones to all, and from the others to each old one"


@pytest.mark.parametrize("seed", range(1, 4))
def test_a_host_that_goes_back_to_a_release_without_parts_hears_by_streams(seed: int) -> None:
    cluster = started(seed, 4, loss=0.05)
    change(cluster, cluster["n1"], b"before")
    cluster.run_until(lambda: have_all(cluster), timeout_s=3.0)
    cluster.restart("n2")
    cluster["n2"].running.records._transport._assembles = 0
    change(cluster, cluster["n1"], b"after")
    cluster.run_until(lambda: cluster.converged() and have_all(cluster), timeout_s=20.0)
    assert cluster["n1"].running.records._transport._peers[cluster["n2"].node_id].cutter.limit_bytes == 0
    change(cluster, cluster["n1"], b"last")
    cluster.run_until(lambda: have_all(cluster), timeout_s=3.0)
    assert counted([cluster["n2"]], "messages_assembled") == 0


def test_a_change_goes_once_to_peers_behind_a_long_path() -> None:
    cluster = SimCluster(seed=1, nodes=5, latency_s=(0.05, 0.06), config=GossipConfig.wan())
    cluster.run_until(cluster.converged, timeout_s=120)
    cluster.run_for(60)
    change(cluster, cluster["n1"], b"first")  # which finds out how long the path is
    cluster.run_until(lambda: have_all(cluster), timeout_s=10)
    cluster.run_for(2)
    before = {name: counted(cluster.running(), name) for name in ("deltas_sent", "streams_dialled")}
    change(cluster, cluster["n1"], b"second")
    cluster.run_until(lambda: have_all(cluster), timeout_s=10)
    cluster.run_for(2)
    assert counted(cluster.running(), "deltas_sent") - before["deltas_sent"] == 4
    assert counted(cluster.running(), "streams_dialled") == before["streams_dialled"]
