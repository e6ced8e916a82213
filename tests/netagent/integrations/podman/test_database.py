"""Podman's database: commits are reported, and the states of containers read."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from netagent.errors import FailedError
from netagent.integrations.podman import database
from netagent.integrations.podman.database import ContainerStates, DatabaseWatch, read_states_untrusted


@pytest.fixture
def podman(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    made = sqlite3.connect(tmp_path / "db.sql", isolation_level=None)
    made.execute("CREATE TABLE ContainerState (ID TEXT PRIMARY KEY, State INTEGER, JSON TEXT NOT NULL)")
    yield made
    made.close()


def commit(podman: sqlite3.Connection, container_id: str, json: object) -> None:
    podman.execute("BEGIN EXCLUSIVE")
    podman.execute("INSERT OR REPLACE INTO ContainerState VALUES (?, 1, ?)", (container_id, json))
    podman.execute("COMMIT")


def test_the_states_of_containers_are_read(podman: sqlite3.Connection, tmp_path: Path) -> None:
    for container_id, json in {
        "a": b'{"state":3,"pid":7}', "b": '{"state":8}', "c": b'{"state":6}', "d": b'{"state":"8"}', "e": b"{}"
    }.items():  # fmt: skip
        commit(podman, container_id, json)
    assert read_states_untrusted(str(tmp_path)) == ContainerStates(frozenset("a"), frozenset("b"))


@pytest.mark.parametrize("json", [b"", b"{", b"\xff\x00", "[" * 3000], ids=["empty", "cut", "bytes", "deep"])
def test_what_is_no_state_hides_no_other_container(
    podman: sqlite3.Connection, tmp_path: Path, json: object
) -> None:
    commit(podman, "a", json)
    commit(podman, "b", '{"state":8}')
    assert read_states_untrusted(str(tmp_path)).stopping == {"b"}


def test_a_database_that_is_a_fifo_is_refused_without_waiting_for_its_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "db.sql")
    with pytest.raises(FailedError, match="there is no such file"):
        read_states_untrusted(str(tmp_path))


@pytest.mark.parametrize("content", [None, b"", b"SQLite format 3\0" + bytes(84), b"x" * 5000])
def test_what_is_no_database_is_refused_and_never_created(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "db.sql"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(FailedError, match="cannot read"):
        read_states_untrusted(str(tmp_path))
    assert (file.read_bytes() if file.exists() else None) == content


def test_a_read_waits_for_a_commit_and_not_for_ever(
    podman: sqlite3.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_S", 0.05)
    podman.execute("BEGIN EXCLUSIVE")
    with pytest.raises(FailedError, match="locked"):
        read_states_untrusted(str(tmp_path))
    podman.execute("COMMIT")
    assert read_states_untrusted(str(tmp_path)) == ContainerStates(frozenset(), frozenset())


def test_commits_are_reported_and_changes_of_other_files_are_not(
    podman: sqlite3.Connection, tmp_path: Path
) -> None:
    async def main() -> None:
        watch = DatabaseWatch()
        for _ in range(2):
            assert watch.add(str(tmp_path))
        assert not watch.add(str(tmp_path / "missing"))
        (tmp_path / "storage.lock").write_text("x")
        (tmp_path / "storage.lock").unlink()
        with trio.move_on_after(0.1) as waited:
            await watch.wait_commit()
        assert waited.cancelled_caught
        for number in range(2):
            commit(podman, str(number), b"{}")
            with trio.fail_after(5):
                await watch.wait_commit()

    before = len(list(Path("/proc/self/fd").iterdir()))
    trio.run(main)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
