"""Damage at a container's own interface, done inside and outside: repaired within 2 s, reported by its kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import pytest
import trio
import trio.testing
from fakes.agent_host import AgentHost
from fakes.registry import N1
from fakes.registry import network as network_record
from fakes.scratch_state import network_inputs
from fakes.virtual import ending
from harness.datapath import Host, desired_of, open_host, program
from harness.namespaces import Namespace, NamespaceFactory, wait_until

from netagent.datapath.endpoint.attach import Attacher
from netagent.datapath.endpoint.guest_watch import GuestNews
from netagent.datapath.endpoint.netns import boot_id
from netagent.endpoints.interfaces import Interfaces
from netagent.journal.rows import Bound, LocalEndpointRow, Published
from netagent.model.ids import EndpointId, veth_name
from netagent.model.records import NetworkOption, NetworkOptionsRecord, OptionChange
from netagent.model.sandbox import Netns
from netagent.projection.datapath_input import local_endpoint

pytestmark = pytest.mark.kernel

ENDPOINT = EndpointId("00000002" * 4)
VETH = veth_name(ENDPOINT)
MAC = "02:0a:00:00:00:02"
BOUND_S = 2.0


@dataclass(frozen=True)
class World:
    host: Host
    box: Namespace
    elsewhere: Namespace
    interfaces: Interfaces
    agent: AgentHost

    def row(self) -> LocalEndpointRow:
        return self.agent.live.rows[ENDPOINT]

    async def repair(self) -> list[str]:
        network = self.agent.live.view.networks[N1]
        endpoint = self.agent.endpoints.context.in_datapath(self.row(), network)
        damages = await self.host.attacher.repair(endpoint)
        return [f"{one.kind} {one.thing}" for one in damages]


def with_world(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory, body: Callable[[World], Awaitable[None]]
) -> None:
    """Run `body` on a host with one container, `box`, whose interface is looked after."""
    box, elsewhere = namespaces("box"), namespaces("other")

    async def main() -> None:
        agent = AgentHost()
        await agent.publisher.put(network_record(N1, "app"))
        network = agent.live.view.networks[N1]
        row = LocalEndpointRow(
            endpoint_id=ENDPOINT,
            network_id=N1,
            name="web",
            service="web",
            offset=2,
            addresses=("10.1.0.2", "fd00:1::2"),
            mac=MAC,
            stage=Bound(Netns(box.path, box.identity, boot_id())),
        )
        async with open_host(wire[0], "192.0.2.1") as host:
            inputs = network_inputs(agent.live.view, [row], "192.0.2.1")
            await program(host, desired_of(host, *inputs))
            gateways = tuple(cidr.partition("/")[0] for cidr in network.record.gateways)
            ifname = await host.attacher.bind(
                replace(local_endpoint(row, network), gateways=gateways),
            )
            interfaces = Interfaces(agent.live, host.attacher, agent.endpoints.context, host.reconciler.drift)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(interfaces.run, host.reconciler.wait_absent_changed)
                await trio.testing.wait_all_tasks_blocked()  # it is there when the container comes
                await wait_until(lambda: not host.reconciler.absent_endpoints, "the interface is seen")
                agent.live.set_row(published(row, ifname))
                await trio.sleep(0.3)
                await body(World(host, box, elsewhere, interfaces, agent))
                nursery.cancel_scope.cancel()

    with ending():
        trio.run(main)


def published(row: LocalEndpointRow, ifname: str) -> LocalEndpointRow:
    assert row.netns is not None
    return replace(row, stage=Published(row.netns, ifname))


INSIDE = [
    ("ip -6 route del fd00:1::/64 dev eth0", "route-deleted"),
    ("ip link set eth0 down", "device-down"),
    ("ip link set lo down", "device-down"),
    ("ip addr flush dev eth0 scope global", "address-deleted"),
    ("ip -4 addr flush dev eth0", "address-deleted"),
    ("ip link set eth0 mtu 1280", "mtu-changed"),
    ("ip link set eth0 mtu 1000", "mtu-changed"),
    ("ip link set eth0 address 02:00:00:00:00:77", "mac-changed"),
    ("ip -4 route flush dev eth0", "route-deleted"),
    ("ip link set eth0 name eth7", "device-renamed"),
    ("sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1", "address-deleted"),
    ("sysctl -qw net.ipv6.conf.eth0.accept_ra=2", "device-altered"),
    ("ip link del eth0", "device-deleted"),
    ("ip link set eth0 netns {elsewhere}", "device-moved"),
]
OUTSIDE = [
    (f"ip link set {VETH} netns {{elsewhere}}", "device-moved"),
    (f"ip link del {VETH}", "device-deleted"),
    (f"ip link set {VETH} name gone", "device-renamed"),
    (f"ip link set {VETH} nomaster", "port-detached"),
    (f"ip link set {VETH} mtu 1000", "mtu-changed"),
]


def test_scenario_38_damage_to_a_containers_interface_is_put_right(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory
) -> None:
    async def body(world: World) -> None:
        before = shown(world.box)
        world.box.run("ip addr add 10.99.0.1/24 dev eth0")  # a container's own addition, which stays
        world.box.run("ip route add 10.98.0.0/24 dev eth0")
        world.box.run("ip route add fd00:1::/64 dev eth0 table 99")  # not where packets look first
        drift = world.host.reconciler.drift
        for where, damage in ((world.box, INSIDE), (world.host.namespace, OUTSIDE)):
            for command, kind in damage:
                counted = Counter(drift.kinds)
                where.run(command.format(elsewhere=world.elsewhere.name))
                done_at = trio.current_time()
                await wait_until(
                    lambda: drift.kinds.get(kind, 0) > counted[kind],
                    f"{command} is counted as {kind}: {Counter(drift.kinds) - counted}",
                    BOUND_S,
                )
                left_s = done_at + BOUND_S - trio.current_time()
                await wait_until(lambda: shown(world.box) == before, f"{command} is put right", left_s)
                assert world.interfaces.troubles == {}
                await settled(world)
        assert VETH not in world.elsewhere.run("ip link")
        assert "eth0" not in world.elsewhere.run("ip link")

    with_world(wire, namespaces, body)


def test_damage_done_before_news_of_a_new_container_are_heard_is_put_right(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by what a container's first program does in its first moment. Where the kernel looks for duplicates of the
    link-local address, the end of that is news by itself."""
    real, right = Attacher.open_news, []

    def quiet(label: str) -> Namespace:
        namespace = namespaces(label)
        namespace.run("sysctl -qw net.ipv6.conf.default.accept_dad=0")
        return namespace

    async def late(attacher: Attacher, netns: Netns) -> GuestNews:
        box = Namespace(netns.path.rpartition("/")[2])
        right.append(shown(box))
        box.run("ip addr flush dev eth0 scope global")
        return await real(attacher, netns)

    async def body(world: World) -> None:
        assert len(right) == 1
        await wait_until(lambda: shown(world.box) == right[0], "it is put right", BOUND_S)

    monkeypatch.setattr(Attacher, "open_news", late)
    with_world(wire, quiet, body)


async def settled(world: World) -> None:
    """Nothing more is found."""
    counted: dict[str, int] = {}
    with trio.fail_after(5):
        while counted != world.host.reconciler.drift.kinds:
            counted = world.host.reconciler.drift.kinds
            await trio.sleep(0.4)


def shown(box: Namespace) -> list[str]:
    """Ours of eth0, without indexes and what the container added."""
    link = box.try_run("ip -br link show dev eth0").stdout.split()
    lines = box.try_run("ip -br addr show dev eth0 scope global").stdout.split()[2:]
    addresses = sorted(one for one in lines if not one.startswith("10.99."))
    routes = sorted(box.try_run("ip route show proto 78").stdout.splitlines())
    routes += sorted(box.try_run("ip -6 route show dev eth0 proto kernel").stdout.splitlines())
    loopback = box.try_run("ip -br link show dev lo").stdout.split()[1:2]
    files = "/sys/class/net/eth0/mtu /proc/sys/net/ipv6/conf/eth0/accept_ra"
    numbers = box.try_run(f"cat {files}").stdout.split()
    return [link[0].partition("@")[0] if link else "", *link[1:3], *numbers, *addresses, *routes, *loopback]


def test_a_container_keeps_what_it_gives_itself(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory
) -> None:
    async def body(world: World) -> None:
        assert await world.repair() == []
        world.box.run("ip addr add 10.99.0.1/24 dev eth0")
        world.box.run("ip route add 10.98.0.0/24 dev eth0")
        world.box.run("ip link add own type bridge")
        await trio.sleep(0.5)
        assert await world.repair() == []
        assert world.host.reconciler.drift.total == 0
        assert "10.99.0.1/24" in world.box.run("ip addr show eth0")
        assert "10.98.0.0/24" in world.box.run("ip route")
        assert "own" in world.box.run("ip link")

    with_world(wire, namespaces, body)


LISTEN = """
import socket
news = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
news.bind((0, 0x40))
print("ready", flush=True)
while True:
    said = news.recv(65536)
    kind, length, table, route = int.from_bytes(said[4:6], "little"), said[17], said[20], said[23]
    if kind == 25 and ((table, route) == (255, 2) or (table, length) == (254, 24)):
        print("lost", flush=True)
    if length == 31:
        print("end", flush=True)
"""
"""Says when the container's address is not its own for a moment, or its subnet has no route."""

ON_LINK = {"10.1.0.0/24"}
LOUD = {"224.0.0.0/4", "255.255.255.255"}
OUT = {"via 10.1.0.1", "via fd00:1::1"}


def routed(box: Namespace) -> set[str]:
    """The destinations of our routes, and the gateways of those that lead out."""
    lines = (box.run("ip -4 route show proto 78") + box.run("ip -6 route show proto 78")).splitlines()
    words = [line.split() for line in lines]
    return {f"via {one[2]}" if one[0] == "default" else one[0] for one in words}


def test_a_living_container_follows_the_options_of_its_network(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory
) -> None:
    async def body(world: World) -> None:
        box, agent = world.box, world.agent
        number = 0

        async def set_options(**values: str) -> None:
            nonlocal number
            number += 1
            options = [(one, values[one.value]) for one in NetworkOption if one.value in values]
            changes = tuple(OptionChange(option, value, number, 0, "root") for option, value in options)
            await agent.publisher.put(NetworkOptionsRecord(N1, changes))

        assert routed(box) == ON_LINK | OUT
        with box.running(LISTEN) as listener:
            assert listener.stdout is not None
            assert listener.stdout.readline() == "ready\n"
            for values, routes, has_broadcast in (
                ({"multicast": "yes"}, ON_LINK | LOUD | OUT, True),
                ({"internal": "yes", "multicast": "yes"}, ON_LINK | LOUD, True),
                ({"internal": "yes", "multicast": "no"}, ON_LINK, False),
                ({"internal": "no", "multicast": "yes"}, ON_LINK | LOUD | OUT, True),
            ):
                await set_options(**values)
                await wait_until(
                    lambda: (
                        routed(box) == routes
                        and ("brd 10.1.0.255" in box.run("ip addr show eth0")) is has_broadcast
                    ),
                    f"the container follows {values}",
                )
                assert box.run("ip -4 -o addr show dev eth0").count("10.1.0.2/") == 1
            box.run("ip route add 10.97.0.0/31 dev eth0")
            assert listener.stdout.readline() == "end\n", "its address was always its own"
        await settled(world)
        assert world.host.reconciler.drift.total == 0, "no other program has changed this"

        # The next agent finds what was changed while there was none. It takes that for no damage either.
        network = agent.live.view.networks[N1]
        otherwise = replace(local_endpoint(world.row(), network), multicast=False)
        fresh = Attacher(world.host.netlink, host_netns=world.host.namespace.identity)
        assert await fresh.repair(otherwise) == []
        assert routed(box) == ON_LINK

    with_world(wire, namespaces, body)


def test_a_name_that_another_took_is_shown_until_it_is_free(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory
) -> None:
    async def body(world: World) -> None:
        world.box.run("ip link set eth0 name eth7")
        world.box.run("ip link add eth0 type bridge")
        await wait_until(lambda: world.interfaces.troubles, "it is shown", BOUND_S)
        assert "already has an interface named eth0" in world.interfaces.troubles[ENDPOINT]
        world.box.run("ip link del eth0")
        await wait_until(lambda: not world.interfaces.troubles, "it heals by itself", BOUND_S)
        assert MAC in world.box.run("ip link show eth0")

    with_world(wire, namespaces, body)


def test_the_namespace_is_held_no_longer_than_its_endpoint(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory
) -> None:
    async def body(world: World) -> None:
        wire[1].run("ip link add token type veth peer name held")
        wire[1].run(f"ip link set held netns {world.box.name}")
        world.box.remove()
        await trio.sleep(0.2)
        assert "token" in wire[1].run("ip link"), "the agent's news hold it"
        world.agent.live.drop_row(ENDPOINT)
        await wait_until(lambda: "token" not in wire[1].run("ip link"), "it is gone", BOUND_S)

    with_world(wire, namespaces, body)
