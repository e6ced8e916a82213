"""The program `podman`, played by a script: what it is asked, and what becomes of its answers."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pytest
import trio
import trio.testing
from fakes.podman import C1, C2

from netagent.errors import FailedError, NetagentError
from netagent.integrations.podman import command
from netagent.integrations.podman.command import CANNOT_RUN, MAX_OUTPUT_BYTES, TOO_MUCH, Podman
from netagent.model.ids import NetworkId


@pytest.fixture
def podman(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Gives `play(output, error, status)`, and the file in which the script notes how it was called."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/x")

    def play(output: str = "", error: str = "", status: int = 0, *, last: str = "exit") -> Path:
        for name, text in (("out", output), ("err", error)):
            (tmp_path / name).write_text(text)
        script = tmp_path / "podman"
        note = f'cd {tmp_path}\necho "$* $NOTIFY_SOCKET" >> calls'
        script.write_text(f"#!/bin/sh\n{note}\n/bin/cat out\n/bin/cat err >&2\n{last} {status}\n")
        script.chmod(0o755)
        return tmp_path / "calls"

    return play


P = ParamSpec("P")
T = TypeVar("T")


def run(function: Callable[P, Awaitable[T]], *arguments: P.args, **options: P.kwargs) -> T:
    return trio.run(functools.partial(function, *arguments, **options))


def test_networks_are_listed_made_and_removed(podman: Callable[..., Any]) -> None:
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
    run(Podman().create_network, "app", NetworkId("e" * 32))
    run(Podman().remove_network, "app")
    mark = f"netagent.network={'e' * 32}"
    assert calls.read_text().splitlines() == [
        "network ls --format json ",
        f"network create --driver netagent --opt {mark} --label {mark} app ",
        "network rm app ",
    ]


def test_containers_that_do_not_exist_are_left_out(podman: Callable[..., Any]) -> None:
    podman(
        json.dumps([{"Id": C1, "Name": "web", "State": {"Pid": 5}}]), f"Error: no such container {C2}\n", 125
    )
    assert list(run(Podman().containers, [C1, C2])) == [C1]


@pytest.mark.parametrize(
    ("played", "says"),
    [
        (("[]", "Error: no such container x\nError: database is locked", 125), "failed: database is locked"),
        (("", "time=… level=warning\nError: in use", 1), "failed: in use"),
        (("", "", 3), "failed: exit status 3"),
        (("nonsense", "", 0), "unknown form"),
    ],
)
def test_anything_else_that_goes_wrong_is_one_sentence(
    podman: Callable[..., Any], played: tuple[str, str, int], says: str
) -> None:
    podman(*played)
    with pytest.raises(NetagentError, match=says):
        run(Podman().containers, [C1])


def test_a_podman_that_hangs_is_given_up_and_ended(
    podman: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "DEADLINE_S", 0.2)
    podman(status=60, last="exec /bin/sleep")
    with pytest.raises(FailedError, match="`podman network ls` did not end within"):
        run(Podman().networks)


def test_a_command_of_a_check_has_its_status_and_a_bounded_output(podman: Callable[..., Any]) -> None:
    calls = podman("x" * 100_000, "", 3)
    assert run(Podman().execute, C1, ("/bin/ready", "-v")) == (3, b"x" * MAX_OUTPUT_BYTES)
    assert re.fullmatch(rf"exec --env NETAGENT_CHECK=[0-9a-f]{{32}} {C1} /bin/ready -v \n", calls.read_text())
    podman("", "Error: no such container", CANNOT_RUN)
    with pytest.raises(FailedError, match="`podman exec` failed: Error: no such container"):
        run(Podman().execute, C1, ("/bin/ready",))


def test_a_command_of_a_check_that_hangs_is_killed_although_podman_is_not_its_parent(
    podman: Callable[..., Any],
) -> None:
    """As conmon is, which is no child of podman; so the script leaves the command behind, with the variable."""
    calls = podman("", "", last='/usr/bin/setsid /usr/bin/env "$3" /bin/sleep 4321 & wait; exit')

    async def ask() -> None:
        with trio.move_on_after(0.5):
            await Podman().execute(C1, ("/bin/ready",))

    run(ask)
    mark = calls.read_text().split()[2].encode()
    end = time.monotonic() + 5.0
    while any(
        mark in read_environment(folder) for folder in Path("/proc").iterdir() if folder.name.isdigit()
    ):
        assert time.monotonic() < end, "it was not killed"
        time.sleep(0.01)


def test_a_command_of_a_check_that_writes_without_end_is_killed(podman: Callable[..., Any]) -> None:
    podman(last="exec /usr/bin/yes")
    assert run(Podman().execute, C1, ("/bin/ready",)) == (TOO_MUCH, b"0\n" * (MAX_OUTPUT_BYTES // 2))


def test_no_second_command_is_begun_while_the_first_one_lives(
    podman: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command has overwritten its environment, as a process may; its conmon has not."""
    conmon = (
        "/bin/cp /bin/sleep conmon; /bin/cp /bin/sleep program; /usr/bin/setsid ./conmon 4321 & "
        "/usr/bin/env -i ./program"
    )
    calls = podman(status=4321, last=conmon)
    monkeypatch.setattr(command, "START_S", 0.05)
    runtime = Podman()

    async def is_hanging(within_s: float) -> bool:
        with trio.move_on_after(within_s):
            assert await runtime.execute(C1, ("/bin/ready",)) is None
            return False
        return True

    assert run(is_hanging, 0.5)
    # It looks through the processes of the whole machine, which takes longer the more of them there are.
    assert not run(is_hanging, 30.0), "a second one has begun"
    assert len(calls.read_text().splitlines()) == 1
    for folder in processes_of(calls.parent):
        os.kill(int(folder.name), signal.SIGKILL)
    while processes_of(calls.parent):
        time.sleep(0.01)
    podman("here", "", 3)
    assert run(runtime.execute, C1, ("/bin/ready",)) == (3, b"here")


def processes_of(where: Path) -> list[Path]:
    """Those that run a program of this folder."""
    return [
        folder
        for folder in Path("/proc").iterdir()
        if folder.name.isdigit() and (folder / "exe").resolve().parent == where
    ]


def test_under_systemd_a_command_of_a_check_runs_beside_the_agent_s_unit(
    podman: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = podman("here", "", 3)
    monkeypatch.setenv("INVOCATION_ID", "c" * 32)
    beside = calls.parent / "systemd-run"
    beside.write_text(f'#!/bin/sh\necho "$*" > {calls.parent}/beside\nexit 3\n')
    beside.chmod(0o755)
    assert run(Podman().execute, C1, ("/bin/ready", "-v", "$HOME${X}")) == (3, b"")
    said = (calls.parent / "beside").read_text()
    assert said.startswith("--pipe --wait --collect --quiet --setenv=NETAGENT_CHECK=")
    assert "--property=RuntimeMaxSec=70 -- podman exec --env NETAGENT_CHECK=" in said
    assert said.endswith(f"{C1} /bin/ready -v $$HOME$${{X}}\n"), "systemd would put its own variables in"
    beside.write_text("#!/bin/sh\necho Failed to connect to bus >&2\nexit 1\n")
    with pytest.raises(FailedError, match="Failed to connect to bus"):
        run(Podman().execute, C1, ("/bin/ready", "-v"))


def read_environment(folder: Path) -> bytes:
    try:
        return (folder / "environ").read_bytes()
    except OSError:
        return b""


def test_a_host_without_podman_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FailedError, match=r"no program `podman` on this host; install it"):
        run(Podman().networks)


def test_the_members_of_a_pod_are_ids(podman: Callable[..., Any]) -> None:
    podman(f"{C1}\n{C2}\n")
    assert run(Podman().members, "d" * 64) == (C1, C2)


OURS = {"netagent.service": "shop"}


class Images(Podman):
    """Answers `inspect` of containers and images; `broken` images are refused."""

    def __init__(
        self, images: dict[str, Any], containers: dict[str, tuple[str, str, dict[str, str]]]
    ) -> None:
        super().__init__()
        self.images, self.listed = images, containers
        self.broken: dict[str, str] = {}
        self.asked: list[str] = []

    async def _run(self, *words: str, harmless: str = "") -> bytes:
        if words[0] == "container":
            return json.dumps(
                [
                    {
                        "Id": one,
                        "Name": name,
                        "State": {"Pid": 5},
                        "Image": image,
                        "Config": {"Labels": labels},
                    }
                    for one, (name, image, labels) in self.listed.items()
                ]
            ).encode()
        self.asked.append(words[-1])
        if words[-1] in self.broken:
            raise FailedError(self.broken[words[-1]])
        return json.dumps([{"Id": words[-1], "Labels": self.images[words[-1]]}]).encode()


def test_an_image_is_asked_about_once() -> None:
    podman = Images({"i1": OURS, "i2": {}}, {C1: ("web", "i1", OURS), C2: ("db", "i2", OURS)})
    for _ in range(3):
        found = run(podman.containers, [C1, C2])
        assert found[C1].labels == {}, "its image's"
        assert found[C2].labels == OURS, "its own"
    assert podman.asked == ["i1", "i2"]


def test_the_number_of_images_that_are_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "MAX_IMAGES", 3)
    podman = Images({f"i{n}": OURS for n in range(8)}, {})
    for number in (*range(8), 7):
        podman.listed = {C1: ("web", f"i{number}", OURS)}
        assert run(podman.containers, [C1])[C1].labels == {}
        assert len(podman._image_labels) <= 3
    assert podman.asked == [f"i{n}" for n in range(8)]


def test_an_image_that_can_not_be_asked_about_concerns_its_own_containers_only() -> None:
    c3 = "c" * 64
    podman = Images(
        {"i1": {}, "i2": {}},
        {C1: ("web", "i1", OURS), C2: ("db", "i2", OURS), c3: ("web2", "i1", OURS)},
    )
    podman.broken["i1"] = "`podman image inspect` refuses: database is locked"
    found = run(podman.containers, [C1, C2, c3])
    assert found.keys() == {C1, C2, c3}, "none is taken for one that does not exist"
    assert (found[C2].labels, found[C2].flaw) == (OURS, "")
    for one, name in ((C1, "web"), (c3, "web2")):
        assert found[one].labels == {}
        assert f"container {name} " in found[one].flaw
        assert "database is locked" in found[one].flaw
    assert podman.asked == ["i1", "i2"], "once in a batch, whatever becomes of it"
    podman.broken.clear()
    assert run(podman.containers, [C1])[C1].labels == OURS
    assert podman.asked == ["i1", "i2", "i1"]


def test_images_that_hang_do_not_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty of them would keep all other containers waiting for minutes."""
    ids = [f"{number:064x}" for number in range(command.MAX_AT_ONCE)]
    podman = Images({}, {one: (f"n{one[-2:]}", f"i{one}", OURS) for one in ids})

    async def hang(*words: str, harmless: str = "") -> bytes:
        if words[0] == "container":
            return await Images._run(podman, *words)
        podman.asked.append(words[-1])
        await trio.sleep(command.DEADLINE_S)
        raise FailedError("`podman image inspect` did not end within 10 s")

    monkeypatch.setattr(podman, "_run", hang)

    async def main() -> None:
        found = await podman.containers(ids)
        assert all(one.flaw for one in found.values())
        assert trio.current_time() - started <= 2 * command.DEADLINE_S

    clock = trio.testing.MockClock(autojump_threshold=0)
    started = clock.current_time()
    trio.run(main, clock=clock)
    assert len(podman.asked) <= 2
