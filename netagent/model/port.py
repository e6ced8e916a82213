"""The protocols that a port's server speaks behind TLS (ALPN), as they are written after a port: `443/tcp+h2`.

An identifier is what a server and its clients agree on in the handshake (RFC 7301). It may be any octets; the ones in
use are words such as `h2`, and others have no place in labels and on command lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

MAX_ALPN: Final = 8
"""Bound of the protocols of one port; beyond it: refused."""
MAX_ALPN_CHARS: Final = 32
MAX_ALPN_TOTAL_CHARS: Final = 4096
"""Bound of the protocols of all ports of an endpoint together; beyond it: refused. With them and all its names, it
fits into one message to the resolver process."""
HTTP_1: Final = "http/1.1"
HTTP_ALPN: Final = frozenset({HTTP_1, "h2", "h3"})
"""Protocols of a server for `https://`."""

_ALPN: Final = re.compile(r"[a-z0-9][a-z0-9._/-]*")


def has_too_many_alpn(alpns: Iterable[tuple[str, ...]]) -> bool:
    """True if the protocols of all ports of an endpoint are too long together."""
    return sum(len(one) for alpn in alpns for one in alpn) > MAX_ALPN_TOTAL_CHARS


def is_alpn(text: str) -> bool:
    """True for an identifier that a port may have."""
    return len(text) <= MAX_ALPN_CHARS and _ALPN.fullmatch(text) is not None


def split_alpn(text: str) -> tuple[str, tuple[str, ...]]:
    """Split `PORT+ALPN+ALPN` into the port and the identifiers, which are not checked."""
    port, *alpn = text.split("+")
    return port, tuple(alpn)


def alpn_flaw(alpn: tuple[str, ...]) -> str:
    """Say what is wrong with the protocols of one port; empty if nothing is."""
    for one in alpn:
        if not is_alpn(one):
            return f"{one[:80]!r} is not an ALPN protocol such as h2 or http/1.1"
    if len(alpn) > MAX_ALPN or len(set(alpn)) < len(alpn):
        return f"a port has at most {MAX_ALPN} different ALPN protocols"
    return ""
