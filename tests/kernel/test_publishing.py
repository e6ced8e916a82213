"""Published ports: from outside, from the host itself and from containers, by both families."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
import trio
from harness.firewall import Netfilter, bridge, give, guarding, plug
from harness.namespaces import Namespace, NamespaceFactory
from kernel.test_policy import sock_in

from netagent.firewall.inputs import (
    FirewallInput,
    GuardedEndpoint,
    GuardedNetwork,
    PortForward,
    ServiceForward,
)

pytestmark = pytest.mark.kernel

NET = GuardedNetwork(bridge="na-8388609", bridge_mac="06:00:00:00:00:01")
BACK = GuardedNetwork(bridge="na-8388610", bridge_mac="06:00:00:00:00:02")
WEB = GuardedEndpoint(
    veth="nv00000002", mac="02:0a:00:00:00:02", addresses=("10.66.0.2", "fd66::2"), bridge="na-8388609"
)
CLI = GuardedEndpoint(
    veth="nv00000003", mac="02:0a:00:00:00:03", addresses=("10.66.0.3", "fd66::3"), bridge="na-8388609"
)
FAR = GuardedEndpoint(
    veth="nv00000004", mac="02:0b:00:00:00:04", addresses=("10.67.0.4", "fd67::4"), bridge="na-8388610"
)
OUTER = {"10.66.0.2": "192.0.2.1", "fd66::2": "2001:db8::1"}
HOST_PORT, PORT, COUNT = 8080, 80, 3
PORT_FORWARDS = tuple(
    PortForward(protocol=protocol, host_port=HOST_PORT + number, container=address, port=PORT + number)
    for protocol in ("tcp", "udp")
    for number in range(COUNT)
    for address in WEB.addresses
)
GIVEN = FirewallInput(
    vxlan_port=4799, endpoints=(WEB, CLI, FAR), networks=(NET, BACK), port_forwards=PORT_FORWARDS
)
SOON_S = 2.0


@asynccontextmanager
async def serving(where: Namespace, ports: range, addresses: tuple[str, ...]) -> AsyncIterator[None]:
    """Each client gets the address from which the server saw it."""
    async with trio.open_nursery() as nursery:
        for address in addresses:
            for port in ports:
                stream = await sock_in(where, socket.SOCK_STREAM, address, port)
                stream.listen()
                nursery.start_soon(_answer_streams, stream)
                nursery.start_soon(_answer_datagrams, await sock_in(where, socket.SOCK_DGRAM, address, port))
        yield
        nursery.cancel_scope.cancel()


async def _answer_streams(sock: trio.socket.SocketType) -> None:
    with sock:
        while True:
            far, source = await sock.accept()
            with far:
                await far.send(f"{sock.getsockname()[1]} {source[0]}".encode())


async def _answer_datagrams(sock: trio.socket.SocketType) -> None:
    with sock:
        while True:
            _, source = await sock.recvfrom(100)
            await sock.sendto(f"{sock.getsockname()[1]} {source[0]}".encode(), source)


async def seen_by(client: Namespace, address: str, port: int, kind: socket.SocketKind) -> tuple[int, str]:
    """The container's port that answered, and as whom it saw the client. OSError, trio.TooSlowError."""
    with await sock_in(client, kind, "::" if ":" in address else "0.0.0.0") as sock:
        with trio.fail_after(SOON_S):
            await sock.connect((address, port))
            if kind == socket.SOCK_DGRAM:
                await sock.send(b"x")
            said = (await sock.recv(100)).decode().split()
        return int(said[0]), said[1]


def place(wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory) -> list[Namespace]:
    host, outside = wire
    host.run("sysctl -qw net.ipv4.ip_forward=1")
    host.run("sysctl -qw net.ipv6.conf.all.forwarding=1")
    containers = []
    for network, number, residents in ((NET, 66, (WEB, CLI)), (BACK, 67, (FAR,))):
        bridge(host, network, f"10.{number}.0.1/24", f"fd{number}::1/64")
        host.run(f"sysctl -qw net.ipv4.conf.{network.bridge}.route_localnet=1")
        for one in residents:
            container = namespaces(f"c{one.veth[-1]}")
            plug(host, container, one, network)
            container.run(f"ip route add default via 10.{number}.0.1")
            container.run(f"ip route add default via fd{number}::1")
            containers.append(container)
    return [host, outside, *containers]


BOTH = (socket.SOCK_STREAM, socket.SOCK_DGRAM)


@pytest.mark.parametrize("bridge_netfilter", Netfilter)
def test_a_published_port_is_reached_from_everywhere(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory, bridge_netfilter: Netfilter
) -> None:
    host, outside, web, cli, far = place(wire, namespaces)
    bridge_netfilter.set(host)

    async def main() -> None:
        async with guarding(host, GIVEN) as guard, serving(web, range(PORT, PORT + COUNT), WEB.addresses):
            for kind in BOTH:
                for inner, outer in OUTER.items():
                    gateway = inner[:-1] + "1"
                    for number in range(COUNT):
                        found = await seen_by(outside, outer, HOST_PORT + number, kind)
                        source = "192.0.2.2" if ":" not in outer else "2001:db8::2"
                        assert found == (PORT + number, source), "strangers are seen as who they are"
                    assert await seen_by(host, outer, HOST_PORT, kind) == (PORT, gateway)
                    # Translated on its way over the bridge, a packet does not go back by the port it came from.
                    for client in (cli, far) if bridge_netfilter is Netfilter.ON else (cli, far, web):
                        assert await seen_by(client, outer, HOST_PORT + 1, kind) == (PORT + 1, gateway)
                    assert await seen_by(cli, gateway, HOST_PORT, kind) == (PORT, gateway)
                assert await seen_by(host, "127.0.0.1", HOST_PORT, kind) == (PORT, "10.66.0.1")
                with pytest.raises(OSError, match="refused"):
                    await seen_by(host, "::1", HOST_PORT, kind)
            assert guard.status().dropped["crossed"] == 0
            # What is not published stays shut, and a network stays apart.
            async with serving(web, range(PORT + COUNT, PORT + COUNT + 1), WEB.addresses):
                for inner, outer in OUTER.items():
                    with pytest.raises(OSError, match="refused"):
                        await seen_by(outside, outer, HOST_PORT + COUNT, socket.SOCK_STREAM)
                    with pytest.raises(trio.TooSlowError):
                        await seen_by(far, inner, PORT, socket.SOCK_STREAM)
            # The same port of others is theirs, whatever client asks.
            async with serving(outside, range(HOST_PORT, HOST_PORT + 1), ("192.0.2.2", "2001:db8::2")):
                for client in (host, cli):
                    for there, here in (("192.0.2.2", "192.0.2.1"), ("2001:db8::2", "2001:db8::1")):
                        for kind in BOTH:
                            assert await seen_by(client, there, HOST_PORT, kind) == (HOST_PORT, here)

    trio.run(main)


def test_a_published_service_leads_to_each_of_its_containers_here_and_to_no_other(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory
) -> None:
    host, outside, web, cli, far = place(wire, namespaces)
    # CLI is a replica with another port, FAR the one that is published for itself and wins its port.
    here = [
        ServiceForward(
            protocol=protocol,
            host_port=HOST_PORT + number,
            containers=((web_address, PORT), (cli_address, PORT + 1)),
        )
        for protocol in ("tcp", "udp")
        for number in range(2)
        for web_address, cli_address in zip(WEB.addresses, CLI.addresses, strict=True)
    ]
    own = tuple(
        PortForward(protocol="tcp", host_port=HOST_PORT + 1, container=address, port=PORT + 2)
        for address in FAR.addresses
    )
    given = dataclasses.replace(GIVEN, port_forwards=own, service_forwards=tuple(here))

    async def main() -> None:
        ports = {"web": (web, WEB, PORT), "cli": (cli, CLI, PORT + 1), "far": (far, FAR, PORT + 2)}
        async with guarding(host, given) as guard, AsyncExitStack() as stack:
            for container, one, port in ports.values():
                await stack.enter_async_context(serving(container, range(port, port + 1), one.addresses))
            for outer, source in (("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")):
                for kind in BOTH:
                    found = {await seen_by(outside, outer, HOST_PORT, kind) for _ in range(40)}
                    assert found == {(PORT, source), (PORT + 1, source)}
                assert await seen_by(outside, outer, HOST_PORT + 1, socket.SOCK_STREAM) == (PORT + 2, source)
            # One replica goes: all new connections reach the other one. Then none is left: refused at once.
            left = [dataclasses.replace(one, containers=one.containers[:1]) for one in here]
            await give(guard, dataclasses.replace(given, service_forwards=tuple(left)), 2)
            for outer in OUTER.values():
                for kind in BOTH:
                    assert {(await seen_by(outside, outer, HOST_PORT, kind))[0] for _ in range(20)} == {PORT}
            await give(guard, dataclasses.replace(given, service_forwards=()), 3)
            for outer in OUTER.values():
                with pytest.raises(OSError, match="refused"):
                    await seen_by(outside, outer, HOST_PORT, socket.SOCK_STREAM)

    trio.run(main)


def test_one_address_of_the_host_and_a_container_whose_way_out_is_another(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory
) -> None:
    host, outside, web, cli, _ = place(wire, namespaces)
    host.run("ip addr add 192.0.2.9/24 dev wire")
    web.run("ip route del default")
    web.run("ip -6 route del default")
    port_forwards = tuple(
        PortForward(
            protocol="tcp", host_port=HOST_PORT, container=address, port=PORT, address=outer, needs_snat=True
        )
        for address, outer in OUTER.items()
    )

    async def main() -> None:
        given = dataclasses.replace(GIVEN, port_forwards=port_forwards)
        async with guarding(host, given) as guard, serving(web, range(PORT, PORT + 1), WEB.addresses):
            for inner, outer in OUTER.items():
                seen = await seen_by(outside, outer, HOST_PORT, socket.SOCK_STREAM)
                assert seen == (PORT, inner[:-1] + "1")
            for nowhere in ("192.0.2.9", "127.0.0.1"):
                with pytest.raises(OSError, match="refused"):
                    await seen_by(
                        outside if nowhere != "127.0.0.1" else host, nowhere, HOST_PORT, socket.SOCK_STREAM
                    )
            # A container can't reach what listens on the host's loopback by the switch that makes that work.
            async with serving(host, range(9000, 9001), ("127.0.0.1",)):
                cli.run("sysctl -qw net.ipv4.conf.all.route_localnet=1")
                cli.run("ip route add 127.0.0.1/32 via 10.66.0.1 table 100")
                cli.run("ip rule add pref 0 to 127.0.0.1 lookup 100")
                cli.run("ip rule del pref 0 lookup local")
                cli.run("ip rule add pref 1 lookup local")
                with pytest.raises(trio.TooSlowError):
                    await seen_by(cli, "127.0.0.1", 9000, socket.SOCK_STREAM)
                assert guard.status().dropped["crossed"] > 0
            # It comes and goes by elements, and a flush does not last.
            host.run("nft flush ruleset")
            with trio.fail_after(2):
                while guard.status().restored == 0:
                    await trio.sleep(0.01)
            assert (await seen_by(outside, "192.0.2.1", HOST_PORT, socket.SOCK_STREAM))[0] == PORT
            await give(guard, dataclasses.replace(given, port_forwards=()), 2)
            with pytest.raises(OSError, match="refused"):
                await seen_by(outside, "192.0.2.1", HOST_PORT, socket.SOCK_STREAM)

    trio.run(main)


def test_a_flow_of_datagrams_follows_its_port(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory
) -> None:
    """Also one that began before the port was published, and one that never pauses."""
    host, outside, web, cli, _ = place(wire, namespaces)
    to_cli = tuple(
        dataclasses.replace(port_forward, container=other, port=port_forward.port + 10)
        for port_forward in PORT_FORWARDS
        for one, other in zip(WEB.addresses, CLI.addresses, strict=True)
        if port_forward.container == one
    )

    async def asked(sock: trio.socket.SocketType) -> str:
        with suppress(OSError):  # the refusal of one before
            await sock.send(b"x")
        with trio.move_on_after(0.2), suppress(OSError):
            return (await sock.recv(100)).decode()
        return ""

    async def until(sock: trio.socket.SocketType, wanted: str) -> None:
        with trio.fail_after(SOON_S):
            while await asked(sock) != wanted:
                await trio.sleep(0.05)

    async def main() -> None:
        async with (
            guarding(host, dataclasses.replace(GIVEN, port_forwards=())) as guard,
            serving(web, range(PORT, PORT + 1), WEB.addresses),
            serving(cli, range(PORT + 10, PORT + 11), CLI.addresses),
        ):
            for number, (outer, client) in enumerate(
                (("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2"))
            ):
                sock = await sock_in(outside, socket.SOCK_DGRAM, client)
                with sock:
                    await sock.connect((outer, HOST_PORT))
                    assert await asked(sock) == ""
                    await give(guard, GIVEN, 3 * number + 2)
                    await until(sock, f"{PORT} {client}")
                    await give(guard, dataclasses.replace(GIVEN, port_forwards=to_cli), 3 * number + 3)
                    await until(sock, f"{PORT + 10} {client}")
                    await give(guard, dataclasses.replace(GIVEN, port_forwards=()), 3 * number + 4)
                    await until(sock, "")

    trio.run(main)
