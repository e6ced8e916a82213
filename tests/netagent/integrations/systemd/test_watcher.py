"""Units that systemd is stopping, over a bus that a test plays on a socket."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trio
from fakes.agent_host import AgentHost, Namespaces
from fakes.podman import PodmanHost
from fakes.system_bus import FakeBus, message
from fakes.virtual import ending

from netagent.integrations.systemd import watcher
from netagent.integrations.systemd.messages import MAX_MESSAGE_BYTES, SIGNAL
from netagent.integrations.systemd.watcher import UnitWatcher
from netagent.journal.rows import LocalEndpointRow, Published
from netagent.model.ids import EndpointId
from netagent.model.records import STOP
from netagent.model.request import AttachRequest

WEB = "/org/freedesktop/systemd1/unit/web_2eservice"
WITHIN_S = 10.0


class World:
    def __init__(self, one: AgentHost, bus: FakeBus) -> None:
        self.one, self.bus = one, bus

    async def attach(self, target: str, pid: int | None = None) -> EndpointId:
        row, _ = await self.one.endpoints.attach(AttachRequest(target=target, network="app"))
        if pid is not None:
            assert isinstance(row.stage, Published)
            netns = dataclasses.replace(row.stage.netns, path=f"/proc/{pid}/ns/net")
            row = dataclasses.replace(row, stage=dataclasses.replace(row.stage, netns=netns))
            self.one.live.set_row(row)
        return row.endpoint_id

    def by(self, endpoint_id: EndpointId) -> str | None:
        drain = self.one.live.rows[endpoint_id].drain
        return None if drain is None else drain.by

    def is_by(self, endpoint_id: EndpointId, by: str | None) -> bool:
        return self.by(endpoint_id) == by

    def has_connections(self, count: int) -> bool:
        return len(self.bus.streams) == count

    async def settled(self, path: str = WEB) -> None:
        """Until its state was read once more, and what follows was done."""
        for _ in range(2):
            wanted = self.bus.calls.count("Get") + 1
            await self.bus.set_state(path, self.bus.states[path])
            await self.until(functools.partial(self._has_read, wanted))

    def _has_read(self, count: int) -> bool:
        return self.bus.calls.count("Get") >= count

    async def until(self, condition: Callable[[], object]) -> None:
        with trio.fail_after(WITHIN_S):
            while not condition():
                await trio.sleep(0.005)


@pytest.fixture(autouse=True)
def is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "LOOK_S", 0.05)
    monkeypatch.setattr(watcher, "RECONNECT_S", 0.05)


@contextlib.asynccontextmanager
async def watching(namespaces: Namespaces, tmp_path: Path) -> AsyncIterator[World]:
    """A host with the namespaces web and db, and its watcher."""
    one = await PodmanHost.started(namespaces, "web", "db")
    bus = FakeBus(tmp_path / "bus")
    bus.units, bus.states = {100: WEB}, {WEB: "active"}
    async with trio.open_nursery() as nursery:
        await nursery.start(bus.run)
        nursery.start_soon(UnitWatcher(lambda: one.access, bus.socket).run)
        yield World(one, bus)
        nursery.cancel_scope.cancel()


def real(function: Callable[[Namespaces, Path], Awaitable[None]]) -> Callable[[Namespaces, Path], None]:
    """In real time: a socket is read, which virtual time would not wait for."""

    def test(namespaces: Namespaces, tmp_path: Path) -> None:
        with ending():
            trio.run(function, namespaces, tmp_path)

    return functools.update_wrapper(test, function)


@real
async def test_names_lead_away_while_a_unit_deactivates(namespaces: Namespaces, tmp_path: Path) -> None:
    async with watching(namespaces, tmp_path) as world:
        web = await world.attach("unit:web", 100)
        await world.until(lambda: "Get" in world.bus.calls)
        assert world.by(web) is None
        for state, by in (
            ("reloading", None), ("deactivating", STOP), ("failed", STOP), ("inactive", STOP), ("activating", None),
            ("deactivating", STOP), ("active", None),
        ):  # fmt: skip
            await world.bus.set_state(WEB, state)
            await world.until(functools.partial(world.is_by, web, by))
            await world.settled()
            assert world.by(web) == by, state
        await world.one.endpoints.drains.begin(web, "anna")
        for state in ("deactivating", "active"):
            await world.bus.set_state(WEB, state)
            await world.settled()
            assert world.by(web) == "anna", "an operator's drain stands"


@real
async def test_a_unit_that_stops_since_before_the_agent_or_the_connection_is_seen(
    namespaces: Namespaces, tmp_path: Path
) -> None:
    async with watching(namespaces, tmp_path) as world:
        world.bus.states[WEB] = "deactivating"
        web = await world.attach("unit:web", 100)
        await world.until(lambda: world.by(web) == STOP)
        world.bus.states[WEB], world.bus.matches = "active", []  # while the bus is away
        await world.bus.streams[-1].aclose()
        await world.until(lambda: world.by(web) is None)
        await world.bus.set_state(WEB, "deactivating")
        await world.until(lambda: world.by(web) == STOP)


@real
async def test_only_units_are_asked_about_and_each_as_long_as_it_has_an_endpoint(
    namespaces: Namespaces, tmp_path: Path
) -> None:
    async with watching(namespaces, tmp_path) as world:
        await world.attach("netns:db")
        await trio.sleep(2 * watcher.LOOK_S)
        assert world.bus.streams == [], "no connection without a unit"
        web = await world.attach("unit:web", 100)
        await world.until(lambda: "Get" in world.bus.calls)
        assert world.bus.calls.count("GetUnitByPID") == 1
        await world.one.endpoints.remove(world.one.live.rows[web])
        await world.until(lambda: world.bus.matches == [])


@real
async def test_a_process_of_no_unit_and_a_unit_without_a_state_change_nothing(
    namespaces: Namespaces, tmp_path: Path
) -> None:
    async with watching(namespaces, tmp_path) as world:
        gone = await world.attach("unit:db", 99)
        web = await world.attach("unit:web", 100)
        await world.until(lambda: "Get" in world.bus.calls)
        before = world.bus.calls.count("Get")
        await world.bus.set_state(WEB, "")
        del world.bus.states[WEB]
        await world.until(lambda: world.bus.calls.count("Get") > before)
        await world.bus.set_state(WEB, "deactivating")
        await world.until(lambda: world.by(web) == STOP)
        assert world.by(gone) is None
        assert world.bus.calls.count("GetUnitByPID") == 2


@pytest.mark.parametrize("state", ["inactive", "failed", None])
@pytest.mark.parametrize("lives_on", [True, False])
def test_the_drain_of_a_stop_ends_if_the_process_outlives_its_unit(
    namespaces: Namespaces,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    state: str | None,
    *,
    lives_on: bool,
) -> None:
    monkeypatch.setattr(watcher, "LIVES_ON_S", 1.0)
    asked: list[EndpointId] = []

    def is_there(row: LocalEndpointRow) -> bool:
        asked.append(row.endpoint_id)
        return lives_on

    monkeypatch.setattr(watcher, "is_at_its_path", is_there)

    @real
    async def run(namespaces: Namespaces, tmp_path: Path) -> None:
        async with watching(namespaces, tmp_path) as world:
            web = await world.attach("unit:web", 100)
            for _ in range(2):  # it is started and stopped again meanwhile
                await world.bus.set_state(WEB, "active")
                await world.until(functools.partial(world.is_by, web, None))
                await world.until(lambda: world.bus.matches)
                await world.bus.set_state(WEB, "deactivating")
                await world.until(functools.partial(world.is_by, web, STOP))
                await world.bus.set_state(WEB, "inactive")
                await world.settled()
                assert world.by(web) == STOP
                assert asked == []
            if state is None:
                await world.bus.set_state(WEB, "")
                del world.bus.states[WEB]
            else:
                await world.bus.set_state(WEB, state)
            await world.until(lambda: asked)
            assert asked == [web]
            if lives_on:
                await world.until(functools.partial(world.is_by, web, None))
            else:
                world.bus.states[WEB] = "inactive"
                await world.settled()
                assert world.by(web) == STOP

    run(namespaces, tmp_path)


@real
async def test_signals_of_any_local_user_wake_nothing_and_a_stream_of_none_costs_a_connection_and_a_pause(
    namespaces: Namespaces, tmp_path: Path
) -> None:
    async with watching(namespaces, tmp_path) as world:
        web = await world.attach("unit:web", 100)
        await world.until(lambda: "Get" in world.bus.calls)
        too_long = bytes(MAX_MESSAGE_BYTES)
        for signature, body in (
            ("h", bytes(4)), ("aay", bytes(90_000)), ("s", b"\xff" * 4), ("!", b""), ("ay", too_long)
        ):  # fmt: skip
            await world.bus.say(message(SIGNAL, {1: ("o", "/evil"), 8: ("g", signature)}, body))
        await world.bus.say(message(SIGNAL, {1: ("o", "/evil"), 77: ("x", "12345678")}))
        await world.settled()
        assert "/evil" not in world.bus.states
        assert len(world.bus.streams) == 1, "none of them ended the connection"
        for count, state, by in ((2, "deactivating", STOP), (3, "active", None)):
            world.bus.states[WEB], began = state, trio.current_time()  # without a signal
            with contextlib.suppress(trio.BrokenResourceError):
                await world.bus.say(bytes(100))
            await world.until(functools.partial(world.has_connections, count))
            assert trio.current_time() - began >= watcher.RECONNECT_S
            await world.until(functools.partial(world.is_by, web, by))


@real
async def test_a_bus_that_refuses_is_asked_again(namespaces: Namespaces, tmp_path: Path) -> None:
    async with watching(namespaces, tmp_path) as world:
        world.bus.is_hostile = True
        web = await world.attach("unit:web", 100)
        await world.until(lambda: world.bus.streams)
        world.bus.is_hostile = False
        world.bus.states[WEB] = "deactivating"
        await world.until(lambda: world.by(web) == STOP)
