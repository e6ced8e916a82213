"""A list that is shown while it changes: which items it has, and which of them changed a moment ago.

A terminal shows the whole list anew after each change, with a mark before each row that was added (`+`), changed
(`~`) or removed (`-`) within the last seconds; what was removed stays that long. Elsewhere the list is printed once,
and then a line with its mark for each change, so that `grep`, `tee` and a log see what happened and nothing twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from netagent.cli.render import Column, Item

MARKED_S: Final = 5.0
"""How long a row is marked: with several changes a second, a mark that the next one removes cannot be read."""
ADDED, CHANGED, REMOVED, SAME = "+", "~", "-", " "


class Row(NamedTuple):
    """An item, and the mark before it."""

    mark: str
    item: Item


class WatchedList:
    """The state of a watched list. Times come from the caller."""

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
        news = []
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
                news.append(Row(mark, item))
                self._marked[key] = (now, news[-1])
        return news

    def rows(self, now: float) -> list[Row]:
        """Return what a terminal shows: all items, and those that were removed a moment ago, sorted by the first
        columns. Items that were added later came last, not in the agent's order."""
        self._marked = {key: one for key, one in self._marked.items() if now - one[0] < MARKED_S}
        marks = {key: row.mark for key, (_, row) in self._marked.items()}
        rows = [Row(marks.get(key, SAME), item) for key, item in self._items.items()]
        rows += [row for _, row in self._marked.values() if row.mark == REMOVED]
        return sorted(rows, key=lambda row: [column.cell(row.item) for column in self._columns[:4]])
