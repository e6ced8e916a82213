"""wireguard-go as a process of its own: WireGuard in user space, for kernels without it.

The tun device is ours and persistent: it keeps name, alias, addresses, MTU and routes while there is no process, and
drops what is sent to it. So nothing changes its way when the process dies, and the next one finds everything but its
keys and peers, which only it holds.

The process is started in a session of its own with CAP_NET_ADMIN as its only capability, and outlives the agent, as
the resolver process does. It is found by its socket, `/run/wireguard/NAME.sock`, where `wg show NAME` finds it as
well; keys go to it only over that. wireguard-go makes the socket for root alone. It runs with its log off, which has
no bound.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import trio

from netagent.errors import FailedError
from netagent.tunnel.peer import DeviceReading, PeerChange
from netagent.tunnel.uapi import (
    END,
    GET,
    RESPONSE_LIMIT_BYTES,
    UapiError,
    check_done_untrusted,
    encode_set,
    parse_state_untrusted,
)

PROGRAM: Final = "wireguard-go"
_SOCKETS: Final = Path("/run/wireguard")
_TUN: Final = "/dev/net/tun"

_START_S: Final = 5.0
"""It takes some 20 ms on an idle machine."""
_LOOK_S: Final = 0.01
"""Between two attempts to reach a process that starts."""
_ANSWER_S: Final = 5.0
"""How long one answer may take. It has some microseconds' work for each peer."""
_TERM_S: Final = 2.0
"""Between SIGTERM and SIGKILL. It has nothing to save."""

_TUNSETIFF, _TUNSETPERSIST = 0x400454CA, 0x400454CB
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x1, 0x1000, 0x4000
_INTERFACE: Final = struct.Struct("=16sH22x")  # struct ifreq: name, flags
_CREDENTIALS: Final = struct.Struct("=iII")  # struct ucred: process, user, group


def find_program() -> str | None:
    """Return the path of wireguard-go; None if it is not installed."""
    return shutil.which(PROGRAM)


def require_program() -> None:
    """Raise FailedError unless this host can encrypt by wireguard-go."""
    if find_program() is None:
        raise FailedError(
            f"this host cannot encrypt: its kernel has no WireGuard, and {PROGRAM} is not installed",
            code="no-wireguard",
            thing=PROGRAM,
            hint=f"install it with: apt install {PROGRAM}",
        )
    try:
        os.close(os.open(_TUN, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise FailedError(
            f"this host cannot encrypt: {_TUN} cannot be opened: {error.strerror}",
            code="no-tun",
            thing=_TUN,
            hint="load the kernel's module with: modprobe tun; in a container, pass the device to it",
        ) from None


def create_tun(name: str) -> None:
    """Create a tun device that stays without a process: down, and not yet marked. OSError.

    The flags must be those that wireguard-go sets, or it can't open the device: packets without a head of their own,
    but with one that describes segmentation offload.
    """
    descriptor = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(
            descriptor, _TUNSETIFF, _INTERFACE.pack(name.encode(), _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR)
        )
        fcntl.ioctl(descriptor, _TUNSETPERSIST, 1)
    finally:
        os.close(descriptor)


class WireguardGoProcess:
    """A running process. Close it when it is no longer watched; the process lives on."""

    backend: Final[Literal["wireguard-go"]] = "wireguard-go"

    def __init__(self, name: str, process_id: int, descriptor: int) -> None:
        self._name = name
        self.process_id = process_id
        self._descriptor = descriptor

    @property
    def ending(self) -> str:
        """What to say when it has ended."""
        return f"{PROGRAM}, process {self.process_id}, has ended"

    def close(self) -> None:
        """Stop watching."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    async def ended(self) -> None:
        """Return when the process has ended. Several tasks may wait, also when `close` is called meanwhile."""
        own = os.dup(self._descriptor)  # trio allows one waiting task per descriptor
        try:
            await trio.lowlevel.wait_readable(own)
        finally:
            os.close(own)
        with contextlib.suppress(ChildProcessError):  # adopted: it is another's child
            os.waitid(os.P_PID, self.process_id, os.WEXITED | os.WNOHANG)  # noqa: ASYNC222 - it has ended

    def kill(self) -> None:
        """Send SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    async def end(self) -> None:
        """Send SIGTERM, eventually SIGKILL, and return when the process is gone."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, number)
            with trio.move_on_after(_TERM_S):
                await self.ended()
                return

    async def read(self) -> DeviceReading:
        """Read the device with its peers. FailedError."""
        try:
            return parse_state_untrusted(await _ask(self._name, GET))
        except (OSError, UapiError) as error:
            raise FailedError(f"{PROGRAM} does not answer: {error}", thing=self._name) from error

    async def configure(
        self,
        *,
        private_key: bytes | None = None,
        port: int | None = None,
        changes: Sequence[PeerChange] = (),
    ) -> None:
        """Make these changes. FailedError."""
        request = encode_set(private_key=private_key, port=port, changes=changes)
        try:
            check_done_untrusted(await _ask(self._name, request))
        except (OSError, UapiError) as error:
            raise FailedError(f"{PROGRAM} does not take its settings: {error}", thing=self._name) from error


async def find_process(name: str) -> WireguardGoProcess | None:
    """Return the process that serves the device; None: there is none. OSError."""
    try:
        with await _connect(name) as connection:
            raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    process_id, user, _group = _CREDENTIALS.unpack(raw)
    if user != os.geteuid():
        raise PermissionError(f"{socket_path(name)} belongs to user {user}")
    try:
        return WireguardGoProcess(name, process_id, os.pidfd_open(process_id))
    except ProcessLookupError:
        return None


async def start_process(name: str) -> WireguardGoProcess:
    """Start a process for an existing device, and return when it answers. OSError.

    Not to be cancelled half way: the process would run without anything knowing it.
    """
    program = find_program()
    if program is None:
        raise FileNotFoundError(f"{PROGRAM} is not installed")
    with trio.CancelScope(shield=True):
        _SOCKETS.mkdir(mode=0o700, exist_ok=True)
        process_id = _spawn(program, name)
        descriptor = os.pidfd_open(process_id)
        process = WireguardGoProcess(name, process_id, descriptor)
        with trio.move_on_after(_START_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when_ended, process, nursery.cancel_scope)
                while not await _answers(name, process_id):
                    await trio.sleep(_LOOK_S)
                nursery.cancel_scope.cancel()
        if await _answers(name, process_id):
            return process
        process.kill()
        await process.ended()
        process.close()
    raise OSError(f"{PROGRAM} did not start to serve {name}")


async def _answers(name: str, process_id: int) -> bool:
    found = await find_process(name)
    if found is None:
        return False
    found.close()
    return found.process_id == process_id


async def _cancel_when_ended(process: WireguardGoProcess, scope: trio.CancelScope) -> None:
    await process.ended()
    scope.cancel()


def _spawn(program: str, name: str) -> int:
    # setpriv becomes wireguard-go, so the process id is its own. As root it would have all capabilities of the agent.
    arguments = ["setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all,+net_admin"]
    arguments += [program, "-f", name]
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LOG_LEVEL": "silent"}
    # All other descriptors are closed: the HTTP server makes the agent's listening sockets inheritable. A process
    # that outlives the agent would hold them, and no further agent could listen there.
    process = subprocess.Popen(
        arguments,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        close_fds=True,
        start_new_session=True,
    )
    process.returncode = 0  # it is watched by its descriptor, and not waited for here
    return process.pid


def socket_path(name: str) -> Path:
    """Return the path of the process's socket."""
    return _SOCKETS / f"{name}.sock"


def remove_socket(name: str) -> None:
    """Remove what an ended process has left."""
    socket_path(name).unlink(missing_ok=True)


async def _connect(name: str) -> trio.socket.SocketType:
    connection = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        await connection.connect(str(socket_path(name)))
    except BaseException:
        connection.close()
        raise
    return connection


async def _ask(name: str, request: bytes) -> bytes:
    """Send a request to the device's process and return the whole response. OSError, UapiError."""
    with trio.move_on_after(_ANSWER_S):
        with await _connect(name) as connection:
            await _send_all(connection, request)
            response = bytearray()
            while not response.endswith(END):
                part = await connection.recv(1 << 16)
                if not part:
                    raise ConnectionError(f"{PROGRAM} closed the connection")
                response += part
                if len(response) > RESPONSE_LIMIT_BYTES:
                    raise UapiError("the response is too long")
            return bytes(response)
    raise TimeoutError(f"{PROGRAM} is silent for {_ANSWER_S:g} s")


async def _send_all(connection: trio.socket.SocketType, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[await connection.send(left) :]
