"""The replicated table as one machine: content, pushes, repair and requests over the record channel.

`table.py` knows what, `dissemination.py` who must be told, `exchange.py` when to compare, `requests.py` what was
asked, `carriage.py` how bytes travel. None knows of another; this file passes messages between them.

A peer is *known* (the membership gave its address: its frames are opened), *live* (alive or suspect: it is told and
asked), and in a scope when the application says so (`set_scope_members`); CLUSTER_SCOPE has everybody. That a peer is
dead changes nothing in its logs: they stay until the application drops them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from netgossip.carriage import Carriage, JoinHandler, Received
from netgossip.config import GossipConfig
from netgossip.dissemination import Dissemination
from netgossip.errors import UsageError
from netgossip.exchange import Exchange
from netgossip.presence import Presence
from netgossip.record_wire import (
    NO_VERSION,
    Ack,
    Delta,
    Digest,
    Request,
    Response,
    Same,
    Vector,
    Want,
)
from netgossip.requests import Requests
from netgossip.seal import Keyring
from netgossip.table import Merge, Table
from netgossip.types import (
    CLUSTER_SCOPE,
    Address,
    Entry,
    Event,
    Log,
    NodeId,
    Output,
    RequestReceived,
    ResponseReceived,
    Scope,
    ScopeSynced,
    StreamId,
    Version,
)

LAST_WORDS_PEERS: Final = 3
"""Asked at once about a peer under suspicion. Its last push reached them or they will learn of it as we do."""


class Replication:
    """The record channel's machine, see types.py for the face that it shares with the membership's.

    `rng` must be `random.SystemRandom` outside of tests: session nonces come from it. `expect_peers`: we have been
    in a cluster before, or were told of seeds, so an empty membership at the start means little.
    """

    def __init__(
        self,
        *,
        config: GossipConfig,
        node_id: NodeId,
        boot_epoch: int,
        keyring: Keyring,
        cluster_label: bytes,
        rng: random.Random,
        now: float,
        new_stream_id: Callable[[], StreamId],
        own_logs: Sequence[Log] = (),
        replicas: Sequence[Log] = (),
        join_handler: JoinHandler | None = None,
        expect_peers: bool = False,
    ) -> None:
        self._config = config
        self._node_id = node_id
        self._rng = rng
        self._expect_peers = expect_peers
        self._table = Table(
            node_id=node_id,
            label=cluster_label,
            tombstone_s=config.tombstone_s,
            now=now,
            own_logs=own_logs,
            replicas=replicas,
        )
        self._carriage = Carriage(
            config=config,
            node_id=node_id,
            boot_epoch=boot_epoch,
            keyring=keyring,
            label=cluster_label,
            rng=rng,
            new_stream_id=new_stream_id,
            join_handler=join_handler,
        )
        self._dissemination = Dissemination(config=config)
        self._exchange = Exchange(config=config, rng=rng)
        self._requests = Requests(rng=rng, send=self._carriage.send)
        self._presence = Presence(node_id)
        self._events: list[Event] = []
        self._counts: Counter[str] = Counter()
        self._exchange.enter(CLUSTER_SCOPE, now)
        self._table.hold(CLUSTER_SCOPE)

    # Inputs

    def handle_datagram(self, payload: bytes, source: Address, now: float) -> None:
        """A UDP payload. `source` is not believed: peers are known by their keys."""
        del source
        self._handle_messages(self._carriage.handle_datagram(payload, now), now)

    def accept_stream(self, stream_id: StreamId, peer: Address, now: float) -> None:
        """Somebody dialled us."""
        self._carriage.accept_stream(stream_id, peer, now)

    def handle_stream_data(self, stream_id: StreamId, data: bytes, now: float) -> None:
        """Bytes of a stream, in any cut."""
        self._handle_messages(self._carriage.handle_stream_data(stream_id, data, now), now)

    def handle_stream_end(self, stream_id: StreamId, now: float, error: str | None) -> None:
        """The peer half-closed, or the stream broke."""
        self._carriage.handle_stream_end(stream_id, now, error)

    def handle_deadline(self, now: float) -> None:
        """Do what is due; early and repeated calls do nothing."""
        self._carriage.handle_deadline(now)
        self._push_due(now)
        for peer, scope in self._exchange.take_due(now, self._presence.live_in, self._dissemination.resend_s):
            self._carriage.send(peer, Digest(scope, self._table.fingerprint(scope)))
        self._events += self._requests.handle_deadline(now, self._dissemination.resend_s)
        self._confirm_where_alone(now)

    def next_deadline(self) -> float:
        """When to call `handle_deadline`; ask again after every other call."""
        return min(
            self._carriage.next_deadline(),
            self._dissemination.next_deadline(),
            self._exchange.next_deadline(),
            self._requests.next_deadline(),
        )

    def drain(self) -> Output:
        """Everything that the outside must do now."""
        datagrams, streams = self._carriage.drain()
        events, self._events = self._events, []
        return Output(tuple(datagrams), tuple(streams), tuple(events))

    # Peers and scopes

    def set_peer(
        self, node_id: NodeId, address: Address | None, now: float, *, live: bool, suspect: bool = False
    ) -> None:
        """What the membership holds of a node. Address None: it is forgotten, or has no record port."""
        if node_id == self._node_id:
            return
        self._carriage.set_peer(node_id, address, now)
        if address is None:
            if self._presence.forget_peer(node_id):
                self._dissemination.forget_peer(node_id)
                self._exchange.forget_peer(node_id)
                self._requests.forget_peer(node_id)
            return
        was_live, was_suspect = self._presence.set_peer(node_id, live=live, suspect=suspect)
        if live and not was_live:
            self._carriage.greet(node_id, now)
            for scope in self._shared_with(node_id):
                self._exchange.compare(scope, node_id, now)
        if was_live and not live:
            self._carriage.hush(node_id)
            self._dissemination.reset_peer(node_id)
            self._exchange.forget_peer(node_id)
        if (suspect and not was_suspect) or (was_live and not live):
            self._ask_for_last_words(node_id, now)
        self._confirm_where_alone(now)

    def set_scope_members(self, scope: Scope, node_ids: frozenset[NodeId], now: float) -> None:
        """Who takes part in a scope, the local node among them or not."""
        if scope == CLUSTER_SCOPE:
            raise UsageError("the cluster's scope has all members")
        came, went = self._presence.set_members(scope, node_ids)
        self._dissemination.forget_scope(scope, went)
        for node_id in came:
            if scope in self._table.scopes() and self._presence.is_live(node_id):
                self._exchange.compare(scope, node_id, now)
        self._confirm_where_alone(now)

    def enter_scope(self, scope: Scope, now: float) -> None:
        """Hold others' logs of the scope from now on. ScopeSynced follows, once its members are set as well."""
        if not self._table.holds(scope):
            self._table.hold(scope)
            self._exchange.enter(scope, now)
            for node_id in self._presence.live_in(scope):
                self._exchange.compare(scope, node_id, now)
            self._confirm_where_alone(now)

    def exit_scope(self, scope: Scope, now: float) -> None:
        """Forget others' logs of the scope; our own stays and is told as before."""
        del now
        if scope == CLUSTER_SCOPE:
            raise UsageError("the cluster's scope can't be left")
        self._table.release(scope)
        self._exchange.leave(scope)

    def drop_owner(self, node_id: NodeId, scopes: Iterable[Scope] | None, now: float) -> None:
        """Forget an owner's logs, in some scopes or all. Copies at others don't come back, newer versions do."""
        del now
        self._table.drop(node_id, scopes)

    # Our own records

    def prepare(self, changes: Sequence[tuple[Scope, bytes, bytes | None]]) -> tuple[Entry, ...]:
        """Give the next versions to changes (None deletes). Changes nothing. Raises UsageError."""
        return self._table.prepare(changes)

    def commit(self, entries: tuple[Entry, ...], now: float) -> None:
        """Apply what `prepare` gave, report it as EntriesChanged, tell the hosts in scope. Raises UsageError."""
        for event in self._table.commit(entries, now):
            self._events.append(event)
            self._dissemination.changed(event.scope, self._presence.live_in(event.scope), now)
        self._push_due(now)

    def head(self, scope: Scope) -> int:
        """Sequence of our last change in the scope."""
        return self._table.own_version(scope).sequence

    def unacknowledged(self, scope: Scope) -> frozenset[NodeId]:
        """Live peers in scope that have not acknowledged our head, or whose own head we do not hold yet."""
        ours = self._table.own_version(scope)
        held_of: Callable[[NodeId], Version] = lambda owner: self._table.version(scope, owner)  # noqa: E731
        return self._dissemination.lacking(scope, self._presence.live_in(scope), ours, held_of)

    def own_log(self, scope: Scope) -> Log | None:
        """A copy of our log, None if there was never a change."""
        return self._table.log(scope, self._node_id)

    def logs(self, scope: Scope) -> tuple[Log, ...]:
        """Copies of all logs of the scope, ours among them."""
        return self._table.logs(scope)

    # Requests

    def request(self, peer: NodeId, payload: bytes, now: float, timeout_s: float) -> int:
        """Ask a peer (at most 1,000 bytes). ResponseReceived follows in any case. Raises UsageError."""
        if not self._carriage.knows(peer):
            timeout_s = 0.0
        return self._requests.ask(peer, payload, now, timeout_s)

    def respond(self, event: RequestReceived, payload: bytes, now: float) -> None:
        """Answer a request, at most 1,000 bytes. Raises UsageError."""
        del now
        self._requests.respond(event, payload)

    # What messages do

    def _handle_messages(self, received: list[Received], now: float) -> None:
        for peer in self._carriage.take_admitted():
            # A new start: it may have lost what it had acknowledged.
            self._dissemination.reset_peer(peer)
            if self._presence.is_live(peer):
                for scope in self._shared_with(peer):
                    self._exchange.compare(scope, peer, now)
        for item in received:
            self._handle(item, now)

    def _handle(self, item: Received, now: float) -> None:
        match item.message:
            case Delta():
                self._on_delta(item.sender, item.message, now)
            case Ack():
                self._on_ack(item.sender, item.message, now)
            case Digest():
                self._on_digest(item.sender, item.message)
            case Same():
                self._on_same(item.sender, item.message)
            case Vector():
                self._on_vector(item.sender, item.message, now)
            case Want(scope, rows):
                for owner, since in rows:
                    self._send_delta(item.sender, scope, owner, since, now)
            case Request():
                asked = self._requests.handle_request(item.sender, item.epoch, item.message)
                self._events += [asked] if asked is not None else []
            case Response():
                answered: ResponseReceived | None = self._requests.handle_response(item.sender, item.message)
                self._events += [answered] if answered is not None else []

    def _on_delta(self, sender: NodeId, delta: Delta, now: float) -> None:
        if delta.owner == self._node_id:
            self._hear_of_own(delta.scope, delta.version, None, now)
            return
        result, event = self._table.merge(delta, from_owner=sender == delta.owner)
        self._counts[f"deltas_{result.value}"] += 1
        if event is not None:
            self._events.append(event)
        held = NO_VERSION if result is Merge.DIVERGED else self._table.version(delta.scope, delta.owner)
        if sender == delta.owner:
            holding = self._table.holds(delta.scope)
            self._carriage.send(sender, Ack(delta.scope, holding, held, self._table.own_version(delta.scope)))
            self._dissemination.note(sender, delta.scope, own=delta.version)
        elif result in (Merge.GAP, Merge.DIVERGED):
            self._carriage.send(sender, Want(delta.scope, ((delta.owner, held),)))
        if result is Merge.APPLIED:
            self._report_reached(delta.scope)

    def _on_ack(self, sender: NodeId, ack: Ack, now: float) -> None:
        self._hear_of_own(ack.scope, ack.held, None, now)
        ours = self._table.own_version(ack.scope)
        if self._dissemination.handle_ack(sender, ack, ours, now):
            self._push(sender, ack.scope, ack.held, now)
        elif ack.held == ours:
            self._dissemination.settled(sender, ack.scope)
        if self._table.holds(ack.scope) and self._table.version(ack.scope, sender) < ack.own:
            # Usually its own push is under way; compare only if it does not come.
            self._exchange.compare(ack.scope, sender, now + self._dissemination.resend_s(sender))

    def _on_digest(self, sender: NodeId, digest: Digest) -> None:
        scope = digest.scope
        self._dissemination.note(sender, scope)
        holding = self._table.holds(scope)
        if holding and digest.fingerprint == self._table.fingerprint(scope):
            self._carriage.send(sender, Same(scope, digest.fingerprint))
        else:
            self._carriage.send(sender, Vector(scope, holding, self._table.vector(scope)))

    def _on_same(self, sender: NodeId, same: Same) -> None:
        scope = same.scope
        self._exchange.answered(scope, sender)
        if same.fingerprint != self._table.fingerprint(scope):
            return  # we moved on meanwhile: pushes or the next round will show
        own, theirs = self._table.own_version(scope), self._table.version(scope, sender)
        self._dissemination.note(sender, scope, held=own, own=theirs)
        self._dissemination.settled(sender, scope)
        self._report_synced(scope)

    def _on_vector(self, sender: NodeId, vector: Vector, now: float) -> None:
        scope = vector.scope
        self._exchange.answered(scope, sender)
        rows = {row.owner: row for row in vector.rows}
        mine = rows.pop(self._node_id, None)
        if mine is not None:
            self._hear_of_own(scope, mine.version, mine.digest, now)
        own_of_peer = rows[sender].version if sender in rows else NO_VERSION
        if vector.holding:
            self._dissemination.note(
                sender, scope, held=mine.version if mine is not None else NO_VERSION, own=own_of_peer
            )
        else:
            self._dissemination.note_absent(sender, scope)
        wanted: dict[NodeId, Version] = {}
        if self._table.holds(scope):
            for owner, row in rows.items():
                have = self._table.version(scope, owner)
                diverged = row.version == have and self._table.digest(scope, owner) not in (None, row.digest)
                if row.version > have or (diverged and owner == sender):
                    wanted[owner] = NO_VERSION if diverged else have
        if wanted:
            self._carriage.send(sender, Want(scope, tuple(wanted.items())))
        if vector.holding:
            self._bring_up(sender, vector, now)
            if wanted:
                self._exchange.expect(scope, {owner: rows[owner].version for owner in wanted})
            else:
                self._report_synced(scope)
        self._confirm_where_alone(now)

    def _bring_up(self, peer: NodeId, vector: Vector, now: float) -> None:
        """Send a peer what we hold beyond its vector."""
        theirs = {row.owner: row.version for row in vector.rows}
        for row in self._table.vector(vector.scope):
            since = theirs.get(row.owner, NO_VERSION)
            if since < row.version:
                self._send_delta(peer, vector.scope, row.owner, since, now)

    def _hear_of_own(self, scope: Scope, heard: Version, digest: int | None, now: float) -> None:
        """A peer holds our own log so: jump above a past that we lost."""
        events = self._table.outrun(scope, heard, digest)
        if events:
            self._counts["own_log_raised"] += 1
            self._events += events
            self._dissemination.changed(scope, self._presence.live_in(scope), now)

    # Sending

    def _push_due(self, now: float) -> None:
        for peer, scope, held in self._dissemination.take_due(now):
            self._push(peer, scope, held, now)

    def _push(self, peer: NodeId, scope: Scope, held: Version | None, now: float) -> None:
        """Send a peer our own log from what it holds on; what it holds is guessed if it never said."""
        ours = self._table.own_version(scope)
        if held is not None and held >= ours:
            self._dissemination.settled(peer, scope)
            return
        if self._carriage.is_streaming(peer) and self._dissemination.has_sent(peer, scope, ours):
            return  # a stream takes longer than the wait for an ack
        since = held if held is not None else Version(ours.epoch, max(ours.sequence - 1, 0))
        self._send_delta(peer, scope, self._node_id, since, now)

    def _send_delta(self, peer: NodeId, scope: Scope, owner: NodeId, since: Version, now: float) -> None:
        delta = self._table.delta(scope, owner, since)
        if delta is not None:
            self._carriage.send(peer, delta)
            if owner == self._node_id:
                self._dissemination.sent(peer, scope, since, delta.version, now)

    # Who is where

    def _shared_with(self, node_id: NodeId) -> list[Scope]:
        """Scopes of ours that the peer is in."""
        return sorted(scope for scope in self._table.scopes() if self._presence.is_in(node_id, scope))

    def _ask_for_last_words(self, node_id: NodeId, now: float) -> None:
        for scope in self._shared_with(node_id):
            others = [peer for peer in self._presence.live_in(scope) if peer != node_id]
            for peer in self._rng.sample(others, min(LAST_WORDS_PEERS, len(others))):
                self._exchange.compare(scope, peer, now)

    def _report_synced(self, scope: Scope) -> None:
        if self._exchange.confirm(scope):
            self._events.append(ScopeSynced(scope))

    def _report_reached(self, scope: Scope) -> None:
        if self._exchange.reached(scope, lambda owner: self._table.version(scope, owner)):
            self._events.append(ScopeSynced(scope))

    def _confirm_where_alone(self, now: float) -> None:
        """Scopes in which nobody is left to ask are synced; a grace time for those not heard of yet."""
        for scope, entered_at in self._exchange.unsynced():
            members = self._presence.members_of(scope)
            live = self._presence.live_in(scope)
            if members is None or not all(self._dissemination.is_absent(peer, scope) for peer in live):
                continue
            if scope == CLUSTER_SCOPE:
                unknown = self._expect_peers and not members
            else:
                unknown = not all(map(self._presence.knows, members))
            if not unknown or now >= entered_at + self._config.alone_grace_s:
                self._report_synced(scope)

    def statistics(self) -> dict[str, int | float]:
        """Counters since the start and present sizes."""
        return {
            **self._carriage.counts,
            **self._counts,
            "scopes": len(self._table.scopes()),
            "pushes_pending": self._dissemination.pending(),
        }

    def check_invariants(self) -> None:
        """Raise AssertionError if the state contradicts itself."""
        self._table.check_invariants()
        known = self._presence.members_of(CLUSTER_SCOPE) or frozenset()
        assert self._node_id not in known
        assert all(map(self._carriage.knows, known))
