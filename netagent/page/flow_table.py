"""The rows of flows: which a search finds, and whose container is gone. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from netagent.control.present import Presenter

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


def is_source_gone(present: Presenter, flow: Mapping[str, Any]) -> bool:
    """True if the container that opened it is gone; its name is then the last one known. False where this cannot be
    known: no record was ever seen, or no host told the endpoints of its network."""
    is_known = flow["from_id"] and flow["network_id"] not in present.unknown
    return bool(is_known) and flow["from_id"] not in present.view.endpoints
