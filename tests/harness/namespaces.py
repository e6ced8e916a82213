"""Throw-away network namespaces, and what joins them: a cable, a bridge, a container's veth."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

COMMAND_S = 20.0


@dataclass(frozen=True)
class Namespace:
    name: str

    @property
    def path(self) -> str:
        return f"/run/netns/{self.name}"

    @property
    def identity(self) -> tuple[int, int]:
        status = Path(self.path).stat()
        return status.st_dev, status.st_ino

    def try_run(self, command: str) -> subprocess.CompletedProcess[str]:
        words = ["ip", "netns", "exec", self.name, *command.split()]
        return subprocess.run(words, capture_output=True, text=True, timeout=COMMAND_S, check=False)

    def run(self, command: str) -> str:
        done = self.try_run(command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def run_code(self, code: str) -> None:
        """A few lines of Python in there."""
        words = ["ip", "netns", "exec", self.name, sys.executable, "-c", code]
        subprocess.run(words, capture_output=True, timeout=COMMAND_S, check=True)

    def run_python(self, code: str, *arguments: str) -> str:
        """What a few lines of Python print in there, with these arguments."""
        words = ["ip", "netns", "exec", self.name, sys.executable, "-c", code, *arguments]
        done = subprocess.run(words, capture_output=True, text=True, timeout=COMMAND_S, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextmanager
    def running(self, code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A few lines of Python that run in there for the length of a block."""
        words = ["ip", "netns", "exec", self.name, sys.executable, "-c", code, *arguments]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as program:
            try:
                yield program
            finally:
                program.kill()

    def remove(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], check=True, timeout=COMMAND_S)


NamespaceFactory = Callable[[str], Namespace]


@contextmanager
def throwaway_namespaces() -> Iterator[NamespaceFactory]:
    """Make namespaces by a short label each. All go at the end, with the programs that a failed test left in them."""
    token = secrets.token_hex(3)
    with ExitStack() as cleanup:

        def make(label: str) -> Namespace:
            made = Namespace(f"nt4-{token}-{label}")
            # Before it is there: an `ip` that is killed because it takes too long leaves the name behind.
            cleanup.callback(_remove, made)
            subprocess.run(["ip", "netns", "add", made.name], check=True, timeout=COMMAND_S)
            return made

        yield make


def _remove(namespace: Namespace) -> None:
    """A test may have removed it itself."""
    if not Path(namespace.path).exists():
        return
    listed = subprocess.run(
        ["ip", "netns", "pids", namespace.name], capture_output=True, text=True, timeout=COMMAND_S, check=True
    )
    for process_id in listed.stdout.split():
        with suppress(ProcessLookupError):
            os.kill(int(process_id), signal.SIGKILL)
    namespace.remove()


def join_by_cable(first: Namespace, second: Namespace) -> None:
    """A device `wire` in both: 192.0.2.1 and 192.0.2.2, 2001:db8::1 and 2001:db8::2."""
    first.run(f"ip link add wire type veth peer name wire netns {second.name}")
    for number, namespace in enumerate((first, second), start=1):
        namespace.run("ip link set lo up")
        namespace.run("sysctl -qw net.ipv6.conf.wire.accept_dad=0")
        add_addresses(namespace, "wire", f"192.0.2.{number}/24", f"2001:db8::{number}/64")
        namespace.run("ip link set wire up")
    for number, namespace in enumerate((first, second), start=1):
        await_passing(namespace, "wire", f"2001:db8::{number}")


def make_bridge(host: Namespace, name: str, *addresses: str, mac: str = "") -> None:
    """A bridge that is up and has these addresses, each with its prefix length."""
    host.run("sysctl -qw net.ipv6.conf.default.accept_dad=0")
    host.run(f"ip link add {name} {f'address {mac}' if mac else ''} type bridge mcast_snooping 0")
    add_addresses(host, name, *addresses)
    host.run(f"ip link set {name} up")


def make_veth(
    host: Namespace, name: str, container: Namespace, *addresses: str, mac: str = "", bridge: str = ""
) -> None:
    """A veth to `eth0` of a container, which has these addresses, each with its prefix length; both ends pass."""
    for namespace in (host, container):
        namespace.run("sysctl -qw net.ipv6.conf.default.accept_dad=0")
    peer = f"{f'address {mac}' if mac else ''} name eth0 netns {container.name}"
    host.run(f"ip link add {name} type veth peer {peer}")
    host.run(f"ip link set {name} {f'master {bridge}' if bridge else ''} up")
    add_addresses(container, "eth0", *addresses)
    container.run("ip link set eth0 up")
    await_passing(host, name)
    await_passing(container, "eth0", *(one.partition("/")[0] for one in addresses))


def add_addresses(namespace: Namespace, device: str, *addresses: str) -> None:
    for address in addresses:
        namespace.run(f"ip addr add {address} dev {device}{' nodad' if ':' in address else ''}")


def await_passing(namespace: Namespace, device: str, *addresses: str) -> None:
    """Wait until the link takes packets and the namespace answers for its IPv6 addresses. The kernel does both in
    tasks of its own after the last command, and drops what comes before (netagent.datapath.endpoint.veth_binding)."""
    lines = [(f"ip link show dev {device}", "state UP")]
    lines += [(f"ip -6 route get {address}", f"local {address} ") for address in addresses if ":" in address]
    end = time.monotonic() + 10.0
    for command, words in lines:
        while words not in namespace.try_run(command).stdout:
            assert time.monotonic() < end, f"{command}: not {words}"
            time.sleep(0.01)


async def wait_until(condition: Callable[[], object], what: str, bound_s: float = 5.0) -> None:
    """Fail unless a check that began within the bound succeeds.

    A check that runs programs holds up what is tested in the same event loop, which gets at least half of the time.
    One that began within the bound and ended beyond it says nothing: there is a last one.
    """
    end = trio.current_time() + bound_s
    while True:
        began = trio.current_time()
        if condition():
            return
        if began > end:
            pytest.fail(f"not within {bound_s} s: {what}")
        await trio.sleep(max(0.02, trio.current_time() - began))
