"""Programs at network devices on kernels before TCX: filters of traffic control, at the queueing discipline `clsact`.

As with TCX, a program stays until the device goes or a program detaches it, and comes before the filters that are
there. One that returns -1 lets the next one decide. The discipline itself stays when a filter goes: other programs
may have filters there, and it costs nothing without any.

Another program may have put the older discipline `ingress` there. It has no side for what leaves, takes filters for
that side among those for what arrives, and cannot be replaced without losing the filters of that program. So while it
is there, programs for what leaves are refused.

A filter of an old kernel says no program by descriptor, so filters are read as a list, and each is deleted by what
names it there: its priority, protocol and handle. All calls are for the network namespace of the calling thread; a
device is named by its index. They block for as long as the kernel needs, and no longer: it answers inside `send`.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from netagent.datapath.bpf.programs import Program
from netagent.datapath.bpf.tcx import Side

_NEW_QDISC, _GET_QDISC, _NEW_FILTER, _DELETE_FILTER, _GET_FILTER = 36, 38, 44, 45, 46
_REQUEST, _ACK, _ECHO, _EXCLUSIVE, _CREATE, _DUMP = 0x1, 0x4, 0x8, 0x200, 0x400, 0x300
_ERROR, _DONE = 2, 3
_HEADER: Final = struct.Struct("=IHHII")  # struct nlmsghdr
_BODY: Final = struct.Struct("=BxxxiIII")  # struct tcmsg: family, index, handle, parent, info
_ATTRIBUTE: Final = struct.Struct("=HH")

_AT_DEVICE: Final = 0xFFFFFFF1
_HANDLE: Final = 0xFFFF0000
_PARENTS: Final = {Side.INGRESS: 0xFFFFFFF2, Side.EGRESS: 0xFFFFFFF3}
_ANY_PROTOCOL: Final = socket.htons(0x0003)
"""Without a priority, which is the upper half of this field, the kernel chooses one before all that are there."""

_KIND, _OPTIONS = 1, 2
_FD, _NAME, _FLAGS, _ID = 6, 7, 8, 11
_DIRECT: Final = 1
"""The program's own answer decides."""
_RECEIVE_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class _Filter:
    program: int
    handle: int
    info: int


def programs_at(index: int, side: Side) -> list[int]:
    """Return the ids of all programs there, in their order."""
    return [one.program for one in _filters(index, side)]


def attach(index: int, side: Side, program: Program) -> None:
    """Attach it there, before all others. EOPNOTSUPP when the kernel has no `clsact`, or no programs as filters;
    EBUSY for what leaves, while another program's `ingress` is there."""
    try:
        _attach(index, side, program)
    except FileNotFoundError as error:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP)) from error


def _attach(index: int, side: Side, program: Program) -> None:
    with suppress(FileExistsError):
        _ask(_NEW_QDISC, _CREATE | _EXCLUSIVE, _body(index, _HANDLE, _AT_DEVICE, 0) + _kind("clsact"))
    if not _has_side(index, side):
        raise OSError(errno.EBUSY, "another program's qdisc ingress is there")
    options = (
        _attribute(_FD, struct.pack("=I", program.fd))
        + _attribute(_NAME, program.mark.name.encode() + b"\0")
        + _attribute(_FLAGS, struct.pack("=I", _DIRECT))
    )
    body = _body(index, 0, _PARENTS[side], _ANY_PROTOCOL) + _kind("bpf") + _attribute(_OPTIONS, options)
    _ask(_NEW_FILTER, _CREATE | _EXCLUSIVE, body)


def detach(index: int, side: Side, number: int) -> None:
    """Detach the program with this id; no error when it is not there."""
    for one in _filters(index, side):
        if one.program == number:
            with suppress(FileNotFoundError):
                _ask(_DELETE_FILTER, 0, _body(index, one.handle, _PARENTS[side], one.info) + _kind("bpf"))


def _filters(index: int, side: Side) -> list[_Filter]:
    try:
        socket.if_indextoname(index)
    except OSError as error:
        # The kernel has no filters to tell of a device that is gone, and no error.
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV)) from error
    found: list[_Filter] = []
    if not _has_side(index, side):
        return found
    for body in _ask(_GET_FILTER, _DUMP, _body(index, 0, _PARENTS[side], 0)):
        _family, _index, handle, _parent, info = _BODY.unpack_from(body)
        attributes = dict(_attributes(body[_BODY.size :]))
        if attributes.get(_KIND) == b"bpf\0" and handle:
            options = dict(_attributes(attributes.get(_OPTIONS, b"")))
            if len(options.get(_ID, b"")) == 4:
                found.append(_Filter(struct.unpack("=I", options[_ID])[0], handle, info))
    return found


def _has_side(index: int, side: Side) -> bool:
    """Return False for the one that a discipline `ingress` lacks."""
    if side is Side.INGRESS:
        return True
    try:
        answers = _ask(_GET_QDISC, _ECHO, _body(index, _HANDLE, 0, 0))
    except FileNotFoundError:
        return True
    return not any(dict(_attributes(body[_BODY.size :])).get(_KIND) == b"ingress\0" for body in answers)


def _ask(kind: int, flags: int, body: bytes) -> list[bytes]:
    """Send a request; return the bodies of what the kernel tells in return. OSError."""
    bodies: list[bytes] = []
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
    ) as sock:
        sock.bind((0, 0))
        sock.send(_HEADER.pack(_HEADER.size + len(body), kind, flags | _REQUEST | _ACK, 1, 0) + body)
        while True:
            data = sock.recv(_RECEIVE_BYTES)
            at = 0
            while at + _HEADER.size <= len(data):
                length, answer, _flags, _sequence, _port = _HEADER.unpack_from(data, at)
                content = data[at + _HEADER.size : at + length]
                at += (length + 3) & ~3
                if answer in {_ERROR, _DONE}:
                    code = struct.unpack_from("=i", content)[0] if content else 0
                    if code:
                        raise OSError(-code, os.strerror(-code))
                    return bodies
                bodies.append(content)


def _body(index: int, handle: int, parent: int, info: int) -> bytes:
    return _BODY.pack(socket.AF_UNSPEC, index, handle, parent, info)


def _kind(name: str) -> bytes:
    return _attribute(_KIND, name.encode() + b"\0")


def _attribute(kind: int, content: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(content)
    return _ATTRIBUTE.pack(length, kind) + content + bytes(-length % 4)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind & 0x3FFF, data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
