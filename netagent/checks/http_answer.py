"""The head of a server's answer to a check: its status, and where it redirects. Pure.

A host with a thousand checks reads five hundred heads per second, of which only the status counts, so this does not
use h11: with it a head took 280 µs, which alone would be 14 % of a processor; this takes 5 µs. The head must be
complete and is bounded in bytes and in pieces, so a server that sends headers for ever, or one byte at a time, fails.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

MAX_HEAD_BYTES: Final = 16 * 1024
"""Bound of the head of an answer to a check; beyond it: the check has failed. The usual limit of servers and proxies
for requests is 8 KiB."""
MAX_LOCATION_CHARS: Final = 80
"""Bound of the address of a redirect that is shown; beyond it: cut off."""
MAX_PIECES: Final = 64
"""Bound of pieces in which the head of an answer or interim answers arrive; beyond it: the check has failed."""

_END: Final = re.compile(rb"\n\r?\n")
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?=[ \r\n])")
_FINAL: Final = re.compile(rb"HTTP/1\.[01] ([2-9][0-9]{2})[ \r\n]")
_LOCATION: Final = re.compile(rb"^location:[ \t]*([!-~]{1,1024})[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
_URL: Final = re.compile(r"((?:[A-Za-z][A-Za-z0-9+.-]*:)?(?://)?)(?:[^/?#@]*@)*([^?#;]*)")
_BEGIN: Final = b"HTTP/1."


class AnswerError(Exception):
    """The bytes are no answer; `str` continues a sentence about the server: `does not speak HTTP`."""


@dataclass(frozen=True, slots=True)
class HttpHead:
    """The head of the final answer, and what came with it."""

    status: int
    location: str
    """Where the server redirects: scheme, host and path. Empty if it does not."""
    body: bytes
    """The beginning of the body, as far as it has arrived."""


def whole_head_untrusted(piece: bytes) -> HttpHead | None:
    """Return the head of an answer whose first piece contains it, as almost all do; None where HeadReader decides."""
    end = piece.find(b"\n\r\n", 0, MAX_HEAD_BYTES)
    status = _FINAL.match(piece) if end > 0 and piece.find(b"\n\n", 0, end) < 0 else None
    return None if status is None else _head(int(status[1]), piece, end + 3)


class HeadReader:
    """Takes the pieces of an answer until its head is complete."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._looked = 0
        """Up to here there is no end of a head."""
        self._pieces = 0

    def feed_untrusted(self, piece: bytes) -> HttpHead | None:
        """Take a piece; return the head once it is complete. Raises AnswerError."""
        self._count_piece()
        self._data += piece
        while (end := _END.search(self._data, self._looked)) is not None:
            head, self._data = bytes(self._data[: end.end()]), self._data[end.end() :]
            self._looked = 0
            status = _STATUS.match(head)
            if status is None:
                raise AnswerError("does not speak HTTP")
            # 100 and 103 announce the answer; after 101 the connection speaks another protocol.
            if not 100 <= int(status[1]) < 200 or int(status[1]) == 101:
                return _head(int(status[1]), head + self._data, len(head))
            self._count_piece()
        if self._data[: len(_BEGIN)] != _BEGIN[: len(self._data)]:
            raise AnswerError("does not speak HTTP")
        if len(self._data) > MAX_HEAD_BYTES:
            raise AnswerError(f"sent more than {MAX_HEAD_BYTES // 1024} KiB of headers")
        self._looked = max(len(self._data) - 2, 0)
        return None

    def _count_piece(self) -> None:
        self._pieces += 1
        if self._pieces > MAX_PIECES:
            raise AnswerError(f"sent its headers in more than {MAX_PIECES} pieces")


def _head(status: int, answer: bytes, end: int) -> HttpHead:
    location = _LOCATION.search(answer, 0, end) if 300 <= status < 400 else None
    return HttpHead(status, _without_secrets(location[1].decode("ascii")) if location else "", answer[end:])


def _without_secrets(location: str) -> str:
    """Return scheme, host and path of a URL: all hosts of the network learn why a check fails, and a query or a
    password may be a secret."""
    match = _URL.match(location)
    assert match is not None
    return (match[1] + match[2])[:MAX_LOCATION_CHARS]
