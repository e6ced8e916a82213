"""Which rows of addresses a reader sees, in which order, and what they say."""

from __future__ import annotations

from typing import Any

import pytest

from netagent.errors import InputError
from netagent.page.address_table import MAX_RANGES, address_rows
from netagent.page.table_query import TableQuery
from netgossip.slices import at_once


def share(host: str, owned: int, used: int | None, agent: str = "alive", ranges: int = 1) -> dict[str, Any]:
    return {
        "host": host,
        "host_id": f"{host}-id",
        "agent": agent,
        "owned": owned,
        "used": used,
        "free": None if used is None else owned - used,
        "ranges": [f"10.1.{number}.0 - 10.1.{number}.255" for number in range(ranges)],
    }


def network(name: str, *owners: dict[str, Any], unowned: int = 0) -> dict[str, Any]:
    """A network whose addresses these hosts own."""
    known = all(one["used"] is not None for one in owners)
    return {
        "id": f"{name}-id",
        "name": name,
        "subnets": [f"{name}-subnet"],
        "use": {
            "total": sum(one["owned"] for one in owners) + unowned,
            "used": sum(one["used"] for one in owners) if known else None,
            "free": sum(one["free"] for one in owners) if known else None,
            "away": sum(one["free"] for one in owners if one["agent"] == "dead") if known else None,
            "unowned": unowned,
            "owners": list(owners),
        },
    }


def found(query: TableQuery, *networks: dict[str, Any]) -> list[tuple[str, str, str]]:
    rows, _ = at_once(address_rows(networks, query))
    return [(row["network"], row["host"], row["state"]) for row in rows]


APP = network("app", share("h1", 10, 1), share("h2", 30, 26))
BACK = network("back", share("h1", 20, 1), share("h3", 40, 0, "dead"))


def test_a_network_has_the_whole_first_and_then_the_largest_owners() -> None:
    assert found(TableQuery(), BACK, APP) == [
        ("app", "", "ok"),
        ("app", "h2", "ok"),
        ("app", "h1", "ok"),
        ("back", "", "ok"),
        ("back", "h3", "away"),
        ("back", "h1", "ok"),
    ]


@pytest.mark.parametrize(
    ("query", "hosts"),
    [
        (TableQuery(network="back", host="h1"), ["h1"]),
        (TableQuery(state="away"), ["h3"]),
        (TableQuery(words=("dead",)), ["h3"]),
        (TableQuery(words=("app-subnet",)), [""]),
        (TableQuery(network="app", sort="free", is_descending=True), ["", "h1", "h2"]),
        (TableQuery(network="app", sort="used"), ["h1", "h2", ""]),
    ],
)
def test_filters_and_orders(query: TableQuery, hosts: list[str]) -> None:
    assert [host for _, host, _ in found(query, APP, BACK)] == hosts


@pytest.mark.parametrize(
    ("shown", "state"),
    [
        (network("app", share("h1", 10, 10)), "full"),
        (network("app", share("h1", 10, 10), share("h2", 90, 0, "dead")), "full"),
        (network("app", share("h1", 10, 8)), "nearly full"),
        (network("app", share("h1", 10, 7)), "ok"),
        (network("app", share("h1", 10, 10), unowned=90), "ok"),
        (network("app", share("h1", 10, None)), "not known"),
    ],
)
def test_a_network_says_when_nobody_can_use_another_address(shown: dict[str, Any], state: str) -> None:
    """Free addresses of a host that is away do not count."""
    assert found(TableQuery(), shown)[0] == ("app", "", state)


def test_a_host_with_many_ranges_has_a_row_of_one_size() -> None:
    rows, total = at_once(address_rows([network("app", share("h1", 10, 2, ranges=50))], TableQuery()))
    assert total == 2
    assert [(len(row["ranges"]), row["range_count"]) for row in rows] == [(1, 1), (MAX_RANGES, 50)]


def test_an_unknown_column_is_refused() -> None:
    with pytest.raises(InputError, match="no column 'size'"):
        found(TableQuery(sort="size"), APP)
