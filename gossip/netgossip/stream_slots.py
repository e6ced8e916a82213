"""Which accepted streams stay open when there are more than slots.

A stream is *unproven* until a frame on it was found to be sealed by a member in its present session. Anyone who can
connect gets that far, so only unproven streams are closed for a new connection, and the newest connection always gets
a slot: refusing it instead would let a few silent connections shut all members out.

- A host has at most `per_host` unproven streams. One more closes one of its own, chosen at random: if it were always
  the oldest, a flood from a member's address would close the member's own stream before its first frame came.
- Hosts that are not members' have at most `unknown_sources` together. One more closes one of the host that has the
  most of them.
- All unproven streams together have at most `unproven` slots. A member's address gets one at the expense of an
  unknown source.
- A proven stream holds one of `proven` slots. A member's newer stream closes its older one, because a member uses one
  at a time. When all are taken, the stream closes that has been silent for longest.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from netgossip.types import NodeId, StreamId


@dataclass(frozen=True, slots=True)
class SlotLimits:
    """How many streams of each kind may be open at once."""

    unproven: int
    unknown_sources: int
    per_host: int
    proven: int = 0


class StreamSlots:
    """The accepted streams by host, and by member once proven. `is_member` says whether a host's address is a
    member's."""

    def __init__(self, limits: SlotLimits, *, is_member: Callable[[str], bool], rng: random.Random) -> None:
        self._limits = limits
        self._is_member = is_member
        self._rng = rng
        self._unproven: dict[StreamId, str] = {}
        self._proven: dict[StreamId, NodeId] = {}
        """In order of the last frame: the stream that was silent for longest comes first."""

    def enter(self, stream_id: StreamId, host: str) -> StreamId | None:
        """Register a stream that a peer opened. Returns the stream that must be closed for it."""
        victim = self._victim_for(host)
        if victim is not None:
            del self._unproven[victim]
        self._unproven[stream_id] = host
        return victim

    def prove(self, stream_id: StreamId, sender: NodeId) -> StreamId | None:
        """Mark the stream as proven: a member's frame came on it. Returns the stream that must be closed for it."""
        self._unproven.pop(stream_id, None)
        is_known = self._proven.pop(stream_id, None) is not None
        victim = None
        if not is_known:
            victim = next((one for one, member in self._proven.items() if member == sender), None)
            if victim is None and len(self._proven) >= self._limits.proven:
                victim = next(iter(self._proven), None)
        if victim is not None:
            del self._proven[victim]
        self._proven[stream_id] = sender
        return victim

    def is_proven(self, stream_id: StreamId) -> bool:
        """True once a member's frame came on the stream."""
        return stream_id in self._proven

    def leave(self, stream_id: StreamId) -> None:
        """Remove a stream that has ended."""
        self._unproven.pop(stream_id, None)
        self._proven.pop(stream_id, None)

    def _victim_for(self, host: str) -> StreamId | None:
        by_host = Counter(self._unproven.values())
        if by_host[host] >= self._limits.per_host:
            return self._one_of(host)
        unknown_sources = {one: count for one, count in by_host.items() if not self._is_member(one)}
        is_full = len(self._unproven) >= self._limits.unproven
        if not self._is_member(host):
            is_full = is_full or sum(unknown_sources.values()) >= self._limits.unknown_sources
        if not is_full:
            return None
        crowd = unknown_sources or by_host
        return self._one_of(max(crowd, key=crowd.__getitem__))

    def _one_of(self, host: str) -> StreamId:
        return self._rng.choice([one for one, at in self._unproven.items() if at == host])

    def check_invariants(self) -> None:
        """Assert that no limit is exceeded."""
        by_host = Counter(self._unproven.values())
        assert len(self._unproven) <= self._limits.unproven
        assert max(by_host.values(), default=0) <= self._limits.per_host
        assert len(self._proven) <= self._limits.proven
        assert not self._unproven.keys() & self._proven.keys()
