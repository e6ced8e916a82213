"""The record channel's messages and their bytes.

A frame's body is one message after the other, each a msgpack array of scalars: `[kind, ...]`. Nothing is nested, so
a parser never allocates more than the bytes in hand announce. Positions are only ever appended; a receiver skips
those that it does not know, and whole messages of a kind that it does not know.

    Hello, Welcome      prove that a start of a peer is live (see frame.py)
    Delta               an owner's changes in a scope since `base`; base 0 is the whole log and replaces
    Ack                 to an owner: what we hold of your log, and how far our own reaches
    Digest, Same        is your scope equal to mine? yes
    Vector              no: this is what I hold, compare
    Want                send me these logs from here on
    Request, Response   an application's question to one peer

`digest` is a 128-bit sum over a log's live entries and `signature` has room for the owner's signature over (scope,
epoch, head, digest), so that what a third host relays can be proven; it is empty now and relayed as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgpack

from netgossip.errors import WireError
from netgossip.types import Entry, NodeId, Scope, Version

COUNTER_LIMIT: Final = 1 << 63
"""Epochs and sequences stay below. At a million changes a second: 292,000 years."""
KEY_LIMIT_BYTES: Final = 255
VALUE_LIMIT_BYTES: Final = 64 * 1024
"""Of one entry. An endpoint record has some 100 to 400 bytes."""
PAYLOAD_LIMIT_BYTES: Final = 1000
"""Of a request or response: with all wrapping it stays one datagram."""
SIGNATURE_LIMIT_BYTES: Final = 128
NONCE_BYTES: Final = 8
DIGEST_BYTES: Final = 16
NO_VERSION: Final = Version(0, 0)
"""Of a log that one does not hold."""


@dataclass(frozen=True, slots=True)
class Hello:
    """Return my nonce, so that I know this start of yours to be live."""

    nonce: bytes


@dataclass(frozen=True, slots=True)
class Welcome:
    """Your nonce, returned."""

    nonce: bytes


@dataclass(frozen=True, slots=True)
class Delta:
    """Everything that changed in (base, head] of one log, in order of sequence."""

    scope: Scope
    owner: NodeId
    epoch: int
    base: int
    head: int
    collected: int
    digest: int
    entries: tuple[Entry, ...]
    signature: bytes = b""

    @property
    def version(self) -> Version:
        """The log's version once the delta is applied."""
        return Version(self.epoch, self.head)


@dataclass(frozen=True, slots=True)
class Ack:
    """To an owner. `held` of its log, `own` version of the sender's log; `holding`: takes part in the scope."""

    scope: Scope
    holding: bool
    held: Version
    own: Version


@dataclass(frozen=True, slots=True)
class Digest:
    """Fingerprint over all logs that the sender holds in a scope."""

    scope: Scope
    fingerprint: int


@dataclass(frozen=True, slots=True)
class Same:
    """The receiver's fingerprint is the sender's as well."""

    scope: Scope
    fingerprint: int


@dataclass(frozen=True, slots=True)
class Row:
    """One log in a vector."""

    owner: NodeId
    version: Version
    digest: int


@dataclass(frozen=True, slots=True)
class Vector:
    """All logs that the sender holds in a scope. Not `holding`: it has no part in it, the rows are incidental."""

    scope: Scope
    holding: bool
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Want:
    """Send what these logs have beyond the versions that are given."""

    scope: Scope
    rows: tuple[tuple[NodeId, Version], ...]


@dataclass(frozen=True, slots=True)
class Request:
    """`request_id` is the asker's choice."""

    request_id: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """Answers the request of the same number."""

    request_id: int
    payload: bytes


Message: TypeAlias = Hello | Welcome | Delta | Ack | Digest | Same | Vector | Want | Request | Response

IDEMPOTENT: Final = (Hello, Delta, Digest, Vector, Want)
"""May come twice, and late: allowed on streams."""
TIMELESS: Final = (Hello, Delta, Digest)
"""Those that a recording of years ago may repeat as well: allowed before admission."""

_Field: TypeAlias = int | bytes | bool | None


def encode(message: Message) -> bytes:
    """The bytes of one message."""
    return bytes(msgpack.packb(_fields(message)))


def _fields(message: Message) -> list[_Field]:
    match message:
        case Hello(nonce):
            return [1, nonce]
        case Welcome(nonce):
            return [2, nonce]
        case Delta():
            return _delta_fields(message)
        case Ack(scope, holding, held, own):
            return [4, scope, holding, *held, *own]
        case Digest(scope, fingerprint):
            return [5, scope, _digest(fingerprint)]
        case Same(scope, fingerprint):
            return [6, scope, _digest(fingerprint)]
        case Vector() | Want():
            return _row_fields(message)
        case Request(request_id, payload):
            return [9, request_id, payload]
        case Response(request_id, payload):
            return [10, request_id, payload]


def _digest(value: int) -> bytes:
    return value.to_bytes(DIGEST_BYTES, "big")


def _row_fields(message: Vector | Want) -> list[_Field]:
    if isinstance(message, Vector):
        fields: list[_Field] = [7, message.scope, message.holding, len(message.rows)]
        for row in message.rows:
            fields += (bytes.fromhex(row.owner), *row.version, _digest(row.digest))
        return fields
    fields = [8, message.scope, len(message.rows)]
    for owner, version in message.rows:
        fields += (bytes.fromhex(owner), *version)
    return fields


def _delta_fields(delta: Delta) -> list[_Field]:
    fields: list[_Field] = [
        3,
        delta.scope,
        bytes.fromhex(delta.owner),
        delta.epoch,
        delta.base,
        delta.head,
        delta.collected,
        _digest(delta.digest),
        delta.signature,
        len(delta.entries),
    ]
    for entry in delta.entries:
        fields += (entry.key, entry.version.sequence, entry.value)
    return fields


def decode_untrusted(body: bytes) -> list[Message]:
    """All messages of a body that we know, in order. Raises WireError; then nothing of the body counts."""
    reader = _Reader(body)
    messages = []
    try:
        while reader.begin():
            parse = _PARSERS.get(reader.integer())
            if parse is not None:
                messages.append(parse(reader))
            reader.finish()
    except (msgpack.UnpackException, ValueError, TypeError, OverflowError) as error:
        raise WireError(f"malformed message: {error}") from None
    return messages


class _Reader:
    """Cursor over a body. Containers inside a message are refused by the unpacker's limits of 0."""

    def __init__(self, body: bytes) -> None:
        limit = max(len(body), 1)
        self._unpacker: Any = msgpack.Unpacker(
            None,
            max_buffer_size=limit,
            max_array_len=0,
            max_map_len=0,
            max_ext_len=0,
            max_str_len=0,
            max_bin_len=limit,
        )
        self._unpacker.feed(body)
        self._size = len(body)
        self._left = 0

    def begin(self) -> bool:
        """True when another message follows."""
        if self._unpacker.tell() >= self._size:
            return False
        self._left = self._unpacker.read_array_header()
        return True

    def finish(self) -> None:
        """Skip the positions that we do not know."""
        if self._left > self._size:
            raise WireError("more positions than bytes")
        for _ in range(self._left):
            self._unpacker.skip()

    def _next(self) -> object:
        if self._left <= 0:
            raise WireError("message cut off")
        self._left -= 1
        value: object = self._unpacker.unpack()
        return value

    def integer(self) -> int:
        value = self._next()
        if type(value) is not int or not 0 <= value < COUNTER_LIMIT:
            raise WireError("expected a counter")
        return value

    def flag(self) -> bool:
        value = self._next()
        if type(value) is not bool:
            raise WireError("expected true or false")
        return value

    def data(self, *, least: int = 0, most: int) -> bytes:
        value = self._next()
        if type(value) is not bytes or not least <= len(value) <= most:
            raise WireError("expected bytes of another length")
        return value

    def optional(self, *, most: int) -> bytes | None:
        value = self._next()
        if value is None:
            return None
        if type(value) is not bytes or len(value) > most:
            raise WireError("expected a value or nil")
        return value

    def scope(self) -> Scope:
        return self.data(least=16, most=16)

    def node(self) -> NodeId:
        return self.data(least=16, most=16).hex()

    def digest(self) -> int:
        return int.from_bytes(self.data(least=DIGEST_BYTES, most=DIGEST_BYTES), "big")

    def version(self) -> Version:
        return Version(self.integer(), self.integer())

    def count(self, fields: int) -> int:
        """A number of rows of `fields` positions each, which must be there."""
        count = self.integer()
        if count * fields > self._left:
            raise WireError("fewer rows than announced")
        return count


def _parse_delta(reader: _Reader) -> Delta:
    scope, owner, epoch = reader.scope(), reader.node(), reader.integer()
    base, head, collected, digest = reader.integer(), reader.integer(), reader.integer(), reader.digest()
    signature = reader.data(most=SIGNATURE_LIMIT_BYTES)
    if not (epoch >= 1 and base <= head and collected <= head and (base == 0 or collected <= base)):
        raise WireError("a delta whose bounds contradict each other")
    entries = []
    last = base
    for _ in range(reader.count(3)):
        key = reader.data(least=1, most=KEY_LIMIT_BYTES)
        sequence = reader.integer()
        if not last < sequence <= head:
            raise WireError("a delta out of order")
        last = sequence
        value = reader.optional(most=VALUE_LIMIT_BYTES)
        entries.append(Entry(scope, owner, key, value, Version(epoch, sequence)))
    if len({entry.key for entry in entries}) != len(entries):
        raise WireError("a delta that names a key twice")
    return Delta(scope, owner, epoch, base, head, collected, digest, tuple(entries), signature)


def _parse_vector(reader: _Reader) -> Vector:
    scope, holding = reader.scope(), reader.flag()
    rows = tuple(Row(reader.node(), reader.version(), reader.digest()) for _ in range(reader.count(4)))
    return Vector(scope, holding, rows)


def _parse_want(reader: _Reader) -> Want:
    scope = reader.scope()
    rows = tuple((reader.node(), reader.version()) for _ in range(reader.count(3)))
    if len({owner for owner, _ in rows}) != len(rows):
        raise WireError("a want that names a log twice")
    return Want(scope, rows)


_PARSERS: Final[dict[int, Callable[[_Reader], Message]]] = {
    1: lambda r: Hello(r.data(least=NONCE_BYTES, most=NONCE_BYTES)),
    2: lambda r: Welcome(r.data(least=NONCE_BYTES, most=NONCE_BYTES)),
    3: _parse_delta,
    4: lambda r: Ack(r.scope(), r.flag(), r.version(), r.version()),
    5: lambda r: Digest(r.scope(), r.digest()),
    6: lambda r: Same(r.scope(), r.digest()),
    7: _parse_vector,
    8: _parse_want,
    9: lambda r: Request(r.integer(), r.data(most=PAYLOAD_LIMIT_BYTES)),
    10: lambda r: Response(r.integer(), r.data(most=PAYLOAD_LIMIT_BYTES)),
}
