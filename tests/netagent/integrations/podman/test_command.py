"""The program `podman`, played by a script: what it is asked, and what becomes of its answers."""

from __future__ import annotations

import functools
import json

import pytest
import trio
from fakes.podman import C1, C2

from netagent.errors import FailedError, NetagentError
from netagent.integrations.podman import command
from netagent.integrations.podman.command import Podman


@pytest.fixture
def podman(tmp_path, monkeypatch):
    """Gives `play(output, error, status)`, and the file in which the script notes how it was called."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/x")

    def play(output="", error="", status=0, *, last="exit"):
        for name, text in (("out", output), ("err", error)):
            (tmp_path / name).write_text(text)
        script = tmp_path / "podman"
        note = f'cd {tmp_path}\necho "$* $NOTIFY_SOCKET" >> calls'
        script.write_text(f"#!/bin/sh\n{note}\n/bin/cat out\n/bin/cat err >&2\n{last} {status}\n")
        script.chmod(0o755)
        return tmp_path / "calls"

    return play


def run(function, *arguments):
    return trio.run(functools.partial(function, *arguments))


def test_networks_are_listed_made_and_removed(podman):
    calls = podman(
        json.dumps([{"name": "app", "driver": "bridge", "labels": {"a": "b"}}]), "time=… level=warning"
    )
    (network,) = run(Podman().networks)
    assert (network.name, network.driver, network.labels, network.options) == (
        "app",
        "bridge",
        {"a": "b"},
        {},
    )
    run(Podman().create_network, "app", "e" * 32)
    run(Podman().remove_network, "app")
    mark = f"netagent.network={'e' * 32}"
    assert calls.read_text().splitlines() == [
        "network ls --format json ",
        f"network create --driver netagent --opt {mark} --label {mark} app ",
        "network rm app ",
    ]


def test_containers_that_do_not_exist_are_left_out(podman):
    podman(
        json.dumps([{"Id": C1, "Name": "web", "State": {"Pid": 5}}]), f"Error: no such container {C2}\n", 125
    )
    assert list(run(Podman().containers, [C1, C2])) == [C1]


@pytest.mark.parametrize(
    ("played", "says"),
    [
        (("[]", "Error: no such container x\nError: database is locked", 125), "refuses: database is locked"),
        (("", "time=… level=warning\nError: in use", 1), "refuses: in use"),
        (("", "", 3), "refuses: exit status 3"),
        (("nonsense", "", 0), "form that is not known"),
    ],
)
def test_anything_else_that_goes_wrong_is_one_sentence(podman, played, says):
    podman(*played)
    with pytest.raises(NetagentError, match=says):
        run(Podman().containers, [C1])


def test_a_podman_that_hangs_is_given_up_and_ended(podman, monkeypatch):
    monkeypatch.setattr(command, "DEADLINE_S", 0.2)
    podman(status=60, last="exec /bin/sleep")
    with pytest.raises(FailedError, match="`podman network ls` did not end within"):
        run(Podman().networks)


def test_a_host_without_podman_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FailedError, match=r"no program `podman` on this host; install it"):
        run(Podman().networks)


def test_the_members_of_a_pod_are_ids(podman):
    podman(f"{C1}\n{C2}\n")
    assert run(Podman().members, "d" * 64) == (C1, C2)
