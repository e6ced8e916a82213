"""The root of cgroup v2's tree, which the programs are attached to.

Every process of the host is below it, also on hosts whose controllers are of version 1, and whether or not the tree
is mounted. Several mounts may show parts of it, to us and to process 1; the one that shows most is taken. So an agent
in a container with a control group namespace of its own finds the host's root, if it shares the host's processes.
Where there is no mount, the kernel makes one that has no place and goes with its descriptor. A host that is a
container itself ends at the root of its namespace, and so does what it can attach to.
"""

from __future__ import annotations

import ctypes
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from netagent.errors import FailedError

_KIND: Final = "cgroup2"
# The numbers are the same on all architectures that netagent runs on.
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_CLOEXEC, _CREATE = 1, 6

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class CgroupMount:
    """A mount of cgroup v2's tree."""

    root: str
    """What it shows, as seen from our cgroup namespace: `/`, `/../..` above it."""
    path: str
    device: int


def open_cgroup_root() -> int:
    """Open the folder that is the root of cgroup v2's tree; the caller closes the descriptor. OSError,
    FailedError."""
    mounts = cgroup_mounts(_text("/proc/self/mountinfo"))
    mounts += cgroup_mounts(_text("/proc/1/mountinfo"), below="/proc/1/root")
    height_needed = _height(_cgroup_of(_text("/proc/1/cgroup")))
    for mount in sorted(mounts, key=lambda one: -_height(one.root)):
        if _height(mount.root) < height_needed:
            break
        try:
            fd = os.open(mount.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
        if os.fstat(fd).st_dev == mount.device:
            return fd
        os.close(fd)  # something else is mounted over it
    if height_needed:
        raise FailedError(
            "the root of the host's control groups is not visible from this container",
            code="no-cgroup-root",
            hint="start it with --cgroupns=host",
        )
    return _open_new_mount()


def cgroup_mounts(mountinfo: str, below: str = "") -> list[CgroupMount]:
    """Return those mounts that show all that we can see, or more. Format: proc_pid_mountinfo(5)."""
    found = []
    for line in mountinfo.splitlines():
        first, _separator, second = line.partition(" - ")
        if second.split(" ", 1)[0] != _KIND:
            continue
        _number, _parent, device, root, mount_point, *_ = first.split(" ")
        if not root.removesuffix("/").replace("/..", ""):
            major, minor = map(int, device.split(":"))
            found.append(CgroupMount(root, below + _unescape(mount_point), os.makedev(major, minor)))
    return found


def _height(path: str) -> int:
    """Return how far above the root of our cgroup namespace a group is."""
    return path.split("/").count("..")


def _cgroup_of(text: str) -> str:
    """Return the group of a process in version 2's tree: of `/proc/PID/cgroup`, the line of hierarchy 0."""
    return next((line.removeprefix("0::") for line in text.splitlines() if line.startswith("0::")), "/")


def _text(file: str) -> str:
    try:
        return Path(file).read_text("utf-8", "surrogateescape")
    except OSError:
        return ""


def _unescape(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def _open_new_mount() -> int:
    context = _call(_FSOPEN, _KIND.encode(), _CLOEXEC)
    try:
        _call(_FSCONFIG, context, _CREATE, None, None, 0)
        mount = _call(_FSMOUNT, context, _CLOEXEC, 0)
    finally:
        os.close(context)
    try:
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mount)
    finally:
        os.close(mount)


def _call(number: int, *arguments: object) -> int:
    result: int = _libc.syscall(number, *arguments)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
