"""A system bus with one systemd behind it, on a socket: units by their processes, and signals to who has asked."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import trio

from netagent.integrations.systemd.messages import ERROR, METHOD_RETURN, SIGNAL, BusMessage, MessageBuffer


def pad(data: bytes, size: int) -> bytes:
    return data + bytes(-len(data) % size)


def message(kind: int, fields: dict[int, tuple[str, str | int]], body: bytes = b"") -> bytes:
    """One as the bus sends it."""
    header = b""
    for code, (signature, value) in fields.items():
        header = pad(header, 8) + bytes([code, 1]) + signature.encode() + b"\0"
        if isinstance(value, int):
            header += struct.pack("<I", value)
        elif signature == "g":
            header += bytes([len(value)]) + value.encode() + b"\0"
        else:
            header += struct.pack("<I", len(value)) + value.encode() + b"\0"
    fixed = struct.pack("<BBBBIII", ord("l"), kind, 1, 1, len(body), 7, len(header))
    return pad(fixed + header, 8) + body


def text(value: str) -> bytes:
    return struct.pack("<I", len(value)) + value.encode() + b"\0"


def reply(serial: int, value: str | None, *, variant: bool = False) -> bytes:
    """What a call is answered with; None: nothing."""
    if value is None:
        return message(METHOD_RETURN, {5: ("u", serial)})
    body = (b"\1s\0\0" if variant else b"") + text(value)
    return message(METHOD_RETURN, {5: ("u", serial), 8: ("g", "v" if variant else "o")}, body)


class FakeBus:
    """Serve with `run`; `units` has the path of each process's unit, `states` the state of each path."""

    def __init__(self, socket: Path) -> None:
        self.socket = str(socket)
        self.units: dict[int, str] = {}
        self.states: dict[str, str] = {}
        self.calls: list[str] = []
        self.matches: list[str] = []
        self.is_subscribed = False
        self.is_hostile = False
        """Refuses each client."""
        self.streams: list[trio.SocketStream] = []
        self._sending = trio.Lock()

    async def run(
        self, *, task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with trio.socket.socket(trio.socket.AF_UNIX) as server:
            await server.bind(self.socket)
            server.listen()
            listener = trio.SocketListener(server)
            await trio.serve_listeners(self._serve, [listener], task_status=task_status)

    async def say(self, data: bytes) -> None:
        """Send it to the latest client: between the answers, which another task sends."""
        async with self._sending:
            await self.streams[-1].send_all(data)

    async def set_state(self, path: str, state: str) -> None:
        """It changes, and the bus sends a signal to those that have asked for it."""
        self.states[path] = state
        if self.is_subscribed and any(f"path='{path}'" in match for match in self.matches):
            fields: dict[int, tuple[str, str | int]] = {
                1: ("o", path), 2: ("s", "org.freedesktop.DBus.Properties"), 3: ("s", "PropertiesChanged"),
                7: ("s", ":1.1"), 8: ("g", "sa{sv}as"),
            }  # fmt: skip
            body = pad(text("org.freedesktop.systemd1.Unit"), 4) + bytes(12)
            await self.say(message(SIGNAL, fields, body))

    async def _serve(self, stream: trio.SocketStream) -> None:
        self.streams.append(stream)
        greeting = bytes(await stream.receive_some(200))
        assert re.fullmatch(rb"\0AUTH EXTERNAL ([0-9a-f]{2})+\r\n", greeting), greeting
        if self.is_hostile:
            await stream.send_all(b"REJECTED EXTERNAL\r\n")
            return
        await stream.send_all(b"OK 0123456789abcdef\r\n")
        assert await stream.receive_some(7) == b"BEGIN\r\n"
        unread = b""
        try:
            async for data in stream:
                unread += data
                while len(unread) >= 16:
                    body, serial, fields = struct.unpack_from("<III", unread, 4)
                    size = 16 + fields + -fields % 8 + body
                    if len(unread) < size:
                        break
                    [call] = MessageBuffer().feed_untrusted(unread[:size])
                    argument = struct.unpack_from("<I", unread, size - 4)[0]
                    async with self._sending:
                        await stream.send_all(self._answer(serial, call, argument))
                    unread = unread[size:]
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    def _answer(self, serial: int, call: BusMessage, argument: int) -> bytes:
        assert call.member is not None
        self.calls.append(call.member)
        match call.member:
            case "Subscribe":
                self.is_subscribed = True
            case "AddMatch":
                self.matches.append(call.text or "")
            case "RemoveMatch":
                self.matches.remove(call.text or "")
            case "GetUnitByPID" if argument in self.units:
                return reply(serial, self.units[argument])
            case "Get" if call.path in self.states:
                return reply(serial, self.states[call.path], variant=True)
            case "GetUnitByPID" | "Get":
                return message(
                    ERROR, {4: ("s", "org.x.NoSuchUnit"), 5: ("u", serial), 8: ("g", "s")}, text("no")
                )
            case _:
                pass
        return reply(serial, ":1.7" if call.member == "Hello" else None)
