"""`netagent events`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from fakes.agent_service import Served, event_of

from netagent.cli.events_command import author_of, line_of

Run = Any


def test_a_line_per_event_and_all_of_it_as_json(served: Served, netagent: Run) -> None:
    served.service.noted.append(event_of(2, "the resolver process ended", level="warning"))
    done = netagent("events", TZ="Etc/GMT-2")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "2030-01-01 02:00:01  attach    attached web (netns:web) to app: 10.160.0.2  by alice (netagent)",
        "2030-01-01 02:00:02  attach    ! the resolver process ended  by alice (netagent)",
    ]
    assert json.loads(netagent("events", "--json").stdout)["items"] == served.service.noted
    assert netagent("events", "-o", "name").stdout.splitlines() == ["aaaaaaaa-1", "aaaaaaaa-2"]
    assert netagent("events", "-o", "wide").stdout.splitlines()[0].endswith("aaaaaaaa-1")
    served.service.noted.clear()
    assert netagent("events").stdout == "no events match\n"


def test_a_wrong_time_or_kind_is_refused_in_one_sentence(served: Served, netagent: Run) -> None:
    done = netagent("events", "--since", "soon")
    assert done.returncode == 2
    assert "soon" in done.stderr


def following(tmp_path: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "netagent.cli.main", "events", "-f", *words],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "NETAGENT_SOCKET": str(tmp_path / "agent.sock")},
    )


def test_new_events_are_shown_once_each_when_they_come(served: Served, tmp_path: Path) -> None:
    with following(tmp_path) as plain, following(tmp_path, "--json") as machine:
        assert plain.stdout is not None
        assert machine.stdout is not None
        assert "attached web" in plain.stdout.readline()
        seen = [json.loads(machine.stdout.readline()) for _ in range(2)]
        assert [one["event"] for one in seen] == ["added", "synced"]
        for number in (2, 3):
            served.service.noted.append(event_of(number, f"number {number}"))
            served.change()
            assert f"number {number}" in plain.stdout.readline()
            assert json.loads(machine.stdout.readline())["item"]["number"] == number
        for process in (plain, machine):
            process.terminate()


def test_authors_in_few_words() -> None:
    def author(kind: str, name: str, program: str = "") -> str:
        return author_of({"kind": kind, "name": name, "uid": None, "program": program})

    assert author("user", "alice", "curl") == "alice (curl)"
    assert author("user", "alice") == "alice"
    assert author("token", "ci") == "token ci"
    assert author("gossip", "h2") == "host h2"
    assert author("runtime", "docker") == "docker"
    assert author("kernel", "kernel") == "kernel"


def test_a_foreign_text_neither_moves_the_cursor_nor_begins_a_line() -> None:
    assert line_of(event_of(1, "a\x1b[2J\nb")).isprintable()
