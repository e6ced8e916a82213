"""Programs at network devices: TCX (Linux 6.6), before all others on their side of a device.

Such a program stays until the device goes or a program detaches it. All calls are for the network namespace of the
calling thread; a device is named by its index.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from enum import IntEnum
from typing import Final

from netagent.datapath.bpf.programs import Program, opened
from netagent.datapath.bpf.system_call import Command, bpf

_BEFORE: Final = 1 << 3
_MAX_PROGRAMS: Final = 64
"""Per side of a device; the kernel's own limit."""


class Side(IntEnum):
    """The side of a device: BPF_TCX_INGRESS and BPF_TCX_EGRESS."""

    INGRESS = 46
    EGRESS = 47


def programs_at(index: int, side: Side) -> list[int]:
    """Return the ids of all programs there, in their order."""
    found = (ctypes.c_uint32 * _MAX_PROGRAMS)()
    bpf(Command.QUERY, struct.pack("=IIIIQI", index, side, 0, 0, ctypes.addressof(found), _MAX_PROGRAMS))
    return [number for number in found if number]


def attach(index: int, side: Side, program: Program) -> None:
    """Attach it there, before all others."""
    bpf(Command.ATTACH, struct.pack("=IIIIIIQ", index, program.fd, side, _BEFORE, 0, 0, 0))


def detach(index: int, side: Side, number: int) -> None:
    """Detach the program with this id; no error when it is not there."""
    with opened(number) as fd:
        if fd is None:
            return
        try:
            bpf(Command.DETACH, struct.pack("=IIIIIIQ", index, fd, side, 0, 0, 0, 0))
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
