"""Domain names as bytes in wire form, which is what every table and every message holds.

A name is a run of (length, label) pairs ended by the root's zero. Three facts make bytes a good representation:
equality and hashing are those of bytes; a zone's name is literally a suffix of the names inside it; and, because a
length octet is at most 63 and the letters start at 65, `bytes.lower()` folds exactly the ASCII letters of the labels
(RFC 4343) and nothing else.

In messages a name may end in a pointer to an earlier name (RFC 1035 4.1.4). We demand that each pointer goes to a
place before the run of labels it ends, which every encoder obeys and which makes a loop impossible.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

from netdns.errors import FormatError, UsageError
from netdns.source import Name

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_NAME_BYTES: Final = 255
MAX_LABEL_BYTES: Final = 63
ROOT: Final[Name] = b"\x00"
_SPECIAL: Final = frozenset(b'."\\;()@$')


def read_untrusted(wire: bytes, offset: int) -> tuple[Name, int]:
    """Read the name at `offset`; return it uncompressed and as spelled, and the offset behind it."""
    labels: list[bytes] = []
    size = 1
    end = -1  # known once the first pointer is met
    run_start = offset
    while True:
        if offset >= len(wire):
            raise FormatError("name runs past the end")
        length = wire[offset]
        if length == 0:
            break
        if length >= 0xC0:
            if offset + 1 >= len(wire):
                raise FormatError("pointer runs past the end")
            target = (length & 0x3F) << 8 | wire[offset + 1]
            if target >= run_start:
                raise FormatError("pointer does not go backwards")
            if end < 0:
                end = offset + 2
            offset = run_start = target
            continue
        if length > MAX_LABEL_BYTES:
            raise FormatError("label of an unknown kind")
        size += length + 1
        if size > MAX_NAME_BYTES:
            raise FormatError("name longer than 255 octets")
        labels.append(wire[offset : offset + length + 1])
        offset += length + 1
    name = b"".join(labels) + ROOT
    if len(name) != size:
        raise FormatError("label runs past the end")
    return name, offset + 1 if end < 0 else end


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
