from __future__ import annotations

import gc
import socket
import stat
from pathlib import Path

import h11
import pytest
from fakes.agent_service import served as serving

from netagent.control import server
from netagent.control.client import Client
from netagent.errors import FailedError, NetagentError, RefusedError


def failure_of(path: Path) -> NetagentError:
    with pytest.raises((NetagentError, ExceptionGroup)) as caught, serving(path):
        pass
    error: BaseException = caught.value
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, NetagentError)
    return error


def test_the_socket_is_private_and_goes_with_the_agent(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with serving(path):
        mode = path.stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) in (0o600, 0o660)
        assert [entry.name for entry in tmp_path.iterdir()] == ["agent.sock"]
    assert list(tmp_path.iterdir()) == []


def test_only_an_existing_group_gets_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.touch()
    server._give_to(path, "no-such-group-here")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    server._give_to(path, "root")
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_a_socket_left_by_a_crash_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    with serving(path):
        assert Client(str(path)).call("GET", "/v1/version")["version"]


def test_a_second_agent_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with serving(path):
        error = failure_of(path)
        assert isinstance(error, RefusedError)
        assert error.code == "agent-running"
        assert Client(str(path)).call("GET", "/v1/version")["version"]


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    path.write_text("precious")
    assert isinstance(failure_of(path), RefusedError)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("name", ["x" * 120, "missing/agent.sock"])
def test_where_no_socket_can_be(tmp_path: Path, name: str) -> None:
    error = failure_of(tmp_path / name)
    assert isinstance(error, FailedError)
    assert "cannot listen" in str(error)
    assert list(tmp_path.iterdir()) == []


def test_a_socket_of_somebody_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with serving(path):
        path.unlink()
        path.write_text("another one's")
    assert path.exists()


def inherited(path: Path) -> socket.socket:
    """As the service manager makes it: bound, listening, its mode its own."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(0o640)
    listener.listen()
    return listener


def test_an_inherited_socket_is_served_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with inherited(path) as kept, socket.socket(socket.AF_UNIX) as early:
        early.connect(str(path))  # before any agent runs
        early.sendall(b"GET /v1/version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        for _ in range(2):  # and the next agent gets it again
            with serving(path, kept.dup()):
                assert Client(str(path)).call("GET", "/v1/version")["version"]
            assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert early.recv(100).startswith(b"HTTP/1.1 200")
    assert [entry.name for entry in tmp_path.iterdir()] == ["agent.sock"]


def test_a_connection_leaves_no_circle_of_garbage_when_it_ends(tmp_path: Path) -> None:
    """What is set aside while a connection is open (netagent.memory) is freed all the same when it ends."""
    path = tmp_path / "agent.sock"
    with serving(path):
        client = Client(str(path))
        client.call("GET", "/v1/version")
        gc.collect()
        gc.disable()
        try:
            before = _connections()
            for _ in range(50):
                client.call("GET", "/v1/endpoints")
            left = _connections() - before
        finally:
            gc.enable()
    assert left <= 2, "beside the last ones, whose end is under way"


def _connections() -> int:
    """Alive or garbage."""
    return sum(isinstance(one, h11.Connection) for one in gc.get_objects())
