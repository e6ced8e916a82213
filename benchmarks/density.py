#!/usr/bin/env python3
"""What a host with many containers costs: processor time of an idle agent, of an attach and of a detach, and memory.

A lab of three hosts, which are one cluster. On h1 named namespaces are attached until there are as many as requested.
At each number it measures processor time of the processes, not the clock, so that other load does not count:

    idle      agent and resolver, in per cent of a core, while nothing happens; and the agents of the other two hosts,
              which have no container: the cost of being a member of a cluster of three
    attach    agent and resolver of h1, for one more namespace, the mean of several; and the wall clock's median
    detach    the same
    memory    resident, of agent and resolver

The agents use their default timers; the lab's own timers are made for tests, and compare records five times as often.

    sudo .venv/bin/python benchmarks/density.py [--containers 1,100,1000,3000] [--idle-s 20] [--runs 9] [--timing lan]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import attach_to_answer  # noqa: F401  adds the lab to the module path
from netlab.cluster import form_cluster, start_agents
from netlab.errors import LabError
from netlab.host import Host
from netlab.lab import Lab
from netlab.topology import of_hosts

from netagent.control.client import Client

FOLDER = Path("/run/natbench-density")
SETTLE_S = 20.0
"""After the last attach: for repairs, looks into new sandboxes and messages to other hosts; and a bridge reports each
port again 15 s after it was added."""
BESIDE = 4
"""Attached at the same time while the number is reached."""
PORTS = 900
"""Containers per network: a bridge of the kernel has 1,023 ports at most."""
BATCH = 100
DOWNS = 20
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Process:
    """One of the two measured processes, by its id in this process namespace."""

    pid: int

    @property
    def cpu_s(self) -> float:
        """Return the processor time so far, including ended threads; in hundredths of a second, so use means."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S

    @property
    def resident_mib(self) -> float:
        """Return the resident memory."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


@dataclass(slots=True)
class Cost:
    """Cost of one kind of call: processor time of agent and of resolver, and the wall clock's, in ms."""

    agent_ms: list[float] = field(default_factory=list)
    resolver_ms: list[float] = field(default_factory=list)
    wall_ms: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        agent_ms, resolver_ms = map(statistics.mean, (self.agent_ms, self.resolver_ms))
        return f"{agent_ms:8.1f}{resolver_ms:8.1f}{statistics.median(self.wall_ms):8.1f}"


def process_of(host: Host, words: Sequence[str]) -> Process:
    """Return the process whose command line has all these words, among the descendants of the host's first
    process."""
    root, found = host.path("/"), {}
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        line = status.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        if all(word in line for word in words) and (status.parent / "ns" / "mnt").samefile(
            root.parent / "ns" / "mnt"
        ):
            stat = (status.parent / "stat").read_text().rpartition(")")[2]
            found[int(status.parent.name)] = int(stat.split()[1])
    # The resolver process's broker has the same command line, and is the parent of the part that answers.
    for process_id in found.keys() - set(found.values()):
        return Process(process_id)
    raise SystemExit(f"no process {words} on {host.name}")


class Density:
    """Measures h1 of a lab."""

    def __init__(self, lab: Lab) -> None:
        self.host = lab.host("h1")
        self.client = Client(str(self.host.path("/run/netagent/netagent.sock")))
        self.agent = process_of(self.host, ["netagent agent"])
        self.resolver = process_of(self.host, ["netagent.resolver.process"])
        self.others = [process_of(lab.host(name), ["netagent agent"]) for name in ("h2", "h3")]
        self.count = 0

    def make(self, names: Sequence[str]) -> None:
        """Create namespaces."""
        batch = "".join(f"netns add {name}\n" for name in names)
        self.host.must(["ip", "-batch", "-"], stdin=batch, timeout_s=600)

    def attach(self, name: str) -> None:
        """Attach one, by the API as the command line does."""
        network = f"app{self.count // PORTS}"
        self.client.call("POST", "/v1/endpoints", body={"target": f"netns:{name}", "network": network})

    def detach(self, name: str) -> None:
        """Detach one."""
        self.client.call("DELETE", f"/v1/endpoints/{name}")

    def grow_to(self, count: int) -> None:
        """Attach until there are so many."""
        while self.count < count:
            names = [f"c{number}" for number in range(self.count, min(count, self.count + BATCH))]
            self.make(names)
            with ThreadPoolExecutor(BESIDE) as pool:
                list(pool.map(self.attach, names))
            self.count += len(names)

    @contextmanager
    def noting(self, cost: Cost) -> Iterator[None]:
        """Add the cost of a block, and of what follows from it in the next moment."""
        agent_s, resolver_s, began = self.agent.cpu_s, self.resolver.cpu_s, time.monotonic()
        yield
        cost.wall_ms.append(1000 * (time.monotonic() - began))
        time.sleep(0.5)
        cost.agent_ms.append(1000 * (self.agent.cpu_s - agent_s))
        cost.resolver_ms.append(1000 * (self.resolver.cpu_s - resolver_s))

    def idle(self, seconds: float) -> tuple[float, float, float]:
        """Return agent, resolver, and the mean of the other hosts' agents, in per cent of a core."""
        processes = (self.agent, self.resolver, *self.others)
        before, began = [one.cpu_s for one in processes], time.monotonic()
        time.sleep(seconds)
        passed = time.monotonic() - began
        agent, resolver, *others = (
            100 * (one.cpu_s - spent_s) / passed for one, spent_s in zip(processes, before, strict=True)
        )
        return agent, resolver, statistics.mean(others)


def measure(density: Density, runs: int, idle_s: float) -> str:
    """Return one line of the table."""
    time.sleep(SETTLE_S)
    idle = density.idle(idle_s)
    attach, detach = Cost(), Cost()
    names = [f"x{density.count}-{number}" for number in range(runs)]
    density.make(names)
    for name in names:
        with density.noting(attach):
            density.attach(name)
    for name in names:
        with density.noting(detach):
            density.detach(name)
    for name in names:
        density.host.must(["ip", "netns", "del", name])
    memory = density.agent.resident_mib, density.resolver.resident_mib
    percents = "".join(f"{one:8.2f}" for one in idle)
    return f"{density.count:10d}{percents}{attach}{detach}{memory[0]:8.1f}{memory[1]:8.1f}"


def boot(lab: Lab, timing: str) -> None:
    """Boot three hosts as one cluster."""
    lab.up(of_hosts(3), agents=False)
    for host in lab.hosts:
        host.path("/etc/netagent/netagent.toml").write_text(f'name = "{host.name}"\ntiming = "{timing}"\n')
    start_agents(lab.hosts)
    form_cluster(lab.hosts)


def take_down(lab: Lab) -> None:
    """Remove the lab in steps: the kernel needs more time to end a thousand namespaces than a lab waits for."""
    for _ in range(DOWNS):
        with suppress(LabError):
            lab.down()
            return
    lab.down()


def main() -> None:
    """Boot a lab, measure, take it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--containers", default="1,100,1000,3000")
    parser.add_argument("--idle-s", type=float, default=20.0)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--timing", default="lan", help="timers of the gossip")
    arguments = parser.parse_args()
    lab = Lab(FOLDER)
    lab.down()
    try:
        boot(lab, arguments.timing)
        counts = [int(count) for count in arguments.containers.split(",")]
        for number in range(max(counts) // PORTS + 1):
            lab.host("h1").must(["netagent", "network", "create", f"app{number}"])
        density = Density(lab)
        print("                     idle %                attach ms               detach ms            MiB")
        print(
            "containers   agent  resolv  others   agent  resolv    wall   agent  resolv    wall   agent  resolv"
        )
        for count in counts:
            density.grow_to(count)
            print(measure(density, arguments.runs, arguments.idle_s), flush=True)
    finally:
        take_down(lab)


if __name__ == "__main__":
    main()
