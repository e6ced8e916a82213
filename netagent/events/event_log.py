"""Which events are kept: a bounded number per kind of author, and in each a bounded share per source. Pure.

One list for all would be filled by whatever repeats itself: a container that fails its check every second would push
out who removed the network. So each kind of author has a list of its own (user and token share one: both are
requests), which its own events alone push out, the oldest first. And within a list no source has more than an eighth:
its own oldest event goes before any other's. The source is the container or the thing that an event is about; of what
other hosts or tokens cause it is the host or the token, because these may write about any number of things.

Kept are the encoded lines, at a third of the memory of the objects. `file` writes the same lines.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from netagent.events.event import (
    MAX_TEXT_CHARS,
    MAX_WORD_CHARS,
    Event,
    EventError,
    encode,
    one_line,
    parse_event_untrusted,
)
from netagent.events.kinds import EventKind, EventLevel
from netagent.model.author import Author, AuthorKind
from netgossip.slices import Slices

MAX_EVENTS: Final = 1000
"""Bound of events of one kind of author that are kept; beyond it: the oldest is dropped."""
MAX_EVENT_BYTES: Final = 400_000
"""Bound of bytes of events of one kind of author that are kept; beyond it: the oldest is dropped. A thousand usual
events take 250,000."""
MAX_OF_SOURCE: Final = MAX_EVENTS // 8
"""Bound of events of one container, or of one other host, that are kept; beyond it: its oldest is dropped."""
MAX_UNWRITTEN: Final = 1000
"""Bound of events that wait to be written; beyond it: the file is written anew from what is kept."""


@dataclass(frozen=True, slots=True)
class _Kept:
    event_id: int
    at_s: float
    kind: str
    source: str
    line: bytes


@dataclass(slots=True)
class _List:
    """The events of one kind of author, the oldest first."""

    events: OrderedDict[int, _Kept] = field(default_factory=OrderedDict)
    of_source: dict[str, list[int]] = field(default_factory=dict)
    """The numbers of each, in order. A list, because a deque takes 600 octets for the one event that most have."""
    size_bytes: int = 0

    def add(self, kept: _Kept) -> None:
        """Add the newest event, and drop what is beyond the bounds."""
        own = self.of_source.setdefault(kept.source, [])
        own.append(kept.event_id)
        self.events[kept.event_id] = kept
        self.size_bytes += len(kept.line)
        if len(own) > MAX_OF_SOURCE:
            self._drop(self.events[own[0]])
        while len(self.events) > MAX_EVENTS or self.size_bytes > MAX_EVENT_BYTES:
            self._drop(next(iter(self.events.values())))

    def _drop(self, kept: _Kept) -> None:
        del self.events[kept.event_id]
        self.size_bytes -= len(kept.line)
        own = self.of_source[kept.source]
        own.pop(0)  # it is its source's oldest, whichever bound was met
        if not own:
            del self.of_source[kept.source]


_LIST_OF: Final = {kind: kind for kind in AuthorKind} | {AuthorKind.TOKEN: AuthorKind.USER}


class EventLog:
    """The events of this host. `generation` grows with every event."""

    def __init__(self) -> None:
        self._lists = {kind: _List() for kind in _LIST_OF.values()}
        self._next_id = 1
        self._unwritten: list[bytes] = []
        self._must_rewrite = False
        self.generation = 0

    def note(
        self,
        kind: EventKind,
        text: str,
        *,
        subject: str,
        author: Author,
        now: float,
        level: EventLevel = EventLevel.INFO,
    ) -> Event:
        """Note what happened; `now` is Unix time."""
        event = Event(
            event_id=self._next_id,
            at_s=now,
            kind=kind.value,
            level=level,
            subject=one_line(subject, MAX_WORD_CHARS),
            text=one_line(text, MAX_TEXT_CHARS),
            author=author,
        )
        line = self._keep(event)
        if len(self._unwritten) < MAX_UNWRITTEN:
            self._unwritten.append(line)
        else:
            self._must_rewrite = True
        return event

    def restore(self, lines: Iterable[bytes]) -> int:
        """Take in what an earlier run has written, before anything is noted; return how many lines were no events."""
        damaged = 0
        for line in lines:
            try:
                event = parse_event_untrusted(line)
            except EventError:
                damaged += 1
                continue
            if event.event_id >= self._next_id:  # a line twice: the file was written anew while it was read
                self._keep(event)
        return damaged

    def _keep(self, event: Event) -> bytes:
        line = encode(event)
        # Another host, and the holder of a token, choose the subjects of their events.
        chooses = event.author.kind in (AuthorKind.GOSSIP, AuthorKind.TOKEN)
        source = f"{event.author.kind} {event.author.name}" if chooses else event.subject
        kept = _Kept(event.event_id, event.at_s, event.kind, source, line)
        self._lists[_LIST_OF[event.author.kind]].add(kept)
        self._next_id = event.event_id + 1
        self.generation += 1
        return line

    # -- reading ---------------------------------------------------------------------------------------------------

    def lines(self) -> list[bytes]:
        """Return all that is kept, the oldest first, as lines of the file."""
        return [kept.line for kept in sorted(self._all(), key=lambda kept: kept.event_id)]

    def chosen(
        self,
        *,
        since_s: float = 0.0,
        kinds: Collection[str] = (),
        after: int = 0,
        before: int | None = None,
        most: int | None = None,
    ) -> Slices[list[Event]]:
        """Return the newest `most` events since a time, of some kinds (none: of all), numbered between `after` and
        `before`; the oldest first."""
        chosen: list[_Kept] = []
        for kept in sorted(self._all(after), key=lambda kept: -kept.event_id):
            is_early = before is None or kept.event_id < before
            if is_early and kept.at_s >= since_s and (not kinds or kept.kind in kinds):
                chosen.append(kept)
                if len(chosen) == most:
                    break
            yield
        found = []
        for kept in reversed(chosen):
            found.append(parse_event_untrusted(kept.line))
            yield
        return found

    def _all(self, after: int = 0) -> Iterator[_Kept]:
        """Yield what is numbered above `after`, in no order. It looks from the newest: few cost little."""
        for one in self._lists.values():
            yield from itertools.takewhile(lambda kept: kept.event_id > after, reversed(one.events.values()))

    # -- writing ---------------------------------------------------------------------------------------------------

    @property
    def has_unwritten(self) -> bool:
        """True while something waits to be written."""
        return bool(self._unwritten) or self._must_rewrite

    def take_unwritten(self) -> list[bytes] | None:
        """Return the lines to append to the file; None: write all of `lines` anew."""
        taken, self._unwritten = self._unwritten, []
        must_rewrite, self._must_rewrite = self._must_rewrite, False
        return None if must_rewrite else taken

    def note_unwritten(self) -> None:
        """Note that what was taken did not get to the disk."""
        self._must_rewrite = True
        self._unwritten.clear()
