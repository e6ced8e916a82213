"""The way out: in the host's name, by its gateway, where the network has one; and the host as closed as before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio
from fakes.scratch_state import RemoteEndpoint, desired_state
from harness.datapath import (
    CLUSTER,
    PORT,
    VNI,
    Host,
    endpoint,
    network,
    open_host,
    program,
    seen_from_elsewhere,
)
from harness.docker_user_chain import accepts_of, keeping_accepts, remove_accepts
from harness.firewall import give, guarding, tables_of
from harness.namespaces import Namespace, NamespaceFactory, await_passing, make_bridge, make_veth, wait_until

from netagent.datapath.endpoint.netns import opened_netns, run_in_netns
from netagent.datapath.host.forwarding import IPV4, IPV6, SETTINGS, Forwarding
from netagent.datapath.reconcile.desired import LocalEndpoint, device_mac
from netagent.datapath.state import DesiredChange, KernelState
from netagent.firewall.guard import Guard
from netagent.firewall.inputs import FirewallInput, GuardedEndpoint, GuardedNetwork
from netagent.model.egress import parse_egress
from netagent.model.ids import EndpointId, bridge_name, veth_name, vxlan_name

pytestmark = pytest.mark.kernel

UNDERLAY = "192.0.2.1"
OUTSIDE4, OUTSIDE6 = "192.0.2.2", "2001:db8::2"
GATEWAYS = ("10.66.0.1/20", "fd66::1/64")
BRIDGE = bridge_name(VNI)
OTHER_SUBNETS = ("10.77.0.0/20", "fd77::/64")
"""Of a network that this host has nothing of."""

WHO_IS_THERE = """
import selectors, socket
with selectors.DefaultSelector() as ready:
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        listener = socket.socket(family, socket.SOCK_STREAM)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, 80))
        listener.listen()
        ready.register(listener, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in ready.select():
            connection, peer = key.fileobj.accept()
            connection.sendall(peer[0].encode())
            connection.close()
"""
ASK = """
import socket, sys
with socket.create_connection((sys.argv[1], 80), timeout=2) as connection:
    print(connection.recv(100).decode(), end="")
"""

TO_TUNNEL = f"""
import socket
family = socket.AF_INET6 if ":" in "{{address}}" else socket.AF_INET
socket.socket(family, socket.SOCK_DGRAM).sendto(bytes(60), ("{{address}}", {PORT}))
"""


@contextmanager
def serving(namespace: Namespace) -> Iterator[None]:
    """A web server of sorts, which tells who asks."""
    command = ["ip", "netns", "exec", namespace.name, sys.executable, "-c", WHO_IS_THERE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()


def ask(namespace: Namespace, address: str) -> str:
    """As whom the server at `address` sees us; "" when it can't be reached."""
    command = ["ip", "netns", "exec", namespace.name, sys.executable, "-c", ASK, address]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout


def setting(namespace: Namespace, path: str) -> str:
    return namespace.run(f"cat /proc/sys/net/{path}").strip()


@dataclass
class Router:
    """A host with the parts that make a way out."""

    host: Host
    guard: Guard
    forwarding: Forwarding
    given: FirewallInput
    generation: int = 0

    async def program(self, state: KernelState, given: FirewallInput) -> None:
        """Kernel, firewall and switches, in the order of the projection."""
        self.generation += 1
        self.given = given
        self.host.reconciler.set_desired(DesiredChange(state), self.generation)
        with trio.fail_after(10):
            await self.host.reconciler.wait_programmed(self.generation)
            await self.follow()
            self.forwarding.set_desired(
                [one.bridge for one in given.networks if one.has_egress], self.generation
            )
            await self.forwarding.wait_tried(self.generation)
        assert not self.forwarding.trouble

    async def follow(self) -> str:
        """The firewall knows what is lent."""
        lent4, lent6 = self.forwarding.lent(IPV4), self.forwarding.lent(IPV6)
        self.generation += 1
        self.guard.set_desired(replace(self.given, lent4=lent4, lent6=lent6), self.generation)
        await self.guard.wait_tried(self.generation)
        return self.guard.trouble


@asynccontextmanager
async def routing(namespace: Namespace, notes: Path) -> AsyncIterator[Router]:
    """What the agent runs; afterwards the kernel is as it left it."""
    async with open_host(namespace, UNDERLAY) as host:
        guard = Guard(await tables_of(namespace))
        routers: list[Router] = []

        async def tell() -> str:
            return await routers[0].follow()

        async with settings_of(namespace) as settings:
            forwarding = Forwarding(settings, notes, lambda: frozenset({"wire"}), tell)
            routers.append(Router(host, guard, forwarding, FirewallInput(vxlan_port=PORT)))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(guard.run)
                nursery.start_soon(forwarding.run)
                yield routers[0]
                nursery.cancel_scope.cancel()


@asynccontextmanager
async def settings_of(namespace: Namespace) -> AsyncIterator[dict[str, Path]]:
    """The folders of a namespace, which go on showing its devices wherever they are read from."""

    def open_folders() -> dict[str, int]:
        return {family: os.open(folder, os.O_PATH | os.O_DIRECTORY) for family, folder in SETTINGS.items()}

    with opened_netns(namespace.path) as netns_fd:
        folders = await run_in_netns(netns_fd, open_folders)
    try:
        yield {family: Path(f"/proc/self/fd/{fd}") for family, fd in folders.items()}
    finally:
        for fd in folders.values():
            os.close(fd)


def state_of(*locals_: LocalEndpoint, internal: bool = False) -> KernelState:
    one = network(locals_, gateways=() if internal else GATEWAYS)
    return desired_state([one], None, underlay=UNDERLAY, vxlan_port=PORT, cluster_id=CLUSTER)


def firewall_of(*locals_: LocalEndpoint, internal: bool = False) -> FirewallInput:
    return FirewallInput(
        vxlan_port=PORT,
        endpoints=tuple(
            GuardedEndpoint(
                veth=veth_name(one.endpoint_id),
                mac=one.mac,
                addresses=tuple(cidr.partition("/")[0] for cidr in one.addresses),
                bridge=BRIDGE,
            )
            for one in locals_
        ),
        networks=(
            GuardedNetwork(bridge=BRIDGE, bridge_mac=device_mac(BRIDGE, UNDERLAY), has_egress=not internal),
        ),
        subnets=("10.66.0.0/20", "fd66::/64", *OTHER_SUBNETS),
    )


def with_way_out(one: LocalEndpoint) -> LocalEndpoint:
    return replace(one, gateways=("10.66.0.1", "fd66::1"))


def test_containers_leave_in_the_hosts_name_and_nothing_begins_from_outside(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory, tmp_path: Path
) -> None:
    namespace, outside = wire
    container, second = namespaces("c1"), namespaces("c2")
    outside.run(f"ip route add 10.66.0.0/20 via {UNDERLAY}")
    outside.run("ip route add fd66::/64 via 2001:db8::1")

    async def main() -> None:
        ends = [endpoint(2, container), endpoint(3, second)]
        async with routing(namespace, tmp_path / "notes") as router:
            members = frozenset({OUTSIDE4, OUTSIDE6})
            await router.program(state_of(*ends), replace(firewall_of(*ends), members=members))
            bind = router.host.attacher.bind
            await bind(with_way_out(ends[0]))
            await bind(ends[1])
            with serving(outside), serving(container), serving(namespace):
                await in_thread(check_traffic)
            dropped = router.guard.status().dropped
            assert dropped["strangers"] == 2
            assert dropped["uninvited"] >= 2
            assert dropped["hostward"] >= 4
            assert dropped["crossed"] >= 2

    def check_traffic() -> None:
        assert ask(container, OUTSIDE4) == UNDERLAY
        assert ask(container, OUTSIDE6) == "2001:db8::1"
        assert ask(second, "10.66.0.2") == "10.66.0.3", (
            "inside the network each container keeps its own address"
        )
        assert ask(second, "fd66::2") == "fd66::3"
        assert ask(second, OUTSIDE4) == "", "it has no default route"
        # In the host's name it could put packets into any network.
        for member in (OUTSIDE4, OUTSIDE6):
            container.run_code(TO_TUNNEL.format(address=member))
        # From outside, by a route that a user made; and between host and container, either way.
        for there, address in (
            (outside, "10.66.0.2"),
            (outside, "fd66::2"),
            (namespace, "10.66.0.2"),
            (namespace, "fd66::2"),
            (container, "10.66.0.1"),
            (container, "fd66::1"),
            (container, UNDERLAY),
        ):
            assert ask(there, address) == "", f"{there.name} reached {address}"
        for address, via in (("10.77.0.9", OUTSIDE4), ("fd77::9", OUTSIDE6)):
            outside.run(f"ip addr add {address} dev lo")
            namespace.run(f"ip route add {address} via {via}")
            assert ask(namespace, address) != "", "the host reaches it"
            assert ask(container, address) == "", "another network, whatever routes the host has"

    trio.run(main)


async def in_thread(check: Callable[[], None]) -> None:
    """What waits for programs must not hold the tables' guard up."""
    await trio.to_thread.run_sync(check)


def test_scenario_03_an_internal_network_has_no_way_out(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory, tmp_path: Path
) -> None:
    namespace, outside = wire
    container = namespaces("c1")
    namespace.run("sysctl -qw net.ipv4.ip_forward=1")

    async def main() -> None:
        end = endpoint(2, container)
        async with routing(namespace, tmp_path / "notes") as router:
            await router.program(state_of(end, internal=True), firewall_of(end, internal=True))
            await router.host.attacher.bind(end)
            with serving(outside):
                await in_thread(lambda: check(router))

    def check(router: Router) -> None:
        assert container.run("ip route show default") == ""
        assert ask(container, OUTSIDE4) == ""
        # Root inside can make a route, and even a user on the host may help.
        namespace.run("ip addr add 10.66.0.1/32 dev lo")
        namespace.run(f"ip route add 10.66.0.0/20 dev {BRIDGE}")
        container.run("ip route add default via 10.66.0.1")
        assert ask(container, OUTSIDE4) == ""
        assert router.guard.status().dropped["confined"] > 0

    trio.run(main)


def test_a_network_with_an_egress_connects_only_to_what_it_lists(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory, tmp_path: Path
) -> None:
    namespace, outside = wire
    container = namespaces("c1")
    other4, other6 = "203.0.113.9", "2001:db8:9::9"
    for address, via in ((other4, OUTSIDE4), (other6, OUTSIDE6)):
        outside.run(f"ip addr add {address} dev lo")
        namespace.run(f"ip route add {address} via {via}")

    async def main() -> None:
        end = endpoint(2, container)
        given = firewall_of(end)

        async def set_egress(text: str) -> None:
            networks = tuple(replace(one, egress=parse_egress(text)) for one in given.networks)
            await router.program(state_of(end), replace(given, networks=networks))

        async with routing(namespace, tmp_path / "notes") as router:
            await set_egress("open")
            await router.host.attacher.bind(with_way_out(end))
            with serving(outside):
                for egress, passing in (
                    ("open", {OUTSIDE4, OUTSIDE6, other4, other6}),
                    (OUTSIDE4, {OUTSIDE4}),
                    (f"203.0.113.0/24:80/tcp,[{OUTSIDE6}]:80", {other4, OUTSIDE6}),
                    (f"203.0.113.0/24:81,{OUTSIDE4}:80/udp,[::/0]:443", set()),
                    ("0.0.0.0/0", {OUTSIDE4, other4}),
                    ("none", set()),
                    ("open", {OUTSIDE4, OUTSIDE6, other4, other6}),
                ):
                    await set_egress(egress)
                    for address in (OUTSIDE4, OUTSIDE6, other4, other6):
                        answer = await trio.to_thread.run_sync(ask, container, address)
                        assert bool(answer) == (address in passing), f"{egress}: {address}"
                await set_egress("none")
                await in_thread(lambda: refused_at_once(container))
            dropped = router.guard.status().dropped
            assert dropped["unlisted"] > 0
            assert not dropped["confined"]

    def refused_at_once(container: Namespace) -> None:
        command = ["ip", "netns", "exec", container.name, sys.executable, "-c", ASK, OUTSIDE4]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert "timed out" not in done.stderr, "it is told, and need not wait"

    trio.run(main)


def test_an_open_connection_ends_when_the_egress_no_longer_lists_it(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory, tmp_path: Path
) -> None:
    namespace, outside = wire
    container = namespaces("c1")
    talks = f"""
import socket, sys
connection = socket.create_connection(("{OUTSIDE4}", 80), timeout=5)
print("open", flush=True)
for line in sys.stdin:
    connection.sendall(b"x")
    print(connection.recv(1).decode() or "closed", flush=True)
"""
    echoes = f"""
import socket
listener = socket.create_server(("{OUTSIDE4}", 80))
print("ready", flush=True)
connection, _ = listener.accept()
while data := connection.recv(1):
    connection.sendall(data)
"""

    def started(where: Namespace, code: str) -> subprocess.Popen[str]:
        command = ["ip", "netns", "exec", where.name, sys.executable, "-c", code]
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def say(process: subprocess.Popen[str]) -> str:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        return process.stdout.readline()

    async def main() -> None:
        end = endpoint(2, container)
        given = firewall_of(end)
        async with routing(namespace, tmp_path / "notes") as router:
            await router.program(state_of(end), given)
            await router.host.attacher.bind(with_way_out(end))
            with started(outside, echoes) as server:
                assert server.stdout is not None
                await trio.to_thread.run_sync(server.stdout.readline)
                with started(container, talks) as client:
                    try:
                        assert client.stdout is not None
                        await trio.to_thread.run_sync(client.stdout.readline)
                        assert await trio.to_thread.run_sync(say, client) == "x\n"
                        for egress, answer in ((OUTSIDE4, "x\n"), ("203.0.113.1", "")):
                            networks = tuple(
                                replace(one, egress=parse_egress(egress)) for one in given.networks
                            )
                            await router.program(state_of(end), replace(given, networks=networks))
                            assert await trio.to_thread.run_sync(say, client) == answer
                    finally:
                        client.kill()
                        server.kill()

    trio.run(main)


def test_switches_are_turned_back_with_the_last_network(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory, tmp_path: Path
) -> None:
    namespace, outside = wire
    container = namespaces("c1")
    notes = tmp_path / "notes"
    switches = [
        "ipv4/conf/all/forwarding",
        "ipv4/conf/wire/forwarding",
        "ipv6/conf/all/forwarding",
        "ipv6/conf/wire/force_forwarding",
        "ipv6/conf/wire/forwarding",
    ]
    before = [setting(namespace, one) for one in switches]
    assert before == ["0"] * 5, "a namespace begins with them off"

    async def main() -> None:
        end = endpoint(2, container)
        given = firewall_of(end)
        async with routing(namespace, notes) as router:
            await router.program(state_of(end), given)
            await router.host.attacher.bind(with_way_out(end))
            assert [setting(namespace, one) for one in switches] == ["0", "1", "0", "1", "0"]
            with serving(outside):
                assert await trio.to_thread.run_sync(ask, container, OUTSIDE4) == UNDERLAY
            # The host is no router for its neighbours.
            for number, (beyond, via) in enumerate(
                (("198.51.100.9", UNDERLAY), ("2001:db8:9::9", "2001:db8::1")), start=1
            ):
                outside.run(f"ip route add {beyond} via {via}")
                namespace.run(f"ip route add {beyond} dev wire")
                assert outside.try_run(f"ping -c1 -W1 {beyond}").returncode != 0
                assert router.guard.status().dropped["uninvited"] == number
            # Another program turns one off.
            for name, switch in (("ipv4.conf.wire.forwarding", 1), ("ipv6.conf.wire.force_forwarding", 3)):
                namespace.run(f"sysctl -qw net.{name}=0")
                await wait_until(
                    lambda: setting(namespace, switches[switch]) == "1", f"{name} is on again", 2.0
                )
        assert notes.exists(), "an agent that stops leaves all as it is"
        async with routing(namespace, notes) as router:
            await router.program(state_of(end), given)
            await router.program(KernelState(), replace(given, endpoints=(), networks=()))
            assert [setting(namespace, one) for one in switches] == before
            assert not notes.exists()
            # Docker comes: from now on the host routes for all, and what we had lent is not ours to end.
            await router.program(state_of(end), given)
            namespace.run("sysctl -qw net.ipv4.ip_forward=1")
            await wait_until(lambda: not router.forwarding.lent(IPV4), "it is let go", 2.0)
            await router.program(KernelState(), replace(given, endpoints=(), networks=()))
            assert setting(namespace, "ipv4/conf/wire/forwarding") == "1"
            assert setting(namespace, "ipv6/conf/wire/force_forwarding") == "0"
            await router.host.attacher.unbind(end.endpoint_id)

    trio.run(main)


def test_a_default_route_of_another_program_comes_first(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory
) -> None:
    container = namespaces("c1")
    container.run("ip link add there type veth peer name here")
    container.run("ip addr add 10.9.0.2/24 dev there")
    container.run("ip link set here up")
    container.run("ip link set there up")
    container.run("ip route add default via 10.9.0.1")

    async def main() -> None:
        end = with_way_out(endpoint(2, container))
        async with open_host(wire[0], UNDERLAY) as host:
            await program(host, state_of(end))
            await host.attacher.bind(end)
            assert "via 10.9.0.1" in container.run("ip route get 203.0.113.1")
            assert await host.attacher.repair(end) == []
            container.run("ip route del default via 10.9.0.1")
            assert "via 10.66.0.1" in container.run("ip route get 203.0.113.1")
            container.run("ip route del default")
            container.run("ip -6 route del default")
            damages = await host.attacher.repair(end)
            assert {one.kind.value for one in damages} == {"route-deleted"}
            assert "via fd66::1" in container.run("ip -6 route get 2001:db8:9::1")

    trio.run(main)


def test_dockers_drop_lets_the_way_out_pass_and_keeps_its_own_containers_closed(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory, tmp_path: Path
) -> None:
    namespace, outside = wire
    container, dockers = namespaces("c1"), namespaces("c2")
    namespace.run("sysctl -qw net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1")
    make_bridge(namespace, "docker0", "172.17.0.1/16")
    make_veth(namespace, "veth1", dockers, "172.17.0.2/16", bridge="docker0")
    dockers.run("ip route add default via 172.17.0.1")
    await_passing(namespace, "docker0")
    namespace.run("iptables -N DOCKER-USER")
    namespace.run("iptables -A DOCKER-USER -j RETURN")
    namespace.run("iptables -A FORWARD -j DOCKER-USER")
    namespace.run("iptables -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
    namespace.run("iptables -A FORWARD -i docker0 ! -o docker0 -j ACCEPT")
    namespace.run("iptables -P FORWARD DROP")

    async def main() -> None:
        end = endpoint(2, container)
        async with routing(namespace, tmp_path / "notes") as router:
            await router.program(state_of(end), firewall_of(end))
            assert router.forwarding.lent(IPV4) == frozenset(), "the host routes already"
            await router.host.attacher.bind(with_way_out(end))
            with serving(outside), serving(dockers), serving(container):
                await in_thread(check)

    def check() -> None:
        assert ask(container, OUTSIDE4) == "", "without the accepts Docker's drop would prove nothing"
        with keeping_accepts(namespace, "wire"):
            bounded_wait(lambda: len(accepts_of(namespace)) == 3)
        assert ask(container, OUTSIDE4) == UNDERLAY
        assert ask(dockers, OUTSIDE4) == "172.17.0.2", "as Docker's own rules say"
        assert ask(container, "172.17.0.2") == ""
        assert ask(dockers, "10.66.0.2") == ""
        remove_accepts(namespace)
        assert ask(container, OUTSIDE4) == ""

    outside.run(f"ip route add 172.17.0.0/16 via {UNDERLAY}")
    trio.run(main)


def bounded_wait(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        time.sleep(0.02)
    pytest.fail("not within 10 s")


STREAM = Path(__file__).parents[1] / "lab" / "stream.py"
STREAM_S = 6.0


def streaming(namespace: Namespace, *words: str) -> list[str]:
    return ["ip", "netns", "exec", namespace.name, sys.executable, str(STREAM), *words]


@contextmanager
def echoing(namespace: Namespace) -> Iterator[None]:
    with subprocess.Popen(streaming(namespace, "serve")) as process:
        try:
            yield
        finally:
            process.kill()


def test_scenario_50_the_firewall_is_restored_while_streams_run(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory, tmp_path: Path
) -> None:
    """Streams inside the network, and out of it in the host's name, in both families. In the moment without rules
    addresses would not be translated if the table for that did not outlast the flush
    (netagent.firewall.source_nat)."""
    namespace, outside = wire
    near, far = namespaces("c1"), namespaces("c2")
    namespace.run(f"ping -c1 -w5 {OUTSIDE6}")  # the two have found each other

    async def main() -> None:
        ends = [endpoint(2, near), endpoint(3, far)]
        async with routing(namespace, tmp_path / "notes") as router:
            await router.program(state_of(*ends), firewall_of(*ends))
            await router.host.attacher.bind(with_way_out(ends[0]))
            await router.host.attacher.bind(ends[1])
            with echoing(far), echoing(outside):
                for one in (far, outside):
                    await wait_until(lambda: one.run("ss -Hltn sport = :7000") != "", "it serves", 10)
                reports: dict[str, dict[str, float]] = {}
                async with trio.open_nursery() as nursery:
                    for there in ("10.66.0.3", "fd66::3", OUTSIDE4, OUTSIDE6):
                        nursery.start_soon(send, near, there, reports)
                    await wait_until(
                        lambda: near.run("ss -Htn state established").count("\n") == 4, "they run", 10
                    )
                    seen = outside.run("ss -Htn state established")
                    for own in (UNDERLAY, "2001:db8::1"):
                        assert seen.count(f"{own}]:") == 1, "in the host's name"
                    namespace.run("nft flush ruleset")
                    await wait_until(lambda: router.guard.status().restored == 1, "the tables are back", 2.0)
        for report in reports.values():
            assert report["echoed"] == report["sent"] > 50 * STREAM_S
            assert report["lost"] == 0
        assert len(reports) == 4

    trio.run(main)


async def send(namespace: Namespace, there: str, reports: dict[str, dict[str, float]]) -> None:
    command = streaming(namespace, "send", there, str(STREAM_S))
    done = await trio.run_process(command, capture_stdout=True)
    reports[there] = json.loads(done.stdout)


def test_the_table_for_nat_outlasts_flushes_and_agents(namespaces: NamespaceFactory) -> None:
    namespace = namespaces("h")

    def nat() -> str:
        return namespace.run("nft -a list table inet netagent-nat")

    async def main() -> None:
        given = FirewallInput(vxlan_port=PORT)
        async with guarding(namespace, given):
            first = nat()
            assert 'iifname "na-*" oifname != "na-*" masquerade' in first
            assert "owner,persist" in first
            assert namespace.try_run("nft delete table inet netagent-nat").returncode != 0
            namespace.run("nft flush ruleset")
            assert nat() == first, "no other program can"
        assert "persist" in nat(), "an agent that stops leaves it"
        async with guarding(namespace, given) as guard:
            assert "owner" in nat(), "the next one has it"
            namespace.run("nft flush ruleset")
            assert "masquerade" in nat()
            await give(guard, None, 2)
            assert namespace.run("nft list ruleset") == ""

    trio.run(main)


def test_with_host_access_hosts_and_containers_reach_each_other_everywhere(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory
) -> None:
    """Both ways, both families, on one host and across two; each by its own address, and by nothing else."""
    containers = (namespaces("c1"), namespaces("c2"))
    ends = [endpoint(2, containers[0]), endpoint(3, containers[1])]
    underlays = (UNDERLAY, "192.0.2.2")
    own = (("10.66.0.8", "fd66::8"), ("10.66.0.9", "fd66::9"))
    macs = [device_mac(BRIDGE, underlay) for underlay in underlays]

    def state(number: int) -> KernelState:
        far = 1 - number
        remotes = (
            RemoteEndpoint(EndpointId("f" * 32), macs[far], own[far], underlays[far]),
            seen_from_elsewhere(ends[far], underlays[far]),
        )
        four, six = own[number]
        cidrs = ("10.66.0.1/32", "fd66::1/128", f"{four}/20", f"{six}/64")
        one = network((ends[number],), remotes, gateways=cidrs)
        return desired_state([one], None, underlay=underlays[number], vxlan_port=PORT, cluster_id=CLUSTER)

    def given(number: int) -> FirewallInput:
        hosted = GuardedNetwork(
            bridge=BRIDGE, bridge_mac=macs[number], tunnel=vxlan_name(VNI), host_addresses=own[number]
        )
        made = replace(firewall_of(ends[number]), networks=(hosted,))
        return replace(made, members=frozenset({underlays[1 - number]}))

    async def main() -> None:
        async with AsyncExitStack() as stack:
            for number in (0, 1):
                host = await stack.enter_async_context(open_host(wire[number], underlays[number]))
                await program(host, state(number))
                await host.attacher.bind(with_way_out(ends[number]))
                await stack.enter_async_context(guarding(wire[number], given(number)))
            for one in (*wire, *containers):
                stack.enter_context(serving(one))
            await in_thread(check)

    def check() -> None:
        for family, (first, second) in enumerate(
            zip(("10.66.0.2", "fd66::2"), ("10.66.0.3", "fd66::3"), strict=True)
        ):
            for number in (0, 1):
                mine, theirs = own[number][family], own[1 - number][family]
                for address in (first, second):
                    assert ask(wire[number], address) == mine, f"host {number} to {address}"
                me = (first, second)[number]
                assert ask(containers[number], mine) == me, "a container to its own host"
                assert ask(containers[number], theirs) == me, "and to the other one"
                assert ask(wire[number], theirs) == mine, "host to host"
        for address in ("10.66.0.1", UNDERLAY, "fd66::1", "2001:db8::1"):
            assert ask(containers[0], address) == "", f"{address} is no address for containers"

    trio.run(main)
