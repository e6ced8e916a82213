"""The program that runs here, as one file that another host can install without a package index.

A Debian package is put together again from its installed files, as dpkg lists them, with its maintainer scripts. A
virtual environment is packed as it is: its files work at the same path with the same minor version of Python. A
checkout cannot be packed: its environment only refers to it.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from netagent.enrol.host_facts import Needs
from netagent.errors import FailedError, InputError, RefusedError

DEB_PREFIX = Path("/usr/lib/netagent")
_DPKG_INFO = Path("/var/lib/dpkg/info")
_SCRIPTS = ("preinst", "postinst", "prerm", "postrm", "conffiles")


@dataclass(frozen=True, slots=True)
class Package:
    """A file to be copied to the other host, and where the program is when it is installed."""

    path: Path
    prefix: Path
    needs: Needs


def package_of(file: Path | None, folder: Path) -> Package:
    """Return the given Debian package, or make one in `folder` of the program that runs here.

    Raises InputError, RefusedError or FailedError.
    """
    if file is not None:
        return _given(file)
    prefix = Path(sys.prefix)
    if prefix == DEB_PREFIX:
        return _from_dpkg(folder)
    if prefix == Path(sys.base_prefix):
        raise RefusedError(
            "netagent runs in the system's own Python here, whose files cannot be packed",
            code="no-package",
            hint="build a package with `make deb` in a checkout, and give it with --package",
        )
    return _from_environment(prefix, folder)


def _given(file: Path) -> Package:
    if not file.is_file():
        raise InputError(
            f"{file} is no file", thing=str(file), hint="give a package that `make deb` has built"
        )
    fields = _run("dpkg-deb", "--field", str(file), "Package", "Architecture", "Depends")
    values = dict(line.split(": ", 1) for line in fields.splitlines() if ": " in line)
    python = values.get("Depends", "").partition("python3 (>= ")[2].partition(")")[0]
    if values.get("Package") != "netagent" or not python:
        raise InputError(
            f"{file} is no Debian package of netagent",
            thing=str(file),
            hint="give a package that `make deb` has built",
        )
    own = _run("dpkg", "--print-architecture").strip()
    if values.get("Architecture") not in {own, "all"}:
        # What uname calls an architecture is known of this host alone; dpkg there refuses what does not fit.
        return Package(file, DEB_PREFIX, Needs(values.get("Architecture", ""), python, is_deb=True))
    return Package(file, DEB_PREFIX, Needs(platform.machine(), python, is_deb=True))


def _from_dpkg(folder: Path) -> Package:
    stage = folder / "root"
    (stage / "DEBIAN").mkdir(parents=True)
    for line in _run("dpkg-query", "--listfiles", "netagent").splitlines():
        path = Path(line)
        place = stage / line.lstrip("/")
        if path.is_symlink():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(path.readlink())
        elif path.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        elif path.is_file():  # documentation may be left out on this host
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, place)
    fields = _run("dpkg-query", "--status", "netagent").splitlines()
    control = [line for line in fields if not line.startswith(("Status:", "Conffiles:", " /etc/"))]
    (stage / "DEBIAN/control").write_text("\n".join(control) + "\n")
    for script in _SCRIPTS:
        if (source := _DPKG_INFO / f"netagent.{script}").exists():
            shutil.copy2(source, stage / "DEBIAN" / script)
    package = folder / "netagent.deb"
    _run("dpkg-deb", "--root-owner-group", "-Zgzip", "--build", str(stage), str(package))
    shutil.rmtree(stage)
    return Package(package, DEB_PREFIX, _own_needs(is_deb=True))


def _from_environment(prefix: Path, folder: Path) -> Package:
    if _is_editable(prefix):
        raise RefusedError(
            "netagent runs from a checkout here, which another host does not have",
            code="no-package",
            hint="build a package with `make deb` there, and give it with --package",
        )
    if Path(os.path.realpath(prefix / "bin/python")).parent != Path("/usr/bin"):
        raise RefusedError(
            f"the environment {prefix} uses another Python than /usr/bin/python3",
            code="no-package",
            hint="give a package with --package",
        )
    package = folder / "netagent.tar.gz"
    with tarfile.open(package, "w:gz", compresslevel=1) as archive:
        archive.add(prefix, arcname=str(prefix).lstrip("/"), filter=_owned_by_root)
    return Package(package, prefix, _own_needs(is_deb=False))


def _is_editable(prefix: Path) -> bool:
    own = Path(__file__).resolve()
    return not own.is_relative_to(prefix.resolve())


def _owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if "/__pycache__" in entry.name:
        return None
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def _own_needs(*, is_deb: bool) -> Needs:
    return Needs(platform.machine(), f"{sys.version_info.major}.{sys.version_info.minor}", is_deb)


def _run(*words: str) -> str:
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120,
            env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
    except FileNotFoundError:
        raise FailedError(
            f"this host has no program {words[0]}", thing=words[0], hint="use a host with dpkg"
        ) from None
    if done.returncode:
        raise FailedError(f"{' '.join(words[:2])} failed: {done.stderr.strip()[:400]}", thing=words[0])
    return done.stdout
