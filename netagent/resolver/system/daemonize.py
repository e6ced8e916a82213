"""Detach from the parent: the resolver process must outlive the agent that started it.

The started program forks. The child gets a session of its own and does the work; the parent waits until the child is
ready and exits with the result. So the caller knows when the process can be used, or why not, no child has to be
waited for later, and a started process is the same as one that was found running.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import Final, NoReturn, TextIO

LOCKED_STATUS: Final = 3
"""Exit status: another process does the work already."""

_MAX_LOG_BYTES: Final = 1 << 20
"""Bound of the resolver's log file; one older one is kept; beyond it: a new file is begun. It is in memory (/run)."""


class Ready:
    """The child's message to the waiting parent."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def succeed(self) -> None:
        """Make the parent exit with status 0."""
        os.write(self._pipe, b"\x00")
        os.close(self._pipe)

    def close(self) -> None:
        """Leave the message to another process that has the pipe."""
        os.close(self._pipe)

    def fail(self, status: int, message: str) -> NoReturn:
        """Make the parent print `message` and exit with `status`; this process exits too."""
        os.write(self._pipe, bytes([status]) + message.encode()[:4000])
        os._exit(status)


class LogFile(logging.Handler):
    """Writes lines to a file of bounded size; standard error goes there too."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._file = self._open()

    def _open(self) -> TextIO:
        file = self._path.open("a", encoding="utf-8", errors="backslashreplace")
        os.dup2(file.fileno(), 2)
        return file

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        self.write(self.format(record) + "\n")

    def close(self) -> None:
        """Close the file; standard error stays."""
        self._file.close()
        super().close()

    def write(self, text: str) -> None:
        """Write lines. A full or vanished run directory must not stop answers."""
        try:
            self._file.write(text)
            self._file.flush()
            if self._file.tell() > _MAX_LOG_BYTES:
                self._file.close()
                self._path.replace(self._path.with_suffix(".log.1"))
                self._file = self._open()
        except OSError:
            return


def become_daemon(log: Path) -> tuple[Ready, LogFile]:
    """Return in the child, in a session of its own, with its log set up. The parent never returns.

    Call it before there is any thread.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        _wait_and_exit(reading)
    os.close(reading)
    os.setsid()
    os.chdir("/")
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    os.close(nothing)
    ready = Ready(writing)
    try:
        handler = LogFile(log)
    except OSError as error:
        ready.fail(1, f"cannot write {log}: {error.strerror}")
    log_to(handler)
    return ready, handler


def log_to(handler: logging.Handler) -> None:
    """Have all lines go to this handler, and to no other."""
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


class LogPipe(logging.Handler):
    """Writes lines to standard error at once; those for which there is no room are lost."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        with contextlib.suppress(OSError):
            os.write(2, f"{self.format(record)}\n".encode("utf-8", "backslashreplace"))


def _wait_and_exit(pipe: int) -> NoReturn:
    word = b""
    while part := os.read(pipe, 4096):
        word += part
    if word[:1] == b"\x00":
        os._exit(0)
    sys.stderr.write(word[1:].decode() or "the resolver process ended before it was ready; its log says why")
    sys.stderr.flush()
    os._exit(word[0] if word else 1)
