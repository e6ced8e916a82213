"""Facts read per container: the processes in its namespace, its health log, its resolv.conf.

`/proc/PID/ns/net` of a process that has ended, even of a zombie, cannot be resolved; for a reused pid it is another
namespace. So one stat(2) reliably tells whether the process still runs in the same namespace.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from netagent.errors import InputError
from netagent.integrations.podman.health import MAX_LOG_BYTES, health_untrusted
from netagent.model.records import Health

SYSTEMD = Path("/run/systemd/system")
PROC = Path("/proc")


def lives(pid: int, namespace: tuple[int, int]) -> bool:
    """True while the process is in the namespace with this device and inode."""
    return _namespace_of(PROC / str(pid)) == namespace


def inhabited(namespaces: Mapping[str, tuple[int, int]]) -> set[str]:
    """Return those of the given container ids that have a process in their namespace, or one with the id among its
    arguments. Reads all of /proc, 10 µs per process: not for the event loop."""
    found: set[str] = set()
    ids = {one.encode(): one for one in namespaces}
    for folder in PROC.iterdir():
        if not folder.name.isdigit():
            continue
        namespace = _namespace_of(folder)
        found.update(one for one, wanted in namespaces.items() if wanted == namespace)
        try:
            arguments = (folder / "cmdline").read_bytes()
        except OSError:
            continue  # ended meanwhile
        found.update(text for one, text in ids.items() if one in arguments)
    return found


def _namespace_of(folder: Path) -> tuple[int, int] | None:
    try:
        status = (folder / "ns" / "net").stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def changed_at(path: str) -> int:
    """Return the time of the last change of a file or folder, in ns; 0 if it does not exist."""
    try:
        return Path(path).stat().st_mtime_ns
    except OSError:
        return 0


def has_timers() -> bool:
    """True if systemd runs on this host, whose timers run Podman's health checks."""
    return SYSTEMD.is_dir()


def read_health(
    known: dict[str, tuple[int, Health]], path: str, unwritten: Health = Health.UNKNOWN
) -> Health:
    """Return the health in the log at `path`, from `known` if it is unchanged; `unwritten` while there is none."""
    written_at = changed_at(path)
    before, health = known.get(path, (0, unwritten))
    if written_at == before:
        return health
    if not written_at:
        known.pop(path)
        return unwritten
    try:
        with _opened_file(path) as file:
            health = health_untrusted(file.read(MAX_LOG_BYTES))
    except (OSError, InputError):
        return health  # Podman is writing it: the next check reads it
    known[path] = written_at, health
    return health


def _opened_file(path: str) -> BinaryIO:
    """Open a regular file without blocking: other users may be able to create a FIFO of that name. Else OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a file", path)
    return os.fdopen(descriptor, "rb")


def ensure_nameserver(path: str, address: str) -> None:
    """Add a line for `address` to a resolv.conf without any server. Write in place: the container has the file
    mounted. A file that cannot be read or written stays as it is."""
    with contextlib.suppress(OSError, UnicodeDecodeError), Path(path).open("r+") as file:
        text = file.read(MAX_LOG_BYTES)
        if not any(line.split()[:1] == ["nameserver"] for line in text.splitlines()):
            file.write(f"nameserver {address}\n" if text.endswith("\n") else f"\nnameserver {address}\n")
