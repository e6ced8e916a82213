"""Programs: load one, and say which program an id means."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from netagent.datapath.bpf.instructions import INSTRUCTION_BYTES
from netagent.datapath.bpf.system_call import Command, bpf

_LICENCE: Final = b"Apache-2.0"
"""No function of the kernel that takes a GPL licence is called."""
_MOST_MAPS: Final = 64
"""Of one program, read at most."""
_INFO_BYTES: Final = 80
"""The size of struct bpf_prog_info up to the name."""
_INFO: Final = struct.Struct("=II8s8x16xQIIQ16s")
"""Kind, id, digest, (sizes and pointers of code), load time, uid of the loader, maps: their number and ids, name."""
_LOG_BYTES: Final = 1 << 16
NAME_BYTES: Final = 15
"""Of a program or map, at most."""


class Kind(IntEnum):
    """enum bpf_prog_type, as far as it is used."""

    SCHED_CLS = 3
    """At a network device; the context is struct __sk_buff."""
    CGROUP_SOCK_ADDR = 18
    """At calls that name a socket address; the context is struct bpf_sock_addr."""


@dataclass(frozen=True, slots=True)
class ProgramTag:
    """What identifies a program: its name and digest."""

    name: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Program:
    """A loaded program, for as long as `fd` is open or it is attached."""

    fd: int
    id: int
    mark: ProgramTag


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """What the kernel tells of a loaded program."""

    id: int
    mark: ProgramTag
    loaded_by: int
    """The user id, in the first user namespace, of the process that loaded it."""
    maps: tuple[int, ...]
    """Ids of the maps that its instructions name."""


def load(kind: Kind, name: str, instructions: bytes, *, place: int = 0) -> Program:
    """Load a program. `place`: where it will be attached (enum bpf_attach_type), for kinds that differ by it.

    OSError with the verifier's last words when it refuses the program.
    """
    try:
        fd = _load(kind, name, instructions, place, None)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EINVAL):
            raise
        log = ctypes.create_string_buffer(_LOG_BYTES)
        try:
            fd = _load(kind, name, instructions, place, log)
        except OSError:
            words = " / ".join(log.value.decode("ascii", "replace").strip().splitlines()[-3:])
            raise OSError(error.errno, f"{error.strerror} ({words})" if words else error.strerror) from error
    info = info_of(fd)
    return Program(fd, info.id, info.mark)


def _load(
    kind: Kind, name: str, instructions: bytes, place: int, log: ctypes.Array[ctypes.c_char] | None
) -> int:
    code, licence = ctypes.create_string_buffer(instructions), ctypes.create_string_buffer(_LICENCE)
    return bpf(
        Command.PROGRAM_LOAD,
        struct.pack(
            "=IIQQIIQII16sII",
            kind,
            len(instructions) // INSTRUCTION_BYTES,
            ctypes.addressof(code),
            ctypes.addressof(licence),
            0 if log is None else 1,
            0 if log is None else len(log),
            0 if log is None else ctypes.addressof(log),
            0, 0,
            name.encode(),
            0,
            place,
        ),
    )  # fmt: skip


def info_of(fd: int) -> ProgramInfo:
    """Return what the kernel knows of an open program."""
    maps = (ctypes.c_uint32 * _MOST_MAPS)()
    asked = _INFO.pack(0, 0, b"", 0, 0, _MOST_MAPS, ctypes.addressof(maps), b"")
    info = ctypes.create_string_buffer(asked, _INFO_BYTES)
    bpf(Command.INFO_BY_FD, struct.pack("=IIQ", fd, _INFO_BYTES, ctypes.addressof(info)))
    _kind, number, digest, _loaded_at, uid, map_count, _maps, name = _INFO.unpack(info.raw)
    mark = ProgramTag(name.rstrip(b"\0").decode("ascii", "replace"), digest)
    return ProgramInfo(number, mark, uid, tuple(maps[: min(map_count, _MOST_MAPS)]))


@contextmanager
def opened(number: int) -> Iterator[int | None]:
    """Open the program with this id for the length of a block; None when it is gone."""
    try:
        fd = bpf(Command.PROGRAM_BY_ID, struct.pack("=III", number, 0, 0))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        yield None
        return
    try:
        yield fd
    finally:
        os.close(fd)


def info_by_id(number: int) -> ProgramInfo | None:
    """Return what the kernel knows of a program by its id; None when it is gone."""
    with opened(number) as fd:
        return None if fd is None else info_of(fd)


def mark_of(number: int) -> ProgramTag | None:
    """Return the tag of a program by its id; None when it is gone."""
    info = info_by_id(number)
    return None if info is None else info.mark
