"""Asking others for their containers, against programs that say what the real ones say."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from netagent.endpoints.targets import Target, resolve
from netagent.errors import FailedError, InputError, NetagentError, NotFoundError, RefusedError
from netagent.integrations import container_targets
from netagent.integrations.container_targets import HOST_TARGETS

NO_SANDBOX = 2**22 + 1
"""No pid is so high: PID_MAX_LIMIT of 64-bit Linux."""

Program = Callable[[str, str], None]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Puts a shell script into a PATH that has nothing else of the kind."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def make(name: str, script: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)

    return make


def ask(text: str) -> Target:
    async def main() -> Target:
        return await resolve(text, HOST_TARGETS)

    return trio.run(main)


def refusal(text: str, kind: type[NetagentError]) -> NetagentError:
    with pytest.raises(kind) as caught:
        ask(text)
    assert caught.value.hint
    return caught.value


def test_a_running_container_is_its_main_process(program: Program) -> None:
    program(
        "docker", f'[ "$*" = "container inspect --format {{{{.State.Pid}}}} -- Web.1" ] && echo {NO_SANDBOX}'
    )
    program("podman", f"echo {NO_SANDBOX}")
    path = f"/proc/{NO_SANDBOX}/ns/net"
    assert ask("docker:Web.1") == Target("docker:Web.1", path, "web-1", behind_runtime=True)
    assert ask("podman:web") == Target("podman:web", path, "web")


def test_a_unit_and_a_machine_are_their_main_process(program: Program) -> None:
    program("systemctl", f"echo LoadState=loaded; echo MainPID={NO_SANDBOX}")
    program("machinectl", f"echo Leader={NO_SANDBOX}")
    path = f"/proc/{NO_SANDBOX}/ns/net"
    assert ask("unit:web@1.service") == Target("unit:web@1.service", path, "web-1")
    assert ask("unit:web") == Target("unit:web", path, "web")
    assert ask("machine:m1") == Target("machine:m1", path, "m1")


def test_the_hosts_own_namespace_is_refused_with_the_setting_that_helps(program: Program) -> None:
    program("systemctl", f"echo LoadState=loaded; echo MainPID={os.getpid()}")
    program("machinectl", f"echo Leader={os.getpid()}")
    assert "PrivateNetwork=yes" in refusal("unit:web", RefusedError).hint
    assert "--network-veth" in refusal("machine:m1", RefusedError).hint


def test_what_does_not_run_or_does_not_exist_is_said(program: Program) -> None:
    program("docker", "echo 0")
    program("podman", "echo Error: no such container >&2; exit 125")
    program("systemctl", "echo LoadState=not-found; echo MainPID=0")
    program("machinectl", "echo \"Could not get path to machine: No machine 'm1' known\" >&2; exit 1")
    assert refusal("docker:web", RefusedError).code == "not-running"
    assert refusal("podman:web", NotFoundError).code == "no-such-container"
    assert refusal("unit:web", NotFoundError).code == "no-such-unit"
    assert refusal("machine:web", NotFoundError).code == "no-such-machine"
    program("systemctl", "echo LoadState=loaded; echo MainPID=0")
    assert refusal("unit:web.socket", RefusedError).code == "not-running"


@pytest.mark.parametrize(
    ("name", "target", "complaint"),
    [
        (
            "docker",
            "docker:web",
            "Cannot connect to the Docker daemon at unix:///run/docker.sock. Is it running?",
        ),
        (
            "docker",  # from its version 29 on
            "docker:web",
            "failed to connect to the docker API at unix:///a; …: dial unix /a: connect: no such file or directory",
        ),
        ("podman", "podman:web", "Error: configure storage: permission denied"),
        ("systemctl", "unit:web", "System has not been booted with systemd as init system (PID 1)."),
        ("machinectl", "machine:m1", "Failed to connect to bus: No such file or directory"),
        (
            "machinectl",
            "machine:m1",
            "Could not get path to machine: Unit dbus-org.freedesktop.machine1.service not found.",
        ),
    ],
)
def test_who_cannot_tell_is_not_taken_to_say_no(
    program: Program, name: str, target: str, complaint: str
) -> None:
    program(name, f"echo '{complaint}' >&2; echo 'and more' >&2; exit 1")
    error = refusal(target, FailedError)
    assert error.message == f"{name} failed: {complaint[: container_targets.MAX_COMPLAINT].rstrip('.')}"
    assert name in error.hint


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("docker", "Error: No such container: web"),
        ("docker", "Error response from daemon: No such container: web"),
        ("podman", 'Error: no such container "web"'),
        ("podman", 'Error: no container with name or ID "web" found: no such container'),
    ],
)
def test_in_these_words_they_say_that_there_is_none(program: Program, name: str, words: str) -> None:
    program(name, f"echo '[]'; echo '{words}' >&2; exit 1")
    assert refusal(f"{name}:web", NotFoundError).code == "no-such-container"


def test_a_program_that_is_missing_odd_or_silent_is_no_hang(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refusal("machine:web", RefusedError).code == "no-runtime"
    program("docker", "printf 'no\\377number'")
    assert refusal("docker:web", RefusedError).code == "not-running"
    monkeypatch.setattr(container_targets, "ASK_S", 0.05)
    program("docker", "exec /bin/sleep 60")
    assert refusal("docker:web", FailedError).code == "timeout"
    refusal("docker:a\tb", InputError)
