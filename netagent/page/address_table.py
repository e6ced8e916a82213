"""The rows of addresses: of each network all of its address space, and the part that each host owns. Pure.

A network has the row of the whole first, then its hosts, unless the reader sorts otherwise. What matches is sorted
anew at each reading: there is a row for each host of each network, not for each endpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from netagent.errors import InputError
from netagent.page.table_query import TableQuery
from netgossip.slices import Slices, merge_sort

Row: TypeAlias = dict[str, Any]

NEARLY_FULL_PERCENT: Final = 80
"""Of a network's addresses: from here on its row says so, while there is time to make a larger network."""
MAX_RANGES: Final = 4
"""Bound of ranges that a row names; beyond it: their number is said."""
_ANSWERING: Final = ("alive", "suspect")

ORDERS: Final[Mapping[str, Callable[[Row], tuple[Any, ...]]]] = {
    "network": lambda row: (row["network"], not row["is_whole"], -row["owned"], row["host"]),
    "host": lambda row: (row["host"], row["network"]),
    "owned": lambda row: (row["owned"], row["network"], row["host"]),
    "used": lambda row: (-1 if row["used"] is None else row["used"], row["network"], row["host"]),
    "free": lambda row: (-1 if row["free"] is None else row["free"], row["network"], row["host"]),
}
"""By column; the first is the table's own order."""


def address_rows(networks: Sequence[Mapping[str, Any]], query: TableQuery) -> Slices[tuple[list[Row], int]]:
    """Return the rows that match, in order, and the number of all. Raises InputError."""
    order = query.sort or next(iter(ORDERS))
    if order not in ORDERS:
        raise InputError(
            f"no column {order[:40]!r} to sort by", thing="sort", hint=f"one of {', '.join(ORDERS)}"
        )
    total, keyed = 0, []
    for network in networks:
        for row in _rows_of(network):
            total += 1
            if _is_wanted(row, query):
                keyed.append((ORDERS[order](row), row))
            yield
    keyed = yield from merge_sort(keyed, lambda one: one[0])
    rows = [row for _, row in keyed]
    return rows[::-1] if query.is_descending else rows, total


def _rows_of(network: Mapping[str, Any]) -> Iterator[Row]:
    use = network["use"]
    common = {"network": network["name"], "network_id": network["id"]}
    yield {
        **common,
        "id": network["id"],
        "is_whole": True,
        "host": "",
        "host_id": "",
        "agent": "",
        "state": _state_of_whole(use),
        "owned": use["total"],
        "used": use["used"],
        "free": use["free"],
        "away": use["away"] or 0,
        "unowned": use["unowned"],
        "ranges": network["subnets"],
        "range_count": len(network["subnets"]),
    }
    for share in use["owners"]:
        is_away = share["agent"] not in _ANSWERING and share["owned"]
        yield {
            **common,
            "id": f"{network['id']}/{share['host_id']}",
            "is_whole": False,
            "host": share["host"],
            "host_id": share["host_id"],
            "agent": share["agent"],
            "state": "away" if is_away else "not known" if share["used"] is None else "ok",
            "owned": share["owned"],
            "used": share["used"],
            "free": share["free"],
            "away": 0,
            "unowned": 0,
            "ranges": share["ranges"][:MAX_RANGES],
            "range_count": len(share["ranges"]),
        }


def _state_of_whole(use: Mapping[str, Any]) -> str:
    """Return what can be said of a network. Addresses of a host that is away are free, and nobody can use them."""
    if use["used"] is None:
        return "not known"
    usable = use["free"] - (use["away"] or 0) + use["unowned"]
    if usable <= 0:
        return "full"
    return "nearly full" if (use["total"] - usable) * 100 >= use["total"] * NEARLY_FULL_PERCENT else "ok"


def _is_wanted(row: Row, query: TableQuery) -> bool:
    if query.network not in {"", row["network"]} or query.host not in {"", row["host"]}:
        return False
    if query.state not in {"", row["state"]}:
        return False
    text = f"{row['network']} {row['host']} {row['agent']} {' '.join(row['ranges'])}".lower()
    return all(word in text for word in query.words)
