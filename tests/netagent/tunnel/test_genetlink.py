"""The kernel's messages about WireGuard, against octets written out by hand from <linux/wireguard.h>."""

from __future__ import annotations

import struct

from netagent.tunnel.genetlink import (
    PEERS_PER_REQUEST,
    decode_device,
    decode_family,
    device_request,
    encode_changes,
    family_request,
)
from netagent.tunnel.peer import NO_PRESHARED_KEY, PeerChange

FAMILY = 31
KEY, OTHER, PRIVATE, SHARED = b"a" * 32, b"b" * 32, b"c" * 32, b"p" * 32
NAME = "0e00 0200 6e782d74756e6e656c00 0000"
"""WGDEVICE_A_IFNAME: nx-tunnel."""


def octets(text: str) -> bytes:
    """From hex of a little-endian machine, which tests run on."""
    return bytes.fromhex(text)


def test_the_family_is_asked_for_by_its_name() -> None:
    request = family_request()
    assert (request.type, request.body) == (16, octets("03 01 0000 0e00 0200 776972656775617264 00 0000"))
    answer = octets("01 02 0000 0e00 0200 776972656775617264 00 0000 0600 0100 1f00 0000")
    assert decode_family(answer) == FAMILY


def test_a_device_is_asked_for_by_its_name() -> None:
    request = device_request(FAMILY, "nx-tunnel")
    assert (request.type, request.body) == (FAMILY, octets(f"00 01 0000 {NAME}"))


def test_a_request_says_only_what_changes() -> None:
    changes = [
        PeerChange(public_key=KEY, remove=True),
        PeerChange(
            public_key=OTHER,
            preshared_key=SHARED,
            endpoint=("192.0.2.2", 7955),
            keepalive_s=25,
            allowed=("240.0.0.1/32",),
        ),
        PeerChange(public_key=PRIVATE, endpoint=("2001:db8::2", 5), allowed=()),
    ]
    (request,) = encode_changes(FAMILY, "nx-tunnel", private_key=PRIVATE, port=7955, changes=changes)
    removed = f"3000 0080 2400 0100 {KEY.hex()} 0800 0300 01000000"
    changed = (
        f"9000 0080 2400 0100 {OTHER.hex()} 0800 0300 02000000 2400 0200 {SHARED.hex()}"
        "1400 0400 0200 1f13 c0000202 0000000000000000 0600 0500 1900 0000"
        "2000 0980 1c00 0080 0600 0100 0200 0000 0800 0200 f0000001 0500 0300 20 000000"
    )
    pointed = (
        f"5000 0080 2400 0100 {PRIVATE.hex()} 0800 0300 02000000"
        "2000 0400 0a00 0005 00000000 20010db8000000000000000000000002 00000000"
    )
    peers = octets(removed + changed + pointed)
    head = octets(f"01 01 0000 {NAME} 2400 0300 {PRIVATE.hex()} 0600 0600 131f 0000")
    assert request.type == FAMILY
    assert request.body == head + struct.pack("=HH", 4 + len(peers), 0x8008) + peers


def test_many_peers_take_several_requests_and_the_key_goes_with_the_first() -> None:
    count = PEERS_PER_REQUEST + 1
    changes = [PeerChange(public_key=number.to_bytes(32, "big"), remove=True) for number in range(count)]
    first, second = encode_changes(FAMILY, "nx-tunnel", private_key=PRIVATE, changes=changes)
    assert PRIVATE in first.body
    assert PRIVATE not in second.body
    assert len(first.body) < 1 << 16
    assert second.body.endswith(
        octets("3400 0880 3000 0080 2400 0100") + changes[-1].public_key + octets("0800 0300 01000000")
    )


def test_a_device_is_read_whose_peer_goes_on_in_a_second_message() -> None:
    allowed = "1c00 0080 0600 0100 0200 0000 0800 0200 f00000{:02x} 0500 0300 20 000000"
    peer = (
        f"2400 0100 {KEY.hex()} 2400 0200 {SHARED.hex()} "
        "1400 0600 00f1536500000000 0065cd1d00000000"
        "0600 0500 1900 0000 0c00 0800 0a00000000000000 0c00 0700 1400000000000000"
        "1400 0400 0200 1f13 c0000202 0000000000000000"
        f"2000 0980 {allowed.format(1)}"
    )
    other = (
        f"2400 0100 {OTHER.hex()} 2400 0200 {NO_PRESHARED_KEY.hex()} 0600 0500 0000 0000"
        "2000 0400 0a00 0005 00000000 20010db8000000000000000000000002 00000000"
    )
    rest = f"2400 0100 {KEY.hex()} 2000 0980 {allowed.format(2)}"
    first = octets(f"00 01 0000 {NAME} 2400 0300 {PRIVATE.hex()} 0600 0600 131f 0000") + nested(peer)
    second = octets(f"00 01 0000 {NAME}") + nested(rest, other)
    found = decode_device([first, second])
    assert (found.private_key, found.port, list(found.peers)) == (PRIVATE, 7955, [KEY, OTHER])
    one, two = found.peers.values()
    assert one.peer.endpoint == ("192.0.2.2", 7955)
    assert one.peer.preshared_key == SHARED
    assert one.peer.allowed == ("240.0.0.1/32", "240.0.0.2/32")
    assert (one.peer.keepalive_s, one.handshake_at_s) == (25, 1700000000.5)
    assert (one.received_bytes, one.sent_bytes) == (20, 10)
    assert two.peer.endpoint == ("2001:db8::2", 5)
    assert (two.peer.preshared_key, two.peer.keepalive_s, two.handshake_at_s) == (None, None, 0.0)


def nested(*peers: str) -> bytes:
    """WGDEVICE_A_PEERS."""
    parts = [struct.pack("=HH", 4 + len(octets(one)), 0x8000) + octets(one) for one in peers]
    return struct.pack("=HH", 4 + sum(map(len, parts)), 0x8008) + b"".join(parts)
