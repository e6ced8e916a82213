"""The real resolver process, and containers that ask it: throw-away namespaces with resolver sockets in them."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import dns.message
import dns.rcode
import trio

from fakes import names
from netagent.datapath.endpoint import netns
from netagent.model.sandbox import SandboxId
from netagent.resolver.channel import SocketChannel, SocketPair, connect
from netagent.resolver.name_table import Table
from netagent.resolver.protocol import SOCKET_NAME
from netagent.resolver.supervisor import Supervisor
from netagent.resolver.system.launch import end_process

BOUND_S = 15.0
CLONE_NEWNET = 0x40000000

T = TypeVar("T")


def inside(netns: str, function: Callable[[], T]) -> T:
    """Call `function` in a namespace, in a thread that ends."""
    found: list[T] = []

    def visit() -> None:
        with Path(f"/run/netns/{netns}").open() as file:
            os.setns(file.fileno(), CLONE_NEWNET)
        found.append(function())

    thread = threading.Thread(target=visit)
    thread.start()
    thread.join()
    return found[0]


class Container:
    """A namespace with resolver sockets in it, and a client."""

    def __init__(self, netns: str) -> None:
        self.netns = netns

    def pair(self) -> SocketPair:
        """As an agent makes them: port 53 is led to them."""
        return SocketPair(*inside(self.netns, netns._make_redirected_sockets))

    def bound(self) -> SocketPair:
        """As earlier releases made them: they have port 53 themselves."""

        def make() -> SocketPair:
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            for one in (udp, tcp):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                one.bind(("127.0.0.11", 53))
            tcp.listen(16)
            return SocketPair(udp, tcp)

        return inside(self.netns, make)

    def asker(self) -> trio.socket.SocketType:
        one = inside(self.netns, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        one.connect(("127.0.0.11", 53))
        one.setblocking(False)
        return trio.socket.from_stdlib_socket(one)

    async def ask(self, name: str, rtype: str = "A") -> list[str]:
        """Ask once, with the patience of a stub; the records, sorted."""
        answer = await self.ask_whole(name, rtype)
        return sorted(str(one) for rrset in answer.answer for one in rrset)

    async def ask_code(self, name: str, rtype: str = "A") -> str:
        """The rcode's name."""
        return dns.rcode.to_text((await self.ask_whole(name, rtype)).rcode())

    async def ask_whole(self, name: str, rtype: str) -> dns.message.Message:
        query = dns.message.make_query(name, rtype)
        with self.asker() as sock, trio.fail_after(BOUND_S):
            await sock.send(query.to_wire())
            answer = dns.message.from_wire(await sock.recv(4096))
        assert answer.id == query.id
        return answer

    async def ask_tcp(self, name: str) -> list[str]:
        query = dns.message.make_query(name, "A").to_wire()
        one = inside(self.netns, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        one.setblocking(False)
        with trio.socket.from_stdlib_socket(one) as sock, trio.fail_after(BOUND_S):
            await sock.connect(("127.0.0.11", 53))
            stream = trio.SocketStream(sock)
            await stream.send_all(struct.pack("!H", len(query)) + query)
            data = b""
            while len(data) < 2 or len(data) < 2 + struct.unpack_from("!H", data)[0]:
                data += await stream.receive_some()
        answer = dns.message.from_wire(data[2:])
        return sorted(str(one) for rrset in answer.answer for one in rrset)


def supervisor(run_dir: Path, release: str = "test") -> Supervisor:
    return Supervisor(run_dir, release=release, resolv_conf=run_dir / "resolv.conf")


def process_id_of(one: Supervisor) -> int:
    found = one.status()["process_id"]
    assert isinstance(found, int)
    return found


@contextlib.asynccontextmanager
async def agent(run_dir: Path, *, stop: bool = False, release: str = "test") -> AsyncIterator[Supervisor]:
    """An agent that lives as long as the block; at its end the process is left alone, or stopped."""
    one = supervisor(run_dir, release)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run)
        try:
            yield one
        finally:
            if stop:
                with trio.CancelScope(shield=True):
                    await one.stop()
            nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def ended(run_dir: Path) -> AsyncIterator[None]:
    """Whatever happens, no process is left."""
    try:
        yield
    finally:
        with trio.CancelScope(shield=True), contextlib.suppress(OSError):
            with SocketChannel(await connect(run_dir / SOCKET_NAME)) as channel:
                process_id = channel.peer_process
            await end_process(process_id)


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(BOUND_S):
        while not condition():
            await trio.sleep(0.01)


def children_of(process_id: int) -> list[int]:
    """The part of a resolver process that answers."""
    listed = Path(f"/proc/{process_id}/task/{process_id}/children").read_text(encoding="ascii")
    return [int(one) for one in listed.split()]


def gone(process_id: int) -> bool:
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


async def serve(
    one: Supervisor, container: Container, table: Table | None = None, *, behind_runtime: bool = False
) -> None:
    """Publish and add the one container as sandbox `c`."""
    await one.add_sandbox(SandboxId("c"), *container.pair(), behind_runtime=behind_runtime)
    assert await one.publish(names.world() if table is None else table)
