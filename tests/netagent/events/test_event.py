"""One event and its line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netagent.events.event import (
    MAX_LINE_BYTES,
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

words = st.text(max_size=MAX_WORD_CHARS).map(lambda text: one_line(text, MAX_WORD_CHARS))
authors = st.builds(
    Author,
    st.sampled_from(AuthorKind),
    words,
    st.none() | st.integers(0, 2**32),
    st.none() | words,
)
events = st.builds(
    Event,
    event_id=st.integers(0, 2**63 - 1),
    at_s=st.integers(0, 2**32 * 1000).map(lambda ms: ms / 1000),
    kind=st.sampled_from([kind.value for kind in EventKind]),
    level=st.sampled_from(EventLevel),
    subject=words,
    text=st.text(max_size=2 * MAX_TEXT_CHARS).map(lambda text: one_line(text, MAX_TEXT_CHARS)),
    author=authors,
)


@given(events)
def test_a_line_says_all_of_an_event(event: Event) -> None:
    line = encode(event)
    assert b"\n" not in line
    assert len(line) <= MAX_LINE_BYTES
    assert parse_event_untrusted(line) == event


@given(
    st.binary(max_size=300)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text() | st.integers(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["id", "at_s", "author", "kind"]), inner)
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_what_is_no_event_is_refused_by_one_error(line: bytes) -> None:
    with pytest.raises(EventError):
        parse_event_untrusted(line)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", True),
        ("id", -1),
        ("id", 2**63),
        ("at_s", float("nan")),
        ("at_s", float("inf")),
        ("at_s", "0"),
        ("level", "loud"),
        ("text", None),
        ("author", {"kind": "fate", "name": "x"}),
        ("author", {"kind": "user", "name": "x", "uid": "0"}),
    ],
)
def test_a_field_of_another_form_is_refused(field: str, value: object) -> None:
    good = json.loads(encode(Event(1, 1.0, "attach", EventLevel.INFO, "", "", Author(AuthorKind.USER, "x"))))
    parse_event_untrusted(json.dumps(good).encode())
    with pytest.raises(EventError):
        parse_event_untrusted(json.dumps({**good, field: value}).encode())


def test_the_worst_line_is_refused_before_it_is_parsed() -> None:
    for line in (b"[" * 10**6, b'{"id":' * 10**5, b'{"id": ' + b"9" * 10**6 + b"}"):
        with pytest.raises(EventError, match="limit"):
            parse_event_untrusted(line)
    with pytest.raises(EventError):
        parse_event_untrusted(b"[" * MAX_LINE_BYTES)


def test_a_later_release_may_have_more_kinds_and_fields() -> None:
    event = Event(1, 1.0, "attach", EventLevel.INFO, "", "", Author(AuthorKind.USER, "x"))
    fields = {**json.loads(encode(event)), "kind": "eclipse", "host": "h9"}
    assert parse_event_untrusted(json.dumps(fields).encode()).kind == "eclipse"


@given(st.text(max_size=50), st.integers(1, 20))
def test_one_line_is_printable_and_no_longer_than_asked(text: str, most: int) -> None:
    line = one_line(text, most)
    assert line.isprintable()
    assert len(line) == min(len(text), most)
