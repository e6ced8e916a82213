"""Logging: one line per record on standard error, or an entry of the journal; no secrets, and no fault repeated more
than once a minute. How a record is written: netagent.log_form.
"""

from __future__ import annotations

import copy
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Final

from netagent import log_form

PERIOD_S: Final = 60.0
"""How often one and the same fault is logged."""
MAX_REMEMBERED: Final = 1000
"""Bound of faults of the last minute that are remembered; beyond it: all are forgotten, and may be logged again."""

_SILENT: Final = "silent"
"""The attribute of a record that says how often it was left out before."""

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


class _Repeated(logging.Filter):
    """Drops a warning or an error that was written less than a period ago, and says how often at the next one. A
    fault that a part meets in a loop must not fill the disk."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._said: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is written, and note in it how many were not."""
        if record.levelno < logging.WARNING:
            return True
        now = self._clock()
        key = (record.name, record.getMessage())
        last, silent = self._said.get(key, (-PERIOD_S, 0))
        if now - last < PERIOD_S:
            self._said[key] = (last, silent + 1)
            return False
        if len(self._said) >= MAX_REMEMBERED:
            self._said.clear()
        self._said[key] = (now, 0)
        setattr(record, _SILENT, silent)
        return True


class _Prepared(logging.Formatter):
    """Prepares what another formatter writes. A filter could replace the record, but only from Python 3.12 on."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        """Return what is written of the record, which other handlers see as it was."""
        line = _in_one_line(record)
        if silent := getattr(record, _SILENT, 0):
            line = copy.copy(line)
            line.msg, line.args = f"{line.getMessage()} (and {silent} times more)", ()
        return self._inner.format(line)


def configure(level: str, form: str = "text") -> None:
    """Send the records of all netagent's loggers to standard error, or to journald where that is the same. Call it
    again to change the level or the form: `text` or `json`."""
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        if isinstance(handler, log_form.JournalHandler):
            handler.close()
    handler = _handler(form)
    handler.addFilter(_Repeated())
    handler.setLevel(level.upper())
    root.addHandler(handler)
    # A line below the level may still be an event (netagent.events.channel), which another handler keeps.
    root.setLevel(min(handler.level, logging.INFO))
    # Libraries log only warnings and errors here.
    for noisy in OTHERS:
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _handler(form: str) -> logging.Handler:
    is_journal = "JOURNAL_STREAM" in os.environ
    if form == "text" and log_form.writes_to_journal(os.environ):
        journal = log_form.JournalHandler()
        journal.setFormatter(_Prepared(log_form.TextFormatter("%(message)s")))
        return journal
    stream = logging.StreamHandler(sys.stderr)
    if form == "json":
        formatter: logging.Formatter = log_form.JsonFormatter()
    elif is_journal:
        formatter = log_form.TextFormatter("%(name)s: %(message)s")
    else:
        formatter = log_form.TextFormatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    stream.setFormatter(_Prepared(log_form.PriorityFormatter(formatter) if is_journal else formatter))
    return stream


class Limited:
    """A logger that repeats a message at most once per period, and says how often it was suppressed meanwhile."""

    def __init__(
        self,
        logger: logging.Logger,
        *,
        period_s: float = PERIOD_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger = logger
        self._period_s = period_s
        self._clock = clock
        self._said: dict[str, tuple[float, int]] = {}

    def warning(self, key: str, message: str, extra: Mapping[str, object] | None = None) -> None:
        """Log `message` unless `key` was logged less than a period ago."""
        now = self._clock()
        last, silent = self._said.get(key, (-self._period_s, 0))
        if now - last < self._period_s:
            self._said[key] = (last, silent + 1)
            return
        if len(self._said) >= MAX_REMEMBERED:
            self._said.clear()
        self._said[key] = (now, 0)
        self._logger.warning("%s%s", message, f" (and {silent} times more)" if silent else "", extra=extra)
