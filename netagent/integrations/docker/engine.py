"""A client of Docker's API on its unix socket: one connection per request, everything bounded.

h11 parses HTTP; this file moves its bytes. Docker answers most requests in a millisecond, but `inspect` of a
container that is being started waits for the start, so every request has a deadline. Paths contain no API version:
the daemon then uses its own, and the fields that we read have not changed since 1.24.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import h11
import trio

from netagent.errors import FailedError, InputError, NetagentError
from netagent.integrations.marked_processes import is_marked_left, kill_marked, new_mark
from netagent.log import Limited

DEADLINE_S = 10.0
MAX_BODY_BYTES = 32 * 1024 * 1024
"""Bound of one response of Docker; beyond it: given up and requested again. `inspect` of a network with 10,000
containers takes 3 MB."""
MAX_EVENT_BYTES = 1024 * 1024
"""Bound of one event of Docker; beyond it: the agent reconnects and examines all containers. An event contains all
labels of its container."""
MAX_REQUESTS = 32
"""Bound of requests to Docker at the same time; beyond it: further ones wait. Requests about containers that are
being started take longer."""
MAX_OUTPUT_BYTES = 4096
"""Bound of the output of a check's command that is kept; beyond it: read and dropped."""
MAX_READ_BYTES = 1024 * 1024
"""Bound of the output of a check's command that is read; beyond it: the command is killed, and has failed."""
MAX_HANGING = 256
"""Bound of killed commands that are remembered until they have ended; beyond it: the oldest is forgotten."""
TOO_MUCH = 128 + signal.SIGPIPE
"""Exit status of a command that was killed because it wrote too much: as if its output had been closed."""
NOT_FOUND = 404
_CHUNK_BYTES = 65536
_FRAME = struct.Struct(">4xI")

_limited = Limited(logging.getLogger("netagent.docker"))


class EngineError(FailedError):
    """Docker does not answer, or refuses. `status` is HTTP's, 0 without an answer."""

    def __init__(self, message: str, *, status: int = 0, hint: str = "") -> None:
        super().__init__(message, code="docker", thing="docker", hint=hint)
        self.status = status


class Engine:
    """A client of Docker at one socket."""

    def __init__(self, socket_path: Path) -> None:
        self._path = socket_path
        self._room = trio.CapacityLimiter(MAX_REQUESTS)
        self._hanging: dict[tuple[str, tuple[str, ...]], tuple[str, bytes]] = {}
        """Commands in containers that were killed and may not have ended, with their paths and marks."""

    async def get(self, path: str, **query: str) -> Any:
        """Return the JSON at `path`. Raises EngineError."""
        return await self.call("GET", path, query=query)

    async def call(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: object = None
    ) -> Any:
        """Send one request; return the answer's JSON, None if empty. Raises EngineError; InputError if not JSON."""
        async with self._room:
            with trio.move_on_after(DEADLINE_S):
                async with self._exchange(method, path, query or {}, body) as answer:
                    content = await answer.read_all()
                return _json_untrusted(method, path, answer.status, content)
        raise _too_slow(method, path)

    async def execute(self, container: str, command: Sequence[str]) -> tuple[int, bytes] | None:
        """Run a command in a container until it ends; return its exit status, and the beginning of its output. None:
        an earlier run of it does not end, so this one did not begin.

        Cancelled, it kills the command. Raises EngineError."""
        key = container, tuple(command)
        if key in self._hanging:
            if await self._is_running(*self._hanging[key]):
                return None
            self._hanging.pop(key, None)
        mark = new_mark()
        body = {"Cmd": list(command), "AttachStdout": True, "AttachStderr": True, "Env": [mark]}
        try:
            made = _object_untrusted(
                await self.call("POST", f"/containers/{quote(container)}/exec", body=body)
            )
        except EngineError as error:
            raise FailedError(str(error), code="not-run" if error.status else "docker") from None
        path = f"/exec/{quote(str(made.get('Id')))}"
        try:
            start = {"Detach": False, "Tty": False}
            async with self._exchange("POST", f"{path}/start", {}, start) as answer:
                output, is_whole = await answer.read_beginning(MAX_OUTPUT_BYTES, MAX_READ_BYTES)
                if answer.status >= 400:
                    raise FailedError(f"Docker says: status {answer.status}", code="not-run")
            if not is_whole:
                await self._end(path, key, mark)
                return TOO_MUCH, unframed_untrusted(output)
            return await self._status(path), unframed_untrusted(output)
        except trio.Cancelled:
            with trio.move_on_after(DEADLINE_S, shield=True):
                await self._end(path, key, mark)
            raise

    async def _status(self, path: str) -> int:
        """Return the exit status of a command that has closed its output; it may run on."""
        pause_s = 0.02
        while True:
            now = _object_untrusted(await self.get(f"{path}/json"))
            status = now.get("ExitCode")
            if now.get("Running") is not True and isinstance(status, int):
                return status
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, 1.0)

    async def _end(self, path: str, key: tuple[str, tuple[str, ...]], mark: str) -> None:
        """Kill a command that runs, and remember it until it has ended: Docker's API cannot kill it, and commands
        that hang would pile up in the container."""
        if len(self._hanging) >= MAX_HANGING:
            del self._hanging[next(iter(self._hanging))]
        self._hanging[key] = path, mark.encode()
        with suppress(NetagentError, OSError):
            await self._kill(path)
        await trio.to_thread.run_sync(kill_marked, mark.encode())  # and what it has started

    async def _is_running(self, path: str, mark: bytes) -> bool:
        """True if a command still runs. EngineError if Docker does not say."""
        try:
            now = _object_untrusted(await self.get(f"{path}/json"))
        except EngineError as error:
            if error.status == NOT_FOUND:  # its container is gone
                return False
            raise
        if now.get("Running") is not True:
            return await trio.to_thread.run_sync(is_marked_left, mark)
        with suppress(NetagentError, OSError):
            await self._kill(path)
        return True

    async def _kill(self, path: str) -> None:
        pid = _object_untrusted(await self.get(f"{path}/json")).get("Pid")
        if not isinstance(pid, int) or pid <= 1:
            return
        fd = os.pidfd_open(pid)
        try:
            # Only now the process is held: was it the command's when Docker said so, and is it still?
            now = _object_untrusted(await self.get(f"{path}/json"))
            if now.get("Running") is True and now.get("Pid") == pid:
                signal.pidfd_send_signal(fd, signal.SIGKILL)
        except PermissionError:
            _limited.warning("kill", f"cannot kill process {pid} of a check's command: it takes CAP_KILL")
        finally:
            os.close(fd)

    @asynccontextmanager
    async def events(self, filters: Mapping[str, Sequence[str]]) -> AsyncIterator[Events]:
        """Yield Docker's events from the moment the block is entered. EngineError, also if they end in the block."""
        query = {"filters": json.dumps(filters)}
        async with self._exchange("GET", "/events", query, None) as answer:
            if answer.status != 200:
                text = f"Docker refused the request for events (status {answer.status})"
                raise EngineError(text, status=answer.status)
            yield Events(answer)

    @asynccontextmanager
    async def _exchange(
        self, method: str, path: str, query: Mapping[str, str], body: object
    ) -> AsyncIterator[_Answer]:
        """Send a request; yield the answer once its head has arrived."""
        try:
            async with await trio.open_unix_socket(str(self._path)) as stream:
                machine = h11.Connection(h11.CLIENT)
                with trio.move_on_after(DEADLINE_S) as scope:
                    await stream.send_all(_request(machine, method, path, query, body))
                    head = await _next_event(machine, stream)
                if scope.cancelled_caught:
                    raise _too_slow(method, path)
                if not isinstance(head, h11.Response):
                    raise EngineError(f"Docker closed the connection before it answered {method} {path}")
                yield _Answer(head.status_code, machine, stream)
        except (OSError, trio.BrokenResourceError, h11.ProtocolError) as error:
            raise EngineError(
                f"cannot reach Docker at {self._path}: {error}", hint="see `systemctl status docker`"
            ) from None


class _Answer:
    """The body of an answer."""

    def __init__(self, status: int, machine: h11.Connection, stream: trio.abc.Stream) -> None:
        self.status = status
        self._machine = machine
        self._stream = stream

    async def read(self) -> bytes:
        """Return the next part; empty at the end."""
        event = await _next_event(self._machine, self._stream)
        return bytes(event.data) if isinstance(event, h11.Data) else b""

    async def read_beginning(self, kept_bytes: int, most_bytes: int) -> tuple[bytes, bool]:
        """Read to the end, or beyond `most_bytes`; return the beginning, and whether the end was reached."""
        content, size = b"", 0
        while piece := await self.read():
            content += piece[: kept_bytes - len(content)]
            size += len(piece)
            if size > most_bytes:
                return content, False
        return content, True

    async def read_all(self) -> bytes:
        """Return the whole body. EngineError when it is too large."""
        content = bytearray()
        while piece := await self.read():
            content += piece
            if len(content) > MAX_BODY_BYTES:
                raise EngineError(f"Docker's answer is longer than {MAX_BODY_BYTES} bytes")
        return bytes(content)


class Events:
    """A stream of JSON objects, one per line. Invalid lines are ignored: the next full comparison covers them."""

    def __init__(self, answer: _Answer) -> None:
        self._answer = answer
        self._rest = b""

    async def read(self) -> list[dict[str, Any]]:
        """Return the next events, at least one. EngineError when the stream has ended."""
        while True:
            piece = await self._answer.read()
            if not piece:
                raise EngineError("Docker ended the stream of events")
            *lines, self._rest = (self._rest + piece).split(b"\n")
            if len(self._rest) > MAX_EVENT_BYTES:
                raise EngineError(f"an event of Docker is longer than {MAX_EVENT_BYTES} bytes")
            found = [event for event in map(_event_untrusted, lines) if event is not None]
            if found:
                return found


def _request(
    machine: h11.Connection, method: str, path: str, query: Mapping[str, str], body: object
) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    headers = [("Host", "docker"), ("Connection", "close"), ("Content-Length", str(len(content)))]
    if content:
        headers.append(("Content-Type", "application/json"))
    target = path + ("?" + urlencode(query) if query else "")
    events = (
        h11.Request(method=method, target=target, headers=headers),
        h11.Data(content),
        h11.EndOfMessage(),
    )
    return b"".join(machine.send(event) or b"" for event in events)


async def _next_event(machine: h11.Connection, stream: trio.abc.Stream) -> Any:
    while True:
        event = machine.next_event()
        if event is h11.NEED_DATA:
            machine.receive_data(bytes(await stream.receive_some(_CHUNK_BYTES)))
        elif not isinstance(event, h11.InformationalResponse):
            return event


def unframed_untrusted(data: bytes) -> bytes:
    """Return the text in the frames of a command's output: a byte for the stream, three zeros, the length, the
    text."""
    texts = []
    while len(data) > _FRAME.size:
        (length,) = _FRAME.unpack_from(data)
        texts.append(data[_FRAME.size : _FRAME.size + length])
        data = data[_FRAME.size + length :]
    return b"".join(texts)


def _object_untrusted(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise EngineError("Docker did not answer with an object")
    return value


def _event_untrusted(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) else None


def _json_untrusted(method: str, path: str, status: int, content: bytes) -> Any:
    try:
        value = json.loads(content) if content.strip() else None
    except (ValueError, RecursionError):
        raise InputError(
            f"Docker's answer to {method} {path} is not JSON", thing="docker", hint="see `docker version`"
        ) from None
    if status >= 400:
        text = value.get("message") if isinstance(value, dict) else None
        raise EngineError(f"Docker says: {text or status}", status=status)
    return value


def _too_slow(method: str, path: str) -> EngineError:
    return EngineError(f"Docker did not answer {method} {path} within {DEADLINE_S:.0f} s")
