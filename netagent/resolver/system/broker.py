"""The resolver process has two parts: the broker keeps the capabilities, the confined part parses what others send.

    broker (root, four capabilities)   ◄── a request: one octet, at most one descriptor ──  the confined part

A few things that answers need cannot be done without rights: a socket in a container's namespace, the host's
resolv.conf, a port below 1024. `fork_broker` forks: the child returns with a `BrokerClient`, gives up every right
(netagent.resolver.system.confinement) and answers queries. The parent is the broker. It reads nothing that comes from
a container or a server, and only does what its caller's table of operations lists; a request chooses one of them, and
has no say in paths, names or options.

The parent is the process that agents know: it listened for their connections, so the kernel names it as their peer,
and it has the lock. The two live and die together, so that agents have one process to watch: the kernel kills the
child when the parent ends (PR_SET_PDEATHSIG, for which the parent needs CAP_KILL), and the parent ends when the child
does. On SIGTERM the parent waits for the child's end first, because a process that takes over must find neither its
sockets nor its tables.

A request is answered within the call: the confined part waits for it, as it would for the system call. A broker that
hangs therefore shows as a process that hangs, which the agent kills and replaces.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import os
import select
import signal
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import trio

MAX_REQUEST_BYTES: Final = 256
"""Bound of one request to the broker; beyond it: refused."""
MAX_ANSWER_BYTES: Final = 128 * 1024
"""Bound of one answer of the broker; beyond it: an error instead. The host's resolv.conf is the longest."""

_MAX_DESCRIPTORS: Final = 2
_END_S: Final = 3.0
"""How long the confined part may take to end before it is killed; agents wait 5 s for both."""
_LOG_BYTES: Final = 64 * 1024
_PR_SET_PDEATHSIG: Final = 1
_STATUS: Final = struct.Struct("=i")
_INTEGER_BYTES: Final = array.array("i").itemsize

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class BrokerAnswer:
    """What an operation returns: octets, and sockets, which are closed once they are sent."""

    payload: bytes = b""
    sockets: tuple[socket.socket, ...] = ()


Operation: TypeAlias = Callable[[bytes, socket.socket | None], BrokerAnswer]
"""Gets the rest of the request's octets and its socket. May raise OSError."""


class BrokerClient:
    """The confined part's end. Calls are made by one thread, one after the other."""

    def __init__(self, channel: socket.socket, parent: int) -> None:
        self._channel = channel
        self.parent = parent

    async def wait_end(self) -> None:
        """Return when the broker wants this process to end."""
        # Answers are read where they are asked for, so nothing but the end is ever left to be read here.
        await trio.lowlevel.wait_readable(self._channel)

    def request(
        self, operation: int, payload: bytes = b"", sock: socket.socket | None = None
    ) -> tuple[bytes, list[socket.socket]]:
        """Have an operation done; return the answer's octets and sockets. Raises the OSError that it ended with."""
        descriptors = array.array("i", [] if sock is None else [sock.fileno()])
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)] if descriptors else []
        self._channel.sendmsg([bytes([operation]), payload], ancillary, socket.MSG_NOSIGNAL)
        data, sockets = _receive(self._channel, MAX_ANSWER_BYTES)
        if len(data) < _STATUS.size:  # the broker has gone, and this process is about to
            raise OSError(errno.EPIPE, os.strerror(errno.EPIPE))
        (status,) = _STATUS.unpack_from(data)
        if status:
            raise OSError(status, os.strerror(status))
        return data[_STATUS.size :], sockets


def fork_broker(
    operations: Mapping[int, Operation], write_log: Callable[[bytes], None] | None
) -> Broker | BrokerClient:
    """Fork: the child gets the client, the parent the broker, which it must `serve`.

    The child's standard error leads to `write_log`, unless that is None. Call it before there is any thread.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reading, writing = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child:
        theirs.close()
        os.close(writing)
        return Broker(child, ours, reading, operations, write_log)
    ours.close()
    os.close(reading)
    if write_log is not None:
        # A full pipe must not stop answers: lines are lost instead.
        os.set_blocking(writing, False)
        os.dup2(writing, 2)
    os.close(writing)
    die_with_parent(parent)
    return BrokerClient(theirs, parent)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when `parent` ends. A change of the user undoes it: call it again then."""
    _libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != parent:  # it ended before the call
        os._exit(1)


class Broker:
    """The parent. `child` is the confined part."""

    def __init__(
        self,
        child: int,
        channel: socket.socket,
        log: int,
        operations: Mapping[int, Operation],
        write_log: Callable[[bytes], None] | None,
    ) -> None:
        self.child = child
        self._channel = channel
        self._log = log
        self._operations = operations
        self._write_log = write_log
        self._terminated = False

    def serve(self) -> int:
        """Serve until the child ends, or SIGTERM; return the status to exit with."""
        signals, wakeup = socket.socketpair()
        wakeup.setblocking(False)
        signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.signal(signal.SIGINT, lambda *_: None)
        waiting = select.poll()
        for number in (self._channel.fileno(), signals.fileno(), self._log):
            waiting.register(number, select.POLLIN)
        while True:
            ready = {number for number, _ in waiting.poll()}
            if signals.fileno() in ready:
                self._terminated = True
                break
            if self._log in ready and not self._take_log():
                waiting.unregister(self._log)
            if self._channel.fileno() in ready and not self._answer_next():
                break
        return self._end()

    def _take_log(self) -> bool:
        data = os.read(self._log, _LOG_BYTES)
        if data and self._write_log is not None:
            self._write_log(data)
        return bool(data)

    def _answer_next(self) -> bool:
        """Answer one request; False: the child has gone."""
        try:
            request, sockets = _receive(self._channel, MAX_REQUEST_BYTES)
            if not request:
                return False
            answer = self._answer_untrusted(request, sockets)
            _send(self._channel, answer)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def _answer_untrusted(self, request: bytes, sockets: list[socket.socket]) -> tuple[int, BrokerAnswer]:
        with contextlib.ExitStack() as given:
            for one in sockets:
                given.enter_context(one)
            operation = self._operations.get(request[0])
            if operation is None or len(request) > MAX_REQUEST_BYTES or len(sockets) > 1:
                return errno.EINVAL, BrokerAnswer()
            try:
                answer = operation(request[1:], sockets[0] if sockets else None)
            except OSError as error:
                return error.errno or errno.EIO, BrokerAnswer()
            if len(answer.payload) > MAX_ANSWER_BYTES - _STATUS.size:
                return errno.EMSGSIZE, BrokerAnswer()
            return 0, answer

    def _end(self) -> int:
        """Wait for the child's end, which the closed channel tells it to come to; return the status."""
        self._channel.close()
        descriptor = os.pidfd_open(self.child)
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        if not waiting.poll(_END_S * 1000):
            return 1  # the kernel kills it as this process exits
        while self._write_log is not None and select.select([self._log], [], [], 0)[0] and self._take_log():
            pass
        _, status = os.waitpid(self.child, 0)
        return 0 if self._terminated else os.waitstatus_to_exitcode(status) & 0xFF


def _send(channel: socket.socket, answer: tuple[int, BrokerAnswer]) -> None:
    status, result = answer
    try:
        descriptors = array.array("i", [one.fileno() for one in result.sockets])
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)] if descriptors else []
        channel.sendmsg([_STATUS.pack(status), result.payload], ancillary, socket.MSG_NOSIGNAL)
    finally:
        # The confined part has the only copy: what ends it also ends the tables that such a socket owns.
        for one in result.sockets:
            one.close()


def _receive(channel: socket.socket, limit: int) -> tuple[bytes, list[socket.socket]]:
    """Return the next message, with one octet too many if it is longer than `limit`, and the sockets in it."""
    room = socket.CMSG_SPACE(_MAX_DESCRIPTORS * _INTEGER_BYTES)
    data, ancillary, _, _ = channel.recvmsg(limit + 1, room, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(content[: len(content) - len(content) % _INTEGER_BYTES])
    sockets = []
    for number in descriptors:
        try:
            sockets.append(socket.socket(fileno=number))
        except OSError:  # not a socket
            os.close(number)
    return data, sockets
