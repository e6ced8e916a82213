"""The route netlink socket under trio.

A plain socket: the kernel handles a request inside `send`, so the replies are there when it returns. Requests go out
at most 64 per `send`, each acknowledged separately: a failing one does not stop the others, and 64 acknowledgements
fit the default receive buffer (512 do not: the kernel does the work, but answers get lost). pyroute2's own sockets
are not used: each runs an asyncio loop, and they fork to enter a namespace.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

import trio

_RTM_DELLINK = 17
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP, _NLM_F_DUMP_INTR = 0x1, 0x4, 0x300, 0x10
_NLM_F_ACK_TLVS = 0x200

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK = 270, 10, 11, 12
_SO_RCVBUFFORCE = 33
_SIOCGIFNAME = 0x8910  # netdevice(7)

# Links, neighbours and FDB, IPv4 and IPv6 addresses and routes: RTMGRP_* of <linux/rtnetlink.h>.
_GROUPS = 0x1 | 0x4 | 0x10 | 0x100 | 0x40 | 0x400

BATCH_MESSAGES = 64
"""Bound of netlink requests in one send; beyond it: the rest goes into the next batch."""
_RECEIVE_BYTES = 1 << 17
_DUMP_ATTEMPTS = 5
_WITHOUT_TURN = 8
"""Conversations, of some 50 us each, until other tasks run."""
_SMALL = 32
"""Objects of a dump that are read without letting other tasks run."""
_NOTIFICATION_BUFFER_BYTES = 1 << 21
"""Bound of notifications unread; beyond it: the kernel drops them, which makes the reconciler read everything."""

HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_INTERFACE = struct.Struct("=16si20x")  # struct ifreq: name, index


class NetlinkRequest(NamedTuple):
    """A message without its header; Netlink numbers it and asks for an acknowledgement."""

    type: int
    flags: int
    body: bytes


class NetlinkMessage(NamedTuple):
    """A message from the kernel without its header."""

    type: int
    body: bytes


def open_socket(protocol: int = socket.NETLINK_ROUTE) -> socket.socket:
    """Open a request socket of the calling thread's namespace (see netns.run_in_netns)."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    sock.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
    sock.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
    sock.bind((0, 0))
    return sock


def open_notification_socket() -> socket.socket:
    """Open a socket for notifications about links, addresses, routes, neighbours and FDB in the calling thread's
    namespace."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _NOTIFICATION_BUFFER_BYTES)
    sock.bind((0, _GROUPS))
    return sock


class Netlink:
    """Requests to the kernel, one conversation at a time. Owns its socket.

    The kernel answers inside `send`, so that an answer of one datagram is there when it returns. Going through trio
    for each step of a conversation would cost more than the conversation, which is much for an idle agent that reads
    a little every second. Other tasks run after every few conversations, and between the datagrams of large answers.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._plain = sock
        self._socket = trio.socket.from_stdlib_socket(sock)
        self._lock = trio.Lock()
        self._sequence = 0
        self._conversations = 0

    def close(self) -> None:
        """Close the socket; later requests raise."""
        self._socket.close()

    async def execute(self, requests: Sequence[NetlinkRequest]) -> list[OSError | None]:
        """Execute all in order; return each one's error, None for success. A failure does not stop later ones."""
        results: list[OSError | None] = []
        async with self._conversation():
            for start in range(0, len(requests), BATCH_MESSAGES):
                if start:
                    await trio.lowlevel.checkpoint()
                results += await self._execute_batch(requests[start : start + BATCH_MESSAGES])
        return results

    async def execute_one(self, request: NetlinkRequest) -> None:
        """Execute one request; raise OSError with the kernel's own message if there is one."""
        (error,) = await self.execute([request])
        if error is not None:
            raise error

    async def dump(self, request: NetlinkRequest, *, strict: bool = False) -> list[NetlinkMessage]:
        """Return all objects of a kind. OSError; EINTR when the tables changed during each of five attempts.

        `strict`: only those that the request describes, such as the routes of a device; ENODEV when there is no such
        device.
        """
        async with self._conversation():
            if not strict:
                return await self._dump(request, is_slow=False)
            self._plain.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
            try:
                return await self._dump(request, is_slow=True)
            finally:
                self._plain.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 0)

    async def _dump(self, request: NetlinkRequest, *, is_slow: bool) -> list[NetlinkMessage]:
        for _ in range(_DUMP_ATTEMPTS):
            messages = await self._dump_once(request, is_slow=is_slow)
            if messages is not None:
                return messages
        raise InterruptedError(errno.EINTR, "the kernel's tables changed during every attempt to read them")

    async def find(self, request: NetlinkRequest) -> NetlinkMessage | None:
        """Return the one object that a request names; None when no object has that name, index or key. OSError."""
        async with self._conversation():
            await self._send(self._framed(request, 0), is_slow=False)
            while True:
                for kind, flags, sequence, body in _split(await self._receive()):
                    if sequence != self._sequence:
                        continue
                    if kind != _NLMSG_ERROR:
                        return NetlinkMessage(kind, body)
                    error = _error_of(body, flags)
                    if error is not None and error.errno not in {errno.ENODEV, errno.ENOENT}:
                        raise error
                    return None

    def has_link(self, index: int) -> bool:
        """Return whether a link exists, without a conversation: works while the kernel handles another. OSError."""
        try:
            fcntl.ioctl(self._plain, _SIOCGIFNAME, _INTERFACE.pack(b"", index))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            return False
        return True

    @asynccontextmanager
    async def _conversation(self) -> AsyncIterator[None]:
        await trio.lowlevel.checkpoint_if_cancelled()
        self._conversations += 1
        if self._lock.locked() or self._conversations % _WITHOUT_TURN == 0:
            await self._lock.acquire()  # lets other tasks run
        else:
            self._lock.acquire_nowait()
        try:
            yield
        finally:
            self._lock.release()

    async def _execute_batch(self, requests: Sequence[NetlinkRequest]) -> list[OSError | None]:
        frames, sequences = [], []
        for request in requests:
            frames.append(self._framed(request, _NLM_F_ACK))
            sequences.append(self._sequence)
        waiting = set(sequences)
        answers: dict[int, OSError | None] = {}
        await self._send(b"".join(frames), is_slow=any(r.type == _RTM_DELLINK for r in requests))
        while waiting:
            for kind, flags, sequence, body in _split(await self._receive()):
                # Others answer a call that was cancelled before it read them.
                if kind == _NLMSG_ERROR and sequence in waiting:
                    waiting.remove(sequence)
                    answers[sequence] = _error_of(body, flags)
        return [answers[sequence] for sequence in sequences]

    async def _receive(self) -> bytes:
        """Receive one datagram, which nearly always waits already."""
        try:
            return self._plain.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return await self._socket.recv(_RECEIVE_BYTES)

    async def _send(self, data: bytes, *, is_slow: bool) -> None:
        """Send in a thread if slow: the kernel does the work inside `send`, and must not block the event loop for
        that long. Removing a link, which waits until no packet uses it any more, takes 17 ms; finding a few routes
        among 200,000 takes 20 ms, because filtered ones fill no answer."""
        if is_slow:
            await trio.to_thread.run_sync(self._plain.send, data)
        else:
            try:
                self._plain.send(data)
            except BlockingIOError:
                await self._socket.send(data)

    async def _dump_once(self, request: NetlinkRequest, *, is_slow: bool) -> list[NetlinkMessage] | None:
        await self._send(self._framed(request, _NLM_F_DUMP), is_slow=is_slow)
        found: list[NetlinkMessage] = []
        consistent = True
        while True:
            # The first datagrams of a small table wait already. A large one has many, each of which is some work.
            data = await (self._receive() if len(found) < _SMALL else self._socket.recv(_RECEIVE_BYTES))
            for kind, flags, sequence, body in _split(data):
                if sequence != self._sequence:
                    continue
                consistent = consistent and not flags & _NLM_F_DUMP_INTR
                if kind in {_NLMSG_ERROR, _NLMSG_DONE}:
                    error = _error_of(body, flags) if body else None
                    if error is not None:
                        raise error
                    return found if consistent else None
                found.append(NetlinkMessage(kind, body))

    def _framed(self, request: NetlinkRequest, flags: int) -> bytes:
        self._sequence = self._sequence % 0xFFFFFFF0 + 1
        length = HEADER.size + len(request.body)
        header = HEADER.pack(length, request.type, request.flags | flags | _NLM_F_REQUEST, self._sequence, 0)
        return header + request.body + bytes(-length % 4)


def split_messages(data: bytes) -> list[NetlinkMessage]:
    """Split a datagram of notifications into messages."""
    return [NetlinkMessage(kind, body) for kind, _flags, _sequence, body in _split(data)]


def _split(data: bytes) -> list[tuple[int, int, int, bytes]]:
    messages = []
    offset = 0
    while offset + HEADER.size <= len(data):
        length, kind, flags, sequence, _port = HEADER.unpack_from(data, offset)
        if length < HEADER.size:
            break
        messages.append((kind, flags, sequence, data[offset + HEADER.size : offset + length]))
        offset += (length + 3) & ~3
    return messages


def _error_of(body: bytes, flags: int) -> OSError | None:
    (code,) = struct.unpack_from("=i", body)
    if code == 0:
        return None
    return OSError(-code, _kernel_words(body, flags) or os.strerror(-code))


def _kernel_words(body: bytes, flags: int) -> str:
    """Return NLMSGERR_ATTR_MSG of an extended acknowledgement, which follows the header: the socket asks for capped
    acknowledgements."""
    offset = 4 + HEADER.size
    if not flags & _NLM_F_ACK_TLVS:
        return ""
    while offset + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, offset)
        if length < 4:
            break
        if kind == 1:
            return body[offset + 4 : offset + length].rstrip(b"\0").decode("utf-8", "replace")
        offset += (length + 3) & ~3
    return ""
