"""What a container that writes its own frames (CAP_NET_RAW, Docker's default) and a user of the host can't do.

Each attack is first seen to succeed without our tables: a test that can't fail says nothing.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys

import pytest
import trio
from harness.datapath import desired_of, endpoint, network, open_host, program
from harness.firewall import Netfilter, bridge, guarding, plug
from harness.namespaces import (
    Namespace,
    NamespaceFactory,
    add_addresses,
    make_veth,
    wait_until,
)

from netagent.firewall.inputs import FirewallInput, GuardedEndpoint, GuardedNetwork

pytestmark = pytest.mark.kernel

NET = GuardedNetwork(
    bridge="na-8388609", bridge_mac="06:00:00:00:00:01", tunnel="nx-8388609", has_egress=False
)
OTHER = GuardedNetwork(bridge="na-8388610", bridge_mac="06:00:00:00:00:02", tunnel="nx-8388610")


def _endpoint(number: int, third: int, last: int, network: GuardedNetwork) -> GuardedEndpoint:
    return GuardedEndpoint(
        veth=f"nv{number:08x}",
        mac=f"02:0a:00:00:00:{number:02x}",
        addresses=(f"10.{third}.0.{last}", f"fd{third}::{last}"),
        bridge=network.bridge,
    )


WEB, CLI, FAR = _endpoint(2, 66, 2, NET), _endpoint(3, 66, 3, NET), _endpoint(4, 67, 2, OTHER)
SUBNETS = ("10.66.0.0/24", "10.67.0.0/24", "fd66::/64", "fd67::/64")
GIVEN = FirewallInput(vxlan_port=4799, endpoints=(WEB, CLI, FAR), networks=(NET, OTHER), subnets=SUBNETS)

SEND = """
import socket
from scapy.layers.l2 import *
from scapy.layers.inet import *
from scapy.layers.inet6 import *
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
    sock.bind(("eth0", 0))
    for frame in [{frames}]:
        sock.send(bytes(frame))
"""


def send(container: Namespace, *frames: str) -> None:
    """Frames in scapy's words, just as they are."""
    words = ["ip", "netns", "exec", container.name, sys.executable, "-c"]
    done = subprocess.run(
        [*words, SEND.format(frames=", ".join(frames))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


_numbers = itertools.count()


class Tap:
    """Counts what matches at a hook of a namespace: behind all others' rules, or by `priority` before the kernel puts
    pieces together."""

    def __init__(self, namespace: Namespace, match: str, hook: str = "input", priority: int = 300) -> None:
        self._namespace, self._table = namespace, f"tap{next(_numbers)}"
        chain = f"{hook} {{ type filter hook {hook} priority {priority}; }}"
        for what in (
            f"table inet {self._table}",
            f"counter inet {self._table} seen",
            f"chain inet {self._table} {chain}",
        ):
            namespace.run(f"nft add {what}")
        namespace.run(f"nft add rule inet {self._table} {hook} {match} counter name seen")

    def count(self) -> int:
        listed = json.loads(self._namespace.run(f"nft -j list counter inet {self._table} seen"))
        return int(next(one["counter"]["packets"] for one in listed["nftables"] if "counter" in one))


def two_networks(host: Namespace, web: Namespace, cli: Namespace, far: Namespace) -> None:
    """On a host that routes, by gateways that it has on each bridge."""
    for one, number in ((NET, 66), (OTHER, 67)):
        bridge(host, one, f"10.{number}.0.1/24", f"fd{number}::1/64")
        host.run(f"ip link add {one.tunnel} type vxlan id {one.tunnel[3:]} dstport 4799 nolearning")
        host.run(f"ip link set {one.tunnel} master {one.bridge} up")
    plug(host, web, WEB, NET)
    plug(host, cli, CLI, NET)
    plug(host, far, FAR, OTHER)
    host.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
    for device in ("all", NET.bridge):
        host.run(f"sysctl -qw net.ipv4.conf.{device}.accept_source_route=1")


def mac_of(namespace: Namespace, device: str) -> str:
    return namespace.run(f"cat /sys/class/net/{device}/address").strip()


def reachable(container: Namespace, address: str) -> bool:
    return container.try_run(f"ping -c1 -W2 {address}").returncode == 0


@pytest.mark.parametrize("netfilter", Netfilter)
def test_no_frame_of_a_container_is_routed_anywhere_it_may_not_go(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory, netfilter: Netfilter
) -> None:
    """Into another network, out of an internal one, to the host: whatever MAC it is sent to, tagged or by a source
    route."""
    host, outside = wire
    web, cli, far = namespaces("c1"), namespaces("c2"), namespaces("c3")
    two_networks(host, web, cli, far)
    netfilter.set(host)
    # What is source-routed is refused where it ends, but it has come there.
    taps = [Tap(one, "udp dport 9", "prerouting") for one in (far, outside)] + [Tap(host, "udp dport 9")]
    own, others = mac_of(host, WEB.veth), [mac_of(host, one) for one in (FAR.veth, NET.tunnel, OTHER.tunnel)]
    reserved = ("01:80:c2:00:00:0d", "01:80:c2:00:00:0e")  # the kernel has two ways for these
    four = f"IP(src='{WEB.addresses[0]}', dst='{{}}')/UDP(sport=9, dport=9)"
    six = f"IPv6(src='{WEB.addresses[1]}', dst='{{}}')/UDP(sport=9, dport=9)"
    source_route = (
        f"IP(src='{WEB.addresses[0]}', dst='10.66.0.1', options=IPOption_{{}}(routers=['{{}}']))"
        "/UDP(sport=9, dport=9)"
    )

    def frame(mac: str, packet: str, tag: str = "") -> str:
        return f"Ether(src='{WEB.mac}', dst='{mac}')/{tag}{packet}"

    def whither(mac: str, tag: str = "") -> list[str]:
        packets = [four.format(one) for one in (FAR.addresses[0], "192.0.2.2", "192.0.2.1", "10.67.0.1")]
        packets += [six.format(one) for one in (FAR.addresses[1], "2001:db8::2", "2001:db8::1", "fd67::1")]
        return [frame(mac, packet, tag) for packet in packets]

    async def main() -> None:
        for mac in (NET.bridge_mac, own):
            before = [tap.count() for tap in taps]
            send(web, *whither(mac), *whither(mac, "Dot1Q(vlan=0)/"))
            for tap, count in zip(taps, before, strict=True):
                await wait_until(lambda: tap.count() >= count + 2, f"without rules {mac} leads on")
        before = [tap.count() for tap in taps]
        send(web, *[frame(NET.bridge_mac, source_route.format("LSRR", FAR.addresses[0]))])
        await wait_until(lambda: taps[0].count() > before[0], "without rules a source route leads on")
        for mac in reserved:
            count = taps[2].count()
            send(web, frame(mac, four.format("192.0.2.1")))
            await wait_until(lambda: taps[2].count() > count, "without rules it leads to the host")
        async with guarding(host, GIVEN) as guard:
            before = [tap.count() for tap in taps]
            macs = [NET.bridge_mac, own, *others, OTHER.bridge_mac, *reserved, "ff:ff:ff:ff:ff:ff"]
            for mac in macs:
                send(web, *whither(mac), *whither(mac, "Dot1Q(vlan=0)/"), *whither(mac, "Dot1Q(vlan=7)/"))
            ends = (FAR.addresses[0], "192.0.2.2")
            routes = [source_route.format(kind, one) for kind in ("LSRR", "SSRR") for one in ends]
            header = f"IPv6ExtHdrRouting(type={{}}, addresses=['{FAR.addresses[1]}'])/UDP(dport=9)"
            routes += [
                six.format("fd66::1").replace("UDP", header.format(kind) + "/UDP") for kind in (0, 2, 4)
            ]
            spoofed = guard.status().dropped["spoofed"]
            send(web, *[frame(mac, packet) for mac in (NET.bridge_mac, own) for packet in routes])
            assert reachable(web, CLI.addresses[0])
            assert reachable(web, CLI.addresses[1])
            await wait_until(
                lambda: guard.status().dropped["spoofed"] >= spoofed + 2 * len(routes), "each is dropped"
            )
            assert [tap.count() for tap in taps] == before

    trio.run(main)


def test_the_hosts_end_of_a_veth_says_nothing_by_which_its_mac_is_learnt(
    namespaces: NamespaceFactory,
) -> None:
    """A router reports its groups by every interface that has IPv6, also by one without an address."""

    async def main() -> None:
        host, container = namespaces("h"), namespaces("c")
        host.run("sysctl -qw net.ipv6.conf.all.forwarding=1")
        async with open_host(host, "192.0.2.1") as opened:
            own = endpoint(2, container)
            await program(opened, desired_of(opened, network((own,), ())))
            await opened.attacher.bind(own)
            veth = next(iter((await opened.attacher.list_endpoint_devices()).values()))
            assert host.run(f"sysctl -n net.ipv6.conf.{veth}.disable_ipv6") == "1\n"
            host.run(f"sysctl -qw net.ipv6.conf.{veth}.disable_ipv6=0")  # as an earlier release left it
            await opened.attacher.repair(own)
            assert host.run(f"sysctl -n net.ipv6.conf.{veth}.disable_ipv6") == "1\n"
            await opened.attacher.unbind(own.endpoint_id)
            await program(opened, desired_of(opened))

    trio.run(main)


FRAME = bytes.fromhex("0800000080000100" + "ffffffffffff" + "020a00000009" + "0800" + "45" + "00" * 45)
"""VXLAN of VNI 8388609."""
USER = """
import contextlib, os, socket
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
os.setuid({uid})
own, member = {own!r}, {member!r}
family = socket.AF_INET6 if ":" in own else socket.AF_INET
{send}
"""
BY_UDP = """
with socket.socket(family, socket.SOCK_DGRAM) as sock:
    with contextlib.suppress(PermissionError):
        sock.sendto(bytes.fromhex('{frame}'), (member, {port}))
"""
BY_RAW = """
layer = IPv6 if ":" in own else IP
with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
    packet = bytes(layer(src={source!r}, dst=member) / UDP(sport=50000, dport=4799) / bytes.fromhex('{frame}'))
    with contextlib.suppress(PermissionError):
        sock.sendto(packet, (member, 0) if family == socket.AF_INET else (member, 0, 0, 0))
"""
BY_SOURCE_ROUTE = """
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, bytes([1, 131, 7, 4]) + socket.inet_aton(member))
    with contextlib.suppress(PermissionError):
        sock.sendto(bytes.fromhex('{frame}'), (member, 4799))
"""


@pytest.mark.parametrize(
    ("own", "member", "third"),
    [("192.0.2.1", "192.0.2.2", "192.0.2.3"), ("2001:db8::1", "2001:db8::2", "2001:db8::3")],
    ids=["over-ipv4", "over-ipv6"],
)
def test_no_program_of_a_host_sends_vxlan_and_the_kernel_does(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory, own: str, member: str, third: str
) -> None:
    """A container of the host and the host itself, as root or not, go by the tunnel, whose sockets they keep."""
    host, other = wire
    web = namespaces("c1")
    bridge(host, OTHER)
    plug(host, web, FAR, OTHER)
    for namespace, address, far, number in ((host, own, member, 1), (other, member, own, 2)):
        for name in ("nx-8388610", "nx-77"):
            namespace.run(
                f"ip link add {name} address 02:00:00:00:{len(name):02x}:0{number} type vxlan id {name[3:]} "
                f"dstport 4799 local {address} nolearning"
            )
            namespace.run(f"bridge fdb append 00:00:00:00:00:00 dev {name} dst {far}")
            namespace.run(f"ip link set {name} up")
        namespace.run(f"ip addr add fd77::{number}/64 dev nx-77 nodad")
        namespace.run(f"ping -c1 -w5 {far}")
    host.run("ip link set nx-8388610 master na-8388610")
    host.run("ip addr add fd67::1/64 dev na-8388610 nodad")
    other.run("ip addr add 10.67.0.9/24 dev nx-8388610")
    other.run("ip addr add fd67::9/64 dev nx-8388610 nodad")
    arrived, others = (
        Tap(other, f"udp dport 4799 udp length {8 + len(FRAME)}"),
        FirewallInput(vxlan_port=4799, members=frozenset({own})),
    )

    def program(send: str, uid: int, **words: object) -> None:
        host.run_code(
            USER.format(uid=uid, own=own, member=member, send=send.format(frame=FRAME.hex(), **words))
        )

    attacks: list[tuple[str, int, dict[str, object]]] = [(BY_UDP, uid, {"port": 4799}) for uid in (0, 1000)]
    attacks += [(BY_RAW, 0, {"source": source}) for source in (own, third)]
    attacks += [(BY_SOURCE_ROUTE, 0, {})] if ":" not in own else []

    async def main() -> None:
        for number, (send, uid, words) in enumerate(attacks[:4], start=1):
            program(send, uid, **words)
            await wait_until(lambda: arrived.count() >= number, f"without rules {send} arrives")
        # ARP and neighbour discovery pass no tunnel under our rules; the agents know each other's addresses.
        given = FirewallInput(
            vxlan_port=4799,
            endpoints=(FAR,),
            networks=(dataclasses.replace(OTHER, host_addresses=("fd67::1",)),),
            members=frozenset({member}),
        )
        far = mac_of(other, "nx-8388610")
        for address in ("10.67.0.9", "fd67::9"):
            web.run(f"ip neigh replace {address} lladdr {far} dev eth0")
        host.run(f"ip neigh replace fd67::9 lladdr {far} dev na-8388610")
        host.run(f"ip neigh replace fd77::2 lladdr {mac_of(other, 'nx-77')} dev nx-77")
        for address in FAR.addresses:
            other.run(f"ip neigh replace {address} lladdr {FAR.mac} dev nx-8388610")
        other.run(f"ip neigh replace fd67::1 lladdr {OTHER.bridge_mac} dev nx-8388610")
        other.run(f"ip neigh replace fd77::1 lladdr {mac_of(host, 'nx-77')} dev nx-77")
        elsewhere = Tap(host, "udp dport 4789", "postrouting")
        async with guarding(host, given) as guard, guarding(other, others):
            before = arrived.count()
            for number, (send, uid, words) in enumerate(attacks, start=1):
                program(send, uid, **words)
                await wait_until(lambda: guard.status().dropped["strangers"] >= number, f"{send} is dropped")
            assert arrived.count() == before
            program(BY_UDP, 1000, port=4789)
            await wait_until(lambda: elsewhere.count() == 1, "other overlays are not touched")
            for address in ("10.67.0.9", "fd67::9"):
                assert reachable(web, address), "a container's"
            inside = Tap(other, f"udp dport 9 udp length {8 + len(FRAME)}")
            for number, (uid, to) in enumerate(
                ((0, "fd77::2"), (1000, "fd77::2"), (1000, "fd67::9")), start=1
            ):
                program(BY_UDP.replace("member", repr(to)).replace("family", "socket.AF_INET6"), uid, port=9)
                await wait_until(lambda: inside.count() >= number, f"{to}: the host's own, by the tunnel")
            assert guard.status().dropped["strangers"] == len(attacks)

    trio.run(main)


AGENTS = """
import socket
family = socket.AF_INET6 if ":" in {to!r} else socket.AF_INET
for port in {ports}:
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", ({to!r}, port))
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(0.3)
        try:
            sock.connect(({to!r}, port))
        except OSError:
            pass
"""


@pytest.mark.parametrize(
    ("own", "member", "own_subnet"),
    [("192.0.2.1", "192.0.2.2", "203.0.113.{}/24"), ("2001:db8::1", "2001:db8::2", "2001:db8:1::{}/64")],
    ids=["over-ipv4", "over-ipv6"],
)
def test_no_container_reaches_another_hosts_agent_or_tunnel_in_its_own_hosts_name(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory, own: str, member: str, own_subnet: str
) -> None:
    """Ours, and those of another runtime that translates to the host's address, as Docker does."""
    host, other = wire
    web, box = namespaces("c1"), namespaces("c2")
    bridge(host, OTHER, "10.67.0.1/24", "fd67::1/64")
    plug(host, web, FAR, OTHER)
    for gateway in ("10.67.0.1", "fd67::1"):
        web.run(f"ip route add default via {gateway}")
    make_veth(host, "docker0", box, own_subnet.format(2))
    add_addresses(host, "docker0", own_subnet.format(1))
    box.run(f"ip route add default via {own_subnet.format(1).partition('/')[0]}")
    host.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
    host.run("nft add table inet docker")
    host.run("nft add chain inet docker post { type nat hook postrouting priority srcnat; }")
    host.run("nft add rule inet docker post iifname { na-8388610, docker0 } oifname wire masquerade")
    family = "ip6" if ":" in own else "ip"
    reserved = (
        ", ".join(f"{kind} . {port}" for kind in ("tcp", "udp") for port in (7955, 7956, 7957, 7958))
        + ", udp . 4799"
    )
    named = Tap(other, f"{family} saddr {own} meta l4proto . th dport {{ {reserved} }}")
    ports = (7955, 7956, 7957, 7958, 4799)

    async def main() -> None:
        for container in (web, box):
            before = named.count()
            container.run_code(AGENTS.format(to=member, ports=ports))
            await wait_until(lambda: named.count() >= before + 9, "without rules they are reached")
        given = FirewallInput(
            vxlan_port=4799,
            endpoints=(FAR,),
            networks=(dataclasses.replace(OTHER, host_addresses=("10.67.0.1", "fd67::1")),),
            members=frozenset({member}),
            subnets=SUBNETS,
        )
        async with guarding(host, given) as guard:
            before = named.count()
            for container in (web, box):
                container.run_code(AGENTS.format(to=member, ports=ports))
            assert named.count() == before
            assert guard.status().dropped["hostward"] >= 4
            assert guard.status().dropped["strangers"] >= 1
            # By an address that this host has in the network, too.
            dropped = guard.status().dropped["hostward"]
            web.run_code(AGENTS.format(to="fd67::1" if ":" in own else "10.67.0.1", ports=(7956, 7957)))
            assert guard.status().dropped["hostward"] >= dropped + 4
            for container in (web, box):
                assert reachable(container, member), "whatever else is there"

    trio.run(main)


@pytest.mark.parametrize("name", ["docker0", "podman1", "cni0", "br-0a1b2c3d4e5f"])
def test_no_container_of_another_runtime_reaches_an_agent_by_any_address(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory, name: str
) -> None:
    """By its gateway's address, by the host's, and by a member's. All other ports are theirs as before."""
    host, other = wire
    box = namespaces("c2")
    make_veth(host, name, box, "203.0.113.2/24")
    add_addresses(host, name, "203.0.113.1/24")
    box.run("ip route add default via 203.0.113.1")
    host.run("sysctl -qw net.ipv4.ip_forward=1")
    other.run("ip route add 203.0.113.0/24 via 192.0.2.1")
    ports = (7955, 7956, 7957, 7958)
    match = f"ip saddr 203.0.113.2 meta l4proto {{ tcp, udp }} th dport {{ {', '.join(map(str, ports))} }}"
    there = Tap(other, match)

    def try_all(to: str, *numbers: int) -> set[int]:
        """The ports whose host answers: with a reset, as none listens."""
        return {one for one in numbers if box.run_python(RESET, to, str(one)) == "reset\n"}

    async def main() -> None:
        for to in ("203.0.113.1", "192.0.2.1", "192.0.2.2"):
            assert try_all(to, *ports) == set(ports), "without rules they are reached"
        given = FirewallInput(
            vxlan_port=4799, members=frozenset({"192.0.2.2"}), underlay="192.0.2.1", subnets=SUBNETS
        )
        async with guarding(host, given) as guard:
            before, dropped = there.count(), guard.status().dropped["hostward"]
            for to in ("203.0.113.1", "192.0.2.1", "192.0.2.2"):
                assert try_all(to, *ports) == set()
                box.run_code(AGENTS.format(to=to, ports=ports))
                assert try_all(to, 7959) == {7959}, "whatever else is there"
            assert there.count() == before
            assert guard.status().dropped["hostward"] >= dropped + 3 * len(ports)
            # A bridge of such a name may lead to members: what comes for the host's own address passes.
            guard.set_desired(dataclasses.replace(given, underlay="203.0.113.1"), 2)
            await guard.wait_tried(2)
            assert try_all("203.0.113.1", *ports) == set(ports)
            assert try_all("192.0.2.1", *ports) == set()

    trio.run(main)


RESET = """
import socket, sys
with socket.socket() as sock:
    sock.settimeout(1)
    try:
        sock.connect((sys.argv[1], int(sys.argv[2])))
    except ConnectionRefusedError:
        print("reset")
    except OSError:
        pass
"""

PIECES = """
import socket
from scapy.layers.l2 import *
from scapy.layers.inet import *
from scapy.layers.inet6 import *
own, mac, target, size = {own!r}, {mac!r}, {target!r}, {size}
messages = [
    ICMPv6ND_RA(routerlifetime=1800) / ICMPv6NDOptSrcLLAddr(lladdr=mac),
    ICMPv6ND_NA(tgt=target, R=1, O=1, S=0) / ICMPv6NDOptDstLLAddr(lladdr=mac),
    ICMPv6ND_Redirect(tgt=own, dst=target),
]
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
    sock.bind(("eth0", 0))
    for number, message in enumerate(messages * 3):
        header = IPv6(src=own, dst="ff02::1", hlim=255)
        filler = 8 * (number // 3)
        options = IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(max(0, filler - 4)))])
        whole = header / options / message if filler else header / message
        kind, payload = bytes(whole)[6], bytes(whole)[40:]
        for offset in range(0, len(payload), size):
            piece = payload[offset : offset + size]
            fragment = IPv6ExtHdrFragment(
                nh=kind, offset=offset // 8, m=offset + size < len(payload), id=size * 100 + number
            )
            sock.send(bytes(Ether(src=mac, dst="33:33:00:00:00:01") / header / fragment / Raw(piece)))
"""
MESSAGES = 9


def test_neighbour_discovery_in_pieces_passes_in_no_form(namespaces: NamespaceFactory) -> None:
    """RFC 6980, RFC 7112: of a first fragment it must be plain what it is."""
    host, web, cli = namespaces("h"), namespaces("c1"), namespaces("c2")
    bridge(host, NET)
    plug(host, web, WEB, NET)
    plug(host, cli, CLI, NET)
    # Linux puts no such short ones together; others do.
    heard = Tap(cli, "ip6 hoplimit 255 frag frag-off 0", "prerouting", -500)

    def say(size: int) -> None:
        web.run_code(PIECES.format(own=WEB.addresses[1], mac=WEB.mac, target="fd66::1", size=size))

    async def main() -> None:
        before = heard.count()
        say(8)
        await wait_until(lambda: heard.count() >= before + MESSAGES, "without rules they arrive")
        async with guarding(host, dataclasses.replace(GIVEN, endpoints=(WEB, CLI))) as guard:
            before, spoofed = heard.count(), guard.status().dropped["spoofed"]
            for size in (8, 16, 24, 1000):
                say(size)
            assert web.try_run(f"ping -c1 -W2 -s 4000 {CLI.addresses[1]}").returncode == 0
            await wait_until(
                lambda: guard.status().dropped["spoofed"] >= spoofed + 4 * MESSAGES, "each is dropped"
            )
            assert heard.count() == before

    trio.run(main)
