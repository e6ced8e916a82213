"""The record channel's messages and their bytes.

A frame's body is a sequence of messages, each a msgpack array of scalars: `[kind, ...]`. Nothing is nested, so a
parser never allocates more than the bytes in hand announce. Positions are only ever appended; a receiver skips those
that it does not know, and whole messages of a kind that it does not know.

    Hello, Welcome      prove that a start of a peer is live (see frames.py)
    Delta               an owner's changes in a scope since `base`; base 0 is the whole log and replaces
    DeltaAck            to an owner: what we hold of your log, and how far our own reaches
    Digest, Same        is your scope equal to mine? yes
    Vector              no: this is what I hold, compare
    Fetch               send me these logs from here on
    Request, Response   an application's request to one peer
    Part                a part of one of these that is longer than a datagram (see parts.py)

`digest` is a 128-bit sum over a log's live entries. `proof` is the owner's public key and its signature over what the
log holds at the delta's version (proofs.py), so that what a third host relays is proven; empty from an owner whose
release signs nothing. Releases that know no proofs leave it out of what they relay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgpack

from netgossip.errors import WireError
from netgossip.slices import ENTRIES_PER_SLICE, Slices
from netgossip.types import Entry, NodeId, Scope, Version

COUNTER_LIMIT: Final = 1 << 63
"""Epochs and sequences stay below this. At a million changes per second: 292,000 years."""
KEY_LIMIT_BYTES: Final = 255
VALUE_LIMIT_BYTES: Final = 64 * 1024
"""Bound of one record's value; beyond it: refused. An endpoint record has about 100 to 400 bytes."""
ENTRIES_LIMIT: Final = 20_000
"""Bound of entries of one log, and of one delta; beyond it: own change refused; another's log refused. Deletions
included: twenty times the most that one host is planned to carry."""
ROWS_LIMIT: Final = 65_536
"""Bound of rows and entries in one message; beyond it: refused before they are read. Twice as many logs as there may
be members. Each takes about 300 bytes of memory, and may take as few as five on the wire."""
PAYLOAD_LIMIT_BYTES: Final = 1000
"""Limit of a request or response: with all wrapping it stays one datagram."""
PROOF_LIMIT_BYTES: Final = 128
NONCE_BYTES: Final = 8
OFFER_BYTES: Final = 32 + 32 + 64
ANSWER_BYTES: Final = 32 + 32 + 4 + 64
"""What is in them: sessions.py."""
PARTS_LIMIT: Final = 8
"""Bound of parts of one message, each a datagram; beyond it: it goes over a stream. A stream has flow control."""
ASSEMBLED_BYTES: Final = 16 * 1024
"""Bound of one message in parts; beyond it: refused; it comes again over a stream. PARTS_LIMIT datagrams of the usual
size have 9 KiB."""
DIGEST_BYTES: Final = 16
NO_VERSION: Final = Version(0, 0)
"""The version of a log that a node does not hold."""


@dataclass(frozen=True, slots=True)
class Hello:
    """Ask the peer to return the nonce, which proves its present start live. `offer`: for a session (sessions.py),
    empty from a release without."""

    nonce: bytes
    offer: bytes = b""


@dataclass(frozen=True, slots=True)
class Welcome:
    """Returns the nonce of a Hello. `assembles`: the longest message that the sender assembles from parts, 0 for a
    release without parts. `answer`: to the Hello's offer, empty from a release without sessions."""

    nonce: bytes
    assembles: int = 0
    answer: bytes = b""


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
    proof: bytes = b""

    @property
    def version(self) -> Version:
        """The log's version once the delta is applied."""
        return Version(self.epoch, self.head)


@dataclass(frozen=True, slots=True)
class DeltaAck:
    """To an owner. `held`: the version of its log that the sender holds; `own`: the version of the sender's log;
    `holding`: the sender takes part in the scope."""

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
    """The sender's fingerprint equals the receiver's."""

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
    """All logs that the sender holds in a scope. Not `holding`: it takes no part in it, the rows are incidental."""

    scope: Scope
    holding: bool
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Fetch:
    """Ask for what these logs have beyond the given versions."""

    scope: Scope
    rows: tuple[tuple[NodeId, Version], ...]


@dataclass(frozen=True, slots=True)
class Request:
    """A request; its sender chooses `request_id`."""

    request_id: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to the request with the same number."""

    request_id: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the bytes of one message: the part at `index` of `count`, of the sender's message `number`."""

    number: int
    index: int
    count: int
    data: bytes


Message: TypeAlias = (
    Hello | Welcome | Delta | DeltaAck | Digest | Same | Vector | Fetch | Request | Response | Part
)

IDEMPOTENT: Final = (Hello, Delta, Digest, Vector, Fetch)
"""Messages that may come twice, and late: allowed on streams."""
TIMELESS: Final = (Hello, Delta, Digest)
"""Messages that an old recording may repeat as well: allowed before admission."""

_Field: TypeAlias = int | bytes | bool | None


def encode(message: Message) -> Slices[bytes]:
    """Encode one message."""
    head = _head(message)
    if not isinstance(message, Delta | Vector | Fetch):
        return bytes(msgpack.packb(head))
    rows = message.entries if isinstance(message, Delta) else message.rows
    packer = msgpack.Packer(autoreset=False)
    packer.pack_array_header(len(head) + len(rows) * _ROW_FIELDS[type(message)])
    for one in head:
        packer.pack(one)
    for number, row in enumerate(_rows(message), 1):
        for one in row:
            packer.pack(one)
        if number % ENTRIES_PER_SLICE == 0:
            yield
    return bytes(packer.bytes())


_ROW_FIELDS: Final = {Delta: 3, Vector: 4, Fetch: 3}


def _head(message: Message) -> list[_Field]:
    """All fields except the rows."""
    match message:
        case Hello(nonce, offer):
            return _without_empty_end([1, nonce, offer])
        case Welcome(nonce, assembles, answer):
            return _without_empty_end([2, nonce, assembles, answer])
        case Delta(scope, owner, epoch, base, head, collected, digest, entries, proof):
            own: list[_Field] = [3, scope, bytes.fromhex(owner), epoch, base, head, collected]
            return [*own, _digest(digest), proof, len(entries)]
        case DeltaAck(scope, holding, held, own_version):
            return [4, scope, holding, *held, *own_version]
        case Digest(scope, fingerprint):
            return [5, scope, _digest(fingerprint)]
        case Same(scope, fingerprint):
            return [6, scope, _digest(fingerprint)]
        case Vector(scope, holding, rows):
            return [7, scope, holding, len(rows)]
        case Fetch(scope, wanted):
            return [8, scope, len(wanted)]
        case Request(request_id, payload):
            return [9, request_id, payload]
        case Response(request_id, payload):
            return [10, request_id, payload]
        case Part(number, index, count, data):
            return [11, number, index, count, data]


def _without_empty_end(fields: list[_Field]) -> list[_Field]:
    """Leave out what earlier releases do not have, as they do."""
    while not fields[-1]:
        fields.pop()
    return fields


def _rows(message: Delta | Vector | Fetch) -> Iterator[tuple[_Field, ...]]:
    match message:
        case Delta():
            return ((entry.key, entry.version.sequence, entry.value) for entry in message.entries)
        case Vector():
            return ((bytes.fromhex(row.owner), *row.version, _digest(row.digest)) for row in message.rows)
        case Fetch():
            return ((bytes.fromhex(owner), *version) for owner, version in message.rows)


def _digest(value: int) -> bytes:
    return value.to_bytes(DIGEST_BYTES, "big")


def decode_untrusted(body: bytes | bytearray) -> Slices[list[Message]]:
    """Return all known messages of a body, in order. Raises WireError; then nothing of the body counts."""
    reader = _Reader(body)
    messages: list[Message] = []
    try:
        while reader.begin():
            kind = reader.integer()
            if kind in _PARSERS:
                messages.append(_PARSERS[kind](reader))
            elif kind in _LONG_PARSERS:
                messages.append((yield from _LONG_PARSERS[kind](reader)))
            yield from reader.finish()
    except (msgpack.UnpackException, ValueError, TypeError, OverflowError) as error:
        raise WireError(f"malformed message: {error}") from None
    return messages


class _Reader:
    """Cursor over a body. The unpacker's limits of 0 refuse containers inside a message."""

    def __init__(self, body: bytes | bytearray) -> None:
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
        self._rows_left = ROWS_LIMIT

    def begin(self) -> bool:
        """True when another message follows."""
        if self._unpacker.tell() >= self._size:
            return False
        self._left = self._unpacker.read_array_header()
        return True

    def finish(self) -> Slices[None]:
        """Skip the positions that we do not know."""
        if self._left > self._size:
            raise WireError("more positions than bytes")
        for number in range(1, self._left + 1):
            self._unpacker.skip()
            if number % ENTRIES_PER_SLICE == 0:
                yield

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

    def later_integer(self) -> int:
        """Read a position that earlier releases do not have; 0 if it is missing."""
        return self.integer() if self._left else 0

    def later_data(self, size: int) -> bytes:
        """Read a position that earlier releases do not have, of `size` bytes; empty if it is missing or empty."""
        data = self.data(most=size) if self._left else b""
        if len(data) not in (0, size):
            raise WireError("expected bytes of another length")
        return data

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

    def count(self, fields: int, *, most: int = ROWS_LIMIT) -> int:
        """Read a number of rows of `fields` positions each, which must be there."""
        count = self.integer()
        if count * fields > self._left:
            raise WireError("fewer rows than announced")
        if count > min(most, self._rows_left):
            raise WireError("more rows than there may be")
        self._rows_left -= count
        return count


def _parse_delta(reader: _Reader) -> Slices[Message]:
    scope, owner, epoch = reader.scope(), reader.node(), reader.integer()
    base, head, collected, digest = reader.integer(), reader.integer(), reader.integer(), reader.digest()
    proof = reader.data(most=PROOF_LIMIT_BYTES)
    if not (epoch >= 1 and base <= head and collected <= head and (base == 0 or collected <= base)):
        raise WireError("a delta whose bounds contradict each other")
    entries: dict[bytes, Entry] = {}
    last = base
    for number in range(1, reader.count(3, most=ENTRIES_LIMIT) + 1):
        key = reader.data(least=1, most=KEY_LIMIT_BYTES)
        sequence = reader.integer()
        if not last < sequence <= head:
            raise WireError("a delta out of order")
        last = sequence
        value = reader.optional(most=VALUE_LIMIT_BYTES)
        if key in entries:
            raise WireError("a delta that names a key twice")
        entries[key] = Entry(scope, owner, key, value, Version(epoch, sequence))
        if number % ENTRIES_PER_SLICE == 0:
            yield
    return Delta(scope, owner, epoch, base, head, collected, digest, tuple(entries.values()), proof)


def _parse_vector(reader: _Reader) -> Slices[Message]:
    scope, holding = reader.scope(), reader.flag()
    rows = []
    for number in range(1, reader.count(4) + 1):
        rows.append(Row(reader.node(), reader.version(), reader.digest()))
        if number % ENTRIES_PER_SLICE == 0:
            yield
    return Vector(scope, holding, tuple(rows))


def _parse_fetch(reader: _Reader) -> Slices[Message]:
    scope = reader.scope()
    rows: dict[NodeId, Version] = {}
    for number in range(1, reader.count(3) + 1):
        owner = reader.node()
        if owner in rows:
            raise WireError("a want that names a log twice")
        rows[owner] = reader.version()
        if number % ENTRIES_PER_SLICE == 0:
            yield
    return Fetch(scope, tuple(rows.items()))


def _parse_part(reader: _Reader) -> Message:
    number, index, count = reader.integer(), reader.integer(), reader.integer()
    if not 2 <= count <= PARTS_LIMIT or index >= count:
        raise WireError("a part of more, or less, than there may be")
    return Part(number, index, count, reader.data(least=1, most=ASSEMBLED_BYTES))


_PARSERS: Final[dict[int, Callable[[_Reader], Message]]] = {
    1: lambda r: Hello(r.data(least=NONCE_BYTES, most=NONCE_BYTES), r.later_data(OFFER_BYTES)),
    2: lambda r: Welcome(
        r.data(least=NONCE_BYTES, most=NONCE_BYTES), r.later_integer(), r.later_data(ANSWER_BYTES)
    ),
    4: lambda r: DeltaAck(r.scope(), r.flag(), r.version(), r.version()),
    5: lambda r: Digest(r.scope(), r.digest()),
    6: lambda r: Same(r.scope(), r.digest()),
    9: lambda r: Request(r.integer(), r.data(most=PAYLOAD_LIMIT_BYTES)),
    10: lambda r: Response(r.integer(), r.data(most=PAYLOAD_LIMIT_BYTES)),
    11: _parse_part,
}
_LONG_PARSERS: Final[dict[int, Callable[[_Reader], Slices[Message]]]] = {
    3: _parse_delta,
    7: _parse_vector,
    8: _parse_fetch,
}
