"""A control group as the root of a host, clients and backends in namespaces on one bridge, and the tables of service
addresses between them.

A program of the test runs as a client in the group and in a namespace. What it does there is a few lines of Python,
which use the functions of `_PRELUDE` and set `result`.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import trio

from harness.namespaces import Namespace, NamespaceFactory, make_bridge, make_veth
from netagent.datapath.endpoint.netns import opened_netns, run_in_netns
from netagent.datapath.reconcile.drift import Drift
from netagent.datapath.sockets.cgroup_root import cgroup_mounts
from netagent.datapath.sockets.layout import PLACES, Member, ServiceEntry
from netagent.datapath.sockets.service_tables import ServiceTables
from netagent.model.records import ServicePort

VNI = 77
RANGE4, RANGE6 = "10.98.0.0/16", "fd98::/64"
"""Of service addresses."""
SO_NETNS_COOKIE = 71
COMMAND_S = 30.0

_SERVER = """
import json, selectors, socket, sys
name, ports = sys.argv[1], [int(word) for word in sys.argv[2:]]
sel = selectors.DefaultSelector()
def add(kind, port):
    sock = socket.socket(socket.AF_INET6, kind)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("::", port))
    return sock
for port in ports:
    listener = add(socket.SOCK_STREAM, port)
    listener.setsockopt(socket.IPPROTO_TCP, 23, 16)  # TCP_FASTOPEN
    listener.listen(512)
    sel.register(listener, selectors.EVENT_READ, "listener")
    sel.register(add(socket.SOCK_DGRAM, port), selectors.EVENT_READ, "datagrams")
print("ready", flush=True)
def answer(peer):
    return f"{name} {peer[0].removeprefix('::ffff:')}".encode()
while True:
    for key, _ in sel.select():
        sock = key.fileobj
        if key.data == "listener":
            made, peer = sock.accept()
            sel.register(made, selectors.EVENT_READ, peer)
        elif key.data == "datagrams":
            _, peer = sock.recvfrom(2000)
            sock.sendto(answer(peer), peer)
        else:
            try:
                data = sock.recv(2000)
                if data:
                    sock.sendall(answer(key.data))
            except OSError:
                data = b""
            if not data:
                sel.unregister(sock)
                sock.close()
"""
"""A backend: each TCP connection and each datagram is answered with its name and the address of the client."""

_PRELUDE = """
import errno, json, os, select, socket, struct, sys, time
def family(address): return socket.AF_INET6 if ":" in address else socket.AF_INET
def connected(address, port, kind=socket.SOCK_STREAM, protocol=0):
    sock = socket.socket(family(address), kind, protocol)
    sock.settimeout(5)
    sock.connect((address, port))
    return sock
def end(name): return f"{name[0]} {name[1]}"
def of(error): return errno.errorcode[error.errno] if error.errno else type(error).__name__
def tcp(address, port, protocol=0):
    try:
        with connected(address, port, protocol=protocol) as sock:
            sock.send(b"x")
            return [sock.recv(99).decode(), end(sock.getpeername())]
    except OSError as error: return of(error)
def udp(address, port):
    try:
        with socket.socket(family(address), socket.SOCK_DGRAM) as sock:
            sock.settimeout(5)
            sock.sendto(b"x", (address, port))
            data, name = sock.recvfrom(99)
            return [data.decode(), end(name)]
    except OSError as error: return of(error)
def connected_udp(address, port):
    try:
        with connected(address, port, socket.SOCK_DGRAM) as sock:
            sock.send(b"x")
            data, name = sock.recvfrom(99)
            return [data.decode(), end(name), end(sock.getpeername())]
    except OSError as error: return of(error)
"""


@dataclass(frozen=True)
class Client:
    """A namespace whose programs run in the control group."""

    namespace: Namespace
    group: Path
    cookie: int

    def command(self, words: Sequence[str]) -> list[str]:
        enter = 'echo 0 > "$1/cgroup.procs"; shift; exec "$@"'
        return ["sh", "-c", enter, "sh", str(self.group), "ip", "netns", "exec", self.namespace.name, *words]

    def start(self, code: str, by: Sequence[str] = ()) -> subprocess.Popen[str]:
        """Run lines of Python, `by` a command that takes a command."""
        words = self.command([*by, sys.executable, "-c", f"{_PRELUDE}\n{code}\nprint(json.dumps(result))"])
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, code: str, by: Sequence[str] = ()) -> Any:
        """Run lines of Python, and return what they left in `result`."""
        return result_of(self.start(code, by))

    async def call(self, code: str, by: Sequence[str] = ()) -> Any:
        """Do the same, while the event loop goes on."""
        return await trio.to_thread.run_sync(self.run, code, by)


def result_of(process: subprocess.Popen[str]) -> Any:
    output, errors = process.communicate(timeout=COMMAND_S)
    assert process.returncode == 0, errors
    return json.loads(output)


@contextmanager
def control_group(parent: Path | None = None) -> Iterator[Path]:
    """A control group of version 2, in the place of the root."""
    if parent is None:
        mounts = cgroup_mounts(Path("/proc/self/mountinfo").read_text("utf-8"))
        parent = Path(mounts[0].path)
    group = parent / f"nt4-{secrets.token_hex(3)}"
    group.mkdir()
    try:
        yield group
    finally:
        _remove_group(group)


def _remove_group(group: Path) -> None:
    """With the programs that a failed test left in it. The kernel takes a moment to note their ends."""
    deadline = time.monotonic() + 10.0
    while True:
        with suppress(FileNotFoundError):
            for number in (group / "cgroup.procs").read_text().split():
                with suppress(ProcessLookupError):
                    os.kill(int(number), 9)
            try:
                group.rmdir()
            except OSError:
                assert time.monotonic() < deadline, f"{group} is busy"
                time.sleep(0.01)
                continue
        return


@contextmanager
def version_1_group(hierarchy: Path) -> Iterator[Path]:
    """A group of a controller of version 1."""
    group = hierarchy / f"nt4-{secrets.token_hex(3)}"
    group.mkdir()
    try:
        yield group
    finally:
        _remove_group(group)


@dataclass(frozen=True)
class Network:
    """Clients and backends, which all reach each other. Each has the local routes that a sandbox has."""

    group: Path
    clients: tuple[Client, ...]
    backends: dict[str, tuple[str, str]]
    """Name -> its addresses."""

    def entry(
        self,
        address: str,
        *backends: str,
        ports: Iterable[ServicePort] = (),
        is_sticky: bool = False,
        vni: int = VNI,
        shares: Sequence[int] = (),
    ) -> ServiceEntry:
        """A service with these backends, by name or address, in all places: in turn, or by `shares`."""
        packed = ip_address(address).packed
        addresses = []
        for name in backends:
            text = self.backends[name][len(packed) == 16] if name in self.backends else name
            addresses.append(ip_address(text).packed)
        if shares:
            places = tuple(
                address for address, share in zip(addresses, shares, strict=True) for _ in range(share)
            )
        else:
            places = (
                tuple(addresses[number % len(addresses)] for number in range(PLACES)) if addresses else ()
            )
        return ServiceEntry(packed, vni, places, tuple(ports), is_sticky)


@contextmanager
def open_network(
    namespaces: NamespaceFactory, *, clients: int = 1, backends: int = 3, ports: Sequence[int] = (80, 8080)
) -> Iterator[Network]:
    with ExitStack() as undo:
        group = undo.enter_context(control_group())
        host = namespaces("h")
        host.run("ip link set lo up")
        make_bridge(host, "bridge", "10.97.0.1/24", "fd97::1/64")
        made = []
        for number in range(1, clients + 1):
            space = _inhabit(host, namespaces(f"c{number}"), f"c{number}", number + 10)
            made.append(Client(space, group, cookie_of(space)))
        names = {}
        for number in range(1, backends + 1):
            space = _inhabit(host, namespaces(f"b{number}"), f"b{number}", number + 100)
            undo.enter_context(serve(space, f"b{number}", ports))
            names[f"b{number}"] = f"10.97.0.{number + 100}", f"fd97::{number + 100}"
        yield Network(group, tuple(made), names)


def _inhabit(host: Namespace, space: Namespace, name: str, number: int) -> Namespace:
    space.run("ip link set lo up")
    make_veth(host, f"v{name}", space, f"10.97.0.{number}/24", f"fd97::{number}/64", bridge="bridge")
    space.run(f"ip route add local {RANGE4} dev lo src 10.97.0.{number}")
    space.run(f"ip -6 route add local {RANGE6} dev lo")
    space.run("sysctl -qw net.ipv4.ping_group_range=0")
    return space


@contextmanager
def serve(space: Namespace, name: str, ports: Sequence[int]) -> Iterator[None]:
    words = ["ip", "netns", "exec", space.name, sys.executable, "-c", _SERVER, name, *map(str, ports)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()


def cookie_of(space: Namespace) -> int:
    async def ask() -> int:
        with opened_netns(space.path) as fd:
            sock = await run_in_netns(fd, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        with sock:
            return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8), sys.byteorder)

    return trio.run(ask)


def open_group(group: Path) -> int:
    return os.open(group, os.O_RDONLY | os.O_DIRECTORY)


@asynccontextmanager
async def open_tables(
    network: Network,
    *entries: ServiceEntry,
    members: Iterable[Member] | None = None,
    drift: Drift | None = None,
) -> AsyncIterator[ServiceTables]:
    """Tables that are in the kernel; all clients are members. Detached at the end."""
    async with running_tables(network.group, drift=drift) as tables:
        if members is None:
            members = [Member(client.cookie, VNI) for client in network.clients]
        await tables.set_members(members)
        await tables.replace_services({entry.address: entry for entry in entries})
        try:
            yield tables
        finally:
            with trio.CancelScope(shield=True):
                await tables.detach_all()


@asynccontextmanager
async def running_tables(group: Path, *, drift: Drift | None = None) -> AsyncIterator[ServiceTables]:
    """The driver, as an agent that starts and ends."""
    tables = ServiceTables(drift or Drift(), open_root=lambda: open_group(group))
    async with trio.open_nursery() as nursery:
        await nursery.start(tables.run)
        yield tables
        nursery.cancel_scope.cancel()
