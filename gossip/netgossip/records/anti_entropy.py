"""When to compare a scope with which peer: the repair behind the pushes.

    Digest ->                      one fingerprint for the whole scope
            <- Same                usual: 16 bytes each way
            <- Vector              else: a number pair a log
    Want ->, Delta ->              each side gets what the other has more of
            <- Delta

Each held scope is compared with one random peer every digest interval, at once with a peer that becomes live or
enters the scope, and at once with three others when a peer comes under suspicion: its last words may have reached
only one of them. A comparison without an answer is repeated, doubling, four times, or for as long as somebody waits
for the peer to confirm; so is one after which datagrams bring what was missing, until nothing is.

A peer *confirms* a scope when we hold all that it holds: it answered Same, or we have reached every version in its
vector. A scope is *synced* when all live peers in it have confirmed. One alone may have entered a moment ago and hold
nothing itself, so it is enough only after `alone_grace_s`, when somebody who is silent keeps the rest waiting. Until
then random peers are asked without waiting for the interval.

Whoever must know all that its live peers know at some later moment has them confirm anew (`catch_up`).

Whoever lacks many logs *pulls* them from one peer. While they come it asks nobody else to compare, and answers no
comparison of others, who repeat it: each would send its vector, and each would be asked for, or send, the same logs.

When hundreds of peers meet, hundreds of comparisons are planned. Their deadlines lie in a heap and are never
cancelled: one that does not equal its comparison's is stale.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from netgossip.config import GossipConfig
from netgossip.types import NodeId, Scope, Version

TRIES: Final = 4
AT_ONCE: Final = 8
"""First comparisons of one scope that wait for an answer. Whoever enters a large cluster would otherwise be sent
everybody's vector; after the first few the fingerprints are equal."""
PULL_PATIENCE_S: Final = 1.0
"""So long the peer that sends many logs may be silent before others are asked. The next log restarts it."""
PACE_S: Final = 0.02
"""Until a comparison that found no place looks again."""
JITTER: Final = 0.2
NEVER: Final = float("inf")


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
        """Peer -> what it holds and we did not."""

    @property
    def counts(self) -> bool:
        """Somebody waits for peers to confirm."""
        return not self.synced or self.is_catching_up


class _Pull:
    __slots__ = ("deadline", "peer", "wanted")

    def __init__(self, peer: NodeId, wanted: dict[NodeId, Version], deadline: float) -> None:
        self.peer = peer
        self.wanted = wanted
        """Owner -> the version that the peer has."""
        self.deadline = deadline


class _Comparison:
    __slots__ = ("due_at", "tries")

    def __init__(self) -> None:
        self.due_at = NEVER
        self.tries = 0


class AntiEntropy:
    """Plans comparisons. Holds no content and sends nothing itself."""

    def __init__(self, *, config: GossipConfig, rng: random.Random) -> None:
        self._config = config
        self._rng = rng
        self._scopes: dict[Scope, _Scope] = {}
        self._comparisons: dict[tuple[Scope, NodeId], _Comparison] = {}
        self._deadlines: list[tuple[float, Scope, NodeId]] = []
        self._pulls: dict[Scope, _Pull] = {}
        self._asked: Counter[Scope] = Counter()
        """First comparisons that wait for an answer."""

    def enter(self, scope: Scope, now: float) -> None:
        """Compare the scope from now on, until it is synced without waiting for the interval."""
        self._scopes[scope] = _Scope(now, now)

    def leave(self, scope: Scope) -> None:
        """Compare it no more."""
        self._scopes.pop(scope, None)
        self._pulls.pop(scope, None)
        for key in [key for key in self._comparisons if key[0] == scope]:
            self._end(key)
        del self._asked[scope]

    def compare(self, scope: Scope, peer: NodeId, at: float) -> None:
        """Compare the scope with this peer at the given time, and again until it answers."""
        comparison = self._comparisons.get((scope, peer))
        if comparison is None or comparison.due_at > at:
            self._end((scope, peer))
            self._comparisons[scope, peer] = comparison = _Comparison()
            self._plan(scope, peer, comparison, at)

    def forget_peer(self, peer: NodeId) -> None:
        """The peer can't answer any more."""
        for key in [key for key in self._comparisons if key[1] == peer]:
            self._end(key)
        for state in self._scopes.values():
            state.confirmed.discard(peer)
            state.targets.pop(peer, None)
        for scope in [scope for scope, pull in self._pulls.items() if pull.peer == peer]:
            del self._pulls[scope]

    def answered(self, scope: Scope, peer: NodeId) -> None:
        """The peer has answered a comparison."""
        self._end((scope, peer))

    def answered_with_news(self, scope: Scope, peer: NodeId) -> None:
        """The peer has answered, and datagrams with what either side lacks are under way. They may be lost, and those
        who sent them would not notice: the comparison is repeated as if there had been no answer."""
        comparison = self._comparisons.get((scope, peer))
        if comparison is not None and comparison.tries == 1:
            comparison.tries = 2
            self._asked[scope] -= 1

    def is_repeated(self, scope: Scope, peer: NodeId) -> bool:
        """An answer of the peer is not the first, which will be followed by another comparison if there is news."""
        comparison = self._comparisons.get((scope, peer))
        return comparison is None or comparison.tries > 1

    def ask_again(self, scope: Scope, peer: NodeId) -> bool:
        """The peer, which was asked and has not answered, knows us now: True, once, if it should be asked again."""
        comparison = self._comparisons.get((scope, peer))
        if comparison is None or comparison.tries != 1:
            return False
        comparison.tries = 2
        self._asked[scope] -= 1
        return True

    def begin_pull(self, scope: Scope, peer: NodeId, wanted: dict[NodeId, Version], now: float) -> None:
        """This peer sends many logs that we lack: nobody else is asked for them meanwhile."""
        self._pulls[scope] = _Pull(peer, dict(wanted), now + PULL_PATIENCE_S)

    def pull_of(self, scope: Scope, now: float) -> _Pull | None:
        """What is being pulled in the scope; None when all of it has come, or the peer was silent for too long."""
        pull = self._pulls.get(scope)
        if pull is not None and pull.deadline <= now:
            del self._pulls[scope]
            return None
        return pull

    def note_pulled(self, scope: Scope, owner: NodeId, held: Version, now: float) -> None:
        """A log has come, from whomever."""
        pull = self._pulls.get(scope)
        if pull is not None and owner in pull.wanted and held >= pull.wanted[owner]:
            del pull.wanted[owner]
            pull.deadline = now + PULL_PATIENCE_S
            if not pull.wanted:
                del self._pulls[scope]

    def take_due(
        self, now: float, peers_in: Callable[[Scope], Sequence[NodeId]], wait_s: Callable[[NodeId], float]
    ) -> list[tuple[NodeId, Scope]]:
        """What to compare now and with whom. Each is planned again."""
        for scope, state in self._scopes.items():
            if state.next_at <= now:
                self._plan_round(scope, state, peers_in(scope), now)
        due = []
        while self._deadlines and self._deadlines[0][0] <= now:
            due_at, scope, peer = heapq.heappop(self._deadlines)
            comparison = self._comparisons.get((scope, peer))
            if comparison is None or comparison.due_at != due_at:
                continue
            waits = self._asked[scope] >= AT_ONCE or self.pull_of(scope, now) is not None
            if comparison.tries == 0 and waits:
                self._plan(scope, peer, comparison, now + PACE_S)
                continue
            due.append((peer, scope))
            self._asked[scope] += {0: 1, 1: -1}.get(comparison.tries, 0)
            comparison.tries += 1
            if comparison.tries >= TRIES and not self.is_awaited(scope):
                self._end((scope, peer))
            else:
                wait = max(self._config.sync_retry_s, wait_s(peer))
                self._plan(scope, peer, comparison, now + wait * 2 ** min(comparison.tries - 1, TRIES - 2))
        return due

    def _plan(self, scope: Scope, peer: NodeId, comparison: _Comparison, due_at: float) -> None:
        comparison.due_at = due_at
        heapq.heappush(self._deadlines, (due_at, scope, peer))

    def _end(self, key: tuple[Scope, NodeId]) -> None:
        comparison = self._comparisons.pop(key, None)
        if comparison is not None and comparison.tries == 1:
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
        """A peer holds these versions, which we do not: reaching them all will be its confirmation."""
        state = self._scopes.get(scope)
        if state is not None and state.counts:
            state.targets[peer] = dict(reversed(targets.items()))

    def reached(self, scope: Scope, held_of: Callable[[NodeId], Version]) -> None:
        """Something came: see who has confirmed by that. What was reached is not looked at again; logs come in the
        order in which they were asked for, and from the end of a dict one is taken at no cost."""
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
        """We hold all that the peer holds."""
        state = self._scopes.get(scope)
        if state is not None and state.counts:
            state.targets.pop(peer, None)
            state.confirmed.add(peer)

    def synced(self, scope: Scope) -> None:
        """The scope is synced, and is so until it is left."""
        state = self._scopes[scope]
        state.synced = True
        if not state.is_catching_up:
            state.confirmed.clear()
            state.targets.clear()

    def catch_up(self, scope: Scope, peers: Sequence[NodeId], now: float) -> None:
        """Have these peers confirm anew, whoever has before."""
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
        """Nobody waits for confirmations any more."""
        self._scopes[scope].is_catching_up = False

    def is_awaited(self, scope: Scope) -> bool:
        """True while confirmations of the scope are waited for: it was entered and is not synced yet, or must catch
        up."""
        state = self._scopes.get(scope)
        return state is not None and state.counts

    def unsynced(self) -> list[tuple[Scope, float, frozenset[NodeId]]]:
        """Scopes that are not synced, when each was entered, and who has confirmed."""
        return [
            (scope, state.entered_at, frozenset(state.confirmed))
            for scope, state in self._scopes.items()
            if not state.synced
        ]

    def next_deadline(self) -> float:
        """When `take_due` has something to give."""
        while self._deadlines:
            due_at, scope, peer = self._deadlines[0]
            comparison = self._comparisons.get((scope, peer))
            if comparison is not None and comparison.due_at == due_at:
                break
            heapq.heappop(self._deadlines)
        rounds = min((state.next_at for state in self._scopes.values()), default=NEVER)
        return min(rounds, self._deadlines[0][0] if self._deadlines else NEVER)

    def check_invariants(self) -> None:
        """Raise AssertionError if what is kept up step by step is not what the comparisons say."""
        asked = Counter(scope for (scope, _), one in self._comparisons.items() if one.tries == 1)
        assert +self._asked == asked
        planned = {(at, scope, peer) for at, scope, peer in self._deadlines}
        assert all((one.due_at, *key) in planned for key, one in self._comparisons.items())
