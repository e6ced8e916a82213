#!/usr/bin/env python3
"""What does an answer cost, compared with dnsmasq with the same names in the same run?

Runs in a network namespace of its own. The resolver process, fed by the agent's side of the conversation, answers for
one container at 127.0.0.11; dnsmasq at 127.0.0.12; both ask a second dnsmasq for names that are not theirs. dnsperf
queries one after the other, in turn: names of the network itself, names that were forwarded once and are in the cache
since, and half of each, with and without EDNS. The processor time of each server's process, user and system, is
divided by the number of answered queries. Ratios count, not times: the machine is the same for both.

At full speed, a server finds many queries waiting each time it wakes up. With `--rate` there is a row for a server
that sleeps between two queries.

    sudo .venv/bin/python benchmarks/dns.py [--runs 5] [--seconds 3] [--names 10] [--rate 2000]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "dns")]

import trio  # noqa: E402 - the path is set above

from netagent.model.ids import EndpointId, NetworkId  # noqa: E402
from netagent.model.sandbox import Sandbox, SandboxId  # noqa: E402
from netagent.resolver.channel import SocketPair  # noqa: E402
from netagent.resolver.name_table import (  # noqa: E402
    SETTINGS_KEY,
    EndpointRow,
    HostRow,
    Key,
    NetworkRow,
    Row,
    RowKind,
    SettingsRow,
    Subnet,
)
from netagent.resolver.supervisor import Supervisor  # noqa: E402

INSIDE = "NATBENCH_INSIDE"
OURS, THEIRS, UPSTREAM = "127.0.0.11", "127.0.0.12", "127.0.0.13"
ZONE = "app.mesh.internal"
READY_S = 10.0
GOALS = {"local": 1.0, "forwarded": 1.2}
"""Limits relative to dnsmasq's processor time, at full speed and without EDNS."""


@dataclass(frozen=True)
class Load:
    """The kind and rate of queries."""

    kind: str
    edns: bool
    rate: int
    """Queries per second; 0: as many as possible."""

    @property
    def text(self) -> str:
        """The row's title in the table."""
        how = f"{self.rate:,} per second" if self.rate else "full speed"
        return f"{self.kind}{', EDNS' if self.edns else ''}, {how}"


@dataclass(frozen=True)
class Result:
    """The result of one run against one server."""

    cpu_us: float
    """Per query."""
    answered_a_second: float


def local_names(count: int) -> list[str]:
    """Return names in the network, with one address of each family."""
    return [f"web{number}.{ZONE}" for number in range(count)]


def forwarded_names(count: int) -> list[str]:
    """Return names that only the upstream server knows."""
    return [f"www{number}.example.com" for number in range(count)]


def table_of(count: int) -> dict[Key, Row]:
    """Return a network in which every name is one endpoint, and a container that sees it."""
    network = NetworkId("a" * 32)
    table: dict[Key, Row] = {
        SETTINGS_KEY: SettingsRow("mesh.internal"),
        (RowKind.HOST, "h"): HostRow("h1", bytes([192, 0, 2, 1])),
        (RowKind.NETWORK, network): NetworkRow("app", (Subnet(bytes([10, 160, 0, 0]), 20),)),
        (RowKind.SANDBOX, "c"): Sandbox(sandbox_id=SandboxId("c"), networks=(network,)),
    }
    for number, text in enumerate(local_names(count)):
        four, six = addresses_of(number)
        row = EndpointRow(
            endpoint_id=EndpointId(f"{number:032x}"),
            network_id=network,
            name=text.partition(".")[0],
            host_label="h1",
            service=text.partition(".")[0],
            aliases=(),
            addresses=(socket.inet_pton(socket.AF_INET, four), socket.inet_pton(socket.AF_INET6, six)),
            ports=(),
        )
        table[RowKind.ENDPOINT, row.endpoint_id] = row
    return table


def addresses_of(number: int) -> tuple[str, str]:
    """Return one address of each family."""
    return f"10.160.{number // 250}.{number % 250 + 1}", f"fd00:1::{number + 1:x}"


@contextlib.contextmanager
def dnsmasq(address: str, names: Sequence[str], ttl_s: int, *options: str) -> Iterator[int]:
    """Run dnsmasq, with records for the names; yield its process id."""
    records = [f"--host-record={text},{','.join(addresses_of(n))},{ttl_s}" for n, text in enumerate(names)]
    command = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-hosts", "--no-resolv"]
    command += [
        "--bind-interfaces",
        f"--listen-address={address}",
        "--user=root",
        "--pid-file",
        "--log-facility=-",
    ]
    # In a session of its own, as the resolver process is: the kernel may give each session an equal share of time.
    with subprocess.Popen(
        [*command, *options, *records], stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            wait_for_answers(address, names[0])
            yield process.pid
        finally:
            process.terminate()


@contextlib.asynccontextmanager
async def resolver(folder: Path, count: int) -> AsyncIterator[int]:
    """Run the resolver process, with names and a container; yield its process id."""
    (folder / "resolv.conf").write_text(f"nameserver {UPSTREAM}\n", encoding="ascii")
    supervisor = Supervisor(folder, release="benchmark", resolv_conf=folder / "resolv.conf")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.run)
        try:
            with trio.fail_after(READY_S):
                await supervisor.add_sandbox(SandboxId("c"), *listening_pair(OURS))
                await supervisor.publish(table_of(count))
            process_id = (await supervisor.statistics())["process_id"]  # of the part that answers
            await trio.to_thread.run_sync(wait_for_answers, OURS, local_names(count)[0])
            yield process_id
        finally:
            with trio.CancelScope(shield=True):
                await supervisor.stop()
            nursery.cancel_scope.cancel()


def listening_pair(address: str) -> SocketPair:
    """Open sockets as the agent does in a container."""
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((address, 53))
    return SocketPair(udp, socket.create_server((address, 53)))


def wait_for_answers(address: str, text: str) -> None:
    """Ask until the server answers."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in text.split("."))
    query = b"\0\1\1\0\0\1\0\0\0\0\0\0" + labels + b"\0\0\1\0\1"
    until = time.monotonic() + READY_S
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.05)
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                sock.sendto(query, (address, 53))
                if sock.recv(512)[7]:
                    return
    sys.exit(f"no answer from {address}")


def cpu_s(process_id: int) -> float:
    """Return the processor time so far, of all threads."""
    tasks = Path(f"/proc/{process_id}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def measure(server: str, process_id: int, load: Load, questions: Path, seconds: float) -> Result:
    """Run dnsperf once."""
    command = ["dnsperf", "-s", server, "-d", str(questions), "-l", str(seconds), "-c", "4", "-W"]
    command += ["-e"] if load.edns else []
    command += ["-Q", str(load.rate)] if load.rate else []
    before = cpu_s(process_id)
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    used_s = cpu_s(process_id) - before
    found = re.search(r"Queries completed:\s+(\d+)", said)
    lost = re.search(r"Queries lost:\s+(\d+)", said)
    codes = re.search(r"Response codes:\s+NOERROR (\d+) \(100", said)
    if found is None or lost is None or codes is None:
        sys.exit(f"{server} did not answer everything:\n{said}")
    answered = int(found[1])
    return Result(used_s / answered * 1e6, answered / seconds)


def write_questions(folder: Path, kind: str, count: int) -> Path:
    """Write questions as stubs ask them: A and AAAA of each name."""
    local, forwarded = local_names(count), forwarded_names(count)
    names = {"local": local, "forwarded": forwarded, "half of each": [*local, *forwarded]}[kind]
    path = folder / kind.replace(" ", "-")
    path.write_text("".join(f"{text} A\n{text} AAAA\n" for text in names), encoding="ascii")
    return path


def compare(
    servers: Sequence[tuple[str, int]], load: Load, questions: Path, arguments: argparse.Namespace
) -> None:
    """Measure both servers in turn, and print a line of the table."""
    for server, process_id in servers:  # first fill the caches
        measure(server, process_id, load, questions, 0.3)
    results: dict[str, list[Result]] = {server: [] for server, _ in servers}
    for _ in range(arguments.runs):
        for server, process_id in servers:
            results[server].append(measure(server, process_id, load, questions, arguments.seconds))
    ours, theirs = results[OURS], results[THEIRS]
    ratios = [mine.cpu_us / other.cpu_us for mine, other in zip(ours, theirs, strict=True)]
    goal = GOALS.get(load.kind) if not load.edns and not load.rate else None
    print(
        f"{load.text:34}  {median_cpu(ours):6.2f} µs  {median_cpu(theirs):6.2f} µs  "
        f"{statistics.median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        f"  {statistics.median(one.answered_a_second for one in ours):9,.0f}"
        f"  {statistics.median(one.answered_a_second for one in theirs):9,.0f}"
        + (f"  at most {goal}" if goal else ""),
        flush=True,
    )


def median_cpu(results: Sequence[Result]) -> float:
    """Return the processor time per query, in µs."""
    return statistics.median(one.cpu_us for one in results)


async def run(arguments: argparse.Namespace, folder: Path) -> None:
    """Start the servers, ask, and end them."""
    count = arguments.names
    with (
        dnsmasq(UPSTREAM, forwarded_names(count), 3600),
        dnsmasq(THEIRS, local_names(count), 5, f"--server={UPSTREAM}", "--cache-size=1000") as theirs,
    ):
        async with resolver(folder, count) as ours:
            print(f"{'':34}  netagent    dnsmasq    ratio of processor time  netagent/s  dnsmasq/s")
            rates = (0, arguments.rate) if arguments.rate else (0,)
            for rate in rates:
                for kind in ("local", "forwarded", "half of each"):
                    questions = write_questions(folder, kind, count)
                    for edns in (False, True):
                        load = Load(kind, edns, rate)
                        await trio.to_thread.run_sync(
                            compare, [(OURS, ours), (THEIRS, theirs)], load, questions, arguments
                        )


def main() -> None:
    """Enter a namespace, measure, and leave nothing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--names", type=int, default=10)
    parser.add_argument("--rate", type=int, default=0, help="queries per second of a second table")
    arguments = parser.parse_args()
    if missing := [program for program in ("dnsmasq", "dnsperf") if shutil.which(program) is None]:
        sys.exit(f"{' and '.join(missing)} missing: .ci/packages benchmark installs what benchmarks need")
    if INSIDE not in os.environ:
        os.execvpe("unshare", ["unshare", "-n", sys.executable, *sys.argv], {**os.environ, INSIDE: "1"})
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=10)
    version = subprocess.run(["dnsmasq", "--version"], check=True, capture_output=True, text=True).stdout
    print(f"{version.split('  Copyright')[0]}; Python {sys.version.split()[0]}; {os.cpu_count()} processors")
    with tempfile.TemporaryDirectory(prefix="natbench-") as name:
        trio.run(run, arguments, Path(name))


if __name__ == "__main__":
    main()
