"""Logging: one line an event on standard error, `level logger: message`; nothing secret.

Under systemd the priority goes in front as `<N>`, which journald understands, and journald has its own clock.
"""

from __future__ import annotations

import copy
import logging
import os
import sys
import time
from collections.abc import Callable

_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


OTHERS = ("zeroconf", "hypercorn", "asyncio", "pyroute2")
"""Libraries that log by themselves."""


def _in_one_line(record: logging.LogRecord) -> logging.LogRecord:
    """What a library says, with the error that it met and without the traceback: an address of the host that goes
    makes zeroconf's sending fail, which is no defect, and is put right by a new start of it."""
    if record.name.partition(".")[0] not in OTHERS:
        return record
    error = record.exc_info[1] if record.exc_info else None
    said = next(iter(record.getMessage().splitlines()), "")
    line = copy.copy(record)
    line.exc_info, line.exc_text, line.stack_info, line.args = None, None, None, ()
    line.msg = said if error is None or str(error) in said else f"{said}: {error}"
    return line


class _PlainFormatter(logging.Formatter):
    """Escapes what can't be shown: a message may repeat what a stranger said, which must not begin a line of its own
    or command a terminal. Tracebacks keep their lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (the library's name)
        if not record.message.isprintable():
            record.message = "".join(
                one if one.isprintable() else one.encode("unicode_escape").decode("ascii")
                for one in record.message
            )
        return super().formatMessage(record)


class _JournalFormatter(_PlainFormatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"<{_PRIORITY.get(record.levelno, 6)}>{super().format(record)}"


def configure(level: str) -> None:
    """Send the records of all our loggers to standard error. May be called again to change the level."""
    root = logging.getLogger()
    root.handlers.clear()
    handler = logging.StreamHandler(sys.stderr)
    if "JOURNAL_STREAM" in os.environ:
        handler.setFormatter(_JournalFormatter("%(name)s: %(message)s"))
    else:
        handler.setFormatter(_PlainFormatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    handler.addFilter(_in_one_line)
    root.addHandler(handler)
    root.setLevel(level.upper())
    # Others' chatter is not ours to repeat.
    for noisy in OTHERS:
        logging.getLogger(noisy).setLevel(logging.WARNING)


class Limited:
    """A logger that says the same thing at most once a period, and how often it was silent in between."""

    def __init__(
        self, logger: logging.Logger, *, period_s: float = 60.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger = logger
        self._period_s = period_s
        self._clock = clock
        self._said: dict[str, tuple[float, int]] = {}

    def warning(self, key: str, message: str) -> None:
        """Log `message` unless `key` was logged less than a period ago. Remembers at most 1,000 keys."""
        now = self._clock()
        last, silent = self._said.get(key, (-self._period_s, 0))
        if now - last < self._period_s:
            self._said[key] = (last, silent + 1)
            return
        if len(self._said) >= 1000:
            self._said.clear()
        self._said[key] = (now, 0)
        self._logger.warning("%s%s", message, f" (and {silent} times more)" if silent else "")
