"""IPv4 and IPv6 inside a network: who answers for an address, and what a small MTU leaves of both."""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack, closing
from dataclasses import replace

import pytest
import trio
from harness.datapath import (
    PORT,
    VNI,
    desired_of,
    endpoint,
    network,
    open_host,
    program,
    seen_from_elsewhere,
)
from harness.firewall import guarding
from harness.namespaces import Namespace, NamespaceFactory, wait_until
from kernel.eavesdropping import CABLE, packets_at, questions

from netagent.datapath.reconcile.desired import device_mac
from netagent.firewall.inputs import FirewallInput, GuardedEndpoint, GuardedNetwork
from netagent.model.ids import bridge_name, veth_name

pytestmark = pytest.mark.kernel

UNDERLAYS, UNDERLAYS6 = ("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")


def announcement(mac: str, address: str) -> bytes:
    """The ARP packet by which a container tells its neighbours of itself."""
    own = bytes.fromhex(mac.replace(":", ""))
    names = own + socket.inet_aton(address)
    return b"\xff" * 6 + own + bytes.fromhex("0806 0001 0800 06 04 0001") + names + names


@pytest.mark.parametrize("multicast", [False, True])
@pytest.mark.parametrize("underlays", [UNDERLAYS, UNDERLAYS6], ids=["over-ipv4", "over-ipv6"])
def test_the_bridge_answers_for_those_behind_the_tunnel(
    wire: tuple[Namespace, Namespace],
    namespaces: NamespaceFactory,
    underlays: tuple[str, str],
    *,
    multicast: bool,
) -> None:
    """No question passes the cable between the hosts, for addresses in no record either: it stays quiet."""
    spaces = [namespaces("c1"), namespaces("c2")]
    ends = [replace(endpoint(n, space), multicast=multicast) for n, space in enumerate(spaces, 2)]
    link_local = "fe80::a:ff:fe00:3%eth0"
    wire[0].run(f"ping -c1 -w5 {underlays[1]}")  # the hosts have found each other

    async def main() -> None:
        async with AsyncExitStack() as stack:
            hosts = [
                await stack.enter_async_context(open_host(*one)) for one in zip(wire, underlays, strict=True)
            ]
            for own, other, host, far in zip(ends, reversed(ends), hosts, reversed(underlays), strict=True):
                far_end = seen_from_elsewhere(other, far)
                await program(host, desired_of(host, network((own,), (far_end,), multicast=multicast)))
                guarded = GuardedEndpoint(
                    veth=veth_name(own.endpoint_id),
                    mac=own.mac,
                    addresses=tuple(cidr.partition("/")[0] for cidr in own.addresses),
                    bridge=bridge_name(VNI),
                )
                bridge = bridge_name(VNI)
                whole = GuardedNetwork(bridge=bridge, bridge_mac=device_mac(bridge, far), multicast=multicast)
                given = FirewallInput(
                    vxlan_port=PORT, networks=(whole,), endpoints=(guarded,), members=frozenset({far})
                )
                await stack.enter_async_context(guarding(host.namespace, given))
            cable = stack.enter_context(closing(await packets_at(hosts[0].namespace, CABLE)))
            for own, host in zip(ends, hosts, strict=True):
                await host.attacher.bind(own)
            for address in ("10.66.0.3", "fd66::3"):
                spaces[0].run(f"ping -c1 -W1 {address}")
                assert ends[1].mac in spaces[0].run(f"ip neigh show {address} dev eth0")
            with closing(await packets_at(spaces[0], "eth0")) as container:
                container.send(announcement(ends[0].mac, "10.66.0.2"))
            for unknown in ("10.66.0.77", "fd66::77"):
                assert spaces[0].try_run(f"ping -c1 -W0.3 {unknown}").returncode != 0
            for space in spaces:
                await wait_until(lambda: not space.run("ip address show tentative"), "an address of its own")
            assert [question for question in questions(cable) if "fe80:" not in question] == []
            # Link-local addresses are in no record: they work where the network carries multicast.
            assert (spaces[0].try_run(f"ping -c1 -W1 {link_local}").returncode == 0) is multicast
            assert bool(questions(cable)) is multicast

    trio.run(main)


def test_a_network_too_small_for_ipv6_carries_ipv4(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory
) -> None:
    mtu_bytes = 1000
    spaces = [namespaces("c1"), namespaces("c2")]
    ends = [
        replace(endpoint(n, space), addresses=(f"10.66.0.{n}/20",), mtu_bytes=mtu_bytes)
        for n, space in enumerate(spaces, 2)
    ]

    async def main() -> None:
        async with AsyncExitStack() as stack:
            hosts = [
                await stack.enter_async_context(open_host(*one)) for one in zip(wire, UNDERLAYS, strict=True)
            ]
            for own, other, host, far in zip(ends, reversed(ends), hosts, reversed(UNDERLAYS), strict=True):
                wanted = network((own,), (seen_from_elsewhere(other, far),))
                await program(host, desired_of(host, replace(wanted, mtu_bytes=mtu_bytes)))
                await host.attacher.bind(own)
            spaces[0].run(f"ping -c1 -W1 -M do -s {mtu_bytes - 28} 10.66.0.3")
            assert "inet6" not in spaces[0].run("ip address show dev eth0")
            assert hosts[0].reconciler.status().failures == 0
            # As a runtime has it that moves the interface itself.
            await hosts[0].attacher.unbind(ends[0].endpoint_id)
            peer = await hosts[0].attacher.create(ends[0])
            hosts[0].namespace.run(f"ip link set {peer} netns {spaces[0].name} name eth0")
            await hosts[0].attacher.bind(ends[0])
            spaces[0].run("ping -c1 -W1 10.66.0.3")

    trio.run(main)
