"""Our tables in a kernel: no container uses another's address, VXLAN comes from members, a flush does not last."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from harness.firewall import Netfilter, bridge, give, guarding, plug, tables_of
from harness.namespaces import Namespace, NamespaceFactory, wait_until

from netagent.firewall.guard import Guard
from netagent.firewall.inputs import FirewallInput, GuardedEndpoint, GuardedNetwork
from netagent.firewall.source_nat import SourceNat
from netagent.firewall.text import PROVEN_S

pytestmark = pytest.mark.kernel

WEB = GuardedEndpoint(
    veth="nv00000002", mac="02:0a:00:00:00:02", addresses=("10.66.0.2", "fd66::2"), bridge="na-8388609"
)
CLI = GuardedEndpoint(
    veth="nv00000003", mac="02:0a:00:00:00:03", addresses=("10.66.0.3", "fd66::3"), bridge="na-8388609"
)
NET = GuardedNetwork(bridge="na-8388609", bridge_mac="06:00:00:00:00:01")
GIVEN = FirewallInput(vxlan_port=4799, endpoints=(WEB, CLI), networks=(NET,))


def pings(container: Namespace, address: str, *options: str) -> bool:
    container.run("ip neigh flush nud failed nud incomplete")  # what an earlier one asked in vain
    return container.try_run(f"ping -c1 -W1 {' '.join(options)} {address}").returncode == 0


def claim_by_arp(container: Namespace, address: str, mac: str) -> None:
    """Announce to all neighbours that the address has this MAC."""
    mac, sender = mac.replace(":", ""), "".join(f"{int(part):02x}" for part in address.split("."))
    send_frame(
        container, f"ffffffffffff{mac}0806" + "0001080006040002" + mac + sender + "ffffffffffff" + sender
    )


def send_frame(container: Namespace, frame: str) -> None:
    code = (
        "import socket; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(('eth0', 0));"
        f"s.send(bytes.fromhex('{frame}'))"
    )
    container.run_code(code)


async def until_dropped(guard: Guard, reason: str, count: int) -> None:
    """And no more. The sender goes on when the packet is on its way; the rules may judge it a little later."""
    await wait_until(lambda: guard.status().dropped[reason] >= count, f"{count} {reason}")
    assert guard.status().dropped[reason] == count


@pytest.mark.parametrize("netfilter", [Netfilter.ON, Netfilter.TAGGED])
def test_a_container_is_who_its_address_says(namespaces: NamespaceFactory, netfilter: Netfilter) -> None:
    """Scenario 3 begins here: a container that can't use another's address can be kept apart from others."""
    host, web, cli = namespaces("h"), namespaces("c1"), namespaces("c2")
    bridge(host, NET)
    plug(host, web, WEB, NET)
    plug(host, cli, CLI, NET)
    netfilter.set(host)

    async def main() -> None:
        async with guarding(host, GIVEN) as guard:
            assert pings(cli, "10.66.0.2")
            assert pings(cli, "fd66::2")
            assert pings(cli, "fe80::a:ff:fe00:2%eth0"), "link-local as the kernel makes it"
            assert not any(guard.status().dropped.values())
            cli.run("ip addr add 10.66.0.99/24 dev eth0")
            cli.run("ip -6 addr add fd66::99/64 dev eth0 nodad")
            assert not pings(cli, "10.66.0.2", "-I 10.66.0.99")
            assert not pings(cli, "fd66::2", "-I fd66::99")
            cli.run("ip addr del 10.66.0.99/24 dev eth0")
            # The address of the other: what it answers to must stay what it was.
            before = guard.status().dropped["spoofed"]
            claim_by_arp(cli, "10.66.0.2", CLI.mac)
            await until_dropped(guard, "spoofed", before + 1)
            cli.run("ip link set eth0 address 02:0a:00:00:00:77")
            assert not pings(cli, "10.66.0.2"), "another's MAC, or one that belongs to no endpoint"
            cli.run(f"ip link set eth0 address {CLI.mac}")
            assert pings(cli, "10.66.0.2")
            # A VLAN tag carries nothing past the rules: not one's own words, nor in VLAN 0 those of others.
            own = bytes.fromhex("08060001080006040001") + bytes.fromhex(CLI.mac.replace(":", ""))
            own += bytes.fromhex("0a4200030000000000000a420002") + bytes(18)
            forged = own.replace(bytes.fromhex("0a420003"), bytes.fromhex("0a420002"))
            for tag, words in (
                ("81000007", own),
                ("88a80000", own),
                ("81000000" * 2, own),
                ("81000000", forged),
            ):
                before = guard.status().dropped["spoofed"]
                send_frame(cli, "ffffffffffff" + CLI.mac.replace(":", "") + tag + words.hex())
                await until_dropped(guard, "spoofed", before + 1)

    trio.run(main)


SAY = """
import socket
IPV6_UNICAST_HOPS, IPV6_MULTICAST_HOPS, IPV6_HOPOPTS = 16, 18, 54
with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sock:
    for option in (IPV6_UNICAST_HOPS, IPV6_MULTICAST_HOPS):
        sock.setsockopt(socket.IPPROTO_IPV6, option, 255)
    if {behind_options}:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_HOPOPTS, bytes([0, 0, 1, 4, 0, 0, 0, 0]))
    sock.sendto(bytes.fromhex("{message}"), ("ff02::1", 0, 0, socket.if_nametoindex("eth0")))
"""


def say_by_icmpv6(container: Namespace, message: str, *, behind_options: bool = False) -> None:
    """To all on the link, in the container's own name. `behind_options`: of IPv6, before ICMPv6's header."""
    container.run_code(SAY.format(message=message, behind_options=behind_options))


@pytest.mark.parametrize(
    ("behind_options", "netfilter"), [(False, Netfilter.OFF), (True, Netfilter.OFF), (True, Netfilter.TAGGED)]
)
def test_a_container_speaks_for_no_other_by_neighbour_discovery(
    namespaces: NamespaceFactory, netfilter: Netfilter, *, behind_options: bool
) -> None:
    """Neither for an address, nor as the link's router; and its link-local address is its own, too."""
    host, web, cli = namespaces("h"), namespaces("c1"), namespaces("c2")
    bridge(host, NET)
    plug(host, web, WEB, NET)
    plug(host, cli, CLI, NET)
    netfilter.set(host)
    gateway, first = "fd66::1", "02:0a:00:00:00:01"
    target, hardware = ipaddress.IPv6Address(gateway).packed.hex(), CLI.mac.replace(":", "")
    advertisement = "8800000020000000" + target + "0201" + hardware  # it overrides what is known
    router = "86000000" + "40000708" + "0000000000000000" + "0101" + hardware  # for half an hour
    redirect = "8900000000000000" + target + ipaddress.IPv6Address("fd66::2").packed.hex()

    def believed() -> tuple[bool, bool]:
        """What web takes for the gateway's MAC is cli's; its router is cli."""
        return CLI.mac in web.run(f"ip neigh show {gateway}"), "via" in web.run("ip -6 route show default")

    def say(message: str) -> None:
        say_by_icmpv6(cli, message, behind_options=behind_options)

    async def main() -> None:
        web.run(f"ip neigh replace {gateway} lladdr {first} dev eth0 nud stale")
        say(advertisement)
        say(router)
        await wait_until(lambda: believed() == (True, True), "without rules it is believed")
        web.run("ip -6 route flush default")
        async with guarding(host, GIVEN) as guard:
            web.run(f"ip neigh replace {gateway} lladdr {first} dev eth0 nud stale")
            for number, message in enumerate((advertisement, router, redirect), start=1):
                say(message)
                await until_dropped(guard, "spoofed", number)
            assert believed() == (False, False)
            say(advertisement.replace(target, ipaddress.IPv6Address(CLI.addresses[1]).packed.hex()))
            say("8500000000000000")
            assert pings(cli, "fe80::a:ff:fe00:2%eth0")
            assert guard.status().dropped["spoofed"] == 3, "of itself it may speak, and ask for routers"
            # From a link-local address that is not its own, and from none at all.
            for number, source in enumerate(("fe80::77", "::"), start=4):
                header = "60000000" + "0008" + "11" + "40" + ipaddress.IPv6Address(source).packed.hex()
                header += ipaddress.IPv6Address(WEB.addresses[1]).packed.hex()
                send_frame(cli, WEB.mac.replace(":", "") + hardware + "86dd" + header + "0009000900080000")
                await until_dropped(guard, "spoofed", number)

    trio.run(main)


def test_an_endpoint_comes_and_goes_by_elements_alone(namespaces: NamespaceFactory) -> None:
    host, web, cli = namespaces("h"), namespaces("c1"), namespaces("c2")
    bridge(host, NET)
    plug(host, web, WEB, NET)
    plug(host, cli, CLI, NET)

    async def main() -> None:
        async with guarding(host, dataclasses.replace(GIVEN, endpoints=(WEB,))) as guard:
            assert not pings(cli, "10.66.0.2"), "no endpoint stands for that interface"
            first = rules_of(host)
            await give(guard, GIVEN, 2)
            assert pings(cli, "10.66.0.2")
            assert rules_of(host) == first
            # What a small path needs stands where every packet goes, so it is there only with the first such path.
            assert "hook forward" not in host.run("nft list table bridge netagent")
            given = dataclasses.replace(GIVEN, clamps={("nx-8388609", WEB.mac): 1200})
            await give(guard, given, 3)
            assert "hook forward" in host.run("nft list table bridge netagent")
            first = rules_of(host)
            await give(guard, dataclasses.replace(GIVEN, clamps={("nx-8388609", CLI.mac): 1200}), 4)
            assert "1160" in host.run("nft list map bridge netagent clamps4")
            looking = await tables_of(host)
            with looking.sock:
                assert looking.clamps() == {("nx-8388609", CLI.mac): 1200}
            assert "1140" in host.run("nft list map bridge netagent clamps6")
            assert rules_of(host) == first
            await give(guard, dataclasses.replace(GIVEN, endpoints=(WEB,)), 5)
            assert not pings(cli, "10.66.0.2")
            many = tuple(
                dataclasses.replace(
                    CLI, veth=f"nv{number:08x}", addresses=(f"10.66.{number >> 8}.{number & 255}",)
                )
                for number in range(2000)
            )
            await give(guard, dataclasses.replace(GIVEN, endpoints=many), 6)
            assert host.run("nft list set bridge netagent senders4").count("nv0") == 2000
            assert guard.status().restored == 0
            await give(guard, None, 7)
            assert host.run("nft list ruleset") == ""

    trio.run(main)


def rules_of(host: Namespace) -> str:
    """With their handles, which tell them from others of the same words, and without elements."""
    return re.sub(r"elements = \{[^}]*\}|packets \d+ bytes \d+", "", host.run("nft -a list ruleset"))


def test_the_next_agent_takes_over_what_it_would_make(namespaces: NamespaceFactory, tmp_path: Path) -> None:
    host, memory = namespaces("h"), tmp_path / "firewall"

    async def life(given: FirewallInput, port: int = 4799) -> str:
        async with guarding(host, dataclasses.replace(given, vxlan_port=port), memory) as guard:
            assert guard.status().restored == 0
            assert "10.66.0.2" in host.run("nft list set bridge netagent senders4")
            return rules_of(host)

    async def main() -> None:
        first = await life(GIVEN)
        text = host.run("nft list ruleset")
        assert await life(GIVEN) == first
        assert host.run("nft list ruleset") == text
        assert await life(dataclasses.replace(GIVEN, endpoints=(WEB,))) == first, "by elements alone"
        assert "10.66.0.3" not in host.run("nft list ruleset")
        host.run("nft flush set bridge netagent senders4")
        assert await life(GIVEN) == first, "what is in it is put right, while it runs or not"
        host.run("nft add rule bridge netagent sender ether type 0x1234 drop")
        second = await life(GIVEN)
        assert second != first
        assert "0x1234" not in second
        third = await life(GIVEN, port=4800)
        assert third != second
        memory.unlink()
        assert await life(GIVEN, port=4800) != third, "not known again"
        host.run("nft flush ruleset")
        await life(GIVEN)

    trio.run(main)


SERVE = """
import socket
family = socket.AF_INET6 if ":" in "{address}" else socket.AF_INET
with socket.create_server(("{address}", 7000), family=family) as server:
    server.settimeout(5)
    print("ready", flush=True)
    print(server.accept()[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG))
"""
CONNECT = """
import socket
with socket.create_connection(("{address}", 7000), 2) as client:
    print(client.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG))
"""


def agreed_segments(client: Namespace, server: Namespace, address: str) -> tuple[int, int]:
    """The largest segments that both ends of a connection may send: (client, server)."""

    def words(namespace: Namespace, code: str) -> list[str]:
        return ["ip", "netns", "exec", namespace.name, sys.executable, "-c", code.format(address=address)]

    with subprocess.Popen(words(server, SERVE), stdout=subprocess.PIPE, text=True) as listening:
        assert listening.stdout is not None
        assert listening.stdout.readline() == "ready\n"
        done = subprocess.run(words(client, CONNECT), capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 0, done.stderr
        return int(done.stdout), int(listening.stdout.read())


@pytest.mark.parametrize("netfilter", Netfilter)
def test_tcp_learns_what_a_small_path_carries(namespaces: NamespaceFactory, netfilter: Netfilter) -> None:
    """In both directions, in both families, whether or not bridge netfilter takes part."""
    host, far, cli = namespaces("h"), namespaces("c1"), namespaces("c2")
    tunnel = dataclasses.replace(WEB, veth="nx-8388609")  # what is behind it is on another host
    bridge(host, NET)
    plug(host, far, tunnel, NET)
    plug(host, cli, CLI, NET)
    # Questions for addresses don't pass a tunnel: the bridge would answer them.
    for container, other in ((cli, tunnel), (far, CLI)):
        for address in other.addresses:
            container.run(f"ip neigh replace {address} lladdr {other.mac} dev eth0")
    netfilter.set(host)
    stamps = 12  # of each segment, TCP's options take so many bytes

    async def main() -> None:
        async with guarding(host, dataclasses.replace(GIVEN, endpoints=(CLI,))) as guard:
            assert agreed_segments(cli, far, "10.66.0.2") == (1460 - stamps,) * 2
            clamps = {("nx-8388609", tunnel.mac): 1300}
            await give(guard, dataclasses.replace(GIVEN, endpoints=(CLI,), clamps=clamps), 2)
            for client, server, address in ((cli, far, "10.66.0.2"), (far, cli, "10.66.0.3")):
                assert agreed_segments(client, server, address) == (1260 - stamps,) * 2
            for client, server, address in ((cli, far, "fd66::2"), (far, cli, "fd66::3")):
                assert agreed_segments(client, server, address) == (1240 - stamps,) * 2

    trio.run(main)


def tables(host: Namespace) -> list[str]:
    """All of ours, whether they are there or not."""
    names = ("bridge netagent", "inet netagent", "netdev netagent", "inet netagent-nat")
    return [host.try_run(f"nft list table {name}").stdout for name in names]


@pytest.mark.parametrize(
    "damage",
    [
        "flush ruleset",
        "delete table bridge netagent",
        "flush chain bridge netagent sender",
        "flush set bridge netagent senders4",
        "add element inet netagent members4 { 203.0.113.1 }",
        "insert rule bridge netagent prerouting accept",
        "add table inet netagent { flags dormant; }",
        "delete table netdev netagent",
    ],
)
def test_scenario_39_a_flush_or_tampering_lasts_two_seconds_at_most(
    namespaces: NamespaceFactory, damage: str
) -> None:
    host = namespaces("h")

    async def main() -> None:
        host.run("nft add table ip foreign")
        async with guarding(host, GIVEN) as guard:
            whole = tables(host)
            host.run(f"nft {damage}")
            assert tables(host) != whole
            await wait_until(lambda: guard.status().restored == 1, "they are put back", 2.0)
            assert tables(host) == whole
            host.run("nft add table ip another")
            await trio.sleep(1.2)
            assert guard.status().restored == 1, "what others do with their own tables is nothing to us"
        assert "netagent" in host.run("nft list ruleset"), "an agent that stops leaves its tables"

    trio.run(main)


def test_rules_that_change_are_put_without_the_others_unless_a_program_damaged_these(
    namespaces: NamespaceFactory,
) -> None:
    host = namespaces("h")

    def handle() -> str:
        return host.run("nft -a list chain bridge netagent sender")

    async def main() -> None:
        async with guarding(host, GIVEN) as guard:
            before = handle()
            other = GuardedEndpoint(veth="nv00000009", mac="0a:00:0a:42:00:09", addresses=("10.66.0.9",))
            more = dataclasses.replace(GIVEN, subnets=("10.77.0.0/16",), endpoints=(*GIVEN.endpoints, other))
            await give(guard, more, 2)
            assert "10.77.0.0/16" in host.run("nft list table inet netagent")
            assert other.mac in host.run("nft list set bridge netagent senders4")
            assert handle() == before, "this table is the same, not one that looks like it"
            host.run("nft flush chain bridge netagent sender")
            await give(guard, dataclasses.replace(more, subnets=("10.78.0.0/16",)), 3)
            assert "10.78.0.0/16" in host.run("nft list table inet netagent")
            assert handle().count("senders4") == before.count("senders4") > 0
            assert guard.status().restored == 1

    trio.run(main)


@pytest.mark.parametrize("snapshot", ["put", "adopt"], ids=["put there", "taken over"])
@pytest.mark.parametrize("damage", ["flush ruleset", "flush chain bridge netagent sender"])
def test_what_a_program_does_to_our_tables_in_the_moment_in_which_they_are(
    namespaces: NamespaceFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str, snapshot: str
) -> None:
    """As a firewall that is reloaded while the agent starts: how our tables read then is not how they should."""
    host, memory = namespaces("h"), tmp_path / "firewall"
    real, damages = getattr(SourceNat, snapshot), [damage]

    def meanwhile(translation: SourceNat) -> None:
        if damages:
            host.run(f"nft {damages.pop()}")
        real(translation)

    async def main() -> None:
        if snapshot == "adopt":
            async with guarding(host, GIVEN, memory):
                pass
        monkeypatch.setattr(SourceNat, snapshot, meanwhile)
        noted = memory.read_text() if memory.exists() else ""
        async with guarding(host, GIVEN, memory) as guard:
            assert not damages
            await wait_until(
                lambda: memory.exists() and memory.read_text() != noted, "they are put anew", 2.0
            )
            assert "drop" in host.run("nft list chain bridge netagent sender")
            assert WEB.mac in host.run("nft list ruleset")
            assert not guard.trouble
            whole = rules_of(host)
        async with guarding(host, GIVEN, memory):
            assert rules_of(host) == whole, "the next agent takes them over"

    trio.run(main)


@pytest.mark.parametrize(
    ("own", "member", "stranger", "elsewhere"),
    [
        ("192.0.2.1", "192.0.2.2", "192.0.2.3/24", "198.51.100.3/32"),
        ("2001:db8::1", "2001:db8::2", "2001:db8::3/64", "2001:db8:51::3/128"),
    ],
    ids=["over-ipv4", "over-ipv6"],
)
def test_vxlan_comes_from_members_and_by_their_device(
    wire: tuple[Namespace, Namespace], own: str, member: str, stranger: str, elsewhere: str
) -> None:
    host, other = wire
    host.run(f"ip link add nx-8388609 type vxlan id 8388609 dstport 4799 local {own} nolearning")
    host.run("ip link set nx-8388609 up")
    other.run(f"ip addr add {stranger} dev wire {'nodad' if ':' in own else ''}")
    other.run(f"ip addr add {elsewhere} dev lo")
    other.run(f"ping -c1 -w5 {own}")  # the hosts have found each other
    stranger, elsewhere = (cidr.partition("/")[0] for cidr in (stranger, elsewhere))

    family = "AF_INET6" if ":" in own else "AF_INET"

    def received() -> int:
        return int(host.run("cat /sys/class/net/nx-8388609/statistics/rx_packets"))

    def send(source: str) -> None:
        frame = (
            "08000000" + f"{8388609:06x}" + "00" + "ffffffffffff" + "020a00000009" + "0800" + "45" + "00" * 45
        )
        code = (
            f"import socket; s = socket.socket(socket.{family}, socket.SOCK_DGRAM);"
            f"s.bind(('{source}', 0)); s.sendto(bytes.fromhex('{frame}'), ('{own}', 4799))"
        )
        other.run_code(code)

    async def main() -> None:
        given = FirewallInput(vxlan_port=4799, members=frozenset({member, elsewhere}))
        send(stranger)
        await wait_until(lambda: received() == 1, "without rules any sender is heard")
        async with guarding(host, given) as guard:
            send(stranger)
            send(elsewhere)  # a member's, but no way leads back there by that device
            await until_dropped(guard, "strangers", 2)
            assert received() == 1
            send(member)
            await wait_until(lambda: received() == 2, "a member is heard")
            send(member)
            await wait_until(lambda: received() == 3, "and again, now that it is known")
            proven = "proven6" if ":" in own else "proven4"
            assert f'"wire" . {member}' in host.run(f"nft list set inet netagent {proven}")
            await give(guard, dataclasses.replace(given, members=frozenset({elsewhere})), 2)
            await wait_until(
                lambda: member not in host.run(f"nft list set inet netagent {proven}"),
                "what was known of it does not last",
                PROVEN_S + 1.0,
            )
            send(member)
            await until_dropped(guard, "strangers", 3)
            assert received() == 3, "a member no more"

    trio.run(main)


def test_the_host_routes_nothing_between_our_networks(namespaces: NamespaceFactory) -> None:
    """Scenario 3: two networks can't reach each other, whatever ip_forward says, bridge netfilter on or off."""
    host, web, cli = namespaces("h"), namespaces("c1"), namespaces("c2")
    other = GuardedNetwork(bridge="na-8388610", bridge_mac="06:00:00:00:00:02")
    there = GuardedEndpoint(
        veth="nv00000004", mac="02:0b:00:00:00:02", addresses=("10.67.0.2", "fd67::2"), bridge="na-8388610"
    )
    for network, number in ((NET, 66), (other, 67)):
        bridge(host, network)
        host.run(f"ip addr add 10.{number}.0.1/24 dev {network.bridge}")
        host.run(f"ip addr add fd{number}::1/64 dev {network.bridge} nodad")
    third = namespaces("c3")
    plug(host, web, WEB, NET)
    plug(host, cli, CLI, NET)
    plug(host, third, there, other)
    for container, gateway in ((web, "10.66.0.1"), (cli, "10.66.0.1"), (third, "10.67.0.1")):
        container.run(f"ip route add default via {gateway}")
        container.run(f"ip route add default via fd{gateway[3:5]}::1")
    host.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
    for address in there.addresses:
        assert pings(web, address), "without rules the host routes"

    async def main() -> None:
        given = dataclasses.replace(GIVEN, networks=(NET, other), endpoints=(WEB, CLI, there))
        async with guarding(host, given) as guard:
            for setting in (0, 1):
                for name in ("iptables", "ip6tables"):
                    host.run(f"sysctl -qw net.bridge.bridge-nf-call-{name}={setting}")
                for far, near, neighbour in zip(there.addresses, WEB.addresses, CLI.addresses, strict=True):
                    before = guard.status().dropped["crossed"]
                    assert not pings(web, far)
                    assert not pings(third, near)
                    assert guard.status().dropped["crossed"] >= before + 2
                    assert pings(web, neighbour), "what the bridge passes is not routed"
            # By the host instead of by the bridge: a detour around every rule for a network.
            for neighbour, gateway in zip(CLI.addresses, ("10.66.0.1", "fd66::1"), strict=True):
                web.run(f"ip route add {neighbour} via {gateway}")
                assert not pings(web, neighbour)

    trio.run(main)
