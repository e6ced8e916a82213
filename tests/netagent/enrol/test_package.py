"""The program that runs here, as a file for another host."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path

import pytest

from netagent.enrol.package import package_of
from netagent.errors import InputError, RefusedError


def test_a_checkout_becomes_a_tree_that_runs_by_itself(tmp_path: Path) -> None:
    made = package_of(None)
    assert not made.needs.is_deb
    with tarfile.open(made.pack(tmp_path)) as archive:
        names = {entry.name for entry in archive}
        archive.extractall(tmp_path, filter="tar")
        assert {(entry.uid, entry.uname) for entry in archive} == {(0, "root")}
    assert all(name.startswith("opt/netagent") for name in names)
    home = tmp_path / "opt/netagent"
    # The interpreter of the tests stands for /usr/bin/python3, which may be of another version.
    (home / "bin/python").unlink()
    (home / "bin/python").symlink_to(Path(sys.base_prefix) / "bin/python3")
    look = "import json, netagent, netgossip, netdns, trio; print(json.dumps([one.__file__ for one in "
    look += "(netagent, netgossip, netdns, trio)]))"
    done = subprocess.run(
        [home / "bin/python", "-P", "-c", look], capture_output=True, text=True, check=True, cwd="/"
    )
    assert all(Path(one).is_relative_to(home) for one in json.loads(done.stdout))
    assert not list(home.glob("lib/*/site-packages/pytest*")), "only what netagent needs"
    data = home.glob("lib/*/site-packages/netagent/install/data/netagent.service")
    assert list(data), "files that are no modules belong to it"
    # From there it can be copied on.
    again = "import sys; from pathlib import Path; from netagent.enrol.package import package_of\n"
    again += "package_of(None).pack(Path(sys.argv[1]))"
    (tmp_path / "again").mkdir()
    subprocess.run([home / "bin/python", "-P", "-c", again, tmp_path / "again"], check=True, cwd="/")
    assert (tmp_path / "again/netagent.tar.gz").stat().st_size > 1_000_000


def test_what_pip_has_not_installed_cannot_be_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata.Distribution, "files", None)
    with pytest.raises(
        RefusedError, match=r"cannot be copied: netagent was not installed by pip.*`make deb`"
    ):
        package_of(None)


def test_a_file_that_is_no_package_of_netagent(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no file"):
        package_of(tmp_path / "none.deb")
    stage = tmp_path / "root/DEBIAN"
    stage.mkdir(parents=True)
    fields = (
        "Package: {}\nVersion: 1\nArchitecture: arm64\nMaintainer: x <x@example.org>\nInstalled-Size: 7000\n"
    )
    fields += "Depends: python3 (>= 3.11), python3 (<< 3.12)\nDescription: x\n"
    for name in ("other", "netagent"):
        (stage / "control").write_text(fields.format(name))
        subprocess.run(
            ["dpkg-deb", "--build", tmp_path / "root", tmp_path / f"{name}.deb"],
            check=True,
            capture_output=True,
        )
    with pytest.raises(InputError, match="is no Debian package of netagent"):
        package_of(tmp_path / "other.deb")
    given = package_of(tmp_path / "netagent.deb")
    assert (given.needs.architecture, given.needs.python) == ("arm64", "3.11")
    assert given.needs.size_kib == 7000
    assert given.pack(tmp_path) == tmp_path / "netagent.deb"
