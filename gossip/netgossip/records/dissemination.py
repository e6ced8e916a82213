"""Dissemination: push our own changes to the peers in a scope, each by one acknowledged datagram.

For each scope and peer we keep its progress: what the peer has acknowledged of our log, how far its own log goes,
and whether it takes part at all. A change makes every live peer in the scope due. A peer that is due gets the delta
from what it acknowledged last; without an ack it gets it again after max(resend_min_s, three round trips), three
times, and then once per digest interval as long as it is live: anti-entropy is usually faster.

An ack says what the peer holds, not what it received. So an ack that lags is a request at the same time, and loss,
reordering and restarts need no special handling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from netgossip.config import GossipConfig
from netgossip.deadlines import DeadlineHeap
from netgossip.records.propagation import Propagation
from netgossip.records.wire import NO_VERSION, DeltaAck
from netgossip.types import NodeId, Scope, Version

QUICK_TRIES: Final = 4
"""The first push and three repetitions. With 5 % loss each way one in 10,000 pushes is left to the repair."""

RTT_SMOOTHING: Final = 0.125
"""Weight of a new sample, as in TCP (RFC 6298)."""

LONGEST_RTT_S: Final = 0.2
"""A longer sample comes from a peer that stood still or from lost datagrams, not from the path. We wait for an ack
three times as long, so the next change measures a path of up to 600 ms. A larger bound makes repairs under loss slow:
16 s at 40 %."""


class _PeerProgress:
    __slots__ = ("began_at", "held", "holding", "own", "sent", "tries")

    def __init__(self) -> None:
        self.held: Version | None = None
        """What the peer holds of our log; None until it said so."""
        self.own: Version | None = None
        """How far the peer's own log goes; None until it said so."""
        self.holding = True
        self.tries = 0
        self.sent: tuple[Version, Version] | None = None
        """(from, to) of the last push."""
        self.began_at = 0.0
        """When it was sent for the first time."""


class Dissemination:
    """Which peers must get which changes, and which have acknowledged them. Holds no content."""

    def __init__(self, *, config: GossipConfig) -> None:
        self._config = config
        self._progress_of: dict[Scope, dict[NodeId, _PeerProgress]] = {}
        self._deadlines: DeadlineHeap[tuple[Scope, NodeId]] = DeadlineHeap()
        self._rtts: dict[NodeId, float] = {}
        self.propagation = Propagation()

    def resend_s(self, peer: NodeId) -> float:
        """How long to wait for an answer of `peer` before asking again."""
        return max(self._config.resend_min_s, 3 * self._rtts.get(peer, 0.0))

    def changed(self, scope: Scope, peers: Iterable[NodeId], now: float) -> None:
        """Note that our log of the scope has advanced: push to these peers."""
        for peer in peers:
            self._progress(scope, peer).tries = 0
            self._deadlines.set((scope, peer), now)

    def take_due(self, now: float, most: int) -> list[tuple[NodeId, Scope, Version | None]]:
        """Return the peers to push to now, and what each holds of our log (None: unknown). Each is planned again, so
        take no more than can be sent now: what is planned before it was sent is sent twice. The others stay due."""
        due: list[tuple[NodeId, Scope, Version | None]] = []
        while len(due) < most and (place := self._deadlines.pop_due(now)) is not None:
            scope, peer = place
            progress = self._progress_of[scope][peer]
            due.append((peer, scope, progress.held))
            progress.tries += 1
            if progress.tries < QUICK_TRIES:
                wait_s = self.resend_s(peer) * 2 ** (progress.tries - 1)
            else:
                wait_s = self._config.digest_interval_s
            self._deadlines.set(place, now + wait_s)
        return due

    def sent(self, peer: NodeId, scope: Scope, since: Version, to: Version, now: float) -> None:
        """Note that a delta of our log was sent to `peer`."""
        progress = self._progress(scope, peer)
        progress.sent = (since, to)
        if progress.tries <= 1:
            progress.began_at = now

    def has_sent(self, peer: NodeId, scope: Scope, to: Version) -> bool:
        """True when the last delta sent to `peer` led to this version of our log."""
        progress = self._progress_of.get(scope, {}).get(peer)
        return progress is not None and progress.sent is not None and progress.sent[1] == to

    def handle_ack(self, peer: NodeId, ack: DeltaAck, ours: Version, now: float) -> bool:
        """Note what a peer holds. True when it lags and should get more at once."""
        progress = self._progress(ack.scope, peer)
        is_answer = progress.sent is not None and progress.sent[1] == ack.held
        # It is not known which of several pushes an ack answers. But a peer behind a long path would never give a
        # sample otherwise, and each change would be sent to it several times: so the first sample may be too long,
        # and later ones correct it.
        if is_answer and (progress.tries == 1 or peer not in self._rtts):
            sample = min(max(now - progress.began_at, 0.0), LONGEST_RTT_S)
            self._rtts[peer] = self._rtts.get(peer, sample) * (1 - RTT_SMOOTHING) + sample * RTT_SMOOTHING
        self.note(peer, ack.scope, held=ack.held, own=ack.own)
        self.propagation.handle_held(ack.scope, peer, ack.held, now)
        progress.holding = ack.holding
        if not ack.holding:
            self._deadlines.discard((ack.scope, peer))
            self.propagation.forget(ack.scope, peer)
        # The same answer to the same push would repeat as fast as the network allows, so that one waits for its
        # deadline.
        return ack.holding and ack.held < ours and progress.sent != (ack.held, ours)

    def note(
        self, peer: NodeId, scope: Scope, *, held: Version | None = None, own: Version | None = None
    ) -> None:
        """Note that a peer takes part in the scope, and what it holds of our log, or how far its own goes."""
        progress = self._progress(scope, peer)
        progress.holding = True
        if held is not None:
            progress.held = held
        if own is not None:
            # Datagrams overtake each other, and a log never goes back while its owner runs.
            progress.own = max(own, progress.own or own)

    def settled(self, peer: NodeId, scope: Scope) -> None:
        """Note that the peer holds our head: nothing is due."""
        self._deadlines.discard((scope, peer))

    def note_absent(self, peer: NodeId, scope: Scope, *, own: Version) -> None:
        """Note that the peer says that it takes no part in the scope, and how far its own log goes."""
        self.note(peer, scope, own=own)
        self._progress(scope, peer).holding = False
        self._deadlines.discard((scope, peer))
        self.propagation.forget(scope, peer)

    def own_of(self, peer: NodeId, scope: Scope) -> Version:
        """How far the peer's own log goes, as far as it said."""
        progress = self._progress_of.get(scope, {}).get(peer)
        return NO_VERSION if progress is None or progress.own is None else progress.own

    def is_absent(self, peer: NodeId, scope: Scope) -> bool:
        """True when the peer itself said that it takes no part."""
        progress = self._progress_of.get(scope, {}).get(peer)
        return progress is not None and not progress.holding

    def reset_peer(self, peer: NodeId) -> None:
        """Drop the progress of a peer that went away or restarted."""
        for scope in self._progress_of:
            self.forget_scope(scope, (peer,))

    def forget_peer(self, peer: NodeId) -> None:
        """Drop a peer that is no longer known."""
        self.reset_peer(peer)
        self._rtts.pop(peer, None)

    def forget_scope(self, scope: Scope, peers: Iterable[NodeId]) -> None:
        """Drop the progress of peers that left the scope."""
        for peer in peers:
            self._progress_of.get(scope, {}).pop(peer, None)
            self._deadlines.discard((scope, peer))
            self.propagation.forget(scope, peer)

    def drop_scope(self, scope: Scope) -> None:
        """Drop a scope in which we have nothing to push any more."""
        self.forget_scope(scope, tuple(self._progress_of.get(scope, ())))
        self._progress_of.pop(scope, None)
        self.propagation.forget_scope(scope)

    def lacking(
        self, scope: Scope, peers: Iterable[NodeId], ours: Version, held_of: Callable[[NodeId], Version]
    ) -> frozenset[NodeId]:
        """The peers that have not acknowledged `ours`, or of whose own log we hold less than they said."""
        found = set()
        for peer in peers:
            progress = self._progress_of.get(scope, {}).get(peer)
            if progress is None:
                found.add(peer)
            elif progress.holding:
                known = progress.held is not None and progress.own is not None
                behind = (progress.held or NO_VERSION) < ours or held_of(peer) < (progress.own or NO_VERSION)
                if not known or behind:
                    found.add(peer)
        return frozenset(found)

    def next_deadline(self) -> float:
        """When `take_due` has something to return."""
        return self._deadlines.next()

    def __len__(self) -> int:
        return sum(map(len, self._progress_of.values()))

    def pending(self) -> int:
        """Number of peers and scopes with a deadline."""
        return len(self._deadlines)

    def _progress(self, scope: Scope, peer: NodeId) -> _PeerProgress:
        return self._progress_of.setdefault(scope, {}).setdefault(peer, _PeerProgress())

    def check_invariants(self) -> None:
        """Assert that only known peers have deadlines."""
        self._deadlines.check_invariants()
        known = ((scope, peer) for scope, by_peer in self._progress_of.items() for peer in by_peer)
        assert sum(place in self._deadlines for place in known) == len(self._deadlines)
