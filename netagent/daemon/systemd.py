"""The service manager (systemd): what it passes to the agent, and what the agent tells it.

    LISTEN_PID LISTEN_FDS LISTEN_FDNAMES   sockets that were listening before the agent ran; from descriptor 3 on
    NOTIFY_SOCKET                          where to say READY=1, STATUS=…, STOPPING=1, WATCHDOG=1: one datagram each
    WATCHDOG_PID WATCHDOG_USEC             how long the agent may be silent before it is killed and started again

The protocols are those of sd_listen_fds(3), sd_notify(3) and sd_watchdog_enabled(3); without the variables nothing
happens, so the agent runs the same from a shell. The variables are removed from the environment: they are addressed
to this process, and the resolver process, which it starts, must not speak for it. A task of the event loop sends
WATCHDOG=1, so a loop that hangs is detected; a thread would keep sending it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import socket
from collections.abc import Mapping, MutableMapping
from typing import Final

import trio

from netagent.errors import InputError

FIRST_DESCRIPTOR: Final = 3
"""SD_LISTEN_FDS_START."""

MAX_SOCKETS: Final = 16
"""The agent has three. More is a mistake in a unit."""

_PINGS_A_PERIOD: Final = 3
"""sd_watchdog_enabled(3) recommends two; one more may be late by a whole interval on a busy host."""

_VARIABLES: Final = (
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
)

_log = logging.getLogger("netagent.daemon.systemd")


class ServiceManager:
    """One process's side of the protocols. Create it once, before anything is started."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        """Remove what is addressed to this process from `environment`.

        Raises InputError when it names descriptors that are not sockets, or that do not listen.
        """
        given = {name: environment.pop(name) for name in _VARIABLES if name in environment}
        self._notify_address = _address(given.get("NOTIFY_SOCKET", ""))
        self._patience_s = _patience_s(given)
        self._sockets = _inherited_sockets(given)

    def take_socket(self, name: str) -> socket.socket | None:
        """The listening stream socket of that FileDescriptorName=, None when there is none. The caller owns it."""
        return self._sockets.pop(name, None)

    def tell_ready(self, status: str) -> None:
        """Tell that the agent serves; `systemctl status` shows the sentence. Sockets that were not taken are
        closed."""
        for name, listener in self._sockets.items():
            _log.warning("no part of the agent uses the socket %r that was passed to it", name)
            listener.close()
        self._sockets.clear()
        self._tell("READY=1", f"STATUS={_one_line(status)}")

    def tell_status(self, status: str) -> None:
        """Set the sentence of `systemctl status`."""
        self._tell(f"STATUS={_one_line(status)}")

    def tell_stopping(self) -> None:
        """Tell that the agent has begun to stop."""
        self._tell("STOPPING=1")

    async def run_watchdog(self) -> None:
        """Report that the event loop is alive, until cancelled; returns at once where no watchdog is set.

        The watchdog ends a silent process with SIGABRT: then standard error gets a traceback of every thread, which
        shows where the loop hung.
        """
        if self._patience_s is None:
            return
        faulthandler.enable()
        while True:
            self._tell("WATCHDOG=1")
            await trio.sleep(self._patience_s / _PINGS_A_PERIOD)

    def _tell(self, *lines: str) -> None:
        if self._notify_address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode(), self._notify_address)
        except OSError as error:
            # Its queue is full, or it is gone: what matters is sent again, or the service manager acts on silence.
            _log.warning("cannot tell the service manager %s: %s", lines[0], error.strerror or error)


def _address(text: str) -> str | bytes | None:
    """Return an address for sendto; `@` at the front stands for the abstract namespace."""
    if text.startswith("@"):
        return b"\0" + os.fsencode(text[1:])
    return text if text.startswith("/") else None


def _patience_s(given: Mapping[str, str]) -> float | None:
    if given.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = given.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isascii() and text.isdigit() and int(text) > 0 else None


def _inherited_sockets(given: Mapping[str, str]) -> dict[str, socket.socket]:
    count = given.get("LISTEN_FDS", "")
    if given.get("LISTEN_PID") != str(os.getpid()) or not (count.isascii() and count.isdigit()):
        return {}
    if int(count) > MAX_SOCKETS:
        raise InputError(
            f"{count} sockets were passed to the agent, which takes at most {MAX_SOCKETS}",
            thing="LISTEN_FDS",
            hint="remove the .socket units that name netagent.service but do not belong to it",
        )
    names = given.get("LISTEN_FDNAMES", "").split(":")
    names += ["unknown"] * (int(count) - len(names))
    sockets: dict[str, socket.socket] = {}
    with contextlib.ExitStack() as undo:
        for descriptor, name in enumerate(names[: int(count)], FIRST_DESCRIPTOR):
            sockets[name] = undo.enter_context(_listener(descriptor, name, taken=name in sockets))
        undo.pop_all()
    return sockets


def _listener(descriptor: int, name: str, *, taken: bool) -> socket.socket:
    problem = "has the same name as another one" if taken else ""
    with contextlib.ExitStack() as undo:
        try:
            os.set_inheritable(descriptor, False)
            listener = undo.enter_context(socket.socket(fileno=descriptor))
            if listener.family != socket.AF_UNIX or listener.type != socket.SOCK_STREAM:
                problem = "is not a unix stream socket"
            elif not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                problem = "does not listen"
            if not problem:
                undo.pop_all()
                return listener
        except OSError:
            problem = "is not a socket"
    raise InputError(
        f"descriptor {descriptor} ({name}), passed to the agent as a socket, {problem}",
        thing=name,
        hint="correct ListenStream= and FileDescriptorName= in the .socket unit",
    )


def _one_line(text: str) -> str:
    """Remove line breaks, which would begin another assignment."""
    return " ".join(text.split())
