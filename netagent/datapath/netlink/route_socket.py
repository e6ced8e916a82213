"""The route netlink socket under trio.

A plain socket: the kernel handles a request inside `send`, so the replies are already there when it returns. Requests
go out at most 64 in one `send`, each acknowledged by itself: a failing one does not stop the others, and 64
acknowledgements fit the default receive buffer (512 do not: entries go in, answers are lost). pyroute2's own sockets
are not used: they run an asyncio loop each, and fork to enter a namespace.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Sequence
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
_RECEIVE_BYTES = 1 << 17
_DUMP_ATTEMPTS = 5
_NOTIFICATION_BUFFER_BYTES = 1 << 21

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


def open_socket() -> socket.socket:
    """A request socket of the namespace that the calling thread is in (see netns.run_in_netns)."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    sock.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
    sock.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
    sock.bind((0, 0))
    return sock


def open_notification_socket() -> socket.socket:
    """A socket that hears of changes of links, addresses, routes, neighbours and FDB in the calling thread's
    namespace."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _NOTIFICATION_BUFFER_BYTES)
    sock.bind((0, _GROUPS))
    return sock


class Netlink:
    """Requests to the kernel, one conversation at a time. Owns its socket."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._plain = sock
        self._socket = trio.socket.from_stdlib_socket(sock)
        self._lock = trio.Lock()
        self._sequence = 0

    def close(self) -> None:
        """Close the socket; requests afterwards raise."""
        self._socket.close()

    async def execute(self, requests: Sequence[NetlinkRequest]) -> list[OSError | None]:
        """Do them all in order; the answer of each, None for success. A failure does not stop the ones after it."""
        results: list[OSError | None] = []
        async with self._lock:
            for start in range(0, len(requests), BATCH_MESSAGES):
                results += await self._execute_batch(requests[start : start + BATCH_MESSAGES])
        return results

    async def execute_one(self, request: NetlinkRequest) -> None:
        """Do one request; raises OSError with the kernel's own words where it has some."""
        (error,) = await self.execute([request])
        if error is not None:
            raise error

    async def dump(self, request: NetlinkRequest, *, strict: bool = False) -> list[NetlinkMessage]:
        """All objects of a kind. OSError; EINTR when the kernel's tables changed under every one of five attempts.

        `strict`: only those that the request describes, such as the routes of a device; ENODEV when there is no such
        device.
        """
        async with self._lock:
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
        raise InterruptedError(errno.EINTR, "the kernel's tables changed under every attempt to read them")

    async def find(self, request: NetlinkRequest) -> NetlinkMessage | None:
        """The one object that a request names; None when the kernel has none of that name, index or key. OSError."""
        async with self._lock:
            await self._socket.send(self._framed(request, 0))
            while True:
                for kind, flags, sequence, body in _split(await self._socket.recv(_RECEIVE_BYTES)):
                    if sequence != self._sequence:
                        continue
                    if kind != _NLMSG_ERROR:
                        return NetlinkMessage(kind, body)
                    error = _error_of(body, flags)
                    if error is not None and error.errno not in {errno.ENODEV, errno.ENOENT}:
                        raise error
                    return None

    def has_link(self, index: int) -> bool:
        """Whether a link is there, without a conversation: also while the kernel is at work on another. OSError."""
        try:
            fcntl.ioctl(self._plain, _SIOCGIFNAME, _INTERFACE.pack(b"", index))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            return False
        return True

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
                # Others are answers that a cancelled call did not wait for.
                if kind == _NLMSG_ERROR and sequence in waiting:
                    waiting.remove(sequence)
                    answers[sequence] = _error_of(body, flags)
        return [answers[sequence] for sequence in sequences]

    async def _receive(self) -> bytes:
        """One datagram. Each acknowledgement is one, and nearly always there already: going through trio for each
        would cost more than all the rest."""
        try:
            return self._plain.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return await self._socket.recv(_RECEIVE_BYTES)

    async def _send(self, data: bytes, *, is_slow: bool) -> None:
        """The kernel does what it is asked while it takes the message, and the event loop must not stand still for so
        long: removing a link, which waits until no packet is on its way through it any more, takes 17 ms; finding
        a few routes among 200,000 takes 20 ms, as what is left out fills no answer."""
        if is_slow:
            await trio.to_thread.run_sync(self._plain.send, data)
        else:
            await self._socket.send(data)

    async def _dump_once(self, request: NetlinkRequest, *, is_slow: bool) -> list[NetlinkMessage] | None:
        await self._send(self._framed(request, _NLM_F_DUMP), is_slow=is_slow)
        found: list[NetlinkMessage] = []
        consistent = True
        while True:
            for kind, flags, sequence, body in _split(await self._socket.recv(_RECEIVE_BYTES)):
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
    """The messages of one datagram of notifications."""
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
    """NLMSGERR_ATTR_MSG of an extended acknowledgement; the socket asks for capped ones, so it follows the header."""
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
