"""A client of the agent's API: HTTP over its unix socket, in few lines and with few imports.

The whole command line starts in a fraction of the time that importing an HTTP library takes. HTTP/1.0 with one
request per connection keeps reading simple: there are no chunks, and a stream ends with the connection.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, cast

from netagent.control.problem import error_from
from netagent.errors import FailedError, RefusedError, UnreachableError
from netagent.interface.command import Command

A = TypeVar("A")

DEFAULT_SOCKET = "/run/netagent/netagent.sock"
READ_ONLY_SOCKET = "/run/netagent/netagent-ro.sock"
TIMEOUT_S = 60.0
"""Each of the agent's use-cases times out well before this."""
MAX_HEADER_BYTES = 64 * 1024
MAX_BODY_BYTES = 256 * 1024 * 1024
"""A list of 100,000 endpoints takes a third of this."""

_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~:,")


def quote(text: str) -> str:
    """Percent-encode the text for a path segment or a query (RFC 3986 section 2.1)."""
    return "".join(chr(byte) if byte in _SAFE else f"%{byte:02X}" for byte in text.encode())


def _path_of(request: Command[Any]) -> tuple[str, dict[str, Any]]:
    """Return the path, and the fields that are not part of it."""
    declared, given = type(request).declaration, request.json()
    path = declared.path
    for field in declared.in_path:
        path = path.replace(f"{{{field}}}", quote(given.pop(field)))
    return path, given


def _in_words(given: Mapping[str, Any]) -> dict[str, str]:
    return {field: "true" if value is True else str(value) for field, value in given.items()}


class Client:
    """A client of the agent at one socket. Every call returns the decoded answer or raises a NetagentError."""

    def __init__(self, socket_path: str = DEFAULT_SOCKET, *, timeout_s: float = TIMEOUT_S) -> None:
        self._path = socket_path
        self._timeout_s = timeout_s

    def with_patience(self, timeout_s: float) -> Client:
        """Return a client of the same agent with another timeout."""
        return Client(self._path, timeout_s=timeout_s)

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        work_s: float = 0.0,
    ) -> dict[str, Any]:
        """Send one request and return the answer. `path` is already quoted, `query` is not; empty values are omitted.

        `work_s`: time that the request allows the agent to take, added to the timeout.
        """
        with self._open(method, path, query or {}, body) as stream:
            stream.settimeout(self._timeout_s + work_s)
            status, rest = self._head(stream)
            payload = bytearray(rest)
            while chunk := self._receive(stream):
                payload += chunk
                if len(payload) > MAX_BODY_BYTES:
                    raise FailedError(
                        f"the answer of the agent at {self._path} is too large", hint="filter the list"
                    )
        return self._decode(status, bytes(payload))

    def send(self, request: Command[A]) -> A:
        """Send the request of a command and return the answer."""
        declared, (path, given) = type(request).declaration, _path_of(request)
        if declared.has_body:
            answer = self.call(declared.verb, path, body=given, work_s=request.work_s)
        else:
            answer = self.call(declared.verb, path, query=_in_words(given), work_s=request.work_s)
        return cast("A", answer)

    def follow(self, request: Command[Any]) -> Iterator[list[dict[str, Any]]]:
        """Watch the list that a request is for; as `watch`."""
        path, given = _path_of(request)
        return self.watch(path, query=_in_words(given))

    def watch(self, path: str, *, query: Mapping[str, str] | None = None) -> Iterator[list[dict[str, Any]]]:
        """Yield the events of a watched list, as many at a time as have arrived. Ends only by raising."""
        with self._open("GET", path, {**(query or {}), "watch": "true"}, None) as stream:
            status, rest = self._head(stream)
            if status != 200:
                while chunk := self._receive(stream):
                    rest += chunk
                self._decode(status, rest)
            stream.settimeout(None)
            while True:
                *lines, rest = rest.split(b"\n")
                events = [self._event(line) for line in lines]
                if events:
                    yield events
                chunk = self._receive(stream)
                if not chunk:
                    raise UnreachableError(
                        f"the agent at {self._path} has stopped",
                        thing=self._path,
                        hint="start it and watch again",
                    )
                rest += chunk

    def _open(
        self, method: str, path: str, query: Mapping[str, str], body: Mapping[str, Any] | None
    ) -> socket.socket:
        pairs = "&".join(f"{key}={quote(value)}" for key, value in query.items() if value)
        payload = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} {path}{'?' if pairs else ''}{pairs} HTTP/1.0\r\nHost: netagent\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
        )
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stream.settimeout(self._timeout_s)
        try:
            self._connect(stream)
            stream.sendall(head.encode("ascii") + payload)
        except OSError as error:
            stream.close()
            raise self._unreachable(error) from None
        except BaseException:
            stream.close()
            raise
        return stream

    def _connect(self, stream: socket.socket) -> None:
        """Connect to the agent, by the read-only socket if the other one is closed to this account."""
        try:
            stream.connect(self._path)
        except PermissionError as closed:
            if self._path != DEFAULT_SOCKET:
                raise
            try:
                stream.connect(READ_ONLY_SOCKET)
            except OSError:
                raise closed from None

    def _unreachable(self, error: OSError) -> Exception:
        if isinstance(error, PermissionError):
            return RefusedError(
                f"you have no permission to use the agent at {self._path}",
                code="not-permitted",
                thing=self._path,
                hint="use sudo, or become a member of the group netagent, or of netagent-ro to look only",
            )
        if isinstance(error, FileNotFoundError):
            cause = "the socket does not exist"
        elif isinstance(error, ConnectionRefusedError):
            cause = "no program listens on it"
        elif isinstance(error, TimeoutError):
            cause = "the socket does not accept connections"
        else:
            cause = error.strerror or str(error)
        return UnreachableError(
            f"cannot reach the agent at {self._path}: {cause}",
            thing=self._path,
            hint="start it with `netagent agent`, or name its socket with --socket or NETAGENT_SOCKET",
        )

    def _receive(self, stream: socket.socket) -> bytes:
        try:
            return stream.recv(65536)
        except TimeoutError:
            raise FailedError(
                f"the agent at {self._path} did not answer within {self._timeout_s:.0f} s",
                code="timeout",
                thing=self._path,
                hint="see its log",
            ) from None
        except OSError as error:
            raise self._broke_off(error.strerror or str(error)) from None

    def _head(self, stream: socket.socket) -> tuple[int, bytes]:
        """Read the header; return the status code and the first bytes of the body."""
        data = b""
        while b"\r\n\r\n" not in data:
            chunk = self._receive(stream)
            if not chunk or len(data) > MAX_HEADER_BYTES:
                raise self._broke_off("the answer has no complete header")
            data += chunk
        head, _, rest = data.partition(b"\r\n\r\n")
        words = head.split(b"\r\n", 1)[0].split(b" ")
        if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
            raise FailedError(
                f"the program that listens at {self._path} does not speak HTTP",
                thing=self._path,
                hint="name the agent's socket with --socket",
            )
        return int(words[1]), rest

    def _decode(self, status: int, payload: bytes) -> dict[str, Any]:
        # A truncated JSON object is not valid JSON, so the length needs no separate check.
        try:
            value = json.loads(payload)
        except ValueError:
            raise self._broke_off("the answer is incomplete") from None
        if not isinstance(value, dict):
            raise self._broke_off("the answer is not an object")
        if status >= 400:
            raise error_from(value)
        return value

    def _event(self, line: bytes) -> dict[str, Any]:
        event = self._decode(200, line)
        problem = event.get("problem")
        if isinstance(problem, dict):
            raise error_from(problem)
        return event

    def _broke_off(self, cause: str) -> UnreachableError:
        return UnreachableError(
            f"the agent at {self._path} closed the connection too early: {cause}",
            thing=self._path,
            hint="check whether it still runs",
        )
