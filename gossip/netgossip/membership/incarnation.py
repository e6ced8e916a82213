"""Which incarnations are plausible: how far a member's can have risen, and at which incarnation a member departed.

A claim carries no proof of its author, and every holder of the key can make one. An incarnation that its owner cannot
exceed would silence the owner for as long as it is remembered. So three rules bound what a claim may say:

- **Ceiling.** An owner raises its incarnation by one for each start, change and refutation. A claim far above what
  those can have added since the node first became known is refused. The ceiling rises with time, at RISE_PER_S, so a
  node that was away for days is believed, and one forged claim never takes more than LEAP_LIMIT of 2**32; to use up
  all of it takes 34 years. The owner applies the same ceiling to claims about itself.
- **Top range.** Accusations never raise an incarnation into the last 2**16: only "alive" claims do. So each
  accusation that was believed can be refuted.
- **Own statement.** What a node says about itself, over a stream from the address that we hold for it, is believed
  also when it is above the ceiling, or far below what others claimed: it may refuse to follow, and no other node can
  know better.

Departures are what remains of members that were removed: a recorded "alive" from before does not bring them back. The
application persists them over a restart, and passes them to the next node.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from netgossip.types import NodeId

INCARNATION_LIMIT: Final = 2**32 - 2**16
"""From here on accusations count only for incarnations that are held already."""
LEAP_LIMIT: Final = 4096
"""How far above the ceiling's base a claim may be at once. A node whose disk was restored from a backup lacks
less."""
RISE_PER_S: Final = 4.0
"""Faster than any node raises its incarnation for long: a refutation takes one broadcast in each direction."""
FAR: Final = 64
"""A node's own statement this far below what is held is not an old one that was delayed. Within it, the node's own
ceiling reaches what is held in 16 seconds, and it refutes."""
DEPARTED_LIMIT: Final = 32_768
"""Bound of members that were evicted or reaped, each with its last incarnation; beyond it: the oldest is dropped. As
many as there may be members: 5 MB."""


class Ceilings:
    """For each node the incarnation at which it first became known, and when."""

    def __init__(self) -> None:
        self._base: dict[NodeId, tuple[int, float]] = {}

    def begin(self, node_id: NodeId, incarnation: int, now: float) -> None:
        """Record that the node's incarnation is known to be this one now."""
        self._base[node_id] = (incarnation, now)

    def correct(self, node_id: NodeId, incarnation: int, now: float) -> None:
        """Record what the node says itself. Claims that others may still hold, and that it contradicted, must not
        come back."""
        self._base[node_id] = (incarnation + FAR - LEAP_LIMIT, now)

    def knows(self, node_id: NodeId) -> bool:
        """True once the node has a ceiling."""
        return node_id in self._base

    def forget(self, node_id: NodeId) -> None:
        """Drop the ceiling: any incarnation may come next."""
        self._base.pop(node_id, None)

    def is_above(self, node_id: NodeId, incarnation: int, now: float) -> bool:
        """True when the node cannot have reached `incarnation`. False for unknown nodes."""
        base = self._base.get(node_id)
        if base is None:
            return False
        first, since = base
        return incarnation > first + LEAP_LIMIT + RISE_PER_S * max(now - since, 0.0)


def is_far_below(incarnation: int, held: int) -> bool:
    """True when a node at `incarnation` may refuse to follow a claim at `held` for long."""
    return incarnation + FAR < held


@dataclass(slots=True)
class _Departure:
    incarnation: int
    notified_at: float = float("-inf")


class Departures:
    """Members that are no longer remembered, and the last incarnation of each; at most DEPARTED_LIMIT."""

    def __init__(self) -> None:
        self._departed: dict[NodeId, _Departure] = {}

    def __len__(self) -> int:
        return len(self._departed)

    def note(self, node_id: NodeId, incarnation: int) -> None:
        """Record a member that is removed."""
        self._departed.pop(node_id, None)
        self._departed[node_id] = _Departure(incarnation)
        if len(self._departed) > DEPARTED_LIMIT:
            del self._departed[next(iter(self._departed))]

    def incarnation(self, node_id: NodeId) -> int | None:
        """The incarnation at which the node departed; None when it did not, or too long ago."""
        departure = self._departed.get(node_id)
        return None if departure is None else departure.incarnation

    def may_tell(self, node_id: NodeId, now: float, pause_s: float) -> bool:
        """True at most once per `pause_s`: the caller may then tell the node at which incarnation it departed."""
        departure = self._departed.get(node_id)
        if departure is None or now < departure.notified_at + pause_s:
            return False
        departure.notified_at = now
        return True

    def forget(self, node_id: NodeId) -> None:
        """Drop the departure of a member that is back."""
        self._departed.pop(node_id, None)
