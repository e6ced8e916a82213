"""D-Bus messages: the few forms that a watcher of units needs.

Calls with strings and numbers are encoded; of what comes, the header is decoded, and of a reply's body its first
value if that is text. All else is skipped: a signal only says that a state should be read again. Any local user may
send one, of any form, so a message that cannot be read is passed over.
(https://dbus.freedesktop.org/doc/dbus-specification.html)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from netagent.errors import FailedError

MAX_MESSAGE_BYTES: Final = 128 * 1024
"""Bound of one message of the system bus; beyond it: the message is passed over."""
_LONGEST_BYTES: Final = 2**27
"""Of any message, by the specification."""
METHOD_CALL, METHOD_RETURN, ERROR, SIGNAL = 1, 2, 3, 4
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _DESTINATION, _SENDER, _SIGNATURE = range(1, 9)
_FIXED: Final = struct.Struct("<BBBBIII")
_BIG_ENDIAN: Final = struct.Struct(">BBBBIII")
_NUMBER: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class BusMessage:
    """One that has come. `text`: the first value of its body, if that is a string, a path, or a variant with one;
    never that of a signal."""

    kind: int
    reply_to: int | None = None
    path: str | None = None
    member: str | None = None
    error: str | None = None
    text: str | None = None


def encode_call(
    serial: int, destination: str, path: str, interface: str, member: str, *arguments: str | int
) -> bytes:
    """Encode a method call; a number is an unsigned one of 32 bits."""
    body = bytearray()
    for argument in arguments:
        body += bytes(-len(body) % 4)
        body += _NUMBER.pack(argument) if isinstance(argument, int) else _string(argument)
    fields = [
        (_PATH, "o", _string(path)),
        (_DESTINATION, "s", _string(destination)),
        (_INTERFACE, "s", _string(interface)),
        (_MEMBER, "s", _string(member)),
    ]
    if arguments:
        signature = "".join("u" if isinstance(argument, int) else "s" for argument in arguments)
        fields.append((_SIGNATURE, "g", _signature(signature)))
    header = bytearray()
    for code, kind, value in fields:
        header += bytes(-len(header) % 8)  # the array begins at 16
        header += bytes([code]) + _signature(kind) + value
    fixed = _FIXED.pack(ord("l"), METHOD_CALL, 0, 1, len(body), serial, len(header))
    return fixed + header + bytes(-len(header) % 8) + body


class MessageBuffer:
    """What came from the bus, cut into messages."""

    def __init__(self) -> None:
        self._unread = bytearray()
        self._skipped = 0
        """Bytes of a message that was too long which have not come yet."""

    def feed_untrusted(self, data: bytes) -> Iterator[BusMessage]:
        """Yield the messages that are whole now, without those that cannot be read or are too long: any local user
        can send them. FailedError: the stream is none of messages."""
        passed = min(self._skipped, len(data))
        self._skipped -= passed
        self._unread += data[passed:]
        while len(self._unread) >= _FIXED.size:
            # In the byte order of its sender.
            fixed = _FIXED if self._unread[0] == ord("l") else _BIG_ENDIAN
            order, kind, _, version, body, _, fields = fixed.unpack_from(self._unread)
            header = _FIXED.size + fields + -fields % 8
            if order not in b"lB" or version != 1 or header + body > _LONGEST_BYTES:
                raise FailedError("the system bus speaks an unknown version")
            if order == ord("B") or header + body > MAX_MESSAGE_BYTES:
                self._skipped = max(header + body - len(self._unread), 0)
                del self._unread[: header + body]
                continue
            if len(self._unread) < header + body:
                return
            message = bytes(self._unread[: header + body])
            del self._unread[: header + body]
            try:
                read = _message(kind, message, _FIXED.size + fields, header)
            except FailedError:
                continue
            yield read


def _message(kind: int, message: bytes, fields_end: int, body_at: int) -> BusMessage:
    texts: dict[int, str] = {}
    reply_to = None
    reader = _Reader(message[:fields_end], _FIXED.size)
    while reader.at < fields_end:
        reader.align(8)
        code, signature = reader.octet(), reader.signature()
        if signature == "u":
            number = reader.number()
            reply_to = number if code == _REPLY_SERIAL else reply_to
        else:
            texts[code] = reader.text(signature)
    body, signature = _Reader(message, body_at), texts.get(_SIGNATURE, "")
    text = None
    if kind == SIGNAL:
        signature = ""
    if signature.startswith("v"):
        signature = body.signature()
    if signature.startswith(("s", "o")):
        text = body.text(signature[0])
    return BusMessage(kind, reply_to, texts.get(_PATH), texts.get(_MEMBER), texts.get(_ERROR_NAME), text)


class _Reader:
    """Reads values one after another; FailedError beyond the end."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self.at = at

    def align(self, size: int) -> None:
        self.at += -self.at % size

    def octet(self) -> int:
        return self._take(1)[0]

    def number(self) -> int:
        self.align(4)
        number: int = _NUMBER.unpack(self._take(4))[0]
        return number

    def signature(self) -> str:
        return self._decoded(self.octet())

    def text(self, signature: str) -> str:
        """Read a string, a path or a signature."""
        if signature == "g":
            return self.signature()
        if signature not in {"s", "o"}:
            raise FailedError("a message of the system bus has an unknown form")
        return self._decoded(self.number())

    def _decoded(self, length: int) -> str:
        text = self._take(length + 1)[:-1]
        return text.decode("utf-8", "replace")

    def _take(self, count: int) -> bytes:
        taken = self._data[self.at : self.at + count]
        if len(taken) < count:
            raise FailedError("a message of the system bus is cut off")
        self.at += count
        return taken


def _string(text: str) -> bytes:
    """Encode it with its length, which the caller has aligned."""
    octets = text.encode()
    return _NUMBER.pack(len(octets)) + octets + b"\0"


def _signature(text: str) -> bytes:
    return bytes([len(text)]) + text.encode() + b"\0"
