"""sock_diag(7): which TCP and UDP sockets a network namespace has, and requests that end some of them. Pure.

A listing is one request, which the kernel answers with a message per socket, in several datagrams. It goes through
the whole table of the host's sockets, so a filter saves the messages but not the way: of TCP a millisecond or two for
each listing. The present form of the request asks for sockets of one family. The one that came before it asks for
TCP sockets of both (`inet_diag_dump_compat`), so that the kernel goes that way once. The kernel names a socket by
addresses, ports, device and a cookie that it never uses again; a request to end one has to repeat all of it, so it
never meets a later socket of the same addresses.

Layouts: <linux/inet_diag.h>, <linux/sock_diag.h>.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Final, NamedTuple

_HEADER: Final = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_REQUEST: Final = struct.Struct("=BBBBI")  # struct inet_diag_req_v2 up to the socket
_ATTRIBUTE: Final = struct.Struct("=HH")
_CONDITION: Final = struct.Struct("=BBHi")  # struct inet_diag_hostcond: family, prefix length, padding, port
_OPERATION: Final = struct.Struct("=BBH")  # struct inet_diag_bc_op: code, offset if true, offset if not
_SOCKET_AT, _SOCKET_BYTES, _ATTRIBUTES_AT = (
    4,
    48,
    72,
)  # struct inet_diag_msg, in which the socket is struct inet_diag_sockid
_OLD_REQUEST_END: Final = struct.Struct("=II")  # struct inet_diag_req behind the socket: states, zero
_PORTS_AND_ADDRESSES: Final = struct.Struct("!HH16s16s")
_NO_SOCKET: Final = bytes(_SOCKET_BYTES)

_BY_FAMILY, _DESTROY = 20, 21
_TCP_OF_BOTH: Final = 18  # TCPDIAG_GETSOCK
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP = 0x1, 0x4, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST_FILTER, _REQUEST_STORAGES, _REQUEST_MAP = 1, 2, 1
_STORAGES, _STORAGE, _STORAGE_VALUE = 20, 1, 3
_PEER_IS, _JUMP = 8, 1
_ANY_PORT: Final = -1
_NESTED: Final = 0x8000
_KIND_MASK: Final = 0x3FFF
_MAPPED: Final = bytes(10) + b"\xff\xff"

MOST_PEERS_FILTERED: Final = 64
"""Beyond it the kernel lists the sockets of all peers: it walks along the conditions for every socket."""


class Protocol(IntEnum):
    """IPPROTO_* of the sockets that can be listed."""

    TCP = 6
    UDP = 17


class State(IntEnum):
    """States of a socket (include/net/tcp_states.h). A UDP socket that is connected is established."""

    ESTABLISHED = 1
    SYN_SENT = 2
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    CLOSE_WAIT = 8
    LAST_ACK = 9
    CLOSING = 11


class SockDiagError(ValueError):
    """The octets are no answer of sock_diag. Nothing has changed."""


class SocketQuery(NamedTuple):
    """Which sockets of a namespace are wanted."""

    family: int | None
    """None: both, of TCP alone. A socket of AF_INET6 may have an IPv4 peer."""
    protocol: Protocol
    states: Sequence[State]
    peers: Sequence[bytes]
    """Packed addresses, with any port."""
    storage_map: int | None = None
    """The descriptor, in this process, of a map of socket storage whose values are wanted."""


class ListedSocket(NamedTuple):
    """A socket, as the kernel lists it."""

    family: int
    peer: bytes
    """16 octets; an IPv4 address in its mapped form, whatever the socket's family."""
    peer_port: int
    key: bytes
    """What names it in a request to end it."""
    storage: bytes | None
    """Its value in the map that the listing asked for; None: it has none, or is no TCP socket."""


class DiagAnswer(NamedTuple):
    """What one datagram of the kernel says."""

    sockets: list[ListedSocket]
    finished: dict[int, int]
    """Requests that the kernel has done with, by sequence number: the error number, or 0."""


def mapped(address: bytes) -> bytes:
    """Return 16 octets for a packed address of either family."""
    return address if len(address) == 16 else _MAPPED + address


def listing(query: SocketQuery, sequence: int) -> bytes:
    """Encode a request for the sockets that a query means; those of all peers, if it has more of them than
    MOST_PEERS_FILTERED."""
    mask = sum(1 << state for state in query.states)
    if query.family is None:
        kind, body = _TCP_OF_BOTH, bytes(_SOCKET_AT) + _NO_SOCKET + _OLD_REQUEST_END.pack(mask, 0)
    else:
        kind, body = _BY_FAMILY, _REQUEST.pack(query.family, query.protocol, 0, 0, mask) + _NO_SOCKET
    if 0 < len(query.peers) <= MOST_PEERS_FILTERED:
        body += _attribute(_REQUEST_FILTER, _filter(query.peers))
    if query.storage_map is not None:
        wanted = _attribute(_REQUEST_MAP, struct.pack("=I", query.storage_map))
        body += _attribute(_REQUEST_STORAGES | _NESTED, wanted)
    return _message(kind, _NLM_F_DUMP, body, sequence)


def ending(family: int, protocol: Protocol, key: bytes, sequence: int) -> bytes:
    """Encode a request to end a socket; the kernel acknowledges it. What waits at the socket gets ECONNABORTED."""
    return _message(_DESTROY, _NLM_F_ACK, _REQUEST.pack(family, protocol, 0, 0, 0xFFFFFFFF) + key, sequence)


def no_socket_key() -> bytes:
    """Return a key that no socket has: a request to end it tells whether the kernel can end sockets at all."""
    return _PORTS_AND_ADDRESSES.pack(1, 1, bytes(16), bytes(16)) + bytes(
        _SOCKET_BYTES - _PORTS_AND_ADDRESSES.size
    )


def answer_untrusted(data: bytes) -> DiagAnswer:
    """Parse a datagram from the kernel. SockDiagError when a length in it can't be right.

    It holds no more sockets than octets / 88, and each octet is looked at once per level of nesting, of which there
    are three."""
    sockets: list[ListedSocket] = []
    finished: dict[int, int] = {}
    offset = 0
    while offset < len(data):
        if offset + _HEADER.size > len(data):
            raise SockDiagError("a message without a whole header")
        length, kind, _flags, sequence, _port = _HEADER.unpack_from(data, offset)
        if not _HEADER.size <= length <= len(data) - offset:
            raise SockDiagError(f"a message of {length} octets in {len(data) - offset}")
        body = data[offset + _HEADER.size : offset + length]
        if kind in {_NLMSG_ERROR, _NLMSG_DONE}:
            if len(body) < 4:
                raise SockDiagError("an end without its error number")
            finished[sequence] = -int.from_bytes(body[:4], sys.byteorder, signed=True)
        elif kind in {_BY_FAMILY, _TCP_OF_BOTH}:
            sockets.append(_socket(body))
        offset += (length + 3) & ~3
    return DiagAnswer(sockets, finished)


def _socket(body: bytes) -> ListedSocket:
    if len(body) < _ATTRIBUTES_AT:
        raise SockDiagError(f"a socket of {len(body)} octets")
    family = body[0]
    key = body[_SOCKET_AT : _SOCKET_AT + _SOCKET_BYTES]
    _own_port, port, _own, peer = _PORTS_AND_ADDRESSES.unpack_from(key)
    if family == socket.AF_INET:
        peer = _MAPPED + peer[:4]
    storage = None
    for kind, value in _attributes(body[_ATTRIBUTES_AT:]):
        if kind == _STORAGES:
            storage = _storage_value(value)
    return ListedSocket(family, peer, port, key, storage)


def _storage_value(storages: bytes) -> bytes | None:
    for kind, one in _attributes(storages):
        if kind == _STORAGE:
            for part, value in _attributes(one):
                if part == _STORAGE_VALUE:
                    return value
    return None


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if not _ATTRIBUTE.size <= length <= len(data) - offset:
            raise SockDiagError(f"an attribute of {length} octets in {len(data) - offset}")
        yield kind & _KIND_MASK, data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3


def _filter(peers: Sequence[bytes]) -> bytes:
    """Encode "the peer is one of these". A condition leads to the next operation or beyond it; what ends at the end
    is listed, and what ends behind it is not."""
    conditions = []
    for peer in peers:
        family = socket.AF_INET if len(peer) == 4 else socket.AF_INET6
        conditions.append(_CONDITION.pack(family, len(peer) * 8, 0, _ANY_PORT) + peer)
    jump = _OPERATION.size
    left = sum(jump + len(one) + jump for one in conditions) - jump  # the last one needs none
    code = b""
    for condition in conditions:
        size = _OPERATION.size + len(condition)
        # If not: over the jump to the next condition; after the last one that is four octets beyond the end.
        code += _OPERATION.pack(_PEER_IS, size, size + jump) + condition
        left -= size
        if left:
            code += _OPERATION.pack(_JUMP, jump, left)
            left -= jump
    return code


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def _message(kind: int, flags: int, body: bytes, sequence: int) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags | _NLM_F_REQUEST, sequence, 0) + body
