"""What is for an address inside the tunnel leaves by its device or not at all, whichever other way the host has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio
from harness.firewall import bridge, give, guarding, plug
from harness.namespaces import Namespace, NamespaceFactory, wait_until

from netagent.firewall.inputs import FirewallInput, GuardedEndpoint, GuardedNetwork
from netagent.model.address.tunnel import tunnel_address

pytestmark = pytest.mark.kernel

WEB = GuardedEndpoint(
    veth="nv00000002", mac="02:0a:00:00:00:02", addresses=("10.66.0.2", "fd66::2"), bridge="na-8388609"
)
NET = GuardedNetwork(bridge="na-8388609", bridge_mac="06:00:00:00:00:01")
IN_THE_CLEAR = FirewallInput(vxlan_port=4799, endpoints=(WEB,), networks=(NET,), tunnel="nx-tunnel")
FENCED = FirewallInput(vxlan_port=4799, endpoints=(WEB,), networks=(NET,), tunnel="nx-tunnel", is_fenced=True)
ADDRESSES = tuple(tunnel_address(4711, version=version) for version in (4, 6))
"""Of another host."""
OUTSIDE_MAC = "02:0b:00:00:00:01"
SEEN = """
table netdev seen {
    counter inside { }
    counter broadcast { }
    chain seen {
        type filter hook ingress device "eth0" priority 0; policy accept;
        ip daddr 255.255.255.255 counter name broadcast
        ip daddr 240.0.0.0-255.255.255.254 counter name inside
        ip6 daddr %s counter name inside
    }
}
"""


ASK_ALL = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
    sock.sendto(b"x", ("255.255.255.255", 67))
"""
"""As a DHCP client does."""


def outside_of(host: Namespace, outside: Namespace, folder: Path) -> None:
    """Join the host to another one by `eth0`, which has its default routes."""
    host.run(f"ip link add eth0 type veth peer name eth0 netns {outside.name}")
    outside.run(f"ip link set eth0 address {OUTSIDE_MAC} up")
    host.run("ip link set lo up")
    host.run("ip link set eth0 up")
    host.run("ip addr add 192.0.2.1/24 dev eth0")
    host.run("ip -6 addr add fd99::1/64 dev eth0 nodad")
    for gateway in ("192.0.2.254", "fd99::fe"):
        host.run(f"ip neigh add {gateway} lladdr {OUTSIDE_MAC} dev eth0")
        host.run(f"ip {'-6' if ':' in gateway else ''} route add default via {gateway}")
    rules = folder / "seen.nft"
    rules.write_text(SEEN % ADDRESSES[1])
    outside.run(f"nft -f {rules}")


def seen(outside: Namespace, counter: str) -> int:
    listed = json.loads(outside.run(f"nft -j list counter netdev seen {counter}"))
    (found,) = (one["counter"]["packets"] for one in listed["nftables"] if "counter" in one)
    return int(found)


def send(sender: Namespace, address: str) -> None:
    """One datagram, as membership sends them, and one ping."""
    code = (
        "import contextlib, socket;"
        f"s = socket.socket(socket.AF_INET6 if ':' in {address!r} else socket.AF_INET, socket.SOCK_DGRAM);"
        "\n"
        f"with contextlib.suppress(OSError): s.sendto(b'x', ({address!r}, 7956))"
    )
    sender.run_code(code)
    sender.try_run(f"ping -c1 -W1 {address}")


def test_nothing_for_the_tunnel_takes_another_way(namespaces: NamespaceFactory, tmp_path: Path) -> None:
    host, outside, web = namespaces("h"), namespaces("o"), namespaces("c")
    outside_of(host, outside, tmp_path)
    bridge(host, NET, "10.66.0.1/24", "fd66::1/64")
    plug(host, web, WEB, NET)
    host.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
    web.run("ip route add default via 10.66.0.1")
    web.run("ip -6 route add default via fd66::1")

    async def main() -> None:
        async with guarding(host, IN_THE_CLEAR) as guard:
            for sender in (host, web):
                for address in ADDRESSES:
                    before = seen(outside, "inside")
                    send(sender, address)
                    assert seen(outside, "inside") > before, (sender.name, address)

            # The fence stands, and there is no device, and no route into it.
            await give(guard, FENCED, 2)
            before = seen(outside, "inside")
            for sender in (host, web):
                for address in ADDRESSES:
                    dropped = guard.status().dropped["clear"]
                    send(sender, address)
                    await wait_until(
                        lambda dropped=dropped: guard.status().dropped["clear"] >= dropped + 2,  # type: ignore[misc]
                        f"{sender.name} to {address} is dropped",
                    )
            # Another program's route goes before the tunnel's.
            host.run(f"ip link add nx-tunnel type veth peer name inside netns {outside.name}")
            outside.run("ip link set inside up")
            host.run("ip addr add 240.0.0.1/4 dev nx-tunnel")
            host.run(f"ip -6 addr add {tunnel_address(1, version=6)}/64 dev nx-tunnel nodad")
            host.run("ip link set nx-tunnel up")
            host.run(f"ip route add {ADDRESSES[0]}/32 via 192.0.2.254")
            host.run(f"ip -6 route add {ADDRESSES[1]}/128 via fd99::fe")
            for address in ADDRESSES:
                send(host, address)
            assert seen(outside, "inside") == before

            # By the tunnel, to this host's own address there, and to all: as before.
            host.run(f"ip route del {ADDRESSES[0]}/32")
            host.run(f"ip -6 route del {ADDRESSES[1]}/128")
            dropped, sent = guard.status().dropped["clear"], sent_by_tunnel(host)
            for address in ADDRESSES:
                host.run(f"ip neigh add {address} lladdr {OUTSIDE_MAC} dev nx-tunnel")
                send(host, address)
            assert sent_by_tunnel(host) >= sent + 4
            host.run("ping -c1 -W1 240.0.0.1")
            host.run(f"ping -c1 -W1 {tunnel_address(1, version=6)}")
            host.run_code(ASK_ALL)
            assert seen(outside, "broadcast") > 0
            assert guard.status().dropped["clear"] == dropped

    trio.run(main)


def sent_by_tunnel(host: Namespace) -> int:
    (link,) = json.loads(host.run("ip -j -s link show nx-tunnel"))
    return int(link["stats64"]["tx"]["packets"])
