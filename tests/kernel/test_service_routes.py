"""Local routes to service addresses, in a sandbox and on the host: what their kernel answers, what never leaves."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, closing
from dataclasses import replace

import pytest
import trio
from harness.datapath import Host, desired_of, endpoint, network, open_host, program
from harness.namespaces import Namespace, NamespaceFactory, add_addresses, make_bridge, wait_until
from kernel.eavesdropping import packets_at, questions

from netagent.datapath.endpoint.netns import opened_netns, run_in_netns
from netagent.datapath.netlink.route_socket import Netlink, open_socket
from netagent.datapath.reconcile.desired import LocalEndpoint
from netagent.datapath.reconcile.drift import Damage, DamageKind, Drift
from netagent.datapath.reconcile.host_service_routes import HostRoutes, HostServiceRoutes
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
        routed.set(local.endpoint_id, None)
        assert await host.attacher.repair(replace(local, service_ranges=())) == []
        assert routes(box) == []
        routed.set(local.endpoint_id, None)
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
    wanted = HostRoutes("na-1", RANGES, ("10.66.0.8", "fd66::8"))

    async def main() -> None:
        drift = Drift()
        with opened_netns(h1.path) as fd:
            netlink = Netlink(await run_in_netns(fd, open_socket))
        with closing(netlink):
            keeper = HostServiceRoutes(netlink, drift)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keeper.run)
                with trio.fail_after(5):
                    keeper.set_desired([wanted, HostRoutes("na-2", ("10.78.0.0/20",), ("10.67.0.8",))], 1)
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
