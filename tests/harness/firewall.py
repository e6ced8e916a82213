"""Our tables in a namespace, kept as the agent keeps them, and bridges and containers for them to guard."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from harness.namespaces import Namespace, make_bridge, make_veth
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


def bridge(host: Namespace, network: GuardedNetwork, *addresses: str) -> None:
    """The network's bridge, with these addresses of the host."""
    make_bridge(host, network.bridge, *addresses, mac=network.bridge_mac)


def plug(host: Namespace, container: Namespace, one: GuardedEndpoint, network: GuardedNetwork) -> None:
    addresses = [f"{address}/{64 if ':' in address else 24}" for address in one.addresses]
    make_veth(host, one.veth, container, *addresses, mac=one.mac, bridge=network.bridge)


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
        "from netagent.datapath.reconcile.bridge_nf_bypass import BridgeNfBypass; bypass = BridgeNfBypass(Drift());"
        "bypass.set_ports({i: n for i, n in socket.if_nameindex() if n.startswith(('nv', 'nx-'))}); bypass.look();"
        "assert not bypass.trouble, bypass.trouble"
    )
