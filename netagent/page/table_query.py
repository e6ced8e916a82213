"""What the reader of a table asks for: words to search, filters, an order, and which rows are in sight.

They are the query of the page's address as well, so a link shows the same rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from netagent.errors import InputError

MAX_ROWS: Final = 200
"""Bound of rows that one table gets at once; beyond it: the browser asks for others as the reader scrolls."""
MAX_WORDS: Final = 8
MAX_CHARS: Final = 200

FILTERS: Final = ("network", "host", "service", "state")
_PLAIN: Final = ("q", *FILTERS, "sort")


@dataclass(frozen=True, slots=True)
class TableQuery:
    """A part of a table."""

    words: tuple[str, ...] = ()
    """In lower case; a row must contain each of them."""
    network: str = ""
    """Names, as they are shown; empty: any."""
    host: str = ""
    service: str = ""
    state: str = ""
    sort: str = ""
    """A column; empty: the table's own order."""
    is_descending: bool = False
    offset: int = 0
    limit: int = MAX_ROWS


def parse_query_untrusted(query: Mapping[str, str]) -> TableQuery:
    """Read the query of a request. Raises InputError."""
    text = {name: query.get(name, "").strip() for name in _PLAIN}
    for name, value in text.items():
        if len(value) > MAX_CHARS:
            raise InputError(
                f"{name!r} is longer than {MAX_CHARS} characters", thing=name, hint="search for less"
            )
    words = text["q"].lower().split()
    if len(words) > MAX_WORDS:
        raise InputError(f"more than {MAX_WORDS} words to search", thing="q", hint="search for fewer")
    sort = text["sort"]
    return TableQuery(
        words=tuple(words),
        **{name: text[name] for name in FILTERS},
        sort=sort.removeprefix("-"),
        is_descending=sort.startswith("-"),
        offset=_number(query, "offset", 0, most=10_000_000),
        limit=_number(query, "limit", MAX_ROWS, most=MAX_ROWS),
    )


def _number(query: Mapping[str, str], name: str, default: int, *, most: int) -> int:
    text = query.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InputError(f"{name} is no number: {text[:40]!r}", thing=name, hint=f"give 0 to {most}")
    return min(int(text), most)
