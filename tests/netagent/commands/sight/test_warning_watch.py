"""The task that notes when a warning of `status` begins and when it is over."""

from __future__ import annotations

import logging
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from fakes.virtual import virtual

from netagent.commands.sight import warning_watch
from netagent.commands.sight.warning_watch import FIRST_LOOK_S, LOOK_S, watch_warnings
from netagent.events.event_log import EventLog
from netagent.events.kinds import EventKind
from netagent.events.sources.warning_changes import MISSED_LOOKS
from netagent.model.author import AGENT

FULL = {"code": "network-full", "message": "network app is full", "cure": "detach"}


class Agent(SimpleNamespace):
    """What the task reads of an agent, and what `status` says."""

    def __init__(self) -> None:
        super().__init__(ready=trio.Event(), events=SimpleNamespace(log=EventLog()))
        self.warnings: list[dict[str, str]] = []
        self.looks = 0
        self.error: Exception | None = None

    async def status(self, _agent: object) -> dict[str, Any]:
        self.looks += 1
        if self.error is not None:
            raise self.error
        return {"warnings": self.warnings}


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Agent:
    one = Agent()
    monkeypatch.setattr(warning_watch, "status_of", one.status)
    monkeypatch.setattr(time, "thread_time", lambda: 0.0)
    return one


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if hasattr(one, "event")]


@virtual
async def test_warnings_are_told_when_they_begin_and_when_they_are_over(
    agent: Agent, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    agent.warnings = [FULL]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_warnings, cast("Any", agent))
        await trio.sleep(1000)
        assert agent.looks == 0, "before the agent is ready there is no status"
        agent.ready.set()
        await trio.sleep(FIRST_LOOK_S + 1)
        assert told(caplog) == ["network app is full"]
        agent.error = ZeroDivisionError()
        await trio.sleep(LOOK_S)
        agent.error = None
        await trio.sleep(5 * LOOK_S)
        assert told(caplog) == ["network app is full"]
        agent.warnings = []
        await trio.sleep(MISSED_LOOKS * LOOK_S)
        assert told(caplog) == ["network app is full", "over: network app is full"]
        nursery.cancel_scope.cancel()


@virtual
async def test_a_warning_that_an_earlier_run_told_is_not_told_again(
    agent: Agent, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    agent.events.log.note(EventKind.WARNING, FULL["message"], subject=FULL["code"], author=AGENT, now=1.0)
    agent.warnings = [FULL]
    agent.ready.set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_warnings, cast("Any", agent))
        await trio.sleep(FIRST_LOOK_S + 3 * LOOK_S)
        assert agent.looks >= 3
        assert told(caplog) == []
        nursery.cancel_scope.cancel()


@virtual
async def test_a_costly_status_is_made_more_rarely(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    spent = [0.0]

    def thread_time() -> float:
        spent[0] += 0.1
        return spent[0]

    monkeypatch.setattr(time, "thread_time", thread_time)
    agent.ready.set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_warnings, cast("Any", agent))
        await trio.sleep(FIRST_LOOK_S + 1050)
        # A look takes 100 ms here, so it is made each 100 s.
        assert agent.looks == 11
        nursery.cancel_scope.cancel()
