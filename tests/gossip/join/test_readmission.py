"""Returning by identity: both halves against each other, and against those that must not get in."""

from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netgossip.errors import WireError
from netgossip.join.identity import Identity
from netgossip.join.readmission import (
    CONVERSATIONS_S,
    EntryConversation,
    NumberedKey,
    PeerRing,
    Readmissions,
    ReturnerConversation,
)
from netgossip.join.wire import Refusal

CLUSTER = bytes(range(16))
NEW, OLD = NumberedKey(b"n" * 32, 3), NumberedKey(b"o" * 32, 1)


class World:
    def __init__(self) -> None:
        self.random_bytes = random.Random(1).randbytes
        self.member = Identity(self.random_bytes(32))
        self.returner = Identity(self.random_bytes(32))
        self.hosts = {self.returner.node_id}
        """Hosts that the member knows."""
        self.refusals: dict[str, str] = {}
        """What the application has to say to hosts that it does not let return."""
        self.returned: list[PeerRing] = []
        self.readmissions = Readmissions(
            self.member,
            CLUSTER,
            self.random_bytes,
            is_member=lambda host: host in self.hosts,
            refusal=lambda host: self.refusals.get(host, ""),
            ring=lambda: [NEW],
            returned=self.returned.append,
        )
        self.sent = b""

    def come(
        self, *, who: Identity | None = None, cluster: bytes = CLUSTER, member: str = "", cut: int = 10**6
    ) -> PeerRing | Refusal | None:
        known = member or self.member.node_id
        one = ReturnerConversation(
            who or self.returner,
            cluster,
            self.random_bytes,
            is_member=lambda host: host == known,
            ring=[OLD],
        )
        other = EntryConversation(lambda: pytest.fail("not a join"), self.readmissions.converse)
        to_member, closed = one.open(), False
        while to_member and not closed:
            self.sent += to_member
            to_returner = b""
            for i in range(0, len(to_member), cut):
                part, closed = other.receive(to_member[i : i + cut], 1.0)
                to_returner += part
            to_member = b"".join(
                one.receive(to_returner[i : i + cut]) for i in range(0, len(to_returner), cut)
            )
        return one.result


@pytest.mark.parametrize("cut", [1, 7, 10**6])
def test_a_host_returns_by_its_identity_and_both_learn_the_others_keys(cut: int) -> None:
    world = World()
    assert world.come(cut=cut) == PeerRing(world.member.node_id, (NEW,))
    assert world.returned == [PeerRing(world.returner.node_id, (OLD,))]
    assert OLD.key not in world.sent


def test_unknown_and_evicted_hosts_and_other_clusters_are_refused() -> None:
    world = World()
    assert isinstance(world.come(who=Identity(b"x" * 32)), Refusal)
    assert isinstance(world.come(cluster=bytes(16)), Refusal)
    world.hosts.clear()
    assert isinstance(world.come(), Refusal)
    assert world.returned == []


def test_a_host_that_may_not_return_gets_what_the_application_has_to_say_to_it() -> None:
    world = World()
    world.hosts.clear()
    world.refusals[world.returner.node_id] = "netagent-revoked " + "f" * 230
    answer = world.come()
    assert answer == Refusal(world.refusals[world.returner.node_id])
    assert not world.returned


def test_a_returner_gives_nothing_to_a_host_that_it_does_not_know() -> None:
    world = World()
    assert isinstance(world.come(member=world.returner.node_id), Refusal)
    assert world.returned == []


def test_the_name_of_another_host_is_not_enough() -> None:
    world = World()
    thief = Identity(b"t" * 32)
    thief.public_key = world.returner.public_key  # names the host, and cannot sign for it
    with pytest.raises(WireError, match="not signed by its host"):
        world.come(who=thief)
    assert world.returned == []


def test_signatures_a_second_are_bounded() -> None:
    world = World()
    results = [world.come() for _ in range(CONVERSATIONS_S + 2)]
    assert [isinstance(one, Refusal) for one in results] == [False] * CONVERSATIONS_S + [True] * 2


@given(st.lists(st.binary(max_size=80), max_size=4), st.booleans())
def test_garbage_is_a_wire_error_and_nothing_else(pieces: list[bytes], begins_well: bool) -> None:
    world = World()
    other = EntryConversation(lambda: pytest.fail("not a join"), world.readmissions.converse)
    with contextlib.suppress(WireError):
        if begins_well:
            other.receive(b"R", 1.0)
        for piece in pieces:
            other.receive(b"R" + piece if not begins_well and piece is pieces[0] else piece or b"x", 1.0)
    assert world.returned == []
