"""TARGET in all its forms, and resolv.conf."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import pytest
from fakes.agent_host import RUNNING
from fakes.virtual import virtual

from netagent.endpoints import resolv_conf, targets
from netagent.errors import InputError


@pytest.mark.parametrize(
    ("text", "path", "name"),
    [
        ("netns:web", "/run/netns/web", "web"),
        ("netns:My App", "/run/netns/My App", "my-app"),
        ("/run/netns/web", "/run/netns/web", "web"),
        ("/proc/7/ns/net", "/proc/7/ns/net", ""),
        ("pid:12", "/proc/12/ns/net", ""),
        ("docker:web", "/run/netns/web", "web"),
        ("podman:web", "/run/netns/web", "web"),
        ("unit:web.service", "/run/netns/web.service", "web.service"),
        ("machine:web", "/run/netns/web", "web"),
    ],
)
@virtual
async def test_a_target_is_a_path_and_a_default_name(text: str, path: str, name: str) -> None:
    target = await targets.resolve(text, RUNNING)
    assert (target.text, target.path, target.default_name) == (text, path, name)


@pytest.mark.parametrize(
    "text",
    ["web", "netns:", "netns:../x", "pid:x", "pid:１", "vm:x"],  # noqa: RUF001 - a digit that is not ASCII
)
@virtual
async def test_other_targets_are_refused_with_a_way_out(text: str) -> None:
    with pytest.raises(InputError) as caught:
        await targets.resolve(text, RUNNING)
    assert caught.value.hint


def test_resolv_conf_names_one_server_and_our_domains_first() -> None:
    text = resolv_conf.render(["app", "back"], "mesh.internal", ["corp.example", "mesh.internal"])
    assert text.splitlines()[1:] == [
        "nameserver 127.0.0.11",
        "search app.mesh.internal back.mesh.internal mesh.internal corp.example",
        "options ndots:1 edns0",
    ]


def test_only_our_own_resolv_conf_is_rewritten_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolv_conf, "NETNS_ETC", tmp_path)
    text = resolv_conf.render(["app"], "mesh.internal", [])
    resolv_conf.write("web", text)
    inode = (tmp_path / "web/resolv.conf").stat().st_ino
    resolv_conf.write("web", text + "# more\n")
    assert (tmp_path / "web/resolv.conf").stat().st_ino == inode
    resolv_conf.remove("web")
    assert not (tmp_path / "web").exists()
    (tmp_path / "db").mkdir()
    (tmp_path / "db/resolv.conf").write_text("nameserver 192.0.2.9\n")
    resolv_conf.write("db", text)
    resolv_conf.remove("db")
    assert (tmp_path / "db/resolv.conf").read_text() == "nameserver 192.0.2.9\n"


@pytest.mark.parametrize("before", ["", "# longer than what comes\n"])
@pytest.mark.parametrize("step", ["replace", "write", "truncate"])
def test_an_agent_killed_while_writing_leaves_a_file_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, step: str
) -> None:
    monkeypatch.setattr(resolv_conf, "NETNS_ETC", tmp_path)
    text = resolv_conf.render(["app"], "mesh.internal", [])
    if before:
        resolv_conf.write("web", text + before)
    with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt):
        killing(patched, step)
        resolv_conf.write("web", text)
    resolv_conf.write("web", text)
    assert (tmp_path / "web/resolv.conf").read_text() == text
    with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt):
        killing(patched, step)
        resolv_conf.write("web", text)
    resolv_conf.remove("web")
    assert list(tmp_path.iterdir()) == []


def killing(patched: pytest.MonkeyPatch, step: str) -> None:
    """From now on the process ends before this step."""

    class Killed(io.FileIO):
        def write(self, data: Any) -> int:
            if step == "write":
                raise KeyboardInterrupt
            return super().write(data)

        def truncate(self, _size: int | None = None) -> int:
            raise KeyboardInterrupt

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    def opened(path: Path, mode: str = "r", *arguments: Any, **more: Any) -> Any:
        if "+" in mode or ("w" in mode and step == "write"):
            return Killed(path, mode)
        return open_as_ever(path, mode, *arguments, **more)

    open_as_ever = Path.open
    patched.setattr(Path, "replace", die) if step == "replace" else patched.setattr(Path, "open", opened)


def test_a_foreign_file_that_leads_programs_elsewhere_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolv_conf, "NETNS_ETC", tmp_path)
    resolv_conf.write("web", resolv_conf.render(["app"], "mesh.internal", []))
    assert resolv_conf.shortcoming("web") is None
    assert resolv_conf.shortcoming("nobody") is None
    file = tmp_path / "db" / "resolv.conf"
    file.parent.mkdir()
    for text, is_told in (
        ("nameserver 9.9.9.9\n", True),
        ("nameserver 9.9.9.9\nnameserver 127.0.0.11\n", True),
        ("# mine\nnameserver 127.0.0.11\nnameserver 9.9.9.9\n", False),
        ("nameserver\n", True),
    ):
        file.write_text(text)
        found = resolv_conf.shortcoming("db")
        assert (found is not None) == is_told, text
        assert found is None or str(file) in found[0]


def test_the_hosts_search_list_is_its_last_one(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("search a.example\nnameserver 192.0.2.9\nsearch b.example .\n")
    assert resolv_conf.host_search(path) == ("b.example",)
    assert resolv_conf.host_search(tmp_path / "none") == ()
