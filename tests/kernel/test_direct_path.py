"""TCP without VXLAN, by the programs in the kernel: two namespaces, a cable in the place of VXLAN, and a program that
carries between two tun devices as wireguard-go does, large segments in one piece."""

from __future__ import annotations

import hashlib
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass

import pytest
import trio
from harness.namespaces import Namespace, NamespaceFactory, add_addresses, await_passing, wait_until

from netagent.datapath.bpf.device_hooks import hooks_of_kernel
from netagent.datapath.bpf.tcx import Side
from netagent.datapath.direct.layout import DirectHost, DirectInput, DirectNetwork
from netagent.datapath.direct.path import DirectPath
from netagent.datapath.endpoint.netns import call_in_netns_of, opened_netns, run_in_netns
from netagent.datapath.state import DesiredChange, KernelState
from netagent.model.address.tunnel import tunnel_address

pytestmark = pytest.mark.kernel

VNI = 0xABCDEF
NETWORK, TUNNEL = f"nx-{VNI}", "nx-tunnel"
COMMON = bytes.fromhex("fd66") + bytes(10)
NUMBERS = (0x1234567, 0x89ABCDE)
MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02")
ADDRESSES = (("10.66.0.1", "fd66::1"), ("10.66.0.2", "fd66::2"))
STREAM_BYTES = 2_000_000
SEED = 7
BY_TUNNEL_BYTES = 100_000
"""What may be left for VXLAN of a stream that goes without it."""

CARRY = """
import fcntl, os, select, struct, sys
ends = []
for path in sys.argv[2:]:
    with open(path) as netns:
        os.setns(netns.fileno(), os.CLONE_NEWNET)
    end = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(end, 0x400454CA, struct.pack("=16sH22x", sys.argv[1].encode(), 0x1 | 0x1000 | 0x4000))
    fcntl.ioctl(end, 0x400454D0, 0x1 | 0x2 | 0x4)  # TUNSETOFFLOAD: checksums, segments of IPv4 and of IPv6
    ends.append(end)
print("ready", flush=True)
while True:
    for end in select.select(ends, [], [])[0]:
        try:
            os.write(ends[1 - ends.index(end)], os.read(end, 1 << 17))
        except OSError:
            pass  # the other device is not up
"""
SERVE = f"""
import hashlib, socket
with socket.create_server(("::", 7000), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
    print("ready", flush=True)
    while True:
        with listener.accept()[0] as connection:
            got = connection.recv({STREAM_BYTES}, socket.MSG_WAITALL)
            connection.sendall(hashlib.sha256(got).hexdigest().encode())
"""
SEND = f"""
import random, socket, sys
with socket.create_connection((sys.argv[1], 7000), timeout=2) as connection:
    connection.sendall(random.Random({SEED}).randbytes({STREAM_BYTES}))
    print(connection.recv(64, socket.MSG_WAITALL).decode())
"""
DIGEST = hashlib.sha256(random.Random(SEED).randbytes(STREAM_BYTES)).hexdigest()


@dataclass(frozen=True)
class Ends:
    """Two hosts, and a socket in each."""

    hosts: tuple[Namespace, Namespace]
    sockets: tuple[socket.socket, socket.socket]

    def path(self, end: int) -> DirectPath:
        def within(run: Callable[[], bool]) -> bool:
            return call_in_netns_of(self.sockets[end], run)

        return DirectPath(within=within)

    def look(
        self,
        path: DirectPath,
        end: int,
        *,
        number: int | None = None,
        takes: bool = True,
        is_on: bool = True,
    ) -> None:
        """Let it know of the other host's MAC, that the host with this number has it, and what that takes."""
        address = tunnel_address(NUMBERS[1 - end], version=4)
        state = KernelState(selves={(NETWORK, MACS[1 - end]): address})
        network = {NETWORK: DirectNetwork(VNI, COMMON)}
        wanted = DirectInput(
            NUMBERS[end], TUNNEL, network, {address: DirectHost(number or NUMBERS[1 - end], takes)}
        )

        def look() -> bool:
            devices = {socket.if_nametoindex(NETWORK): NETWORK}
            return path.look(wanted if is_on else None, state, None, devices)

        assert call_in_netns_of(self.sockets[end], look), path.trouble

    def stream(self, address: str) -> str:
        """Return the digest of what arrived; empty: the stream did not pass."""
        words = ["ip", "netns", "exec", self.hosts[0].name, sys.executable, "-c", SEND, address]
        return subprocess.run(words, capture_output=True, text=True, timeout=20, check=False).stdout.strip()

    def by_vxlan(self) -> int:
        """Bytes that have left by the device in the place of VXLAN."""
        return int(self.hosts[0].run(f"cat /sys/class/net/{NETWORK}/statistics/tx_bytes"))


@pytest.fixture
def joined(namespaces: NamespaceFactory) -> Iterator[Ends]:
    """Both with devices and addresses, the second with a server."""
    first, second = namespaces("a"), namespaces("b")
    first.run(f"ip link add {NETWORK} address {MACS[0]} type veth peer name {NETWORK} netns {second.name}")
    with ExitStack() as stack:
        carrier = stack.enter_context(first.running(CARRY, TUNNEL, first.path, second.path))
        assert carrier.stdout is not None
        assert carrier.stdout.readline() == "ready\n"
        for host, mac, addresses in zip((first, second), MACS, ADDRESSES, strict=True):
            host.run(f"sysctl -qw net.ipv6.conf.{NETWORK}.accept_dad=0")
            host.run(f"ip link set {NETWORK} address {mac}")
            add_addresses(host, NETWORK, f"{addresses[0]}/24", f"{addresses[1]}/64")
            host.run(f"ip link set {NETWORK} up mtu 1370")
            host.run(f"ip link set {TUNNEL} up mtu 1420")
        for host, addresses in zip((first, second), ADDRESSES, strict=True):
            await_passing(host, NETWORK, addresses[1])
        server = stack.enter_context(second.running(SERVE))
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        inside = []
        for host in (first, second):
            with opened_netns(host.path) as fd:
                inside.append(stack.enter_context(closing(trio.run(run_in_netns, fd, a_socket))))
        yield Ends((first, second), (inside[0], inside[1]))


def a_socket() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


@pytest.mark.parametrize("address", ADDRESSES[1])
def test_a_stream_passes_whole_without_vxlan_and_by_vxlan_where_the_other_host_is_not_known(
    joined: Ends, address: str
) -> None:
    with closing(joined.path(0)) as near, closing(joined.path(1)) as far:
        joined.look(far, 1, takes=False)
        assert far.takes
        joined.look(near, 0, takes=False)
        assert joined.stream(address) == DIGEST
        before = joined.by_vxlan()
        assert before > STREAM_BYTES, "neither host knows yet what the other one takes"
        joined.look(near, 0)
        assert joined.stream(address) == DIGEST
        assert joined.by_vxlan() - before < BY_TUNNEL_BYTES
        # Turned off: as before.
        joined.look(near, 0, is_on=False)
        assert joined.stream(address) == DIGEST
        assert joined.by_vxlan() - before > STREAM_BYTES


@pytest.mark.parametrize("address", ADDRESSES[1])
def test_a_segment_from_a_host_that_does_not_have_the_senders_mac_is_dropped(
    joined: Ends, address: str
) -> None:
    with closing(joined.path(0)) as near, closing(joined.path(1)) as far:
        joined.look(near, 0)
        joined.look(far, 1, number=NUMBERS[0] ^ 1)
        assert joined.stream(address) == ""
        joined.look(far, 1)
        assert joined.stream(address) == DIGEST


def test_the_next_agent_takes_over_and_leaves_one_program(joined: Ends) -> None:
    with closing(joined.path(0)) as near, closing(joined.path(1)) as far:
        joined.look(far, 1)
        joined.look(near, 0)
    # Both agents are away: as before.
    before = joined.by_vxlan()
    assert joined.stream(ADDRESSES[1][0]) == DIGEST
    assert joined.by_vxlan() - before < BY_TUNNEL_BYTES
    with closing(joined.path(0)) as again:
        joined.look(again, 0)
        assert joined.stream(ADDRESSES[1][0]) == DIGEST
        assert joined.by_vxlan() - before < 2 * BY_TUNNEL_BYTES
        joined.look(again, 0, is_on=False)
        # An earlier agent's program would still be there.
        assert joined.stream(ADDRESSES[1][0]) == DIGEST
        assert joined.by_vxlan() - before > STREAM_BYTES


def test_the_task_brings_the_program_back_that_another_program_detached(joined: Ends) -> None:
    address = tunnel_address(NUMBERS[0], version=4)
    told: list[bool | None] = []
    change = DesiredChange(KernelState(selves={(NETWORK, MACS[0]): address}))

    def programs_there() -> list[int]:
        def ask() -> list[int]:
            return hooks_of_kernel().programs_at(socket.if_nametoindex(TUNNEL), Side.INGRESS)

        return call_in_netns_of(joined.sockets[1], ask)

    def detach() -> None:
        (number,) = programs_there()
        hooks_of_kernel().detach(socket.if_nametoindex(TUNNEL), Side.INGRESS, number)

    async def work(far: DirectPath) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(far.run)
            far.set_desired(
                change, DirectInput(NUMBERS[1], TUNNEL, {}, {address: DirectHost(NUMBERS[0], takes=True)})
            )
            await wait_until(lambda: told == [True], "it does not say that it takes segments")
            call_in_netns_of(joined.sockets[1], detach)
            await wait_until(programs_there, "the program is not back")
            nursery.cancel_scope.cancel()

    with closing(joined.path(1)) as far:
        far.note_change = lambda: told.append(far.takes)
        trio.run(work, far)
