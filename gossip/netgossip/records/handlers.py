"""What each message of the record channel does: to the table, to the peer's progress, and what is answered.

Content is merged by its version, whichever peer sends it and however often. What a message says of its sender (how
much it holds, whether it takes part) is believed for scopes that concern us and for no others, so that a peer which
invents scopes makes nothing grow.

A scope is reported synced when every live peer in it has confirmed (anti_entropy.py), or has said that it takes no
part and given us its own log. This is checked once per drain, because thousands of members may come with one input.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from netgossip.config import GossipConfig
from netgossip.deadlines import NEVER
from netgossip.records.accepted_streams import Arrived
from netgossip.records.anti_entropy import AntiEntropy
from netgossip.records.dissemination import Dissemination
from netgossip.records.merge import EPOCH_LIMIT, Merge
from netgossip.records.peers import Peers
from netgossip.records.requests import Requests
from netgossip.records.table import Table
from netgossip.records.transport import Received, RecordTransport
from netgossip.records.wire import (
    NO_VERSION,
    Delta,
    DeltaAck,
    Digest,
    Fetch,
    Request,
    Response,
    Row,
    Same,
    Vector,
)
from netgossip.slices import ENTRIES_PER_SLICE, ROWS_PER_SLICE, Slices, WorkQueue, at_once
from netgossip.types import (
    CLUSTER_SCOPE,
    Event,
    NodeId,
    ResponseReceived,
    Scope,
    ScopeSynced,
    UnprovenLogHeard,
    Version,
)

PUSHES_PER_SLICE: Final = 32
"""Bound of peers that a change of ours is sent to in one slice; beyond it: the others wait in the same order. Up to 1
ms."""
LOGS_AT_ONCE: Final = 32
"""Bound of logs of others sent unasked to a peer that lacks them; beyond it: the peer pulls them, from one peer of a
scope at a time."""
UNPROVEN_LIMIT: Final = 64
"""Bound of owners in whose name unproven records came that are reported within a minute; beyond it: further ones are
only counted. A member can invent owners, each with a key of its own."""
UNPROVEN_EVERY_S: Final = 60.0
NEWS_IN_DATAGRAMS: Final = 32
"""Changes that go in datagrams, which may be lost. More than these may go over a stream, and would be sent twice if
asked for again."""


@dataclass(slots=True)
class _LogDifference:
    """The differences between a peer's vector and our logs, without our own log."""

    mine: Row | None = None
    """What the peer holds of our own log."""
    own: Version = NO_VERSION
    """How far the peer's own log goes."""
    news: int = 0
    """Upper bound of the changes that one of the two sides lacks; a high number where that is unknown. A side that
    takes no part lacks nothing but its own log."""
    wanted: dict[NodeId, Version] = field(default_factory=dict)
    """Logs that the peer holds further than we do, and from where on we need each."""
    targets: dict[NodeId, Version] = field(default_factory=dict)
    """The same logs, as far as the peer has them."""
    lacked: list[tuple[NodeId, Version]] = field(default_factory=list)
    """Logs that we hold further than the peer does, and what it has of each."""


class MessageHandlers:
    """Passes messages between the parts of replication. Appends to `events` and counts in `counts`."""

    def __init__(
        self,
        *,
        config: GossipConfig,
        node_id: NodeId,
        table: Table,
        transport: RecordTransport,
        dissemination: Dissemination,
        anti_entropy: AntiEntropy,
        requests: Requests,
        peers: Peers,
        events: list[Event],
        counts: Counter[str],
        works: WorkQueue,
        expect_peers: bool,
    ) -> None:
        self._config = config
        self._node_id = node_id
        self._table = table
        self._transport = transport
        self._dissemination = dissemination
        self._anti_entropy = anti_entropy
        self._requests = requests
        self._peers = peers
        self._events = events
        self._counts = counts
        self._works = works
        self._expect_peers = expect_peers
        self._look_at: float | None = None
        """The time of the last input after which a scope may have become synced."""
        self._is_pushing = False
        self._unproven: dict[NodeId, float] = {}
        """Owners in whose name unproven records came within the last minute, and when that was reported."""
        self._written = 0
        """Entries sent in the current slice so far."""

    def handle(self, received: list[Received], now: float) -> None:
        """Handle the messages of one datagram."""
        for peer in self._transport.take_admitted():
            # The peer has restarted: it may have lost what it had acknowledged.
            self._dissemination.reset_peer(peer)
            if self._peers.is_live(peer):
                for scope in self.scopes_between(peer):
                    self._anti_entropy.compare(scope, peer, now)
        if received:
            self._works.begin(self._handling(received, now))

    def handle_stream(self, arrived: list[Arrived], now: float) -> None:
        """Handle the messages of a stream, after all that came on streams before."""
        if arrived:
            self._works.queue(self._handling_stream(arrived, now))

    def _handling_stream(self, arrived: list[Arrived], now: float) -> Slices[None]:
        for one in arrived:
            received = yield from self._transport.parse(one, now)
            yield from self._handling(received, now)
            self._transport.finish(one)
            yield

    def _handling(self, received: list[Received], now: float) -> Slices[None]:
        for item in received:
            if not self._transport.knows(item.sender):
                return  # removed since
            match item.message:
                case Delta():
                    yield from self._taking_delta(item, item.message, now)
                case DeltaAck():
                    yield from self._taking_ack(item.sender, item.message, now)
                case Digest():
                    yield from self._taking_digest(item, item.message, now)
                case Same():
                    self._on_same(item.sender, item.message, now)
                case Vector():
                    yield from self._taking_vector(item.sender, item.message, now)
                case Fetch(scope, rows):
                    for owner, since in rows:
                        yield from self._sending_delta(item.sender, scope, owner, since, now)
                case Request():
                    asked = self._requests.handle_request(item.sender, item.epoch, item.message)
                    self._events += [asked] if asked is not None else []
                case Response():
                    answered: ResponseReceived | None = self._requests.handle_response(
                        item.sender, item.message
                    )
                    self._events += [answered] if answered is not None else []

    def _taking_delta(self, item: Received, delta: Delta, now: float) -> Slices[None]:
        sender = item.sender
        if delta.owner == self._node_id:
            self._taking_own_log(item, delta, now)
            return
        # A frame that is not of the owner's present start may be a recording, and does not correct what we hold.
        from_owner = sender == delta.owner and item.fresh
        result, event = yield from self._table.merge(delta, from_owner=from_owner)
        self._counts[f"deltas_{result.value}"] += 1
        if result in (Merge.UNSIGNED, Merge.FORGED):
            # Not answered: the owner has not sent it, whomever the frame names, and an answer would go to the owner.
            self._counts[f"refused_log_{result.value}"] += 1
            self._report_unproven(delta.owner, sender, now)
            return
        if event is not None:
            self._events.append(event)
        if self._transport.may_answer(item, now):
            self._answer_delta(sender, delta, result)
        if result in (Merge.APPLIED, Merge.KNOWN):
            held = self._table.version(delta.scope, delta.owner)
            self._anti_entropy.note_pulled(delta.scope, delta.owner, held, now)
        if result is Merge.APPLIED:
            self._anti_entropy.reached(delta.scope, lambda owner: self._table.version(delta.scope, owner))
            self.look_for_synced(now)
            owner = delta.owner
            if owner != sender and self._peers.is_live(owner) and not self._peers.is_in(owner, delta.scope):
                self._anti_entropy.compare(
                    delta.scope, owner, now
                )  # the peer may not know any more that it said so

    def _taking_own_log(self, item: Received, delta: Delta, now: float) -> None:
        """Handle our own log, as a peer relays it. A delta counts without a proof of its sender, who may be any
        member: if its version is one that we have lost, the peer says so once more when it is asked."""
        scope = delta.scope
        if not self._table.concerns(scope) or self._table.is_only_reported(scope):
            self._handle_own_version(item.sender, scope, delta.version, None, now)
        elif delta.version > self._table.own_version(scope) and self._transport.may_answer(item, now):
            self._anti_entropy.compare(scope, item.sender, now)

    def _report_unproven(self, owner: NodeId, sender: NodeId, now: float) -> None:
        # In the order of the reports, so those that are over come first.
        while self._unproven and next(iter(self._unproven.values())) + UNPROVEN_EVERY_S <= now:
            del self._unproven[next(iter(self._unproven))]
        if owner not in self._unproven and len(self._unproven) < UNPROVEN_LIMIT:
            self._unproven[owner] = now
            self._events.append(UnprovenLogHeard(owner, sender))

    def _answer_delta(self, sender: NodeId, delta: Delta, result: Merge) -> None:
        held = self._table.version(delta.scope, delta.owner)
        if result is Merge.GAP:
            held = self._table.base(delta.scope, delta.owner)
        elif result is Merge.DIVERGED:
            held = NO_VERSION
        if sender == delta.owner:
            holding = self._table.holds(delta.scope)
            at_once(
                self._transport.send(
                    sender, DeltaAck(delta.scope, holding, held, self._table.own_version(delta.scope))
                )
            )
            if self._table.concerns(delta.scope) and self._transport.knows(sender):
                self._dissemination.note(sender, delta.scope, own=delta.version)
        elif result in (Merge.GAP, Merge.DIVERGED):
            at_once(self._transport.send(sender, Fetch(delta.scope, ((delta.owner, held),))))

    def _taking_ack(self, sender: NodeId, ack: DeltaAck, now: float) -> Slices[None]:
        # Also for a scope that we know nothing of: we may have been in it after the backup that we were restored
        # from.
        self._handle_own_version(sender, ack.scope, ack.held, None, now)
        if not self._table.concerns(ack.scope):
            return
        ours = self._table.own_version(ack.scope)
        if self._dissemination.handle_ack(sender, ack, ours, now):
            yield from self._pushing(sender, ack.scope, ack.held, now)
        elif ack.held == ours:
            self._dissemination.settled(sender, ack.scope)
        if self._table.holds(ack.scope) and self._table.version(ack.scope, sender) < ack.own:
            # Usually its own push is under way; compare only if that does not come.
            self._anti_entropy.compare(ack.scope, sender, now + self._dissemination.resend_s(sender))

    def _taking_digest(self, item: Received, digest: Digest, now: float) -> Slices[None]:
        if not self._transport.may_answer(item, now):
            return
        sender, scope = item.sender, digest.scope
        if self._table.concerns(scope):
            if self._dissemination.is_absent(sender, scope) and self._anti_entropy.is_awaited(scope):
                self._anti_entropy.compare(scope, sender, now)  # the peer has entered since it said so
            self._dissemination.note(sender, scope)
        holding = self._table.holds(scope)
        if self._anti_entropy.pull_of(scope, now) is not None:
            return  # the peer asks again; by then we may have what it has, and it need not send us its logs
        if holding and digest.fingerprint == self._table.fingerprint(scope):
            yield from self._transport.send(sender, Same(scope, digest.fingerprint))
        else:
            rows = yield from self._table.vector(scope)
            yield from self._transport.send(sender, Vector(scope, self._table.holds(scope), rows))
            if self._anti_entropy.is_awaited(scope) and self._anti_entropy.ask_again(scope, sender):
                # When we asked the peer, it may not have known us yet.
                yield from self._transport.send(sender, Digest(scope, self._table.fingerprint(scope)))

    def _on_same(self, sender: NodeId, same: Same, now: float) -> None:
        scope = same.scope
        self._anti_entropy.answered(scope, sender)
        if not self._table.concerns(scope):
            return
        if same.fingerprint != self._table.fingerprint(scope):
            # Our log advanced meanwhile: pushes or the next round will tell. A scope that is waited for can't wait
            # for them.
            if self._anti_entropy.is_awaited(scope):
                self._anti_entropy.compare(scope, sender, now)
            return
        own, theirs = self._table.own_version(scope), self._table.version(scope, sender)
        self._dissemination.note(sender, scope, held=own, own=theirs)
        self._dissemination.propagation.handle_held(scope, sender, own, now)
        self._dissemination.settled(sender, scope)
        self._anti_entropy.confirm(scope, sender)
        self.look_for_synced(now)
        if theirs > NO_VERSION and self._table.lacks_proof(scope, sender):
            # We took the log when its owner signed nothing, or from a peer that relays no proofs. If the owner signs
            # now, it answers with the proof of what we hold, else not at all.
            at_once(self._transport.send(sender, Fetch(scope, ((sender, theirs),))))

    def _taking_vector(self, sender: NodeId, vector: Vector, now: float) -> Slices[None]:
        scope = vector.scope
        is_repeated = self._anti_entropy.is_repeated(scope, sender)
        before = self._table.fingerprint(scope)
        found = yield from self._comparing(sender, vector)
        if not self._transport.knows(sender):
            return  # removed since
        is_reminded = not vector.holding and self._remind(sender, scope, found.own)
        if is_reminded or 0 < found.news <= NEWS_IN_DATAGRAMS:
            self._anti_entropy.answered_with_news(scope, sender)
        else:
            self._anti_entropy.answered(scope, sender)
        if found.mine is not None:
            self._handle_own_version(sender, scope, found.mine.version, found.mine.digest, now)
        if not self._table.concerns(scope):
            return
        held = NO_VERSION if found.mine is None else found.mine.version
        if vector.holding:
            self._dissemination.note(sender, scope, held=held, own=found.own)
            self._dissemination.propagation.handle_held(scope, sender, held, now)
        else:
            self._dissemination.note_absent(sender, scope, own=found.own)
        if self._table.holds(scope):
            yield from self._asking_for(sender, scope, found, now)
        else:
            found.targets.clear()
        if vector.holding:
            self._expect(sender, scope, found.targets, has_moved=self._table.fingerprint(scope) != before)
        self.look_for_synced(now)
        if vector.holding:
            if held < self._table.own_version(scope):
                yield from self._sending_delta(sender, scope, self._node_id, held, now)
            is_early = found.news <= NEWS_IN_DATAGRAMS and not is_repeated
            yield from self._relaying(sender, scope, found.lacked, now, is_early=is_early)

    def _expect(self, peer: NodeId, scope: Scope, targets: dict[NodeId, Version], *, has_moved: bool) -> None:
        """Let the peer confirm the scope once we hold `targets`; `has_moved`: some may have come between two
        slices."""
        if targets:
            self._anti_entropy.expect(scope, peer, targets)
            if has_moved:
                self._anti_entropy.reached(scope, lambda owner: self._table.version(scope, owner))
        else:
            self._anti_entropy.confirm(scope, peer)

    def _comparing(self, sender: NodeId, vector: Vector) -> Slices[_LogDifference]:
        """Compare each log that either side holds."""
        found = _LogDifference()
        rows: dict[NodeId, Row] = {}
        for number, row in enumerate(vector.rows, 1):
            rows[row.owner] = row
            if number % ROWS_PER_SLICE == 0:
                yield
        found.mine = rows.get(self._node_id)
        found.own = rows[sender].version if sender in rows else NO_VERSION
        ours = self._table.owners(vector.scope) if vector.holding else ()
        ours_alone = (owner for owner in ours if owner not in rows)
        for number, owner in enumerate(itertools.chain(rows, ours_alone), 1):
            self._compare_one(sender, vector, owner, rows.get(owner), found)
            if number % ROWS_PER_SLICE == 0:
                yield
        return found

    def _compare_one(
        self, sender: NodeId, vector: Vector, owner: NodeId, row: Row | None, found: _LogDifference
    ) -> None:
        have = self._table.version(vector.scope, owner)
        has = NO_VERSION if row is None else row.version
        is_one_past = have.epoch == has.epoch or NO_VERSION in (have, has)
        found.news += abs(have.sequence - has.sequence) if is_one_past else NEWS_IN_DATAGRAMS + 1
        if owner == self._node_id:
            return
        if row is not None and (base := self._needed(sender, vector.scope, row)) is not None:
            found.wanted[owner], found.targets[owner] = base, has
        if has < self._table.base(vector.scope, owner):
            found.lacked.append((owner, has))

    def _needed(self, sender: NodeId, scope: Scope, row: Row) -> Version | None:
        """Return from where on we need a log that a peer holds; None if we have all of it."""
        owner, have = row.owner, self._table.version(scope, row.owner)
        if row.version.epoch >= EPOCH_LIMIT and owner != sender:
            return None  # believed only of the owner itself
        if row.version > have:
            return self._table.base(scope, owner)
        digest = self._table.digest(scope, owner)
        if row.version < have or digest is None:
            return None
        # Two contents of one version: the owner's prevails, and without it the one that table.merge takes.
        is_theirs = row.digest != digest if owner == sender else row.digest > digest
        return NO_VERSION if is_theirs else None

    def _asking_for(self, peer: NodeId, scope: Scope, found: _LogDifference, now: float) -> Slices[None]:
        """Fetch these logs from the peer, except for those that another peer is sending."""
        wanted = found.wanted
        pull = self._anti_entropy.pull_of(scope, now)
        if pull is not None:
            wanted = {}
            for number, (owner, base) in enumerate(found.wanted.items(), 1):
                if pull.wanted.get(owner, NO_VERSION) < found.targets[owner]:
                    wanted[owner] = base
                if number % ROWS_PER_SLICE == 0:
                    yield
        elif len(wanted) > LOGS_AT_ONCE:
            self._anti_entropy.begin_pull(scope, peer, found.targets, now)
        if wanted:
            yield from self._transport.send(peer, Fetch(scope, tuple(wanted.items())))

    def _remind(self, sender: NodeId, scope: Scope, own: Version) -> bool:
        """If a peer that takes no part holds less of its own log than we do, it was restored from a backup: send it
        an ack that says how far its log went, so that it continues above that."""
        held = self._table.base(scope, sender)
        if held <= own:
            return False
        ours = self._table.own_version(scope)
        at_once(self._transport.send(sender, DeltaAck(scope, self._table.holds(scope), held, ours)))
        return True

    def _relaying(
        self,
        peer: NodeId,
        scope: Scope,
        lacked: list[tuple[NodeId, Version]],
        now: float,
        *,
        is_early: bool,
    ) -> Slices[None]:
        """Send a peer what we hold of others' logs beyond its vector: not so many that the peer should rather pull
        them from one of us, and while `is_early` none of live owners: their own pushes are under way, and the
        comparison is repeated if those are lost."""
        if len(lacked) <= LOGS_AT_ONCE:
            for owner, since in lacked:
                if not (is_early and self._peers.is_live(owner)):
                    yield from self._sending_delta(peer, scope, owner, since, now)

    def _handle_own_version(
        self, sender: NodeId, scope: Scope, heard: Version, digest: int | None, now: float
    ) -> None:
        """Handle a peer's version of our own log: raise our log above a history that we lost."""
        events = self._table.raise_above(scope, heard, digest, reporter=sender)
        if events:
            self._counts["own_log_raised"] += 1
            self._events += events
            self._dissemination.changed(scope, self._peers.live_in(scope), now)

    # Sending.

    def push_due(self, now: float) -> None:
        """Push our own changes to the next few peers that are due, unless a push is running."""
        if not self._is_pushing and (due := self._dissemination.take_due(now, PUSHES_PER_SLICE)):
            self._is_pushing = True
            self._works.begin(self._pushing_due(due, now))

    def next_push(self) -> float:
        """When `push_due` has something to do."""
        return NEVER if self._is_pushing else self._dissemination.next_deadline()

    def _pushing_due(self, due: list[tuple[NodeId, Scope, Version | None]], now: float) -> Slices[None]:
        try:
            for peer, scope, held in due:
                if self._transport.knows(peer) and self._table.concerns(scope):
                    yield from self._pushing(peer, scope, held, now)
        finally:
            self._is_pushing = False

    def _pushing(self, peer: NodeId, scope: Scope, held: Version | None, now: float) -> Slices[None]:
        """Send a peer our own log from what it holds on; if it never said what it holds, guess."""
        ours = self._table.own_version(scope)
        if held is not None and held >= ours:
            self._dissemination.settled(peer, scope)
            return
        if self._transport.is_streaming(peer) and self._dissemination.has_sent(peer, scope, ours):
            return  # a stream takes longer than the wait for an ack
        since = held if held is not None else Version(ours.epoch, max(ours.sequence - 1, 0))
        yield from self._sending_delta(peer, scope, self._node_id, since, now)

    def _sending_delta(
        self, peer: NodeId, scope: Scope, owner: NodeId, since: Version, now: float
    ) -> Slices[None]:
        written = 1  # a delta without entries counts as well: a peer may ask for thousands
        if self._transport.has_room(peer):  # else: sent later, by the next comparison
            # A peer that has all of it, and asks all the same, lacks the proof.
            delta = self._table.delta(scope, owner, since) or self._table.proof(scope, owner, since)
            if delta is not None:
                if owner == self._node_id and since < delta.version:
                    self._dissemination.sent(peer, scope, since, delta.version, now)
                yield from self._transport.send(peer, delta)
                self._counts["deltas_sent"] += 1
                written = max(len(delta.entries), 1)
        self._written += written
        if self._written >= ENTRIES_PER_SLICE:
            self._written = 0
            yield

    # Peers and scopes.

    def shared_with(self, node_id: NodeId) -> list[Scope]:
        """The scopes of ours that the peer is in."""
        return sorted(scope for scope in self._table.scopes() if self._peers.is_in(node_id, scope))

    def scopes_between(self, node_id: NodeId) -> list[Scope]:
        """Those, and scopes of which we hold a log of the peer: it takes no part any more, or never knew that it did,
        because it was restored from an earlier backup. Then it must learn of that log to continue above it."""
        return sorted({*self.shared_with(node_id), *self._table.scopes_of(node_id)})

    def look_for_synced(self, now: float) -> None:
        """Check at the next `conclude` which scopes are synced now, because something has changed."""
        self._look_at = now

    def conclude(self) -> None:
        """Report the scopes that became synced."""
        now, self._look_at = self._look_at, None
        if now is None:
            return
        for scope, entered_at, confirmed in self._anti_entropy.unsynced():
            if self._is_synced(scope, confirmed, is_patient=now < entered_at + self._config.alone_grace_s):
                self._anti_entropy.synced(scope)
                self._events.append(ScopeSynced(scope))

    def _is_synced(self, scope: Scope, confirmed: frozenset[NodeId], *, is_patient: bool) -> bool:
        members = self._peers.members_of(scope)
        if members is None:
            return False
        if confirmed and not is_patient:
            return True
        for peer in self._peers.live_in(scope):
            if peer not in confirmed and not self._is_out(peer, scope):
                return False
        if confirmed or not is_patient:
            return True
        if scope == CLUSTER_SCOPE:
            return bool(members) or not self._expect_peers
        return all(map(self._peers.knows, members))

    def _is_out(self, peer: NodeId, scope: Scope) -> bool:
        """True when the peer takes no part, and we hold the log that it left there."""
        own = self._dissemination.own_of(peer, scope)
        return self._dissemination.is_absent(peer, scope) and self._table.version(scope, peer) >= own
