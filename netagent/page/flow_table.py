"""The rows of flows that a search finds. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

_SEARCHED: Final = (
    "from",
    "from_service",
    "from_host",
    "network",
    "to",
    "to_service",
    "to_host",
    "address",
    "protocol",
    "port",
)


def is_flow_wanted(flow: Mapping[str, Any], words: Collection[str]) -> bool:
    """True if each word is in a flow."""
    text = " ".join(str(flow[part]) for part in _SEARCHED).lower()
    return all(word in text for word in words)
