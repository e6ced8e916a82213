"""Writing, remembering and removing, below a folder of the test's own."""

from __future__ import annotations

import json
import os
import stat
from functools import partial
from pathlib import Path

import pytest

from netagent.errors import FailedError, InputError, RefusedError
from netagent.install import installer as module
from netagent.install.files import File, InstallPart
from netagent.install.installer import MANIFESTS, FileChange, Installer

PART = InstallPart("docker", (File("/etc/a/one", b"1\n"), File("/opt/b/two", b"2\n", 0o755)))
NEWER = InstallPart("docker", (File("/etc/a/one", b"1.1\n"), File("/etc/a/three", b"3\n")))


def tree(root: Path) -> dict[str, str]:
    """Every path below the root: its content, or `/` for a folder."""
    return {
        path.relative_to(root).as_posix(): "/" if path.is_dir() else path.read_text()
        for path in root.rglob("*")
    }


@pytest.fixture
def installer(tmp_path: Path) -> Installer:
    (tmp_path / "etc").mkdir()
    (tmp_path / "var/lib").mkdir(parents=True)
    return Installer(tmp_path)


def test_what_was_there_before_is_there_after(installer: Installer) -> None:
    (installer.root / "etc/foreign").write_text("precious")
    before = tree(installer.root)
    assert installer.install(PART) == [FileChange("wrote", "/etc/a/one"), FileChange("wrote", "/opt/b/two")]
    assert (installer.root / "etc/a/one").read_text() == "1\n"
    assert installer.is_installed("docker")
    assert installer.uninstall("docker") == [
        FileChange("removed", "/etc/a/one"),
        FileChange("removed", "/opt/b/two"),
    ]
    assert not installer.is_installed("docker")
    assert tree(installer.root) == before


def test_the_state_of_an_agent_stays(installer: Installer) -> None:
    installer.install(PART)
    (installer.root / "var/lib/netagent/identity").write_text("secret")
    installer.uninstall("docker")
    assert tree(installer.root)["var/lib/netagent/identity"] == "secret"


def test_modes_do_not_depend_on_who_types(installer: Installer) -> None:
    before = os.umask(0o077)
    try:
        installer.install(PART)
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE((installer.root / path).stat().st_mode) for path in tree(installer.root)}
    assert modes["etc/a"] == modes["opt/b"] == modes["opt/b/two"] == 0o755
    assert modes["etc/a/one"] == 0o644
    assert modes["var/lib/netagent"] == 0o700


def test_the_same_again_changes_nothing(installer: Installer) -> None:
    installer.install(PART)
    before = tree(installer.root)
    assert {change.action for change in installer.install(PART)} == {"unchanged"}
    assert tree(installer.root) == before
    (installer.root / "opt/b/two").chmod(0o600)
    assert installer.install(PART)[1].action == "replaced"


def test_a_newer_version_replaces_what_the_older_one_wrote(installer: Installer) -> None:
    installer.install(PART)
    assert installer.install(NEWER) == [
        FileChange("replaced", "/etc/a/one"),
        FileChange("wrote", "/etc/a/three"),
        FileChange("removed", "/opt/b/two"),
    ]
    installer.uninstall("docker")
    assert [path for path, kind in tree(installer.root).items() if kind != "/"] == []
    assert not (installer.root / "opt").exists()


def test_a_foreign_file_is_named_and_nothing_is_written(installer: Installer) -> None:
    (installer.root / "opt/b").mkdir(parents=True)
    (installer.root / "opt/b/two").write_text("another one's")
    before = tree(installer.root)
    with pytest.raises(RefusedError, match=r"/opt/b/two; move it away"):
        installer.install(PART)
    assert tree(installer.root) == before


def test_a_link_or_a_folder_in_a_files_place_is_foreign(installer: Installer, tmp_path: Path) -> None:
    (installer.root / "etc/a/one").mkdir(parents=True)
    with pytest.raises(RefusedError, match="/etc/a/one"):
        installer.install(PART)
    (installer.root / "etc/a/one").rmdir()
    (installer.root / "etc/same").write_text("1\n")
    (installer.root / "etc/a/one").symlink_to("../same")
    with pytest.raises(RefusedError, match="/etc/a/one"):
        installer.install(PART)


def test_a_file_that_was_edited_is_neither_replaced_nor_removed(installer: Installer) -> None:
    installer.install(PART)
    (installer.root / "etc/a/one").write_text("edited\n")
    before = tree(installer.root)
    for attempt in (partial(installer.install, NEWER), partial(installer.uninstall, "docker")):
        with pytest.raises(RefusedError, match="/etc/a/one"):
            attempt()
        assert tree(installer.root) == before
    (installer.root / "etc/a/one").rename(installer.root / "etc/kept")
    assert installer.uninstall("docker")[0] == FileChange("was gone", "/etc/a/one")
    assert (installer.root / "etc/kept").exists()


@pytest.mark.parametrize("writes", range(6))
def test_a_crash_in_the_middle_of_an_upgrade_is_mended_by_either(
    installer: Installer, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    installer.install(PART)
    real, left = module._write, [writes]

    def write(path: Path, content: bytes, mode: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        real(path, content, mode)

    monkeypatch.setattr(module, "_write", write)
    try:
        installer.install(NEWER)
    except KeyboardInterrupt:
        assert writes < 4
    monkeypatch.undo()
    if writes % 2:
        installer.install(NEWER)
        assert (installer.root / "etc/a/one").read_text() == "1.1\n"
        assert not (installer.root / "opt/b/two").exists()
    installer.uninstall("docker")
    assert [path for path, kind in tree(installer.root).items() if kind != "/"] == []


def test_a_folder_of_its_own_goes_when_it_is_empty(installer: Installer) -> None:
    part = InstallPart("systemd", (), ("/etc/x/y",))
    installer.install(part)
    assert (installer.root / "etc/x/y").is_dir()
    installer.uninstall("systemd")
    assert not (installer.root / "etc/x").exists()


def test_a_folder_that_another_program_uses_stays(installer: Installer) -> None:
    installer.install(PART)
    (installer.root / "opt/b/other").touch()
    installer.uninstall("docker")
    assert (installer.root / "opt/b/other").exists()
    assert not (installer.root / "etc/a").exists()


def test_parts_do_not_know_each_other(installer: Installer) -> None:
    installer.install(PART)
    installer.install(InstallPart("cni", (File("/opt/b/cni", b""),)))
    installer.uninstall("docker")
    assert (installer.root / "opt/b/cni").exists()
    installer.uninstall("cni")
    assert not (installer.root / "opt/b").exists() or list((installer.root / "opt/b").iterdir()) == []


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"files": 5, "folders": []}', '{"files": {"/a": 5}, "folders": []}']
)
def test_a_manifest_that_makes_no_sense_is_named(installer: Installer, content: str) -> None:
    installer.install(PART)
    manifest = installer.root / MANIFESTS.removeprefix("/") / "docker.json"
    assert json.loads(manifest.read_text())["schema"] == 1
    manifest.write_text(content)
    with pytest.raises(FailedError, match=r"docker.json is damaged"):
        installer.uninstall("docker")


def test_no_such_root(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        Installer(tmp_path / "missing")


def test_commands_are_run_on_the_host_only(installer: Installer) -> None:
    assert installer.run([("false",)]) == []


def test_a_command_that_fails_is_named() -> None:
    assert module.run_command(("true",)) == "true"
    with pytest.raises(FailedError, match=r"`sh -c echo no >&2; exit 3` failed: no"):
        module.run_command(("sh", "-c", "echo no >&2; exit 3"))
    with pytest.raises(FailedError, match="there is no no-such-program"):
        module.run_command(("no-such-program",))


def test_what_podman_is_configured_with_is_found_below_the_root(installer: Installer) -> None:
    folder = installer.root / "etc/containers/containers.conf.d"
    folder.mkdir(parents=True)
    (folder / "x.conf").write_text('[network]\nnetavark_plugin_dirs = ["/opt/plugins"]\n')
    assert installer.surroundings().netavark_folder == "/opt/plugins"
    for wrong in ("[", "x = " + "9" * 5000, "x = " + "[" * 5000):
        (folder / "x.conf").write_text(wrong)
        with pytest.raises(InputError, match=r"x\.conf"):
            installer.surroundings()


def test_a_system_without_systemd_or_with_a_package(installer: Installer) -> None:
    assert not installer.surroundings().systemd
    units = installer.root / "usr/lib/systemd/system"
    units.mkdir(parents=True)
    (units.parent / "systemd").touch()
    (units / "netagent.service").touch()
    found = installer.surroundings()
    assert found.systemd
    assert found.packaged
    assert found.program == "/usr/bin/netagent"


def test_a_shim_for_a_host_whose_python_is_elsewhere() -> None:
    assert module.texts("/opt/python3")["shim.py"].startswith("#!/opt/python3 -SEI\n")
