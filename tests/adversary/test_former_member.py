"""A host that was revoked. Its program goes on: it has its identity, the ring key, and sessions with every member.
A failure names its seed."""

from __future__ import annotations

import pytest

from netgossip.codec.sealing import Keyring
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
