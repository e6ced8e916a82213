"""Which flows a search finds, and whose container is gone."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from fakes.registry import H1, N1, Writer, endpoint, host, network

from netagent.control.present import Presenter
from netagent.page.flow_table import is_flow_wanted, is_source_gone
from netagent.registry.view import RegistryView


def flow(**fields: Any) -> dict[str, Any]:
    usual = {"from": "web1", "from_service": "web", "from_host": "h1", "network": "app", "network_id": N1}
    to = {"to": "db1", "to_service": "db", "to_host": "h2", "address": "10.1.0.9"}
    return {"from_id": "", **usual, **to, "protocol": "tcp", "port": 5432, **fields}


@pytest.mark.parametrize(
    ("words", "is_wanted"), [((), True), (("web1", "5432"), True), (("10.1.0.9",), True), (("web2",), False)]
)
def test_a_search_looks_at_both_ends_and_the_port(words: tuple[str, ...], *, is_wanted: bool) -> None:
    assert is_flow_wanted(flow(), words) is is_wanted


def test_a_container_is_gone_if_its_record_is_and_this_can_be_known() -> None:
    view, writer = RegistryView(H1), Writer(H1)
    record = endpoint(1)
    for one in (host("h1"), network(N1, "app"), record):
        view = view.with_entries(writer.put(one))
    present = Presenter(view, "mesh.internal")
    assert not is_source_gone(present, flow(from_id=record.endpoint_id))
    assert is_source_gone(present, flow(from_id="f" * 32))
    assert not is_source_gone(present, flow(from_id="")), "its record was never seen"
    asked = dataclasses.replace(present, unknown=frozenset({N1}))
    assert not is_source_gone(asked, flow(from_id="f" * 32)), "no host told the endpoints of the network"
