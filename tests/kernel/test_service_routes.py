"""Local routes to service addresses, in a sandbox and on the host: what their kernel answers, what never leaves."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from ipaddress import ip_address

import pytest
import trio
from harness.datapath import Host, desired_of, endpoint, network, open_host, program
from harness.firewall import bridge, give, guarding, plug
from harness.namespaces import Namespace, NamespaceFactory, add_addresses, make_bridge, wait_until
from kernel.eavesdropping import packets_at, questions

from netagent.datapath.endpoint.netns import opened_netns, run_in_netns
from netagent.datapath.host.service_routes import follow_local_routes, local_routes
from netagent.datapath.netlink.route_socket import Netlink, open_socket
from netagent.datapath.reconcile.desired import LocalEndpoint
from netagent.datapath.reconcile.drift import Damage, DamageKind, Drift
from netagent.datapath.reconcile.host_service_routes import HostRoutes, HostServiceRoutes
from netagent.firewall.inputs import FirewallInput, GuardedEndpoint, GuardedNetwork, PortForward
from netagent.model.ids import EndpointId, veth_name

pytestmark = pytest.mark.kernel

RANGES = ("10.77.16.0/20", "fd66:0:0:77::/64")
ADDRESSES = ("10.77.16.9", "fd66:0:0:77::9")
OWN = ("10.66.0.2", "fd66::2")

ASK = """
import json, socket, sys, time
found = []
for address in sys.argv[1:]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 1025))
        source = probe.getsockname()[0]
    refused = []
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(family, kind) as sock:
            sock.settimeout(3)
            begin = time.monotonic()
            try:
                sock.connect((address, 81))
                sock.send(b"x")
                sock.recv(1)
                refused.append("answered")
            except ConnectionRefusedError:
                refused.append(time.monotonic() - begin)
            except OSError as error:
                refused.append(repr(error))
    found.append((source, refused))
print(json.dumps(found))
"""


def with_guest(
    wire: tuple[Namespace, Namespace],
    namespaces: NamespaceFactory,
    body: Callable[[Host, Namespace, LocalEndpoint], Awaitable[None]],
) -> None:
    """Run `body` with a container that has routes to RANGES; its interface is published as eth0."""
    box = namespaces("box")
    local = replace(endpoint(2, box, "eth0"), service_ranges=RANGES)

    async def main() -> None:
        async with open_host(wire[0], "192.0.2.1") as host:
            await program(host, desired_of(host, network((local,))))
            await host.attacher.bind(local)
            await body(host, box, local)

    trio.run(main)


def routes(box: Namespace) -> list[str]:
    return sorted(
        words[1]
        for family in ("-4", "-6")
        for line in box.run(f"ip {family} route show table local proto 78").splitlines()
        if (words := line.split())[0] == "local"
    )


def test_the_sandbox_itself_answers_for_service_addresses_and_asks_no_neighbour(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory
) -> None:
    async def body(host: Host, box: Namespace, local: LocalEndpoint) -> None:
        # Another interface, whose addresses the kernel must not choose as the source.
        other = replace(
            endpoint(3, box, "eth1"),
            endpoint_id=EndpointId("00000003" * 4),
            addresses=("10.67.0.3/20", "fd66:0:0:76::3/64"),
        )
        await host.attacher.bind(other)
        with ExitStack() as opened:
            seen = opened.enter_context(await packets_at(box, "eth0"))
            for address in ADDRESSES:
                box.run(f"ping -c1 -W1 {address}")
                box.run(f"ping -c1 -W1 -I eth0 {address}")
            answers = json.loads(box.run_python(ASK, *ADDRESSES))
            assert [source for source, _ in answers] == list(OWN)
            for _, refused in answers:
                assert all(isinstance(one, float) and one < 0.1 for one in refused), answers
            assert not [one for one in questions(seen) if any(a in one for a in ADDRESSES)]

    with_guest(wire, namespaces, body)


def test_ranges_come_and_go_without_counting_as_damage(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory
) -> None:
    more = ("10.77.32.0/20", "fd66:0:0:78::/64")

    async def body(host: Host, box: Namespace, local: LocalEndpoint) -> None:
        routed = host.attacher.routed_ranges
        assert routed.of(local.endpoint_id) == frozenset(RANGES)
        both = replace(local, service_ranges=(*RANGES, *more))
        assert await host.attacher.repair(both) == []
        assert routes(box) == sorted((*RANGES, *more))
        assert routed.of(local.endpoint_id) == frozenset((*RANGES, *more))
        assert await host.attacher.repair(replace(local, service_ranges=more)) == []
        assert routes(box) == sorted(more)
        assert await host.attacher.repair(replace(local, service_ranges=())) == []
        assert routes(box) == []
        assert routed.of(local.endpoint_id) == frozenset()

    with_guest(wire, namespaces, body)


def test_what_an_earlier_agent_routed_is_adopted_or_removed(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory
) -> None:
    async def body(host: Host, box: Namespace, local: LocalEndpoint) -> None:
        routed = host.attacher.routed_ranges
        routed.note(local.endpoint_id, None)
        assert await host.attacher.repair(replace(local, service_ranges=())) == []
        assert routes(box) == []
        routed.note(local.endpoint_id, None)
        assert await host.attacher.repair(local) == []
        assert routes(box) == sorted(RANGES)

    with_guest(wire, namespaces, body)


DELETED = [Damage(DamageKind.ROUTE_DELETED, f"local {one} of eth0") for one in RANGES]
DAMAGES = [
    (f"ip route del local {RANGES[0]} dev eth0 table local", DELETED[:1]),
    (f"ip -6 route del local {RANGES[1]} dev eth0 table local", DELETED[1:]),
    ("ip link set eth0 down", None),
    ("ip addr flush dev eth0 scope global", None),
    ("ip link del eth0", None),
]


@pytest.mark.parametrize(("damage", "wanted"), DAMAGES, ids=[one for one, _ in DAMAGES])
def test_damage_is_repaired(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory, damage: str, wanted: list[Damage] | None
) -> None:
    async def body(host: Host, box: Namespace, local: LocalEndpoint) -> None:
        box.run(damage)
        found = await host.attacher.repair(local)
        assert found if wanted is None else found == wanted
        assert routes(box) == sorted(RANGES)
        assert [source for source, _ in json.loads(box.run_python(ASK, *ADDRESSES))] == list(OWN)
        assert await host.attacher.repair(local) == []

    with_guest(wire, namespaces, body)


def test_the_routes_go_with_the_interface(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory
) -> None:
    async def body(host: Host, box: Namespace, local: LocalEndpoint) -> None:
        await host.attacher.unbind(local.endpoint_id)
        assert veth_name(local.endpoint_id) not in host.namespace.run("ip link")
        assert routes(box) == []
        assert host.attacher.routed_ranges.of(local.endpoint_id) is None

    with_guest(wire, namespaces, body)


def test_the_hosts_own_routes_are_kept_and_go(wire: tuple[Namespace, Namespace]) -> None:
    h1 = wire[0]
    make_bridge(h1, "na-1", "10.66.0.8/20", "fd66::8/64")
    wanted = HostRoutes("na-1", 1, RANGES, ("10.66.0.8", "fd66::8"))

    async def main() -> None:
        drift = Drift()
        with opened_netns(h1.path) as fd:
            netlink = Netlink(await run_in_netns(fd, open_socket))
        with closing(netlink):
            keeper = HostServiceRoutes(netlink, drift)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keeper.run)
                with trio.fail_after(5):
                    keeper.set_desired([wanted, HostRoutes("na-2", 2, ("10.78.0.0/20",), ("10.67.0.8",))], 1)
                    await keeper.wait_tried(1)
                    assert routes(h1) == sorted(RANGES)
                    assert keeper.has_routes("na-1")
                    assert not keeper.has_routes("na-2")
                    answers = json.loads(h1.run_python(ASK, *ADDRESSES))
                    assert [source for source, _ in answers] == ["10.66.0.8", "fd66::8"]
                    keeper.set_desired([wanted], 2)
                    await keeper.wait_tried(2)
                h1.run(f"ip route del local {RANGES[0]} dev na-1 table local")
                await wait_until(lambda: routes(h1) == sorted(RANGES), "the route is back", 2.0)
                assert drift.kinds == {"route-deleted": 1}
                h1.run("ip link set na-1 down")
                h1.run("ip link set na-1 up")
                add_addresses(h1, "na-1", "fd66::8/64")  # as the reconciler does
                await wait_until(lambda: routes(h1) == sorted(RANGES), "the routes are back", 2.0)
                keeper.set_desired([], 3)
                with trio.fail_after(5):
                    await keeper.wait_tried(3)
                assert routes(h1) == []
                nursery.cancel_scope.cancel()

    trio.run(main)


NET = GuardedNetwork(
    bridge="na-1",
    bridge_mac="06:00:00:00:00:01",
    tunnel="nx-1",
    host_addresses=("10.66.0.8", "fd66::8"),
)
GUEST = GuardedEndpoint(
    veth="nv00000002", mac="02:0a:00:00:00:02", addresses=("10.66.0.2", "fd66::2"), bridge=NET.bridge
)
WEB = replace(GUEST, veth="nv00000003", mac="02:0a:00:00:00:03", addresses=("10.66.0.3", "fd66::3"))
SERVE = """
import socket
for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        sock = socket.socket(family, kind)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, 80))
        if kind == socket.SOCK_STREAM:
            sock.listen()
        globals().setdefault("kept", []).append(sock)
print("ready", flush=True)
import time
time.sleep(600)
"""
CONNECT = """
import socket, sys
for address in sys.argv[1:]:
    for port in (80, 8080):
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as sock:
            sock.settimeout(0.3)
            try:
                sock.connect((address, port))
                print("connected to", address, port)
            except OSError:
                pass
"""


def test_what_a_sandbox_without_routes_sends_is_neither_answered_nor_led_on_by_the_host(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory
) -> None:
    """The host answers for the range itself, serves port 80 at all its addresses, and publishes another's at 8080;
    the outside would take what leaves by the gateway."""
    h1, outside, box, web = *wire, namespaces("box"), namespaces("web")
    bridge(h1, NET, "10.66.0.1/24", "10.66.0.8/24", "fd66::1/64", "fd66::8/64")
    for where, one in ((box, GUEST), (web, WEB)):
        plug(h1, where, one, NET)
        where.run("ip route add default via 10.66.0.1")
        where.run("ip -6 route add default via fd66::1")
    for family in ("ipv4.conf.all", "ipv6.conf.all"):
        h1.run(f"sysctl -qw net.{family}.forwarding=1")
    h1.run(f"ip route add {RANGES[0]} via 192.0.2.2")
    h1.run(f"ip -6 route add {RANGES[1]} via 2001:db8::2")
    given = FirewallInput(
        vxlan_port=4799,
        endpoints=(GUEST, WEB),
        networks=(NET,),
        subnets=("10.66.0.0/24", "fd66::/64", *RANGES),
        own_ranges=RANGES,
        port_forwards=tuple(
            PortForward(protocol="tcp", host_port=8080, container=one, port=80) for one in WEB.addresses
        ),
    )

    async def main() -> None:
        with opened_netns(h1.path) as fd:
            netlink = Netlink(await run_in_netns(fd, open_socket))
        with closing(netlink), ExitStack() as opened:
            for where in (h1, web):
                opened.enter_context(serving(where))
            async with guarding(h1, given) as guard:
                # By their own addresses both are reached, so this test would see it.
                assert box.run_python(CONNECT, "10.66.0.8", "fd66::8").count("connected") == 4
                index = int(h1.run(f"cat /sys/class/net/{NET.bridge}/ifindex"))
                for ranges in ((), RANGES):
                    wanted = local_routes(ranges, ("10.66.0.8", "fd66::8"), index)
                    await follow_local_routes(netlink, wanted)
                    await give(guard, replace(given, own_ranges=ranges), 2 + len(ranges))
                    seen = opened.enter_context(await packets_at(outside, "wire"))
                    assert box.run_python(CONNECT, *ADDRESSES) == ""
                    for address in ADDRESSES:
                        assert box.try_run(f"ping -c1 -W1 {address}").returncode != 0
                    assert not [one for one in frames(seen) if any(a in one for a in PACKED)]
                # The host itself has them, and a published port is no port of theirs.
                for address in ADDRESSES:
                    h1.run(f"ping -c1 -W1 {address}")
                assert "8080" not in h1.run_python(CONNECT, *ADDRESSES)

    trio.run(main)


PACKED = [ip_address(one).packed for one in ADDRESSES]


def frames(sock: socket.socket) -> list[bytes]:
    found = []
    with suppress(BlockingIOError):
        while True:
            found.append(sock.recv(2000))
    return found


@contextmanager
def serving(where: Namespace) -> Iterator[None]:
    """Servers at port 80 of all addresses."""
    command = ["ip", "netns", "exec", where.name, sys.executable, "-c", SERVE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()
