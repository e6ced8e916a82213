"""The encrypted tunnel through the kernel's own WireGuard.

Not every machine that runs the tests has it, so these run in virtual machines (test_older_kernels.py).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.tunnel_hosts import PORT, Host, await_that, tunnel_hosts

from netagent.tunnel.genetlink import PEERS_PER_REQUEST
from netagent.tunnel.keys import private_key_from

pytestmark = pytest.mark.kernel

PATIENCE_S = 120.0
SAID = "to be read by nobody else"

SNIFFER = """
import socket, sys, time
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
sock.bind((sys.argv[1], 0))
print("listens", flush=True)
seen, kinds = b"", set()
while 4 not in kinds or len(seen) < int(sys.argv[2]):
    frame = sock.recv(65536)
    seen += frame
    if frame[12:14] == b"\\x08\\x00" and frame[23] == 17:
        kinds.add(frame[42])
print(sys.argv[3].encode() in seen, sorted(kinds), flush=True)
"""
"""Prints whether the words are in the frames of a port, and which of WireGuard's messages are: 1 and 2 are a
handshake, 4 is data."""

MARK = """
import subprocess, sys
subprocess.run(["ip", "link", "set", "nx-tunnel", "up", "alias", sys.argv[1]], check=True)
"""

RECEIVER = """
import socket
sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
sock.bind(("::", 9000))
print("listens", flush=True)
print(sock.recv(65536).decode(), flush=True)
"""

SENDER = """
import socket, sys, time
sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
for _ in range(100):
    sock.sendto(sys.argv[2].encode(), (sys.argv[1], 9000))
    time.sleep(0.02)
"""


@pytest.fixture
def make_hosts(tmp_path: Path) -> Iterator[Callable[[int], list[Host]]]:
    with tunnel_hosts(tmp_path) as make:
        yield make


def connect(first: Host, second: Host) -> None:
    first.set_peers(second)
    second.set_peers(first)
    await_that(lambda: first.reaches(second), PATIENCE_S)


def link(host: Host) -> str:
    return host.namespace.run("ip -details link show nx-tunnel")


def test_what_passes_between_two_hosts_is_encrypted_on_the_wire(
    make_hosts: Callable[[int], list[Host]],
) -> None:
    first, second = make_hosts(2)
    assert first.ask("process") == {"id": None, "starts": 0, "backend": "kernel"}
    assert "wireguard" in link(first)
    assert f"netagent tunnel cluster {'c1' * 16}" in link(first)
    with (
        first.namespace.running(SNIFFER, "wire", "2000", SAID) as sniffer,
        second.namespace.running(RECEIVER) as receiver,
    ):
        assert sniffer.stdout is not None
        assert receiver.stdout is not None
        assert (sniffer.stdout.readline(), receiver.stdout.readline()) == ("listens\n", "listens\n")
        connect(first, second)
        first.namespace.run_python(SENDER, second.address, SAID)
        assert receiver.stdout.readline() == f"{SAID}\n"
        assert sniffer.stdout.readline() == "False [1, 2, 4]\n"
    (state,) = first.ask("states").values()
    endpoint, handshake_s_ago, received_bytes, sent_bytes = state
    assert endpoint == ["192.0.2.2", PORT]
    assert 0 <= handshake_s_ago < PATIENCE_S
    assert received_bytes > 0
    assert sent_bytes > 100 * len(SAID)


def test_hosts_with_other_keys_do_not_reach_each_other(make_hosts: Callable[[int], list[Host]]) -> None:
    first, second = make_hosts(2)
    connect(first, second)
    second.private_key = private_key_from(secrets.token_bytes(32))
    second.ensure()
    assert not first.reaches(second, 5)
    first.set_peers(second)
    second.set_peers(first)
    await_that(lambda: first.reaches(second), PATIENCE_S)

    # Another preshared key. Sessions that stand go on, so the device is made anew.
    second.ask("remove")
    assert "nx-tunnel" not in second.namespace.run("ip -brief link")
    second.ensure()
    second.set_peers(first, ring=b"another")
    assert not second.reaches(first, 5)


def test_the_next_agent_adopts_the_device_and_interrupts_nothing(
    make_hosts: Callable[[int], list[Host]],
) -> None:
    first, second = make_hosts(2)
    connect(first, second)
    index = re.findall(r"^\d+", link(first))
    first.stop()
    assert first.reaches(second, 5)
    first.start()
    first.ensure()
    assert re.findall(r"^\d+", link(first)) == index
    assert first.reaches(second, 5)  # peers have not been said yet, and are there
    before = first.ask("states")
    first.set_peers(second)
    (after,) = first.ask("states").values()
    assert after[1] >= next(iter(before.values()))[1]  # the same session


def test_a_device_that_another_program_deletes_comes_back(make_hosts: Callable[[int], list[Host]]) -> None:
    first, second = make_hosts(2)
    connect(first, second)
    first.namespace.run("ip link delete nx-tunnel")
    await_that(lambda: first.reaches(second), PATIENCE_S)


def test_peers_of_several_requests_are_there_and_go(make_hosts: Callable[[int], list[Host]]) -> None:
    first, second = make_hosts(2)
    numbers = range(10, PEERS_PER_REQUEST + 20)
    others = [Host(number, second.namespace, second.sockets) for number in numbers]
    first.set_peers(second, *others)
    second.set_peers(first)
    assert len(first.ask("states")) == len(others) + 1
    await_that(lambda: first.reaches(second), PATIENCE_S)
    first.set_peers(second)
    assert list(first.ask("states")) == [second.public_key.hex()]
    assert first.reaches(second, 5)


def test_a_kernel_that_has_wireguard_takes_over_from_wireguard_go(
    make_hosts: Callable[[int], list[Host]],
) -> None:
    first, second = make_hosts(2)
    first.ask("remove")
    first.stop()
    first.namespace.run(
        "ip tuntap add dev nx-tunnel mode tun"
    )  # as wireguard-go's, which outlives its process
    first.namespace.run_python(MARK, f"netagent tunnel cluster {'c1' * 16}")
    first.start()
    first.ensure()
    assert first.ask("process")["backend"] == "kernel"
    assert "wireguard" in link(first)
    connect(first, second)


def test_remove_leaves_nothing_and_the_device_of_another_program(
    make_hosts: Callable[[int], list[Host]],
) -> None:
    (host,) = make_hosts(1)
    host.ask("remove")
    assert host.namespace.try_run("ip link show nx-tunnel").returncode != 0
    host.namespace.run("ip link add nx-tunnel type wireguard")
    with pytest.raises(AssertionError, match="belongs to another program's device"):
        host.ensure()
    host.ask("remove")
    host.namespace.run("ip link show nx-tunnel")
