"""What tests of the firewall are made of: our tables in a throw-away namespace, kept as the agent keeps them."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from kernel.overlay import Namespace, await_passing

from netagent.datapath.endpoint.netns import call_in_netns_of, opened_netns, run_in_netns
from netagent.datapath.netlink import nftables
from netagent.firewall.driver import Tables
from netagent.firewall.guard import Guard
from netagent.firewall.inputs import FirewallInput, GuardedEndpoint, GuardedNetwork


async def tables_of(namespace: Namespace, memory: Path | None = None) -> Tables:
    with opened_netns(namespace.path) as fd:
        sock = await run_in_netns(fd, nftables.open_socket)
    return Tables(
        sock,
        nft=("nsenter", f"--net={namespace.path}", "nft"),
        memory=memory,
        another=lambda: call_in_netns_of(sock, nftables.open_socket),
    )


@asynccontextmanager
async def guarding(
    namespace: Namespace,
    given: FirewallInput,
    memory: Path | None = None,
    tables: Tables | None = None,
) -> AsyncIterator[Guard]:
    """The tables hold within the block, and stay behind it, as when an agent stops."""
    guard = Guard(tables or await tables_of(namespace, memory))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(guard.run)
        await give(guard, given, 1)
        yield guard
        nursery.cancel_scope.cancel()


async def give(guard: Guard, given: FirewallInput | None, generation: int) -> None:
    guard.set_desired(given, generation)
    with trio.fail_after(10):
        await guard.wait_tried(generation)
    assert not guard.trouble


def bridge(host: Namespace, network: GuardedNetwork) -> None:
    host.run("sysctl -qw net.ipv6.conf.default.accept_dad=0")
    host.run(f"ip link add {network.bridge} address {network.bridge_mac} type bridge mcast_snooping 0")
    host.run(f"ip link set {network.bridge} up")


def plug(host: Namespace, container: Namespace, one: GuardedEndpoint, network: GuardedNetwork) -> None:
    container.run("sysctl -qw net.ipv6.conf.default.accept_dad=0")
    peer = f"address {one.mac} name eth0 netns {container.name}"
    host.run(f"ip link add {one.veth} type veth peer {peer}")
    host.run(f"ip link set {one.veth} master {network.bridge} up")
    for address in one.addresses:
        container.run(f"ip addr add {address}/{64 if ':' in address else 24} dev eth0")
    container.run("ip link set eth0 up")
    await_passing(host, one.veth)
    await_passing(container, "eth0", *one.addresses)


class Netfilter(enum.Enum):
    """Who judges what a bridge passes, beside our own rules."""

    OFF = "off"
    ON = "bridge netfilter"
    TAGGED = "bridge netfilter, which our tags keep away"

    def set(self, host: Namespace) -> None:
        """At the end, when all ports are there."""
        for setting in ("iptables", "ip6tables", "arptables"):
            host.run(f"sysctl -qw net.bridge.bridge-nf-call-{setting}={int(self is not Netfilter.OFF)}")
        if self is Netfilter.TAGGED:
            tag(host)


def tag(host: Namespace) -> None:
    """What the agent does at all ports where bridge netfilter is on."""
    host.run_code(
        "import socket; from netagent.datapath.reconcile.drift import Drift;"
        "from netagent.datapath.reconcile.bridge_nf_bypass import BridgeNfBypass; tagger = BridgeNfBypass(Drift());"
        "tagger.set_ports({i: n for i, n in socket.if_nameindex() if n.startswith(('nv', 'nx-'))}); tagger.look();"
        "assert not tagger.trouble, tagger.trouble"
    )
