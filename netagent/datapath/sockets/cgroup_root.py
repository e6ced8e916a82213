"""The root of cgroup v2's tree, which the programs are attached to.

Every process of the host is below it, also on hosts whose controllers are of version 1, and whether or not the tree
is mounted. Several mounts may show parts of it; the one that shows most is taken: in a container with the host's
/sys/fs/cgroup that is the host's mount. Where there is none, the kernel makes a mount that has no place and goes with
its descriptor. In a cgroup namespace of its own an agent sees no further than that namespace's root: right for a host
that is a container itself, and wrong for an agent in a container, which therefore needs the host's mount.
"""

from __future__ import annotations

import ctypes
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_KIND: Final = "cgroup2"
# The numbers are the same on all architectures that netagent runs on.
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_CLOEXEC, _CREATE = 1, 6

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class CgroupMount:
    """A mount of cgroup v2's tree."""

    root: str
    """What it shows, as seen from our cgroup namespace: `/`, `/../..` above it, `/system.slice` a part."""
    mount_point: str
    device: int


def open_cgroup_root() -> int:
    """Open the folder that is the root of cgroup v2's tree; the caller closes the descriptor. OSError."""
    for mount in cgroup_mounts(Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")):
        fd = os.open(mount.mount_point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if os.fstat(fd).st_dev == mount.device:
            return fd
        os.close(fd)  # something else is mounted over it
    return _open_new_mount()


def cgroup_mounts(mountinfo: str) -> list[CgroupMount]:
    """Return those mounts that show all that we can see, the highest first. Format: proc_pid_mountinfo(5)."""
    found = []
    for line in mountinfo.splitlines():
        first, _separator, second = line.partition(" - ")
        if second.split(" ", 1)[0] != _KIND:
            continue
        _number, _parent, device, root, mount_point, *_ = first.split(" ")
        if root.removesuffix("/").replace("/..", "") == "":
            major, minor = map(int, device.split(":"))
            found.append(CgroupMount(root, _unescape(mount_point), os.makedev(major, minor)))
    return sorted(found, key=lambda mount: -mount.root.count(".."))


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
