"""The few messages that we send to nf_tables: a transaction, a dump, and the ruleset's generation number.

The messages are those of <linux/netfilter/nf_tables.h>; attribute numbers are written in the calls. The kernel
handles a request inside `send`, so nothing here waits.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

NEWTABLE, GETTABLE, DELTABLE, NEWCHAIN, GETCHAIN, NEWRULE, GETRULE = 0, 1, 2, 3, 4, 6, 7
NEWSETELEM, GETSETELEM, DELSETELEM, GETOBJ = 12, 13, 14, 19
FAMILY_INET, FAMILY_NETDEV, FAMILY_BRIDGE = 1, 5, 7  # <linux/netfilter.h>; `ip` is AF_INET
_REMOVALS: Final = {DELTABLE, DELSETELEM}
TABLES: Final = 10
"""The subsystem of netfilter, in the upper half of a message's number (NFNL_SUBSYS_NFTABLES)."""
EXCLUSIVE, APPEND = 0x200, 0x800  # NLM_F_EXCL, NLM_F_APPEND
TABLE_F_OWNER, TABLE_F_PERSIST = 0x2, 0x4

_NETLINK_NETFILTER: Final = 12
_HEADER: Final = struct.Struct("=IHHII")  # struct nlmsghdr
_FAMILY_BYTES: Final = 4  # struct nfgenmsg
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_CREATE = 0x1, 0x4, 0x400
_NLM_F_DUMP, _NLM_F_DUMP_INTR = 0x300, 0x10
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NEWGEN, _GETGEN = 15, 16
_NESTED: Final = 0x8000
_RECEIVE_BYTES: Final = 1 << 16


class NftMessage(NamedTuple):
    """One message of a transaction."""

    kind: int
    flags: int
    attributes: bytes
    family: int = socket.AF_INET


def open_socket() -> socket.socket:
    """Open a socket for the ruleset of the calling thread's namespace."""
    sock = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, _NETLINK_NETFILTER
    )
    try:
        sock.bind((0, 0))
    except OSError:
        sock.close()
        raise
    return sock


def commit(sock: socket.socket, changes: Sequence[NftMessage]) -> None:
    """Make all changes or none. Raises OSError with the kernel's reason."""
    if not changes:
        return
    border = struct.pack("=BBH", socket.AF_UNSPEC, 0, socket.htons(TABLES))
    frames = [_frame(_BATCH_BEGIN, 0, border)]
    for change in changes:
        flags = change.flags | _NLM_F_ACK | (0 if change.kind in _REMOVALS else _NLM_F_CREATE)
        family = struct.pack("=BBH", change.family, 0, 0)
        frames.append(_frame(TABLES << 8 | change.kind, flags, family + change.attributes))
    frames.append(_frame(_BATCH_END, 0, border))
    sock.send(b"".join(frames))
    # One answer per change, or at least one when the whole transaction was refused.
    codes = [-struct.unpack_from("=i", body)[0] for kind, _, body in _received(sock) if kind == _NLMSG_ERROR]
    code = next((code for code in codes if code), 0 if len(codes) >= len(changes) else errno.EIO)
    if code:
        raise OSError(code, f"nf_tables: {os.strerror(code)}")


def generation(sock: socket.socket) -> int:
    """Return the number that every change of the namespace's ruleset raises. OSError when the kernel does not say."""
    sock.send(_frame(TABLES << 8 | _GETGEN, 0, struct.pack("=BBH", socket.AF_UNSPEC, 0, 0)))
    for kind, _, body in _received(sock):
        if kind == TABLES << 8 | _NEWGEN:  # its first attribute is the number
            (found,) = struct.unpack_from("!I", body, _FAMILY_BYTES + 4)
            return int(found)
    raise OSError(errno.EIO, "nf_tables: no generation")


def dump(sock: socket.socket, kind: int, family: int, attributes: bytes) -> list[bytes]:
    """Return the attributes of each object of a kind (GETRULE, …) that the request selects, in order.

    OSError with the kernel's reason (ENOENT: no such table or set); EINTR when the ruleset changed in the meantime.
    """
    header = struct.pack("=BBH", family, 0, 0)
    sock.send(_frame(TABLES << 8 | kind, _NLM_F_DUMP, header + attributes))
    found, code, is_done = [], 0, False
    for answer, flags, body in _received(sock):
        if flags & _NLM_F_DUMP_INTR:
            code = errno.EINTR
        if answer in {_NLMSG_ERROR, _NLMSG_DONE}:
            is_done = True
            code = code or -struct.unpack_from("=i", body)[0]
        else:
            found.append(body[_FAMILY_BYTES:])
    if code or not is_done:
        code = code or errno.EIO
        raise OSError(code, f"nf_tables: {os.strerror(code)}")
    return found


def exchange(
    sock: socket.socket, kind: int, flags: int, family: int, attributes: bytes
) -> list[tuple[int, bytes]]:
    """Send a message of any subsystem of netfilter; return (kind, body) of each reply."""
    sock.send(_frame(kind, flags, struct.pack("=BBH", family, 0, 0) + attributes))
    return [(answer, body) for answer, _, body in _received(sock)]


def split_attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (number, value) of each attribute, without the flags in the number."""
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4:
            return
        yield kind & 0x3FFF, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def expression(name: str, data: bytes) -> bytes:
    """Encode an expression of a rule."""
    return nest(1, text(1, name) + nest(2, data))


def attribute(kind: int, value: bytes) -> bytes:
    """Encode an attribute of raw octets."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def nest(kind: int, value: bytes) -> bytes:
    """Encode a nested attribute."""
    return attribute(kind | _NESTED, value)


def text(kind: int, value: str) -> bytes:
    """Encode a zero-terminated string."""
    return attribute(kind, value.encode() + b"\0")


def number(kind: int, value: int) -> bytes:
    """Encode 32 bits, in network order."""
    return attribute(kind, value.to_bytes(4, "big"))


def _frame(kind: int, flags: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags | _NLM_F_REQUEST, 0, 0) + body


def _received(sock: socket.socket) -> Iterator[tuple[int, int, bytes]]:
    """Yield (kind, flags, body) of each message that waits in the socket."""
    while True:
        try:
            data = sock.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        offset = 0
        while offset + _HEADER.size + 4 <= len(data):
            length, kind, flags, *_ = _HEADER.unpack_from(data, offset)
            yield kind, flags, data[offset + _HEADER.size : offset + length]
            offset += max((length + 3) & ~3, _HEADER.size)
