"""Which servers may be asked for what is somebody else's."""

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
