"""The OPT pseudo-record (RFC 6891): sizes, flags and options of one hop, never forwarded to the next.

Its class is the sender's UDP size; its TTL is extended rcode, version and flags. Unknown options are ignored and not
echoed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from netdns import constants as c
from netdns.errors import FormatError
from netdns.wire import Reader

_FIXED: Final = struct.Struct("!BHHBBHH")
"""Root name, type, class, TTL in three parts, length of the options."""
_MAX_OPTIONS: Final = 64
"""Bound of options of a query; beyond it: FORMERR. Clients send one to five, and 64 KiB by TCP have room for sixteen
thousand empty ones."""


@dataclass(frozen=True, slots=True)
class Opt:
    """The contents of a peer's OPT."""

    size_bytes: int
    rcode_high: int
    version: int
    flags: int

    @property
    def dnssec_ok(self) -> bool:
        """The DO bit."""
        return bool(self.flags & c.DO)


def opt_untrusted(rclass: int, ttl: int, data: bytes) -> Opt:
    """Read an OPT from its class, TTL and data. Raises FormatError: options that overrun, too many, a bad cookie."""
    reader = Reader(data)
    count = 0
    while reader.offset < reader.end:
        count += 1
        if count > _MAX_OPTIONS:
            raise FormatError(f"more than {_MAX_OPTIONS} options")
        code = reader.u16()
        value = reader.take(reader.u16())
        # RFC 7873 5.2.2: a client's cookie is 8 octets, with the server's 16 to 40.
        if code == c.OPTION_COOKIE and len(value) != 8 and not 16 <= len(value) <= 40:
            raise FormatError(f"cookie of {len(value)} octets")
    return Opt(rclass, ttl >> 24, ttl >> 16 & 0xFF, ttl & 0xFFFF)


def render_opt(
    size_bytes: int, *, rcode: int = 0, dnssec_ok: bool = False, ede: tuple[int, str] | None = None
) -> bytes:
    """Write our OPT: version 0, the upper bits of `rcode`, DO, and an extended error (RFC 8914) if there is one."""
    options = b""
    if ede is not None:
        code, text = ede
        detail = text.encode()
        options = struct.pack("!HHH", c.OPTION_EDE, 2 + len(detail), code) + detail
    flags = c.DO if dnssec_ok else 0
    return _FIXED.pack(0, c.OPT, size_bytes, rcode >> 4, 0, flags, len(options)) + options
