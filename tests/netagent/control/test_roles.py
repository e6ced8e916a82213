"""The read-only socket, by the real server."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.agent_service import Served
from fakes.agent_service import served as serving

from netagent.access.grant import READ_ONLY
from netagent.control import client as client_module
from netagent.control.asgi import MAX_PER_PEER
from netagent.control.client import Client
from netagent.errors import ForbiddenError, NetagentError, RefusedError
from netagent.interface.catalogue import COMMANDS
from netagent.interface.command import Command
from netagent.interface.role import Role

ROUTED = [command for command in COMMANDS if command.declaration.verb]


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("ro") / "ro.sock", grant=READ_ONLY, is_bounded=True) as server:
        yield server


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path / "ro.sock", grant=READ_ONLY, is_bounded=True) as server:
        yield server


@pytest.mark.parametrize(
    "command",
    [one for one in ROUTED if one.declaration.role > Role.READ],
    ids=lambda one: one.declaration.command,
)
def test_what_changes_something_is_refused_before_it_is_read(
    reading: Served, command: type[Command[Any]]
) -> None:
    declared = command.declaration
    path = declared.path.replace("{", "").replace("}", "")
    with pytest.raises(RefusedError) as caught:
        Client(str(reading.path), timeout_s=30).call(declared.verb, path, body={"nonsense": True})
    assert caught.value.code == "not-permitted"
    assert "the read-only socket" in str(caught.value)


def test_what_reads_is_answered(reading: Served) -> None:
    client = Client(str(reading.path), timeout_s=30)
    assert client.call("GET", "/v1/status")["schema"] == 1
    assert "items" in client.call("GET", "/v1/endpoints")
    assert "paths" in client.call("GET", "/v1/openapi.json")


def test_a_misspelt_path_is_told_from_a_forbidden_one(reading: Served) -> None:
    with pytest.raises(NetagentError) as caught:
        Client(str(reading.path), timeout_s=30).call("POST", "/v1/atach")
    assert caught.value.code == "no-such-path"
    assert not isinstance(caught.value, ForbiddenError)


def test_one_account_does_not_take_all_connections(own: Served) -> None:
    idle = [socket.socket(socket.AF_UNIX) for _ in range(MAX_PER_PEER)]
    try:
        for one in idle:
            one.settimeout(30)
            one.connect(str(own.path))
            one.sendall(b"GET /v1/version HTTP/1.1\r\nHost: netagent\r\n\r\n")
            assert one.recv(12) == b"HTTP/1.1 200"  # so it has its place
        with pytest.raises(NetagentError):
            Client(str(own.path), timeout_s=30).call("GET", "/v1/version")
    finally:
        for one in idle:
            one.close()


def test_who_may_only_read_needs_no_option(
    own: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may open any socket, so the closed one is simulated."""
    closed = str(tmp_path / "netagent.sock")
    monkeypatch.setattr(client_module, "DEFAULT_SOCKET", closed)
    monkeypatch.setattr(client_module, "READ_ONLY_SOCKET", str(own.path))
    connect = socket.socket.connect

    def connecting(self: socket.socket, address: Any) -> None:
        if address == closed:
            raise PermissionError
        connect(self, address)

    class Socket(socket.socket):
        connect = connecting

    monkeypatch.setattr(socket, "socket", Socket)
    assert Client(closed, timeout_s=30).call("GET", "/v1/version")["version"]
    monkeypatch.setattr(client_module, "READ_ONLY_SOCKET", str(tmp_path / "none.sock"))
    with pytest.raises(RefusedError, match="or of netagent-ro to look only"):
        Client(closed, timeout_s=30).call("GET", "/v1/version")
