"""The replicated table as one machine: content, pushes, anti-entropy and requests over the record channel.

`table.py` holds the content, `dissemination.py` decides which peers get a push, `anti_entropy.py` when to compare,
`requests.py` tracks requests, `transport.py` moves bytes. None of them imports another; `handlers.py` passes messages
between them, and this file is their interface to the membership and the application.

A peer is *known* (the membership gave its address: its frames are opened), *live* (alive or suspect: it gets pushes
and comparisons), and in a scope when the application says so (`set_scope_members`); all peers are in CLUSTER_SCOPE.
The death of a peer changes nothing in its logs: they stay until the application drops them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from netgossip.codec.sealing import Keyring
from netgossip.config import GossipConfig
from netgossip.deadlines import NEVER
from netgossip.errors import GossipUsageError
from netgossip.histogram import Histogram
from netgossip.join.identity import Identity
from netgossip.records.accepted_streams import JoinHandler
from netgossip.records.anti_entropy import AntiEntropy
from netgossip.records.dissemination import Dissemination
from netgossip.records.handlers import MessageHandlers
from netgossip.records.peers import Peers
from netgossip.records.proofs import LogProofs
from netgossip.records.requests import Requests
from netgossip.records.table import Table
from netgossip.records.transport import RecordTransport
from netgossip.records.wire import Digest
from netgossip.slices import WorkQueue, at_once
from netgossip.types import (
    CLUSTER_SCOPE,
    Address,
    Entry,
    Event,
    Log,
    NodeId,
    NodeOutput,
    RequestReceived,
    Scope,
    SessionSpeakerHeard,
    StreamId,
    Version,
)

RECHECK_S: Final = 0.05
"""Between two goes of checking proofs of logs from the disk: 2 % of a processor, 160 logs a second."""
LAST_WORDS_PEERS: Final = 3
"""Peers compared with at once when a peer is suspected. Its last push reached them, or they will learn of it as we
do."""


class Replication:
    """The record channel's machine; see types.py for the interface that it shares with the membership's.

    `rng` must be `random.SystemRandom` outside of tests: session nonces come from it. `expect_peers`: we have been in
    a cluster before, or have seeds, so an empty membership at the start means little. `identity`: signs our logs;
    and proves us to peers, with whom it agrees on session keys; None: logs are neither signed nor
    checked, and frames are sealed under the ring key.
    """

    def __init__(
        self,
        *,
        config: GossipConfig,
        node_id: NodeId,
        boot_epoch: int,
        keyring: Keyring,
        cluster_label: bytes,
        identity: Identity | None,
        rng: random.Random,
        now: float,
        new_stream_id: Callable[[], StreamId],
        own_logs: Sequence[Log] = (),
        replicas: Sequence[Log] = (),
        signers: Sequence[NodeId] = (),
        session_speakers: Sequence[NodeId] = (),
        join_handler: JoinHandler | None = None,
        expect_peers: bool = False,
    ) -> None:
        self._config = config
        self._node_id = node_id
        self._rng = rng
        self._table = Table(
            node_id=node_id,
            label=cluster_label,
            tombstone_s=config.tombstone_s,
            now=now,
            proofs=None if identity is None else LogProofs(identity, cluster_label),
            own_logs=own_logs,
            replicas=replicas,
            signers=signers,
        )
        self._works = WorkQueue()
        self._transport = RecordTransport(
            config=config,
            node_id=node_id,
            boot_epoch=boot_epoch,
            keyring=keyring,
            label=cluster_label,
            rng=rng,
            new_stream_id=new_stream_id,
            join_handler=join_handler,
            works=self._works,
            identity=identity,
            session_speakers=session_speakers,
        )
        self._dissemination = Dissemination(config=config)
        self._anti_entropy = AntiEntropy(config=config, rng=rng)
        self._requests = Requests(
            rng=rng, send=lambda peer, message: at_once(self._transport.send(peer, message))
        )
        self._peers = Peers(node_id)
        self._refused: set[NodeId] = set()
        self._events: list[Event] = []
        self._counts: Counter[str] = Counter()
        self._handlers = MessageHandlers(
            config=config,
            node_id=node_id,
            table=self._table,
            transport=self._transport,
            dissemination=self._dissemination,
            anti_entropy=self._anti_entropy,
            requests=self._requests,
            peers=self._peers,
            events=self._events,
            counts=self._counts,
            works=self._works,
            expect_peers=expect_peers,
        )
        self._anti_entropy.enter(CLUSTER_SCOPE, now)
        self._table.hold(CLUSTER_SCOPE)
        self._recheck_at = now + RECHECK_S if self._table.has_unchecked else NEVER

    # Inputs.

    def handle_datagram(self, payload: bytes, source: Address, now: float) -> None:
        """Handle a UDP payload. `source` is not believed: peers are identified by their keys."""
        del source
        self._handlers.handle(self._transport.handle_datagram(payload, now), now)

    def accept_stream(self, stream_id: StreamId, peer: Address, now: float) -> None:
        """Register a stream that a peer opened."""
        self._transport.accept_stream(stream_id, peer, now)

    def handle_stream_data(self, stream_id: StreamId, data: bytes, now: float) -> None:
        """Handle bytes of a stream, split at any position."""
        self._handlers.handle_stream(self._transport.handle_stream_data(stream_id, data, now), now)

    def handle_stream_end(self, stream_id: StreamId, now: float, error: str | None) -> None:
        """Handle the end of a stream: the peer half-closed, or it broke."""
        self._transport.handle_stream_end(stream_id, now, error)

    def handle_deadline(self, now: float) -> None:
        """Do what is due; early and repeated calls do nothing."""
        self._transport.handle_deadline(now)
        self._handlers.push_due(now)
        for peer, scope in self._anti_entropy.take_due(
            now, self._peers.live_in, self._dissemination.resend_s
        ):
            at_once(self._transport.send(peer, Digest(scope, self._table.fingerprint(scope))))
        self._events += self._requests.handle_deadline(now, self._dissemination.resend_s)
        self._handlers.look_for_synced(now)
        if now >= self._recheck_at:
            if wrong := self._table.recheck():
                self._counts["restored_unproven"] += wrong
            self._recheck_at = now + RECHECK_S if self._table.has_unchecked else NEVER

    @property
    def has_pending_work(self) -> bool:
        """True while `run_step` has something to do."""
        return len(self._works) > 0

    def run_step(self) -> None:
        """Continue the work that was too long for one input."""
        self._works.run_step()

    def next_deadline(self) -> float:
        """When to call `handle_deadline`; ask again after every other call."""
        return min(
            self._transport.next_deadline(),
            self._handlers.next_push(),
            self._anti_entropy.next_deadline(),
            self._requests.next_deadline(),
            self._recheck_at,
        )

    def drain(self) -> NodeOutput:
        """Return everything that the driver must do now."""
        self._handlers.conclude()
        datagrams, streams = self._transport.drain()
        events = [*self._events, *map(SessionSpeakerHeard, self._transport.take_new_speakers())]
        self._events.clear()
        return NodeOutput(tuple(datagrams), tuple(streams), tuple(events))

    # Peers and scopes.

    def set_peer(
        self, node_id: NodeId, address: Address | None, now: float, *, live: bool, suspect: bool = False
    ) -> None:
        """Set what the membership holds of a node. Address None: it was removed, or has no record port."""
        if node_id == self._node_id:
            return
        if node_id in self._refused:
            address = None
        has_moved = self._transport.set_peer(node_id, address, now)
        if address is None:
            if self._peers.forget_peer(node_id):
                self._dissemination.forget_peer(node_id)
                self._anti_entropy.forget_peer(node_id)
                self._requests.forget_peer(node_id)
            return
        was_live, was_suspect = self._peers.set_peer(node_id, live=live, suspect=suspect)
        if live and not was_live:
            self._transport.begin_handshake(node_id, now)
        if live and (has_moved or not was_live):
            # Messages sent to the address that it left are lost, and so are those it sent from there.
            for scope in self._handlers.scopes_between(node_id):
                self._anti_entropy.compare(scope, node_id, now)
        if was_live and not live:
            self._transport.stop_handshake(node_id)
            self._dissemination.reset_peer(node_id)
            self._anti_entropy.forget_peer(node_id)
        if (suspect and not was_suspect) or (was_live and not live):
            self._ask_for_last_words(node_id, now)
        self._handlers.look_for_synced(now)

    def refuse_peer(self, node_id: NodeId, now: float) -> None:
        """End the session with a node for good: its frames are refused and counted, nothing is sent to it. What it
        wrote stays, and comes from others as before."""
        self._refused.add(node_id)
        self._transport.refuse(node_id, refused=True)
        self.set_peer(node_id, None, now, live=False)

    def readmit_peer(self, node_id: NodeId) -> None:
        """Refuse the node no longer; the membership must introduce it anew."""
        self._refused.discard(node_id)
        self._transport.refuse(node_id, refused=False)

    def set_scope_members(self, scope: Scope, node_ids: frozenset[NodeId], now: float) -> None:
        """Set which nodes take part in a scope; the local node may be among them."""
        if scope == CLUSTER_SCOPE:
            raise GossipUsageError("the cluster's scope has all members")
        came, went = self._peers.set_members(scope, node_ids)
        self._dissemination.forget_scope(scope, went)
        for node_id in came:
            if scope in self._table.scopes() and self._peers.is_live(node_id):
                self._anti_entropy.compare(scope, node_id, now)
        self._handlers.look_for_synced(now)

    def enter_scope(self, scope: Scope, now: float) -> None:
        """Hold others' logs of the scope from now on. ScopeSynced follows, once its members are set as well."""
        if not self._table.holds(scope):
            self._table.hold(scope)
            self._anti_entropy.enter(scope, now)
            for node_id in self._peers.live_in(scope):
                self._anti_entropy.compare(scope, node_id, now)
            self._handlers.look_for_synced(now)

    def exit_scope(self, scope: Scope) -> None:
        """Drop others' logs of the scope; our own stays and is replicated as before."""
        if scope == CLUSTER_SCOPE:
            raise GossipUsageError("the cluster's scope can't be left")
        self._table.release(scope)
        self._anti_entropy.leave(scope)

    def drop_owner(self, node_id: NodeId) -> None:
        """Drop an owner's logs. Copies that others hold don't come back, newer versions do."""
        self._table.drop(node_id)

    def readmit_owner(self, node_id: NodeId) -> None:
        """Let copies of an owner's dropped logs come back."""
        self._table.readmit(node_id)

    def scopes_of(self, node_id: NodeId) -> frozenset[Scope]:
        """Scopes in which we hold a log of the owner."""
        return self._table.scopes_of(node_id)

    def is_signer(self, node_id: NodeId) -> bool:
        """True if what this node believes of the other's records is what that one signed."""
        return self._table.is_signer(node_id)

    def require_proofs(self, *, required: bool) -> None:
        """Take only logs that their owners signed; or those of owners that never signed as well."""
        self._table.required = required

    # Our own records.

    def prepare(self, changes: Sequence[tuple[Scope, bytes, bytes | None]]) -> tuple[Entry, ...]:
        """Assign the next versions to changes (None deletes). Changes no state. Raises GossipUsageError."""
        return self._table.prepare(changes)

    def commit(self, entries: tuple[Entry, ...], now: float) -> None:
        """Apply what `prepare` returned, report it as EntriesChanged, push to the hosts in scope. Raises
        GossipUsageError."""
        for event in self._table.commit(entries, now):
            self._events.append(event)
            peers = self._peers.live_in(event.scope)
            self._dissemination.changed(event.scope, peers, now)
            version = self._table.own_version(event.scope)
            self._dissemination.propagation.begin(event.scope, version, peers, now)
        self._handlers.push_due(now)

    def rewrites(
        self, now: float, may_rewrite: Callable[[Scope, bytes], bool]
    ) -> tuple[tuple[Scope, bytes, bytes], ...]:
        """Return rewrites of unchanged entries that let many tombstones be dropped from logs of ours that are quiet:
        publish them. At most one per log, of a key that `may_rewrite` allows."""
        return self._table.rewrites(now, may_rewrite)

    def own_scopes(self) -> frozenset[Scope]:
        """The scopes in which we have a log of our own."""
        return self._table.own_scopes()

    def is_only_reported(self, scope: Scope) -> bool:
        """True for a log of ours in which we never wrote: it exists only because a peer reported that it
        holds one."""
        return self._table.is_only_reported(scope)

    def drop_own_log(self, scope: Scope) -> None:
        """Drop our own log of a scope that was left and that no node enters again. Raises GossipUsageError."""
        if self._table.holds(scope):
            raise GossipUsageError(f"scope {scope.hex()} has not been left")
        self._table.drop_own(scope)
        self._anti_entropy.leave(scope)
        self._dissemination.drop_scope(scope)
        self._peers.drop_scope(scope)

    def head(self, scope: Scope) -> int:
        """Sequence of our last change in the scope."""
        return self._table.own_version(scope).sequence

    def unacknowledged(self, scope: Scope) -> frozenset[NodeId]:
        """Live peers in the scope that have not acknowledged our head, or whose own head we do not hold yet."""
        ours = self._table.own_version(scope)
        held_of: Callable[[NodeId], Version] = lambda owner: self._table.version(scope, owner)  # noqa: E731
        return self._dissemination.lacking(scope, self._peers.live_in(scope), ours, held_of)

    def catch_up(self, scope: Scope, now: float) -> None:
        """Begin to find out what live peers hold of the scope, by any owner, and this node does not; see `ahead`."""
        self._anti_entropy.catch_up(scope, self._peers.live_in(scope), now)

    def ahead(self, scope: Scope) -> frozenset[NodeId]:
        """Live peers of which we don't know yet whether we hold all that they held when we began to `catch_up`."""
        confirmed = self._anti_entropy.confirmed(scope)
        return frozenset(peer for peer in self._peers.live_in(scope) if peer not in confirmed)

    def caught_up(self, scope: Scope) -> None:
        """Stop tracking `ahead`."""
        self._anti_entropy.caught_up(scope)

    def own_log(self, scope: Scope) -> Log | None:
        """A copy of our log; None if there was never a change."""
        return self._table.log(scope, self._node_id)

    def outline(self, scope: Scope) -> dict[NodeId, tuple[Version, int]]:
        """The version and number of entries of every log of the scope."""
        return self._table.outline(scope)

    @property
    def propagation(self) -> Histogram:
        """How long changes of our logs take until all live peers in their scope have acknowledged them."""
        return self._dissemination.propagation.lags

    def known_scopes(self) -> frozenset[Scope]:
        """The scopes that are held, and those in which we have a log of our own."""
        return self._table.scopes()

    def size(self, scope: Scope) -> tuple[int, int]:
        """The number of records that we hold of the scope, and their bytes."""
        return self._table.size(scope)

    def log(self, scope: Scope, owner: NodeId) -> Log | None:
        """A copy of one log; None when we do not hold it."""
        return self._table.log(scope, owner)

    def logs(self, scope: Scope) -> tuple[Log, ...]:
        """Copies of all logs of the scope, ours among them."""
        return self._table.logs(scope)

    # Requests.

    def request(self, peer: NodeId, payload: bytes, now: float, timeout_s: float) -> int:
        """Send a request to a peer (at most 1,000 bytes). ResponseReceived follows in any case. Raises
        GossipUsageError."""
        if not self._transport.knows(peer):
            timeout_s = 0.0
        return self._requests.ask(peer, payload, now, timeout_s)

    def respond(self, event: RequestReceived, payload: bytes) -> None:
        """Answer a request, at most 1,000 bytes. Raises GossipUsageError."""
        self._requests.respond(event, payload)

    # Peers.

    def _ask_for_last_words(self, node_id: NodeId, now: float) -> None:
        for scope in self._handlers.shared_with(node_id):
            others = [peer for peer in self._peers.live_in(scope) if peer != node_id]
            for peer in self._rng.sample(others, min(LAST_WORDS_PEERS, len(others))):
                self._anti_entropy.compare(scope, peer, now)

    def statistics(self) -> dict[str, int | float]:
        """Counters since the start and present sizes."""
        return {
            **self._transport.counts,
            **self._counts,
            "scopes": len(self._table.scopes()),
            "pushes_pending": self._dissemination.pending(),
            "standings": len(self._dissemination),
            "dropped_backlog": self._transport.counts["dropped_backlog"],
        }

    def check_invariants(self) -> None:
        """Raise AssertionError if the state contradicts itself."""
        self._table.check_invariants()
        self._transport.check_invariants()
        self._anti_entropy.check_invariants()
        self._dissemination.check_invariants()
        known = self._peers.members_of(CLUSTER_SCOPE) or frozenset()
        assert self._node_id not in known
        assert all(map(self._transport.knows, known))
