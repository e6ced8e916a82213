"""Hosts with a tunnel of their own: namespaces, each with an agent's part of the tunnel (tunnel_host.py)."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.namespaces import Namespace, NamespaceFactory, throwaway_namespaces
from netagent.tunnel.keys import preshared_key, private_key_from, public_key_of

HOST_PROGRAM = Path(__file__).with_name("tunnel_host.py")
PORT = 7959
MTU_BYTES = 1420

SERVER = """
import socket, sys
listener = socket.create_server(("::", 9000), family=socket.AF_INET6)
print("listens", flush=True)
connection, _ = listener.accept()
count = 0
while part := connection.recv(1 << 16):
    count += len(part)
print(count, flush=True)
"""

CLIENT = """
import socket, sys, time
connection = socket.create_connection((sys.argv[1], 9000), timeout=30)
part, count = bytes(1 << 16), 0
end = time.monotonic() + float(sys.argv[2])
print("connected", flush=True)
while time.monotonic() < end:
    connection.sendall(part)
    count += len(part)
connection.shutdown(socket.SHUT_WR)
print(count, flush=True)
"""


@dataclass
class Host:
    """A namespace with a tunnel's agent in it, which can be restarted."""

    number: int
    namespace: Namespace
    sockets: Path
    private_key: bytes = field(default_factory=lambda: private_key_from(secrets.token_bytes(32)))
    agent: subprocess.Popen[str] | None = None

    @property
    def public_key(self) -> bytes:
        return public_key_of(self.private_key)

    @property
    def address(self) -> str:
        return f"fd77::{self.number}"

    def start(self) -> None:
        words = [
            "ip",
            "netns",
            "exec",
            self.namespace.name,
            sys.executable,
            str(HOST_PROGRAM),
            str(self.sockets),
        ]
        self.agent = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def stop(self) -> None:
        if self.agent is not None:
            assert self.agent.stdin is not None
            self.agent.stdin.close()
            self.agent.wait(timeout=10)
            assert self.agent.stdout is not None
            self.agent.stdout.close()
            self.agent = None

    def ask(self, command: str, **said: Any) -> Any:
        assert self.agent is not None
        assert self.agent.stdin is not None
        assert self.agent.stdout is not None
        self.agent.stdin.write(json.dumps([command, said]) + "\n")
        self.agent.stdin.flush()
        answer = json.loads(self.agent.stdout.readline())
        assert "done" in answer, answer
        return answer["done"]

    def ensure(self) -> None:
        key, addresses = self.private_key.hex(), [f"{self.address}/64"]
        self.ask("ensure", private_key=key, port=PORT, addresses=addresses, mtu_bytes=MTU_BYTES)

    def set_peers(self, *others: Host, ring: bytes = b"ring") -> None:
        self.ask("peers", peers=[self.peer(other, ring) for other in others])

    def peer(self, other: Host, ring: bytes) -> dict[str, Any]:
        shared = preshared_key(ring, self.public_key, other.public_key, 1)
        return {
            "public_key": other.public_key.hex(),
            "preshared_key": shared.hex(),
            "endpoint": [f"192.0.2.{other.number}", PORT],
            "allowed": [f"{other.address}/128"],
        }

    @property
    def process_id(self) -> int | None:
        found: int | None = self.ask("process")["id"]
        return found

    def reaches(self, other: Host, seconds: int = 2) -> bool:
        return self.namespace.try_run(f"ping -6 -c 1 -W {seconds} {other.address}").returncode == 0

    @contextmanager
    def stream_to(self, other: Host, seconds: float) -> Iterator[Callable[[], int]]:
        """A TCP stream. The yielded function waits for its end, and returns the bytes that came: all that were
        sent."""
        with (
            other.namespace.running(SERVER) as server,
            _line(server, "listens"),
            self.namespace.running(CLIENT, other.address, str(seconds)) as client,
            _line(client, "connected"),
        ):

            def finish() -> int:
                assert client.stdout is not None
                assert server.stdout is not None
                sent = client.stdout.readline()
                received = server.stdout.readline()
                assert sent
                assert sent == received
                return int(sent)

            yield finish


@contextmanager
def _line(program: subprocess.Popen[str], wanted: str) -> Iterator[None]:
    assert program.stdout is not None
    assert program.stdout.readline().strip() == wanted
    yield


def await_that(condition: Callable[[], bool], seconds: float = 10.0) -> float:
    """Wait for the condition; return how long it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        time.sleep(0.02)
    return time.monotonic() - began


@contextmanager
def tunnel_hosts(folder: Path) -> Iterator[Callable[[int], list[Host]]]:
    """Give a function that makes hosts, connected to each other and with a device each."""
    with throwaway_namespaces() as make, ExitStack() as cleanup:

        def hosts(count: int) -> list[Host]:
            made = [one_host(make, number, folder, cleanup) for number in range(1, count + 1)]
            join(make("fabric"), made)
            for host in made:
                host.ensure()
            return made

        yield hosts


def one_host(make: NamespaceFactory, number: int, folder: Path, cleanup: ExitStack) -> Host:
    sockets = folder / f"host{number}"
    sockets.mkdir()
    host = Host(number, make(f"host{number}"), sockets)
    host.namespace.run("ip link set lo up")
    cleanup.callback(host.stop)
    host.start()
    return host


def join(fabric: Namespace, hosts: list[Host]) -> None:
    fabric.run("ip link add fabric type bridge")
    fabric.run("ip link set fabric up")
    for host in hosts:
        fabric.run(f"ip link add port{host.number} type veth peer name wire netns {host.namespace.name}")
        fabric.run(f"ip link set port{host.number} master fabric up")
        host.namespace.run(f"ip addr add 192.0.2.{host.number}/24 dev wire")
        host.namespace.run("ip link set wire up")
