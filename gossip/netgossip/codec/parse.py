"""Parse memberlist's messages from untrusted bytes. The formats are in messages.py.

The input must follow the format strictly: flat maps, lengths and counts checked against the data before anything is
allocated, printable text, addresses that a node can have. Only WireError comes out, and memory stays within a small
multiple of the input: one datagram may decompress to 64 kB, a stream's message to the limit that the caller gives. A
stream's message may contain thousands of members, and is parsed in slices.
"""

from __future__ import annotations

import functools
import ipaddress
import zlib
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import msgpack

from netgossip.codec import lzw
from netgossip.codec.messages import (
    ACK,
    ALIVE,
    COMPOUND,
    COMPOUND_HEADER_BYTES,
    COMPOUND_PART_BYTES,
    COMPRESS,
    CRC,
    DEAD,
    ERROR,
    INDIRECT_PING,
    META_LIMIT_BYTES,
    NACK,
    NAME_LIMIT_BYTES,
    PING,
    PUSH_PULL,
    SUSPECT,
    USER,
    Ack,
    Alive,
    DatagramMessage,
    Dead,
    ErrorReply,
    IndirectPing,
    Nack,
    Ping,
    PushPull,
    StreamMessage,
    Suspect,
    UserMessage,
)
from netgossip.codec.meta import PROOF_LIMIT_BYTES
from netgossip.errors import WireError
from netgossip.slices import MEMBERS_PER_SLICE, Slices, at_once
from netgossip.types import Address, Member, MemberState

_Fields: TypeAlias = dict[bytes, Any]

_EXPANDED_LIMIT_BYTES: Final = 64 * 1024
"""Bound of what one datagram decompresses to; beyond it: refused. A datagram holds at most 64 kB uncompressed."""
_PARTS_LIMIT: Final = 512
_DEPTH_LIMIT: Final = 4
"""compress(compound(message)) is the deepest nesting that Go sends."""
_NODE_MIN_BYTES: Final = 48
"""The size of the keys alone of one node in a push/pull."""


def parse_datagram_untrusted(data: bytes) -> tuple[DatagramMessage, ...]:
    """Return all messages of one decrypted datagram, in order. Raises WireError, and then none of them counts."""
    if data[:1] == bytes((CRC,)):
        if len(data) < 6 or zlib.crc32(data[5:]) != int.from_bytes(data[1:5], "big"):
            raise WireError("wrong CRC")
        data = data[5:]
    parts: list[bytes] = []
    _unfold_untrusted(data, parts, _EXPANDED_LIMIT_BYTES, _DEPTH_LIMIT)
    return tuple(_parse_one_untrusted(part) for part in parts)


def _unfold_untrusted(data: bytes, parts: list[bytes], budget_bytes: int, depth: int) -> int:
    """Append the plain messages in `data` to `parts`; return what is left of the budget for decompression."""
    if depth == 0 or len(parts) >= _PARTS_LIMIT:
        raise WireError("messages nested too deeply, or too many")
    kind = data[0] if data else -1
    if kind == COMPRESS:
        expanded = at_once(_decompress_untrusted(data, budget_bytes))
        return _unfold_untrusted(expanded, parts, budget_bytes - len(expanded), depth - 1)
    if kind != COMPOUND:
        parts.append(data)
        return budget_bytes
    count = data[1] if len(data) > 1 else 0
    start = COMPOUND_HEADER_BYTES + COMPOUND_PART_BYTES * count
    if len(data) < start:
        raise WireError("a compound message is cut off")
    for index in range(count):
        at = COMPOUND_HEADER_BYTES + COMPOUND_PART_BYTES * index
        end = start + int.from_bytes(data[at : at + 2], "big")
        if end > len(data):
            raise WireError("a compound message is cut off")
        budget_bytes = _unfold_untrusted(data[start:end], parts, budget_bytes, depth - 1)
        start = end
    if start != len(data):
        raise WireError("bytes follow a compound message")
    return budget_bytes


def _decompress_untrusted(data: bytes, limit_bytes: int) -> Slices[bytes]:
    fields = _unpack_untrusted(data[1:], limit_bytes=len(data))
    if fields.get(b"Algo") != 0:
        raise WireError("unknown compression")
    expanded = yield from lzw.decode_untrusted(_bytes(fields, b"Buf"), limit_bytes=limit_bytes)
    if not expanded:
        raise WireError("an empty compressed message")
    return expanded


def parse_stream_untrusted(data: bytes, *, limit_bytes: int, max_nodes: int) -> Slices[StreamMessage]:
    """Parse the one message of a decrypted stream frame, in slices. Raises WireError."""
    if data[:1] == bytes((COMPRESS,)):
        data = yield from _decompress_untrusted(data, limit_bytes)
    kind, body = (data[0], data[1:]) if data else (-1, b"")
    if kind == PUSH_PULL:
        return (yield from _parse_push_pull_untrusted(body, max_nodes))
    if kind == USER:
        return _user_stream_untrusted(body)
    if kind == ERROR:
        text = _unpack_untrusted(body, limit_bytes=1024).get(b"Error", b"")
        return ErrorReply(text.decode(errors="replace") if isinstance(text, bytes) else "")
    if kind in (PING, ACK):
        message = _parse_one_untrusted(data)
        assert isinstance(message, Ping | Ack)
        return message
    raise WireError("this message does not belong on a stream")


def _parse_one_untrusted(data: bytes) -> DatagramMessage:
    if not data:
        raise WireError("an empty message")
    if data[0] == USER:
        return UserMessage(data[1:])
    parser = _PARSERS.get(data[0])
    if parser is None:
        raise WireError("this message does not belong in a datagram")
    return parser(_unpack_untrusted(data[1:], limit_bytes=1024))


def _unpack_untrusted(body: bytes, *, limit_bytes: int) -> _Fields:
    """Unpack one flat map that fills `body`, with strings of at most `limit_bytes`."""
    try:
        fields = msgpack.unpackb(body, **_unpack_options(limit_bytes))
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise WireError("not a msgpack map") from error
    return _checked_map(fields)


def _unpack_options(limit_bytes: int) -> dict[str, Any]:
    return {
        "raw": True,
        "strict_map_key": True,
        "list_hook": _refuse_list,
        "object_hook": _checked_map,
        "max_str_len": limit_bytes,
        "max_bin_len": limit_bytes,
        "max_array_len": 0,
        "max_map_len": 16,
        "max_ext_len": 0,
    }


def _refuse_list(_items: list[Any]) -> None:
    raise WireError("a list where none belongs")


def _checked_map(fields: Any) -> _Fields:
    """Check that `fields` is a flat map. Called for the inner of two nested maps first, so the outer is refused
    before a third level is built."""
    if not isinstance(fields, dict) or any(isinstance(value, dict) for value in fields.values()):
        raise WireError("not a flat msgpack map")
    return fields


def _parse_push_pull_untrusted(body: bytes, max_nodes: int) -> Slices[PushPull]:
    unpacker = msgpack.Unpacker(max_buffer_size=max(len(body), 1), **_unpack_options(META_LIMIT_BYTES))
    unpacker.feed(body)
    try:
        header = _checked_map(unpacker.unpack())
        count, user_bytes = _integer(header, b"Nodes", 2**31), _integer(header, b"UserStateLen", 2**31)
        if count > max_nodes or count * _NODE_MIN_BYTES + user_bytes > len(body):
            raise WireError("a push/pull of an impossible size")
        nodes = []
        for number in range(1, count + 1):
            nodes.append(_member(_checked_map(unpacker.unpack())))
            if number % MEMBERS_PER_SLICE == 0:
                yield
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise WireError("a push/pull that is not msgpack") from error
    user_state = body[unpacker.tell() :]
    if len(user_state) != user_bytes:
        raise WireError("a push/pull with a wrong length")
    return PushPull(header.get(b"Join") is True, tuple(nodes), user_state)


def _user_stream_untrusted(body: bytes) -> UserMessage:
    unpacker = msgpack.Unpacker(max_buffer_size=max(len(body), 1), **_unpack_options(META_LIMIT_BYTES))
    unpacker.feed(body)
    try:
        size = _integer(_checked_map(unpacker.unpack()), b"UserMsgLen", 2**31)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise WireError("a user message that is not msgpack") from error
    payload = body[unpacker.tell() :]
    if len(payload) != size:
        raise WireError("a user message with a wrong length")
    return UserMessage(payload)


def _integer(fields: _Fields, key: bytes, limit: int) -> int:
    value = fields.get(key)
    if type(value) is not int or not 0 <= value < limit:
        raise WireError(f"{key.decode()} is missing or out of range")
    return value


def _bytes(fields: _Fields, key: bytes) -> bytes:
    value = fields.get(key)
    if value is None:
        return b""
    if not isinstance(value, bytes):
        raise WireError(f"{key.decode()} is not a byte string")
    return value


def _name(fields: _Fields, key: bytes) -> str:
    try:
        name = _bytes(fields, key).decode()
    except UnicodeDecodeError as error:
        raise WireError(f"{key.decode()} is not text") from error
    if not name or len(name) > NAME_LIMIT_BYTES or not name.isprintable():
        raise WireError(f"{key.decode()} is not a valid node name")
    return name


@functools.lru_cache(maxsize=4096)
def _host_of(packed: bytes) -> str:
    """Return the IP address as text; an IPv4 address mapped into IPv6 becomes IPv4. Raises WireError for one that no
    node can have."""
    try:
        address = ipaddress.ip_address(packed)
    except ValueError as error:
        raise WireError("an IP address has 4 or 16 bytes") from error
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_unspecified or address.is_multicast:
        raise WireError("an IP address that no node can have")
    return str(address)


def _address(fields: _Fields, host_key: bytes, port_key: bytes) -> Address:
    port = _integer(fields, port_key, 65536)
    if port == 0:
        raise WireError("port 0")
    return _host_of(_bytes(fields, host_key)), port


def _reply_to(fields: _Fields) -> Address | None:
    if not fields.get(b"SourceAddr") or not fields.get(b"SourcePort"):
        return None
    return _address(fields, b"SourceAddr", b"SourcePort")


def _source(fields: _Fields) -> str | None:
    return _name(fields, b"SourceNode") if fields.get(b"SourceNode") else None


def _vsn(fields: _Fields) -> bytes:
    vsn = _bytes(fields, b"Vsn")
    if len(vsn) != 6:
        raise WireError("Vsn does not have 6 bytes")
    return vsn


def _meta(fields: _Fields) -> bytes:
    meta = _bytes(fields, b"Meta")
    if len(meta) > META_LIMIT_BYTES:
        raise WireError("Meta is too long")
    return meta


def _proof(fields: _Fields) -> bytes:
    proof = _bytes(fields, b"Proof")
    if len(proof) > PROOF_LIMIT_BYTES:
        raise WireError("Proof is too long")
    return proof


def _incarnation(fields: _Fields) -> int:
    return _integer(fields, b"Incarnation", 2**32)


def _sequence(fields: _Fields) -> int:
    return _integer(fields, b"SeqNo", 2**32)


def _member(fields: _Fields) -> Member:
    return Member(
        _name(fields, b"Name"),
        _address(fields, b"Addr", b"Port"),
        MemberState(_integer(fields, b"State", len(MemberState))),
        _incarnation(fields),
        _meta(fields),
        _vsn(fields),
        _proof(fields),
    )


def _indirect_ping(fields: _Fields) -> IndirectPing:
    return IndirectPing(
        _sequence(fields),
        _name(fields, b"Node"),
        _address(fields, b"Target", b"Port"),
        fields.get(b"Nack") is True,
        _source(fields),
        _reply_to(fields),
    )


def _alive(fields: _Fields) -> Alive:
    return Alive(
        _name(fields, b"Node"),
        _incarnation(fields),
        _address(fields, b"Addr", b"Port"),
        _meta(fields),
        _vsn(fields),
    )


_PARSERS: Final[dict[int, Callable[[_Fields], DatagramMessage]]] = {
    PING: lambda f: Ping(_sequence(f), _name(f, b"Node"), _source(f), _reply_to(f)),
    INDIRECT_PING: _indirect_ping,
    ACK: lambda f: Ack(_sequence(f), _bytes(f, b"Payload")),
    SUSPECT: lambda f: Suspect(_name(f, b"Node"), _incarnation(f), _name(f, b"From")),
    ALIVE: _alive,
    DEAD: lambda f: Dead(_name(f, b"Node"), _incarnation(f), _name(f, b"From"), _proof(f)),
    NACK: lambda f: Nack(_sequence(f)),
}
