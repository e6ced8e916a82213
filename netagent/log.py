"""Logging: one line per event on standard error, `level logger: message`; no secrets.

Under systemd each line starts with its priority `<N>`, which journald reads; journald adds the time.
"""

from __future__ import annotations

import copy
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping

_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


OTHERS = ("zeroconf", "hypercorn", "asyncio", "pyroute2")
"""Libraries that log on their own."""


def _in_one_line(record: logging.LogRecord) -> logging.LogRecord:
    """Reduce a library's message to one line with the error, without the traceback: when an address of the host
    disappears, zeroconf fails to send, which is no defect, and the agent restarts it."""
    if record.name.partition(".")[0] not in OTHERS:
        return record
    error = record.exc_info[1] if record.exc_info else None
    said = next(iter(record.getMessage().splitlines()), "")
    line = copy.copy(record)
    line.exc_info, line.exc_text, line.stack_info, line.args = None, None, None, ()
    line.msg = said if error is None or str(error) in said else f"{said}: {error}"
    return line


class _PlainFormatter(logging.Formatter):
    """Escapes unprintable characters: a message may contain text from outside, which must not start a new line or
    control the terminal. Tracebacks keep their lines."""

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
    """Send the records of all netagent's loggers to standard error. Call it again to change the level."""
    root = logging.getLogger()
    root.handlers.clear()
    handler = logging.StreamHandler(sys.stderr)
    if "JOURNAL_STREAM" in os.environ:
        handler.setFormatter(_JournalFormatter("%(name)s: %(message)s"))
    else:
        handler.setFormatter(_PlainFormatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    handler.addFilter(_in_one_line)
    handler.setLevel(level.upper())
    root.addHandler(handler)
    # A line below the level may still be an event (netagent.events.channel), which another handler keeps.
    root.setLevel(min(handler.level, logging.INFO))
    # Libraries log only warnings and errors here.
    for noisy in OTHERS:
        logging.getLogger(noisy).setLevel(logging.WARNING)


class Limited:
    """A logger that repeats a message at most once per period, and says how often it was suppressed meanwhile."""

    def __init__(
        self, logger: logging.Logger, *, period_s: float = 60.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger = logger
        self._period_s = period_s
        self._clock = clock
        self._said: dict[str, tuple[float, int]] = {}

    def warning(self, key: str, message: str, extra: Mapping[str, object] | None = None) -> None:
        """Log `message` unless `key` was logged less than a period ago. Remembers at most 1,000 keys."""
        now = self._clock()
        last, silent = self._said.get(key, (-self._period_s, 0))
        if now - last < self._period_s:
            self._said[key] = (last, silent + 1)
            return
        if len(self._said) >= 1000:
            self._said.clear()
        self._said[key] = (now, 0)
        self._logger.warning("%s%s", message, f" (and {silent} times more)" if silent else "", extra=extra)
