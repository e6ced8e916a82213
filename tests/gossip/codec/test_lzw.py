"""The LZW decoder, against an encoder written here from the format's description, and against bombs."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netgossip.codec.lzw import decode_untrusted
from netgossip.errors import WireError
from netgossip.slices import at_once


def encode(data: bytes) -> bytes:
    """As Go's compress/lzw: clear first, and again whenever the table is full."""
    output, bits, held = bytearray(), 0, 0

    def put(code: int, width: int) -> None:
        nonlocal bits, held
        bits |= code << held
        held += width
        while held >= 8:
            output.append(bits & 255)
            bits >>= 8
            held -= 8

    literals = {bytes([value]): value for value in range(256)}
    table, width, free = dict(literals), 9, 258
    put(256, width)
    string = b""
    for value in data:
        longer = string + bytes([value])
        if longer in table:
            string = longer
            continue
        put(table[string], width)
        if free == 4095:
            put(256, width)
            table, width, free = dict(literals), 9, 258
        else:
            table[longer] = free
            # The decoder is one entry behind, so the width grows when the entry just made needs it.
            if free == 1 << width:
                width += 1
            free += 1
        string = bytes([value])
    if string:
        put(table[string], width)
        if free == 1 << width and width < 12:
            width += 1
    put(257, width)
    put(0, 7)
    return bytes(output)


@given(
    st.binary(max_size=2000) | st.lists(st.sampled_from([b"ab", b"abc", b"a"]), max_size=3000).map(b"".join)
)
def test_round_trip(data: bytes) -> None:
    assert at_once(decode_untrusted(encode(data), limit_bytes=len(data))) == data


def test_round_trip_over_several_tables() -> None:
    data = b"".join(f"member-{n:05} alive ".encode() * (n % 3 + 1) for n in range(3000))
    assert at_once(decode_untrusted(encode(data), limit_bytes=len(data))) == data


@given(st.binary(max_size=500))
def test_any_bytes_give_data_or_a_wire_error(data: bytes) -> None:
    with contextlib.suppress(WireError):
        assert len(at_once(decode_untrusted(data, limit_bytes=1000))) <= 1000


def test_a_bomb_stops_at_the_limit() -> None:
    bomb = encode(bytes(1_000_000))
    assert len(bomb) < 5000
    with pytest.raises(WireError):
        at_once(decode_untrusted(bomb, limit_bytes=65_536))
