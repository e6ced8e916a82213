"""A system bus with one systemd behind it, on a socket: units by their processes, and signals to those that asked."""

from __future__ import annotations

import re
from pathlib import Path

import trio
from jeepney import DBusAddress, HeaderFields, Message, new_error, new_method_return, new_signal
from jeepney.low_level import Parser


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
        self.is_silent = False
        """Closes the connection of each client instead of an answer."""
        self.streams: list[trio.SocketStream] = []
        self._serial = 0
        self._sending = trio.Lock()

    async def run(
        self, *, task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with trio.socket.socket(trio.socket.AF_UNIX) as server:
            await server.bind(self.socket)
            server.listen()
            listener = trio.SocketListener(server)
            await trio.serve_listeners(self._serve, [listener], task_status=task_status)

    async def set_state(self, path: str, state: str) -> None:
        """It changes, and the bus sends a signal to those that have asked for it."""
        self.states[path] = state
        if self.is_subscribed and any(f"path='{path}'" in match for match in self.matches):
            unit = DBusAddress(path, interface="org.freedesktop.DBus.Properties")
            said = new_signal(
                unit, "PropertiesChanged", "sa{sv}as", ("org.freedesktop.systemd1.Unit", {}, [])
            )
            await self._send(self.streams[-1], said)

    async def _send(self, stream: trio.SocketStream, message: Message) -> None:
        self._serial += 1
        async with self._sending:
            await stream.send_all(message.serialise(self._serial))

    async def _serve(self, stream: trio.SocketStream) -> None:
        self.streams.append(stream)
        greeting = bytes(await stream.receive_some(200))
        assert re.fullmatch(rb"\0AUTH EXTERNAL ([0-9a-f]{2})+\r\n", greeting), greeting
        if self.is_silent:
            return
        if self.is_hostile:
            await stream.send_all(b"REJECTED EXTERNAL\r\n")
            return
        await stream.send_all(b"OK 0123456789abcdef\r\n")
        assert await stream.receive_some(7) == b"BEGIN\r\n"
        parser = Parser()
        try:
            async for data in stream:
                for call in parser.feed(data):
                    await self._send(stream, self._answer(call))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    def _answer(self, call: Message) -> Message:
        member, path = call.header.fields[HeaderFields.member], call.header.fields[HeaderFields.path]
        self.calls.append(member)
        match member, call.body:
            case "Hello", _:
                return new_method_return(call, "s", (":1.7",))
            case "Subscribe", _:
                self.is_subscribed = True
            case "AddMatch", (rule,):
                self.matches.append(rule)
            case "RemoveMatch", (rule,):
                self.matches.remove(rule)
            case "GetUnitByPID", (process,) if process in self.units:
                return new_method_return(call, "o", (self.units[process],))
            case "Get", _ if path in self.states:
                return new_method_return(call, "v", (("s", self.states[path]),))
            case _:
                return new_error(call, "org.x.NoSuchUnit", "s", ("no",))
        return new_method_return(call)
