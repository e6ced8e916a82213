"""The program as a client of the Model Context Protocol starts it, against a fake agent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.agent_service import Served, endpoint_of
from fakes.agent_service import served as serving

from netagent.access.grant import READ_ONLY
from netagent.cli.main import main
from netagent.mcp.quoting import BEGINNING


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path / "agent.sock") as server:
        yield server


def session(socket: Path, calls: list[tuple[str, dict[str, Any]]], *options: str) -> list[dict[str, Any]]:
    """Start the program, list the tools, call some, end its input; return the results in order."""
    hello = {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    }
    requests: list[dict[str, Any]] = [{"method": "initialize", "params": hello}, {"method": "tools/list"}]
    requests += [{"method": "tools/call", "params": {"name": n, "arguments": a}} for n, a in calls]
    program = [sys.executable, "-m", "netagent.cli.main", "mcp", "--socket", str(socket), *options]
    with subprocess.Popen(
        program,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": ""},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        results = []
        for number, one in enumerate(requests):
            if number == 1:
                process.stdin.write('{"jsonrpc": "2.0", "method": "notifications/initialized"}\n')
            process.stdin.write(json.dumps({"jsonrpc": "2.0", "id": number, **one}) + "\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            assert answer["id"] == number
            results.append(answer["result"])
        process.stdin.close()
        assert process.wait(60) == 0
    return results


def data_of(result: dict[str, Any]) -> Any:
    (content,) = result["content"]
    head, begin, *body, end = content["text"].split("\n")
    assert head == BEGINNING
    assert begin.removeprefix("BEGIN ") == end.removeprefix("END ")
    return json.loads("\n".join(body))


def test_a_model_looks_and_changes_nothing(served: Served) -> None:
    served.service.rows.append(endpoint_of("web"))
    results = session(
        served.path,
        [
            ("list", {"what": "endpoints"}),
            ("status", {}),
            ("why", {"thing": "web"}),
            ("change", {"words": ["detach", "web"]}),
            ("list", {"what": "everything"}),
        ],
    )
    _hello, listed, endpoints, status, why, change, wrong = results
    assert [one["name"] for one in listed["tools"]] == [
        "status", "list", "why", "doctor", "ping", "lookup", "flows", "events",
    ]  # fmt: skip
    assert all(one["annotations"]["readOnlyHint"] for one in listed["tools"])
    assert data_of(endpoints)["items"][0]["name"] == "web"
    assert data_of(status)["host"]["name"] == "h1"
    assert "why" in data_of(why)
    for refused in (change, wrong):
        assert refused["isError"] is True
    assert "there is no tool 'change'" in data_of(change)["error"]
    assert len(served.service.rows) == 1


def test_with_leave_it_changes_what_the_agent_allows(served: Served) -> None:
    served.service.rows.append(endpoint_of("web"))
    *_, listed, invited, done = session(
        served.path,
        [("change", {"words": ["invite"]}), ("change", {"words": ["detach", "web"]})],
        "--allow-write",
    )
    assert len(listed["tools"]) == 9
    assert "not among the changes" in data_of(invited)["error"]
    assert done.get("isError", False) is False
    assert served.service.rows == []


def test_the_agent_holds_a_model_to_the_role_of_who_started_it(tmp_path: Path) -> None:
    with serving(tmp_path / "ro.sock", grant=READ_ONLY) as served:
        served.service.rows.append(endpoint_of("web"))
        *_, ping, change = session(
            served.path,
            [("ping", {"to": "web"}), ("change", {"words": ["detach", "web"]})],
            "--allow-write",
        )
        assert "needs the role attach" in data_of(ping)["error"]
        assert "needs the role attach" in data_of(change)["error"]
        assert len(served.service.rows) == 1


def test_without_the_package_one_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mcp_types", None)
    monkeypatch.delitem(sys.modules, "netagent.mcp.server", raising=False)
    assert main(["mcp"]) == 5
    assert "install netagent with it: pip install 'netagent[mcp]'" in capsys.readouterr().err
