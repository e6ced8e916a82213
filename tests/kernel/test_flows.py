"""Flows counted at containers' ports: openings and no other packet, each container within its own share."""

from __future__ import annotations

import dataclasses
import errno
import os
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial

import pytest
import trio
from harness.firewall import bridge, give, guarding, plug
from harness.namespaces import Namespace, NamespaceFactory, make_veth

from netagent.datapath.bpf import maps, programs
from netagent.datapath.bpf.device_hooks import BY_CLSACT, BY_TCX, DeviceHooks, hooks_of_kernel
from netagent.datapath.bpf.instructions import Assembler, Label, Register
from netagent.datapath.bpf.maps import MapKind, MapShape
from netagent.datapath.bpf.programs import Program
from netagent.datapath.bpf.tcx import Side
from netagent.datapath.endpoint.netns import call_in_netns_of, opened_netns, run_in_netns
from netagent.datapath.flows import counters as counting
from netagent.datapath.flows.counters import FlowCounters
from netagent.datapath.flows.layout import MOST_FLOWS_OF_PORT, FlowKey, Opener, unpack_flow
from netagent.datapath.reconcile.drift import Drift
from netagent.firewall import policy
from netagent.firewall.inputs import FirewallInput, GuardedEndpoint, GuardedNetwork, PortForward

pytestmark = pytest.mark.kernel

WEB, DB = ("10.66.0.2", "fd66::2"), ("10.66.0.3", "fd66::3")
NET = GuardedNetwork(bridge="na-1", bridge_mac="06:00:00:00:00:01", tunnel="nx-1", restricted=True)
GUARDED_WEB = GuardedEndpoint(veth="nvweb", mac="02:0a:00:00:00:02", addresses=WEB, bridge="na-1")
GUARDED_DB = GuardedEndpoint(veth="nvdb", mac="02:0a:00:00:00:03", addresses=DB, bridge="na-1")
TCP, UDP, ICMP = 6, 17, 1

TALK = """
import socket, sys
address, port, count, words = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
for _ in range(count):
    with socket.create_connection((address, port)) as sock:
        for _ in range(words):
            sock.sendall(b"word")
            assert sock.recv(4, socket.MSG_WAITALL) == b"word"
"""
SERVE = """
import socket, sys, threading
listener = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
datagrams.bind(("::", int(sys.argv[1])))
def echo():
    while True:
        datagrams.sendto(*datagrams.recvfrom(100))
threading.Thread(target=echo, daemon=True).start()
print("ready", flush=True)
while True:
    sock, _ = listener.accept()
    while word := sock.recv(4096):
        sock.sendall(word)
    sock.close()
"""
ASK = """
import socket, sys
address, port, count, words = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
for _ in range(count):
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((address, port))
        for _ in range(words):
            sock.send(b"word")
            sock.recv(100)
"""
TO_ALL = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(sys.argv[1]))
    sock.sendto(b"word", ("224.0.0.251", 5353))
"""
FLOOD = """
import socket, struct, sys
address, first, count, repeats = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as sock:
    for _ in range(repeats):
        for port in range(first, first + count):
            sock.sendto(struct.pack("!HHIIBBHHH", 40000, port, 1, 0, 0x50, 0x02, 1000, 0, 0), (address, 0))
"""


@dataclass
class Network:
    host: Namespace
    web: Namespace
    db: Namespace
    inside: socket.socket
    """Of the host's namespace."""
    ports: dict[int, str]
    hooks: DeviceHooks

    def make(self, drift: Drift | None = None) -> FlowCounters:
        made = FlowCounters(
            drift or Drift(),
            policy.MARK,
            within=lambda fn: call_in_netns_of(self.inside, fn),
            hooks=self.hooks,
        )
        made.set_devices(self.ports)
        return made

    def counters(self, drift: Drift | None = None) -> FlowCounters:
        made = self.make(drift)
        made.look()
        assert made.trouble is None
        return made

    def index(self, name: str) -> int:
        return next(index for index, one in self.ports.items() if one == name)

    def number(self, counters: FlowCounters, name: str) -> int:
        return counters.read_now().shares[self.index(name)].number


HOOKS = {"tcx": BY_TCX, "clsact": BY_CLSACT}
"""Those that this kernel has: before Linux 6.6 only the second."""
if hooks_of_kernel() is BY_CLSACT:
    del HOOKS["tcx"]


@pytest.fixture(params=HOOKS)
def network(namespaces: NamespaceFactory, request: pytest.FixtureRequest) -> Iterator[Network]:
    host, web, db = namespaces("host"), namespaces("web"), namespaces("db")
    bridge(host, NET, "10.66.0.1/24")
    for container, one in ((web, GUARDED_WEB), (db, GUARDED_DB)):
        plug(host, container, one, NET)
    with opened_netns(host.path) as fd:
        inside = trio.run(run_in_netns, fd, partial(socket.socket, socket.AF_INET, socket.SOCK_DGRAM))
    with inside:
        ports = call_in_netns_of(
            inside, lambda: {socket.if_nametoindex(one): one for one in (NET.bridge, "nvweb", "nvdb")}
        )
        yield Network(host, web, db, inside, ports, HOOKS[request.param])


@pytest.fixture
def server(network: Network) -> Iterator[None]:
    with network.db.running(SERVE, "7777") as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        yield


def openings(counters: FlowCounters) -> dict[FlowKey, int]:
    return {key: count.openings for key, count in (unpack_flow(*one) for one in counters.read_now().flows)}


def key(source: int, protocol: int, address: str, port: int | None) -> FlowKey:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return FlowKey(source, protocol, socket.inet_pton(family, address), port)


@pytest.mark.usefixtures("server")
def test_openings_are_counted_and_nothing_else(network: Network) -> None:
    with closing(network.counters()) as counters:
        web = network.number(counters, "nvweb")
        for address in DB:
            network.web.run_python(TALK, address, "7777", "5", "20")
            network.web.run_python(ASK, address, "7777", "3", "20")
        network.web.run(f"ping -qc3 -i0.01 {DB[0]}")
        network.web.run(f"ping -qc3 -i0.01 {DB[1]}")
        assert openings(counters) == {
            **{key(web, TCP, address, 7777): 5 for address in DB},
            **{key(web, UDP, address, 7777): 3 for address in DB},
            key(web, ICMP, DB[0], None): 1,
            key(web, 58, DB[1], None): 1,
        }
        count = unpack_flow(*counters.read_now().flows[0])[1]
        assert count.first_ns <= count.last_ns <= counters.read_now().at_ns


@pytest.mark.usefixtures("server")
def test_what_the_host_and_outsiders_open_is_counted_at_the_bridge(
    network: Network, namespaces: NamespaceFactory
) -> None:
    host, outside = network.host, namespaces("outside")
    make_veth(host, "wire", outside, "192.0.2.2/24", "2001:db8::2/64")
    host.run("ip addr add 192.0.2.1/24 dev wire")
    host.run("ip addr add 2001:db8::1/64 dev wire")
    for address, subnet in (
        ("fd66::1/64", ""),
        ("10.66.0.8/24", "10.66.0.0/24"),
        ("fd66::8/64", "fd66::/64"),
    ):
        host.run(f"ip addr add {address} dev na-1")
        if subnet:
            host.run(f"ip route replace {subnet} dev na-1 src {address.partition('/')[0]}")
    host.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
    for container in (network.web, network.db):
        container.run("ip route add default via 10.66.0.1")
        container.run("ip -6 route add default via fd66::1")
    forwards = tuple(
        PortForward(protocol=protocol, host_port=8080, container=address, port=7777)
        for protocol in ("tcp", "udp")
        for address in DB
    )
    accessible = dataclasses.replace(NET, restricted=False, host_addresses=("10.66.0.8", "fd66::8"))
    given = FirewallInput(
        vxlan_port=4789, endpoints=(GUARDED_WEB, GUARDED_DB), networks=(accessible,), port_forwards=forwards
    )
    with closing(network.counters()) as counters, outside.running(SERVE, "60999") as answering:
        assert answering.stdout is not None
        assert answering.stdout.readline() == "ready\n"
        shares, bridge = counters.read_now().shares, network.index("na-1")
        by_host, by_outside = (shares[bridge | one].number for one in (Opener.HOST, Opener.OUTSIDE))

        def talk() -> None:
            for address, outer in zip(DB, ("192.0.2.1", "2001:db8::1"), strict=True):
                outside.run_python(TALK, outer, "8080", "5", "20")
                outside.run_python(ASK, outer, "8080", "3", "20")
                host.run_python(TALK, address, "7777", "2", "20")
                host.run_python(ASK, address, "7777", "1", "20")
                host.run_python(TALK, outer, "8080", "1", "20")
                host.run(f"ping -qc3 -i0.01 {address}")
            # To all, and answers to what a container asks outside: neither opens anything.
            host.run_python(TO_ALL, "10.66.0.8")
            network.web.run_python(ASK, "192.0.2.2", "60999", "3", "5")
            network.web.run_python(TALK, "192.0.2.2", "60999", "3", "5")

        async def run() -> None:
            async with guarding(host, given):
                await trio.to_thread.run_sync(talk)

        trio.run(run)
        counted = {
            one: count for one, count in openings(counters).items() if one.source in {by_host, by_outside}
        }
        assert counted == {
            key(source, protocol, address, None if protocol in {ICMP, 58} else 7777): times
            for address, echo in zip(DB, (ICMP, 58), strict=True)
            for source, protocol, times in (
                (by_outside, TCP, 5),
                (by_outside, UDP, 3),
                (by_host, TCP, 3),
                (by_host, UDP, 1),
                (by_host, echo, 1),
            )
        }


def test_a_datagram_that_answers_opens_nothing_whatever_its_ports_are(network: Network) -> None:
    """A server above all ports that clients choose, and clients below and above it."""
    with closing(network.counters()) as counters:
        with network.db.running(SERVE, "60999") as program:
            assert program.stdout is not None
            assert program.stdout.readline() == "ready\n"
            for own in ("1024", "40000", "61000"):
                bound = ASK.replace(
                    "        sock.connect", f"        sock.bind(('', {own}))\n        sock.connect"
                )
                network.web.run_python(bound, DB[0], "60999", "1", "5")
        assert openings(counters) == {key(network.number(counters, "nvweb"), UDP, DB[0], 60999): 3}


@pytest.mark.usefixtures("server")
def test_a_flood_takes_no_more_than_its_own_share(network: Network) -> None:
    with closing(network.counters()) as counters:
        web, db = (network.number(counters, name) for name in ("nvweb", "nvdb"))
        network.db.run_python(FLOOD, WEB[0], "1", "3", "1")
        network.web.run_python(FLOOD, DB[0], "1000", str(MOST_FLOWS_OF_PORT + 100), "3")
        network.web.run_python(TALK, DB[0], "7777", "1", "1")
        network.db.run_python(FLOOD, WEB[0], "1", "4", "1")
        reading = counters.read_now()
        rows = [unpack_flow(*one) for one in reading.flows]
        by_port = Counter(key.source for key, _ in rows)
        assert by_port == {web: MOST_FLOWS_OF_PORT, db: 4}
        assert sum(count.openings for key, count in rows if key.source == db) == 7
        assert {count.openings for key, count in rows if key.source == web} == {3}
        assert reading.shares[network.index("nvweb")].left_out == 3 * 100 + 1
        assert reading.shares[network.index("nvdb")].left_out == 0


def test_an_agent_that_starts_goes_on_with_the_counts(network: Network) -> None:
    with closing(network.counters()):
        network.web.run_python(FLOOD, DB[0], "80", "1", "2")
    # Without an agent.
    network.web.run_python(FLOOD, DB[0], "80", "1", "3")
    drift = Drift()
    web = network.index("nvweb")

    def attached() -> list[list[int]]:
        return [network.hooks.programs_at(web, side) for side in Side]

    before = call_in_netns_of(network.inside, attached)
    with closing(network.counters(drift)) as counters:
        assert call_in_netns_of(network.inside, attached) == before
        number = network.number(counters, "nvweb")
        assert openings(counters) == {key(number, TCP, DB[0], 80): 5}
        # Another program takes ours away.
        for side in Side:
            for program in call_in_netns_of(network.inside, lambda: network.hooks.programs_at(web, side)):
                call_in_netns_of(network.inside, lambda: network.hooks.detach(web, side, program))
        counters.look()
        network.web.run_python(FLOOD, DB[0], "80", "1", "1")
        assert openings(counters) == {key(number, TCP, DB[0], 80): 6}
        assert drift.kinds == {"counter-removed": 1}


@contextmanager
def another_programs_filter(network: Network, side: Side) -> Iterator[Callable[[], int]]:
    """A filter at the port of web that is not ours; returns how many packets it has seen since it was asked last."""
    table = maps.create(MapShape("another", MapKind.HASH, 4, 8, 1))
    table.update(bytes(4), bytes(8))
    asm, absent = Assembler(), Label()
    asm.store(4, Register.FP, -4, 0)
    asm.load_map(Register.R1, "another")
    asm.move(Register.R2, Register.FP)
    asm.add(Register.R2, -4)
    asm.call(1)
    asm.jump_if(Register.R0, "==", 0, absent)
    asm.move(Register.R1, 1)
    asm.atomic_add(Register.R0, 0, Register.R1)
    asm.place(absent)
    asm.exit(-1)
    program = programs.load(programs.Kind.SCHED_CLS, "another", asm.assemble({"another": table.fd}))
    web = network.index("nvweb")
    call_in_netns_of(network.inside, lambda: BY_CLSACT.attach(web, side, program))

    def seen() -> int:
        value = table.lookup(bytes(4))
        table.update(bytes(4), bytes(8))
        return int.from_bytes(value or b"", sys.byteorder)

    with closing(table):
        yield seen
    os.close(program.fd)


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("network", ["clsact"], indirect=True)
def test_another_programs_clsact_and_its_filters_stay(network: Network) -> None:
    network.host.run("tc qdisc add dev nvweb clsact")
    with ExitStack() as stack:
        first = [stack.enter_context(another_programs_filter(network, side)) for side in Side]
        drift = Drift()
        counters = stack.enter_context(closing(network.counters(drift)))
        web = network.number(counters, "nvweb")
        network.web.run_python(TALK, DB[0], "7777", "2", "5")
        network.web.run_python(ASK, DB[0], "7777", "3", "5")
        expected = {key(web, TCP, DB[0], 7777): 2, key(web, UDP, DB[0], 7777): 3}
        assert openings(counters) == expected
        assert all(seen() > 20 for seen in first), "they run behind ours"
        # It takes the whole discipline away, with our programs, and makes it anew.
        network.host.run("tc qdisc del dev nvweb clsact")
        network.host.run("tc qdisc add dev nvweb clsact")
        second = stack.enter_context(another_programs_filter(network, Side.INGRESS))
        counters.look()
        assert drift.kinds == {"counter-removed": 1}
        network.web.run_python(TALK, DB[0], "7777", "4", "5")
        expected[key(web, TCP, DB[0], 7777)] += 4
        assert openings(counters) == expected
        # One that comes later is before ours, and stays when an agent starts.
        third = stack.enter_context(another_programs_filter(network, Side.INGRESS))
        assert (second() > 20, third()) == (True, 0)
        stack.enter_context(closing(network.counters()))
        network.web.run_python(TALK, DB[0], "7777", "1", "20")
        expected[key(web, TCP, DB[0], 7777)] += 1
        assert openings(counters) == expected
        assert (second() > 20, third() > 20) == (True, True)


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("network", ["clsact"], indirect=True)
def test_beside_another_programs_ingress_only_tcp_is_counted_until_it_goes(network: Network) -> None:
    network.host.run("tc qdisc add dev nvweb ingress")
    with another_programs_filter(network, Side.INGRESS) as seen, closing(network.counters()) as counters:
        web = network.number(counters, "nvweb")
        assert [*counters.port_troubles] == [network.index("nvweb")]
        assert "`ingress`" in counters.port_troubles[network.index("nvweb")].cause
        network.web.run_python(TALK, DB[0], "7777", "2", "5")
        network.web.run_python(ASK, DB[0], "7777", "3", "5")
        assert openings(counters) == {key(web, TCP, DB[0], 7777): 2}
        assert seen() > 20
        network.host.run("tc qdisc del dev nvweb ingress")
        counters.look()
        assert not counters.port_troubles
        network.web.run_python(ASK, DB[0], "7777", "3", "5")
        assert openings(counters) == {key(web, TCP, DB[0], 7777): 2, key(web, UDP, DB[0], 7777): 3}


def test_where_no_program_can_be_attached_is_said_and_the_others_count(network: Network) -> None:
    web, right = network.index("nvweb"), network.hooks
    is_failing = True

    def attach(index: int, side: Side, program: Program) -> None:
        if index == web and is_failing:
            raise OSError(errno.EOPNOTSUPP, "no such luck")
        right.attach(index, side, program)

    network.hooks = dataclasses.replace(right, attach=attach)
    with closing(network.counters()) as counters:
        assert {index: one.cause for index, one in counters.port_troubles.items()} == {
            web: "the kernel can't attach programs to devices"
        }
        network.db.run_python(FLOOD, WEB[0], "80", "1", "1")
        assert openings(counters) == {key(network.number(counters, "nvdb"), TCP, WEB[0], 80): 1}
        is_failing = False
        counters.look(only_new=True)
        assert not counters.port_troubles
        network.web.run_python(FLOOD, DB[0], "80", "1", "1")
        assert len(openings(counters)) == 2


def test_an_agent_that_may_not_load_programs_says_so(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> Program:
        raise PermissionError(errno.EPERM, "no")

    monkeypatch.setattr(programs, "load", refuse)
    with closing(network.make()) as counters:
        counters.look()
        assert counters.trouble is not None
        assert "CAP_BPF" in counters.trouble.cure
        assert counters.read_now().flows == ()


def test_what_was_not_used_for_long_makes_room(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(network.counters()) as counters:
        web = network.index("nvweb")
        network.web.run_python(FLOOD, DB[0], "1000", str(MOST_FLOWS_OF_PORT), "1")
        assert counters.read_now().shares[web].flows == MOST_FLOWS_OF_PORT
        network.host.run("ip link del nvdb")
        counters.set_devices({web: "nvweb"})
        monkeypatch.setattr(counting, "KEPT_S", 0)
        assert counters.read_now().flows == ()
        counters.clear_up()
        reading = counters.read_now()
        assert {index: share.flows for index, share in reading.shares.items()} == {web: 0}
        monkeypatch.undo()
        network.web.run_python(FLOOD, DB[0], "5000", "2", "1")
        assert len(openings(counters)) == 2


FORGE = """
import socket, sys
from netagent.datapath.bpf import device_hooks, programs
from netagent.datapath.bpf.instructions import Assembler, Register
from netagent.datapath.bpf.tcx import Side
asm = Assembler()
for at, number in ((8, int(sys.argv[1])), (44, int(sys.argv[2]))):
    asm.move(Register.R2, number)
    asm.store(4, Register.R1, at, Register.R2)
asm.exit(-1)
program = programs.load(programs.Kind.SCHED_CLS, "forge", asm.assemble({}))
device_hooks.hooks_of_kernel().attach(socket.if_nametoindex("eth0"), Side.EGRESS, program)
"""
SEND = """
import contextlib, socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.connect((sys.argv[1], 7777))
    for _ in range(int(sys.argv[2])):
        with contextlib.suppress(OSError):
            sock.send(b"word")
"""


def test_a_container_cannot_have_refusals_counted_as_another_ones(network: Network) -> None:
    """It writes the number of the other's port, and the firewall's mark, beside each packet that it sends."""
    absent = "10.66.0.9"
    for container in (network.web, network.db):
        container.run(f"ip neigh add {absent} lladdr 02:0a:00:00:00:09 dev eth0")
    given = FirewallInput(vxlan_port=4789, endpoints=(GUARDED_WEB, GUARDED_DB), networks=(NET,))
    with closing(network.counters()) as counters:
        web, db = (network.number(counters, name) for name in ("nvweb", "nvdb"))

        def send(container: Namespace, address: str, times: int) -> None:
            container.run_python(SEND, address, str(times))

        async def run() -> None:
            async with guarding(network.host, given):
                await trio.to_thread.run_sync(send, network.db, absent, 1)
                await trio.to_thread.run_sync(network.web.run_python, FORGE, str(policy.MARK), str(db))
                await trio.to_thread.run_sync(send, network.web, absent, 3)
                # With the mark alone it is delivered to the bridge, where no chain has decided yet.
                await trio.to_thread.run_sync(send, network.web, "10.66.0.1", 3)

        trio.run(run)
        found = {
            (one.source, socket.inet_ntoa(one.address)): (count.openings, count.refused)
            for one, count in (unpack_flow(*raw) for raw in counters.read_now().flows)
        }
        assert found == {(db, absent): (1, 1), (web, absent): (1, 1), (web, "10.66.0.1"): (1, 0)}


TRY = """
import socket, sys
for address in sys.argv[1:]:
    for _ in range(3):
        try:
            socket.create_connection((address, 7777))
        except ConnectionRefusedError:
            print("refused")
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"word", (address, 7777))
"""


@pytest.mark.usefixtures("server")
def test_what_no_link_allows_is_counted_as_refused(network: Network) -> None:
    given = FirewallInput(vxlan_port=4789, endpoints=(GUARDED_WEB, GUARDED_DB), networks=(NET,))
    linked = dataclasses.replace(
        given,
        requests=frozenset({("nvweb", WEB[0], DB[0])}),
        answers=frozenset({("nvdb", DB[0], WEB[0])}),
    )
    with closing(network.counters()) as counters:
        web = network.number(counters, "nvweb")

        def counts() -> dict[FlowKey, tuple[int, int]]:
            found = (unpack_flow(*one) for one in counters.read_now().flows)
            return {one: (count.openings, count.refused) for one, count in found}

        async def run() -> None:
            async with guarding(network.host, given) as guard:
                said = await trio.to_thread.run_sync(network.web.run_python, TRY, *DB)
                assert said.split() == ["refused"] * 6
                assert counts() == {
                    **{key(web, TCP, address, 7777): (3, 3) for address in DB},
                    **{key(web, UDP, address, 7777): (1, 1) for address in DB},
                }
                await give(guard, linked, 2)
                await trio.to_thread.run_sync(network.web.run_python, TALK, DB[0], "7777", "2", "5")
                assert counts()[key(web, TCP, DB[0], 7777)] == (5, 3)

        trio.run(run)
