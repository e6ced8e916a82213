"""Clusters whose hosts prove what they say about themselves: a member that lies about another, an upgrade, cuts.

The liar has the cluster's key, as every member does, and sends what it likes from its own address.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from netgossip.codec.messages import Alive, Dead, StateClaim, Suspect, encode, encode_push_pull
from netgossip.codec.messages import encode_node as encoded
from netgossip.codec.meta import split_proof, with_proof, wrap_meta
from netgossip.codec.sealing import Keyring, seal_datagram, seal_stream
from netgossip.join.identity import Identity
from netgossip.membership.claims import ClaimProofs
from netgossip.testing import PORTS, Disk, SimCluster, SimHost
from netgossip.types import Channel, Member, MemberChanged, MemberState, UnprovenClaimHeard

ELSEWHERE = ("198.18.0.99", PORTS[Channel.GOSSIP])


def ready(seed: int, nodes: int = 4, **more: float) -> SimCluster:
    cluster = SimCluster(seed=seed, nodes=nodes, signs=True, **more)  # type: ignore[arg-type]
    cluster.run_until(cluster.converged, timeout_s=30)
    return cluster


def said_by(host: SimHost) -> Member:
    """What a host says about itself, with its proof."""
    return host.running.membership.members()[host.node_id]


def held_by(host: SimHost, other: SimHost) -> Member:
    return host.running.membership.members()[other.node_id]


def send(cluster: SimCluster, by: SimHost, to: SimHost, claim: StateClaim) -> None:
    keyring, rng = Keyring([cluster.ring_key]), random.Random(7)
    payload = seal_datagram(encode(claim), keyring=keyring, label=cluster.label, rng=rng)
    cluster.send(by, Channel.GOSSIP, (to.ip, PORTS[Channel.GOSSIP]), payload)


def push(cluster: SimCluster, by: SimHost, to: SimHost, *nodes: Member) -> None:
    """Tell a host of members as a push/pull does."""
    message = encode_push_pull([encoded(node) for node in nodes], join=False)
    keyring, rng = Keyring([cluster.ring_key]), random.Random()
    data = seal_stream(message, keyring=keyring, label=cluster.label, rng=rng, dialler=True)
    with to.commanding() as node:
        stream_id = node.accept_stream(Channel.GOSSIP, (by.ip, 50_000), cluster.now)
        node.handle_stream_data(stream_id, data, cluster.now)


def metas_of_a_liar(cluster: SimCluster, victim: SimHost, liar: SimHost) -> list[bytes]:
    """No proof; the victim's proof of something else; a proof with the liar's own key; the victim's key and another
    signature."""
    own, identity = said_by(victim), liar.identity
    assert identity is not None
    mine = ClaimProofs(identity, cluster.label).signed(own).meta
    mixed = split_proof(own.meta)[1][:32] + split_proof(mine)[1][32:]
    plain = wrap_meta(PORTS[Channel.RECORD], victim.name.encode())
    return [plain, own.meta, mine, with_proof(plain, mixed)]


def lies(cluster: SimCluster, victim: SimHost, liar: SimHost) -> list[StateClaim]:
    """That the victim lives elsewhere, has counted further, and has left."""
    own = said_by(victim)
    told: list[StateClaim] = []
    for meta in metas_of_a_liar(cluster, victim, liar):
        for ahead in (1, 3000, 2**31):
            told.append(Alive(own.node_id, own.incarnation + ahead, ELSEWHERE, meta))
            told.append(Alive(own.node_id, own.incarnation + ahead, own.address, meta))
    for proof in (b"", split_proof(own.meta)[1], split_proof(told[-1].meta)[1]):  # type: ignore[union-attr]
        told += [
            Dead(own.node_id, own.incarnation + ahead, own.node_id, proof) for ahead in (0, 1, 3000, 2**31)
        ]
    return told


def refused(host: SimHost) -> int:
    counts = host.running.statistics()
    return int(
        sum(counts[f"gossip_refused_claim_{reason}"] for reason in ("unsigned", "forged", "unchecked"))
    )


def test_what_a_member_says_in_anothers_name_is_refused_counted_and_reported_once_a_minute() -> None:
    cluster = ready(seed=1)
    liar, victim, other = cluster["n2"], cluster["n1"], cluster["n3"]
    cluster.cut({"n1"}, {"n2", "n3", "n4"})  # it cannot contradict
    before = held_by(other, victim)
    told = lies(cluster, victim, liar)
    for number, claim in enumerate(told, 1):
        send(cluster, liar, other, claim)
        cluster.run_for(0.005)
        assert refused(other) == number
        assert held_by(other, victim) == before
    reports = [event for event in other.events if isinstance(event, UnprovenClaimHeard)]
    assert [(one.node_id, one.source[0]) for one in reports] == [(victim.node_id, liar.ip)]
    assert all(refused(cluster[name]) == 0 for name in ("n4",)), "what is refused is not passed on"


def test_the_same_in_a_push_pull() -> None:
    cluster = ready(seed=2)
    liar, victim, other = cluster["n2"], cluster["n1"], cluster["n3"]
    cluster.cut({"n1"}, {"n2", "n3", "n4"})
    before = held_by(other, victim)
    for meta in metas_of_a_liar(cluster, victim, liar):
        for address in (ELSEWHERE, before.address):
            push(
                cluster,
                liar,
                other,
                replace(before, incarnation=before.incarnation + 5, address=address, meta=meta),
            )
            assert held_by(other, victim) == before
    for proof in (b"", split_proof(before.meta)[1]):
        push(cluster, liar, other, replace(before, state=MemberState.LEFT, leave_proof=proof))
        assert held_by(other, victim) == before
    assert refused(other) == 10


@pytest.mark.parametrize("ahead", [0, 1, 3000, 2**31, 2**32 - 1 - 100])
@pytest.mark.parametrize("kind", [Suspect, Dead])
def test_a_lie_about_a_death_is_refuted_by_the_living_whatever_it_says(kind: type, ahead: int) -> None:
    cluster = ready(seed=3)
    liar, victim = cluster["n2"], cluster["n1"]
    others = [cluster["n3"], cluster["n4"]]
    incarnation = said_by(victim).incarnation
    for other in others:
        send(cluster, liar, other, kind(victim.node_id, incarnation + ahead, liar.node_id))

    def is_refuted() -> bool:
        return all(
            other.state_of(victim) is MemberState.ALIVE and held_by(other, victim).incarnation > incarnation
            for other in others
        )

    cluster.run_until(is_refuted, timeout_s=2)
    accused = MemberState.SUSPECT if kind is Suspect else MemberState.DEAD
    for other in others:
        about = [
            e.member
            for e in other.events
            if isinstance(e, MemberChanged) and e.member.node_id == victim.node_id
        ]
        assert [one.state for one in about][-2:] == [accused, MemberState.ALIVE]
        assert about[-2].incarnation == incarnation, "as far as the victim has counted"
        assert accused is MemberState.DEAD or all(one.state is not MemberState.DEAD for one in about)


def test_an_old_claim_of_the_host_itself_has_no_effect() -> None:
    cluster = ready(seed=4)
    liar, victim, other = cluster["n2"], cluster["n1"], cluster["n3"]
    old = said_by(victim)
    with victim.commanding() as node:
        node.set_meta(b"another", cluster.now)
    cluster.run_for(2)
    with victim.commanding() as node:
        node.membership.leave(cluster.now)
    left = said_by(victim)
    cluster.run_until(lambda: other.state_of(victim) is MemberState.LEFT, timeout_s=5)
    cluster.restart("n1")
    cluster.run_until(lambda: other.state_of(victim) is MemberState.ALIVE, timeout_s=10)
    cluster.run_for(2)
    held = held_by(other, victim)
    replays = (
        Alive(old.node_id, old.incarnation, old.address, old.meta),
        Dead(left.node_id, left.incarnation, left.node_id, left.leave_proof),
    )
    for claim in replays:
        send(cluster, liar, other, claim)
        cluster.run_for(0.01)
        assert held_by(other, victim) == held
    push(cluster, liar, other, old, left)
    assert held_by(other, victim) == held


def test_a_host_that_leaves_or_moves_is_believed_also_through_others() -> None:
    cluster = ready(seed=5)
    first, mover, leaver = cluster["n1"], cluster["n2"], cluster["n3"]
    cluster.cut({"n1"}, {"n2", "n3"})
    cluster.move("n2", ELSEWHERE[0])
    with mover.commanding() as node:
        node.membership.set_address(ELSEWHERE, cluster.now)
    with leaver.commanding() as node:
        node.membership.leave(cluster.now)
    cluster.run_until(lambda: held_by(cluster["n4"], leaver).state is MemberState.LEFT, timeout_s=10)
    cluster.crash("n3")
    cluster.run_until(lambda: held_by(first, leaver).state is MemberState.LEFT, timeout_s=60)
    cluster.run_until(lambda: held_by(first, mover).address == ELSEWHERE, timeout_s=60)
    assert held_by(first, leaver).leave_proof
    cluster.heal()
    cluster.add("n5", seeds=["n1"])
    newcomer = cluster["n5"]
    cluster.run_until(lambda: newcomer.state_of(leaver) is MemberState.LEFT, timeout_s=30)
    cluster.run_until(lambda: newcomer.running.membership.is_signer(mover.node_id), timeout_s=30)
    assert newcomer.running.membership.is_signer(leaver.node_id)
    assert all(refused(host) == 0 for host in cluster.running())


def test_who_has_shown_a_proof_is_known_after_a_restart_and_after_it_was_removed() -> None:
    cluster = ready(seed=6)
    liar, victim, other = cluster["n2"], cluster["n1"], cluster["n3"]
    told = lies(cluster, victim, liar)
    cluster.crash("n1")
    cluster.restart("n3")
    for claim in told:
        send(cluster, liar, other, claim)
    cluster.run_until(lambda: other.state_of(victim) is MemberState.DEAD, timeout_s=60)
    with other.commanding() as node:
        node.membership.forget(victim.node_id, cluster.now)
    for claim in told:
        send(cluster, liar, other, claim)
    cluster.run_for(0.01)
    assert other.state_of(victim) is None
    cluster.restart("n1")
    cluster.run_until(lambda: other.state_of(victim) is MemberState.ALIVE, timeout_s=60)


def test_the_first_proof_of_a_host_ends_what_a_liar_told_a_newcomer() -> None:
    """The newcomer's only peer at first is the liar."""
    for state in MemberState:
        cluster = ready(seed=7, nodes=3)
        victim = cluster["n1"]
        cluster.cut({"n4"}, {"n1", "n3"})
        cluster.add("n4", seeds=["n2"])
        newcomer = cluster["n4"]
        meta = wrap_meta(PORTS[Channel.RECORD], b"false")
        lie = Member(victim.node_id, ELSEWHERE, state, 2**32 - 2**16 - 1, meta)
        push(cluster, cluster["n2"], newcomer, lie)
        assert newcomer.state_of(victim) is not None
        cluster.heal()
        cluster.run_until(lambda: held_by(newcomer, victim) == said_by(victim), timeout_s=60)


@pytest.mark.parametrize("order", [("n1", "n2", "n3", "n4"), ("n4", "n2", "n1", "n3")])
def test_a_cluster_goes_to_proofs_host_by_host_without_a_death(order: tuple[str, ...]) -> None:
    cluster = SimCluster(seed=8, signs=True)
    identities: dict[str, Identity | None] = {}
    for name in sorted(order):
        host = cluster.add(name)
        cluster.crash(name)
        identities[name], host.identity = host.identity, None
    cluster.run_for(1)
    for name in order:
        cluster.restart(name, disk=Disk())
    cluster.run_until(cluster.converged, timeout_s=30)
    for name in order:
        cluster[name].identity = identities[name]
        cluster.restart(name)
        cluster.run_until(cluster.converged, timeout_s=60)
        cluster.run_for(20)
        for host in cluster.running():
            assert all(host.state_of(one) is MemberState.ALIVE for one in cluster.running())
            assert refused(host) == 0
    ids = {host.node_id for host in cluster.running()}
    for host in cluster.running():
        assert all(host.running.membership.is_signer(one) for one in ids - {host.node_id})


def test_a_host_without_proofs_stays_a_member_and_is_believed_as_before() -> None:
    cluster = SimCluster(seed=9, signs=True)
    for name in ("n1", "n2", "n3"):
        cluster.add(name)
    old = cluster["n3"]
    old.identity = None
    cluster.restart("n3", disk=Disk())
    for name in ("n1", "n2"):
        cluster[name].disk.claim_signers.clear()
        cluster.restart(name)
    cluster.run_until(cluster.converged, timeout_s=60)
    with old.commanding() as node:
        node.membership.leave(cluster.now)
    cluster.run_until(lambda: cluster["n1"].state_of(old) is MemberState.LEFT, timeout_s=10)


def test_a_cluster_that_requires_proofs_has_no_members_without() -> None:
    cluster = SimCluster(seed=10, signs=True)
    for name in ("n1", "n2", "n3"):
        cluster.add(name)
    plain = cluster["n3"]
    plain.identity = None
    cluster.restart("n3", disk=Disk())
    for name in ("n1", "n2"):
        cluster[name].disk.claim_signers.clear()
        cluster.restart(name)
    cluster.run_until(cluster.converged, timeout_s=60)
    signing = [cluster["n1"], cluster["n2"]]
    for host in signing:
        with host.commanding() as node:
            node.require_proofs(required=True, now=cluster.now)
        assert plain.node_id not in host.running.membership.members()
    cluster.run_for(30)
    assert all(plain.node_id not in host.running.membership.members() for host in signing)
    assert all(refused(host) > 0 for host in signing)
    newcomer = cluster.add("n4")
    cluster.run_until(lambda: signing[0].state_of(newcomer) is MemberState.ALIVE, timeout_s=30)
    assert signing[0].state_of(signing[1]) is MemberState.ALIVE
    for host in signing:
        with host.commanding() as node:
            node.require_proofs(required=False, now=cluster.now)
    cluster.run_until(lambda: signing[0].state_of(plain) is MemberState.ALIVE, timeout_s=60)


class World:
    """Five hosts that are cut off, restart, are restored from backups, and lie of each other."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(f"claims {seed}")
        self.cluster = ready(seed=seed, nodes=5, loss=self.rng.choice([0.0, 0.1]))
        self.names = sorted(self.cluster.hosts)
        self.backups = {name: self.cluster.backup(name) for name in self.names}

    def step(self) -> None:
        host = self.cluster[self.rng.choice(self.names)]
        acts = (
            [self.restart, self.restore]
            if host.node is None
            else [self.restart, self.crash, self.cut, self.heal]
        )
        self.rng.choice(acts if host.node is None else acts + [self.lie] * 4)(host)
        self.cluster.run_for(self.rng.choice([0.01, 0.3, 3.0]))

    def restart(self, host: SimHost) -> None:
        self.cluster.restart(host.name)

    def restore(self, host: SimHost) -> None:
        backup, self.backups[host.name] = self.backups[host.name], self.cluster.backup(host.name)
        self.cluster.restart(host.name, disk=backup)

    def crash(self, host: SimHost) -> None:
        self.cluster.crash(host.name)

    def cut(self, host: SimHost) -> None:
        self.cluster.cut({host.name}, set(self.names) - {host.name})

    def heal(self, _: SimHost) -> None:
        self.cluster.heal()

    def lie(self, victim: SimHost) -> None:
        liar, to = (self.cluster[one] for one in self.rng.sample(self.names, 2))
        if victim in (liar, to) or to.node is None or not to.running.membership.is_signer(victim.node_id):
            return
        own, ahead = said_by(victim), self.rng.choice([0, 1, 50, 3000, 2**31])
        told = lies(self.cluster, victim, liar)
        told += [kind(own.node_id, own.incarnation + ahead, liar.node_id) for kind in (Suspect, Dead)]
        for claim in self.rng.sample(told, 4):
            send(self.cluster, liar, to, claim)


@pytest.mark.parametrize("seed", range(10))
def test_under_cuts_restarts_and_lies_all_hosts_find_each_other(seed: int) -> None:
    print(f"seed {seed}")
    world = World(seed)
    cluster = world.cluster
    for _ in range(40):
        world.step()
        for one in cluster.running():
            for member in one.running.membership.members().values():
                assert member.address != ELSEWHERE
                assert member.state is not MemberState.LEFT
                assert member.incarnation < 10_000
    cluster.heal()
    for name in world.names:
        if cluster[name].node is None:
            cluster.restart(name)
    cluster.run_until(cluster.converged, timeout_s=120)
    for one in cluster.running():
        assert all(one.state_of(other) is MemberState.ALIVE for other in cluster.running())
