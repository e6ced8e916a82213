"""The file of events."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from netagent.events import keeper
from netagent.events.channel import event
from netagent.events.keeper import EventKeeper
from netagent.events.kinds import EventKind
from netagent.log import Limited

logger = logging.getLogger("netagent.testing")


def note(text: str) -> None:
    logger.warning("%s", text, extra=event(EventKind.REPAIR, text[:5]))


def texts(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


async def until(holds: Callable[[], bool]) -> None:
    with trio.fail_after(30):
        while not holds():
            await trio.sleep(0.01)


def test_events_are_kept_over_restarts_and_numbered_on(tmp_path: Path) -> None:
    path = tmp_path / "events"

    async def run(text: str) -> None:
        async with EventKeeper(path).running():
            note(text)

    for text in ("one", "two", "three"):
        trio.run(run, text)
    assert texts(path) == ["one", "two", "three"]
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == [1, 2, 3]
    assert path.stat().st_mode & 0o777 == 0o600


def test_events_are_on_disk_while_the_agent_runs(tmp_path: Path) -> None:
    path = tmp_path / "events"

    async def run() -> None:
        async with EventKeeper(path).running():
            note("one")
            await until(lambda: path.exists() and texts(path) == ["one"])
            note("two")
            await until(lambda: texts(path) == ["one", "two"])

    trio.run(run)


def test_a_line_that_a_crash_cut_is_left_out_and_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "events"

    async def run(text: str) -> None:
        async with EventKeeper(path).running():
            note(text)

    trio.run(run, "one")
    trio.run(run, "two")
    path.write_bytes(path.read_bytes()[:-9])
    trio.run(run, "three")
    assert texts(path) == ["one", "three"]


def test_the_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "events"
    monkeypatch.setattr(keeper, "MAX_FILE_BYTES", 60_000)
    monkeypatch.setattr(keeper, "GATHER_S", 0.0)
    sizes = []

    async def run() -> None:
        async with EventKeeper(path).running():
            for number in range(600):
                note(f"cable changed {number}")
                if number % 20 == 19:
                    await until(lambda last=f" {number}": path.exists() and texts(path)[-1].endswith(last))  # type: ignore[misc]
                    sizes.append(path.stat().st_size)

    trio.run(run)
    assert max(sizes) <= 60_000 + 2_500
    assert min(sizes[15:]) < max(sizes)  # it was written anew
    assert texts(path)[-1] == "cable changed 599"


def test_what_cannot_be_written_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "missing" / "events"
    monkeypatch.setattr(keeper, "RETRY_S", 0.01)
    monkeypatch.setattr(keeper, "_limited", Limited(logging.getLogger("netagent.events")))

    async def run() -> None:
        keeper_ = EventKeeper(path)
        async with keeper_.running():
            note("one")
            await until(lambda: "cannot write events" in caplog.text)
            note("two")
            path.parent.mkdir()
            await until(lambda: path.exists() and texts(path) == ["one", "two"])

    trio.run(run)
    assert caplog.text.count("cannot write events") == 1


def test_who_waits_is_woken_by_the_next_event(tmp_path: Path) -> None:
    async def run() -> None:
        events = EventKeeper(tmp_path / "events")
        async with events.running():
            seen = await events.wait_newer(-1)

            async def wait() -> None:
                assert await events.wait_newer(seen) == seen + 1

            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked()
                note("one")

    trio.run(run)
