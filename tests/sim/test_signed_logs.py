"""Clusters whose hosts sign their records: a member that lies, hosts of a release that signs nothing, cuts, restarts.

The liar has the cluster's key, as every member does: it makes frames in any host's name, from its own address.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from netgossip.codec.sealing import Keyring
from netgossip.join.identity import Identity
from netgossip.records.frames import Sealer
from netgossip.records.proofs import LogProofs
from netgossip.records.table import Table
from netgossip.records.wire import NO_VERSION, Delta, encode
from netgossip.slices import at_once
from netgossip.testing import PORTS, SimCluster, SimHost
from netgossip.types import CLUSTER_SCOPE, Channel, EntriesChanged, NodeId, UnprovenLogHeard, Version

LIE = b"false"


def deltas_in_the_name_of(
    victim: SimHost, cluster: SimCluster, *, identity: Identity | None
) -> Iterator[Delta]:
    """A whole log above the victim's own, and a change of it."""
    own = victim.running.records.own_log(CLUSTER_SCOPE)
    assert own is not None
    proofs = None if identity is None else LogProofs(identity, cluster.label)
    forger = Table(
        node_id=victim.node_id, label=cluster.label, tombstone_s=60.0, now=0.0, proofs=proofs, own_logs=[own]
    )
    held = forger.own_version(CLUSTER_SCOPE)
    forger.commit(forger.prepare([(CLUSTER_SCOPE, b"a", LIE), (CLUSTER_SCOPE, b"new", LIE)]), 0.0)
    for since in (held, NO_VERSION):
        delta = forger.delta(CLUSTER_SCOPE, victim.node_id, since)
        assert delta is not None
        yield delta
    forger.raise_above(CLUSTER_SCOPE, Version(7, 7))
    delta = forger.delta(CLUSTER_SCOPE, victim.node_id, NO_VERSION)
    assert delta is not None
    yield delta


def send(cluster: SimCluster, by: SimHost, to: SimHost, delta: Delta, *, name: NodeId | None = None) -> None:
    """Send a delta, in a frame that names its sender as `name`."""
    sealer = Sealer(
        node_id=name or by.node_id, epoch=9, keyring=Keyring([cluster.ring_key]), label=cluster.label
    )
    payload = sealer.seal(to.node_id, at_once(encode(delta)))
    cluster.send(by, Channel.RECORD, (to.ip, PORTS[Channel.RECORD]), payload)


def refused(host: SimHost) -> int:
    counts = host.running.statistics()
    names = ("record_refused_log_forged", "record_refused_log_unsigned")
    return int(sum(counts.get(name, 0) for name in names))


def lies_held(cluster: SimCluster) -> list[str]:
    return [host.name for host in cluster.running() if LIE in host.records().values()]


def ready(seed: int, nodes: int = 4, **more: float) -> SimCluster:
    cluster = SimCluster(seed=seed, nodes=nodes, signs=True, **more)  # type: ignore[arg-type]
    cluster.run_until(cluster.converged, timeout_s=30)
    for host in cluster.hosts.values():
        host.put(CLUSTER_SCOPE, b"a", host.name.encode())
    cluster.run_until(cluster.converged, timeout_s=30)
    return cluster


def test_a_member_that_writes_in_anothers_name_is_refused_by_all_and_counted() -> None:
    cluster = ready(seed=1)
    liar, victim, other = cluster["n2"], cluster["n1"], cluster["n3"]
    for identity in (None, liar.identity):
        for name in (None, victim.node_id):
            for delta in deltas_in_the_name_of(victim, cluster, identity=identity):
                before = refused(other)
                send(cluster, liar, other, delta, name=name)
                cluster.run_for(0.1)
                assert refused(other) == before + 1
                assert not lies_held(cluster)
    reports = [event for event in other.events if isinstance(event, UnprovenLogHeard)]
    assert reports == [UnprovenLogHeard(victim.node_id, liar.node_id)], "once a minute"
    cluster.run_until(cluster.converged, timeout_s=30)
    victim.put(CLUSTER_SCOPE, b"a", b"next")
    cluster.run_until(lambda: other.records()[victim.node_id, b"a"] == b"next", timeout_s=5)
    assert not lies_held(cluster)


def test_what_a_third_host_relays_is_proven() -> None:
    """The owner is gone; a newcomer gets its log from others, and passes it on in turn."""
    cluster = ready(seed=2, nodes=3)
    owner = cluster["n1"]
    cluster.crash("n1")
    cluster.add("n4", seeds=["n2"])
    cluster.run_until(lambda: (owner.node_id, b"a") in cluster["n4"].records(), timeout_s=30)
    for name in ("n2", "n3"):
        cluster.crash(name)
    cluster.add("n5", seeds=["n4"])
    cluster.run_until(lambda: (owner.node_id, b"a") in cluster["n5"].records(), timeout_s=30)
    assert cluster["n5"].running.records.is_signer(owner.node_id)
    assert all(refused(host) == 0 for host in cluster.running())


def test_a_host_that_restarts_still_knows_who_signs_and_proves_what_it_holds() -> None:
    cluster = ready(seed=3, nodes=3)
    owner, reader = cluster["n1"], cluster["n2"]
    cluster.crash("n1")
    cluster.crash("n3")
    cluster.restart("n2")
    assert reader.running.records.is_signer(owner.node_id)
    for delta in deltas_in_the_name_of_a_disk(owner, cluster):
        send(cluster, cluster["n3"], reader, delta, name=owner.node_id)
        send(cluster, cluster["n3"], reader, delta)
    cluster.run_for(1)
    assert not lies_held(cluster)
    cluster.add("n4", seeds=["n2"])
    cluster.run_until(lambda: (owner.node_id, b"a") in cluster["n4"].records(), timeout_s=30)
    assert cluster["n4"].running.records.is_signer(owner.node_id)


def deltas_in_the_name_of_a_disk(victim: SimHost, cluster: SimCluster) -> Iterator[Delta]:
    forger = Table(
        node_id=victim.node_id,
        label=cluster.label,
        tombstone_s=60.0,
        now=0.0,
        proofs=None,
        own_logs=[log for log in victim.disk.logs.values() if log.owner == victim.node_id],
    )
    forger.commit(forger.prepare([(CLUSTER_SCOPE, b"a", LIE)]), 0.0)
    delta = forger.delta(CLUSTER_SCOPE, victim.node_id, NO_VERSION)
    assert delta is not None
    yield delta


@pytest.mark.parametrize("order", [("n1", "n2", "n3", "n4"), ("n4", "n2", "n1", "n3")])
def test_a_cluster_goes_to_signing_host_by_host_and_knows_it_of_all_without_a_change(
    order: tuple[str, ...],
) -> None:
    cluster = SimCluster(seed=4, signs=True)
    identities: dict[str, Identity | None] = {}
    for name in sorted(order):
        host = cluster.add(name)
        identities[name], host.identity = host.identity, None
        cluster.restart(name)
    cluster.run_until(cluster.converged, timeout_s=30)
    for host in cluster.hosts.values():
        host.put(CLUSTER_SCOPE, b"a", host.name.encode())
    cluster.run_until(cluster.converged, timeout_s=30)
    for number, name in enumerate(order):
        host = cluster[name]
        host.identity = identities[name]
        cluster.restart(name)
        cluster.run_until(cluster.converged, timeout_s=60)
        mixed = cluster[order[-1]]
        mixed.put(CLUSTER_SCOPE, b"step", b"%d" % number)
        cluster.run_until(cluster.converged, timeout_s=60)
    ids = {host.node_id for host in cluster.hosts.values()}

    def all_known() -> bool:
        return all(
            host.running.records.is_signer(one) for host in cluster.running() for one in ids - {host.node_id}
        )

    cluster.run_until(all_known, timeout_s=120)
    victim, other = cluster["n1"], cluster["n3"]
    for delta in deltas_in_the_name_of(victim, cluster, identity=None):
        send(cluster, cluster["n2"], other, delta)
    cluster.run_for(1)
    assert not lies_held(cluster)


def test_an_old_host_among_signing_ones_hears_and_is_heard() -> None:
    cluster = ready(seed=5)
    old = cluster["n4"]
    old.identity = None
    old.disk.session_speakers.clear()  # its release knows of none
    # It has never signed, nor had a session, for those that are told of it only now.
    for host in cluster.hosts.values():
        host.disk.signers.discard(old.node_id)
        host.disk.session_speakers.discard(old.node_id)
        if host is not old:
            host.disk.logs.pop((CLUSTER_SCOPE, old.node_id), None)
        cluster.restart(host.name)
    cluster.run_until(cluster.converged, timeout_s=60)
    for step in range(5):
        for host in cluster.hosts.values():
            host.put(CLUSTER_SCOPE, b"a", b"%d" % step)
        cluster.run_until(cluster.converged, timeout_s=30)


class World:
    """Five hosts that write, are cut off, restart, are restored from backups, and lie of each other."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(f"signed {seed}")
        self.cluster = SimCluster(seed=seed, nodes=5, loss=self.rng.choice([0.0, 0.1]), signs=True)
        self.names = sorted(self.cluster.hosts)
        self.written: dict[NodeId, set[tuple[bytes, bytes]]] = {
            host.node_id: set() for host in self.cluster.hosts.values()
        }
        self.backups = {name: self.cluster.backup(name) for name in self.names}
        self.lies = 0
        self.cluster.run_until(self.cluster.converged, timeout_s=30)
        for host in self.cluster.hosts.values():
            self.put(host)
        self.cluster.run_until(self.cluster.converged, timeout_s=30)

    def step(self) -> None:
        running = [self.put] * 4 + [self.delete] + [self.lie] * 5
        host = self.cluster[self.rng.choice(self.names)]
        acts = [self.cut, self.heal, self.crash, self.restart, self.restore]
        self.rng.choice([*acts, *running] if host.node is not None else acts)(host)
        self.cluster.run_for(self.rng.choice([0.01, 0.3, 3.0]))

    def put(self, host: SimHost) -> None:
        key, value = b"k%d" % self.rng.randrange(4), self.rng.randbytes(4)
        host.put(CLUSTER_SCOPE, key, value)
        self.written[host.node_id].add((key, value))

    def delete(self, host: SimHost) -> None:
        host.put(CLUSTER_SCOPE, b"k%d" % self.rng.randrange(4), None)

    def cut(self, host: SimHost) -> None:
        self.cluster.cut({host.name}, set(self.names) - {host.name})

    def heal(self, _: SimHost) -> None:
        self.cluster.heal()

    def crash(self, host: SimHost) -> None:
        self.cluster.crash(host.name)

    def restart(self, host: SimHost) -> None:
        self.cluster.restart(host.name)

    def restore(self, host: SimHost) -> None:
        backup, self.backups[host.name] = self.backups[host.name], self.cluster.backup(host.name)
        self.cluster.restart(host.name, disk=backup)

    def lie(self, victim: SimHost) -> None:
        """One host lies to another of a third, of which that one has a signed log."""
        liar, to = (self.cluster[one] for one in self.rng.sample(self.names, 2))
        if victim in (liar, to) or victim.running.records.own_log(CLUSTER_SCOPE) is None or to.node is None:
            return
        if to.node.records.is_signer(victim.node_id):
            self.lies += 1
            identity = self.rng.choice([None, liar.identity])
            for delta in deltas_in_the_name_of(victim, self.cluster, identity=identity):
                send(self.cluster, liar, to, delta, name=self.rng.choice([None, victim.node_id]))


@pytest.mark.parametrize("seed", range(12))
def test_under_cuts_restarts_and_lies_all_converge_and_nothing_false_is_ever_held(seed: int) -> None:
    print(f"seed {seed}")
    world = World(seed)
    cluster = world.cluster
    for _ in range(40):
        world.step()
        assert not lies_held(cluster)
    cluster.heal()
    for name in world.names:
        if cluster[name].node is None:
            cluster.restart(name)
    cluster.run_until(cluster.converged, timeout_s=120)
    assert world.lies > 0
    for host in cluster.running():
        for (owner, key), value in host.records().items():
            assert (key, value) in world.written[owner]
        for event in host.events:
            if isinstance(event, EntriesChanged):
                assert all(one.value != LIE for one in event.entries)
