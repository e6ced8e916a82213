"""How a record of the log is written: as text, as a line of JSON, or as an entry of the journal with its fields.

    text      ERROR netagent.x: the message                         a time in front, unless journald adds it
    json      {"time": …, "level": "error", "logger": "netagent.x", "message": …, "event": …, "author": …}
    journald  PRIORITY=3 MESSAGE=… NETAGENT_LOGGER=netagent.x NETAGENT_EVENT=… (systemd's native protocol)

A record that is an event says its further fields (netagent.events.channel). A message may contain text from outside:
it must neither start a line nor control a terminal.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import logging
import os
import socket
import stat
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

PRIORITIES: Final = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}
JOURNAL_SOCKET: Final = Path("/run/systemd/journal/socket")
IDENTIFIER: Final = "netagent"


def priority_of(record: logging.LogRecord) -> int:
    """Return the priority as syslog counts it."""
    return PRIORITIES.get(record.levelno, 6)


def fields_of(record: logging.LogRecord) -> Mapping[str, Any]:
    """Return what a record that is an event says beside its message; empty for all others."""
    mark = getattr(record, "event", None)
    found: Mapping[str, Any] = mark.fields if mark is not None else {}
    return found


def printable(text: str) -> str:
    """Escape unprintable characters."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


class TextFormatter(logging.Formatter):
    """Tracebacks keep their lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (the library's name)
        """Return the line without a traceback."""
        if not record.message.isprintable():
            record.message = printable(record.message)
        return super().formatMessage(record)


class PriorityFormatter(logging.Formatter):
    """Puts journald's priority in front of the first line."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines."""
        return f"<{priority_of(record)}>{self._inner.format(record)}"


class JsonFormatter(logging.Formatter):
    """One line of JSON each, in ASCII; a traceback is a field."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        at = dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds")
        value = {
            "time": at.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            value["traceback"] = self.formatException(record.exc_info)
        return json.dumps(value)


class JournalHandler(logging.Handler):
    """Sends entries with fields to journald; what it does not take goes to standard error, as without it."""

    def __init__(self, path: Path = JOURNAL_SOCKET) -> None:
        super().__init__()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._path = str(path)
        self._other = logging.StreamHandler(sys.stderr)
        self._other.setFormatter(PriorityFormatter(TextFormatter("%(name)s: %(message)s")))

    def emit(self, record: logging.LogRecord) -> None:
        """Send one entry."""
        try:
            self._socket.sendto(entry_of(record, self.format(record)), self._path)
        except OSError:  # its queue is full, it restarts, or the entry is too long for a datagram
            self._other.emit(record)
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()


def entry_of(record: logging.LogRecord, message: str) -> bytes:
    """Return an entry as https://systemd.io/JOURNAL_NATIVE_PROTOCOL/ says: each value with its length, so none can
    begin another field."""
    fields = {
        "PRIORITY": str(priority_of(record)),
        "SYSLOG_IDENTIFIER": IDENTIFIER,
        "MESSAGE": message,
        "NETAGENT_LOGGER": record.name,
        **{f"NETAGENT_{name.upper()}": str(value) for name, value in fields_of(record).items()},
    }
    parts = []
    for name, value in fields.items():
        data = value.encode("utf-8", "replace")
        parts += [name.encode(), b"\n", struct.pack("<Q", len(data)), data, b"\n"]
    return b"".join(parts)


def writes_to_journal(environment: Mapping[str, str]) -> bool:
    """True if standard error is journald's, and not a pipe or file into which a user has led it."""
    device, _, inode = environment.get("JOURNAL_STREAM", "").partition(":")
    with contextlib.suppress(OSError, ValueError):
        found = os.fstat(sys.stderr.fileno())
        return (str(found.st_dev), str(found.st_ino)) == (device, inode) and _is_there(JOURNAL_SOCKET)
    return False


def _is_there(path: Path) -> bool:
    return path.exists() and stat.S_ISSOCK(path.stat().st_mode)
