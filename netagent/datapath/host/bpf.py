"""Small eBPF programs at network devices, by bpf(2) itself: no compiler, no library, no file.

A program is a few instructions written out here, which the kernel verifies when it loads them. It is attached by TCX
(Linux 6.6), before all others on its side of a device. It stays there when the process that attached it ends, until
the device goes or a program detaches it. It is identified by its name and by the kernel's digest of its instructions,
which are the same for every agent of one release; so an agent recognises a program that an earlier agent left.

All calls are for the network namespace of the calling thread; a device is named by its index. They raise OSError.
Layout: bpf(2), <linux/bpf.h>.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from dataclasses import dataclass
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
"""Numbers of the system call, for which libc has no function."""
_LOAD, _ATTACH, _DETACH, _FD_BY_ID, _INFO_BY_FD, _QUERY = 5, 8, 9, 13, 15, 16
_SCHED_CLS: Final = 3
_BEFORE: Final = 1 << 3
_LICENCE: Final = b"Apache-2.0"
_MAX_PROGRAMS: Final = 64
"""Per side of a device; the kernel's own limit."""
_ATTRIBUTE_BYTES: Final = 128
"""The kernel accepts a longer structure than it knows, if the rest is zero."""
_INFO_BYTES: Final = 80
"""The size of struct bpf_prog_info up to the name."""
_INFO: Final = struct.Struct("=II8s48x16s")  # type, id, digest, name
_INSTRUCTION: Final = struct.Struct("=BBhi")

_libc = ctypes.CDLL(None, use_errno=True)


class Side(IntEnum):
    """The side of a device: BPF_TCX_INGRESS and BPF_TCX_EGRESS."""

    INGRESS = 46
    EGRESS = 47


@dataclass(frozen=True, slots=True)
class ProgramTag:
    """What identifies a program: its name and digest."""

    name: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Program:
    """A loaded program. `fd` is never closed: there is one for the life of the process."""

    fd: int
    id: int
    mark: ProgramTag


def instruction(code: int, to: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    """Encode one instruction (RFC 9669): operation, destination and source register, offset, immediate value."""
    return _INSTRUCTION.pack(code, to | source << 4, offset, value)


def load(name: str, instructions: bytes) -> Program:
    """Load a program into the kernel."""
    code, licence = ctypes.create_string_buffer(instructions), ctypes.create_string_buffer(_LICENCE)
    attribute = struct.pack(
        "=IIQQIIQII16s",
        _SCHED_CLS,
        len(instructions) // _INSTRUCTION.size,
        ctypes.addressof(code),
        ctypes.addressof(licence),
        0, 0, 0, 0, 0,
        name.encode(),
    )  # fmt: skip
    fd = _bpf(_LOAD, attribute)
    number, mark = _info(fd)
    return Program(fd, number, mark)


def mark_of(number: int) -> ProgramTag | None:
    """Return the tag of a program by its id; None when it is gone."""
    try:
        fd = _bpf(_FD_BY_ID, struct.pack("=III", number, 0, 0))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    try:
        return _info(fd)[1]
    finally:
        os.close(fd)


def programs_at(index: int, side: Side) -> list[int]:
    """Return the ids of all programs there, in their order."""
    found = (ctypes.c_uint32 * _MAX_PROGRAMS)()
    _bpf(_QUERY, struct.pack("=IIIIQI", index, side, 0, 0, ctypes.addressof(found), _MAX_PROGRAMS))
    return [number for number in found if number]


def attach(index: int, side: Side, program: Program) -> None:
    """Attach it there, before all others."""
    _bpf(_ATTACH, struct.pack("=IIIIIIQ", index, program.fd, side, _BEFORE, 0, 0, 0))


def detach(index: int, side: Side, number: int) -> None:
    """Detach the program with this id; no error when it is not there."""
    try:
        fd = _bpf(_FD_BY_ID, struct.pack("=III", number, 0, 0))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return
        raise
    try:
        _bpf(_DETACH, struct.pack("=IIIIIIQ", index, fd, side, 0, 0, 0, 0))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
    finally:
        os.close(fd)


def _info(fd: int) -> tuple[int, ProgramTag]:
    info = ctypes.create_string_buffer(_INFO_BYTES)
    _bpf(_INFO_BY_FD, struct.pack("=IIQ", fd, _INFO_BYTES, ctypes.addressof(info)))
    _type, number, digest, name = _INFO.unpack(info.raw)
    return number, ProgramTag(name.rstrip(b"\0").decode("ascii", "replace"), digest)


def _bpf(command: int, attribute: bytes) -> int:
    number = _NUMBERS.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"bpf(2) is not supported on {platform.machine()}")
    buffer = ctypes.create_string_buffer(attribute, _ATTRIBUTE_BYTES)
    result: int = _libc.syscall(number, command, buffer, _ATTRIBUTE_BYTES)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
