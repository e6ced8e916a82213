"""`netagent top`: its screen at any size, and the command at a terminal."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netagent.cli.main import main
from netagent.cli.top.screen import MAX_EVENTS, TROUBLE, WARNING, TopState, frame


def status(queries: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "host": {"name": "h1", "address": "192.0.2.1", "uptime_s": 61.0},
        "cluster": {"name": "mesh"},
        "members": {"alive": 2, "dead": 1},
        "endpoints": {"local": 1, "total": 20_000, "hidden": 3},
        "dns": {"running": True, "queries": queries},
        "drift": {"differences": 0, "repaired": 7},
        "paths": {"ok": 2},
        "warnings": [],
        **more,
    }


def member(name: str, agent: str = "alive", path: str = "ok") -> dict[str, Any]:
    about = {"address": "192.0.2.1", "host": "answers", "version": "1", "zone": "", "rtt_s": None}
    return {"id": name, "name": name, "agent": agent, "path": path, **about}


def service(name: str, answering: int = 1) -> dict[str, Any]:
    about = {
        "network": "app",
        "endpoint_count": 1,
        "addresses": [],
        "hosts": ["h1"],
        "ports": [],
        "fqdn": name,
    }
    return {"id": name, "name": name, "answering": answering, "not_up": [] if answering else [name], **about}


def said(table: str, *items: dict[str, Any], kind: str = "added") -> tuple[str, list[dict[str, Any]]]:
    return table, [{"event": kind, "item": item} for item in items]


def text(state: TopState, width: int = 120, height: int = 40, offset: int = 0) -> list[str]:
    return [line for line, _ in frame(state, width, height, 0.0, offset)]


def test_what_needs_a_look_comes_first() -> None:
    state = TopState()
    state.take_status(status(warnings=[{"message": f"warning {i}", "cure": "none"} for i in range(5)]), 0.0)
    state.take(
        *said("members", member("h1", path="local"), member("h3", "dead"), member("h2", path="down")), 0.0
    )
    state.take(*said("services", service("api"), service("web", answering=0)), 0.0)
    lines = frame(state, 120, 40, 0.0)
    names = [line.split()[0] for line, _ in lines if line[:2] in ("h1", "h2", "h3", "ap", "we")]
    assert names[1:] == ["h2", "h3", "h1", "web", "api"]
    styles = {line.split()[0]: style for line, style in lines if line}
    assert (styles["h2"], styles["h3"], styles["web"]) == (WARNING, TROUBLE, TROUBLE)
    assert [line for line, _ in lines if line.startswith("!")][3:] == [
        "! 2 further warnings: see `netagent status`"
    ]


def test_rates_are_of_the_time_between_two_answers() -> None:
    state = TopState()
    state.take_status(status(100), 10.0)
    assert "queries/s" not in text(state)[1]
    state.take_status(status(130), 13.0)
    assert "10.0 queries/s" in text(state)[1]
    state.take_status(status(4), 15.0)  # a new resolver process
    assert "2.0 queries/s" in text(state)[1]


def test_churn_counts_changes_after_the_first_list() -> None:
    state = TopState()
    state.take(*said("services", service("a"), service("b")), 0.0)
    state.take("services", [{"event": "synced"}], 0.0)
    assert state.churn(0.0) == 0
    state.take(*said("services", service("a"), kind="removed"), 1.0)
    state.take(*said("services", service("c")), 50.0)
    assert state.churn(50.0) == 2
    assert state.churn(62.0) == 1
    assert set(state.services) == {"b", "c"}
    state.begin_again("services")
    assert not state.services


def test_an_agent_that_is_away_leaves_what_was_known() -> None:
    state = TopState()
    state.take_status(status(), 0.0)
    state.trouble = "the socket does not exist"
    lines = text(state)
    assert lines[0] == "no answer: the socket does not exist"
    assert lines[1].startswith("h1 192.0.2.1 in mesh")
    state.take_status(status(), 1.0)
    assert "no answer" not in text(state)[0]


def test_services_scroll_and_stop_at_the_last_one() -> None:
    state = TopState()
    state.take_status(status(), 0.0)
    state.take(*said("services", *(service(f"s{i:03}") for i in range(100))), 0.0)
    assert any(line.startswith("services 1-") for line in text(state))
    assert any(line.startswith("s050") for line in text(state, offset=50))
    assert any(line.startswith("s099") for line in text(state, offset=10_000))


@given(
    width=st.integers(0, 200),
    height=st.integers(0, 80),
    offset=st.integers(0, 100),
    names=st.lists(st.text(max_size=30), max_size=30, unique=True),
)
def test_any_size_is_kept_and_no_text_moves_the_cursor(
    width: int, height: int, offset: int, names: list[str]
) -> None:
    state = TopState()
    state.take_status(status(warnings=[{"message": "\x1b[2J", "cure": ""}]), 0.0)
    state.take(*said("members", *(member(name) for name in names)), 0.0)
    state.take(*said("services", *(service(name, len(name) % 2) for name in names)), 0.0)
    event = {"happened_at": "2026-01-01T00:00:00Z", "kind": "warning", "level": "warning", "text": "\n\x1b"}
    state.take(*said("events", *[event | {"author": {"name": "\x07"}}] * (MAX_EVENTS + 5)), 0.0)
    assert len(state.events) == MAX_EVENTS
    lines = frame(state, width, height, 0.0, offset)
    assert len(lines) <= max(height, 1)
    for line, _ in lines:
        assert len(line) <= max(width, 0) or width < 1
        assert line.isprintable()


def test_without_a_terminal_it_says_what_to_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top"]) == 2
    assert "needs a terminal; use `netagent status --json`" in capsys.readouterr().err


@pytest.mark.usefixtures("served")
def test_at_a_terminal_it_draws_and_q_ends_it(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "netagent.cli.main", "top", "--socket", str(tmp_path / "agent.sock")]
    environment = {**os.environ, "TERM": "xterm", "LINES": "30", "COLUMNS": "100"}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        try:
            shown, end_s = b"", time.monotonic() + 60
            while b"q quits" not in shown or b"alive" not in shown:
                assert time.monotonic() < end_s, shown
                if select.select([ours], [], [], 1.0)[0]:
                    shown += os.read(ours, 65536)
            os.write(ours, b"q")
            while process.poll() is None:  # what it restores on the terminal has to be read
                assert time.monotonic() < end_s
                if select.select([ours], [], [], 0.1)[0]:
                    try:
                        os.read(ours, 65536)
                    except OSError:  # EIO: the other end is closed
                        process.wait(60)
            assert process.returncode == 0
        finally:
            process.kill()
            os.close(ours)
