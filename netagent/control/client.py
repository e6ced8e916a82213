"""A client of the agent's API: HTTP over its unix socket, or by TLS to another host, in few lines and imports.

The command line uses it, and so may any program ([docs](../../docs/reference/python-client.md)):

    from netagent.control.client import Client
    from netagent.interface.questions import ServicesCommand

    client = Client("https://h1:7958", token=token, ca_file="h1.crt")       # or Client() on the host itself
    for service in client.send(ServicesCommand(network="app"))["items"]:
        print(service["name"], service["addresses"])

The whole command line starts in a fraction of the time that importing an HTTP library takes. HTTP/1.0 with one
request per connection keeps reading simple: there are no chunks, and a stream ends with the connection.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, cast

from netagent.control.problem import error_from
from netagent.errors import FailedError, InputError, RefusedError, UnreachableError
from netagent.interface.command import Command

A = TypeVar("A")

DEFAULT_SOCKET = "/run/netagent/netagent.sock"
DEFAULT_PORT = 7958
"""Of the key `http`."""
READ_ONLY_SOCKET = "/run/netagent/netagent-ro.sock"
TIMEOUT_S = 60.0
"""Each of the agent's use-cases times out well before this."""
TIMEOUT = "timeout"
"""Code of the error for an answer that did not come in time."""
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


class _Place:
    """Where an agent listens by TCP."""

    def __init__(self, netloc: str, host: str, port: int, *, is_tls: bool) -> None:
        self.netloc = netloc
        self.host = host
        self.port = port
        self.is_tls = is_tls
        self.is_local = host in ("localhost", "::1") or re.fullmatch(r"127(\.\d{1,3}){3}", host) is not None


def _place_of(agent: str) -> _Place | None:
    """Return the place of `http[s]://HOST[:PORT]`; None for the path of a socket."""
    scheme, separator, netloc = agent.partition("://")
    if not separator:
        return None
    netloc = netloc.removesuffix("/")
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::([0-9]{1,5}))?", netloc)
    if scheme not in ("https", "http") or found is None:
        raise InputError(
            f"{agent!r} names no agent", thing=agent, hint="write the path of a socket, or https://HOST:PORT"
        )
    return _Place(netloc, found[1].strip("[]"), int(found[2] or DEFAULT_PORT), is_tls=scheme == "https")


def _header_value(text: str) -> str:
    """Refuse what would begin another header."""
    if not text.isascii() or not text.isprintable() or " " in text:
        raise InputError(
            "a token or key has characters that none has", hint="check the file that it comes from"
        )
    return text


class Client:
    """A client of one agent. Every call returns the decoded answer or raises a NetagentError. It keeps no connection,
    so threads may share it."""

    def __init__(
        self,
        agent: str = DEFAULT_SOCKET,
        *,
        timeout_s: float = TIMEOUT_S,
        token: str = "",
        ca_file: str | None = None,
    ) -> None:
        """`agent`: the path of its socket, or `https://HOST[:PORT]`, where `token` is sent; `ca_file` has the
        certificates that are trusted instead of the system's. Raises InputError."""
        self._path = agent
        self._timeout_s = timeout_s
        self._token = _header_value(token)
        self._ca_file = ca_file
        self._place = _place_of(agent)
        if self._place is not None and token and not (self._place.is_tls or self._place.is_local):
            raise InputError(
                f"a token is never sent in clear text, as to {agent}",
                thing=agent,
                hint="write https:// instead",
            )

    def with_patience(self, timeout_s: float) -> Client:
        """Return a client of the same agent with another timeout."""
        return Client(self._path, timeout_s=timeout_s, token=self._token, ca_file=self._ca_file)

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        work_s: float = 0.0,
        idempotency_key: str = "",
    ) -> dict[str, Any]:
        """Send one request and return the answer. `path` is already quoted, `query` is not; empty values are omitted.

        `work_s`: time that the request allows the agent to take, added to the timeout. `idempotency_key`: the same
        text in a repeated request gets the answer of the first one, and changes nothing again.
        """
        with self._open(method, path, query or {}, body, idempotency_key) as stream:
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

    def send(self, request: Command[A], *, idempotency_key: str = "") -> A:
        """Send the request of a command and return the answer; as `call`."""
        declared, (path, given) = type(request).declaration, _path_of(request)
        query, body = (None, given) if declared.has_body else (_in_words(given), None)
        answer = self.call(
            declared.verb,
            path,
            query=query,
            body=body,
            work_s=request.work_s,
            idempotency_key=idempotency_key,
        )
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
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None,
        idempotency_key: str = "",
    ) -> socket.socket:
        pairs = "&".join(f"{key}={quote(value)}" for key, value in query.items() if value)
        payload = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} {path}{'?' if pairs else ''}{pairs} HTTP/1.0\r\n"
            f"Host: {self._place.netloc if self._place else 'netagent'}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n"
        )
        if self._place is not None and self._token:
            head += f"Authorization: Bearer {self._token}\r\n"
        if idempotency_key:
            head += f"Idempotency-Key: {_header_value(idempotency_key)}\r\n"
        head += "\r\n"
        if self._place is not None:
            return self._send(self._dialled(self._place), head, payload)
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stream.settimeout(self._timeout_s)
        try:
            self._connect(stream)
        except OSError as error:
            stream.close()
            raise self._unreachable(error) from None
        return self._send(stream, head, payload)

    def _send(self, stream: socket.socket, head: str, payload: bytes) -> socket.socket:
        try:
            stream.sendall(head.encode("ascii") + payload)
        except OSError as error:
            stream.close()
            raise self._unreachable(error) from None
        except BaseException:
            stream.close()
            raise
        return stream

    def _dialled(self, place: _Place) -> socket.socket:
        try:
            stream = socket.create_connection((place.host, place.port), self._timeout_s)
        except OSError as error:
            raise UnreachableError(
                f"cannot reach the agent at {self._path}: {error.strerror or error}",
                thing=self._path,
                hint="check the address, and the key `http` of that agent's configuration",
            ) from None
        if not place.is_tls:
            return stream
        import ssl  # takes as long to import as all the rest

        try:
            context = ssl.create_default_context(cafile=self._ca_file)
            return context.wrap_socket(stream, server_hostname=place.host)
        except OSError as error:  # SSLError is one
            stream.close()
            if isinstance(error, ssl.SSLCertVerificationError):
                raise FailedError(
                    f"cannot trust the agent at {self._path}: {error.verify_message}",
                    code="not-trusted",
                    thing=self._path,
                    hint="copy /run/netagent/http-ca.crt from that host, and name it with --ca-file",
                ) from None
            what = "read" if isinstance(error, FileNotFoundError) else "speak TLS by"
            raise FailedError(
                f"cannot {what} {self._ca_file or self._path}: {error.strerror or error}",
                thing=self._path,
                hint="check --ca-file, and the key `http` of that agent's configuration",
            ) from None

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
            hint="start it: `sudo systemctl start netagent`, or `netagent agent`; or name its socket: --socket",
        )

    def _receive(self, stream: socket.socket) -> bytes:
        try:
            return stream.recv(65536)
        except TimeoutError:
            raise FailedError(
                f"the agent at {self._path} did not answer within {self._timeout_s:.0f} s",
                code=TIMEOUT,
                thing=self._path,
                hint="`sudo netagent doctor` examines this host without it, `journalctl -u netagent` has its log",
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
