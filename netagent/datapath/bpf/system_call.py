"""bpf(2), for which libc has no function. Layout: bpf(2), union bpf_attr of <linux/bpf.h>."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from enum import IntEnum
from typing import Final

_NUMBERS: Final = {
    "x86_64": 321,
    "aarch64": 280,
    "riscv64": 280,
    "loongarch64": 280,
    "armv7l": 386,
    "ppc64le": 361,
    "s390x": 351,
}
"""Numbers of the system call."""
_NUMBER: Final = _NUMBERS.get(platform.machine())
ATTRIBUTE_BYTES: Final = 128
"""The kernel accepts a longer structure than it knows, if the rest is zero."""

_libc = ctypes.CDLL(None, use_errno=True)


class Command(IntEnum):
    """enum bpf_cmd, as far as it is used."""

    MAP_CREATE = 0
    MAP_LOOKUP = 1
    MAP_UPDATE = 2
    MAP_DELETE = 3
    PROGRAM_LOAD = 5
    ATTACH = 8
    DETACH = 9
    PROGRAM_TEST_RUN = 10
    PROGRAM_BY_ID = 13
    MAP_BY_ID = 14
    INFO_BY_FD = 15
    QUERY = 16
    BTF_LOAD = 18
    MAP_LOOKUP_BATCH = 24
    LINK_CREATE = 28


def bpf(command: Command, attribute: bytes) -> int:
    """Call the kernel; return what it returns: a file descriptor, or 0."""
    return call(command, ctypes.create_string_buffer(attribute, ATTRIBUTE_BYTES))


def call(command: Command, attribute: ctypes.Array[ctypes.c_char]) -> int:
    """Do the same with a structure that the kernel may write into."""
    if _NUMBER is None:
        raise OSError(errno.ENOSYS, f"bpf(2) is not supported on {platform.machine()}")
    result: int = _libc.syscall(_NUMBER, command, attribute, len(attribute))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
