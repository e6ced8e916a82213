"""A member that lies. It has the ring key and a session of its own with every host, and writes any address. What it
says of other hosts and writes in their name is tried in tests/sim; here, what it says in their name on the record
channel. A failure names its seed.
"""

from __future__ import annotations

import random

import pytest

from netgossip.codec.sealing import Keyring
from netgossip.records.frames import HEADER, HEADER_BYTES, Sealer, Session
from netgossip.records.table import RAISES_LIMIT
from netgossip.records.wire import Delta, DeltaAck, Message, Request, Response, Vector, encode
from netgossip.slices import at_once
from netgossip.testing import PORTS, SimCluster, SimHost
from netgossip.types import CLUSTER_SCOPE, Channel, OwnLogRaised, RequestReceived, ResponseReceived, Version

SEEDS = range(2)


def ready(seed: int, nodes: int = 4) -> SimCluster:
    """Hosts of which each has a session with every other."""
    print(f"seed {seed}")
    cluster = SimCluster(seed=seed, nodes=nodes, signs=True)
    cluster.run_until(cluster.converged, timeout_s=60)
    for host in cluster.hosts.values():
        host.put(CLUSTER_SCOPE, b"a", host.name.encode())
    cluster.run_until(cluster.converged, timeout_s=60)
    cluster.run_for(5)
    return cluster


def session_of(host: SimHost, peer: SimHost, cluster: SimCluster) -> Session:
    session = host.running.records._transport._sessions.for_sending(peer.node_id, cluster.now)
    assert session is not None
    return session


def say(cluster: SimCluster, liar: SimHost, victim: SimHost, to: SimHost, message: Message) -> None:
    """Say something in the victim's name: under the ring key, as of its present start, of an earlier and of a later
    one; and under the liar's own session, with the victim as its sender."""
    present = victim.running.records._transport._sealer._epoch
    body = at_once(encode(message))
    for epoch in (present, present - 1, 1 << 62):
        sealer = Sealer(
            node_id=victim.node_id, epoch=epoch, keyring=Keyring([cluster.ring_key]), label=cluster.label
        )
        sealer._counter = 1 << 40
        send(cluster, liar, to, sealer.seal(to.node_id, body))
    own = session_of(liar, to, cluster)
    sealer = Sealer(
        node_id=victim.node_id, epoch=present, keyring=Keyring([cluster.ring_key]), label=cluster.label
    )
    sealer._counter = 1 << 40
    send(cluster, liar, to, sealer.seal(to.node_id, body, session=own))
    send(cluster, liar, to, with_session(sealer.seal(to.node_id, body, session=own), victim, to, cluster))


def with_session(frame: bytes, victim: SimHost, to: SimHost, cluster: SimCluster) -> bytes:
    """The frame with the id of the victim's session, which who listens can read."""
    fields = list(HEADER.unpack(frame[:HEADER_BYTES]))
    fields[3] = session_of(victim, to, cluster).session_id
    return HEADER.pack(*fields) + frame[HEADER_BYTES:]


def send(cluster: SimCluster, liar: SimHost, to: SimHost, payload: bytes) -> None:
    cluster.send(liar, Channel.RECORD, (to.ip, PORTS[Channel.RECORD]), payload)


def refused(host: SimHost) -> int:
    """What the host has counted as refused on the record channel."""
    counts = host.running.statistics()
    names = ("refused_unproven", "refused_no_such_session", "refused_wrong_key", "early")
    return int(sum(counts.get(f"record_{name}", 0) for name in names))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_member_can_answer_no_request_in_anothers_name(seed: int) -> None:
    """A request to a host is answered by that host or by none, though the liar guesses its number and is first."""
    cluster = ready(seed)
    asker, victim, liar = cluster["n1"], cluster["n2"], cluster["n3"]
    cluster.cut({victim.name}, {asker.name}, one_way=True)
    with asker.commanding() as node:
        number = node.records.request(victim.node_id, b"may I?", cluster.now, timeout_s=5)
    before = refused(asker)
    for guess in (number, number + 1):
        say(cluster, liar, victim, asker, Response(guess, b"yes"))
    cluster.run_for(10)
    answers = [event for event in asker.events if isinstance(event, ResponseReceived)]
    assert answers == [ResponseReceived(victim.node_id, number, None)], "no answer came"
    assert refused(asker) >= before + 10


@pytest.mark.parametrize("seed", SEEDS)
def test_a_member_can_acknowledge_nothing_in_anothers_name(seed: int) -> None:
    """What a host has not received stays unacknowledged: else its owner would stop sending it, and report that all
    hosts know it."""
    cluster = ready(seed)
    owner, victim, liar = cluster["n1"], cluster["n2"], cluster["n3"]
    cluster.cut({owner.name}, {victim.name})
    owner.put(CLUSTER_SCOPE, b"a", b"unknown to the victim")
    cluster.run_for(0.2)
    log = owner.running.records.own_log(CLUSTER_SCOPE)
    theirs = victim.running.records.own_log(CLUSTER_SCOPE)
    assert log is not None
    assert theirs is not None
    before = refused(owner)
    own = Version(theirs.epoch, theirs.head)
    say(cluster, liar, victim, owner, DeltaAck(CLUSTER_SCOPE, True, Version(log.epoch, log.head), own))
    cluster.run_for(0.1)
    assert victim.node_id in owner.running.records.unacknowledged(CLUSTER_SCOPE)
    assert refused(owner) >= before + 5
    cluster.heal()
    cluster.run_until(lambda: not owner.running.records.unacknowledged(CLUSTER_SCOPE), timeout_s=60)
    assert victim.records()[owner.node_id, b"a"] == b"unknown to the victim"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_member_can_ask_nothing_under_its_own_session_in_anothers_name(seed: int) -> None:
    """A session speaks for the two hosts that have proven themselves, and for no third."""
    cluster = ready(seed)
    asked, victim, liar = cluster["n1"], cluster["n2"], cluster["n3"]
    before = refused(asked)
    say(cluster, liar, victim, asked, Request(1, b"grant me"))
    cluster.run_for(5)
    assert not [event for event in asked.events if isinstance(event, RequestReceived)]
    assert refused(asked) >= before + 5


def test_a_member_keeps_no_two_hosts_from_renewing_their_session() -> None:
    """One frame in a host's name, with a counter that the host never reaches, must not make its Hellos look like
    replays: then two hosts would have no session once theirs is over, and requests between them would fail."""
    cluster = ready(seed=1, nodes=3)
    one, victim, liar = cluster["n1"], cluster["n2"], cluster["n3"]
    one.on_event = lambda event: (
        one.running.records.respond(event, b"here") if isinstance(event, RequestReceived) else None
    )
    say(cluster, liar, victim, one, Request(1, b"?"))
    for host, peer in ((one, victim), (victim, one)):
        sessions = host.running.records._transport._sessions
        sessions.forget(peer.node_id)  # as at the end of its two hours
        sessions.keep(peer.node_id)
    cluster.run_for(60)
    with victim.commanding() as node:
        number = node.records.request(one.node_id, b"there?", cluster.now, timeout_s=5)
    cluster.run_for(6)
    answers = {e.request_id: e.payload for e in victim.events if isinstance(e, ResponseReceived)}
    assert answers[number] == b"here"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_member_that_lies_about_everything_at_once_stops_no_change(seed: int) -> None:
    """Lies of each kind without end while hosts change records: every change is known to all within a second."""
    cluster = ready(seed)
    liar = cluster["n4"]
    others = [cluster[f"n{number}"] for number in (1, 2, 3)]
    rng = random.Random(f"lies {seed}")
    for step in range(10):
        for host in others:
            host.put(CLUSTER_SCOPE, b"step", b"%d" % step)
        for _ in range(20):
            victim, to = rng.sample(others, 2)
            head = Version(rng.randrange(4), rng.randrange(100))
            for lie in (
                DeltaAck(CLUSTER_SCOPE, rng.random() < 0.5, head, head),
                Vector(CLUSTER_SCOPE, rng.random() < 0.5, ()),
                Request(rng.randrange(9), b"?"),
                Response(rng.randrange(9), b"!"),
            ):
                say(cluster, liar, victim, to, lie)
        cluster.run_until(cluster.same_records, timeout_s=1)
    cluster.run_for(30)
    assert cluster.converged()
    assert not [event for host in others for event in host.events if isinstance(event, RequestReceived)]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_member_makes_no_host_issue_its_records_again_without_end(seed: int) -> None:
    """A member says again and again that it holds a newer log of a host than the host itself, as if that had lost a
    part. Each time the host issued all of its records again, above the epoch that was claimed."""
    cluster = ready(seed)
    victim, liar, other = cluster["n1"], cluster["n2"], cluster["n3"]
    for number in range(60):
        own = victim.running.records.own_log(CLUSTER_SCOPE)
        assert own is not None
        theirs = liar.running.records.own_log(CLUSTER_SCOPE)
        assert theirs is not None
        ahead = Version(own.epoch + number, own.head + 1)
        said = DeltaAck(CLUSTER_SCOPE, True, ahead, Version(theirs.epoch, theirs.head))
        with liar.commanding() as node:
            at_once(node.records._transport.send(victim.node_id, said))
        forged = Delta(CLUSTER_SCOPE, victim.node_id, ahead.epoch, 0, ahead.sequence, 0, 0, ())
        say(cluster, liar, other, victim, forged)
        cluster.run_for(0.2)
    raised = [event for event in victim.events if isinstance(event, OwnLogRaised)]
    assert 0 < len(raised) <= RAISES_LIMIT, "those that it said itself, and none in another's name"
    victim.put(CLUSTER_SCOPE, b"a", b"next")
    cluster.run_until(lambda: other.records()[victim.node_id, b"a"] == b"next", timeout_s=5)
    cluster.run_until(cluster.converged, timeout_s=60)
