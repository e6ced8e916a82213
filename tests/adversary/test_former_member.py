"""A host that was revoked. Its program goes on: it has its identity, the ring key, and sessions with every member.
A failure names its seed."""

from __future__ import annotations

import os

import pytest
from fakes.registry import H1, H2, Writer
from fakes.registry import host as host_record

from netagent.membership.refusal import shut_out_of
from netagent.model.ids import HostId
from netagent.model.records import ForgetRecord
from netagent.registry.view import RegistryView
from netgossip.codec.sealing import Keyring
from netgossip.join.admission import Credentials, Invitations, NewcomerConversation
from netgossip.join.identity import Identity
from netgossip.join.invitation import Token
from netgossip.join.readmission import (
    EntryConversation,
    NumberedKey,
    PeerRing,
    Readmissions,
    ReturnerConversation,
)
from netgossip.join.wire import Refusal
from netgossip.records.frames import Sealer
from netgossip.records.wire import Request, encode
from netgossip.slices import at_once
from netgossip.testing import PORTS, SimCluster, SimHost
from netgossip.types import CLUSTER_SCOPE, Channel, RequestReceived

SEEDS = range(2)


def with_a_revoked_host(seed: int) -> tuple[SimCluster, SimHost, list[SimHost]]:
    """The cluster, the revoked host, and the members, of which each had a session with it until now."""
    print(f"seed {seed}")
    cluster = SimCluster(seed=seed, nodes=4, signs=True)
    cluster.run_until(cluster.converged, timeout_s=60)
    cluster.run_for(5)
    gone, members = cluster["n4"], [cluster["n1"], cluster["n2"], cluster["n3"]]
    for host in members:
        assert gone.running.records._transport._sessions.for_sending(host.node_id, cluster.now) is not None
    return cluster, gone, members


def revoke(cluster: SimCluster, gone: SimHost, members: list[SimHost]) -> None:
    for host in members:
        with host.commanding() as node:
            node.refuse_peer(gone.node_id, "revoked", cluster.now)
        host.events.clear()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_session_that_stands_is_of_no_use_to_a_revoked_host(seed: int) -> None:
    """Requests under it are not answered, records under it not taken, from the moment of the revocation on."""
    cluster, gone, members = with_a_revoked_host(seed)
    sessions = {
        host.node_id: gone.running.records._transport._sessions.for_sending(host.node_id, cluster.now)
        for host in members
    }
    revoke(cluster, gone, members)
    sealer = gone.running.records._transport._sealer
    ring = Sealer(
        node_id=gone.node_id, epoch=sealer._epoch, keyring=Keyring([cluster.ring_key]), label=cluster.label
    )
    ring._counter = 1 << 40
    request = at_once(encode(Request(1, b"grant me")))
    for host in members:
        for payload in (
            sealer.seal(host.node_id, request, session=sessions[host.node_id]),
            ring.seal(host.node_id, request),
        ):
            cluster.send(gone, Channel.RECORD, (host.ip, PORTS[Channel.RECORD]), payload)
    gone.put(CLUSTER_SCOPE, b"after", b"1")
    cluster.run_for(60)
    for host in members:
        assert (gone.node_id, b"after") not in host.records()
        assert not [event for event in host.events if isinstance(event, RequestReceived)]
        assert host.running.statistics()["record_refused_sender_is_revoked"] >= 2


@pytest.mark.parametrize("seed", SEEDS)
def test_a_clone_of_a_revoked_host_at_another_address_stays_out(seed: int) -> None:
    """A copy of its disk, identity and keys, started elsewhere and beside the original."""
    cluster, gone, members = with_a_revoked_host(seed)
    disk = cluster.backup(gone.name)
    clone = cluster.add("n5")
    clone.identity, clone.node_id = gone.identity, gone.node_id
    cluster.crash(clone.name)
    cluster.run_for(1)
    revoke(cluster, gone, members)
    cluster.restart(clone.name, disk=disk)
    clone.put(CLUSTER_SCOPE, b"clone", b"1")
    cluster.run_for(120)
    for host in members:
        assert gone.node_id not in host.running.members()
        assert (gone.node_id, b"clone") not in host.records()
        assert all(host.state_of(other) is not None for other in members)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_revoked_host_gets_no_key_by_a_return_with_its_identity(seed: int) -> None:
    """The conversation by which a host that slept through a change of the keys gets them, with a member that has
    revoked it; one that has not does give them."""
    cluster, gone, members = with_a_revoked_host(seed)
    member = members[0]
    assert gone.identity is not None
    assert member.identity is not None
    new = NumberedKey(b"n" * 32, 2)
    returned: list[PeerRing] = []
    random_bytes = cluster._rng.randbytes
    door = Readmissions(
        member.identity,
        bytes(16),
        random_bytes,
        is_member=lambda node_id: node_id in member.running.members(),
        refusal=lambda _node_id: "",
        ring=lambda: [new],
        returned=returned.append,
    )

    def come() -> PeerRing | Refusal | None:
        assert gone.identity is not None
        old = NumberedKey(cluster.ring_key, 1)
        returner = ReturnerConversation(
            gone.identity, bytes(16), random_bytes, is_member=lambda _: True, ring=[old]
        )
        inside = EntryConversation(lambda: pytest.fail("not a join"), door.converse)
        said, closed = returner.open(), False
        while said and not closed:
            answer, closed = inside.receive(said, cluster.now)
            said = returner.receive(answer)
        return returner.result

    assert come() == PeerRing(member.node_id, (new,))
    revoke(cluster, gone, members)
    returned.clear()
    assert isinstance(come(), Refusal)
    assert returned == []


class Inviter:
    """A member that has heard what other members wrote, and its invitations."""

    def __init__(self) -> None:
        self.writer = Writer(H2)
        self.view = RegistryView(H1).with_entries(self.writer.put(host_record("h2")))
        self.key = b"old" + bytes(29)
        self.invitations = Invitations(
            Identity(b"1" * 32),
            os.urandom,
            lambda: Credentials("ab" * 16, "mesh", "mesh.internal", (self.key,)),
            lambda _node_id, _name: None,
            shut_out=lambda: shut_out_of(self.view),
        )

    def invite(self, *, uses: int = 1) -> Token:
        return self.invitations.create((("192.0.2.1", 7957),), 0.0, ttl_s=3600, uses=uses)

    def hear(self, word: ForgetRecord) -> None:
        """What an operator has typed elsewhere arrives, and with it the next key."""
        self.view = self.view.with_entries(self.writer.put(word))
        self.key = b"new" + bytes(29)

    def has_let_in(self, token: Token, who: Identity) -> bool:
        """True if it got the ring key of now."""
        newcomer = NewcomerConversation(token, who, "h4", os.urandom)
        inside, said, closed = self.invitations.converse(), newcomer.open(), False
        while said and not closed:
            answer, closed = inside.receive(said, 1.0)
            said = newcomer.receive(answer)
        return isinstance(newcomer.result, Credentials) and newcomer.result.keys == (self.key,)


@pytest.mark.parametrize("compromised", [True, False], ids=["revoke", "forget"])
def test_a_former_member_gets_no_new_key_by_an_invitation_of_before(compromised: bool) -> None:
    """Neither by the one that let it in, as itself or as another, nor as itself by one of any inviter."""
    gone, another = Identity(b"4" * 32), Identity(b"5" * 32)
    first, other = Inviter(), Inviter()
    used, open_still, elsewhere = first.invite(uses=9), first.invite(), other.invite(uses=9)
    assert first.has_let_in(used, gone)
    assert first.has_let_in(used, gone), "whose connection broke may ask again"
    word = ForgetRecord(HostId(gone.node_id), settled=True, revoked=True, compromised=compromised)
    for one in (first, other):
        one.hear(word)
    assert not first.has_let_in(used, gone)
    assert not first.has_let_in(used, another)
    assert not first.has_let_in(open_still, gone)
    assert not other.has_let_in(elsewhere, gone)
    # After `revoke` an attacker may have seen any invitation; after `forget` a new host may use the others.
    assert other.has_let_in(elsewhere, another) is not compromised
    assert first.has_let_in(first.invite(), another), "by a new one"
