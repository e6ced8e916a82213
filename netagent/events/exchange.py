"""Events of another host: the question, and the answer in pages, each of which fits into one datagram. Pure.

    question   ["events", since (ms), [kind, ...], after, before]     your newest events since then, of these kinds
                                                                      (none: of all), numbered between the two
    answer     ["events", lines, is_more]                             the newest first, as many as fit; compressed

The asking host goes on with the number of the last event as `before`, until it has as many as it wants. No number
limits: 0 and MAX_NUMBER. An event that does not fit alone comes with its text cut.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgpack

from netagent.events.event import MAX_WORD_CHARS, Event, EventError, encode, one_line, parse_event_untrusted
from netagent.events.event_log import EventLog
from netgossip.slices import Slices

EVENTS: Final = "events"
MAX_NUMBER: Final = 2**63 - 1
MAX_PAGE_BYTES: Final = 960
"""Bound of a page of events; beyond it: the rest is on the next page. A response of the gossip has room for 1,000."""
MAX_PAGE_EVENTS: Final = 32
"""Bound of events on one page; beyond it: the rest is on the next page, or from another host: refused."""
MAX_KINDS: Final = 64
"""Bound of kinds in a question; beyond it: refused. This release has a quarter of them."""
_MAX_UNPACKED_BYTES: Final = 64 * 1024
"""Of the lines of a page, before they are parsed: a thousand bytes may unpack to a million."""
_SHORT_TEXT_CHARS: Final = 60
_SHORT_WORD_CHARS: Final = 16


@dataclass(frozen=True, slots=True)
class EventsQuestion:
    """Which events of a host are wanted: numbered above `after` and below `before`."""

    since_ms: int = 0
    kinds: frozenset[str] = frozenset()
    after: int = 0
    before: int = MAX_NUMBER

    def encode(self) -> bytes:
        """Return the question's bytes."""
        data: bytes = msgpack.packb([EVENTS, self.since_ms, sorted(self.kinds), self.after, self.before])
        return data


def parse_question_untrusted(payload: bytes) -> EventsQuestion:
    """Parse a peer's question. Raises EventError."""
    since_ms, kinds, after, before = _fields(payload, 4)
    if not isinstance(kinds, list) or len(kinds) > MAX_KINDS:
        raise EventError("kinds")
    if not all(isinstance(one, str) and len(one) <= MAX_WORD_CHARS for one in kinds):
        raise EventError("kinds")
    return EventsQuestion(_number(since_ms), frozenset(kinds), _number(after), _number(before))


@dataclass(frozen=True, slots=True)
class EventsPage:
    """Some of them, the newest first."""

    events: tuple[Event, ...]
    is_more: bool

    def encode(self) -> bytes:
        """Return the answer's bytes."""
        lines = zlib.compress(b"\n".join(encode(one) for one in self.events), 6)
        data: bytes = msgpack.packb([EVENTS, lines, self.is_more])
        return data


def page_of(events: Sequence[Event], *, is_more: bool) -> EventsPage:
    """Return as many of the events, the newest first, as fit on a page."""
    count = min(len(events), MAX_PAGE_EVENTS)
    while count > 1 and len(EventsPage(tuple(events[:count]), is_more=True).encode()) > MAX_PAGE_BYTES:
        count = min(count - 1, count * 3 // 4)
    page = EventsPage(tuple(events[:count]), is_more or count < len(events))
    if count == 1 and len(page.encode()) > MAX_PAGE_BYTES:
        return dataclasses.replace(page, events=(_shortened(events[0]),))
    return page


def _shortened(event: Event) -> Event:
    author = event.author
    return dataclasses.replace(
        event,
        text=one_line(event.text, _SHORT_TEXT_CHARS),
        subject=one_line(event.subject, _SHORT_WORD_CHARS),
        kind=one_line(event.kind, _SHORT_WORD_CHARS),
        author=dataclasses.replace(author, name=one_line(author.name, _SHORT_WORD_CHARS), program=None),
    )


def parse_page_untrusted(payload: bytes, asked: EventsQuestion) -> EventsPage:
    """Parse a peer's answer to a question. Raises EventError, also for events that were not asked for: so going on
    with the last number always ends."""
    lines, is_more = _fields(payload, 2)
    if not isinstance(lines, bytes) or not isinstance(is_more, bool):
        raise EventError("lines")
    unpacking = zlib.decompressobj()
    try:
        content = unpacking.decompress(lines, _MAX_UNPACKED_BYTES)
    except zlib.error:
        raise EventError("lines: not compressed") from None
    if unpacking.unconsumed_tail:
        raise EventError("lines: too long")
    events = tuple(parse_event_untrusted(line) for line in content.split(b"\n", MAX_PAGE_EVENTS) if line)
    numbers = [one.event_id for one in events]
    is_falling = all(one > other for one, other in zip([asked.before, *numbers], numbers, strict=False))
    if not is_falling or any(number <= asked.after for number in numbers):
        raise EventError("numbers")
    return EventsPage(events, is_more)


def answer(log: EventLog, payload: bytes) -> Slices[bytes]:
    """Answer a peer's question. Raises EventError."""
    asked = parse_question_untrusted(payload)
    found = yield from log.chosen(
        since_s=asked.since_ms / 1000,
        kinds=asked.kinds,
        after=asked.after,
        before=asked.before,
        most=MAX_PAGE_EVENTS + 1,
    )
    newest_first = found[::-1]
    is_more = len(newest_first) > MAX_PAGE_EVENTS
    return page_of(newest_first[:MAX_PAGE_EVENTS], is_more=is_more).encode()


def _fields(payload: bytes, count: int) -> list[object]:
    if len(payload) > MAX_PAGE_BYTES:
        raise EventError(f"{len(payload)} bytes, the limit is {MAX_PAGE_BYTES}")
    try:
        items = msgpack.unpackb(payload)
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException):
        raise EventError("not msgpack") from None
    # A later release may append fields.
    if not isinstance(items, list) or len(items) < count + 1 or items[0] != EVENTS:
        raise EventError("not about events")
    return items[1 : count + 1]


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value <= MAX_NUMBER:
        raise EventError("number")
    return value
