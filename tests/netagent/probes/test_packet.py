"""Probe packets, and what a kernel answers."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netagent.probes import packet
from netagent.probes.packet import Echo, PacketError, ReturnedProbe, parse_untrusted

ENDS = ("fd00::1", "fd00::2")


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.integers(packet.SMALLEST_BYTES, 9000))
def test_an_echo_has_the_size_that_was_asked_for(identifier: int, sequence: int, size: int) -> None:
    request = packet.echo_request(identifier, sequence, size)
    assert 40 + len(request) == size
    assert parse_untrusted(request) == Echo(is_reply=False, identifier=identifier, sequence=sequence)
    assert parse_untrusted(bytes([129]) + request[1:]) == Echo(
        is_reply=True, identifier=identifier, sequence=sequence
    )


@given(st.integers(0, 0xFFFF), st.integers(packet.SMALLEST_DATAGRAM_BYTES, 1600), st.integers(1, 0xFFFF))
def test_a_datagram_is_known_again_in_the_error_that_it_causes(sequence: int, size: int, port: int) -> None:
    segment = packet.checksummed(ENDS, (port, 7959), packet.datagram(sequence, size))
    assert 40 + len(segment) == size
    quoted = (bytes(6) + bytes([17]) + bytes(33) + segment)[:1232]
    error = struct.pack("!BBHI", 1, 4, 0, 0) + quoted
    assert parse_untrusted(error) == ReturnedProbe(port, sequence)


@given(st.binary(max_size=64))
def test_the_checksum_makes_the_sum_all_ones(payload: bytes) -> None:
    segment = packet.checksummed(ENDS, (1, 2), payload)
    pseudo = bytes.fromhex("fd" + "00" * 14 + "01" + "fd" + "00" * 14 + "02")
    pseudo += struct.pack("!II", len(segment), 17)
    words = pseudo + segment + bytes(len(segment) % 2)
    total = sum(struct.unpack(f"!{len(words) // 2}H", words))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert total == 0xFFFF


@given(st.binary(max_size=200))
def test_any_bytes_are_a_packet_or_refused(message: bytes) -> None:
    with contextlib.suppress(PacketError):
        assert isinstance(parse_untrusted(message), Echo | ReturnedProbe)


@pytest.mark.parametrize("kind_and_code", [(1, 3), (2, 0), (3, 0), (135, 0)])
def test_other_messages_are_refused(kind_and_code: tuple[int, int]) -> None:
    with pytest.raises(PacketError):
        parse_untrusted(bytes(kind_and_code) + bytes(80))
