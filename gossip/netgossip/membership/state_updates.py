"""Claims about members and their effects: beliefs, suspicions, refutations, accusations.

Claims come as broadcasts, in push/pulls, and from our own probes. `members.RULES` defines what a claim does to what
we believe; this file carries out what follows: it passes the broadcast on, starts or ends a suspicion, reports to the
application, and when the claim is about ourselves and wrong, refutes it with a higher incarnation.

It differs from memberlist in ways that memberlist nodes tolerate:

- A stale "alive" about a node that we hold dead or left is answered by an accusation sent straight to that node. It
  refutes, and is back at once, however low the incarnation with which it restarted.
- A live member that appears under another address is believed after its old address failed to answer one ping
  (address_changes.py). memberlist refuses it until it has been declared dead.
- Accusers must be members. Broadcasts of unknown authors have been the start of storms.
- An implausible incarnation is refused, and a member that was removed comes back only above the incarnation at which
  it departed (incarnation.py).
- A node that leaves refutes nothing any more, least of all the echo of its own leave.
- What a node says about itself counts only with its proof, once it has shown one (claims.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from netgossip.codec.messages import VSN, Alive, Dead, StateClaim, Suspect, encode
from netgossip.codec.meta import without_proof
from netgossip.config import GossipConfig
from netgossip.deadlines import NEVER
from netgossip.membership.address_changes import AddressChanges, alive
from netgossip.membership.awareness import Awareness
from netgossip.membership.claims import CHECKS_PER_SLICE, ClaimProofs, Proven
from netgossip.membership.incarnation import INCARNATION_LIMIT, Ceilings, Departures, is_far_below
from netgossip.membership.members import MemberTable, UpdateVerdict, is_live, judge
from netgossip.membership.outgoing import Outgoing
from netgossip.membership.suspicion import Suspicion
from netgossip.slices import MEMBERS_PER_SLICE, Slices
from netgossip.types import (
    Address,
    ClaimSignerHeard,
    IdentityConflict,
    Member,
    MemberChanged,
    MemberReaped,
    MemberState,
    NodeId,
    UnprovenClaimHeard,
)

CONFLICT_PAUSE_S: Final = 60.0
"""Between two reports of a machine that uses our id."""
CONFLICT_ANSWERS: Final = 4
"""Refutations of such a machine per pause: so often each of the two hears of the other, although an incarnation
raised for another reason looks like an answer. Without a limit they would outbid each other for ever."""
CONFLICTS_LIMIT: Final = 8
"""Bound of machines that use our id; beyond it: further ones are neither reported nor answered until a minute has
passed. Each is tracked with its own pause, so that several copies are all reported."""


@dataclass(slots=True)
class _AddressConflict:
    reported_at: float
    answers: int = 0


class StateUpdates:
    """The beliefs about all members. The owner must look at `newcomers` after each call, and drive
    `address_changes`."""

    def __init__(
        self,
        *,
        config: GossipConfig,
        table: MemberTable,
        outgoing: Outgoing,
        awareness: Awareness,
        counts: Counter[str],
        proofs: ClaimProofs,
    ) -> None:
        self._proofs = proofs
        self._heard_from: Address = table.own.address
        """Where the present input came from."""
        self._config = config
        self._table = table
        self._outgoing = outgoing
        self._awareness = awareness
        self._counts = counts
        self.suspicions: dict[NodeId, Suspicion] = {}
        self.address_changes = AddressChanges(config=config, table=table, outgoing=outgoing, counts=counts)
        self.newcomers: list[NodeId] = []
        self.misinformed: Address | None = None
        """The last member that holds something false about us: the owner starts a push/pull with it."""
        self.unconfirmed: set[NodeId] = set()
        """Members that we only remember: no peer of a push/pull has confirmed yet that they are alive."""
        self._accused_at: dict[NodeId, float] = {}
        self._merged = False
        self._refuted_at_foreign_address: int | None = None
        self._conflicts: dict[Address, _AddressConflict] = {}
        self._ceilings = Ceilings()
        self._departures = Departures()
        self._refused: set[NodeId] = set()

    def remember(self, member: Member, now: float) -> None:
        """Take over what we knew before a restart, and let the probes check it. Sends no broadcast."""
        if member.node_id in self._refused:
            return
        if member.node_id == self._table.own_id or len(self._table) >= self._config.max_members:
            return
        if member.state is MemberState.SUSPECT:
            member = replace(member, state=MemberState.ALIVE)
        self._hold(member, now)
        if is_live(member):
            self.unconfirmed.add(member.node_id)

    def recall_departure(self, node_id: NodeId, incarnation: int) -> None:
        """Take over the departure of a member that was removed before the restart, at this incarnation."""
        self._departures.note(node_id, incarnation)

    def heard_from(self, node_id: NodeId) -> None:
        """Note that the member is alive. Before our first push/pull we dial it all the same: what it holds of us may
        be as old as what we held of it, and no peer has told us what happened while we were away."""
        if self._merged:
            self.unconfirmed.discard(node_id)

    # Claims.

    def begin_input(self, source: Address) -> None:
        """Begin the claims of another datagram."""
        self._heard_from = source
        self._proofs.checks = 0

    def alive(
        self, claim: Alive, now: float, *, source: Address | None = None, is_own_word: bool = False
    ) -> None:
        """Handle a claim that a node is alive; `is_own_word`: from the node itself, over a stream from its
        address."""
        if claim.node == self._table.own_id:
            self._alive_about_us(claim, now, source)
            return
        if self.is_refused(claim.node):
            return
        if not _speaks_ours(claim.vsn):
            self._counts["refused_version"] += 1
            return
        held = self._table.get(claim.node)
        if held is None:
            self._welcome(claim, now, source=source, is_own_word=is_own_word)
        elif self._proofs.is_first(claim):
            # Whatever others claimed in its name before: nothing of that was proven.
            if self._is_believed(claim.node, self._proofs.check_alive(claim), now):
                self._believe_alive(claim, now)
        else:
            self._alive_about_known(held, claim, now, source, is_own_word=is_own_word)

    def _alive_about_known(
        self, held: Member, claim: Alive, now: float, source: Address | None, *, is_own_word: bool
    ) -> None:
        is_correction = is_own_word and self._is_correction(held, claim, now)
        # What a node has proven is what it has counted.
        may_be_false = not is_correction and not self._proofs.signs(claim.node)
        if may_be_false and self._is_implausible(claim.node, claim.incarnation, now):
            return
        if is_correction or judge(held, MemberState.ALIVE, claim.incarnation) is UpdateVerdict.TAKE:
            if self.address_changes.is_noted(claim) or not self._is_believed(
                claim.node, self._proofs.check_alive(claim), now
            ):
                return
            if is_correction:
                self._ceilings.correct(claim.node, claim.incarnation, now)
            if claim.address != held.address and is_live(held):
                self.address_changes.note(claim, now)
                return
            self._believe_alive(claim, now)
            self.address_changes.tell_rival(claim, now)
        elif not is_live(held):
            if source is not None:
                self.accuse(held, claim.address, now)
        elif claim.incarnation == held.incarnation and held.state is MemberState.ALIVE:
            self.heard_from(claim.node)

    def suspect(self, claim: Suspect, now: float, *, source: Address | None = None) -> None:
        """Handle a claim that a node does not answer."""
        held = self._accused(claim, now, source)
        if held is None:
            return
        claim = replace(claim, incarnation=self._accused_incarnation(claim, held))
        verdict = judge(held, MemberState.SUSPECT, claim.incarnation)
        if verdict is UpdateVerdict.TAKE:
            self._counts["suspicions"] += 1
            self.suspicions[claim.node] = Suspicion(
                config=self._config, members=self._table.live, accuser=claim.accuser, now=now
            )
            self._hold(replace(held, state=MemberState.SUSPECT, incarnation=claim.incarnation), now)
            self._spread(claim)
        elif verdict is UpdateVerdict.CONFIRM:
            is_newer = claim.incarnation > held.incarnation
            self._table.raise_incarnation(held, claim.incarnation)
            if self.suspicions[claim.node].confirm(claim.accuser) or is_newer:
                self._spread(claim)

    def dead(self, claim: Dead, now: float, *, source: Address | None = None) -> None:
        """Handle a claim that a node is dead, or a node's own message that it leaves."""
        held = self._accused(claim, now, source)
        if held is None:
            return
        state = MemberState.LEFT if claim.accuser == claim.node else MemberState.DEAD
        if state is MemberState.DEAD:
            claim = replace(claim, incarnation=self._accused_incarnation(claim, held), proof=b"")
        verdict = judge(held, state, claim.incarnation)
        if verdict is UpdateVerdict.IGNORE:
            return
        if state is MemberState.LEFT and not self._is_believed(
            claim.node, self._proofs.check_leave(claim), now
        ):
            return
        if verdict is UpdateVerdict.TAKE:
            self.suspicions.pop(claim.node, None)
            self.address_changes.drop(claim.node)
            self.unconfirmed.discard(claim.node)
            incarnation, proof = claim.incarnation, claim.proof
            self._hold(replace(held, state=state, incarnation=incarnation, leave_proof=proof), now)
            self._spread(claim)
        elif verdict is UpdateVerdict.RAISE:
            self._table.raise_incarnation(replace(held, leave_proof=claim.proof), claim.incarnation)

    def merge(self, nodes: tuple[Member, ...], clock: Callable[[], float], *, peer: Address) -> Slices[None]:
        """Merge the push/pull of the node at `peer`. Members that it holds dead become suspects here, so that they
        get a chance to refute; but what we only remember from before a restart counts less than what another node saw
        since.

        Each slice runs at its own time. Each member is a claim of its own, so a claim between two slices finds
        nothing half done. Look at `newcomers` after each slice.
        """
        is_first, self._merged = not self._merged, True
        self.begin_input(peer)
        for number, node in enumerate(nodes, 1):
            self._merge_one(node, clock(), peer, is_first=is_first)
            if number % MEMBERS_PER_SLICE == 0 or self._proofs.checks >= CHECKS_PER_SLICE:
                yield
                self.begin_input(peer)

    def _merge_one(self, node: Member, now: float, peer: Address, *, is_first: bool) -> None:
        if node.node_id in self._refused:
            return
        is_known = node.node_id in self._table
        if node.state in (MemberState.DEAD, MemberState.LEFT) and not is_known:
            # Only a newcomer learns of deaths from before it came. Later, members that one node has removed must not
            # come back from another.
            is_room = len(self._table) < self._config.max_members
            if is_first and is_room and _is_sane(node) and self._is_believed_gone(node, now):
                self._hold(node, now)
            return
        if node.state is MemberState.ALIVE or not is_known:
            is_own_word = node.state is MemberState.ALIVE and node.address[0] == peer[0]
            source = node.address if is_own_word else None
            self.alive(alive(node), now, source=source, is_own_word=is_own_word)
        if is_first and node.state is MemberState.DEAD and node.node_id in self.unconfirmed:
            self.dead(Dead(node.node_id, node.incarnation, self._table.own_id), now)
        elif node.state in (MemberState.SUSPECT, MemberState.DEAD):
            self.suspect(Suspect(node.node_id, node.incarnation, self._table.own_id), now)
        elif node.state is MemberState.LEFT:
            self.dead(Dead(node.node_id, node.incarnation, node.node_id, node.leave_proof), now)

    # Ourselves.

    def announce(self, now: float, *, address: Address | None = None, meta: bytes | None = None) -> None:
        """Publish a change of ours, or just that we are here."""
        own = self._table.own
        if not self._ceilings.knows(own.node_id):
            self._ceilings.begin(own.node_id, own.incarnation, now)
        if address is not None or meta is not None:
            own = replace(
                own,
                incarnation=own.incarnation + 1,
                address=own.address if address is None else address,
                meta=own.meta if meta is None else meta,
            )
            own = self._proofs.signed(own)
            self._table.put(own, now)
        self._outgoing.broadcasts.put(own.node_id, encode(alive(own)))

    def leave(self, now: float) -> None:
        """Announce that we leave, once."""
        own = self._table.own
        if own.state is not MemberState.LEFT:
            proof = self._proofs.leave(own)
            self._table.put(replace(own, state=MemberState.LEFT, leave_proof=proof), now)
            self._spread(Dead(own.node_id, own.incarnation, own.node_id, proof))

    @property
    def is_leaving(self) -> bool:
        """True once `leave` was called."""
        return self._table.own.state is MemberState.LEFT

    def _alive_about_us(self, claim: Alive, now: float, source: Address | None) -> None:
        own = self._table.own
        if self._is_implausible(claim.node, claim.incarnation, now):
            self._note_misinformed(source)
            return
        if self.is_leaving or claim.incarnation < own.incarnation:
            return
        if claim.address == own.address:
            if claim.incarnation > own.incarnation or claim.meta != own.meta or claim.vsn != own.vsn:
                self._refute(claim.incarnation, now, source=None)
            return
        # Our own former address may still be claimed. But only a machine that runs under our id can have made an
        # incarnation as high as the one by which we took that back.
        foreign = self._refuted_at_foreign_address
        if foreign is not None and claim.incarnation >= foreign:
            clash = self._conflict_at(claim.address, now)
            if clash is None or clash.answers >= CONFLICT_ANSWERS:
                return
            clash.answers += 1
        self._refute(claim.incarnation, now, source=None)
        self._refuted_at_foreign_address = self._table.own.incarnation

    def _conflict_at(self, address: Address, now: float) -> _AddressConflict | None:
        """Return the machine at `address`, reported once per pause; None when too many are tracked."""
        self._conflicts = {a: c for a, c in self._conflicts.items() if now < c.reported_at + CONFLICT_PAUSE_S}
        if address not in self._conflicts:
            if len(self._conflicts) >= CONFLICTS_LIMIT:
                return None
            self._conflicts[address] = _AddressConflict(now)
            self._counts["identity_clashes"] += 1
            self._outgoing.event(IdentityConflict(address))
        return self._conflicts[address]

    def _refute(self, incarnation: int, now: float, *, source: Address | None) -> None:
        own = self._table.own
        raised = max(own.incarnation, incarnation) + 1
        if raised >= 2**32:
            self._counts["refused_incarnation"] += 1
            return
        self._counts["refutations"] += 1
        own = self._proofs.signed(replace(own, incarnation=raised))
        self._table.put(own, now)
        self.announce(now)
        if source is not None:
            self._outgoing.send(source, alive(own))

    # Others.

    def accuse(self, held: Member, address: Address, now: float) -> None:
        """Tell a node that we hold it dead or left, at most once per probe interval: it will refute."""
        if now < self._accused_at.get(held.node_id, float("-inf")) + self._config.probe_interval_s:
            return
        self._accused_at[held.node_id] = now
        self._counts["accusations"] += 1
        accuser = held.node_id if held.state is MemberState.LEFT else self._table.own_id
        self._outgoing.send(address, Dead(held.node_id, held.incarnation, accuser), is_live=False)

    def handle_deadline(self, now: float) -> None:
        """Declare dead what did not refute in time; believe new addresses whose old ones are silent."""
        for node_id in [n for n, suspicion in self.suspicions.items() if now >= suspicion.deadline]:
            self._counts["deaths_declared"] += 1
            held = self._table.view[node_id]
            self.dead(Dead(node_id, held.incarnation, self._table.own_id), now)
        for claim in self.address_changes.take_due(now):
            if (
                judge(self._table.view[claim.node], MemberState.ALIVE, claim.incarnation)
                is UpdateVerdict.TAKE
            ):
                self._believe_alive(claim, now)

    def next_deadline(self) -> float:
        """When the next suspicion or check of an address ends."""
        suspicions = (suspicion.deadline for suspicion in self.suspicions.values())
        return min(self.address_changes.next_deadline(), min(suspicions, default=NEVER))

    def postpone(self, delay_s: float) -> None:
        """Extend all deadlines by `delay_s`, because we did not listen for that long and missed refutations."""
        for suspicion in self.suspicions.values():
            suspicion.postpone(delay_s)
        self.address_changes.postpone(delay_s)

    def reap(self, now: float) -> None:
        """Remove members that have been dead or gone for long."""
        kept_s = {
            MemberState.DEAD: self._config.remember_failed_s,
            MemberState.LEFT: self._config.remember_left_s,
        }
        for member in self._table.others(MemberState.DEAD, MemberState.LEFT):
            if now >= self._table.changed_at(member.node_id) + kept_s[member.state]:
                self._remove(member.node_id)

    def forget(self, node_id: NodeId) -> None:
        """Remove a node that is not live, as `reap` does when its time is over."""
        held = self._table.get(node_id)
        if held is not None and not is_live(held):
            self._remove(node_id)

    # Nodes that are refused.

    def refuse(self, node_id: NodeId, now: float) -> None:
        """Remove a node in whatever state, and believe nothing of it from now on."""
        self._refused.add(node_id)
        self._drop(node_id, now)

    def _drop(self, node_id: NodeId, now: float) -> None:
        held = self._table.get(node_id)
        if held is None or node_id == self._table.own_id:
            return
        self.suspicions.pop(node_id, None)
        self.address_changes.drop(node_id)
        self.unconfirmed.discard(node_id)
        if is_live(held):
            self._table.put(replace(held, state=MemberState.DEAD), now)
        self._remove(node_id)

    def readmit(self, node_id: NodeId) -> None:
        """Believe what is said of the node again."""
        self._refused.discard(node_id)

    def require_proofs(self, now: float, *, required: bool) -> None:
        """Believe no node without its proofs, and remove live members that have shown none; or believe them again."""
        self._proofs.required = required
        if not required:
            return
        for member in self._table.others(MemberState.ALIVE, MemberState.SUSPECT):
            if not self._proofs.signs(member.node_id):
                self._drop(member.node_id, now)

    def is_refused(self, node_id: NodeId | None) -> bool:
        """True, and counted, for a node that is refused."""
        if node_id not in self._refused:
            return False
        self._counts["refused_revoked"] += 1
        return True

    def refused_speaker(self, nodes: Sequence[Member], peer: Address) -> NodeId | None:
        """Return the refused node that wrote this push/pull from `peer`: itself alive there in its own list, and no
        other node. A node that came back there under another id lists that one."""
        if not self._refused:
            return None
        here = [one.node_id for one in nodes if one.state is MemberState.ALIVE and one.address[0] == peer[0]]
        if len(here) != 1 or not self.is_refused(here[0]):
            return None
        return here[0]

    # Steps of the above.

    def _is_believed(self, node_id: NodeId, proven: Proven, now: float) -> bool:
        """Count a claim in a node's name that is refused for want of its proof; remember who has shown one."""
        if proven.is_refused:
            self._counts[f"refused_{proven.value}"] += 1
            if proven is not Proven.UNCHECKED and self._proofs.is_news(node_id, now):
                self._outgoing.event(UnprovenClaimHeard(node_id, self._heard_from))
            return False
        if proven is Proven.VALID and self._proofs.note_member(node_id):
            self._outgoing.event(ClaimSignerHeard(node_id))
        return True

    def _is_believed_gone(self, node: Member, now: float) -> bool:
        """True if a newcomer may take from its first peer that the node, which it does not know, is dead or has left.
        That a node is dead is others' word: its own last word says at which incarnation."""
        if node.state is MemberState.LEFT:
            leave = Dead(node.node_id, node.incarnation, node.node_id, node.leave_proof)
            return self._is_believed(node.node_id, self._proofs.check_leave(leave), now)
        if self._proofs.check_alive(alive(node)) is Proven.VALID:
            return self._is_believed(node.node_id, Proven.VALID, now)
        # A release without proofs raises the incarnation of what it holds dead, and breaks the proof.
        return not self._proofs.required and not self._proofs.signs(node.node_id)

    def _accused_incarnation(self, claim: Suspect | Dead, held: Member) -> int:
        """The incarnation at which an accusation counts. That of a node which proves its claims is no higher than the
        node itself has proven, so each of its refutations is above."""
        is_proven = self._proofs.signs(claim.node)
        return min(claim.incarnation, held.incarnation) if is_proven else claim.incarnation

    def _remove(self, node_id: NodeId) -> None:
        self._proofs.forget_member(node_id)
        self._departures.note(node_id, self._table.view[node_id].incarnation)
        self._ceilings.forget(node_id)
        self._table.remove(node_id)
        self._accused_at.pop(node_id, None)
        self._outgoing.broadcasts.discard(node_id)
        self._outgoing.event(MemberReaped(node_id))

    def _is_implausible(self, node_id: NodeId, incarnation: int, now: float) -> bool:
        if not self._ceilings.is_above(node_id, incarnation, now):
            return False
        self._counts["refused_incarnation"] += 1
        return True

    def _note_misinformed(self, source: Address | None) -> None:
        """A member holds something about us that we can't have reached and can't refute: a push/pull with our own
        statement corrects it."""
        if source is not None and self._table.is_members_host(source[0]):
            self.misinformed = source

    def _is_correction(self, held: Member, claim: Alive, now: float) -> bool:
        """True for a member's own statement that overrides what others claimed: far below it; or above the ceiling,
        if we were away for longer than the ceiling covers."""
        if self._ceilings.is_above(claim.node, claim.incarnation, now):
            return claim.address == held.address
        is_same_place = claim.address == held.address or not is_live(held)
        return is_same_place and is_far_below(claim.incarnation, held.incarnation)

    def _accused(self, claim: Suspect | Dead, now: float, source: Address | None) -> Member | None:
        """Return the member that a claim accuses; None when the claim must not be processed further."""
        held = self._table.get(claim.node)
        if held is None or (claim.node == self._table.own_id and self.is_leaving):
            return None
        if not self._proofs.signs(claim.node):
            if claim.incarnation > max(held.incarnation, INCARNATION_LIMIT - 1):
                self._counts["refused_incarnation"] += 1
                return None
            if self._is_implausible(claim.node, claim.incarnation, now):
                if claim.node == self._table.own_id:
                    self._note_misinformed(source)
                return None
        if claim.node == self._table.own_id:
            # From any source: others may know the accuser.
            if claim.incarnation >= held.incarnation:
                self._awareness.apply(+1)
                self._refute(claim.incarnation, now, source=source)
            elif source is not None:
                # The source does not know our present incarnation, nor perhaps our present address.
                self._outgoing.send(source, alive(held))
            return None
        if claim.accuser not in self._table:
            self._counts["refused_unknown_accuser"] += 1
            return None
        return held

    def _welcome(
        self, claim: Alive, now: float, *, source: Address | None = None, is_own_word: bool = False
    ) -> None:
        if len(self._table) >= self._config.max_members:
            self._counts["refused_full"] += 1
            return
        is_proven = self._proofs.signs(claim.node) or self._proofs.is_first(claim)
        if claim.incarnation >= INCARNATION_LIMIT and not is_own_word and not is_proven:
            self._counts["refused_incarnation"] += 1
            return
        departed = self._departures.incarnation(claim.node)
        is_old = departed is not None and claim.incarnation <= departed
        if (
            departed is not None
            and is_old
            and not (is_own_word and is_far_below(claim.incarnation, departed))
        ):
            self._refuse_departed(claim, departed, now, is_told=source is not None)
            return
        if not self._is_believed(claim.node, self._proofs.check_alive(claim), now):
            return
        self._departures.forget(claim.node)
        self._believe_alive(claim, now)

    def _refuse_departed(self, claim: Alive, departed: int, now: float, *, is_told: bool) -> None:
        """Refuse a recording, or a member that is back with a counter that its disk has lost: once told, it raises
        it."""
        self._counts["refused_departed"] += 1
        if is_told and self._departures.may_tell(claim.node, now, self._config.probe_interval_s):
            accusation = Dead(claim.node, departed, self._table.own_id)
            self._outgoing.send(claim.address, accusation, is_live=False)

    def _believe_alive(self, claim: Alive, now: float) -> None:
        self.suspicions.pop(claim.node, None)
        self.address_changes.drop(claim.node)
        self.heard_from(claim.node)
        self._hold(
            Member(claim.node, claim.address, MemberState.ALIVE, claim.incarnation, claim.meta, claim.vsn),
            now,
        )
        self._spread(claim)

    def _hold(self, member: Member, now: float) -> None:
        previous = self._table.put(member, now)
        if not self._ceilings.knows(member.node_id):
            self._ceilings.begin(member.node_id, member.incarnation, now)
        if is_live(member) and (previous is None or not is_live(previous)):
            self.newcomers.append(member.node_id)
        if previous is None or _is_change(previous, member):
            self._outgoing.event(MemberChanged(member, None if previous is None else previous.state))

    def _spread(self, broadcast: StateClaim) -> None:
        self._outgoing.broadcasts.put(broadcast.node, encode(broadcast))

    def check_invariants(self) -> None:
        """Assert that suspicions match the states, and that unconfirmed members are live."""
        suspects = {m.node_id for m in self._table if m.state is MemberState.SUSPECT}
        assert suspects == set(self.suspicions)
        assert all(is_live(self._table.view[node_id]) for node_id in self.unconfirmed)
        self.address_changes.check_invariants()


def _speaks_ours(vsn: bytes) -> bool:
    """True if the node understands the protocol that we speak, and requires no delegate protocol of us."""
    protocol_min, protocol_max, _, delegate_min, delegate_max, _ = vsn
    return 0 < protocol_min <= VSN[2] <= protocol_max and delegate_min <= VSN[5] <= delegate_max


def _is_change(previous: Member, member: Member) -> bool:
    """True if the application is to know: a proof alone is none of its business."""
    if (previous.state, previous.address) != (member.state, member.address):
        return True
    return previous.meta != member.meta and without_proof(previous.meta) != without_proof(member.meta)


def _is_sane(member: Member) -> bool:
    return member.incarnation < INCARNATION_LIMIT and _speaks_ours(member.vsn)
