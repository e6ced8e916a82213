"""When to compare a scope with which peer: the repair behind the pushes.

    Digest ->                      one fingerprint for the whole scope
            <- Same                usual: 16 bytes each way
            <- Vector              otherwise: a pair of numbers per log
    Fetch ->, Delta ->             each side gets what the other has more of
            <- Delta

Each held scope is compared with one random peer every digest interval, at once with a peer that becomes live or
enters the scope, and at once with three others when a peer comes under suspicion: its last change may have reached
only one of them. A comparison without an answer is repeated, with doubling pauses, four times, or for as long as the
application waits for the peer to confirm; so is one after which datagrams bring what was missing, until nothing is.

A peer *confirms* a scope when we hold all that it holds: it answered Same, or we have reached every version in its
vector. A scope is *synced* when all live peers in it have confirmed. One confirmation alone may come from a peer that
has just entered and holds nothing itself, so it suffices only after `alone_grace_s`, when a silent peer delays the
rest. Until then random peers are compared without waiting for the interval.

An application that must know all that the live peers know at some later moment has them confirm anew (`catch_up`).

A node that lacks many logs *pulls* them from one peer. While they come it starts no other comparison, and does not
answer the comparisons of others, which repeat them: otherwise each would send its vector, and each would be asked
for, or send, the same logs.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from netgossip.config import GossipConfig
from netgossip.deadlines import NEVER, DeadlineHeap
from netgossip.types import NodeId, Scope, Version

TRIES: Final = 4
AT_ONCE: Final = 8
"""Bound of first comparisons of one scope at the same time; beyond it: others wait their turn. A node that enters a
large cluster would otherwise get every peer's vector; after the first few the fingerprints are equal."""
PULL_PATIENCE_S: Final = 1.0
"""How long the peer that sends many logs may be silent before others are asked. Each log restarts this time."""
PACE_S: Final = 0.02
"""How long a comparison waits that found AT_ONCE others waiting."""
JITTER: Final = 0.2


class _Scope:
    __slots__ = ("confirmed", "entered_at", "is_catching_up", "next_at", "synced", "targets", "tries")

    def __init__(self, now: float, next_at: float) -> None:
        self.entered_at = now
        self.next_at = next_at
        self.synced = False
        self.is_catching_up = False
        self.tries = 0
        self.confirmed: set[NodeId] = set()
        self.targets: dict[NodeId, dict[NodeId, Version]] = {}
        """Peer -> the versions that it holds and we did not."""

    @property
    def counts(self) -> bool:
        """True while the application waits for peers to confirm."""
        return not self.synced or self.is_catching_up


class _Pull:
    __slots__ = ("deadline", "peer", "wanted")

    def __init__(self, peer: NodeId, wanted: dict[NodeId, Version], deadline: float) -> None:
        self.peer = peer
        self.wanted = wanted
        """Owner -> the version that the peer has."""
        self.deadline = deadline


class AntiEntropy:
    """Plans comparisons. Holds no content and sends nothing itself."""

    def __init__(self, *, config: GossipConfig, rng: random.Random) -> None:
        self._config = config
        self._rng = rng
        self._scopes: dict[Scope, _Scope] = {}
        self._tries: dict[tuple[Scope, NodeId], int] = {}
        """How often each comparison under way was started."""
        self._deadlines: DeadlineHeap[tuple[Scope, NodeId]] = DeadlineHeap()
        """When each of them is started next: hundreds are planned when hundreds of peers meet."""
        self._pulls: dict[Scope, _Pull] = {}
        self._asked: Counter[Scope] = Counter()
        """First comparisons that wait for an answer."""

    def enter(self, scope: Scope, now: float) -> None:
        """Compare the scope from now on, and without waiting for the interval until it is synced."""
        self._scopes[scope] = _Scope(now, now)

    def leave(self, scope: Scope) -> None:
        """Stop comparing the scope."""
        self._scopes.pop(scope, None)
        self._pulls.pop(scope, None)
        for key in [key for key in self._tries if key[0] == scope]:
            self._end(key)
        del self._asked[scope]

    def compare(self, scope: Scope, peer: NodeId, at: float) -> None:
        """Compare the scope with this peer at the given time, and again until it answers."""
        key = (scope, peer)
        if self._deadlines.at(key) > at:
            self._end(key)
            self._tries[key] = 0
            self._deadlines.set(key, at)

    def forget_peer(self, peer: NodeId) -> None:
        """Drop all comparisons with a peer that can't answer any more."""
        for key in [key for key in self._tries if key[1] == peer]:
            self._end(key)
        for state in self._scopes.values():
            state.confirmed.discard(peer)
            state.targets.pop(peer, None)
        for scope in [scope for scope, pull in self._pulls.items() if pull.peer == peer]:
            del self._pulls[scope]

    def answered(self, scope: Scope, peer: NodeId) -> None:
        """Note that the peer has answered a comparison."""
        self._end((scope, peer))

    def answered_with_news(self, scope: Scope, peer: NodeId) -> None:
        """Note that the peer has answered, and that datagrams with what either side lacks are under way. They may be
        lost without their senders noticing, so the comparison is repeated as if there had been no answer."""
        self.ask_again(scope, peer)

    def is_repeated(self, scope: Scope, peer: NodeId) -> bool:
        """True when an answer of the peer is not the first, after which no further comparison follows if there is
        news."""
        tries = self._tries.get((scope, peer))
        return tries is None or tries > 1

    def ask_again(self, scope: Scope, peer: NodeId) -> bool:
        """True, once, if a peer that was asked and has not answered should be asked again, because it knows
        us now."""
        if self._tries.get((scope, peer)) != 1:
            return False
        self._tries[scope, peer] = 2
        self._asked[scope] -= 1
        return True

    def begin_pull(self, scope: Scope, peer: NodeId, wanted: dict[NodeId, Version], now: float) -> None:
        """Note that this peer sends many logs that we lack: no other peer is asked for them meanwhile."""
        self._pulls[scope] = _Pull(peer, dict(wanted), now + PULL_PATIENCE_S)

    def pull_of(self, scope: Scope, now: float) -> _Pull | None:
        """What is being pulled in the scope; None when all of it has come, or the peer was silent for too long."""
        pull = self._pulls.get(scope)
        if pull is not None and pull.deadline <= now:
            del self._pulls[scope]
            return None
        return pull

    def note_pulled(self, scope: Scope, owner: NodeId, held: Version, now: float) -> None:
        """Note that a log has come, from any peer."""
        pull = self._pulls.get(scope)
        if pull is not None and owner in pull.wanted and held >= pull.wanted[owner]:
            del pull.wanted[owner]
            pull.deadline = now + PULL_PATIENCE_S
            if not pull.wanted:
                del self._pulls[scope]

    def take_due(
        self, now: float, peers_in: Callable[[Scope], Sequence[NodeId]], wait_s: Callable[[NodeId], float]
    ) -> list[tuple[NodeId, Scope]]:
        """Return the comparisons to start now, as (peer, scope). Each is planned again."""
        for scope, state in self._scopes.items():
            if state.next_at <= now:
                self._plan_round(scope, state, peers_in(scope), now)
        due = []
        while (key := self._deadlines.pop_due(now)) is not None:
            scope, peer = key
            waits = self._asked[scope] >= AT_ONCE or self.pull_of(scope, now) is not None
            if self._tries[key] == 0 and waits:
                self._deadlines.set(key, now + PACE_S)
                continue
            due.append((peer, scope))
            self._asked[scope] += {0: 1, 1: -1}.get(self._tries[key], 0)
            self._tries[key] = tries = self._tries[key] + 1
            if tries >= TRIES and not self.is_awaited(scope):
                self._end(key)
            else:
                wait = max(self._config.sync_retry_s, wait_s(peer))
                self._deadlines.set(key, now + wait * 2 ** min(tries - 1, TRIES - 2))
        return due

    def _end(self, key: tuple[Scope, NodeId]) -> None:
        self._deadlines.discard(key)
        if self._tries.pop(key, None) == 1:
            self._asked[key[0]] -= 1

    def _plan_round(self, scope: Scope, state: _Scope, peers: Sequence[NodeId], now: float) -> None:
        if peers:
            self.compare(scope, self._rng.choice(peers), now)
        interval = self._config.digest_interval_s
        if not state.synced:
            # The first tries pass in a fraction of a second, later ones approach the interval.
            interval = min(interval, self._config.sync_retry_s * 2**state.tries)
            state.tries = min(state.tries + 1, 8)
        state.next_at = now + interval * (1 + JITTER * (2 * self._rng.random() - 1))

    def expect(self, scope: Scope, peer: NodeId, targets: dict[NodeId, Version]) -> None:
        """Note that a peer holds these versions, which we do not: reaching them all will count as its
        confirmation."""
        state = self._scopes.get(scope)
        if state is not None and state.counts:
            state.targets[peer] = dict(reversed(targets.items()))

    def reached(self, scope: Scope, held_of: Callable[[NodeId], Version]) -> None:
        """Find out, after logs have come, which peers have confirmed by that. Versions once reached are not checked
        again; logs come in the order in which they were requested, and taking one from the end of a dict costs
        nothing."""
        state = self._scopes.get(scope)
        for peer, targets in list(state.targets.items()) if state is not None else ():
            while targets:
                owner, version = targets.popitem()
                if held_of(owner) < version:
                    targets[owner] = version
                    break
            else:
                self.confirm(scope, peer)

    def confirm(self, scope: Scope, peer: NodeId) -> None:
        """Note that we hold all that the peer holds."""
        state = self._scopes.get(scope)
        if state is not None and state.counts:
            state.targets.pop(peer, None)
            state.confirmed.add(peer)

    def synced(self, scope: Scope) -> None:
        """Mark the scope as synced, until it is left."""
        state = self._scopes[scope]
        state.synced = True
        if not state.is_catching_up:
            state.confirmed.clear()
            state.targets.clear()

    def catch_up(self, scope: Scope, peers: Sequence[NodeId], now: float) -> None:
        """Have these peers confirm anew, also those that have before."""
        state = self._scopes[scope]
        state.is_catching_up = True
        state.confirmed.clear()
        state.targets.clear()
        for peer in peers:
            self.compare(scope, peer, now)

    def confirmed(self, scope: Scope) -> frozenset[NodeId]:
        """Peers that have confirmed, since `catch_up` or since the scope was entered."""
        return frozenset(self._scopes[scope].confirmed)

    def caught_up(self, scope: Scope) -> None:
        """Stop waiting for confirmations."""
        self._scopes[scope].is_catching_up = False

    def is_awaited(self, scope: Scope) -> bool:
        """True while confirmations of the scope are waited for: it was entered and is not synced yet, or must catch
        up."""
        state = self._scopes.get(scope)
        return state is not None and state.counts

    def unsynced(self) -> list[tuple[Scope, float, frozenset[NodeId]]]:
        """Scopes that are not synced, when each was entered, and which peers have confirmed."""
        return [
            (scope, state.entered_at, frozenset(state.confirmed))
            for scope, state in self._scopes.items()
            if not state.synced
        ]

    def next_deadline(self) -> float:
        """When `take_due` has something to return."""
        rounds = min((state.next_at for state in self._scopes.values()), default=NEVER)
        return min(rounds, self._deadlines.next())

    def check_invariants(self) -> None:
        """Assert that the incrementally kept state matches the comparisons."""
        asked = Counter(scope for (scope, _), tries in self._tries.items() if tries == 1)
        assert +self._asked == asked
        self._deadlines.check_invariants()
        assert len(self._deadlines) == len(self._tries)
        assert all(key in self._deadlines for key in self._tries)
