"""A host that an operator drains: names first, on all hosts, then its open connections."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from fakes.agent_host import AgentHost, Namespaces
from fakes.registry import N1, host, network
from fakes.rows import local_row
from fakes.virtual import virtual

from netagent.daemon.leave import Leave
from netagent.endpoints import drain
from netagent.endpoints.drain import REMEMBERED_S
from netagent.errors import FailedError
from netagent.membership.host_record import HostRecordKeeper
from netagent.model.records import Drain
from netagent.model.request import AttachRequest


@pytest.fixture
def namespaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Namespaces:
    return Namespaces(tmp_path, monkeypatch)


class World:
    """A host with the endpoint web; `steps` is what the drain did, `until_s` when its last connection ends."""

    def __init__(self, one: AgentHost, monkeypatch: pytest.MonkeyPatch) -> None:
        self.one, self.steps, self.until_s = one, list[str](), 0.0
        self.own = HostRecordKeeper(
            live=one.live, publisher=one.publisher, base=host("h1"), routes=self._routes
        )
        nothing: Any = None
        withdrawal: Any = SimpleNamespace(wait_host_hidden=self._wait_hidden)
        self.leave = Leave(
            live=one.live, journal=nothing, gossip=nothing, controllers=nothing, allocator=nothing,
            endpoints=nothing, host_access=nothing, own_host=self.own, withdrawal=withdrawal,
            encryption=nothing,
        )  # fmt: skip
        monkeypatch.setattr(drain, "has_connection", self._has_connection)

    @property
    def drain(self) -> Drain | None:
        record = self.one.live.view.hosts[self.one.host_id].record
        assert record is not None
        return record.drain

    @property
    def is_shown(self) -> bool:
        return any(map(self.one.live.view.is_visible, self.one.live.view.endpoints.values()))

    @staticmethod
    async def _routes() -> tuple[str, ...]:
        await trio.lowlevel.checkpoint()
        return ()

    async def _wait_hidden(self) -> frozenset[Any]:
        self.steps.append(f"hidden: {not self.is_shown}")
        await trio.sleep(0.1)
        return frozenset()

    async def _has_connection(self, *_: object) -> bool:
        await trio.lowlevel.checkpoint()
        self.steps.append("looked")
        return trio.current_time() < self.until_s


async def started(namespaces: Namespaces, monkeypatch: pytest.MonkeyPatch) -> World:
    one = AgentHost()
    await one.publisher.put(host("h1"), network())
    namespaces.make("web")
    await one.endpoints.attach(AttachRequest(target="netns:web", network="app"))
    one.live.set_row(local_row("f" * 32, N1, name="half"))  # being attached: it has no connections
    return World(one, monkeypatch)


@virtual
async def test_a_drain_returns_when_the_names_are_gone_everywhere(
    namespaces: Namespaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    this = await started(namespaces, monkeypatch)
    assert this.is_shown
    assert await this.leave.drain("anna", None) is None
    assert this.steps == ["hidden: True"], "the record first, then the wait, and no look at connections"
    drained = this.drain
    assert drained is not None
    assert (drained.by, this.is_shown) == ("anna", False)
    assert await this.leave.drain("bob", None) is None
    assert this.drain == drained, "a drain stands"
    await this.leave.undrain()
    assert this.drain is None
    assert this.is_shown


@pytest.mark.parametrize(
    ("until_s", "wait_s", "expected"),
    [(0.0, 60.0, (True, REMEMBERED_S)), (20.0, 60.0, (True, 20.0)), (90.0, 60.0, (False, 60.0)),
     (0.0, 0.0, (False, 0.0))],
    ids=["idle", "busy", "too busy", "no time"],
)  # fmt: skip
@virtual
async def test_with_a_wait_it_says_whether_all_connections_have_ended(
    namespaces: Namespaces,
    monkeypatch: pytest.MonkeyPatch,
    until_s: float,
    wait_s: float,
    expected: tuple[bool, float],
) -> None:
    this = await started(namespaces, monkeypatch)
    begun = trio.current_time()
    this.until_s = begun + until_s
    assert await this.leave.drain("anna", wait_s) is expected[0]
    assert trio.current_time() - begun == pytest.approx(expected[1], abs=0.4)
    assert this.drain is not None, "the names stay away"


@virtual
async def test_a_drain_that_cannot_be_written_is_refused_and_changes_nothing(
    namespaces: Namespaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    this = await started(namespaces, monkeypatch)

    async def refuse(*_: object) -> None:
        await trio.lowlevel.checkpoint()
        raise FailedError("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(this.one.publisher, "put", refuse)
        with pytest.raises(FailedError):
            await this.leave.drain("anna", 60.0)
    assert (this.steps, this.is_shown) == ([], True)
    assert await this.leave.drain("anna", None) is None
    assert not this.is_shown
