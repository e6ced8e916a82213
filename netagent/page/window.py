"""The rows of one reader's table: those that match what he asks for, in order, and of these the ones in sight. Pure.

The first reading sorts all rows that match, in slices. After that each change costs a binary search, so that a reader
who looks at 100 of 20,000 rows costs what changes, not what is there.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, TypeAlias, TypeVar

from netagent.errors import InputError
from netagent.page.cluster_tables import SERVICE_WORDS, EndpointRow, RowId, ServiceRow
from netagent.page.table_query import TableQuery
from netgossip.slices import Slices, merge_sort

R = TypeVar("R")

SortKey: TypeAlias = tuple[Any, ...]

TROUBLE: Final = "trouble"
"""The filter for endpoints in any state but `up`."""

SERVICE_ORDERS: Final[Mapping[str, Callable[[ServiceRow], SortKey]]] = {
    "name": lambda row: (row.name, row.network),
    "network": lambda row: (row.network, row.name),
    "state": lambda row: (SERVICE_WORDS.index(row.word), row.name, row.network),
    "replicas": lambda row: (row.total, row.name, row.network),
    "hosts": lambda row: (len(row.hosts), row.name, row.network),
}
ENDPOINT_ORDERS: Final[Mapping[str, Callable[[EndpointRow], SortKey]]] = {
    "name": lambda row: (row.name, row.network, row.host),
    "network": lambda row: (row.network, row.name, row.host),
    "service": lambda row: (row.service, row.network, row.name),
    "host": lambda row: (row.host, row.name, row.network),
    "state": lambda row: (row.word == "up", row.word, row.name, row.network),
}
"""By column; the first is the table's own order. `state` begins with what is wrong."""


class Window(Generic[R]):
    """One table as one reader sees it."""

    def __init__(
        self,
        rows: Mapping[RowId, R],
        query: TableQuery,
        orders: Mapping[str, Callable[[R], SortKey]],
        is_wanted: Callable[[R, TableQuery], bool],
    ) -> None:
        order = query.sort or next(iter(orders))
        if order not in orders:
            raise InputError(
                f"no column {order[:40]!r} to sort by", thing="sort", hint=f"one of {', '.join(orders)}"
            )
        self._rows = rows
        self._query = query
        self._key = orders[order]
        self._is_wanted = is_wanted
        self._keys: dict[RowId, SortKey] = {}
        self._sorted: list[tuple[SortKey, RowId]] = []

    def fill(self) -> Slices[None]:
        """Look at all rows."""
        found = []
        for row_id, row in list(self._rows.items()):
            if self._is_wanted(row, self._query):
                found.append((self._key(row), row_id))
            yield
        self._sorted = yield from merge_sort(found, lambda one: one)
        self._keys = {row_id: key for key, row_id in self._sorted}

    def look_again(self, row_id: RowId) -> None:
        """Look at one row that has changed, come or gone."""
        row = self._rows.get(row_id)
        key = self._key(row) if row is not None and self._is_wanted(row, self._query) else None
        before = self._keys.get(row_id)
        if key == before:
            return
        if before is not None:
            del self._sorted[bisect_left(self._sorted, (before, row_id))]
            del self._keys[row_id]
        if key is not None:
            insort(self._sorted, (key, row_id))
            self._keys[row_id] = key

    @property
    def matching(self) -> int:
        """How many rows match."""
        return len(self._sorted)

    def in_sight(self) -> list[RowId]:
        """The rows in sight, in order."""
        first, last = self._query.offset, self._query.offset + self._query.limit
        if self._query.is_descending:
            count = len(self._sorted)
            part = self._sorted[max(0, count - last) : max(0, count - first)][::-1]
        else:
            part = self._sorted[first:last]
        return [row_id for _, row_id in part]


def is_service_wanted(row: ServiceRow, query: TableQuery) -> bool:
    """True if a service matches."""
    if query.network not in {"", row.network} or query.state not in {"", row.word}:
        return False
    if query.host and query.host not in row.hosts:
        return False
    return not query.words or _contains(row.text, query)


def is_endpoint_wanted(row: EndpointRow, query: TableQuery) -> bool:
    """True if an endpoint matches."""
    if query.network not in {"", row.network} or query.host not in {"", row.host}:
        return False
    if query.service not in {"", row.service} or query.state not in {"", row.word, TROUBLE}:
        return False
    if query.state == TROUBLE and row.word == "up":
        return False
    return not query.words or _contains(row.text, query)


def _contains(text: str, query: TableQuery) -> bool:
    return all(word in text for word in query.words)
