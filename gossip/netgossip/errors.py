"""netgossip's errors: who erred, and whether state changed."""

from __future__ import annotations


class GossipError(Exception):
    """Base of all that netgossip raises."""


class WireError(GossipError):
    """The peer erred: bytes that do not follow the format. Raised by every `*_untrusted` parser, and nothing
    else comes out of them. State is unchanged."""


class SealError(WireError):
    """The peer erred: a frame that none of our keys opens, or that carries another label. `reason` is one of
    StrangerHeard's. State is unchanged."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class EarlyError(WireError):
    """Nobody erred: the frame was sealed before its sender's proof and overtaken by it, as happens when hosts meet.
    It is refused because a recording looks the same. State is unchanged."""


class GossipUsageError(GossipError):
    """The caller erred (a value too large, a scope that was not entered). State is unchanged."""
