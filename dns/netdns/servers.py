"""The servers that may be asked for names that the source does not own."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple, TypeAlias


class UpstreamServer(NamedTuple):
    """One upstream server."""

    address: str
    port: int
    near: Hashable = None
    """The client in whose own network the server is, where the same address means another server than elsewhere."""


Servers: TypeAlias = tuple[UpstreamServer, ...]
