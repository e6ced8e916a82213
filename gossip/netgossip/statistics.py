"""All that the membership counts, so that each counter is shown from the start."""

from __future__ import annotations

from typing import Final

_PROBING: Final = ("probes", "probes_failed", "late_acks", "lags")
_STREAMS: Final = ("push_pulls", "streams_failed", "peer_errors", "user_messages")
_CLAIMS: Final = ("suspicions", "deaths_declared", "refutations", "accusations", "identity_clashes")
_REFUSED: Final = (
    *("no_label", "other_label", "wrong_key", "not_encrypted", "malformed", "not_for_us", "unknown_accuser"),
    *("incarnation", "departed", "version", "address", "full", "busy", "relay", "unexpected"),
)

COUNTERS: Final = (*_PROBING, *_STREAMS, *_CLAIMS, *(f"refused_{reason}" for reason in _REFUSED))
