"""The bytes of a join conversation and of an invitation: length-prefixed msgpack arrays, checked field by field."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgpack

from netgossip.errors import WireError
from netgossip.types import Address

MAX_FRAME_BYTES = 32 * 1024
"""Bound of one frame of a join conversation; beyond it: refused, stream closed. A ring of 16 keys and 64 members is
under 8 kB."""
MAX_ITEMS = 64
"""Elements of one array. At each level of nesting the unpacker may allocate this many before it sees them."""
_LENGTH = struct.Struct("!H")
_T = TypeVar("_T")


NOT_YET: Final = "not yet: "
"""A refusal that begins so ends by itself within seconds: who asked asks again."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The other side refused; `reason` is a sentence for the operator."""

    reason: str

    @property
    def is_passing(self) -> bool:
        """True if the same question may be answered soon."""
        return self.reason.startswith(NOT_YET)


class Frames:
    """Cuts a stream into length-prefixed frames, after an expected magic."""

    def __init__(self, magic: bytes) -> None:
        self._magic = magic
        self._buffer = b""

    def feed_untrusted(self, data: bytes) -> list[bytes]:
        """Return the frames that `data` completes."""
        self._buffer += data
        if self._magic:
            if not self._buffer.startswith(self._magic):
                raise WireError("not a join conversation")
            self._buffer, self._magic = self._buffer[len(self._magic) :], b""
        frames = []
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if not 0 < length <= MAX_FRAME_BYTES:
                raise WireError(f"a frame of an impossible length: {length} bytes")
            if len(self._buffer) < _LENGTH.size + length:
                break
            frames.append(self._buffer[_LENGTH.size : _LENGTH.size + length])
            self._buffer = self._buffer[_LENGTH.size + length :]
        return frames


def frame_of(body: bytes) -> bytes:
    """Return one frame for the stream."""
    return _LENGTH.pack(len(body)) + body


def refusal_frame(reason: str) -> bytes:
    """Return a frame with a refusal."""
    return frame_of(msgpack.packb(["refused", reason]))


def refusal_untrusted(frame: bytes) -> Refusal | None:
    """Return the refusal in a frame, if it is one: a two-element array that begins with "refused"."""
    if not frame.startswith(msgpack.packb(["refused", ""])[:-1]):
        return None
    fields = unpack_untrusted(frame, "refusal")
    return Refusal(printable(str(fields[1])[:300]))


def printable(text: str) -> str:
    """Remove control characters, which would otherwise reach a terminal or a log."""
    return "".join(c for c in text if c.isprintable())


def unpack_untrusted(body: bytes, what: str) -> list[Any]:
    """Unpack a msgpack array with at least one element. Raises WireError naming `what`."""
    try:
        fields = msgpack.unpackb(
            body,
            raw=False,
            strict_map_key=True,
            max_array_len=MAX_ITEMS,
            max_str_len=4096,
            max_bin_len=MAX_FRAME_BYTES,
            max_map_len=0,
            max_ext_len=0,
        )
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise WireError(f"malformed {what}: {error}") from None
    if not isinstance(fields, list) or not fields:
        raise WireError(f"malformed {what}: not an array")
    return fields


def typed(value: Any, kind: type[_T]) -> _T:
    """Return `value` if it is of `kind`, else raise ValueError."""
    if not isinstance(value, kind):
        raise ValueError(f"{kind.__name__} expected")
    return value


def sized(value: Any, size_bytes: int) -> bytes:
    """Return `value` if it has this size, else raise ValueError."""
    if not isinstance(value, bytes) or len(value) != size_bytes:
        raise ValueError(f"{size_bytes} bytes expected")
    return value


def addresses_of(value: Any) -> tuple[Address, ...]:
    """Return `value` if it is a list of at most 64 [IP address, port], else raise ValueError."""
    if not isinstance(value, list) or len(value) > MAX_ITEMS:
        raise ValueError("addresses expected")
    found: list[Address] = []
    for item in value:
        if (
            not isinstance(item, list)
            or len(item) != 2
            or not isinstance(item[1], int)
            or not 0 < item[1] < 65536
        ):
            raise ValueError("address expected")
        found.append((str(ipaddress.ip_address(typed(item[0], str))), item[1]))
    return tuple(found)
