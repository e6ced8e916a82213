#!/usr/bin/env python3
"""What does a service's own address cost, in time, memory and waiting, compared with direct connections and with nft?

Network namespaces on a bridge: one backend and several clients, with the programs and tables of netagent in control
groups of their own, so that the same operation is measured with and without them. Rounds go through all variants in
random order, on one processor; a ratio is the median of the ratios to a direct connection of the same round. So
only ratios and differences count; times depend on the machine and on what else it does.

    direct              a namespace outside the control group: no program runs
    no member           the programs run, in a namespace that is no member of the network
    other traffic       a member's connections to the backend's own address
    service             a member's connections to the service's address, among 10, 1,000 and 10,000 services
    nft, other          a namespace with an nft map that leads to backends, as a rival; its other traffic
    nft, service        and what the map leads

The client is a program in C (echo.c). "CPU" is the client's own processor time: other programs disturb it less.

Then: how long the tables of 10, 1,000 and 10,000 services take, both families and 64 places each, and how much memory
of the kernel; how long the change of one service takes; how long after the change of the tables the clients of a
gone backend are woken, in one namespace and in 30. Docker swarm's virtual address is measured where the kernel has
IPVS.

    sudo .ci/packages benchmark
    sudo .venv/bin/python benchmarks/services.py [--rounds 40] [--seconds 0.08] [--only cost|load|wake|swarm]
"""

from __future__ import annotations

import argparse
import os
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "netns-lab")]

import trio  # noqa: E402 - the path is set above
from netlab.lab import Lab  # noqa: E402
from netlab.process import wait_until  # noqa: E402
from netlab.programs import must, path_of, require, require_root  # noqa: E402
from netlab.topology import of_hosts  # noqa: E402

from netagent.datapath.endpoint.netns import boot_id, opened_netns, run_in_netns  # noqa: E402
from netagent.datapath.reconcile.drift import Drift  # noqa: E402
from netagent.datapath.sockets.cgroup_root import cgroup_mounts  # noqa: E402
from netagent.datapath.sockets.layout import PLACES, Member, ServiceEntry  # noqa: E402
from netagent.datapath.sockets.reset import ConnectionResets, ServiceUsers  # noqa: E402
from netagent.datapath.sockets.service_tables import ServiceTables  # noqa: E402
from netagent.model.sandbox import Netns  # noqa: E402

FOLDER: Final = Path("/run/natbench-services")
NAME: Final = "natbench-services"
SOURCE: Final = Path(__file__).parent / "echo.c"
PORT: Final = 8080
VNI: Final = 7
SIZES: Final = (10, 1_000, 10_000)
WAITERS: Final = 30
WAKES: Final = 20
CHANGES: Final = 300
NICENESS: Final = -15
"""Other programs of the machine should disturb as little as they can."""
SETTLED_S: Final = 40.0
SO_NETNS_COOKIE: Final = 71

SUBNET4, SUBNET6 = "10.99.0", "fd99:"
GATEWAY, BACKEND, SECOND, DIRECT, MEMBER, RIVAL = 1, 10, 11, 20, 21, 22
"""Last parts of the addresses; those of the clients that wait follow."""
FIRST_WAITER: Final = 100

# -- namespaces -----------------------------------------------------------------------------------------------------


def own_addresses(number: int) -> tuple[str, str]:
    """Return the addresses of a namespace."""
    return f"{SUBNET4}.{number}", f"{SUBNET6}:{number}"


def service_addresses(number: int) -> tuple[str, str]:
    """Return the addresses of a service."""
    return str(IPv4Address("10.98.0.0") + 1 + number), str(IPv6Address("fd98::") + 1 + number)


def space_name(number: int) -> str:
    """Return the name of a namespace; 0: the bridge's."""
    return f"{NAME}-{number}"


@contextmanager
def namespaces(numbers: Sequence[int]) -> Iterator[None]:
    """A bridge in a namespace, and a namespace with an interface on it for each number."""
    remove_namespaces()
    try:
        bridge = space_name(0)
        must(["ip", "netns", "add", bridge])
        inside(bridge, "ip link add br0 type bridge")
        for device in ("lo", "br0"):
            inside(bridge, f"ip link set {device} up")
        _add_addresses(bridge, "br0", GATEWAY)
        for number in numbers:
            _add_namespace(bridge, number)
        yield
    finally:
        remove_namespaces()


def _add_namespace(bridge: str, number: int) -> None:
    space = space_name(number)
    must(["ip", "netns", "add", space])
    inside(space, "ip link set lo up")
    inside(bridge, f"ip link add v{number} type veth peer name eth0 netns {space}")
    inside(bridge, f"ip link set v{number} master br0 up")
    _add_addresses(space, "eth0", number)
    inside(space, "ip link set eth0 up")
    for gateway in own_addresses(GATEWAY):  # nft translates what has a way out
        inside(space, f"ip route add default via {gateway}")


def _add_addresses(space: str, device: str, number: int) -> None:
    four, six = own_addresses(number)
    inside(space, f"ip addr add {four}/24 dev {device}")
    inside(space, f"ip addr add {six}/64 dev {device} nodad")


def remove_namespaces() -> None:
    """Remove those of this benchmark, also of a run that was killed."""
    for entry in Path("/run/netns").glob(f"{NAME}-*"):
        must(["ip", "netns", "del", entry.name])


def inside(space: str, command: str, stdin: str = "") -> str:
    """Run a command in a namespace."""
    return must(["ip", "netns", "exec", space, *command.split()], stdin=stdin)


def netns_of(number: int) -> Netns:
    """Return what netagent knows a namespace by."""
    path = f"/run/netns/{space_name(number)}"
    status = Path(path).stat()
    return Netns(path, (status.st_dev, status.st_ino), boot_id())


async def cookie_of(number: int) -> int:
    """Return the kernel's cookie of a namespace."""

    def ask() -> int:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8), sys.byteorder)

    with opened_netns(f"/run/netns/{space_name(number)}") as fd:
        return await run_in_netns(fd, ask)


# -- control groups and tables --------------------------------------------------------------------------------------


@contextmanager
def group_of(label: str) -> Iterator[Path]:
    """A control group of version 2, in the place of the root."""
    mounts = cgroup_mounts(Path("/proc/self/mountinfo").read_text("utf-8"))
    if not mounts:
        raise SystemExit("control groups of version 2 are not mounted: mount -t cgroup2 none /mnt")
    group = Path(mounts[0].path) / f"{NAME}-{label}"
    group.mkdir(exist_ok=True)
    try:
        yield group
    finally:
        wait_until(partial(_is_removed, group), SETTLED_S, f"{group} is busy")


def _is_removed(group: Path) -> bool:
    with suppress(OSError):
        group.rmdir()
    return not group.exists()


def _open_folder(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)


@asynccontextmanager
async def tables_at(group: Path, members: Sequence[int]) -> AsyncIterator[ServiceTables]:
    """Tables that an agent has in the kernel, for the namespaces with these numbers."""
    tables = ServiceTables(Drift(), open_root=partial(_open_folder, group))
    async with trio.open_nursery() as nursery:
        await nursery.start(tables.run)
        await tables.set_members([Member(await cookie_of(number), VNI) for number in members])
        try:
            yield tables
        finally:
            with trio.CancelScope(shield=True):
                await tables.detach_all()
            nursery.cancel_scope.cancel()


def entries_of(count: int, backend: int = BACKEND) -> dict[bytes, ServiceEntry]:
    """Return so many services, each with both addresses; the backend has all places."""
    entries = {}
    for number in range(count):
        for address, to in zip(service_addresses(number), own_addresses(backend), strict=True):
            packed = ip_address(address).packed
            entries[packed] = ServiceEntry(packed, VNI, (ip_address(to).packed,) * PLACES)
    return entries


# -- what an operation costs ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to the backend."""

    name: str
    space: int
    addresses: tuple[str, str]
    group: Path | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one operation, in ns."""

    clock: float
    cpu: float


OPERATIONS: Final = (
    ("connect + close, IPv4", "connect", 0),
    ("connect + close, IPv6", "connect", 1),
    ("TCP echo, IPv4", "tcp", 0),
    ("TCP echo, IPv6", "tcp", 1),
    ("UDP echo by address, IPv4", "udp", 0),
    ("UDP echo by address, IPv6", "udp", 1),
    ("UDP echo, connected, IPv4", "connected-udp", 0),
    ("UDP echo, connected, IPv6", "connected-udp", 1),
)
DIRECT_NAME: Final = "direct"


def build_client(folder: Path) -> Path:
    """Compile the client and server."""
    program = folder / "echo"
    must([path_of("gcc"), "-O2", "-static", "-o", str(program), str(SOURCE)])
    return program


def command_in(group: Path | None, number: int, words: Sequence[str], processor: int) -> list[str]:
    """Return the command that runs a program in a namespace and a control group, on one processor."""
    placed = ["nice", "-n", str(NICENESS), "taskset", "-c", str(processor), *words]
    entering = ["nsenter", f"--net=/run/netns/{space_name(number)}", *placed]
    if group is None:
        return entering
    return ["sh", "-c", 'echo 0 > "$1/cgroup.procs"; shift; exec "$@"', "sh", str(group), *entering]


@contextmanager
def served(echo: Path, numbers: Sequence[int], processor: int) -> Iterator[None]:
    """Servers in these namespaces."""
    with ExitStack() as running:
        for number in numbers:
            words = command_in(None, number, [str(echo), "serve", str(PORT)], processor)
            process = running.enter_context(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
            running.callback(process.kill)
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise SystemExit("the server does not start")
        yield


def cost_of(words: Sequence[str]) -> Cost:
    """Run the client once."""
    clock, cpu = must(words).split()
    return Cost(float(clock), float(cpu))


NFT_RULES: Final = """
table inet natbench {{
  map places4 {{
    type ipv4_addr . inet_proto . inet_service . mark : ipv4_addr . inet_service
    elements = {{ {four} }}
  }}
  map places6 {{
    type ipv6_addr . inet_proto . inet_service . mark : ipv6_addr . inet_service
    elements = {{ {six} }}
  }}
  chain output {{
    type nat hook output priority -100
    meta mark set numgen random mod {places}
    dnat ip to ip daddr . meta l4proto . th dport . meta mark map @places4
    dnat ip6 to ip6 daddr . meta l4proto . th dport . meta mark map @places6
  }}
}}
"""


def add_nft_map(space: int, services: int) -> None:
    """Lead the services to the backend by nft, in one namespace."""
    lists: list[list[str]] = [[], []]
    for number in range(services):
        for elements, address, to in zip(
            lists, service_addresses(number), own_addresses(BACKEND), strict=True
        ):
            elements += [
                f"{address} . {protocol} . {PORT} . {place:#x} : {to} . {PORT}"
                for protocol in ("tcp", "udp")
                for place in range(PLACES)
            ]
    four, six = (", ".join(elements) for elements in lists)
    inside(space_name(space), "nft -f -", stdin=NFT_RULES.format(four=four, six=six, places=PLACES))


async def measure_cost(echo: Path, rounds: int, seconds: float, processor: int) -> None:
    """Print what each operation costs, in each variant."""
    direct, first_service = own_addresses(BACKEND), service_addresses(0)
    async with AsyncExitStack() as opened:
        opened.enter_context(namespaces([BACKEND, DIRECT, MEMBER, RIVAL]))
        opened.enter_context(served(echo, [BACKEND], processor))
        add_nft_map(RIVAL, SIZES[0])
        for address in direct:  # neighbours are known before anything is measured
            for number in (DIRECT, MEMBER, RIVAL):
                inside(space_name(number), f"ping -c 1 {address}")
        services = []
        for size in SIZES:
            group = opened.enter_context(group_of(str(size)))
            tables = await opened.enter_async_context(tables_at(group, [MEMBER]))
            await tables.replace_services(entries_of(size))
            if tables.trouble:
                raise SystemExit(f"this host does not lead connections to services: {tables.trouble}")
            services.append(Variant(f"service, of {size:,}", MEMBER, first_service, group))
        variants = [
            Variant(DIRECT_NAME, DIRECT, direct),
            Variant("no member", DIRECT, direct, services[0].group),
            Variant("other traffic", MEMBER, direct, services[0].group),
            *services,
            Variant("nft, other", RIVAL, direct),
            Variant("nft, service", RIVAL, first_service),
        ]
        for title, what, family in OPERATIONS:
            measured: dict[str, list[Cost]] = {variant.name: [] for variant in variants}
            for _ in range(rounds):
                for variant in random.sample(variants, len(variants)):
                    words = [str(echo), what, variant.addresses[family], str(PORT), str(seconds)]
                    command = command_in(variant.group, variant.space, words, processor)
                    measured[variant.name].append(await trio.to_thread.run_sync(cost_of, command))
            show_costs(title, measured)


def show_costs(title: str, measured: Mapping[str, Sequence[Cost]]) -> None:
    """Print one operation's row for each variant."""
    print(f"\n{title:28} {'ns':>8} {'more':>7} {'ratio':>6} {'CPU ns':>8} {'more':>7} {'ratio':>6}")
    base = measured[DIRECT_NAME]
    for name, costs in measured.items():
        clock = _columns([(cost.clock, other.clock) for cost, other in zip(costs, base, strict=True)])
        cpu = _columns([(cost.cpu, other.cpu) for cost, other in zip(costs, base, strict=True)])
        print(f"  {name:26} {clock} {cpu}", flush=True)


def _columns(pairs: Sequence[tuple[float, float]]) -> str:
    return " ".join(
        (
            f"{statistics.median(own for own, _ in pairs):8,.0f}",
            f"{statistics.median(own - other for own, other in pairs):+7,.0f}",
            f"{statistics.median(own / other for own, other in pairs):6.3f}",
        )
    )


# -- loading and changing -------------------------------------------------------------------------------------------


@contextmanager
def kernel_memory() -> Iterator[Callable[[], int | None]]:
    """Charge what this process makes in the kernel to a control group; gives what it holds there, in octets. None
    where memory is not counted by control groups."""
    first, second = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    home = first if (first / "memory.kmem.usage_in_bytes").exists() else second
    group = home / NAME
    group.mkdir(exist_ok=True)
    with suppress(OSError):  # the file is there in version 2 alone
        (home / "cgroup.subtree_control").write_text("+memory", "ascii")

    def held() -> int | None:
        with suppress(OSError):
            return int((group / "memory.kmem.usage_in_bytes").read_text())
        with suppress(OSError):
            for line in (group / "memory.stat").read_text().splitlines():
                if line.startswith("kernel "):  # Linux 5.18
                    return int(line.split()[1])
        return None

    (group / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield held
    finally:
        (home / "cgroup.procs").write_text(str(os.getpid()))
        wait_until(partial(_is_removed, group), SETTLED_S, f"{group} is busy")


async def measure_loading() -> None:
    """Print how long tables take, and how much memory."""
    print(f"\n{'services':>8} {'loaded in':>10} {'memory':>9} {'one change, median':>19} {'worst':>9}")
    for size in SIZES:
        async with AsyncExitStack() as opened:
            opened.enter_context(namespaces([MEMBER]))
            group = opened.enter_context(group_of("load"))
            held = opened.enter_context(kernel_memory())
            tables = await opened.enter_async_context(tables_at(group, [MEMBER]))
            entries = entries_of(size + 1)
            one = next(iter(entries))
            await tables.set_services({one: entries[one]})  # loads the programs, which it takes but once
            before = held()
            began = time.perf_counter()
            await tables.replace_services(entries)
            took_s = time.perf_counter() - began
            after = held()
            changes_s = []
            others = entries_of(size + 1, SECOND)
            for number, (address, entry) in enumerate(list(others.items())[:CHANGES]):
                changed = {address: entry if number % 2 else None}
                began = time.perf_counter()
                await tables.set_services(changed)
                changes_s.append(time.perf_counter() - began)
            memory = "not told" if before is None or after is None else f"{(after - before) / 1e6:6.2f} MB"
            print(
                f"{size:8,} {took_s * 1e3:7.1f} ms {memory:>9} {statistics.median(changes_s) * 1e6:16.0f} µs "
                f"{max(changes_s) * 1e6:6.0f} µs",
                flush=True,
            )


# -- waking ---------------------------------------------------------------------------------------------------------


async def measure_waking(echo: Path, processor: int) -> None:
    """Print how long clients wait for a backend that is gone."""
    for count in (1, WAITERS):
        numbers = range(FIRST_WAITER, FIRST_WAITER + count)
        first_s, last_s = [], []
        async with AsyncExitStack() as opened:
            opened.enter_context(namespaces([BACKEND, SECOND, *numbers]))
            opened.enter_context(served(echo, [BACKEND, SECOND], processor))
            for number in numbers:  # most containers listen, at a socket of both families
                opened.enter_context(served(echo, [number], processor))
            group = opened.enter_context(group_of("wake"))
            tables = await opened.enter_async_context(tables_at(group, numbers))
            by_cookie = {await cookie_of(number): netns_of(number) for number in numbers}

            async def users(
                backends: Collection[bytes],
                tables: ServiceTables = tables,
                by_cookie: Mapping[int, Netns] = by_cookie,
            ) -> ServiceUsers:
                used = [by_cookie[member.cookie] for member in await tables.used_members(backends)]
                return ServiceUsers(used, are_all=True)

            nursery = await opened.enter_async_context(trio.open_nursery())
            resets = ConnectionResets(users, partial(_origins, tables))
            nursery.start_soon(resets.run)
            for turn in range(WAKES):
                gone, heir = (BACKEND, SECOND) if turn % 2 == 0 else (SECOND, BACKEND)
                await tables.replace_services(entries_of(1, gone))
                resets.note_back(map(_packed, own_addresses(gone)))
                with ExitStack() as clients:
                    waiting = [
                        clients.enter_context(_waiter(echo, group, number, processor)) for number in numbers
                    ]
                    began = time.monotonic()
                    await tables.replace_services(entries_of(1, heir))
                    resets.note_gone(map(_packed, own_addresses(gone)))
                    ends = await trio.to_thread.run_sync(_ends_of, waiting)
                first_s.append(min(ends) - began)
                last_s.append(max(ends) - began)
            nursery.cancel_scope.cancel()
        print(
            f"\nwoken in {count} namespace{'s' if count > 1 else ''} after the change of the table: first "
            f"{statistics.median(first_s) * 1e3:.1f} ms, last {statistics.median(last_s) * 1e3:.1f} ms, "
            f"worst {max(last_s) * 1e3:.1f} ms of {WAKES}",
            flush=True,
        )


def _origins(tables: ServiceTables) -> int | None:
    return tables.origins_fd


def _packed(address: str) -> bytes:
    return ip_address(address).packed


@contextmanager
def _waiter(echo: Path, group: Path, number: int, processor: int) -> Iterator[subprocess.Popen[str]]:
    address = service_addresses(0)[number % 2]
    words = command_in(group, number, [str(echo), "wait", address, str(PORT)], processor)
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise SystemExit("a client can't connect")
            yield process
        finally:
            process.kill()


def _ends_of(waiting: Sequence[subprocess.Popen[str]]) -> list[float]:
    return [float(one.stdout.readline().split()[0]) for one in waiting if one.stdout is not None]


# -- Docker swarm ---------------------------------------------------------------------------------------------------


def has_ipvs() -> bool:
    """Return whether the kernel can do what Docker's virtual addresses need."""
    with suppress(OSError):  # no modprobe
        subprocess.run(["modprobe", "ip_vs"], capture_output=True, check=False)
    return Path("/proc/net/ip_vs").exists()


def measure_swarm(echo: Path, rounds: int, seconds: float, mode: str = "vip") -> None:
    """Print what Docker's virtual address costs, against the task's own address."""
    if mode == "vip" and not has_ipvs():
        print("\nDocker swarm's virtual address: not measured, because this kernel has no IPVS (ip_vs)")
        return
    lab = Lab(FOLDER / "lab")
    lab.down()
    try:
        lab.up(of_hosts(1), agents=False, runtimes=True)
        host = lab.host("h1")
        host.must(["docker", "swarm", "init", "--advertise-addr", host.address])
        host.must(["docker", "network", "create", "-d", "overlay", "--attachable", "theirs"])
        mount = f"type=bind,src={echo},dst=/echo,readonly"
        host.must(
            [
                "docker", "service", "create", "--detach=false", "--name", "web", "--network", "theirs",
                "--endpoint-mode", mode, "--no-resolve-image", "--mount", mount,
                "lab", "/echo", "serve", str(PORT),
            ]
        )  # fmt: skip
        running = ["docker", "run", "-d", "--name", "client", "--network", "theirs", "--mount", mount]
        host.must([*running, "lab", "sleep", "1000000"])
        own, shared = (
            host.must(["docker", "exec", "client", "nslookup", name]).split()[-1]
            for name in ("tasks.web", "web")
        )
        for title, what, family in OPERATIONS:
            if family:
                continue  # the overlay has IPv4 alone
            measured: dict[str, list[Cost]] = {DIRECT_NAME: [], "swarm's address": []}
            for _ in range(rounds):
                for name, address in ((DIRECT_NAME, own), ("swarm's address", shared)):
                    words = ["docker", "exec", "client", "/echo", what, address, str(PORT), str(seconds)]
                    clock, cpu = host.must(words).split()
                    measured[name].append(Cost(float(clock), float(cpu)))
            show_costs(title, measured)
    finally:
        lab.down()


def main() -> None:
    """Measure, and leave nothing behind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=0.08, help="of one measurement")
    parser.add_argument("--processor", type=int, default=(os.cpu_count() or 1) - 1)
    parser.add_argument("--only", choices=("cost", "load", "wake", "swarm"))
    arguments = parser.parse_args()
    require_root()
    require(["ip", "nft", "nsenter", "ping", "gcc", "taskset"])
    others = os.sched_getaffinity(0) - {arguments.processor}
    if others:
        os.sched_setaffinity(0, others)  # this process compares tables meanwhile, as an agent does
    FOLDER.mkdir(exist_ok=True)
    try:
        echo = build_client(FOLDER)
        steps: dict[str, Callable[[], None]] = {
            "cost": partial(
                trio.run, measure_cost, echo, arguments.rounds, arguments.seconds, arguments.processor
            ),
            "load": partial(trio.run, measure_loading),
            "wake": partial(trio.run, measure_waking, echo, arguments.processor),
            "swarm": partial(measure_swarm, echo, arguments.rounds, arguments.seconds),
        }
        for name, step in steps.items():
            if arguments.only in {None, name}:
                step()
    finally:
        for file in FOLDER.glob("echo"):
            file.unlink()
        FOLDER.rmdir()


if __name__ == "__main__":
    main()
