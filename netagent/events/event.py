"""One event, and the line of JSON that stands for it: in the file, and in what one host answers another.

    {"id": 17, "at_s": 1900000000.25, "kind": "attach", "level": "info", "subject": "web1", "text": "attached …",
     "author": {"kind": "user", "name": "alice", "uid": 1000, "program": "netagent"}}

Lines of a later release may have further fields and kinds that this one does not know; it keeps both.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Final

from netagent.errors import InputError
from netagent.events.kinds import EventLevel
from netagent.model.author import Author, AuthorKind

MAX_TEXT_CHARS: Final = 400
"""Bound of characters of an event's text; beyond it: cut. Sentences of the agent stay below half of it, unless they
name what came from outside."""
MAX_WORD_CHARS: Final = 100
"""Bound of characters of an event's subject, its author and its kind; beyond it: cut. A full name of DNS may be
longer; no name of an endpoint is."""
MAX_LINE_BYTES: Final = 8 * 1024
"""Bound of one line of the file, and of one event that another host answers with; beyond it: refused. The texts above
take a third of it where each character is the longest."""


class EventError(InputError):
    """These bytes are no event. Nothing was taken from them."""

    code = "bad-event"


@dataclass(frozen=True, slots=True)
class Event:
    """What happened. `subject` is what it happened to; empty: this host as a whole."""

    event_id: int
    """Counts up, over restarts, within one host."""
    at_s: float
    """Unix time, by this host's clock: for people. The order is that of `event_id`."""
    kind: str
    """An EventKind, or a word of a later release."""
    level: EventLevel
    subject: str
    text: str
    author: Author


def one_line(text: str, most: int) -> str:
    """Return the text with all that is unprintable replaced, cut to `most` characters: part of it may be a
    stranger's, and neither starts a line nor moves a cursor."""
    cut = text if len(text) <= most else text[: most - 1] + "…"
    return cut if cut.isprintable() else "".join(one if one.isprintable() else "?" for one in cut)


def encode(event: Event) -> bytes:
    """Return the line, without its end."""
    author: dict[str, Any] = {"kind": event.author.kind.value, "name": event.author.name}
    if event.author.uid is not None:
        author["uid"] = event.author.uid
    if event.author.program is not None:
        author["program"] = event.author.program
    fields = {
        "id": event.event_id,
        "at_s": round(event.at_s, 3),
        "kind": event.kind,
        "level": event.level.value,
        "subject": event.subject,
        "text": event.text,
        "author": author,
    }
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def parse_event_untrusted(line: bytes) -> Event:
    """Parse a line. Raises EventError for anything that is not one whole event."""
    if len(line) > MAX_LINE_BYTES:
        raise EventError(f"{len(line)} bytes, the limit is {MAX_LINE_BYTES}")
    try:
        fields = json.loads(line)
        author = fields["author"]
        uid, program = author.get("uid"), author.get("program")
        return Event(
            event_id=_number(fields["id"]),
            at_s=_time(fields["at_s"]),
            kind=_word(fields["kind"]),
            level=EventLevel(fields["level"]),
            subject=_word(fields["subject"]),
            text=_text(fields["text"], MAX_TEXT_CHARS),
            author=Author(
                AuthorKind(author["kind"]),
                _word(author["name"]),
                None if uid is None else _number(uid),
                None if program is None else _word(program),
            ),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise EventError("not an event") from None


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError
    return value


def _time(value: object) -> float:
    if type(value) not in (int, float):
        raise ValueError
    seconds = float(value)  # type: ignore[arg-type]
    if not math.isfinite(seconds) or not 0 <= seconds < 2**33:
        raise ValueError
    return seconds


def _word(value: object) -> str:
    return _text(value, MAX_WORD_CHARS)


def _text(value: object, most: int) -> str:
    if not isinstance(value, str):
        raise TypeError
    return one_line(value, most)
