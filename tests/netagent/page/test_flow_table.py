"""Which flows a search finds."""

from __future__ import annotations

from typing import Any

import pytest
from fakes.registry import N1

from netagent.page.flow_table import is_flow_wanted


def flow(**fields: Any) -> dict[str, Any]:
    usual = {"from": "web1", "from_service": "web", "from_host": "h1", "network": "app", "network_id": N1}
    to = {"to": "db1", "to_service": "db", "to_host": "h2", "address": "10.1.0.9"}
    return {"from_id": "", **usual, **to, "protocol": "tcp", "port": 5432, **fields}


@pytest.mark.parametrize(
    ("words", "is_wanted"), [((), True), (("web1", "5432"), True), (("10.1.0.9",), True), (("web2",), False)]
)
def test_a_search_looks_at_both_ends_and_the_port(words: tuple[str, ...], *, is_wanted: bool) -> None:
    assert is_flow_wanted(flow(), words) is is_wanted
