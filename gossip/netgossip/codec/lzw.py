"""LZW as in GIF, decoder only: memberlist compresses with it, and no node has to.

Codes are packed from the least significant bit, 9 to 12 bits wide; 256 clears the table, 257 ends the data. The width
grows when the next free code needs it (not one early, as in TIFF). Every code but the first after a clear adds one
entry: the previous string plus the first byte of this one. When the table is full the encoder may continue without
adding, or clear.

The table costs no more than the output: each entry is one byte longer than a string that was written out.
"""

from __future__ import annotations

from typing import Final

from netgossip.errors import WireError
from netgossip.slices import Slices

_CLEAR: Final = 256
_END: Final = 257
_MAX_WIDTH: Final = 12
BYTES_PER_SLICE: Final = 4096
"""Bound of compressed bytes of one stream read in one slice; beyond it: the rest waits in order; no stream brings
more meanwhile. Up to 1 ms."""
_LITERALS: Final = [bytes((value,)) for value in range(256)] + [b"", b""]


def decode_untrusted(data: bytes, *, limit_bytes: int) -> Slices[bytes]:
    """Decompress `data` in slices. Raises WireError when it is damaged or longer than `limit_bytes`."""
    output = bytearray()
    table = list(_LITERALS)
    width = 9
    previous = b""
    bits = held = 0
    for number, byte in enumerate(data, 1):
        if number % BYTES_PER_SLICE == 0:
            yield
        bits |= byte << held
        held += 8
        if held < width:
            continue
        code = bits & ((1 << width) - 1)
        bits >>= width
        held -= width
        if code == _CLEAR:
            table, width, previous = list(_LITERALS), 9, b""
            continue
        if code == _END:
            return bytes(output)
        if code < len(table):
            string = table[code]
        elif code == len(table) and previous:
            string = previous + previous[:1]
        else:
            raise WireError("damaged LZW data: unknown code")
        if len(output) + len(string) > limit_bytes:
            raise WireError("LZW data grows beyond its limit")
        output += string
        if previous and len(table) < 1 << _MAX_WIDTH:
            table.append(previous + string[:1])
            if len(table) == 1 << width and width < _MAX_WIDTH:
                width += 1
        previous = string
    raise WireError("damaged LZW data: no end")
