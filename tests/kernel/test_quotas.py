"""What one container can use up of the host's connection tracking, which all share."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import trio
from harness.firewall import bridge, guarding, plug, tables_of
from harness.namespaces import Namespace, NamespaceFactory, wait_until

from netagent.firewall.inputs import FirewallInput, GuardedEndpoint, GuardedNetwork

pytestmark = pytest.mark.kernel

NET = GuardedNetwork(
    bridge="na-8388609",
    bridge_mac="06:00:00:00:00:01",
    tunnel="nx-8388609",
    host_addresses=("10.66.0.9", "fd66::9"),
)
QUOTA = 100


def _endpoint(number: int) -> GuardedEndpoint:
    return GuardedEndpoint(
        veth=f"nv{number:08x}",
        mac=f"02:0a:00:00:00:{number:02x}",
        addresses=(f"10.66.0.{number}", f"fd66::{number}"),
        bridge=NET.bridge,
    )


HOG, NEIGHBOUR = _endpoint(2), _endpoint(3)
GIVEN = FirewallInput(
    vxlan_port=4799,
    endpoints=(HOG, NEIGHBOUR),
    networks=(NET,),
    subnets=("10.66.0.0/24", "fd66::/64"),
    connections=QUOTA,
)

OPEN = """
import socket, sys
to, count = sys.argv[1], int(sys.argv[2])
sock = socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_DGRAM)
for number in range(count):
    try:
        sock.sendto(b"x", (to, 10000 + number))
    except OSError:
        pass
"""
"""A flow for each port. Their sender need not be answered: each takes an entry for 30 s."""

FORGET = """
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTSocket
with NFCTSocket() as sock:
    sock.flush()
"""

CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 9), timeout=2)
except ConnectionRefusedError:
    print("reset")
except OSError as error:
    print(type(error).__name__)
"""
"""Whether the host at this address answers: with a reset, as no program listens."""


@pytest.fixture
def host(wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory) -> tuple[Namespace, ...]:
    """(Host, container that takes what it gets, its neighbour)."""
    own, outside = wire
    bridge(own, NET, "10.66.0.1/24", "fd66::1/64")
    own.run(f"ip addr add 10.66.0.9/24 dev {NET.bridge}")
    own.run(f"ip addr add fd66::9/64 dev {NET.bridge} nodad")
    hog, neighbour = namespaces("c1"), namespaces("c2")
    for container, one in ((hog, HOG), (neighbour, NEIGHBOUR)):
        plug(own, container, one, NET)
        container.run("ip route add default via 10.66.0.1")
        container.run("ip route add default via fd66::1")
    own.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
    outside.run("iptables -A INPUT -p udp -j DROP")
    outside.run("ip6tables -A INPUT -p udp -j DROP")
    return own, hog, neighbour


def tracked(host: Namespace) -> int:
    return int(host.run("sysctl -n net.netfilter.nf_conntrack_count"))


@pytest.mark.parametrize(
    "to", ["192.0.2.2", "2001:db8::2", "10.66.0.9", "fd66::9"], ids=["out4", "out6", "host4", "host6"]
)
def test_a_container_that_opens_ten_times_its_quota_leaves_its_neighbour_the_rest(
    host: tuple[Namespace, ...], to: str
) -> None:
    own, hog, neighbour = host

    async def main() -> None:
        async with guarding(own, dataclasses.replace(GIVEN, connections=0)) as guard:
            hog.run_python(OPEN, to, str(2 * QUOTA))
            await wait_until(lambda: tracked(own) >= 2 * QUOTA, "without a quota each takes an entry")
            assert not guard.status().crowded
        own.run_python(FORGET)
        async with guarding(own, GIVEN) as guard:
            assert not guard.status().uncounted
            hog.run_python(OPEN, to, str(QUOTA // 2))
            assert QUOTA // 2 <= tracked(own) < QUOTA, "below it nothing is refused"
            assert "crowded" not in guard.status().dropped or not guard.status().dropped["crowded"]
            hog.run_python(OPEN, to, str(10 * QUOTA))
            assert tracked(own) <= QUOTA + 10
            address = HOG.addresses[":" in to]
            assert guard.status().dropped["crowded"] >= 9 * QUOTA
            assert guard.status().crowded == {(NET.bridge, address)}
            assert hog.run_python(CONNECT, to) != "reset\n"
            for _ in range(20):
                assert neighbour.run_python(CONNECT, to) == "reset\n"
            own.run_python(FORGET)

            def has_room() -> bool:
                return hog.run_python(CONNECT, to) == "reset\n"

            await wait_until(has_room, "once its connections are over it gets others")

    trio.run(main)


def test_a_kernel_that_counts_no_connections_gets_all_other_rules(
    host: tuple[Namespace, ...], tmp_path: Path
) -> None:
    own, hog, _ = host
    old = tmp_path / "nft"
    old.write_text(
        "#!/bin/sh\nrules=$(cat)\n"
        'case "$rules" in *"ct count"*) echo "Error: no such module" >&2; exit 1;; esac\n'
        'printf "%s" "$rules" | nft "$@"\n'
    )
    old.chmod(0o755)

    async def main() -> None:
        tables = await tables_of(own, None)
        tables.nft = (*tables.nft[:-1], str(old))
        async with guarding(own, GIVEN, tables=tables) as guard:
            assert "no such module" in guard.status().uncounted
            hog.run_python(OPEN, "192.0.2.2", str(2 * QUOTA))
            assert tracked(own) >= 2 * QUOTA
            generation = own.run("nft list tables")
            guard.set_desired(dataclasses.replace(GIVEN, endpoints=(HOG,)), 2)
            await guard.wait_tried(2)
            assert own.run("nft list tables") == generation
            assert not guard.trouble

    trio.run(main)
