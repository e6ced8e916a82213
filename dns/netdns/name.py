"""Domain names as bytes in wire form, as in every table and every message.

A name is a run of (length, label) pairs ended by the root's zero. Three facts make bytes a good representation:
equality and hashing are those of bytes; a zone's name is literally a suffix of the names inside it; and, because a
length octet is at most 63 and the letters start at 65, `bytes.lower()` folds exactly the ASCII letters of the labels
(RFC 4343) and nothing else.

In messages a name may end in a pointer to an earlier name (RFC 1035 4.1.4). We require that each pointer leads to a
place before the run of labels that it ends, which every encoder obeys and which makes a loop impossible, and that a
name has at most MAX_POINTERS of them. That bounds one name, but not a message: each of its records needs only two
octets to point at the most expensive name in it. So a caller that reads several names of one message uses one
`Names`, which reads the target of each pointer once: the work is in proportion to the octets, wherever they point.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple, TypeAlias

from netdns.errors import FormatError, UsageError
from netdns.source import Name

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_NAME_BYTES: Final = 255
MAX_LABEL_BYTES: Final = 63
MAX_POINTERS: Final = 16
"""Bound of pointers in one name; beyond it: the message is refused. Encoders make one, or two where a name ends like
one that was compressed itself."""
POINTER_LIMIT: Final = 0x4000
"""A pointer has 14 bits: it can't lead to places from here on."""
ROOT: Final[Name] = b"\x00"
_SPECIAL: Final = frozenset(b'."\\;()@$')


class _Read(NamedTuple):
    """A name as read from one place of a message."""

    name: Name
    end: int
    """The offset after it, or after its first pointer."""
    pointers: int
    target: int
    """The target of its first pointer; -1 without one."""


class Names:
    """Reads the names of one message.

    Every place at which a label begins is remembered with the name that begins there, so no octet is read twice as
    part of a pointer's target. Places that no pointer can reach are not remembered: at most 16,384 are.
    """

    __slots__ = ("_known", "_wire")

    def __init__(self, wire: bytes) -> None:
        self._wire = wire
        self._known: dict[int, _Read] = {}

    def read_untrusted(self, offset: int) -> tuple[Name, int]:
        """Read the name at `offset`; return it uncompressed and as spelled, and the offset behind it."""
        wire = self._wire
        if offset + 1 < len(wire) and wire[offset] >= 0xC0:
            # The owner of almost every record: a pointer to a name that was read.
            target = (wire[offset] & 0x3F) << 8 | wire[offset + 1]
            known = self._known.get(target)
            if known is not None and target < offset and known.pointers < MAX_POINTERS:
                return known.name, offset + 2
        read = self._read(offset, 0, MAX_NAME_BYTES)
        return read.name, read.end

    def _read(self, start: int, pointers: int, room_bytes: int) -> _Read:
        """Read the name at `start`, to which `pointers` have led; each takes one more level of recursion."""
        wire, offset = self._wire, start
        starts: list[int] = []
        while True:
            rest = self._known.get(offset)
            # The known part at a later place counts only if its pointer may end this run, too.
            if rest is not None and rest.target < start:
                break
            rest = self._end_of_run(offset, start, pointers, room_bytes)
            if rest is not None:
                break
            starts.append(offset)
            offset += wire[offset] + 1
            if offset - start >= room_bytes:
                raise FormatError("name longer than 255 octets")
        if pointers + rest.pointers > MAX_POINTERS:
            raise FormatError(f"more than {MAX_POINTERS} pointers in a name")
        if offset - start + len(rest.name) > room_bytes:
            raise FormatError("name longer than 255 octets")
        read = rest
        for label_start in reversed(starts):
            read = _Read(wire[label_start:offset] + rest.name, rest.end, rest.pointers, rest.target)
            if label_start < POINTER_LIMIT:
                self._known[label_start] = read
        return read

    def _end_of_run(self, offset: int, start: int, pointers: int, room_bytes: int) -> _Read | None:
        """Read what ends the run of labels that began at `start`; None if a label stands at `offset`."""
        wire = self._wire
        if offset >= len(wire):
            raise FormatError("name runs past the end")
        length = wire[offset]
        if length == 0:
            return _Read(ROOT, offset + 1, 0, -1)
        if length <= MAX_LABEL_BYTES:
            return None
        if length < 0xC0:
            raise FormatError("label of an unknown kind")
        if offset + 1 >= len(wire):
            raise FormatError("pointer runs past the end")
        target = (length & 0x3F) << 8 | wire[offset + 1]
        if target >= start:
            raise FormatError("pointer does not go backwards")
        if pointers >= MAX_POINTERS:
            raise FormatError(f"more than {MAX_POINTERS} pointers in a name")
        behind = self._read(target, pointers + 1, room_bytes - (offset - start))
        read = _Read(behind.name, offset + 2, behind.pointers + 1, target)
        if offset < POINTER_LIMIT:
            self._known[offset] = read  # a pointer may lead to a pointer
        return read


def read_untrusted(wire: bytes, offset: int) -> tuple[Name, int]:
    """Read the only relevant name of a message; for several names use one `Names`. Raises FormatError."""
    return Names(wire).read_untrusted(offset)


def skip_untrusted(wire: bytes, offset: int) -> tuple[bytes, int]:
    """Return the octets of the name at `offset` as they are, with a pointer at their end unread, and the offset
    after.

    For records of which only those of the root matter. Raises FormatError.
    """
    start = offset
    while offset < len(wire) and 0 < wire[offset] <= MAX_LABEL_BYTES and offset - start < MAX_NAME_BYTES:
        offset += wire[offset] + 1
    last = wire[offset : offset + 1]
    offset += 2 if last >= b"\xc0" else 1
    if b"\x00" < last < b"\xc0" or offset > len(wire):
        raise FormatError("name without an end")
    return wire[start:offset], offset


def read_plain_untrusted(wire: bytes, offset: int) -> tuple[Name, int]:
    """Read the name at `offset`, which must have no pointer, and the offset behind it. Raises FormatError."""
    start = offset
    while True:
        if offset >= len(wire):
            raise FormatError("name runs past the end")
        length = wire[offset]
        offset += length + 1
        if not length:
            return wire[start:offset], offset
        if length > MAX_LABEL_BYTES:
            raise FormatError("pointer, or label of an unknown kind")
        if offset - start >= MAX_NAME_BYTES:
            raise FormatError("name longer than 255 octets")


def suffixes(name: Name) -> Iterator[tuple[int, Name]]:
    """Yield (offset, suffix) for the name itself, its parent and so on; not for the root."""
    offset = 0
    while name[offset]:
        yield offset, name[offset:]
        offset += name[offset] + 1


def labels(name: Name) -> tuple[bytes, ...]:
    """Split into labels without lengths, the leftmost first, without the root."""
    return tuple(suffix[1 : suffix[0] + 1] for _, suffix in suffixes(name))


def from_labels(parts: Iterable[bytes]) -> Name:
    """Join labels, the leftmost first. Raises UsageError for an empty or long label and for a long name."""
    name = bytearray()
    for part in parts:
        if not 0 < len(part) <= MAX_LABEL_BYTES:
            raise UsageError(f"a label of {len(part)} octets; 1 to {MAX_LABEL_BYTES} are possible")
        name.append(len(part))
        name += part
    name.append(0)
    if len(name) > MAX_NAME_BYTES:
        raise UsageError(f"name of {len(name)} octets; {MAX_NAME_BYTES} are possible")
    return bytes(name)


def from_text(text: str) -> Name:
    """Read a name in presentation form, with or without the last dot; `\\.` and `\\DDD` as in RFC 1035 5.1."""
    if text == ".":
        return ROOT
    parts: list[bytearray] = [bytearray()]
    position = 0
    while position < len(text):
        char = text[position]
        position += 1
        if char == ".":
            parts.append(bytearray())
        elif char == "\\":
            octet, position = _unescape(text, position)
            parts[-1].append(octet)
        elif ord(char) < 128:
            parts[-1].append(ord(char))
        else:
            raise UsageError(f"{text!r}: {char!r} is not ASCII; write it as \\DDD")
    if len(parts) > 1 and not parts[-1]:
        parts.pop()
    return from_labels(bytes(part) for part in parts)


def _unescape(text: str, position: int) -> tuple[int, int]:
    digits = text[position : position + 3]
    if len(digits) == 3 and digits.isascii() and digits.isdigit() and int(digits) < 256:
        return int(digits), position + 3
    if not digits or digits[0].isdigit() or ord(digits[0]) > 127:
        raise UsageError(f"{text!r}: a backslash must be followed by one character or three digits below 256")
    return ord(digits[0]), position + 1


def to_text(name: Name) -> str:
    """Write a name in presentation form with its last dot. Any octets are possible; from_text reads them back."""
    if name == ROOT:
        return "."
    return "".join("".join(_escape(octet) for octet in label) + "." for label in labels(name))


def _escape(octet: int) -> str:
    if octet in _SPECIAL:
        return f"\\{chr(octet)}"
    return chr(octet) if 0x21 <= octet <= 0x7E else f"\\{octet:03d}"


def is_within(name: Name, zone: Name) -> bool:
    """Whether `name` is `zone` or below it. Both in the same case."""
    start = len(name) - len(zone)
    if start < 0 or name[start:] != zone:
        return False
    offset = 0
    while offset < start:
        offset += name[offset] + 1
    return offset == start


def reverse(address: IPAddress) -> Name:
    """Return the name that holds an address's PTR records (RFC 1035 3.5, RFC 3596 2.5)."""
    return from_text(address.reverse_pointer)
