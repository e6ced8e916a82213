"""Clusters whose hosts have sessions: a thief of the ring key, hosts of the release before, renewals, restarts, cuts.

A failure names its seed; the same seed gives the same run.
"""

from __future__ import annotations

import random

import pytest

from netgossip.codec.sealing import Keyring
from netgossip.records.frames import HEADER_BYTES, Opener, Sealer, parse_header_untrusted
from netgossip.records.sessions import OVERLAP_S, REKEY_S
from netgossip.records.wire import (
    Delta,
    DeltaAck,
    Digest,
    Hello,
    Request,
    Welcome,
    decode_untrusted,
    encode,
)
from netgossip.slices import at_once
from netgossip.testing import PORTS, SimCluster, SimHost
from netgossip.types import (
    CLUSTER_SCOPE,
    Address,
    Channel,
    NodeId,
    RequestReceived,
    ResponseReceived,
)


class Tapped(SimCluster):
    """Everything that is sent as a datagram to a record port is captured."""

    def __init__(self, *, seed: int, nodes: int = 0, loss: float = 0.0) -> None:
        print(f"seed {seed}")
        self.capture: list[bytes] = []
        super().__init__(seed=seed, nodes=nodes, loss=loss, signs=True)

    def send(self, source: SimHost, channel: Channel, destination: Address, payload: bytes) -> None:
        if channel is Channel.RECORD:
            self.capture.append(payload)
        super().send(source, channel, destination, payload)


def ready(seed: int, nodes: int = 4, *, loss: float = 0.0) -> Tapped:
    cluster = Tapped(seed=seed, nodes=nodes, loss=loss)
    cluster.run_until(cluster.converged, timeout_s=60)
    for host in cluster.hosts.values():
        host.put(CLUSTER_SCOPE, b"a", host.name.encode())
        host.on_event = lambda event, host=host: answer(host, event)
    cluster.run_until(lambda: cluster.same_records() and all_sessions(cluster), timeout_s=60)
    cluster.run_for(2)
    return cluster


def answer(host: SimHost, event: object) -> None:
    if isinstance(event, RequestReceived):
        host.running.records.respond(event, b"re:" + event.payload)


def all_sessions(cluster: SimCluster) -> bool:
    """Every host that runs can speak to every other one under a session that that one has used."""
    ids = {host.node_id for host in cluster.running()}
    return all(
        (session := host.running.records._transport._sessions.for_sending(peer, cluster.now)) is not None
        and session.is_heard
        for host in cluster.running()
        for peer in ids - {host.node_id}
    )


def without_sessions(host: SimHost, cluster: SimCluster) -> None:
    """Start the host with the release before, which signs its records."""
    cluster.restart(host.name)
    sessions = host.running.records._transport._sessions
    sessions._identity = None


def read_by_a_thief(cluster: Tapped) -> set[type]:
    """The kinds of message that the ring key opens in the capture."""
    kinds: set[type] = set()
    openers = []
    for host in cluster.hosts.values():
        opener = Opener(node_id=host.node_id, keyring=Keyring([cluster.ring_key]), label=cluster.label)
        for other in cluster.hosts.values():
            opener.know(other.node_id)
        openers.append(opener)
    for payload in cluster.capture:
        rest = payload
        while rest:
            header = parse_header_untrusted(rest)
            end = HEADER_BYTES + header.sealed_bytes
            frame, rest = rest[:end], rest[end:]
            for opener in openers:
                try:
                    body = opener.open_untrusted(header, frame).body
                except Exception:
                    continue
                kinds |= {type(message) for message in at_once(decode_untrusted(body))}
    return kinds


def ask(cluster: SimCluster, by: SimHost, whom: SimHost, payload: bytes) -> int:
    with by.commanding() as node:
        return node.records.request(whom.node_id, payload, cluster.now, timeout_s=5)


def answers(host: SimHost) -> dict[int, bytes | None]:
    return {e.request_id: e.payload for e in host.events if isinstance(e, ResponseReceived)}


def test_the_ring_key_opens_nothing_that_is_said_once_sessions_stand() -> None:
    cluster = ready(seed=1)
    n1, n2 = cluster["n1"], cluster["n2"]
    first = read_by_a_thief(cluster)
    assert first <= {Hello, Welcome, Delta, DeltaAck, Digest}, "what is said at first contact"
    cluster.capture.clear()
    number = ask(cluster, n1, n2, b"secret")
    for step in range(5):
        for host in cluster.running():
            host.put(CLUSTER_SCOPE, b"k", b"%d" % step)
        cluster.run_for(10)
    assert answers(n1)[number] == b"re:secret"
    assert len(cluster.capture) > 100
    assert read_by_a_thief(cluster) == set()


def test_a_member_can_ask_nothing_in_anothers_name() -> None:
    cluster = ready(seed=2)
    liar, victim, other = cluster["n2"], cluster["n1"], cluster["n3"]
    for epoch in (victim.running.records._transport._sealer._epoch, 1, 1 << 62):
        sealer = Sealer(
            node_id=victim.node_id, epoch=epoch, keyring=Keyring([cluster.ring_key]), label=cluster.label
        )
        sealer._counter = 1 << 40
        for number in range(5):
            payload = sealer.seal(other.node_id, at_once(encode(Request(number, b"grant me"))))
            cluster.send(liar, Channel.RECORD, (other.ip, PORTS[Channel.RECORD]), payload)
    cluster.run_for(10)
    assert not [event for event in other.events if isinstance(event, RequestReceived)]
    number = ask(cluster, victim, other, b"mine")
    cluster.run_for(1)
    assert answers(victim)[number] == b"re:mine"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("order", [("n1", "n2", "n3", "n4"), ("n4", "n2", "n1", "n3")])
def test_a_cluster_goes_to_sessions_host_by_host(seed: int, order: tuple[str, ...]) -> None:
    cluster = Tapped(seed=seed, nodes=4, loss=0.05)
    for host in cluster.hosts.values():
        host.on_event = lambda event, host=host: answer(host, event)
        without_sessions(host, cluster)
    cluster.run_until(cluster.converged, timeout_s=60)
    for step, name in enumerate(("", *order)):
        if name:
            cluster.restart(name)
        cluster.run_until(cluster.converged, timeout_s=60)
        cluster.run_for(3)
        for host in cluster.running():
            host.put(CLUSTER_SCOPE, b"step", b"%d" % step)
        asked = [
            (one, ask(cluster, one, other, b"?"))
            for one in cluster.running()
            for other in cluster.running()
            if one is not other
        ]
        cluster.run_until(cluster.same_records, timeout_s=10)
        cluster.run_for(6)
        assert all(answers(one)[number] == b"re:?" for one, number in asked)
    assert all_sessions(cluster)


@pytest.mark.parametrize("seed", range(3))
def test_a_host_of_the_release_before_takes_part_among_others(seed: int) -> None:
    cluster = Tapped(seed=seed, nodes=3, loss=0.05)
    old = cluster.add("n4")
    without_sessions(old, cluster)
    cluster.run_until(cluster.converged, timeout_s=60)
    for host in cluster.running():
        host.on_event = lambda event, host=host: answer(host, event)
        # The host was never anything else.
        host.running.records._transport._sessions._speakers.discard(old.node_id)
    for step in range(5):
        for host in cluster.running():
            host.put(CLUSTER_SCOPE, b"a", b"%d" % step)
        cluster.run_until(cluster.same_records, timeout_s=10)
        asked = [
            (cluster["n1"], ask(cluster, cluster["n1"], old, b"?")),
            (old, ask(cluster, old, cluster["n2"], b"?")),
        ]
        cluster.run_for(6)
        assert all(answers(one)[number] == b"re:?" for one, number in asked)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_renewals_under_load_lose_nothing(seed: int, loss: float) -> None:
    """Three hours of changes and requests."""
    cluster = ready(seed, 3, loss=loss)
    chance = random.Random(f"renewals {seed}")
    first = {host.name: ids_of(cluster, host) for host in cluster.running()}
    asked: list[tuple[SimHost, int]] = []
    hosts = cluster.running()
    end = cluster.now + 3 * REKEY_S
    while cluster.now < end:
        one, other = chance.sample(hosts, 2)
        one.put(CLUSTER_SCOPE, b"k%d" % chance.randrange(4), chance.randbytes(4))
        asked.append((one, ask(cluster, one, other, b"?")))
        cluster.run_for(chance.choice([0.001, 0.1, 40.0]))
    cluster.run_for(OVERLAP_S + 10)
    assert all(answers(one)[number] == b"re:?" for one, number in asked)
    assert cluster.converged()
    assert all_sessions(cluster)
    for host in hosts:
        assert not ids_of(cluster, host) & first[host.name], "the first hour's keys are gone"
        assert host.running.statistics().get("record_refused_no_such_session", 0) == 0
        assert host.running.statistics().get("record_refused_replayed", 0) == 0


def ids_of(cluster: SimCluster, host: SimHost) -> set[tuple[NodeId, bytes]]:
    sessions = host.running.records._transport._sessions._sessions
    return {(peer, one.session_id) for peer, known in sessions.items() for one in known}


@pytest.mark.parametrize("seed", range(8))
def test_under_loss_cuts_and_restarts_all_converge_and_have_sessions(seed: int) -> None:
    cluster = ready(seed, 5, loss=0.1)
    chance = random.Random(f"chaos {seed}")
    names = sorted(cluster.hosts)
    for _ in range(40):
        host = cluster[chance.choice(names)]
        match chance.choice(["put", "put", "cut", "heal", "restart", "crash"]):
            case "put" if host.node is not None:
                host.put(CLUSTER_SCOPE, b"k%d" % chance.randrange(4), chance.randbytes(4))
            case "cut":
                cluster.cut({host.name}, set(names) - {host.name})
            case "heal":
                cluster.heal()
            case "restart":
                cluster.restart(host.name)
            case "crash":
                cluster.crash(host.name)
        cluster.run_for(chance.choice([0.01, 0.3, 3.0, 90.0]))
    cluster.heal()
    for name in names:
        if cluster[name].node is None:
            cluster.restart(name)
    cluster.run_until(lambda: cluster.converged() and all_sessions(cluster), timeout_s=120)


def test_a_host_that_restarts_still_knows_who_has_sessions() -> None:
    """Who has the ring key can't speak to it in the name of a member that is away, like a host without sessions."""
    cluster = ready(5, 3)
    n1, n2, n3 = (cluster[name] for name in ("n1", "n2", "n3"))
    assert n1.disk.session_speakers == {n2.node_id, n3.node_id}
    n2.stop()
    cluster.restart("n1")
    without_sessions(n2, cluster)
    heard = len([one for one in n1.events if isinstance(one, RequestReceived)])
    cluster.run_until(lambda: n2.node_id in n1.running.membership.members(), timeout_s=10)
    number = ask(cluster, n2, n1, b"in its name")
    cluster.run_for(6)
    assert answers(n2).get(number) is None
    assert len([one for one in n1.events if isinstance(one, RequestReceived)]) == heard


def test_a_host_that_restarts_is_heard_as_soon_as_one_of_the_release_before() -> None:
    took = {}
    for speaks in (True, False):
        cluster = Tapped(seed=3, nodes=2)
        if not speaks:
            for host in cluster.hosts.values():
                without_sessions(host, cluster)
        cluster.run_until(cluster.converged, timeout_s=60)
        cluster.run_for(5)
        n1, n2 = cluster["n1"], cluster["n2"]
        n2.on_event = lambda event, host=n2: answer(host, event)
        cluster.restart("n1")
        if not speaks:
            n1.running.records._transport._sessions._identity = None
        cluster.run_until(lambda: n2.node_id in n1.running.membership.members(), timeout_s=5)
        number = ask(cluster, n1, n2, b"?")
        took[speaks] = cluster.run_until(lambda: answers(n1).get(number) is not None, timeout_s=5)
    print(took)
    assert took[True] <= took[False] + 2 * cluster.latency_s[1]
