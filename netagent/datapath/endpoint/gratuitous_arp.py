"""Frames that tell neighbours the new MAC of an address. Pure.

    IPv4    an ARP announcement: sender and target are the address (RFC 5227 section 3)
    IPv6    an unsolicited neighbour advertisement with the override flag (RFC 4861 section 7.2.6)

Both update the entry of a neighbour that has one, and create none.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Final

_ETHERNET: Final = struct.Struct("!6s6sH")
_ETHERTYPE_ARP, _ETHERTYPE_IPV6 = 0x0806, 0x86DD
_BROADCAST: Final = b"\xff" * 6
_ALL_NODES: Final = ipaddress.IPv6Address("ff02::1").packed
_ALL_NODES_MAC: Final = b"\x33\x33" + _ALL_NODES[12:]
_ARP_REQUEST: Final = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)  # Ethernet, IPv4
_ICMPV6, _HOP_LIMIT = 58, 255
_ADVERTISEMENT, _OVERRIDE, _TARGET_MAC = 136, 0x20000000, 2


def announcement(address: str, mac: str) -> bytes:
    """Return the Ethernet frame for all neighbours on the link."""
    packed, hardware = ipaddress.ip_address(address).packed, bytes.fromhex(mac.replace(":", ""))
    if len(packed) == 4:
        body = _ARP_REQUEST + hardware + packed + bytes(6) + packed
        return _ETHERNET.pack(_BROADCAST, hardware, _ETHERTYPE_ARP) + body
    option = struct.pack("!BB6s", _TARGET_MAC, 1, hardware)
    message = struct.pack("!BBHI16s", _ADVERTISEMENT, 0, 0, _OVERRIDE, packed) + option
    pseudo = packed + _ALL_NODES + struct.pack("!II", len(message), _ICMPV6)
    message = message[:2] + struct.pack("!H", _checksum(pseudo + message)) + message[4:]
    header = struct.pack("!IHBB16s16s", 6 << 28, len(message), _ICMPV6, _HOP_LIMIT, packed, _ALL_NODES)
    return _ETHERNET.pack(_ALL_NODES_MAC, hardware, _ETHERTYPE_IPV6) + header + message


def _checksum(data: bytes) -> int:
    """Compute the checksum of RFC 1071 over an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
