"""The agent's folders: one agent at a time, and damaged files are named."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from netagent import state_dir as module
from netagent.errors import FailedError, RefusedError
from netagent.state_dir import ClusterKeys, KeyNote, Revocation, StateDir, write_private

KEYS = ClusterKeys("c1" * 16, "mesh", "mesh.internal", (b"k" * 32, b"o" * 16), encrypts=True)
KEY_TEXT = base64.b64encode(KEYS.keys[0]).decode()


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, ...]:
    return tmp_path / "state", tmp_path / "run", tmp_path / "state" / "keyring"


@pytest.fixture
def state(folders: tuple[Path, ...]) -> Iterator[StateDir]:
    opened = StateDir(*folders)
    yield opened
    opened.close()


def test_an_identity_is_made_once_and_readable_by_no_other_user(state: StateDir) -> None:
    first = state.identity(b"a" * 32)
    assert state.identity(b"b" * 32).node_id == first.node_id
    path = state.state_dir / "identity"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(state.state_dir.stat().st_mode) == 0o700


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"not base64!", b"YWJj\n", b"\x00" * 4096])
def test_a_damaged_identity_is_named_and_left_as_it_is(state: StateDir, content: bytes) -> None:
    path = state.state_dir / "identity"
    path.write_bytes(content)
    with pytest.raises(FailedError, match=r"identity.*damaged.*backup"):
        state.identity(b"a" * 32)
    assert path.read_bytes() == content


def test_what_is_known_of_keys_comes_back_and_older_files_have_none(
    state: StateDir, folders: tuple[Path, ...]
) -> None:
    noted = replace(KEYS, notes={KEYS.keys[0]: KeyNote(3, 1000)})
    state.save_cluster_keys(noted)
    assert state.cluster_keys() == noted
    state.save_cluster_keys(KEYS)
    assert "notes" not in json.loads(folders[2].read_text())
    read = state.cluster_keys()
    assert read is not None
    assert read.note_of(KEYS.keys[0]) == KeyNote()


@pytest.mark.parametrize("notes", [[], 3, {KEY_TEXT: [1]}, {KEY_TEXT: 7}, {KEY_TEXT: ["a", "b"]}])
def test_damaged_notes_of_keys_are_named(state: StateDir, folders: tuple[Path, ...], notes: object) -> None:
    state.save_cluster_keys(KEYS)
    content = json.loads(folders[2].read_text())
    folders[2].write_text(json.dumps({**content, "notes": notes}))
    with pytest.raises(FailedError, match=r"key ring in .* is damaged"):
        state.cluster_keys()


def test_cluster_keys_come_back_and_go(state: StateDir) -> None:
    assert state.cluster_keys() is None
    state.save_cluster_keys(KEYS)
    assert state.cluster_keys() == KEYS
    state.identity(b"a" * 32)
    for name in ("state.db", "state.db-wal"):
        (state.state_dir / name).touch()
    state.forget_cluster()
    assert [path.name for path in state.state_dir.iterdir()] == ["identity"]
    state.forget_identity()
    assert list(state.state_dir.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"7",
        b"{}",
        {"keys": []},
        {"keys": ["YWJj"]},
        {"keys": "x"},
        {"keys": [7]},
        {"cluster_id": "c1"},
        {"cluster_id": 7},
        {"cluster_id": "0x" + "1" * 30},
        {"cluster_id": "c1 " * 10 + "c1"},
    ],
    ids=repr,
)
def test_a_damaged_key_ring_is_named(state: StateDir, folders: tuple[Path, ...], change: object) -> None:
    state.save_cluster_keys(KEYS)
    if isinstance(change, dict):
        change = json.dumps(json.loads(folders[2].read_text()) | change).encode()
    assert isinstance(change, bytes)
    folders[2].write_bytes(change)
    with pytest.raises(FailedError, match=r"key ring in .*keyring is damaged \(.+\).*join again"):
        state.cluster_keys()


def test_a_second_agent_is_refused_with_the_holder(state: StateDir, folders: tuple[Path, ...]) -> None:
    with pytest.raises(RefusedError, match=f"process {os.getpid()} holds") as caught:
        StateDir(*folders)
    assert (caught.value.code, caught.value.exit_status) == ("already-running", 4)
    state.close()
    again = StateDir(*folders)
    state._lock_fd = again._lock_fd


def test_what_a_killed_agent_held_is_waited_for(
    folders: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child of it may be between fork and exec, and have the lock until then."""
    dead = StateDir(*folders)
    with subprocess.Popen(["true"]) as gone:
        pass
    os.pwrite(dead._lock_fd, f"{gone.pid}       ".encode(), 0)
    waits = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            dead.close()

    monkeypatch.setattr("time.sleep", wait)
    again = StateDir(*folders)
    assert len(waits) == 3
    os.pwrite(again._lock_fd, f"{gone.pid}       ".encode(), 0)
    monkeypatch.setattr(module, "RELEASE_S", 0.0)
    with pytest.raises(RefusedError, match=f"process {gone.pid} holds"):
        StateDir(*folders)
    again.close()


def test_files_are_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_private(path, "one")
    beside = tmp_path / "secret.new"
    beside.write_text("left by a crash")
    beside.chmod(0o644)
    write_private(path, "two")
    assert path.read_text() == "two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not beside.exists()


def test_what_cannot_be_written_or_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(FailedError, match=r"cannot write .*missing/keyring"):
        write_private(tmp_path / "missing" / "keyring", "x")
    (tmp_path / "file").touch()
    with pytest.raises(FailedError, match=r"folder .*file/state: Not a directory; name another folder"):
        StateDir(tmp_path / "file" / "state", tmp_path / "run", tmp_path / "keyring")
    (tmp_path / "run" / "agent.lock").mkdir(parents=True)
    with pytest.raises(FailedError, match=r"cannot open .*agent\.lock"):
        StateDir(tmp_path / "state", tmp_path / "run", tmp_path / "keyring")
    state = StateDir(tmp_path / "state", tmp_path / "run2", tmp_path / "state")
    with pytest.raises(FailedError, match=r"cannot read .*state"):
        state.cluster_keys()
    state.close()


def test_a_revoked_host_keeps_no_key_of_the_tunnel(state: StateDir) -> None:
    stolen = state.tunnel_key(bytes(32))
    state.note_revoked(Revocation("ab" * 16, "mesh", "h1", "cd" * 16))
    assert state.tunnel_key(b"\1" * 32) != stolen, (
        "who has the host knows it; the next identity needs another"
    )


def test_a_crash_after_the_end_of_the_keys_leaves_no_revoked_identity(state: StateDir) -> None:
    former = state.identity(bytes(32))
    state.save_cluster_keys(ClusterKeys("ab" * 16, "mesh", "mesh.internal", (bytes(32),)))
    assert state.identity(b"\1" * 32).node_id == former.node_id
    state.note_revoked(Revocation("ab" * 16, "mesh", "h1", former.node_id))
    renewed = state.identity(b"\1" * 32)
    assert renewed.node_id != former.node_id, (
        "an invitation would let the revoked identity in, only to be refused"
    )
    assert state.identity(b"\2" * 32).node_id == renewed.node_id


def test_a_revoked_host_has_no_keys_and_knows_who_revoked_it(
    state: StateDir, folders: tuple[Path, ...]
) -> None:
    assert state.revocation() is None
    state.save_cluster_keys(ClusterKeys("ab" * 16, "mesh", "mesh.internal", (bytes(32),)))
    note = Revocation("ab" * 16, "mesh", "h1", "cd" * 16)
    state.note_revoked(note)
    assert state.cluster_keys() is None
    assert state.revocation() == note
    (folders[0] / "revoked").write_text("{}")
    assert state.revocation() is None, "a damaged note keeps no agent from starting"
    state.forget_revocation()
    state.forget_revocation()
