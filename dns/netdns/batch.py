"""Many datagrams per system call: recvmmsg(2) and sendmmsg(2), by ctypes.

`socket.recvfrom` converts each peer's address to text, and `socket.sendto` converts it back, which takes longer than
finding a finished answer. Here an answer is written over its query, behind the id, and goes to the address that the
kernel has stored beside it, which is never decoded.

One batch serves all IPv4 sockets of a thread, because none of its contents are needed any more when anything waits.
IPv6 sockets, and machines whose C library lacks these calls, are served one datagram at a time.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from typing import Final

SIZE: Final = 64
"""Bound of queries read from a socket at once; those that do not fit into the client's turn wait for its next one;
beyond it: the rest waits in the kernel's buffer, which drops."""
DATAGRAM_BYTES: Final = 4096
"""No query is longer: the rest is cut off, and the query is then malformed."""
_STRIDE_BYTES: Final = DATAGRAM_BYTES + 128
"""Distance between datagrams. With a power of two, their first octets would compete for few lines of the cache."""
_NAME_BYTES: Final = 16
"""A sockaddr_in: family, port, address, and eight unused octets."""


class _Vector(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


class _Message(ctypes.Structure):
    """struct msghdr."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_bytes", ctypes.c_uint),
        ("vectors", ctypes.c_void_p),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_bytes", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Header(ctypes.Structure):
    """struct mmsghdr."""

    _fields_ = (("message", _Message), ("length", ctypes.c_uint))


class Batch:
    """Up to SIZE datagrams, received and answered in place.

    `slots` are the datagrams' buffers; `reply_bytes` holds how many octets of each to send.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        """Use the calls of a C library. Raises AttributeError if it lacks them."""
        self._receive_many = library.recvmmsg
        self._receive_many.argtypes = (
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_uint,
            ctypes.c_int,
            ctypes.c_void_p,
        )
        self._send_many = library.sendmmsg
        self._send_many.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
        data = (ctypes.c_char * (SIZE * _STRIDE_BYTES))()
        names = (ctypes.c_char * (SIZE * _NAME_BYTES))()
        # The first half of both is for receiving, the second for sending: they share octets and addresses.
        vectors = (_Vector * (2 * SIZE))()
        headers = (_Header * (2 * SIZE))()
        for index in range(2 * SIZE):
            slot = index % SIZE
            vectors[index].base = ctypes.addressof(data) + slot * _STRIDE_BYTES
            vectors[index].size = DATAGRAM_BYTES
            message = headers[index].message
            message.name = ctypes.addressof(names) + slot * _NAME_BYTES
            message.name_bytes = _NAME_BYTES
            message.vectors = ctypes.addressof(vectors[index])
            message.vector_count = 1
        self._kept = (data, names, vectors, headers)
        """Memory whose addresses the kernel has, referenced here so that it is not freed."""
        self._names = memoryview(names).cast("B")
        self._received = ctypes.addressof(headers)
        self._to_send = self._received + SIZE * ctypes.sizeof(_Header)
        words = memoryview(headers).cast("B").cast("I")
        stride = ctypes.sizeof(_Header) // ctypes.sizeof(ctypes.c_uint)
        self._lengths = words[_Header.length.offset // ctypes.sizeof(ctypes.c_uint) : SIZE * stride : stride]
        octets = memoryview(data).cast("B")
        starts = range(0, SIZE * _STRIDE_BYTES, _STRIDE_BYTES)
        self.slots = [octets[start : start + DATAGRAM_BYTES] for start in starts]
        sizes = memoryview(vectors).cast("B").cast("L")  # base and size in turn, both as long as a long
        self.reply_bytes = sizes[2 * SIZE + 1 :: 2]

    def receive(self, descriptor: int) -> list[int]:
        """Receive what is there, and return the length of each datagram. Never waits. Raises OSError."""
        count = self._receive_many(descriptor, self._received, SIZE, socket.MSG_DONTWAIT, None)
        if count < 0:
            code = ctypes.get_errno()
            if code in {errno.EAGAIN, errno.EINTR}:
                return []
            raise OSError(code, os.strerror(code))
        return self._lengths[:count].tolist()

    def send(self, descriptor: int, first: int, end: int) -> int:
        """Send the contents of the slots from `first` up to `end`, each to its sender. Never waits.

        Returns how many could not be sent. They are lost: a full buffer or a peer that is gone is no reason to wait.
        """
        failed = 0
        while first < end:
            address = self._to_send + first * ctypes.sizeof(_Header)
            count = self._send_many(descriptor, address, end - first, socket.MSG_DONTWAIT)
            if count <= 0:  # the first of them is at fault, and the others have not been tried
                failed += 1
                count = 1
            first += count
        return failed

    def peer(self, index: int) -> tuple[str, int]:
        """Return a datagram's sender, as `socket.recvfrom` does."""
        name = bytes(self._names[index * _NAME_BYTES : (index + 1) * _NAME_BYTES])
        return socket.inet_ntop(socket.AF_INET, name[4:8]), int.from_bytes(name[2:4], "big")


def open_batch() -> Batch | None:
    """Return a batch; None if the C library lacks these calls."""
    try:
        return Batch(ctypes.CDLL(None, use_errno=True))
    except (AttributeError, OSError, TypeError):  # the last two where there is no such library at all
        return None
