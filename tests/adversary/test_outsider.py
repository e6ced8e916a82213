"""An outsider on the network between the hosts, which records everything and can send it again, without any key. A
failure names its seed."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from adversary.recording import Datagram, RecordedCluster, Stream

from netgossip.testing import SimHost
from netgossip.types import (
    CLUSTER_SCOPE,
    Event,
    RequestReceived,
    ResponseReceived,
    UnknownSourceHeard,
)

SEEDS = range(1)


def lived(seed: int) -> RecordedCluster:
    """A cluster in which all happened that is worth a recording: records changed and went, long ones too, requests
    were answered, a host crashed and was dead, one left, and all came back."""
    cluster = RecordedCluster(seed=seed, nodes=4)
    for host in cluster.hosts.values():
        host.on_event = lambda event, host=host: answer(host, event)
    cluster.run_until(cluster.converged, timeout_s=60)
    cluster.run_for(5)
    for step in range(3):
        for host in cluster.running():
            host.put(CLUSTER_SCOPE, b"a", b"%d" % step)
            host.put(CLUSTER_SCOPE, b"long", bytes([step]) * 20_000)
            host.put(CLUSTER_SCOPE, b"gone", None if step else b"here")
            ask(cluster, host, cluster["n1" if host is not cluster["n1"] else "n2"])
        cluster.run_for(5)
    cluster.crash("n3")
    with cluster["n4"].commanding() as node:
        node.membership.leave(cluster.now)
    cluster.run_for(60)
    for name in ("n3", "n4"):
        cluster.restart(name)
    cluster.run_until(cluster.converged, timeout_s=120)
    cluster.run_for(30)
    return cluster


def answer(host: SimHost, event: Event) -> None:
    if isinstance(event, RequestReceived):
        host.running.records.respond(event, b"re:" + event.payload)


def ask(cluster: RecordedCluster, by: SimHost, whom: SimHost) -> int:
    with by.commanding() as node:
        return node.records.request(whom.node_id, b"do something once", cluster.now, timeout_s=5)


def state_of(host: SimHost) -> object:
    node = host.running
    return dict(node.membership.members()), node.records.logs(CLUSTER_SCOPE), node.membership.incarnation


def in_order(capture: list[Datagram | Stream], _: random.Random) -> list[Datagram | Stream]:
    return capture


def shuffled(capture: list[Datagram | Stream], rng: random.Random) -> list[Datagram | Stream]:
    return rng.sample(capture, len(capture))


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("order", [in_order, shuffled])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_recording_of_all_traffic_changes_no_state_and_no_request_is_done_twice(
    seed: int,
    order: Callable[[list[Datagram | Stream], random.Random], list[Datagram | Stream]],
    *,
    restarts: bool,
) -> None:
    """SECURITY.md, "Replays": an outsider that plays back all that it recorded neither changes what a host holds of
    members or records, nor makes it do again what a request asked for; also after the hosts have restarted."""
    cluster = lived(seed)
    capture = list(cluster.capture)
    assert any(isinstance(one, Stream) for one in capture)
    if restarts:
        for name in cluster.hosts:
            cluster.restart(name)
        cluster.run_until(cluster.converged, timeout_s=120)
        cluster.run_for(30)
    before = {host.name: state_of(host) for host in cluster.running()}
    for host in cluster.hosts.values():
        host.events.clear()
    rng = random.Random(f"replay {seed}")
    cluster.play(order(capture, rng), rng=rng)
    cluster.run_for(30)
    for host in cluster.running():
        assert state_of(host) == before[host.name]
        told = [event for event in host.events if not isinstance(event, UnknownSourceHeard)]
        assert not told, "nothing that an application acts upon"
        counts = host.running.statistics()
        names = ("record_refused_replayed", "record_refused_no_such_session")
        assert sum(counts.get(name, 0) for name in names) > 100, "what came was read, and refused"
    number = ask(cluster, cluster["n1"], cluster["n2"])
    cluster.run_for(1)
    answered = {e.request_id: e.payload for e in cluster["n1"].events if isinstance(e, ResponseReceived)}
    assert answered[number] == b"re:do something once", "and all go on"
