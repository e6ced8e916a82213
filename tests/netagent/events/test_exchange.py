"""Events of another host."""

from __future__ import annotations

import dataclasses
import zlib
from functools import partial

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netagent.events.event import Event, EventError, encode
from netagent.events.event_log import EventLog
from netagent.events.exchange import (
    MAX_PAGE_BYTES,
    MAX_PAGE_EVENTS,
    EventsPage,
    EventsQuestion,
    answer,
    page_of,
    parse_page_untrusted,
    parse_question_untrusted,
)
from netagent.events.kinds import EventKind, EventLevel
from netagent.model.author import AGENT, Author, AuthorKind
from netgossip.slices import at_once


def log_of(texts: list[str]) -> EventLog:
    log = EventLog()
    for number, text in enumerate(texts):
        kind = EventKind.ATTACH if number % 2 else EventKind.DRAIN
        log.note(kind, text, subject=f"c{number % 7}", author=AGENT, now=100.0 + number)
    return log


def fetch(log: EventLog, asked: EventsQuestion) -> tuple[list[Event], int]:
    """All that a host says in answer, the oldest first, and in how many pages."""
    found: list[Event] = []
    pages = 0
    while True:
        payload = at_once(answer(log, asked.encode()))
        assert len(payload) <= MAX_PAGE_BYTES
        page = parse_page_untrusted(payload, asked)
        found += page.events
        pages += 1
        if not page.is_more:
            return found[::-1], pages
        asked = dataclasses.replace(asked, before=page.events[-1].event_id)


texts = st.lists(st.text(max_size=500) | st.sampled_from(["attached web", "detached web"]), max_size=40)


@given(texts, st.integers(0, 45), st.integers(0, 150_000), st.sampled_from([[], ["attach"], ["eclipse"]]))
def test_all_that_was_asked_for_comes_in_pages_that_fit(
    texts: list[str], after: int, since_ms: int, kinds: list[str]
) -> None:
    log = log_of(texts)
    asked = EventsQuestion(since_ms, frozenset(kinds), after)
    assert parse_question_untrusted(asked.encode()) == asked
    found, _ = fetch(log, asked)
    expected = [
        number
        for number in range(1, len(texts) + 1)
        if number > after
        and 99 + number >= since_ms / 1000
        and (not kinds or (kinds == ["attach"] and number % 2 == 0))
    ]
    assert [one.event_id for one in found] == expected


def test_usual_events_take_few_pages() -> None:
    log = log_of(
        [f"attached web{number} (netns:web{number}) to app: 10.160.0.{number}" for number in range(100)]
    )
    found, pages = fetch(log, EventsQuestion())
    assert len(found) == 100
    assert pages <= 8


def test_the_largest_event_fits_with_its_text_cut() -> None:
    whale = "".join(chr(0x1F300 + number % 700) for number in range(400))
    event = Event(
        1, 1.0, whale[:100], EventLevel.INFO, whale[:100], whale,
        Author(AuthorKind.USER, whale[:100], 2**32, whale[:100]),
    )  # fmt: skip
    page = page_of([event], is_more=False)
    assert len(page.encode()) <= MAX_PAGE_BYTES
    assert parse_page_untrusted(page.encode(), EventsQuestion()).events[0].event_id == 1


def page(numbers: list[int]) -> bytes:
    events = tuple(Event(n, 1.0, "attach", EventLevel.INFO, "", "x", AGENT) for n in numbers)
    return EventsPage(events, is_more=True).encode()


@pytest.mark.parametrize("numbers", [[5, 5], [4, 5], [9], [10], [2], [5, 2]])
def test_events_that_were_not_asked_for_are_refused(numbers: list[int]) -> None:
    asked = EventsQuestion(after=2, before=9)
    parse_page_untrusted(page([8, 3]), asked)
    with pytest.raises(EventError):
        parse_page_untrusted(page(numbers), asked)


def test_what_unpacks_to_too_much_is_refused() -> None:
    bomb = msgpack.packb(["events", zlib.compress(b"x" * 800_000), False])
    assert len(bomb) <= MAX_PAGE_BYTES
    with pytest.raises(EventError, match="too long"):
        parse_page_untrusted(bomb, EventsQuestion())
    one = encode(Event(1, 1.0, "attach", EventLevel.INFO, "", "x", AGENT))
    many = msgpack.packb(["events", zlib.compress(b"\n".join([one] * (MAX_PAGE_EVENTS + 5))), False])
    with pytest.raises(EventError):
        parse_page_untrusted(many, EventsQuestion())


junk = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(
    st.binary(max_size=1200) | st.lists(junk, max_size=6).map(lambda rest: msgpack.packb(["events", *rest]))
)
def test_anything_else_is_refused_by_one_error(payload: bytes) -> None:
    for parse in (parse_question_untrusted, partial(parse_page_untrusted, asked=EventsQuestion())):
        try:
            parse(payload)
        except EventError:
            continue


def test_a_later_release_may_append_fields() -> None:
    assert parse_question_untrusted(msgpack.packb(["events", 0, [], 3, 9, "more"])).after == 3
    assert parse_page_untrusted(
        msgpack.packb(["events", zlib.compress(b""), False, "more"]), EventsQuestion()
    ) == EventsPage((), is_more=False)
