"""Broadcast and multicast between hosts: to those of the network that carries them, and to no others."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack, closing
from dataclasses import replace

import pytest
import trio
from fakes.scratch_state import InhabitedNetwork, RemoteEndpoint
from harness.datapath import (
    NETWORK,
    PORT,
    VNI,
    Host,
    desired_of,
    endpoint,
    network,
    open_host,
    program,
    seen_from_elsewhere,
)
from harness.firewall import guarding
from harness.namespaces import Namespace, NamespaceFactory
from kernel.eavesdropping import packets_at, questions

from netagent.datapath.endpoint.netns import opened_netns, run_in_netns
from netagent.datapath.reconcile.desired import LocalEndpoint
from netagent.datapath.reconcile.observe import observe
from netagent.datapath.reconcile.plan import plan
from netagent.firewall.inputs import FirewallInput, GuardedEndpoint, GuardedNetwork
from netagent.firewall.text import FLOODS_BURST, FLOODS_PER_S
from netagent.model.ids import EndpointId, NetworkId, bridge_name, veth_name, vni_of, vxlan_name
from netgossip.slices import at_once

pytestmark = pytest.mark.kernel

GROUP, UDP_PORT = "239.1.2.3", 7777
GROUP6 = "ff05::1:3"
TUNNEL = vxlan_name(VNI)
QUIET = NetworkId("0b" * 16)
STORM_FRAMES = 20_000
UNDERLAYS = ("192.0.2.1", "192.0.2.2")


async def socket_in(namespace: Namespace, family: int, kind: int, protocol: int = 0) -> socket.socket:
    with opened_netns(namespace.path) as fd:
        made = await run_in_netns(fd, lambda: socket.socket(family, kind, protocol))
    made.setblocking(False)
    return made


async def joined(container: Namespace) -> tuple[socket.socket, socket.socket]:
    """Receivers of both groups, IPv4 and IPv6, on whatever interface the routes say."""
    four = await socket_in(container, socket.AF_INET, socket.SOCK_DGRAM)
    four.bind(("", UDP_PORT))
    four.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP) + bytes(4))
    six = await socket_in(container, socket.AF_INET6, socket.SOCK_DGRAM)
    six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    six.bind(("::", UDP_PORT))
    six.setsockopt(
        socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, socket.inet_pton(socket.AF_INET6, GROUP6) + bytes(4)
    )
    return four, six


async def received(socks: Sequence[socket.socket], wanted: set[bytes]) -> set[bytes]:
    """What comes until `wanted` is there, and within half a second more; a wire of veth takes a fraction of a
    millisecond."""
    found: set[bytes] = set()

    async def read(sock: socket.socket) -> None:
        while True:
            await trio.lowlevel.wait_readable(sock)
            found.add(sock.recv(100))

    async with trio.open_nursery() as nursery:
        for sock in socks:
            nursery.start_soon(read, sock)
        with trio.move_on_after(5.0):
            while not wanted <= found:
                await trio.sleep(0.02)
        await trio.sleep(0.5)
        nursery.cancel_scope.cancel()
    return found


async def send(container: Namespace, text: bytes) -> None:
    """To both groups and to all hosts."""
    with closing(await socket_in(container, socket.AF_INET, socket.SOCK_DGRAM)) as four:
        four.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        four.sendto(text + b" group", (GROUP, UDP_PORT))
        four.sendto(text + b" everybody", ("255.255.255.255", UDP_PORT))
        four.sendto(text + b" subnet", ("10.66.15.255", UDP_PORT))
    with closing(await socket_in(container, socket.AF_INET6, socket.SOCK_DGRAM)) as six:
        six.sendto(text + b" group6", (GROUP6, UDP_PORT))


def container_of(end: LocalEndpoint) -> Namespace:
    assert end.netns is not None
    return Namespace(end.netns.path.rpartition("/")[2])


def test_multicast_and_broadcast_reach_the_other_host_and_no_other_network(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory
) -> None:
    loud = [replace(endpoint(number, namespaces(f"loud{number}")), multicast=True) for number in (2, 3)]
    quiet = [
        replace(endpoint(number, namespaces(f"quiet{number}")), network_id=QUIET, vni=vni_of(QUIET))
        for number in (4, 5)
    ]
    spaces = {one.endpoint_id: container_of(one) for one in (*loud, *quiet)}

    def networks(at: int, *, multicast: bool) -> tuple[InhabitedNetwork, InhabitedNetwork]:
        far = UNDERLAYS[1 - at]
        first = network((loud[at],), (seen_from_elsewhere(loud[1 - at], far),), multicast=multicast)
        second = network((quiet[at],), (seen_from_elsewhere(quiet[1 - at], far),))
        return first, replace(second, network_id=QUIET, vni=vni_of(QUIET))

    wire[0].run(f"ping -c1 -w5 {UNDERLAYS[1]}")  # the hosts have found each other

    async def heard(sender: LocalEndpoint, text: bytes, wanted: set[bytes]) -> dict[str, set[bytes]]:
        """By the second host's containers; `wanted`: by the one in the network that carries them."""
        with ExitStack() as stack:
            sockets = []
            for one in (loud[1], quiet[1]):
                pair = await joined(spaces[one.endpoint_id])
                sockets.append((one, [stack.enter_context(closing(sock)) for sock in pair]))
            await send(spaces[sender.endpoint_id], text)
            return {
                one.endpoint_id: await received(pair, wanted if one is loud[1] else set())
                for one, pair in sockets
            }

    async def main() -> None:
        async with AsyncExitStack() as stack:
            hosts = [
                await stack.enter_async_context(open_host(*pair))
                for pair in zip(wire, UNDERLAYS, strict=True)
            ]
            for at, host in enumerate(hosts):
                await program(host, desired_of(host, *networks(at, multicast=True)))
                await host.attacher.bind(loud[at])
                await host.attacher.bind(quiet[at])
                for destination in ("224.0.0.0/4", "255.255.255.255/32", "10.66.15.255/32"):
                    # Nothing made these, and it must not be for want of them that nothing arrives.
                    spaces[quiet[at].endpoint_id].run(f"ip route add {destination} dev eth0")
            all_of_it = {b"one group", b"one everybody", b"one subnet", b"one group6"}
            there = await heard(loud[0], b"one", all_of_it)
            assert there == {loud[1].endpoint_id: all_of_it, quiet[1].endpoint_id: set()}
            there = await heard(quiet[0], b"two", set())
            assert set().union(*there.values()) == set()
            # What a network once carried it carries no longer when no other host is there.
            await program(hosts[0], desired_of(hosts[0], networks(0, multicast=False)[0]))
            there = await heard(loud[0], b"three", set())
            assert set().union(*there.values()) == set()

    trio.run(main)


@pytest.mark.parametrize("prefix", ["192.0.2.", "2001:db8::"], ids=["over-ipv4", "over-ipv6"])
def test_hosts_come_and_go_one_by_one(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory, prefix: str
) -> None:
    """Each change is of one host; the kernel keeps the others all the time."""
    base = endpoint(3, namespaces("c1"))

    def remotes(*numbers: int) -> InhabitedNetwork:
        return network(
            (),
            tuple(
                replace(
                    seen_from_elsewhere(base, f"{prefix}{n}"), mac=f"02:0a:00:00:00:{n:02x}", addresses=()
                )
                for n in numbers
            ),
            multicast=True,
        )

    async def main() -> None:
        async with open_host(wire[0], f"{prefix}1") as host:
            for numbers in [(2,), (2, 3, 4), (3,), (4, 5), ()]:
                await program(host, desired_of(host, remotes(*numbers)))
                floods = set((await observe(host.netlink)).state.floods)
                assert floods == {(TUNNEL, f"{prefix}{n}") for n in numbers}
            wanted = remotes(7, 8)
            await program(host, desired_of(host, wanted))
            for damage in (
                f"bridge fdb del 00:00:00:00:00:00 dev {TUNNEL} dst {prefix}7 self",
                f"bridge fdb del 00:00:00:00:00:00 dev {TUNNEL}",
                f"bridge fdb append 00:00:00:00:00:00 dev {TUNNEL} dst {prefix}99 self permanent",
                f"bridge link set dev {TUNNEL} mcast_flood off",
                f"bridge link set dev {TUNNEL} flood on",
                f"ip link del {TUNNEL}",
            ):
                drift = sum(host.reconciler.status().drift.values())
                host.namespace.run(damage)
                with trio.fail_after(2):
                    while sum(host.reconciler.status().drift.values()) == drift:
                        await trio.sleep(0.02)
                    while at_once(plan(desired_of(host, wanted), (await observe(host.netlink)).state)):
                        await trio.sleep(0.02)

    trio.run(main)


def test_floods_are_bounded_and_ask_for_no_neighbour(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory
) -> None:
    """One network's storm leaves another network its own budget, and single packets alone."""
    names = (NETWORK, QUIET)
    ends = [
        replace(endpoint(number, namespaces(f"c{number}")), network_id=name, vni=vni_of(name), multicast=True)
        for number, name in enumerate(names, 2)
    ]
    spaces = [container_of(one) for one in ends]
    remotes = [
        RemoteEndpoint(
            EndpointId(f"{n:08x}" * 4), f"02:0a:00:00:00:{n:02x}", (f"10.66.0.{n}", f"fd66::{n}"), far
        )
        for n, far in enumerate(("192.0.2.2", "192.0.2.3"), 8)
    ]

    async def main() -> None:
        async with open_host(wire[0], UNDERLAYS[0]) as host:
            networks = [
                replace(network((one,), tuple(remotes), multicast=True), network_id=name, vni=vni_of(name))
                for one, name in zip(ends, names, strict=True)
            ]
            await program(host, desired_of(host, *networks))
            for one in ends:
                await host.attacher.bind(one)
            guarded = FirewallInput(
                vxlan_port=PORT,
                endpoints=tuple(
                    GuardedEndpoint(
                        veth=veth_name(one.endpoint_id),
                        mac=one.mac,
                        addresses=tuple(cidr.partition("/")[0] for cidr in one.addresses),
                    )
                    for one in ends
                ),
                networks=tuple(
                    GuardedNetwork(
                        bridge=bridge_name(vni_of(name)), bridge_mac="06:00:00:00:00:01", multicast=True
                    )
                    for name in names
                ),
            )
            async with guarding(host.namespace, guarded) as guard:
                begun = trio.current_time()
                with closing(await socket_in(spaces[0], socket.AF_INET, socket.SOCK_DGRAM)) as storm:
                    for _ in range(STORM_FRAMES):
                        storm.sendto(b"x", (GROUP, UDP_PORT))
                took_s = trio.current_time() - begun
                passed = STORM_FRAMES - guard.status().dropped["floods"]
                assert FLOODS_BURST <= passed <= FLOODS_BURST + FLOODS_PER_S * (took_s + 0.1) + 20
                assert sent_by(host, TUNNEL) == pytest.approx(2 * passed, abs=40), "a copy for each host"
                with closing(await socket_in(spaces[1], socket.AF_INET, socket.SOCK_DGRAM)) as calm:
                    calm.sendto(b"x", (GROUP, UDP_PORT))
                    calm.sendto(b"x", ("10.66.0.8", UDP_PORT))
                dropped = STORM_FRAMES - passed
                drops = {cause: count for cause, count in guard.status().dropped.items() if count}
                assert drops == {"floods": dropped}
                # No host is asked for an address that is in no record.
                with closing(await packets_at(host.namespace, TUNNEL)) as tunnel:
                    for unknown in ("10.66.0.77", "fd66::77"):
                        assert spaces[0].try_run(f"ping -c1 -W1 {unknown}").returncode != 0
                    asked = [question for question in questions(tunnel) if "fe80:" not in question]
                assert asked == []

    trio.run(main)


def sent_by(host: Host, device: str) -> int:
    return int(host.namespace.run(f"cat /sys/class/net/{device}/statistics/tx_packets"))
