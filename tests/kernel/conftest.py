"""Throw-away network namespaces: two hosts on one wire, and containers. Needs root.

Nothing is done in the namespace of the test itself. What a test makes is removed when it ends, however it ends.
"""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernel.overlay import Namespace, NamespaceFactory, await_passing


@pytest.fixture
def namespaces() -> Iterator[NamespaceFactory]:
    made: list[str] = []
    token = secrets.token_hex(3)

    def make(label: str) -> Namespace:
        name = f"nt4-{token}-{label}"
        made.append(
            name
        )  # before it is there: an `ip` that is killed for its slowness leaves the name behind
        subprocess.run(["ip", "netns", "add", name], check=True, timeout=20)
        return Namespace(name)

    yield make
    for name in made:
        if Path("/run/netns", name).exists():
            subprocess.run(["ip", "netns", "del", name], check=True, timeout=20)


@pytest.fixture
def wire(namespaces: NamespaceFactory) -> tuple[Namespace, Namespace]:
    """Two namespaces joined by a cable: 192.0.2.1 and 192.0.2.2."""
    first, second = namespaces("h1"), namespaces("h2")
    first.run(f"ip link add wire type veth peer name wire netns {second.name}")
    for number, namespace in enumerate((first, second), start=1):
        namespace.run("ip link set lo up")
        namespace.run(f"ip addr add 192.0.2.{number}/24 dev wire")
        namespace.run(f"ip -6 addr add 2001:db8::{number}/64 dev wire nodad")
        namespace.run("sysctl -qw net.ipv6.conf.wire.accept_dad=0")
        namespace.run("ip link set wire up")
    for number, namespace in enumerate((first, second), start=1):
        await_passing(namespace, "wire", f"2001:db8::{number}")
    return first, second
