"""The table of members and its merge rule.

A node's belief about another is a pair (incarnation, state). Only the owner raises its incarnation, to answer an
accusation or to publish a change; within one incarnation the states are ordered alive < suspect < dead < left, and
the belief only goes up. So all nodes that receive all claims, in any order, come to believe the highest of them.

memberlist differs in one point, to its harm: a dead member's stored incarnation is not raised by later evidence of
its death, and an old "alive" that was delayed can resurrect it (dead at 2, dead at 10 ignored, then alive at 5). Here
the belief never falls back, except for false claims that their subject contradicts (incarnation.py). Another
difference: dead and left members are remembered for days, so that they can be dialled and accused.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from netgossip.types import Address, Member, MemberState, NodeId


class UpdateVerdict(enum.Enum):
    """What a claim does to the belief that we hold."""

    IGNORE = "ignore"
    """The claim is old."""
    RAISE = "raise"
    """The state stays, with the claim's incarnation."""
    CONFIRM = "confirm"
    """The claim confirms the suspicion that we hold."""
    TAKE = "take"
    """The claim becomes our belief."""


_IGNORE, _RAISE, _CONFIRM, _TAKE = UpdateVerdict
_ALIVE, _SUSPECT, _DEAD, _LEFT = MemberState

RULES: Final[Mapping[tuple[MemberState, MemberState], tuple[UpdateVerdict, UpdateVerdict, UpdateVerdict]]] = (
    MappingProxyType(
        {
            # (we hold, claimed):   claimed incarnation is  older     equal     newer
            (_ALIVE, _ALIVE): (_IGNORE, _IGNORE, _TAKE),
            (_ALIVE, _SUSPECT): (_IGNORE, _TAKE, _TAKE),
            (_ALIVE, _DEAD): (_IGNORE, _TAKE, _TAKE),
            (_ALIVE, _LEFT): (_IGNORE, _TAKE, _TAKE),
            (_SUSPECT, _ALIVE): (_IGNORE, _IGNORE, _TAKE),
            (_SUSPECT, _SUSPECT): (_IGNORE, _CONFIRM, _CONFIRM),
            (_SUSPECT, _DEAD): (_IGNORE, _TAKE, _TAKE),
            (_SUSPECT, _LEFT): (_IGNORE, _TAKE, _TAKE),
            # A newer suspicion does not revive a dead member; the "alive" that must have preceded it will.
            (_DEAD, _ALIVE): (_IGNORE, _IGNORE, _TAKE),
            (_DEAD, _SUSPECT): (_IGNORE, _IGNORE, _IGNORE),
            (_DEAD, _DEAD): (_IGNORE, _IGNORE, _RAISE),
            (_DEAD, _LEFT): (_IGNORE, _TAKE, _TAKE),
            (_LEFT, _ALIVE): (_IGNORE, _IGNORE, _TAKE),
            (_LEFT, _SUSPECT): (_IGNORE, _IGNORE, _IGNORE),
            (_LEFT, _DEAD): (_IGNORE, _IGNORE, _TAKE),
            (_LEFT, _LEFT): (_IGNORE, _IGNORE, _RAISE),
        }
    )
)


def judge(held: Member, claimed: MemberState, incarnation: int) -> UpdateVerdict:
    """Return what a claim of `claimed` at `incarnation` does to what we hold."""
    older, equal, newer = RULES[held.state, claimed]
    if incarnation < held.incarnation:
        return older
    return equal if incarnation == held.incarnation else newer


def is_live(member: Member) -> bool:
    """True for a member that is alive, or suspected but not yet declared dead."""
    return member.state in (_ALIVE, _SUSPECT)


class MemberTable:
    """All members by id, ourselves among them, and when each last changed its state."""

    def __init__(self, own: Member) -> None:
        self.own_id = own.node_id
        self._members: dict[NodeId, Member] = {own.node_id: own}
        self._at: dict[Address, dict[NodeId, None]] = {own.address: {own.node_id: None}}
        """The members that have an address."""
        self._changed_at: dict[NodeId, float] = {}
        self._live = 1
        self._hosts: tuple[int, frozenset[str]] = (-1, frozenset())
        """IP addresses of all members, at a revision."""
        self.revision = 0
        """Rises when a member is added or removed, or changes its state or address."""

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, node_id: NodeId) -> bool:
        return node_id in self._members

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    @property
    def view(self) -> Mapping[NodeId, Member]:
        """A read-only view that changes with the table."""
        return MappingProxyType(self._members)

    @property
    def own(self) -> Member:
        """Our own entry."""
        return self._members[self.own_id]

    @property
    def live(self) -> int:
        """Number of live members, ourselves included: the N of all formulas."""
        return self._live

    def get(self, node_id: NodeId) -> Member | None:
        """What we hold of a node."""
        return self._members.get(node_id)

    def put(self, member: Member, now: float) -> Member | None:
        """Store `member`. Returns what was stored before."""
        previous = self._members.get(member.node_id)
        if previous is None or previous.state is not member.state:
            self._changed_at[member.node_id] = now
        if previous is None or (previous.state, previous.address) != (member.state, member.address):
            self.revision += 1
        if previous is None or previous.address != member.address:
            if previous is not None:
                self._leave_address(previous)
            self._at.setdefault(member.address, {})[member.node_id] = None
        self._live += is_live(member) - (previous is not None and is_live(previous))
        self._members[member.node_id] = member
        return previous

    def raise_incarnation(self, member: Member, incarnation: int) -> None:
        """Note later evidence for the state that we hold."""
        if incarnation > member.incarnation:
            self._members[member.node_id] = replace(member, incarnation=incarnation)

    def is_members_host(self, host: str) -> bool:
        """True for the IP address of any member, dead ones included."""
        if self._hosts[0] != self.revision:
            self._hosts = self.revision, frozenset(member.address[0] for member in self._members.values())
        return host in self._hosts[1]

    def at(self, address: Address) -> Iterator[Member]:
        """The members with this address, in any state."""
        return (self._members[node_id] for node_id in self._at.get(address, ()))

    def _leave_address(self, member: Member) -> None:
        self._at[member.address].pop(member.node_id)
        if not self._at[member.address]:
            del self._at[member.address]

    def changed_at(self, node_id: NodeId) -> float:
        """When the node entered its present state, as far as we saw."""
        return self._changed_at.get(node_id, 0.0)

    def remove(self, node_id: NodeId) -> None:
        """Remove a node that is not live."""
        member = self._members.pop(node_id)
        assert not is_live(member)
        self._leave_address(member)
        self.revision += 1
        self._changed_at.pop(node_id, None)

    def others(self, *states: MemberState) -> list[Member]:
        """All other members in one of `states`."""
        return [m for m in self._members.values() if m.state in states and m.node_id != self.own_id]

    def is_live(self, node_id: NodeId) -> bool:
        """True for a known member that is live."""
        return (member := self._members.get(node_id)) is not None and is_live(member)

    def live_others(self) -> list[NodeId]:
        """All other live members."""
        return [member.node_id for member in self.others(_ALIVE, _SUSPECT)]

    def check_invariants(self) -> None:
        """Assert that the count of live members is right, and that we ourselves are alive or left, never dead."""
        assert self._live == sum(map(is_live, self._members.values()))
        assert {(a, n) for a, some in self._at.items() for n in some} == {
            (m.address, n) for n, m in self._members.items()
        }
        assert self.own.state in (_ALIVE, _LEFT)
        assert all(0 <= m.incarnation < 2**32 for m in self._members.values())
