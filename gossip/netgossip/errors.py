"""netgossip's errors: who is at fault, and whether state changed."""

from __future__ import annotations


class GossipError(Exception):
    """Base class of all errors that netgossip raises."""


class WireError(GossipError):
    """The peer is at fault: its bytes do not follow the format. Every `*_untrusted` parser raises this, and no other
    error comes out of them. State is unchanged."""


class SealError(WireError):
    """The peer is at fault: none of our keys opens the frame, or it carries another label. `reason` is one of
    UnknownSourceHeard's. State is unchanged."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class UnknownSessionError(WireError):
    """A frame under the key of a session that this node does not have: one of the two has restarted."""


class EarlyError(WireError):
    """No one is at fault: the frame was sealed before its sender's proof but arrived after it, as happens when hosts
    meet. It is refused because a recording looks the same. State is unchanged."""


class GossipUsageError(GossipError):
    """The caller is at fault (a value too large, a scope that was not entered). State is unchanged."""
