"""Output of answers in five forms: table, wide, JSON, NDJSON and names.

Tables are aligned and fitted to the terminal, if there is one, by cutting the widest cells first. Names heard by mDNS
and labels are text from outside, so control characters are removed before they reach the terminal. JSON output is
ASCII, so that scripts need no encoding.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TextIO, TypeAlias

FORMS = ("table", "wide", "json", "ndjson", "name")
GAP = "  "
LEAST_CELL = 8
"""No column is cut below this many characters; a narrower terminal wraps."""

_COLOURS = {
    "suspect": "33",
    "hidden": "33",
    "small": "33",
    "pending": "33",
    "stopping": "33",
    "starting": "33",
    "drained": "33",
    "cooling": "33",
    "dead": "31",
    "silent": "31",
    "fenced": "31",
    "unhealthy": "31",
    "clash": "31",
    "missing": "31",
    "altered": "31",
    "left over": "33",
}
_BOLD = "1"
_MARKS = {"+": "32", "~": "33", "-": "31"}
MARK_COLUMNS = 2
"""A mark and a blank."""

Item = Mapping[str, Any]


class Column:
    """A column of a table: its title, and the function that makes a cell of an item."""

    __slots__ = ("cell", "title", "wide")

    def __init__(self, title: str, cell: Callable[[Item], str], *, wide: bool = False) -> None:
        self.title = title
        self.cell = cell
        self.wide = wide
        """Shown by `-o wide` only."""


class Printer:
    """Prints answers in the form that `-o` selects."""

    def __init__(
        self, form: str, out: TextIO | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        environment = os.environ if environment is None else environment
        self.form = form
        self._out = out or sys.stdout
        self.is_terminal = self._out.isatty()
        self.moves_cursor = self.is_terminal and environment.get("TERM") != "dumb"
        """True where a list can be shown anew in the place of the former one."""
        plain = bool(environment.get("NO_COLOR")) or not self.moves_cursor
        self._colour = self.is_terminal and not plain
        self._columns = environment.get("COLUMNS", "")
        self._watched_widths: dict[str, int] = {}

    @property
    def is_machine(self) -> bool:
        """True for the JSON forms."""
        return self.form in ("json", "ndjson")

    def items(
        self, items: Sequence[Item], columns: Sequence[Column], *, empty: str, warnings: Sequence[Item] = ()
    ) -> None:
        """Print a list, or `empty` when a table has no rows; only JSON contains `warnings`."""
        if self.form == "json":
            said = {"warnings": warnings} if warnings else {}
            self.json({"schema": 1, **said, "items": items})
        elif self.form == "ndjson":
            for item in items:
                self.json({"schema": 1, **item})
        elif self.form == "name":
            self.lines(clean(_name_of(item)) for item in items)
        elif self.form == "id":
            self.lines(clean(str(item["id"])) for item in items)
        elif items:
            self.lines(self.table(items, columns))
        else:
            self.lines([empty])

    def one(self, thing: Item, lines: Callable[[], Iterable[str]], *, name: str) -> None:
        """Print one object: `lines` for people, `name` for `-o name`."""
        if self.is_machine:
            self.json(thing)
        elif self.form == "name":
            self.lines([clean(name)])
        else:
            self.lines(lines())

    def json(self, value: Mapping[str, Any]) -> None:
        """Print it indented for `json`, on one line for `ndjson`."""
        self._out.write(json.dumps(value, indent=2 if self.form == "json" else None) + "\n")

    def event(self, event: Mapping[str, Any]) -> None:
        """Print one event of a watched list on one line, in both JSON forms, and flush it."""
        self._out.write(json.dumps(event) + "\n")
        self._out.flush()

    def watched(
        self, rows: Sequence[tuple[str, Item]], columns: Sequence[Column], *, empty: str, is_first: bool
    ) -> None:
        """Print a watched list; elsewhere than on a terminal only its changes after the first. A mark stands before
        each row."""
        if self.moves_cursor:
            self._out.write("\x1b[H\x1b[J")
        texts: list[str] = []
        if self.form == "name":
            texts = [clean(_name_of(item)) for _, item in rows]
        elif rows or (is_first and not self.moves_cursor):
            # Later lines stand below a header that is printed already, so they need its columns.
            keeps = None if self.moves_cursor else self._watched_widths
            header, *texts = self._grid([item for _, item in rows], columns, indent=MARK_COLUMNS, keeps=keeps)
            if is_first or self.moves_cursor:
                self.lines([" " * MARK_COLUMNS + header])
        if not rows and (is_first or self.moves_cursor):
            self.lines([empty])
        for (mark, _), text in zip(rows, texts, strict=True):
            self._out.write(f"{self._paint(mark, _MARKS.get(mark, ''))} {text}".rstrip() + "\n")
        self._out.flush()

    def flush(self) -> None:
        """Pass on what was printed: the reader waits for it."""
        self._out.flush()

    def lines(self, lines: Iterable[str]) -> None:
        """Print lines as they are."""
        self._out.writelines(line + "\n" for line in lines)

    def table(self, items: Sequence[Item], columns: Sequence[Column]) -> list[str]:
        """Return aligned lines, header first. The form `table` leaves out columns that are empty in all rows."""
        return self._grid(items, columns)

    def _grid(
        self,
        items: Sequence[Item],
        columns: Sequence[Column],
        *,
        indent: int = 0,
        keeps: dict[str, int] | None = None,
    ) -> list[str]:
        """`indent`: how many characters stand before each line. `keeps`: the width of each column so far, by title;
        with it no column is narrower than it was, and none is left out."""
        wide = self.form == "wide"
        shown = [column for column in columns if wide or not column.wide]
        cells = {column.title: [clean(column.cell(item)) for item in items] for column in shown}
        if not wide and keeps is None:
            shown = [column for column in shown if any(cells[column.title]) or column is shown[0]]
        grid = [[column.title, *cells[column.title]] for column in shown]
        widths = [max(map(len, column)) for column in grid]
        if keeps is not None:
            keeps |= {c.title: max(w, keeps.get(c.title, 0)) for c, w in zip(shown, widths, strict=True)}
            widths = [keeps[column.title] for column in shown]
        if limit := self._width():
            widths = fitted(widths, limit - indent)
        return [
            self._row([column[i] for column in grid], widths, header=i == 0) for i in range(len(items) + 1)
        ]

    def _row(self, cells: Sequence[str], widths: Sequence[int], *, header: bool) -> str:
        parts = []
        for place, (cell, width) in enumerate(zip(cells, widths, strict=True)):
            text = cut(cell, width)
            if place < len(cells) - 1:
                text = text.ljust(width)
            colour = _BOLD if header else _COLOURS.get(cell, "")
            parts.append(self._paint(text, colour))
        return GAP.join(parts).rstrip()

    def _paint(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if colour and self._colour else text

    def _width(self) -> int:
        """Return the columns of the terminal; 0 when the output goes elsewhere and must not be cut."""
        if not self.is_terminal or self.form == "wide":
            return 0
        if self._columns.isdecimal():
            return int(self._columns)
        try:
            return os.get_terminal_size(self._out.fileno()).columns
        except (OSError, ValueError):
            return 0


MARKED_S: Final = 5.0
"""How long a row is marked: with several changes a second, a mark that the next one removes cannot be read."""
ADDED, CHANGED, REMOVED, SAME = "+", "~", "-", " "


Row: TypeAlias = tuple[str, Item]
"""A mark, and the item after it."""


class WatchedList:
    """The state of a watched list. Times come from the caller.

    A terminal shows the whole list anew after each change, with a mark before each row that was added (`+`), changed
    (`~`) or removed (`-`) within the last seconds; what was removed stays that long. Elsewhere the list is printed
    once, and then a line with its mark for each change: `grep`, `tee` and a log see what happened, and nothing twice.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns
        self._items: dict[str, Item] = {}
        self._marked: dict[str, tuple[float, Row]] = {}
        self._is_whole = False

    def __bool__(self) -> bool:
        """True once the agent sent the whole list."""
        return self._is_whole

    def take(self, batch: Sequence[Mapping[str, Any]], now: float) -> list[Row]:
        """Apply events; return what they changed after the list was whole, in the order of the events."""
        news: list[Row] = []
        for event in batch:
            if event["event"] == "synced":
                self._is_whole = True
                continue
            item = event["item"]
            key = item["id"]
            if event["event"] == "removed":
                mark = REMOVED
                self._items.pop(key, None)
            else:
                mark = CHANGED if key in self._items else ADDED
                self._items[key] = item
            if self._is_whole:
                news.append((mark, item))
                self._marked[key] = (now, news[-1])
        return news

    def rows(self, now: float) -> list[Row]:
        """Return what a terminal shows: all items, and those that were removed a moment ago, sorted by the first
        columns. Items that were added later came last, not in the agent's order."""
        self._marked = {key: one for key, one in self._marked.items() if now - one[0] < MARKED_S}
        marks = {key: mark for key, (_, (mark, _)) in self._marked.items()}
        rows = [(marks.get(key, SAME), item) for key, item in self._items.items()]
        rows += [row for _, row in self._marked.values() if row[0] == REMOVED]
        return sorted(rows, key=lambda row: [column.cell(row[1]) for column in self._columns[:4]])


def fitted(widths: Sequence[int], limit: int) -> list[int]:
    """Reduce the widest widths until their sum with gaps is at most `limit`; none falls below LEAST_CELL."""
    result = list(widths)
    excess = sum(result) + len(GAP) * (len(result) - 1) - limit
    while excess > 0:
        widest = max(result)
        if widest <= LEAST_CELL:
            break
        result[result.index(widest)] -= 1
        excess -= 1
    return result


def cut(text: str, width: int) -> str:
    """Return at most `width` characters, with an ellipsis when text was cut."""
    return text if len(text) <= width else text[: width - 1] + "…"


def clean(text: str) -> str:
    """Remove control and other unprintable characters: text from outside must not move the cursor."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def some(texts: Sequence[str], most: int = 3) -> str:
    """Join the first `most` texts; `+N` says how many more there are."""
    more = len(texts) - most
    return ", ".join(texts) if more <= 0 else f"{', '.join(texts[:most])} +{more}"


def moment(text: str) -> str:
    """Format a moment of JSON, `2026-12-01T22:13:00Z`, in the time of the reader's own zone; "" stays so."""
    import datetime as dt  # only here: most commands do without

    return f"{dt.datetime.fromisoformat(text).astimezone():%Y-%m-%d %H:%M:%S}" if text else ""


def span(seconds: float) -> str:
    """Format a length of time in one or two units: `0.4 ms`, `400 ms`, `12 s`, `3 min`, `5 h 10 min`, `2 d 3 h`."""
    if seconds < 1:
        return f"{seconds * 1000:.{0 if seconds >= 0.01 else 1}f} ms"
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    for unit, size, lesser, lesser_size in (("d", 86400, "h", 3600), ("h", 3600, "min", 60)):
        if whole >= size:
            rest = whole % size // lesser_size
            return f"{whole // size} {unit}" + (f" {rest} {lesser}" if rest else "")
    return f"{whole // 60} min"


def counted(number: int, one: str, many: str = "") -> str:
    """`1 host`, `2 hosts`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _name_of(item: Item) -> str:
    """Return what a command takes as the item's name: a ring key has only an id."""
    return str(item["name"] if "name" in item else item["id"])
