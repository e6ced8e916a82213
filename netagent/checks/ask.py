"""Asks checks by TCP and HTTP, from inside the container's namespace and at the endpoint's own addresses only.

A thread visits the namespaces of all checks that are due (netagent.datapath.endpoint.netns): it makes each socket,
connects it, sends the request, and reads what most servers have answered a moment later. A connection to an address
of one's own namespace is decided within the call that opens it, so a refusal by IPv4 is known before IPv6 is tried.
The event loop waits for slow servers. No redirect is followed; bytes, pieces and time of an answer are bounded. By
TLS the container's program also chooses the arithmetic that the event loop does: with a group of 10,000 bits an
exchange of keys takes seconds, so only elliptic curves are offered.

A check that could not be asked, because this host lacks memory or files, or because the namespace is gone, has no
outcome: it says nothing about the container. Another reason may be of the container's own making: it has removed its
address, or a rule of its own refuses the packet.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Final, TypeAlias

import trio

from netagent.checks.http_answer import AnswerError, HeadReader, HttpHead, whole_head_untrusted
from netagent.checks.spec import duration_text
from netagent.checks.state import Answer, Outcome, Unasked
from netagent.datapath.endpoint.netns import run_in_each_netns
from netagent.errors import RefusedError
from netagent.model.check import HttpCheck, TcpCheck
from netagent.model.sandbox import Netns

ANSWER_S: Final = 0.02
"""Most servers have answered after this time. To read all their answers at once costs a fraction of waiting for
each."""
MAX_SHOWN_CHARS: Final = 512
"""Most characters of an answer that are shown."""
MAX_TLS_BYTES: Final = 128 * 1024
"""Bound of the bytes that a server sends by TLS, with its certificates; beyond it: the check has failed."""
MAX_TLS_PIECES: Final = 256
"""Bound of the pieces in which they arrive; beyond it: the check has failed."""
_PIECE_BYTES: Final = 16 * 1024
_OF_THIS_HOST: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN}
_UNASKED: Final = {errno.EADDRNOTAVAIL, errno.EPERM, errno.EACCES}
_SAID: Final = {
    errno.ECONNREFUSED: "connection refused at",
    errno.ECONNRESET: "connection reset by",
    errno.EPIPE: "connection reset by",
}
_NO_ROUTE: Final = {errno.EHOSTUNREACH, errno.ENETUNREACH}

_KIND: Final = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC

NetworkCheck: TypeAlias = HttpCheck | TcpCheck
_Target: TypeAlias = tuple[socket.AddressFamily, tuple[str, int], bytes]


@dataclass(frozen=True)
class Question:
    """A check that is due. Ask it again and again: what never changes of it is computed once."""

    subject: NetworkCheck
    netns: Netns | None
    """None: asked from this host itself, for a service that is no container."""
    addresses: tuple[str, ...]
    """The endpoint's own: tried in turn, until one does not refuse."""
    timeout_s: float

    @cached_property
    def place(self) -> str:
        """What is asked, as outcomes call it: `8080/healthz`."""
        return f"{self.subject.port}{self.subject.path if isinstance(self.subject, HttpCheck) else ''}"

    @cached_property
    def targets(self) -> tuple[_Target, ...]:
        """What is connected, and what is sent there by HTTP; nothing by TCP."""
        return tuple(
            (
                socket.AF_INET6 if ":" in address else socket.AF_INET,
                (address, self.subject.port),
                b"" if isinstance(self.subject, TcpCheck) else _request(self.subject, address),
            )
            for address in self.addresses
        )

    @cached_property
    def is_tls(self) -> bool:
        """True if it is asked by TLS."""
        return isinstance(self.subject, HttpCheck) and self.subject.is_tls

    def failed(self, text: str) -> Outcome:
        """Return a failure."""
        return Outcome(is_success=False, text=text)

    def failed_by(self, code: int, address: str) -> Outcome:
        """Return the failure that an error of the kernel means, at one of the addresses."""
        if code in _NO_ROUTE:
            return self.failed(f"no route to the host {address}")
        said = _SAID.get(code)
        return self.failed(f"{said} {self.place}" if said else f"{self.place}: {os.strerror(code)}")

    def late(self) -> Outcome:
        """Return the failure of a server that took too long."""
        what = "connection to" if isinstance(self.subject, TcpCheck) else "answer from"
        return self.failed(f"no {what} {self.place} within {duration_text(self.timeout_s)}")


async def ask_all(questions: Sequence[Question], done: Callable[[int, Answer], None]) -> None:
    """Ask all at the same time; call `done` with the number of each once it has ended; None if it could not be
    asked."""
    began_at = trio.current_time()
    visits = [(one.netns, partial(_open, one)) for one in questions]
    opened = await run_in_each_netns(visits, then=_take_early)
    slow = [(n, one) for n, one in enumerate(opened) if isinstance(one, _Connection) and one.outcome is None]
    try:
        for number, found in enumerate(opened):
            match found:
                case _Connection():
                    if found.outcome is not None:
                        done(number, found.outcome)
                case Outcome() | Unasked():
                    done(number, found)
                case OSError() | RefusedError():
                    done(number, None)
        if slow:
            await _wait_all(slow, began_at, done)
    finally:
        for _, connection in slow:
            connection.sock.close()


async def _wait_all(
    slow: Sequence[tuple[int, _Connection]], began_at: float, done: Callable[[int, Answer], None]
) -> None:
    """Wait for the servers that take longer: one task for all of them, and one for each by TLS."""
    plain: dict[int, tuple[int, _Connection]] = {}
    async with trio.open_nursery() as nursery:
        for number, connection in slow:
            if connection.question.is_tls:
                deadline = began_at + connection.question.timeout_s
                nursery.start_soon(_wait_by_tls, connection, deadline, partial(done, number))
            else:
                plain[connection.sock.fileno()] = number, connection
        if plain:
            try:
                await _wait_plain(plain, began_at, done)
            except OSError:  # this host has no descriptor left
                for number, _ in plain.values():
                    done(number, None)


async def _wait_plain(
    waiting: dict[int, tuple[int, _Connection]], began_at: float, done: Callable[[int, Answer], None]
) -> None:
    """Wait for servers by descriptor, until each has answered or its time is over."""
    with closing(select.epoll()) as ready:
        for fd, (_, connection) in waiting.items():
            ready.register(fd, connection.awaits)
        while waiting:
            deadline = began_at + min(connection.question.timeout_s for _, connection in waiting.values())
            with trio.move_on_at(deadline):
                await trio.lowlevel.wait_readable(ready.fileno())
            for fd, _ in ready.poll(0):
                number, connection = waiting[fd]
                awaited = connection.awaits
                outcome = connection.poll()  # closes the socket with it, which takes it out of `ready`
                if outcome is not None:
                    del waiting[fd]
                    done(number, outcome)
                elif connection.awaits != awaited:
                    ready.modify(fd, connection.awaits)
            now = trio.current_time()
            for fd, (number, connection) in list(waiting.items()):
                if now >= began_at + connection.question.timeout_s:
                    del waiting[fd]
                    connection.sock.close()
                    done(number, connection.question.late())


def _take_early(opened: Sequence[_Opened | RefusedError | OSError]) -> None:
    """Read what most servers have answered by now. In the thread that visited them: the event loop is free meanwhile,
    and wakes once for all."""
    connections = [one for one in opened if isinstance(one, _Connection)]
    if connections:
        time.sleep(ANSWER_S)
    for one in connections:
        one.poll()


def _open(question: Question) -> _Opened:
    """Connect to the first address that does not refuse, and begin what can be begun at once. Raises OSError when
    this host is at fault."""
    code, target = errno.ENETUNREACH, ("", 0)
    for family, target, request in question.targets:
        sock = socket.socket(family, _KIND)
        if request and not question.is_tls:
            # The request follows at once and carries the ACK: one packet less, and the server wakes once.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
        code = sock.connect_ex(target)
        # Where no program listens, the kernel may choose the very port for this end, and connect it with itself.
        if sock.getsockname()[:2] == target:
            code = errno.ECONNREFUSED
        if code in {0, errno.EINPROGRESS}:
            connection = _Connection(question, sock, request, target[0])
            try:
                outcome = connection.begin()
            except OSError as error:
                code = error.errno or errno.EIO
            else:
                if outcome is not None:
                    sock.close()
                return outcome or connection
        sock.close()
    if code in _OF_THIS_HOST:
        raise OSError(code, os.strerror(code))
    if code in _UNASKED and question.netns is None:  # this host's own rules refuse
        raise OSError(code, os.strerror(code))
    if code in _UNASKED:
        return Unasked(f"{question.place} cannot be asked: {os.strerror(code)}")
    return question.failed_by(code, target[0])


class _Connection:
    """A connection to a server, from its first packet to the end of the answer's head."""

    __slots__ = ("_reader", "address", "is_connected", "outcome", "question", "request", "sock")

    def __init__(self, question: Question, sock: socket.socket, request: bytes, address: str) -> None:
        self.question = question
        self.address = address
        self.sock = sock
        self.request = request
        self._reader: HeadReader | None = None
        self.is_connected = False
        self.outcome: Outcome | None = None
        """How it ended; its socket is closed then."""

    @property
    def awaits(self) -> int:
        """What it waits for, as epoll(7) calls it."""
        return select.EPOLLIN if self.is_connected else select.EPOLLOUT

    def begin(self) -> Outcome | None:
        """Send the request, or note the connection, as soon as the server has it; the outcome if that is all. OSError
        when it is refused."""
        if self.request and not self.question.is_tls:
            try:
                self.sock.send(self.request)  # fits into an empty buffer
            except BlockingIOError:  # the server's queue is full: the kernel sends its SYN again
                return None
            self.is_connected = True
            return None
        code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        try:
            self.sock.getpeername()
        except OSError:  # as above
            return None
        self.is_connected = True
        if self.request:
            return None
        return Outcome(is_success=True, text=f"connected to {self.question.place}")

    def poll(self) -> Outcome | None:
        """Do what can be done without waiting; close and return the outcome once there is one."""
        try:
            if not self.is_connected:
                outcome = self.begin()
            elif self.question.is_tls:
                outcome = None
            else:
                outcome = self.take(self.sock.recv(_PIECE_BYTES))
        except BlockingIOError:
            return None
        except AnswerError as error:
            outcome = self.question.failed(f"{self.question.place} {error}")
        except OSError as error:
            outcome = self.question.failed_by(error.errno or errno.EIO, self.address)
        if outcome is not None:
            self.sock.close()
            self.outcome = outcome
        return outcome

    def take(self, piece: bytes) -> Outcome | None:
        """Take a piece of the answer; the outcome once its head is complete. AnswerError."""
        if not piece:
            raise AnswerError("closed the connection without an answer")
        head = whole_head_untrusted(piece) if self._reader is None else None
        if head is None:
            self._reader = self._reader or HeadReader()
            head = self._reader.feed_untrusted(piece)
        return None if head is None else _outcome(self.question, head)


_Opened: TypeAlias = _Connection | Outcome | Unasked


def _request(subject: HttpCheck, address: str) -> bytes:
    host = f"[{address}]" if ":" in address else address
    head = f"GET {subject.path} HTTP/1.1\r\nHost: {host}:{subject.port}\r\nUser-Agent: netagent-check\r\n"
    return f"{head}Accept: */*\r\nConnection: close\r\n\r\n".encode("ascii")


async def _wait_by_tls(connection: _Connection, deadline: float, done: Callable[[Answer], None]) -> None:
    question, outcome = connection.question, None
    with closing(connection.sock), trio.move_on_at(deadline):
        while outcome is None and not connection.is_connected:
            await trio.lowlevel.wait_writable(connection.sock)
            outcome = connection.poll()
        outcome = outcome or await _exchange_by_tls(connection)
    done(outcome or question.late())


async def _exchange_by_tls(connection: _Connection) -> Outcome:
    inner = _BoundedStream(trio.SocketStream(trio.socket.from_stdlib_socket(connection.sock)))
    outcome: Outcome | None = None
    try:
        async with trio.SSLStream(inner, _tls(), https_compatible=True) as stream:
            await stream.send_all(connection.request)
            while outcome is None:
                outcome = connection.take(bytes(await stream.receive_some(_PIECE_BYTES)))
    except trio.BrokenResourceError:
        outcome = outcome or connection.question.failed(f"{connection.question.place} does not speak TLS")
    except AnswerError as error:
        outcome = connection.question.failed(f"{connection.question.place} {error}")
    return outcome


class _BoundedStream(trio.abc.Stream):
    """A connection below TLS. A handshake, or messages beside the answer, could go on for ever."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._bytes = self._pieces = 0

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return the next piece. AnswerError beyond a bound."""
        piece = bytes(await self._stream.receive_some(max_bytes))
        self._bytes += len(piece)
        self._pieces += 1
        if self._bytes > MAX_TLS_BYTES:
            raise AnswerError(f"sent more than {MAX_TLS_BYTES // 1024} KiB by TLS")
        if self._pieces > MAX_TLS_PIECES:
            raise AnswerError(f"sent its part of TLS in more than {MAX_TLS_PIECES} pieces")
        return piece

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As of the stream."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """As of the stream."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """As of the stream."""
        await self._stream.aclose()


@cache
def _tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES")  # of TLS 1.2; its DHE takes any group
    context.set_ecdh_curve("prime256v1")  # of TLS 1.3 too, which otherwise offers groups of up to 8192 bits
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context


def _outcome(question: Question, head: HttpHead) -> Outcome:
    to = f", which redirects to {head.location}" if head.location else ""
    text = f"http {head.status} from {question.place}{to}"
    return Outcome(is_success=200 <= head.status < 300, text=text, shown=shown_untrusted(head.body))


def shown_untrusted(data: bytes) -> str:
    """Return the beginning of a body or an output as text for a terminal."""
    if not data:
        return ""
    text = data[: 4 * MAX_SHOWN_CHARS].decode("utf-8", "replace")[:MAX_SHOWN_CHARS]
    if not text.isprintable():
        text = "".join(one if one.isprintable() or one == "\n" else " " for one in text)
    return text.strip()
