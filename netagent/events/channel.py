"""How a line of log becomes an event: by what the logging call says of it.

    logger.info("attached %s to %s", row.target, network, extra=event(EventKind.ATTACH, row.name))

The line's text is the event's. So there is one sentence for both, a part that has something to say needs no further
argument for it, and a line below the configured level is an event all the same. The author is the one for whom the
present task acts, unless the call names another.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

import trio

from netagent.events.event_log import EventLog
from netagent.events.kinds import EventKind, EventLevel
from netagent.model.author import KERNEL, Author, current_author

MARK: Final = "event"
"""The attribute of a record of the log that is an event."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What makes a line of log an event."""

    kind: EventKind
    subject: str
    author: Author

    @property
    def fields(self) -> dict[str, str | int]:
        """What the log writes beside the message, where its form has fields."""
        fields: dict[str, str | int] = {
            "event": self.kind.value,
            "subject": self.subject,
            "author": self.author.name,
            "author_kind": self.author.kind.value,
        }
        if self.author.uid is not None:
            fields["author_uid"] = self.author.uid
        if self.author.program is not None:
            fields["author_program"] = self.author.program
        return fields


class _Tally:
    def __init__(self) -> None:
        self.count = 0


_tally: ContextVar[_Tally | None] = ContextVar("tally", default=None)


def event(kind: EventKind, subject: str = "", *, author: Author | None = None) -> dict[str, Mark]:
    """Return what a logging call takes as `extra`. `subject`: what it happened to; empty: this host as a whole."""
    if (counted := _tally.get()) is not None:
        counted.count += 1
    return {MARK: Mark(kind, subject, author or current_author())}


@contextmanager
def counting() -> Iterator[Callable[[], int]]:
    """Count the events of a block, and of the tasks that it starts."""
    counted = _Tally()
    token = _tally.set(counted)
    try:
        yield lambda: counted.count
    finally:
        _tally.reset(token)


REPAIRED: Final = event(EventKind.REPAIR, author=KERNEL)
"""What another program changed, and the agent has put back."""


class EventHandler(logging.Handler):
    """Notes marked lines in the log of events. Only while the agent runs, and also for lines of other threads."""

    def __init__(self, log: EventLog, clock: Callable[[], float], wake: Callable[[], None]) -> None:
        super().__init__()
        self._log = log
        self._clock = clock
        self._wake = wake
        self._loop = trio.lowlevel.current_trio_token()

    def emit(self, record: logging.LogRecord) -> None:
        """Note a line. Never raises: an event is no reason for anything to fail."""
        mark = getattr(record, MARK, None)
        if not isinstance(mark, Mark):
            return
        try:
            text = record.getMessage()
            if trio.lowlevel.in_trio_run():
                self._note(mark, text, record.levelno)
            else:  # a thread's: the log of events belongs to the loop
                self._loop.run_sync_soon(self._note, mark, text, record.levelno)
        except Exception:
            self.handleError(record)

    def _note(self, mark: Mark, text: str, level: int) -> None:
        self._log.note(
            mark.kind,
            text,
            subject=mark.subject,
            author=mark.author,
            now=self._clock(),
            level=_level_of(level),
        )
        self._wake()


def _level_of(level: int) -> EventLevel:
    if level >= logging.ERROR:
        return EventLevel.ERROR
    return EventLevel.WARNING if level >= logging.WARNING else EventLevel.INFO
