"""Lists of sockets: any octets, and what a filter means."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from collections.abc import Sequence

import pytest
from fakes.work import instructions_of
from hypothesis import given
from hypothesis import strategies as st

from netagent.datapath.netlink import sock_diag
from netagent.datapath.netlink.sock_diag import (
    MOST_PEERS_FILTERED,
    Protocol,
    SockDiagError,
    SocketQuery,
    State,
    answer_untrusted,
    ending,
    listing,
)

DATAGRAM_BYTES = 1 << 15
"""What the kernel puts into one datagram at most."""
ADDRESSES = st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16))


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(kind: int, body: bytes, sequence: int = 7) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, sequence, 0) + body + bytes(-len(body) % 4)


def listed(
    family: int, peer: bytes, port: int, attributes: bytes = b"", state: State = State.ESTABLISHED
) -> bytes:
    key = struct.pack("!HH16s16s", 40_000, port, bytes(16), peer.ljust(16, b"\0")) + bytes(12)
    return message(20, bytes([family, state, 0, 0]) + key + bytes(20) + attributes)


def storage(value: bytes) -> bytes:
    return attribute(20 | 0x8000, attribute(1 | 0x8000, attribute(2, bytes(4)) + attribute(3, value)))


def test_a_socket_is_listed_with_its_peer_and_its_storage() -> None:
    data = listed(socket.AF_INET, b"\x0a\0\0\1", 80, attribute(8, b"\0") + storage(b"origins"))
    data += listed(socket.AF_INET6, bytes(15) + b"\1", 443)
    sockets, finished = answer_untrusted(data + message(3, bytes(4)))
    first, second = sockets
    assert (first.peer, first.peer_port, first.storage) == (bytes(10) + b"\xff\xff\x0a\0\0\1", 80, b"origins")
    assert (second.peer, second.peer_port, second.storage) == (bytes(15) + b"\1", 443, None)
    assert finished == {7: 0}
    # What names a socket goes back as it came.
    assert ending(first.family, Protocol.TCP, first.key, 8).endswith(first.key)


def test_a_refusal_and_an_acknowledgement_are_known_by_their_numbers() -> None:
    data = message(2, struct.pack("=i", -95) + bytes(16), 3) + message(2, bytes(20), 4)
    assert answer_untrusted(data) == ([], {3: 95, 4: 0})


@given(st.binary(max_size=300))
def test_any_octets_are_an_answer_or_refused(data: bytes) -> None:
    with contextlib.suppress(SockDiagError):
        answer_untrusted(data)


@given(st.data())
def test_any_change_of_an_answer_is_an_answer_or_refused(data: st.DataObject) -> None:
    whole = bytearray(listed(socket.AF_INET, bytes(4), 80, storage(bytes(84))) + message(3, bytes(4)))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(SockDiagError):
        answer_untrusted(bytes(whole)[: data.draw(st.integers(0, len(whole)))])


@pytest.mark.parametrize(
    "data",
    [
        b"\0",
        struct.pack("=IHHII", 8, 20, 0, 7, 0),
        struct.pack("=IHHII", 17, 20, 0, 7, 0),
        message(20, bytes(71)),
        message(3, bytes(3)),
        message(20, bytes(72) + struct.pack("=HH", 3, 1)),
        message(20, bytes(72) + struct.pack("=HH", 5, 1)),
        message(20, bytes(72) + attribute(20, struct.pack("=HH", 5, 1))),
    ],
    ids=["octet", "short", "long", "socket", "end", "no length", "attribute", "storage"],
)
def test_lengths_that_cannot_be_right_are_refused(data: bytes) -> None:
    with pytest.raises(SockDiagError):
        answer_untrusted(data)


@pytest.mark.parametrize(
    "data",
    [
        message(20, bytes(72)) * (DATAGRAM_BYTES // 88),
        message(20, bytes(72) + attribute(0, b"") * ((DATAGRAM_BYTES - 88) // 4)),
        message(20, bytes(72) + attribute(20, attribute(1, attribute(0, b"") * 8000))),
        message(20, bytes(72) + attribute(20, b"") * 8000),
        message(1, b"") * (DATAGRAM_BYTES // 16),
        b"".join(message(3, bytes(4), number) for number in range(DATAGRAM_BYTES // 20)),
    ],
    ids=["sockets", "attributes", "nested", "storages", "unknown", "ends"],
)
def test_the_worst_datagram_is_little_work(data: bytes) -> None:
    assert len(data) <= 65_535
    assert instructions_of(answer_untrusted, data, most=1_000_000) > 10_000


def accepts(code: bytes, address: bytes) -> bool:
    """What the kernel's inet_diag_bc_run makes of it, for a socket whose family is that of the address, or IPv6."""
    offset = 0
    while offset < len(code):
        kind, if_so, if_not = struct.unpack_from("=BBH", code, offset)
        assert if_so % 4 == if_not % 4 == 0
        assert if_not <= len(code) - offset + 4
        is_so = False
        if kind == 8:
            family, prefix, port = struct.unpack_from("=BBxxi", code, offset + 4)
            wanted = code[offset + 12 : offset + 12 + prefix // 8]
            assert port == -1
            assert family == (socket.AF_INET if prefix == 32 else socket.AF_INET6)
            is_so = wanted == address or (prefix == 32 and address == bytes(10) + b"\xff\xff" + wanted)
        else:
            assert kind == 1
        offset += if_so if is_so else if_not
    return offset == len(code)


def filter_of(peers: Sequence[bytes]) -> bytes | None:
    request = listing(SocketQuery(socket.AF_INET6, Protocol.TCP, tuple(State), peers), 1)
    if len(request) == 16 + 8 + 48:
        return None
    length, kind = struct.unpack_from("=HH", request, 72)
    assert kind == 1
    return request[76 : 72 + length]


@given(st.lists(ADDRESSES, min_size=1, max_size=8, unique=True), ADDRESSES)
def test_a_filter_passes_its_peers_and_no_others(peers: list[bytes], other: bytes) -> None:
    code = filter_of(peers)
    assert code is not None
    for peer in peers:
        assert accepts(code, peer)
        assert accepts(code, sock_diag.mapped(peer))
    is_one = other in peers or other in map(sock_diag.mapped, peers)
    assert accepts(code, other) is is_one


def test_very_many_peers_are_not_filtered_by_the_kernel() -> None:
    peers = [ipaddress.IPv4Address(number).packed for number in range(MOST_PEERS_FILTERED + 1)]
    assert filter_of(peers[:-1]) is not None
    assert filter_of(peers) is None
