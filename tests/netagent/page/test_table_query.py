"""What the reader of a table asks for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netagent.errors import InputError
from netagent.page.table_query import MAX_ROWS, TableQuery, parse_query_untrusted


def test_an_empty_query_is_the_whole_table() -> None:
    assert parse_query_untrusted({}) == TableQuery(limit=MAX_ROWS)


def test_a_query_is_read() -> None:
    asked = {
        "q": " Web  H1 ",
        "network": "app",
        "state": "down",
        "sort": "-replicas",
        "offset": "50",
        "limit": "9999",
    }
    expected = TableQuery(
        words=("web", "h1"),
        network="app",
        state="down",
        sort="replicas",
        is_descending=True,
        offset=50,
        limit=MAX_ROWS,
    )
    assert parse_query_untrusted(asked) == expected


@pytest.mark.parametrize(
    "asked",
    [
        {"q": "x" * 201},
        {"q": "a " * 9},
        {"offset": "-1"},
        {"limit": "1e3"},
        {"offset": "٣"},
        {"limit": "9" * 10},
    ],
)
def test_too_much_and_no_number_are_refused(asked: dict[str, str]) -> None:
    with pytest.raises(InputError):
        parse_query_untrusted(asked)


@given(
    st.dictionaries(st.sampled_from(["q", "network", "sort", "offset", "limit", "x"]), st.text(max_size=300))
)
def test_whatever_is_sent_is_read_or_refused(asked: dict[str, str]) -> None:
    try:
        query = parse_query_untrusted(asked)
    except InputError:
        return
    assert 0 <= query.limit <= MAX_ROWS
