"""The program that runs here, as one file that another host can install without a package index.

A Debian package is put together again from its installed files, as dpkg lists them, with its maintainer scripts. Of a
program that pip installed, in a virtual environment, for the system's Python, or editable from a checkout, its own
files and those of the libraries that it needs are put into one folder, which becomes /opt/netagent there: Debian has
no pip by itself, and an environment cannot be moved. Either works with the same minor version of Python only.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Final

from netagent.enrol.host_facts import Needs
from netagent.errors import FailedError, InputError, RefusedError

DEB_PREFIX: Final = Path("/usr/lib/netagent")
TREE_PREFIX: Final = Path("/opt/netagent")
_DPKG_INFO: Final = Path("/var/lib/dpkg/info")
_SCRIPTS: Final = ("preinst", "postinst", "prerm", "postrm", "conffiles", "md5sums")
_OWN_PACKAGES: Final = ("netagent", "netgossip", "netdns")
_GIVE_ONE: Final = "build a package with `make deb` in a checkout, and give it with --package"


class Package:
    """The program, as it will be copied; `needs` and `prefix` are known before it is packed."""

    def __init__(self, prefix: Path, needs: Needs) -> None:
        self.prefix = prefix
        """Where the program is when it is installed."""
        self.needs = needs

    def pack(self, folder: Path, /) -> Path:
        """Return the file to be copied; it is made in `folder`. Raises FailedError."""
        raise NotImplementedError


def package_of(file: Path | None) -> Package:
    """Return the given Debian package, or the program that runs here.

    Raises InputError, RefusedError, FailedError.
    """
    if file is not None:
        return _Given(file.absolute())
    if Path(sys.prefix) == DEB_PREFIX and (_DPKG_INFO / "netagent.list").exists():
        return _Installed()
    return _Tree()


class _Given(Package):
    """A Debian package that the operator names."""

    def __init__(self, file: Path) -> None:
        what = "give a package that `make deb` has built"
        if not file.is_file():
            raise InputError(f"{file} is no file", thing=str(file), hint=what)
        fields = _fields(_run("dpkg-deb", "--field", str(file)))
        python = fields.get("Depends", "").partition("python3 (>= ")[2].partition(")")[0]
        if fields.get("Package") != "netagent" or not python:
            raise InputError(f"{file} is no Debian package of netagent", thing=str(file), hint=what)
        needs = Needs(
            architecture=fields.get("Architecture", ""),
            python=python,
            is_deb=True,
            size_kib=_size_kib(fields),
        )
        super().__init__(DEB_PREFIX, needs)
        self._file = file

    def pack(self, _folder: Path, /) -> Path:
        return self._file


class _Installed(Package):
    """The Debian package that is installed here."""

    def __init__(self) -> None:
        self._control = _run("dpkg-query", "--status", "netagent")
        fields = _fields(self._control)
        needs = Needs(
            architecture=fields.get("Architecture", ""),
            python=_python(),
            abi=_abi(),
            is_deb=True,
            size_kib=_size_kib(fields),
        )
        super().__init__(DEB_PREFIX, needs)

    def pack(self, folder: Path, /) -> Path:
        stage = folder / "root"
        (stage / "DEBIAN").mkdir(parents=True)
        try:
            for line in _run("dpkg-query", "--listfiles", "netagent").splitlines():
                _copy(Path(line), stage / line.lstrip("/"))
            # What dpkg has added to the fields of the package.
            fields = re.split(r"\n(?! )", self._control.rstrip())
            kept = [field for field in fields if not field.startswith(("Status:", "Conffiles:"))]
            (stage / "DEBIAN/control").write_text("\n".join(kept) + "\n")
            for script in _SCRIPTS:
                if (source := _DPKG_INFO / f"netagent.{script}").exists():
                    shutil.copy2(source, stage / "DEBIAN" / script)
        except OSError as error:
            raise _unreadable(error) from None
        package = folder / "netagent.deb"
        _run("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", str(stage), str(package))
        shutil.rmtree(stage)
        return package


def _copy(path: Path, place: Path) -> None:
    if path.is_symlink():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(path.readlink())
    elif path.is_dir():
        place.mkdir(parents=True, exist_ok=True)
    elif path.is_file():  # documentation may be left out on this host
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, place)


class _Tree(Package):
    """The program and its libraries, from wherever Python finds them."""

    def __init__(self) -> None:
        self._files = dict(_program_files())
        size = sum(path.stat().st_size for path in self._files.values())
        needs = Needs(
            machine=platform.machine(),
            python=_python(),
            abi=_abi(),
            is_deb=False,
            size_kib=size // 1024 + 4 * len(self._files),
        )
        super().__init__(TREE_PREFIX, needs)

    def pack(self, folder: Path, /) -> Path:
        package = folder / "netagent.tar.gz"
        home = str(TREE_PREFIX).lstrip("/")
        libraries = f"{home}/lib/python{_python()}/site-packages"
        try:
            with tarfile.open(package, "w:gz", compresslevel=1) as archive:
                folders = {f"{home}/bin"}
                for name in self._files:
                    folders |= {str(one) for one in PurePosixPath(f"{libraries}/{name}").parents}
                for name in sorted(one for one in folders if one.startswith(home)):
                    archive.addfile(_entry(name, tarfile.DIRTYPE, 0o755))
                for name, path in self._files.items():
                    content = path.read_bytes()
                    mode = 0o755 if os.access(path, os.X_OK) else 0o644
                    entry = _entry(f"{libraries}/{name}", tarfile.REGTYPE, mode)
                    # Byte code counts only for a source of the very second.
                    entry.size, entry.mtime = len(content), int(path.stat().st_mtime)
                    archive.addfile(entry, io.BytesIO(content))
                for name, text, mode in _environment():
                    entry = _entry(f"{home}/{name}", tarfile.REGTYPE, mode)
                    entry.size = len(text)
                    archive.addfile(entry, io.BytesIO(text))
                for name, target in (("python", "/usr/bin/python3"), ("python3", "python")):
                    entry = _entry(f"{home}/bin/{name}", tarfile.SYMTYPE, 0o777)
                    entry.linkname = target
                    archive.addfile(entry)
        except OSError as error:
            raise _unreadable(error) from None
        return package


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.uname, entry.gname = kind, mode, "root", "root"
    return entry


def _environment() -> Iterator[tuple[str, bytes, int]]:
    """Yield the files that make a folder a virtual environment with the command `netagent`."""
    version = platform.python_version()
    yield (
        "pyvenv.cfg",
        f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {version}\n".encode(),
        0o644,
    )
    start = "import sys\nfrom netagent.cli.main import main\nsys.exit(main())\n"
    yield "bin/netagent", f"#!{TREE_PREFIX}/bin/python -P\n{start}".encode(), 0o755


def _program_files() -> Iterator[tuple[str, Path]]:
    """Yield each file of the program and its libraries, with its path in site-packages. Raises RefusedError."""
    for package in _OWN_PACKAGES:
        found = importlib.util.find_spec(package)
        if found is None or not found.submodule_search_locations:
            raise _cannot_copy(f"the files of its package {package} are in no folder")
        # An editable installation only refers to them; they are taken from where they are.
        yield from _folder(package, Path(next(iter(found.submodule_search_locations))))
    for distribution in _distributions():
        name = distribution.metadata["Name"]
        is_own = name == "netagent"
        if (files := distribution.files) is None:
            raise _cannot_copy(f"{name} was not installed by pip, so its files are not known")
        for file in files:
            path = Path(str(distribution.locate_file(file)))
            if ".." in file.parts or file.is_absolute() or not path.is_file():
                continue  # a command or a manual page
            if is_own and (not file.parts[0].endswith(".dist-info") or file.name == "direct_url.json"):
                continue
            yield file.as_posix(), path


def _folder(package: str, folder: Path) -> Iterator[tuple[str, Path]]:
    compiled = f".{sys.implementation.cache_tag}.pyc"
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.parent.name == "__pycache__":
            # Spares the other host some seconds; not what other versions of Python and removed modules have left.
            source = path.parent.parent / f"{path.name.removesuffix(compiled)}.py"
            is_wanted = path.name.endswith(compiled) and source.exists()
        else:
            is_wanted = path.is_file()
        if is_wanted:
            yield f"{package}/{inside.as_posix()}", path


def _distributions() -> Iterator[metadata.Distribution]:
    """Yield netagent and, without end of a circle, what it requires here."""
    wanted, seen = ["netagent"], set()
    while wanted:
        name = wanted.pop()
        if (key := re.sub(r"[-_.]+", "-", name).lower()) in seen:
            continue
        seen.add(key)
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            if name == "netagent":
                raise _cannot_copy("pip does not know it") from None
            continue  # required by other systems or versions of Python only
        yield found
        for requirement in found.requires or ():
            text, _, marker = requirement.partition(";")
            if "extra" not in marker and (match := re.match(r"[A-Za-z0-9._-]+", text)):
                wanted.append(match[0])


def _cannot_copy(reason: str) -> RefusedError:
    return RefusedError(
        f"the netagent that runs here cannot be copied: {reason}", code="no-package", hint=_GIVE_ONE
    )


def _unreadable(error: OSError) -> FailedError:
    return FailedError(
        f"cannot pack netagent: {error.filename or 'the package'}: {error.strerror}",
        code="no-package",
        hint="free space or repair the installation, or give a package with --package",
    )


def _fields(text: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in text.splitlines() if ": " in line and line[0] != " ")


def _size_kib(fields: dict[str, str]) -> int:
    size = fields.get("Installed-Size", "")
    return int(size) if re.fullmatch(r"[0-9]{1,9}", size) else 0


def _python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


@functools.cache
def _abi() -> str:
    return str(sysconfig.get_config_var("SOABI") or "")


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
    except subprocess.TimeoutExpired:
        raise FailedError(f"`{' '.join(words[:2])}` does not end", thing=words[0]) from None
    if done.returncode:
        raise FailedError(f"{' '.join(words[:2])} failed: {done.stderr.strip()[:400]}", thing=words[0])
    return done.stdout
