"""Flows counted at containers' ports: openings and no other packet, each container within its own share."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import pytest
import trio
from harness.namespaces import Namespace, NamespaceFactory, make_bridge, make_veth

from netagent.datapath.bpf import tcx
from netagent.datapath.bpf.tcx import Side
from netagent.datapath.endpoint.netns import call_in_netns_of, opened_netns, run_in_netns
from netagent.datapath.flows import counters as counting
from netagent.datapath.flows.counters import FlowCounters
from netagent.datapath.flows.layout import MOST_FLOWS_OF_PORT, FlowKey, unpack_flow
from netagent.datapath.reconcile.drift import Drift

pytestmark = pytest.mark.kernel

WEB, DB = ("10.66.0.2", "fd66::2"), ("10.66.0.3", "fd66::3")
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

    def counters(self, drift: Drift | None = None) -> FlowCounters:
        made = FlowCounters(drift or Drift(), within=lambda fn: call_in_netns_of(self.inside, fn))
        made.set_ports(self.ports)
        made.look()
        assert made.trouble == ""
        return made

    def index(self, name: str) -> int:
        return next(index for index, one in self.ports.items() if one == name)


@pytest.fixture
def network(namespaces: NamespaceFactory) -> Iterator[Network]:
    host, web, db = namespaces("host"), namespaces("web"), namespaces("db")
    make_bridge(host, "na-1", "10.66.0.1/24")
    make_veth(host, "nvweb", web, *(f"{one}/{64 if ':' in one else 24}" for one in WEB), bridge="na-1")
    make_veth(host, "nvdb", db, *(f"{one}/{64 if ':' in one else 24}" for one in DB), bridge="na-1")
    with opened_netns(host.path) as fd:
        inside = trio.run(run_in_netns, fd, partial(socket.socket, socket.AF_INET, socket.SOCK_DGRAM))
    with inside:
        ports = call_in_netns_of(
            inside, lambda: {socket.if_nametoindex(one): one for one in ("nvweb", "nvdb")}
        )
        yield Network(host, web, db, inside, ports)


@pytest.fixture
def server(network: Network) -> Iterator[None]:
    with network.db.running(SERVE, "7777") as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        yield


def openings(counters: FlowCounters) -> dict[FlowKey, int]:
    return {key: count.openings for key, count in (unpack_flow(*one) for one in counters.read_now().flows)}


def key(port: int, protocol: int, address: str, number: int | None) -> FlowKey:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return FlowKey(port, protocol, socket.inet_pton(family, address), number)


@pytest.mark.usefixtures("server")
def test_openings_are_counted_and_nothing_else(network: Network) -> None:
    with closing(network.counters()) as counters:
        web = network.index("nvweb")
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
        assert openings(counters) == {key(network.index("nvweb"), UDP, DB[0], 60999): 3}


@pytest.mark.usefixtures("server")
def test_a_flood_takes_no_more_than_its_own_share(network: Network) -> None:
    with closing(network.counters()) as counters:
        web, db = network.index("nvweb"), network.index("nvdb")
        network.db.run_python(FLOOD, WEB[0], "1", "3", "1")
        network.web.run_python(FLOOD, DB[0], "1000", str(MOST_FLOWS_OF_PORT + 100), "3")
        network.web.run_python(TALK, DB[0], "7777", "1", "1")
        network.db.run_python(FLOOD, WEB[0], "1", "4", "1")
        reading = counters.read_now()
        rows = [unpack_flow(*one) for one in reading.flows]
        by_port = Counter(key.port for key, _ in rows)
        assert by_port == {web: MOST_FLOWS_OF_PORT, db: 4}
        assert sum(count.openings for key, count in rows if key.port == db) == 7
        assert {count.openings for key, count in rows if key.port == web} == {3}
        assert reading.shares[web].left_out == 3 * 100 + 1
        assert reading.shares[db].left_out == 0


def test_an_agent_that_starts_goes_on_with_the_counts(network: Network) -> None:
    with closing(network.counters()):
        network.web.run_python(FLOOD, DB[0], "80", "1", "2")
    # Without an agent.
    network.web.run_python(FLOOD, DB[0], "80", "1", "3")
    drift = Drift()
    web = network.index("nvweb")

    def programs() -> list[list[int]]:
        return [tcx.programs_at(web, side) for side in Side]

    before = call_in_netns_of(network.inside, programs)
    with closing(network.counters(drift)) as counters:
        assert call_in_netns_of(network.inside, programs) == before
        assert openings(counters) == {key(web, TCP, DB[0], 80): 5}
        # Another program takes ours away.
        for side in Side:
            for number in call_in_netns_of(network.inside, lambda: tcx.programs_at(web, side)):
                call_in_netns_of(network.inside, lambda: tcx.detach(web, side, number))
        counters.look()
        network.web.run_python(FLOOD, DB[0], "80", "1", "1")
        assert openings(counters) == {key(web, TCP, DB[0], 80): 6}
        assert drift.kinds == {"counter-removed": 1}


def test_what_was_not_used_for_long_makes_room(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(network.counters()) as counters:
        web = network.index("nvweb")
        network.web.run_python(FLOOD, DB[0], "1000", str(MOST_FLOWS_OF_PORT), "1")
        assert counters.read_now().shares[web].flows == MOST_FLOWS_OF_PORT
        network.host.run("ip link del nvdb")
        counters.set_ports({web: "nvweb"})
        monkeypatch.setattr(counting, "KEPT_S", 0)
        assert counters.read_now().flows == ()
        counters.clear_up()
        reading = counters.read_now()
        assert {index: share.flows for index, share in reading.shares.items()} == {web: 0}
        monkeypatch.undo()
        network.web.run_python(FLOOD, DB[0], "5000", "2", "1")
        assert len(openings(counters)) == 2
