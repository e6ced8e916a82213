"""Service addresses at the socket: what programs in a member's namespace see of them, in a real kernel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
import trio
from harness.namespaces import NamespaceFactory
from harness.service_addresses import (
    VNI,
    Client,
    Network,
    open_network,
    open_tables,
    result_of,
    version_1_group,
)

from netagent.datapath.sockets.checked_map import CheckedMap
from netagent.datapath.sockets.layout import Member
from netagent.model.records import ServicePort

pytestmark = pytest.mark.kernel

WEB4, WEB6, MAPPED = "10.98.0.5", "fd98::5", "::ffff:10.98.0.5"
NONE4, NONE6 = "10.98.0.6", "fd98::6"
PROMPT_S = 0.05


@pytest.fixture
def network(namespaces: NamespaceFactory) -> Iterator[Network]:
    with open_network(namespaces) as made:
        yield made


@pytest.fixture
def client(network: Network) -> Client:
    return network.clients[0]


def test_connections_and_datagrams_are_led_and_show_the_service(network: Network, client: Client) -> None:
    """By all kinds of sockets; the backend sees the client's own address."""

    async def main() -> None:
        entries = [network.entry(WEB4, "b1"), network.entry(WEB6, "b1")]
        async with open_tables(network, *entries) as tables:
            assert tables.trouble is None
            answers = await client.call(
                f"result = {{a: [tcp(a, 80), udp(a, 80), connected_udp(a, 80)] for a in {[WEB4, WEB6, MAPPED]}}}"
            )
            for address, own in ((WEB4, "10.97.0.11"), (WEB6, "fd97::11"), (MAPPED, "10.97.0.11")):
                answer, peer = f"b1 {own}", f"{address} 80"
                assert answers[address] == [[answer, peer], [answer, peer], [answer, peer, peer]]
            used = {
                name: [await tables.used_members([ip_address(one).packed]) for one in pair]
                for name, pair in network.backends.items()
            }
            ours = [Member(client.cookie, VNI)]
            assert used == {"b1": [ours, ours], "b2": [[], []], "b3": [[], []]}

    trio.run(main)


def test_nothing_is_kept_of_a_connection_but_at_its_socket(network: Network, client: Client) -> None:
    """So nothing expires while it is idle: no table grows by one, and no connection is tracked."""

    async def main() -> None:
        entries = [network.entry(one, "b1", "b2", ports=[ServicePort(80, 80)]) for one in (WEB4, WEB6)]
        async with open_tables(network, *entries) as tables:
            assert tables._tables is not None
            before = [len([*_keys(one)]) for one in tables._tables.all]
            tracked = await client.call(
                f"held = [connected(a, 80) for a in {[WEB4, WEB6]} for _ in range(100)]\n"
                "for one in held: one.send(b'x'); one.recv(99)\n"
                "result = open('/proc/net/stat/nf_conntrack').read() "
                "if os.path.exists('/proc/net/stat/nf_conntrack') else ''\n"
                "result = [int(line.split()[0], 16) for line in result.splitlines()[1:2]]"
            )
            assert tracked in ([], [0])
            assert [len([*_keys(one)]) for one in tables._tables.all] == before

    trio.run(main)


def _keys(table: CheckedMap) -> Iterator[bytes]:
    for keys, _ in table._map.batches(100):
        yield from keys


def test_any_port_is_led_unless_the_service_names_its_ports(network: Network, client: Client) -> None:
    async def main() -> None:
        ports = [ServicePort(443, 8080)]
        entries = [network.entry(WEB4, "b1"), network.entry(NONE4, "b1", ports=ports)]
        entries += [network.entry(WEB6, "b1"), network.entry(NONE6, "b1", ports=ports)]
        async with open_tables(network, *entries):
            for every, named in ((WEB4, NONE4), (WEB6, NONE6)):
                assert await client.call(f"result = [tcp('{every}', p)[1] for p in (80, 8080)]") == [
                    f"{every} 80",
                    f"{every} 8080",
                ]
                code = f"result = [f('{named}', p) for p in (443, 80) for f in (tcp, udp, connected_udp)]"
                tcp, udp, connected, *others = await client.call(code)
                assert tcp[1] == udp[1] == connected[1] == connected[2] == f"{named} 443"
                assert others == ["ECONNREFUSED", "EPERM", "ECONNREFUSED"]

    trio.run(main)


def test_without_a_backend_connections_are_refused_at_once(network: Network, client: Client) -> None:
    async def main() -> None:
        async with open_tables(network, network.entry(NONE4), network.entry(NONE6)):
            code = f"""
began = time.monotonic()
result = [f(a, 80) for a in ("{NONE4}", "{NONE6}", "::ffff:{NONE4}") for f in (tcp, connected_udp, udp)]
result.append(time.monotonic() - began)
"""
            *answers, took_s = await client.call(code)
            # The kernel itself sends nothing to port 0 from an IPv6 socket that is connected to an IPv4 address.
            by_mapped = ["ECONNREFUSED", "EINVAL", "EPERM"]
            assert answers == [*["ECONNREFUSED", "ECONNREFUSED", "EPERM"] * 2, *by_mapped]
            assert took_s < PROMPT_S

    trio.run(main)


@pytest.mark.parametrize("has_backend", [True, False])
def test_ping_and_getaddrinfo_are_unharmed(network: Network, client: Client, *, has_backend: bool) -> None:
    """Both connect a UDP socket to a port that no service has, to learn their own address; ping is answered by the
    namespace itself. No address may be sorted behind others because it seems unreachable."""

    async def main() -> None:
        backends = ["b1"] if has_backend else []
        ports = [ServicePort(80, 80)]
        entries = [network.entry(address, *backends, ports=ports) for address in (WEB4, WEB6)]
        async with open_tables(network, *entries):
            code = f"""
import subprocess
def own(address):
    with connected(address, 1025, socket.SOCK_DGRAM) as sock: return sock.getsockname()[0]
def ping(address): return subprocess.run(["ping", "-c1", "-W1", address], capture_output=True).returncode
result = [[own(a), ping(a)] for a in ("{WEB4}", "{WEB6}")]
"""
            assert await client.call(code) == [["10.97.0.11", 0], ["fd97::11", 0]]

    trio.run(main)


def test_all_ways_to_connect(network: Network, client: Client) -> None:
    async def main() -> None:
        async with open_tables(network, network.entry(WEB4, "b1"), network.entry(WEB6, "b1")):
            code = f"""
A = ("{WEB4}", 80)
def talk(sock): sock.send(b"x"); return [sock.recv(99).decode(), end(sock.getpeername())]
def fast_open_by_sendto():
    sock = socket.socket(); sock.sendto(b"x", 0x20000000, A); sock.settimeout(5)
    return [sock.recv(99).decode(), end(sock.getpeername())]
def fast_open_by_connect():
    sock = socket.socket(); sock.settimeout(5); sock.setsockopt(6, 30, 1); sock.connect(A); return talk(sock)
def non_blocking():
    sock = socket.socket(); sock.setblocking(False); sock.connect_ex(A); select.select([], [sock], [], 5)
    sock.settimeout(5); return talk(sock)
def bound_to_a_source():
    sock = socket.socket(); sock.bind(("10.97.0.11", 0)); sock.settimeout(5); sock.connect(A); return talk(sock)
def sendmsg():
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); sock.settimeout(5)
    sock.sendmsg([b"x"], [], 0, A); data, _, _, name = sock.recvmsg(99); return [data.decode(), end(name)]
def connected_datagram_by_an_ipv6_socket():
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); sock.settimeout(5)
    sock.connect(("{MAPPED}", 80)); return talk(sock)
result = {{f.__name__: f() for f in (
    fast_open_by_sendto, fast_open_by_connect, non_blocking, bound_to_a_source, sendmsg,
    connected_datagram_by_an_ipv6_socket)}}
result["mptcp"] = tcp("{WEB4}", 80, 262)[0]
result["mptcp6"] = tcp("{WEB6}", 80, 262)[0]
"""
            answers = await client.call(code)
            assert answers.pop("mptcp") == "b1 10.97.0.11"
            assert answers.pop("mptcp6") == "b1 fd97::11"
            assert answers.pop("connected_datagram_by_an_ipv6_socket") == ["b1 10.97.0.11", f"{MAPPED} 80"]
            assert set(map(tuple, answers.values())) == {("b1 10.97.0.11", f"{WEB4} 80")}

    trio.run(main)


def test_a_backend_connects_to_itself_by_its_service(network: Network, client: Client) -> None:
    async def main() -> None:
        entries = [network.entry(WEB4, "10.97.0.11"), network.entry(WEB6, "fd97::11")]
        async with open_tables(network, *entries):
            code = f"""
result = []
for a, own in (("{WEB4}", "10.97.0.11"), ("{WEB6}", "fd97::11")):
    listener = socket.create_server((own, 80), family=family(a))
    with connected(a, 80) as sock:
        made, peer = listener.accept()
        result.append([peer[0], end(sock.getpeername())])
"""
            assert await client.call(code) == [["10.97.0.11", f"{WEB4} 80"], ["fd97::11", f"{WEB6} 80"]]

    trio.run(main)


def test_shares_are_places(network: Network, client: Client) -> None:
    """1:2:1 of 1,200 connections, within four standard deviations: once in some 8,000 runs it is beyond."""

    async def main() -> None:
        entry = network.entry(WEB4, "b1", "b2", "b3", shares=(16, 32, 16))
        async with open_tables(network, entry):
            answers = await client.call(f"result = [tcp('{WEB4}', 80)[0].split()[0] for _ in range(1200)]")
            counts = Counter(answers)
            for name, share in (("b1", 1 / 4), ("b2", 1 / 2), ("b3", 1 / 4)):
                deviation = (1200 * share * (1 - share)) ** 0.5
                assert abs(counts[name] - 1200 * share) < 4 * deviation, counts

    trio.run(main)


def test_a_socket_keeps_its_backend_and_a_sticky_service_that_of_the_namespace(
    namespaces: NamespaceFactory,
) -> None:
    async def main(network: Network) -> None:
        entries = [
            network.entry(WEB4, "b1", "b2", "b3"),
            network.entry(NONE4, "b1", "b2", "b3", is_sticky=True),
            network.entry(NONE6, "b1", "b2", "b3", is_sticky=True),
        ]
        async with open_tables(network, *entries):
            code = f"""
def by_one_socket():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        found = set()
        for _ in range(10):
            sock.sendto(b"x", ("{WEB4}", 80))
            found.add(sock.recv(99).decode().split()[0])
        return sorted(found)
sockets = [by_one_socket() for _ in range(30)]
result = [max(map(len, sockets)), len({{one[0] for one in sockets}})]
for a in ("{NONE4}", "{NONE6}"):
    for f in (tcp, udp, connected_udp):
        result.append(len({{f(a, 80)[0] for _ in range(20)}}))
"""
            assert await network.clients[0].call(code) == [1, 3, *[1] * 6]
            # Four namespaces do not all have the same one but by chance: one in 27, for each of the services.
            chosen = set()
            for one in network.clients:
                chosen.add(await one.call(f"result = tcp('{NONE4}', 80)[0].split()[0]"))
            assert chosen <= {"b1", "b2", "b3"}

    with open_network(namespaces, clients=2) as network:
        trio.run(main, network)


def test_one_socket_with_datagrams_to_several_services(network: Network, client: Client) -> None:
    """Each answer shows the service that it is from, for the last four backends; then the backend itself."""

    async def main() -> None:
        entries = [network.entry(f"10.98.0.{number}", f"b{number}") for number in (1, 2, 3)]
        async with open_tables(network, *entries):
            code = """
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); sock.settimeout(5)
result = []
for _ in range(2):
    for n in (1, 2, 3):
        for port in (80, 8080):
            sock.sendto(b"x", (f"10.98.0.{n}", port)); result.append(end(sock.recvfrom(99)[1]))
for n in (1, 2, 3): sock.sendto(b"x", (f"10.98.0.{n}", 80))
late = [end(sock.recvfrom(99)[1]) for _ in (1, 2, 3)]
result += sorted(late)
"""
            each = [f"10.98.0.{number} {port}" for number in (1, 2, 3) for port in (80, 8080)]
            assert await client.call(code) == [*each, *each, *[f"10.98.0.{n} 80" for n in (1, 2, 3)]]

    trio.run(main)


def test_only_members_are_led_each_to_the_services_of_its_networks(namespaces: NamespaceFactory) -> None:
    """A namespace is the one that a socket was made in, whichever program uses it."""

    async def main(network: Network) -> None:
        member, stranger = network.clients
        entries = [network.entry(WEB4, "b1"), network.entry(NONE4, "b2", vni=VNI + 1)]
        both = [Member(member.cookie, VNI), Member(member.cookie, VNI + 1)]
        code = f"result = [tcp('{WEB4}', 80), tcp('{NONE4}', 80), connected_udp('{WEB4}', 80)]"
        async with open_tables(network, *entries, members=both) as tables:
            first, second, _ = await member.call(code)
            assert (first[0], second[0]) == ("b1 10.97.0.11", "b2 10.97.0.11")
            # The route is local there as well, and nothing listens.
            assert await stranger.call(code) == ["ECONNREFUSED", "ECONNREFUSED", "ECONNREFUSED"]
            inherited = await stranger.call(f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
own, other = os.open("/proc/self/ns/net", os.O_RDONLY), os.open("{member.namespace.path}", os.O_RDONLY)
assert libc.setns(other, 0x40000000) == 0
theirs = socket.socket()
assert libc.setns(own, 0x40000000) == 0
theirs.connect(("{WEB4}", 80))
result = end(theirs.getpeername())
""")
            assert inherited == f"{WEB4} 80"
            await tables.set_members([Member(stranger.cookie, VNI)])
            assert not tables.is_usable(both[0])
            assert await member.call(code) == ["ECONNREFUSED", "ECONNREFUSED", "ECONNREFUSED"]
            first, second, _ = await stranger.call(code)
            assert (first[0], second) == ("b1 10.97.0.12", "ECONNREFUSED")

    with open_network(namespaces, clients=2) as network:
        trio.run(main, network)


def test_changes_hold_for_the_next_call(network: Network, client: Client) -> None:
    """A connection stays where it is; the next datagram of an unconnected socket goes where the table leads."""

    async def main() -> None:
        async with open_tables(network, network.entry(WEB4, "b1")) as tables:
            address = network.entry(WEB4).address
            process = client.start(
                f"""
tcp_sock = connected("{WEB4}", 80)
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); sock.settimeout(5)
def ask():
    tcp_sock.send(b"x"); sock.sendto(b"x", ("{WEB4}", 80))
    return [tcp_sock.recv(99).decode()[:2], sock.recv(99).decode()[:2]]
result = [ask()]
print("ready", file=sys.stderr, flush=True)
sys.stdin.readline()
result.append(ask())
""".replace("sys.stdin.readline()", "while tcp('10.98.0.5', 80)[0][:2] != 'b2': pass")
            )
            assert process.stderr is not None
            await trio.to_thread.run_sync(process.stderr.readline)
            await tables.set_services({address: network.entry(WEB4, "b2")})
            assert await trio.to_thread.run_sync(result_of, process) == [["b1", "b1"], ["b1", "b2"]]
            await tables.set_services({address: None})
            assert not tables.is_in_kernel(address)
            assert await client.call(f"result = tcp('{WEB4}', 80)") == "ECONNREFUSED"

    trio.run(main)


def test_programs_anywhere_below_the_root_are_led(network: Network, client: Client) -> None:
    """In groups below, in a control group namespace and a mount namespace of their own, with other users' rights, by
    nsenter(1), and in the groups of version 1's controllers, where the kernel has any."""
    below = network.group / "below"
    below.mkdir()
    inner = Client(client.namespace, below, client.cookie)
    version_1 = [
        Path(line.split()[1])
        for line in Path("/proc/self/mounts").read_text("utf-8").splitlines()
        if line.split()[2] == "cgroup" and not {"cpuset", "name=systemd"} & {*line.split()[3].split(",")}
    ]

    async def main() -> None:
        async with open_tables(network, network.entry(WEB4, "b1")):
            wanted = ["b1 10.97.0.11", f"{WEB4} 80"]
            code = f"result = tcp('{WEB4}', 80)"
            assert await inner.call(code) == wanted
            for words in (
                ["unshare", "--cgroup"],
                ["unshare", "--mount", "--uts", "--ipc"],
                ["unshare", "--user"],
                ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"],
                ["nsenter", f"--net={client.namespace.path}"],
            ):
                assert await inner.call(code, words) == wanted, words
            for hierarchy in version_1:
                with version_1_group(hierarchy) as group:
                    enter = ["sh", "-c", f'echo 0 > {group}/cgroup.procs; exec "$@"', "sh"]
                    assert await inner.call(code, enter) == wanted, hierarchy

    trio.run(main)
    below.rmdir()


def test_what_has_no_hook_is_left_alone(network: Network, client: Client) -> None:
    """UDP-Lite keeps the service's address as its peer; a ping socket is answered by the namespace itself."""

    async def main() -> None:
        async with open_tables(network, network.entry(WEB4, "b1")):
            code = f"""
def lite():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 136) as sock:
        sock.connect(("{WEB4}", 80)); return end(sock.getpeername())
def ping_socket():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 1) as sock:
        sock.settimeout(5); sock.connect(("{WEB4}", 0)); sock.send(struct.pack("!BBHHH", 8, 0, 0, 0, 1))
        return sock.recv(99)[0]
result = [lite(), ping_socket()]
"""
            assert await client.call(code) == [f"{WEB4} 80", 0]

    trio.run(main)


def test_io_uring(network: Network, client: Client) -> None:
    """Its `connect` and `sendmsg` take the same way, also from the kernel's own thread (SQPOLL)."""

    async def main() -> None:
        async with open_tables(network, network.entry(WEB4, "b1")):
            code = f"""
import ctypes, mmap
libc = ctypes.CDLL(None, use_errno=True)
IORING_OP_SENDMSG, IORING_OP_CONNECT, SQPOLL = 9, 16, 2
class Ring:
    def __init__(self, flags):
        params = ctypes.create_string_buffer(120)
        struct.pack_into("=II", params, 8, flags, 0)
        self.fd = libc.syscall(425, 4, params)
        assert self.fd >= 0, os.strerror(ctypes.get_errno())
        self.sq = struct.unpack_from("=8I", params.raw, 40)  # head, tail, mask, entries, flags, dropped, array
        self.cq = struct.unpack_from("=8I", params.raw, 80)  # head, tail, mask, entries, overflow, cqes
        size = max(self.sq[6] + 4 * 8, self.cq[5] + 16 * 16)
        self.ring = mmap.mmap(self.fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0)
        self.sqes = mmap.mmap(self.fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0x10000000)
        self.is_polled = bool(flags & SQPOLL)
        self.done = 0
    def call(self, op, fd, address, length, offset):
        index = self.done & 3
        self.sqes[64 * index : 64 * index + 64] = struct.pack("=BBHiQQI36x", op, 0, 0, fd, offset, address, length)
        struct.pack_into("=I", self.ring, self.sq[6] + 4 * index, index)
        struct.pack_into("=I", self.ring, self.sq[1], self.done + 1)
        libc.syscall(426, self.fd, 1, 1, 3 if self.is_polled else 1, None, 0)
        while struct.unpack_from("=I", self.ring, self.cq[1])[0] == self.done: time.sleep(0.001)
        outcome = struct.unpack_from("=Qi", self.ring, self.cq[5] + 16 * (self.done & 7))[1]
        self.done += 1
        struct.pack_into("=I", self.ring, self.cq[0], self.done)
        return outcome
name = ctypes.create_string_buffer(
    struct.pack("=H", socket.AF_INET) + struct.pack("!H", 80) + socket.inet_aton("{WEB4}") + bytes(8))
data = ctypes.create_string_buffer(b"x", 1)
vector = ctypes.create_string_buffer(struct.pack("=QQ", ctypes.addressof(data), 1))
message = ctypes.create_string_buffer(struct.pack(
    "=QI4xQQQQI4x", ctypes.addressof(name), 16, ctypes.addressof(vector), 1, 0, 0, 0))
result = []
for flags in (0, SQPOLL):
    ring = Ring(flags)
    sock = socket.socket(); sock.settimeout(5)
    outcome = ring.call(IORING_OP_CONNECT, sock.fileno(), ctypes.addressof(name), 0, 16)
    sock.send(b"x"); result.append([outcome, sock.recv(99).decode(), end(sock.getpeername())])
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); sock.settimeout(5)
    outcome = ring.call(IORING_OP_SENDMSG, sock.fileno(), ctypes.addressof(message), 1, 0)
    answer, peer = sock.recvfrom(99); result.append([outcome, answer.decode(), end(peer)])
"""
            answer = ["b1 10.97.0.11", f"{WEB4} 80"]
            assert await client.call(code) == [[0, *answer], [1, *answer]] * 2

    trio.run(main)
