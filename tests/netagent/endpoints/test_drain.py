"""Names that are withdrawn while their endpoint goes on."""

from __future__ import annotations

import pytest
import trio
from fakes.agent_host import AgentHost, Namespaces
from fakes.registry import host, network
from fakes.virtual import virtual

from netagent.endpoints.drain import REMEMBERED_S, UNDER_WAY_S
from netagent.journal.journal import DiskFullError
from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import EndpointId
from netagent.model.records import STOP
from netagent.model.request import AttachRequest
from netagent.resolver.zone_source import TTL_S


async def attached(namespaces: Namespaces) -> tuple[AgentHost, LocalEndpointRow]:
    one = AgentHost()
    await one.publisher.put(host("h1"), network())
    namespaces.make("web")
    row, _ = await one.endpoints.attach(AttachRequest(target="netns:web", network="app"))
    one.steps.done.clear()
    return one, row


def is_shown(one: AgentHost) -> bool:
    """Whether names lead to its endpoint."""
    return any(map(one.live.view.is_visible, one.live.view.endpoints.values()))


def by(one: AgentHost, row: LocalEndpointRow) -> str | None:
    """Who drained it: row, journal and record agree."""
    drain = one.live.rows[row.endpoint_id].drain
    assert [saved.drain for saved in one.journal.load_endpoints()] == [drain]
    assert one.live.view.endpoints[row.endpoint_id].record.drain == drain
    return None if drain is None else drain.by


@virtual
async def test_a_drain_is_one_write_and_repeating_it_is_none(namespaces: Namespaces) -> None:
    one, row = await attached(namespaces)
    for _ in range(2):
        assert await one.endpoints.drains.begin(row.endpoint_id, "anna") is not None
        assert (by(one, row), is_shown(one)) == ("anna", False)
    assert one.steps.done == ["journal"]
    assert await one.endpoints.drains.end(row.endpoint_id) is not None
    assert (by(one, row), is_shown(one)) == (None, True)


@pytest.mark.parametrize(
    ("asked", "shown", "after_the_stop"),
    [
        (["anna", "bob"], "anna", "anna"),
        (["anna", STOP], "anna", "anna"),
        ([STOP, "anna"], "anna", "anna"),
        ([STOP, STOP], STOP, None),
    ],
)
@virtual
async def test_the_operator_s_drain_outlasts_a_stop(
    namespaces: Namespaces, asked: list[str], shown: str, after_the_stop: str | None
) -> None:
    one, row = await attached(namespaces)
    for who in asked:
        await one.endpoints.drains.begin(row.endpoint_id, who)
    assert by(one, row) == shown
    await one.endpoints.drains.end(row.endpoint_id, by=STOP)
    assert by(one, row) == after_the_stop


@virtual
async def test_a_drain_outlasts_the_agent(namespaces: Namespaces) -> None:
    one, row = await attached(namespaces)
    await one.endpoints.drains.begin(row.endpoint_id, "anna")
    one.restart()
    await one.garbage_collector.recover()
    assert (by(one, row), is_shown(one)) == ("anna", False)


@virtual
async def test_a_drain_that_cannot_be_written_changes_nothing(namespaces: Namespaces) -> None:
    one, row = await attached(namespaces)
    one.steps.fault = (0, DiskFullError("/var: the disk is full"))
    with pytest.raises(DiskFullError):
        await one.endpoints.drains.begin(row.endpoint_id, "anna")
    assert (by(one, row), is_shown(one)) == (None, True)


@virtual
async def test_what_is_gone_cannot_be_drained(namespaces: Namespaces) -> None:
    one, row = await attached(namespaces)
    assert await one.endpoints.drains.begin(EndpointId("0" * 32), "anna") is None
    await one.endpoints.detach("web")
    assert await one.endpoints.drains.begin(row.endpoint_id, "anna") is None
    assert await one.endpoints.drains.end(row.endpoint_id) is None


@pytest.mark.parametrize(
    "case",  # time to wait, looks that find a connection, whether it is idle then, and how long it takes
    [
        (None, 0, None, 0.0),
        (30.0, 0, True, REMEMBERED_S),
        (30.0, 20, True, REMEMBERED_S + 2.0),
        (6.0, 100, False, 6.0),
        (1.0, 0, True, 1.0),
        (1.0, 100, False, 1.0),
        (0.0, 0, False, 0.0),
    ],
)
@virtual
async def test_a_drain_waits_for_cached_addresses_and_open_connections(
    namespaces: Namespaces,
    monkeypatch: pytest.MonkeyPatch,
    case: tuple[float | None, int, bool | None, float],
) -> None:
    wait_s, left, idle, took_s = case
    one, row = await attached(namespaces)

    async def has_connection(*_: object) -> bool:
        nonlocal left
        left -= 1
        return left >= 0

    monkeypatch.setattr("netagent.endpoints.drain.has_connection", has_connection)
    begun = trio.current_time()
    drained, found = await one.endpoints.drain("web", "anna", wait_s)
    assert found is idle
    assert trio.current_time() - begun == pytest.approx(took_s, abs=0.11)
    assert (drained.endpoint_id, by(one, row), is_shown(one)) == (row.endpoint_id, "anna", False)
    assert "hidden" in one.steps.done, "it has waited for the other hosts"
    await one.endpoints.undrain("web")
    assert is_shown(one)


def test_clients_remember_an_answer_for_as_long_as_it_says() -> None:
    assert REMEMBERED_S - UNDER_WAY_S == TTL_S
