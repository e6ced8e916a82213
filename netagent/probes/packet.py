"""Probe packets <-> bytes: ICMPv6 echo (RFC 4443 section 4), and UDP datagrams to a closed port. Pure.

A kernel answers both by itself. An echo reply carries back everything that was sent, so it tests both directions at
full size. A datagram to a closed port returns as the beginning of an ICMPv6 error, if its checksum was right; a wrong
one is silently dropped. That shows what the network card did to it.

Sizes are those of the whole IPv6 packet, as an MTU counts.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

ECHO_REQUEST, ECHO_REPLY, UNREACHABLE = 128, 129, 1
_PORT_UNREACHABLE = 4
_ICMP = struct.Struct("!BBHHH")
_UDP = struct.Struct("!HHHH")
_IPV6 = struct.Struct("!IHBB")
_HOP_LIMIT = 64
_IPV6_BYTES, _NEXT_HEADER_AT, _UDP_PROTOCOL = 40, 6, 17
_MARK = b"netagent"
_DATAGRAM = struct.Struct(f"!{len(_MARK)}sH")

SMALLEST_BYTES = _IPV6_BYTES + _ICMP.size + len(_MARK)
"""The smallest echo, which passes wherever anything passes."""
SMALLEST_DATAGRAM_BYTES = _IPV6_BYTES + _UDP.size + _DATAGRAM.size


class PacketError(ValueError):
    """The bytes are not a packet that matters here. Nothing has changed."""


@dataclass(frozen=True, slots=True)
class Echo:
    """An echo request or reply."""

    is_reply: bool
    identifier: int
    sequence: int


@dataclass(frozen=True, slots=True)
class ReturnedProbe:
    """A datagram of ours reached a closed port of a kernel; its checksum was right."""

    source_port: int
    sequence: int


def echo_request(identifier: int, sequence: int, size_bytes: int) -> bytes:
    """Return an echo request that makes a packet of `size_bytes`. The kernel fills in the checksum."""
    filler = max(0, size_bytes - SMALLEST_BYTES)
    return _ICMP.pack(ECHO_REQUEST, 0, 0, identifier, sequence) + _MARK + _pattern(filler)


def datagram(sequence: int, size_bytes: int) -> bytes:
    """Return the payload of a UDP datagram that makes a packet of `size_bytes`."""
    filler = max(0, size_bytes - SMALLEST_DATAGRAM_BYTES)
    return _DATAGRAM.pack(_MARK, sequence) + _pattern(filler)


def whole_packet(addresses: tuple[str, str], ports: tuple[int, int], payload: bytes) -> bytes:
    """Return an IPv6 packet of a UDP datagram with its checksum; pairs are (source, destination)."""
    datagram = checksummed(addresses, ports, payload)
    packed = b"".join(ipaddress.IPv6Address(address).packed for address in addresses)
    return _IPV6.pack(6 << 28, len(datagram), _UDP_PROTOCOL, _HOP_LIMIT) + packed + datagram


def checksummed(addresses: tuple[str, str], ports: tuple[int, int], payload: bytes) -> bytes:
    """Return UDP header and payload with the checksum (RFC 8200 section 8.1); pairs are (source, destination)."""
    length = _UDP.size + len(payload)
    pseudo = b"".join(ipaddress.IPv6Address(address).packed for address in addresses)
    pseudo += struct.pack("!II", length, _UDP_PROTOCOL)
    total = _sum(pseudo) + _sum(_UDP.pack(*ports, length, 0)) + _sum(payload)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return _UDP.pack(*ports, length, (~total & 0xFFFF) or 0xFFFF) + payload


def _sum(data: bytes) -> int:
    padded = data + bytes(len(data) % 2)
    return sum(struct.unpack(f"!{len(padded) // 2}H", padded))


def _pattern(size_bytes: int) -> bytes:
    # Not zeros: a wrong checksum must show wherever in the packet the error is.
    return (bytes(range(256)) * (size_bytes // 256 + 1))[:size_bytes]


def parse_untrusted(message: bytes) -> Echo | ReturnedProbe:
    """Parse an ICMPv6 message as a raw socket receives it: without IPv6 header, its checksum tested by the kernel."""
    if len(message) < _ICMP.size:
        raise PacketError("shorter than an ICMPv6 header")
    kind, code, _checksum, identifier, sequence = _ICMP.unpack_from(message)
    if kind in {ECHO_REQUEST, ECHO_REPLY}:
        return Echo(kind == ECHO_REPLY, identifier, sequence)
    if kind != UNREACHABLE or code != _PORT_UNREACHABLE:
        raise PacketError(f"type {kind} code {code}")
    return _parse_quoted(message[_ICMP.size :])


def _parse_quoted(packet: bytes) -> ReturnedProbe:
    if len(packet) < SMALLEST_DATAGRAM_BYTES or packet[_NEXT_HEADER_AT] != _UDP_PROTOCOL:
        raise PacketError("an error about something else")
    source_port, _destination, _length, _checksum = _UDP.unpack_from(packet, _IPV6_BYTES)
    mark, sequence = _DATAGRAM.unpack_from(packet, _IPV6_BYTES + _UDP.size)
    if mark != _MARK:
        raise PacketError("an error about a foreign datagram")
    return ReturnedProbe(source_port, sequence)
