"""Programs at the sockets of a control group and of all below it, in cgroup v2's tree.

They run inside the calls of programs: connect(2), sendmsg(2) and so on, and may change the address that the call
names. Attached so that programs of others may stand beside them (BPF_F_ALLOW_MULTI), they stay when the process that
attached them ends. A group is named by a descriptor of its folder.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from netagent.datapath.bpf.programs import opened
from netagent.datapath.bpf.system_call import ATTRIBUTE_BYTES, Command, bpf, call

_ALLOW_MULTI, _REPLACE = 1 << 1, 1 << 2
_MAX_PROGRAMS: Final = 64
"""Per hook of a group; the kernel's own limit."""
_QUERY: Final = struct.Struct("=IIIIQI4x")
"""Of bpf_attr: the group, hook, flags of the question, flags of what is attached, programs, how many."""


class Hook(IntEnum):
    """enum bpf_attach_type: the calls at which a program of Kind.CGROUP_SOCK_ADDR may run."""

    CONNECT4 = 10
    CONNECT6 = 11
    SENDMSG4 = 14
    """For UDP sockets that are not connected: each datagram."""
    SENDMSG6 = 15
    RECVMSG4 = 19
    """For UDP sockets, when the program wants to know the sender."""
    RECVMSG6 = 20
    GETPEERNAME4 = 29
    """Linux 5.8."""
    GETPEERNAME6 = 30


@dataclass(frozen=True, slots=True)
class Attached:
    """What is attached to a group itself, at one hook."""

    programs: tuple[int, ...]
    """Ids, in the order in which they run."""
    is_shared: bool
    """False: by a program that lets no other beside it."""


def programs_at(group: int, hook: Hook) -> Attached:
    """Return what is attached there."""
    found = (ctypes.c_uint32 * _MAX_PROGRAMS)()
    question = _QUERY.pack(group, hook, 0, 0, ctypes.addressof(found), _MAX_PROGRAMS)
    attribute = ctypes.create_string_buffer(question, ATTRIBUTE_BYTES)
    call(Command.QUERY, attribute)
    *_, flags, _pointer, count = _QUERY.unpack(attribute.raw[: _QUERY.size])
    return Attached(tuple(found[:count]), count == 0 or bool(flags & _ALLOW_MULTI))


def attach(group: int, hook: Hook, program: int, *, instead_of: int | None = None) -> None:
    """Attach an open program behind all that are there, or in the place of one of them (Linux 5.6): no call sees
    both or neither. OSError EPERM when another program lets none beside it, EBUSY when 64 are there."""
    flags = _ALLOW_MULTI if instead_of is None else _ALLOW_MULTI | _REPLACE
    replaced = 0 if instead_of is None else instead_of
    bpf(Command.ATTACH, struct.pack("=IIIII", group, program, hook, flags, replaced))


def link(group: int, hook: Hook, program: int) -> int:
    """Attach an open program behind all that are there for as long as the descriptor is open that this returns, or a
    copy of it (Linux 5.7). Errors as of `attach`."""
    return bpf(Command.LINK_CREATE, struct.pack("=IIII", program, group, hook, 0))


def detach(group: int, hook: Hook, number: int) -> None:
    """Detach the program with this id; no error when it is not there."""
    with opened(number) as fd:
        if fd is None:
            return
        try:
            bpf(Command.DETACH, struct.pack("=IIII", group, fd, hook, 0))
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
