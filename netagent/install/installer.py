"""Writes the files of a part, records them in a manifest, and removes exactly those.

The manifest, /var/lib/netagent/installed/PART.json, has path and SHA-256 of each file, and the folders that were
created for them. It is written before the files, so after a crash in between `uninstall` still finds all of them. A
file that differs from the manifest belongs to another program or was edited: the installer neither overwrites nor
removes it, names it, and changes nothing at all. Repeating a command changes nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.resources
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from netagent.errors import FailedError, InputError, RefusedError
from netagent.install.files import (
    CONTAINERS_CONF,
    NETWORK_SERVICES,
    SHIM_INTERPRETER,
    Command,
    File,
    InstallContext,
    InstallPart,
    netavark_folder,
)

MANIFESTS: Final = "/var/lib/netagent/installed"
PACKAGED_UNIT: Final = "/usr/lib/systemd/system/netagent.service"
COMMAND_S: Final = 60.0
"""Timeout of one command, in seconds; systemctl waits for a restart, which takes about a second."""


@dataclass(frozen=True, slots=True)
class FileChange:
    """The change of one file: `wrote`, `replaced`, `unchanged`, `removed` or `was gone`."""

    action: str
    path: str


@dataclass(frozen=True, slots=True)
class _Manifest:
    files: dict[str, list[str]] = field(default_factory=dict)
    """Path -> SHA-256 in hex of the content written; of the old and the new content during a replacement."""
    folders: tuple[str, ...] = ()
    """Folders that were created, outermost first."""


class Installer:
    """Files below `root`: `/`, or the folder of an image of another system."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise InputError(f"there is no folder {root}", thing=str(root), hint="create it first")
        self.root = root

    @property
    def is_host(self) -> bool:
        """True for the running system; commands make sense only there."""
        return self.root == Path("/")

    def surroundings(self) -> InstallContext:
        """Collect the facts on which the files depend, below the root."""
        return InstallContext(
            program=_program() if self.is_host else "/usr/bin/netagent",
            systemd=self._at("/run/systemd/system").is_dir() or self._at("/usr/lib/systemd/systemd").exists(),
            network_services=tuple(
                unit for folder, unit in NETWORK_SERVICES.items() if self._at(folder).is_dir()
            ),
            packaged=self._at(PACKAGED_UNIT).exists(),
            netavark_folder=netavark_folder([_toml(path) for path in self._containers_conf()]),
            texts=texts(SHIM_INTERPRETER if self._at(SHIM_INTERPRETER).exists() else sys.executable),
        )

    def install(self, part: InstallPart) -> list[FileChange]:
        """Write the part's files. RefusedError names files of other programs; then nothing was written."""
        before = self._manifest(part.name)
        changes = [self._intended(file, before) for file in part.files]
        if foreign := [change.path for change in changes if change.action == "foreign"]:
            raise RefusedError(
                f"not written by netagent, or changed since: {', '.join(foreign)}",
                code="foreign-file",
                thing=foreign[0],
                hint="move it away and repeat this command",
            )
        with _told_as_failure():
            folders = self._missing_folders([*(f.path for f in part.files), *(f"{f}/" for f in part.folders)])
            made = tuple(dict.fromkeys([*before.folders, *folders]))
            sums = {file.path: [hashlib.sha256(file.content).hexdigest()] for file in part.files}
            either = {
                path: before.files.get(path, []) + sums.get(path, []) for path in {**before.files, **sums}
            }
            self._remember(part.name, _Manifest(either, made))
            for folder in folders:
                self._at(folder).mkdir()
                self._at(folder).chmod(0o755)
            for file, change in zip(part.files, changes, strict=True):
                if change.action != "unchanged":
                    _write(self._at(file.path), file.content, file.mode)
            obsolete = [self._remove(path) for path in before.files.keys() - sums.keys()]
            self._remember(part.name, _Manifest(sums, made))
        return changes + obsolete

    def check_unchanged(self, name: str) -> None:
        """Raise RefusedError, which names the files, if any was changed since `install` wrote it."""
        known = self._manifest(name)
        changed = [path for path, sums in known.files.items() if _digest(self._at(path)) not in (*sums, None)]
        if changed:
            raise RefusedError(
                f"changed since it was installed: {', '.join(changed)}",
                code="foreign-file",
                thing=changed[0],
                hint="move it away and repeat this command",
            )

    def uninstall(self, name: str) -> list[FileChange]:
        """Remove what `install` wrote. RefusedError as for `check_unchanged`; then nothing was removed."""
        self.check_unchanged(name)
        known = self._manifest(name)
        with _told_as_failure():
            changes = [self._remove(path) for path in known.files]
            for folder in reversed(known.folders):
                with contextlib.suppress(OSError):  # the folder contains files of other programs
                    self._at(folder).rmdir()
            self._at(f"{MANIFESTS}/{name}.json").unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # other parts are installed, or an agent keeps its state there
                self._at(MANIFESTS).rmdir()
                self._at(MANIFESTS).parent.rmdir()
        return changes

    def is_installed(self, name: str) -> bool:
        """True if the part has a manifest."""
        return self._at(f"{MANIFESTS}/{name}.json").exists()

    def run(self, commands: Sequence[Command]) -> list[str]:
        """Run the commands one by one if systemd runs; return those that were run, as typed. Raises FailedError."""
        if not (self.is_host and Path("/run/systemd/system").is_dir()):
            return []
        return [run_command(command) for command in commands]

    # -- below the root ----------------------------------------------------------------------------------------

    def _at(self, path: str) -> Path:
        return self.root / path.removeprefix("/")

    def _intended(self, file: File, before: _Manifest) -> FileChange:
        path = self._at(file.path)
        digest = _digest(path)
        if digest is None:
            return FileChange("wrote", file.path)
        if digest == hashlib.sha256(file.content).hexdigest():
            same_mode = path.stat().st_mode & 0o777 == file.mode
            return FileChange("unchanged" if same_mode else "replaced", file.path)
        return FileChange("replaced" if digest in before.files.get(file.path, []) else "foreign", file.path)

    def _remove(self, path: str) -> FileChange:
        try:
            self._at(path).unlink()
        except FileNotFoundError:
            return FileChange("was gone", path)
        return FileChange("removed", path)

    def _missing_folders(self, paths: Iterable[str]) -> list[str]:
        """Return the folders to create for these paths, outermost first; a path `folder/` means the folder itself."""
        folders = {str(folder) for path in paths for folder in Path(path + "-").parents}
        return sorted(folder for folder in folders if not self._at(folder).exists())

    def _manifest(self, name: str) -> _Manifest:
        path = self._at(f"{MANIFESTS}/{name}.json")
        try:
            body = json.loads(path.read_bytes())
            return _Manifest(
                {str(one): [str(digest) for digest in sums] for one, sums in body["files"].items()},
                tuple(str(one) for one in body["folders"]),
            )
        except FileNotFoundError:
            return _Manifest()
        except OSError as error:
            raise RefusedError(
                f"cannot read {path}: {error.strerror}", thing=str(path), hint="run this as root"
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise FailedError(
                f"the manifest {path} is damaged", thing=str(path), hint="remove it, and install again"
            ) from None

    def _remember(self, name: str, manifest: _Manifest) -> None:
        folder = self._at(MANIFESTS)
        for above in (folder.parent.parent, folder.parent, folder):
            if not above.exists():
                above.mkdir(mode=0o700 if above == folder.parent else 0o755, parents=True)
        body = {"schema": 1, "files": manifest.files, "folders": manifest.folders}
        _write(folder / f"{name}.json", (json.dumps(body, indent=1) + "\n").encode(), 0o644)

    def _containers_conf(self) -> list[Path]:
        return [
            path for pattern in CONTAINERS_CONF for path in sorted(self.root.glob(pattern.removeprefix("/")))
        ]


def texts(interpreter: str = SHIM_INTERPRETER) -> dict[str, str]:
    """Return the files of data/ by name, and the shim that CNI and netavark start, for that Python."""
    package = importlib.resources.files("netagent")
    found = {
        one.name: one.read_text("utf-8") for one in (package / "install" / "data").iterdir() if one.is_file()
    }
    shim = (package / "integrations" / "shim.py").read_text("utf-8")
    return {**found, "shim.py": shim.replace(SHIM_INTERPRETER, interpreter, 1)}


def run_command(command: Command) -> str:
    """Run one command; return it as typed. Raises FailedError with the last line of its error output."""
    typed = " ".join(command)
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=COMMAND_S
        )
    except FileNotFoundError:
        raise FailedError(f"cannot run `{typed}`: there is no {command[0]}", thing=command[0]) from None
    except subprocess.TimeoutExpired:
        raise FailedError(
            f"`{typed}` did not end within {COMMAND_S:.0f} s", thing=command[0], hint="run it by hand"
        ) from None
    if done.returncode != 0:
        words = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        raise FailedError(f"`{typed}` failed: {words}", thing=command[0], hint="run it by hand")
    return typed


def _program() -> str:
    """Return the path of the running command `netagent`, or of the one beside this interpreter."""
    called = Path(sys.argv[0]).absolute()
    if called.name != "netagent" or not os.access(called, os.X_OK):
        called = Path(sys.executable).with_name("netagent")
    if not os.access(called, os.X_OK):
        raise FailedError(
            f"there is no program {called} for the unit to start",
            thing=str(called),
            hint="install netagent into this Python environment first",
        )
    return str(called)


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # as in netagent.config
        raise InputError(
            f"cannot read {path}: {error}", thing=str(path), hint="podman reads it too"
        ) from None


def _digest(path: Path) -> str | None:
    """Return the SHA-256 of a regular file, None if nothing is there, and for anything else a text that is no
    digest."""
    try:
        return "no plain file" if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return "no plain file"


def _write(path: Path, content: bytes, mode: int) -> None:
    """Replace the file atomically."""
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())
    beside.replace(path)


@contextlib.contextmanager
def _told_as_failure() -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise RefusedError(
            f"cannot change {error.filename}: {error.strerror}",
            thing=str(error.filename),
            hint="run this as root",
        ) from None
    except OSError as error:
        raise FailedError(
            f"cannot write {error.filename}: {error.strerror}",
            thing=str(error.filename),
            hint="free space or repair the file system, and repeat this command",
        ) from None
