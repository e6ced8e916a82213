"""The plug-in's socket, made by systemd or by the agent."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import trio

from netagent import config
from netagent.errors import RefusedError
from netagent.integrations.docker.docker_user_chain import DockerUserChain
from netagent.integrations.docker.engine import Engine
from netagent.integrations.docker.integration import DockerIntegration
from netagent.model.ids import NetworkId


def in_no_cluster() -> NoReturn:
    raise RefusedError("this host belongs to no cluster", code="no-cluster")


async def nothing(accepts: DockerUserChain) -> None:
    """In the place of the rules: the namespace is the machine's."""
    await trio.sleep_forever()


@pytest.fixture
def plugged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Callable[..., Any]]:
    """Run the integration, without a dockerd, and call its socket as dockerd does."""
    monkeypatch.setattr(DockerUserChain, "keep", nothing)
    path = tmp_path / "plugins" / "netagent.sock"
    flags = {"docker.plugin": str(path), "docker.socket": str(tmp_path / "docker.sock")}

    async def main(
        listener: socket.socket | None,
    ) -> tuple[list[dict[str, list[Any]] | dict[str, str]], tuple[str, ...]]:
        one = DockerIntegration(config.load(None, flags, {}), in_no_cluster, listener)
        async with trio.open_nursery() as nursery:
            await nursery.start(one.run)
            caller = Engine(path)
            answers = [
                await caller.call("POST", f"/{method}")
                for method in ("Plugin.Activate", "NetworkDriver.Leave")
            ]
            with trio.move_on_after(5):
                await one.wait_mirrored(NetworkId("a1" * 16))  # no Docker: no wait
            while not one.troubles():
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        return answers, one.troubles()

    return path, lambda listener=None: trio.run(main, listener)


def test_it_makes_its_socket_and_takes_it_away(plugged: tuple[Path, Callable[..., Any]]) -> None:
    path, run = plugged
    (activated, left), (trouble,) = run()
    assert activated == {"Implements": ["NetworkDriver", "IpamDriver"]}
    assert "EndpointID" in left["Err"]
    assert "changes of Docker's containers are not applied" in trouble
    assert not path.exists()


def test_a_socket_that_another_program_holds_stays(plugged: tuple[Path, Callable[..., Any]]) -> None:
    path, run = plugged
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        run(listener.dup())
        assert path.is_socket()
