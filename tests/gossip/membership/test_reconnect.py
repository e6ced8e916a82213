"""Who is dialled: seeds, those that are only remembered, and, for who is left alone, the dead."""

from __future__ import annotations

import random
from dataclasses import replace

from netgossip.config import GossipConfig
from netgossip.deadlines import NEVER
from netgossip.membership.members import MemberTable
from netgossip.membership.reconnect import Reconnect
from netgossip.membership.state_updates import StateUpdates
from netgossip.types import Address, Member, MemberState


def address(number: int) -> Address:
    return (f"192.0.2.{number}", 7956)


def member(number: int, state: MemberState = MemberState.ALIVE) -> Member:
    return Member(f"n{number}", address(number), state, 1)


class Beliefs(StateUpdates):
    """Only what `Reconnect` reads of them."""

    def __init__(self) -> None:
        self.unconfirmed: set[str] = set()
        self.leaves = False

    @property
    def is_leaving(self) -> bool:
        return self.leaves


class World:
    def __init__(self, *seeds: int) -> None:
        self.now = 100.0
        self.table = MemberTable(member(1))
        self.state_updates = Beliefs()
        self.dialled: list[Address] = []
        self.reconnect = Reconnect(
            config=GossipConfig.lan(),
            rng=random.Random(1),
            table=self.table,
            state_updates=self.state_updates,
            dial=lambda one, _now: self.dialled.append(one),
            seeds=[address(one) for one in seeds],
        )

    def dials(self, after_s: float = 0.0) -> list[Address]:
        """Whom it dials now; each attempt fails at once."""
        self.now += after_s
        self.dialled.clear()
        self.reconnect.dial_due(self.now)
        for one in self.dialled:
            self.reconnect.ended(one, self.now)
        return list(self.dialled)


def test_a_seed_is_dialled_until_a_live_member_has_its_address() -> None:
    world = World(2)
    assert world.dials() == [address(2)]
    assert world.dials() == [], "not before its pause is over"
    assert world.reconnect.next_deadline() > world.now
    assert world.dials(60) == [address(2)]
    world.table.put(member(2), world.now)
    assert world.dials(60) == []
    assert world.reconnect.next_deadline() == NEVER
    world.table.put(replace(member(2), state=MemberState.DEAD), world.now)
    assert world.dials(60) == [address(2)]
    world.reconnect.set_seeds([])
    world.table.put(member(3), world.now)
    assert world.dials(60) == []


def test_a_remembered_member_is_dialled_until_a_peer_confirms_it() -> None:
    world = World()
    world.table.put(member(2), world.now)
    world.state_updates.unconfirmed.add("n2")
    assert world.dials() == [address(2)]
    world.state_updates.unconfirmed.clear()
    assert world.dials(60) == []


def test_a_node_that_is_left_alone_dials_the_dead() -> None:
    world = World()
    world.table.put(member(2, MemberState.DEAD), world.now)
    world.table.put(member(3, MemberState.LEFT), world.now)
    assert world.dials() == [address(2)]
    world.table.put(member(4), world.now)
    assert world.dials(60) == []


def test_a_leaving_node_dials_no_one() -> None:
    world = World(2)
    world.state_updates.leaves = True
    assert world.dials(60) == []
    assert world.reconnect.next_deadline() == NEVER
