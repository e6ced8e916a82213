"""A live member appears under another address: did it move, or does another machine use its id?

The old address is pinged once, immediately. While it answers, the new one is refused, and each of the two machines
gets a message about the other, because no other member will send one: a refused claim is not passed on, and neither
machine ever dials what it takes for itself. When the old address does not answer, the member has moved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from netgossip.codec.messages import Alive, Ping
from netgossip.config import GossipConfig
from netgossip.deadlines import NEVER
from netgossip.membership.members import MemberTable, is_live
from netgossip.membership.outgoing import Outgoing
from netgossip.types import Address, IdentityContested, Member, NodeId

ADDRESS_CHANGES_LIMIT: Final = 64
"""Bound of members that claim a new address; machines that were refused one; beyond it: further claims are not
examined; further machines learn of the member by push/pull."""
RIVAL_NOTIFIED_S: Final = 60.0
"""How long a refused machine gets what the member at the old address announces."""


@dataclass(slots=True)
class _AddressChange:
    claim: Alive
    deadline: float
    sequence: int | None = None
    """Sequence of the ping to the old address, once it was sent."""


@dataclass(frozen=True, slots=True)
class _Rival:
    address: Address
    until: float
    reported_at: float


class AddressChanges:
    """Address changes that are being checked, and the machines that were refused recently."""

    def __init__(
        self, *, config: GossipConfig, table: MemberTable, outgoing: Outgoing, counts: Counter[str]
    ) -> None:
        self._config = config
        self._table = table
        self._outgoing = outgoing
        self._counts = counts
        self._address_changes: dict[NodeId, _AddressChange] = {}
        self._rivals: dict[NodeId, _Rival] = {}

    def __contains__(self, node_id: NodeId) -> bool:
        return node_id in self._address_changes

    def is_noted(self, claim: Alive) -> bool:
        """True if this very claim is being checked."""
        return claim.node in self._address_changes and self._address_changes[claim.node].claim == claim

    def note(self, claim: Alive, now: float) -> None:
        """Note the claim that a live member has another address."""
        known = self._address_changes.get(claim.node)
        if known is not None:
            if claim.incarnation > known.claim.incarnation:
                known.claim = claim
        elif len(self._address_changes) < ADDRESS_CHANGES_LIMIT:
            self._address_changes[claim.node] = _AddressChange(claim, now + self._config.probe_timeout_s)

    def drop(self, node_id: NodeId) -> None:
        """Stop checking: the member is dead, or known to be where it says."""
        self._address_changes.pop(node_id, None)

    def ask(self, next_sequence: Callable[[], int]) -> None:
        """Ping the old address of each address change, once."""
        own = self._table.own
        for node_id, change in self._address_changes.items():
            if change.sequence is None:
                change.sequence = next_sequence()
                ping = Ping(change.sequence, node_id, own.node_id, own.address)
                self._outgoing.send(self._table.view[node_id].address, ping)

    def refuse(self, sequence: int, now: float) -> bool:
        """Handle an answer from the old address: another machine claims the new one. False when `sequence` is not of
        such a ping."""
        for node_id, change in self._address_changes.items():
            if change.sequence == sequence:
                del self._address_changes[node_id]
                self._counts["refused_address"] += 1
                held = self._table.view[node_id]
                self._note_rival(change.claim, held.address, now)
                self._outgoing.send(held.address, change.claim)
                self._outgoing.send(change.claim.address, alive(held), is_live=False)
                return True
        return False

    def tell_rival(self, claim: Alive, now: float) -> None:
        """Pass an announcement of a member on to the machine that was refused under its id: broadcasts go only to
        addresses that we believe in, so that machine would learn of it only at its next push/pull."""
        rival = self._rivals.get(claim.node)
        if rival is not None and now < rival.until and claim.address != rival.address:
            self._outgoing.send(rival.address, claim, is_live=False)

    def _note_rival(self, claim: Alive, held: Address, now: float) -> None:
        """Remember a machine that uses a member's id, and report it once in RIVAL_NOTIFIED_S."""
        self._rivals = {node_id: rival for node_id, rival in self._rivals.items() if now < rival.until}
        known = self._rivals.get(claim.node)
        if known is None and len(self._rivals) >= ADDRESS_CHANGES_LIMIT:
            return
        reported_at = known.reported_at if known is not None else float("-inf")
        if now >= reported_at + RIVAL_NOTIFIED_S:
            reported_at = now
            self._outgoing.event(IdentityContested(claim.node, held, claim.address))
        self._rivals[claim.node] = _Rival(claim.address, now + RIVAL_NOTIFIED_S, reported_at)

    def take_due(self, now: float) -> list[Alive]:
        """Return the claims of those whose old address was silent."""
        due = [node_id for node_id, change in self._address_changes.items() if now >= change.deadline]
        return [self._address_changes.pop(node_id).claim for node_id in due]

    def next_deadline(self) -> float:
        """When `take_due` has something to return."""
        return min((change.deadline for change in self._address_changes.values()), default=NEVER)

    def postpone(self, delay_s: float) -> None:
        """Give every check `delay_s` more, because we did not listen for that long."""
        for change in self._address_changes.values():
            change.deadline += delay_s

    def check_invariants(self) -> None:
        """Assert that all checks are about live members, and bounded."""
        assert all(is_live(self._table.view[node_id]) for node_id in self._address_changes)
        assert max(len(self._address_changes), len(self._rivals)) <= ADDRESS_CHANGES_LIMIT


def alive(member: Member) -> Alive:
    """The statement that a member would make about itself."""
    return Alive(member.node_id, member.incarnation, member.address, member.meta, member.vsn)
