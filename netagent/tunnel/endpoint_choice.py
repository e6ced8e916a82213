"""Where to send to each peer: its possible endpoints are tried in turn until one answers. Pure.

A host may have several addresses, and one behind address translation has another one for each who looks. So a peer
has *candidates*, best first: what its record names, and where others see it. The device begins with the first. While
a peer answers, nothing is changed: the device follows a peer that roams by itself, and knows better than any record
where one behind address translation is. A peer is *silent* when something was sent and nothing came back for
SILENT_S, or for CHANGED_S if its candidates have changed since it was last heard: it has probably moved. Then
its candidates are tried, each for TRY_S; after a round of all of them comes a pause, which doubles up to
LONGEST_PAUSE_S.

A peer without a session is made anew for each try, because WireGuard repeats a handshake only after 5 s, whatever its
endpoint has become. With a session only the endpoint is set: packets under way still count.

What a member that lies can do: it names candidates of itself only, at most MAX_CANDIDATES. Each host sends a
handshake (148 octets) to each of them, and again after the pause. No candidate gets anything that was meant for
another host, because a session needs the peer's key.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from netagent.tunnel.peer import SESSION_S, PeerEndpoint, PeerState

MAX_CANDIDATES: Final = 6
"""Bound of endpoints tried for a peer; beyond it: further ones are ignored."""
SILENT_S: Final = 15.0
"""A device answers what it is sent after 10 s at the latest, if only by a keepalive."""
CHANGED_S: Final = 3.0
TRY_S: Final = 2.0
"""Some round trips across the world."""
LONGEST_PAUSE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """Send to this endpoint from now on. `is_new`: begin with a fresh handshake."""

    endpoint: PeerEndpoint
    is_new: bool


@dataclass(slots=True)
class _Peer:
    candidates: tuple[PeerEndpoint, ...]
    received_bytes: int
    sent_bytes: int
    unanswered_since: float | None = None
    """When it was first noticed that something was sent since the peer was last heard."""
    has_changed: bool = False
    """Its candidates are others than when it was last heard."""
    next: int = 0
    """The candidate to try next."""
    not_before: float = -math.inf
    pause_s: float = TRY_S


class EndpointChoice:
    """Call `look` at `next_look` and when candidates change."""

    def __init__(self) -> None:
        self._peers: dict[bytes, _Peer] = {}
        self.next_look = math.inf

    def look(
        self,
        candidates: Mapping[bytes, tuple[PeerEndpoint, ...]],
        states: Mapping[bytes, PeerState],
        now: float,
    ) -> dict[bytes, Attempt]:
        """Return what to change. `candidates`: of all peers that the device has; `states`: as it says itself."""
        self._peers = {key: peer for key, peer in self._peers.items() if key in candidates}
        self.next_look = math.inf
        attempts = {}
        for key, all_of_it in candidates.items():
            state = states.get(key)
            if state is None:
                continue  # the device does not have it yet
            peer = self._noted(key, all_of_it[:MAX_CANDIDATES], state, now)
            attempt = self._attempt(peer, state, now)
            if attempt is not None:
                attempts[key] = attempt
        return attempts

    def _noted(self, key: bytes, candidates: tuple[PeerEndpoint, ...], state: PeerState, now: float) -> _Peer:
        """Return what is known of the peer, with what has happened since the last look."""
        peer = self._peers.get(key)
        if peer is None:
            peer = self._peers[key] = _Peer(candidates, state.received_bytes, state.sent_bytes)
            if not _has_session(state):
                # The device has begun with the first candidate.
                peer.unanswered_since, peer.has_changed, peer.next = now, True, 1
        if state.received_bytes > peer.received_bytes:
            peer.unanswered_since, peer.sent_bytes, peer.has_changed = None, state.sent_bytes, False
            peer.next, peer.not_before, peer.pause_s = 0, -math.inf, TRY_S
        elif peer.unanswered_since is None and state.sent_bytes != peer.sent_bytes:
            peer.unanswered_since = now
        peer.received_bytes = state.received_bytes  # lower than before: the peer was made anew
        if candidates != peer.candidates:
            # Last: what was received since the last look came from where the peer was before.
            peer.candidates, peer.has_changed = candidates, True
            peer.next, peer.not_before, peer.pause_s = 0, -math.inf, TRY_S
        return peer

    def _attempt(self, peer: _Peer, state: PeerState, now: float) -> Attempt | None:
        if peer.unanswered_since is None or not peer.candidates:
            return None
        silent_at = peer.unanswered_since + (CHANGED_S if peer.has_changed else SILENT_S)
        if not _has_session(state):
            silent_at = min(silent_at, peer.unanswered_since + TRY_S)
        due = max(silent_at, peer.not_before)
        if now < due:
            self.next_look = min(self.next_look, due)
            return None
        endpoint = peer.candidates[peer.next % len(peer.candidates)]
        peer.next += 1
        if peer.next >= len(peer.candidates):
            peer.next, peer.not_before = 0, now + peer.pause_s
            peer.pause_s = min(2 * peer.pause_s, LONGEST_PAUSE_S)
        else:
            peer.not_before = now + TRY_S
        self.next_look = min(self.next_look, peer.not_before)
        if _has_session(state):
            return Attempt(endpoint, is_new=False) if endpoint != state.endpoint else None
        return Attempt(endpoint, is_new=True)


def _has_session(state: PeerState) -> bool:
    return state.handshake_s_ago is not None and state.handshake_s_ago < SESSION_S
