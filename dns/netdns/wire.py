"""A cursor over untrusted bytes. It does all bounds checks: code that reads through it cannot leave the bytes.

Messages of DNS are big-endian and counted.
"""

from __future__ import annotations

import struct
from typing import Final

from netdns.errors import FormatError

_U16: Final = struct.Struct("!H")
_U32: Final = struct.Struct("!I")


class Reader:
    """Reads `wire[offset:end]` front to back. Every method raises FormatError instead of reading past the end."""

    __slots__ = ("end", "offset", "wire")

    def __init__(self, wire: bytes, offset: int = 0, end: int | None = None) -> None:
        self.wire = wire
        self.offset = offset
        self.end = len(wire) if end is None else end

    def _advance(self, count: int) -> int:
        start = self.offset
        if count > self.end - start:
            raise FormatError(f"{count} octets wanted at {start}, {self.end - start} left")
        self.offset = start + count
        return start

    def u16(self) -> int:
        """Read two octets."""
        value: int = _U16.unpack_from(self.wire, self._advance(2))[0]
        return value

    def u32(self) -> int:
        """Read four octets."""
        value: int = _U32.unpack_from(self.wire, self._advance(4))[0]
        return value

    def take(self, count: int) -> bytes:
        """Read `count` octets."""
        start = self._advance(count)
        return self.wire[start : start + count]
