#!/usr/bin/env python3
"""What does a host pay while nothing happens: processor time, wake-ups and memory of agent and resolver?

A lab of three hosts, which are one cluster with the default timers. First as they are, with one network and two
namespaces on each host. Then with a service address in the network as well, whose programs and tables the agents
compare with the kernel all the time.

    % of a core   user and system time, of all threads, also of those that have ended
    wake-ups      how often per second a thread goes on after it has waited
    memory        proportional set size: pages that several processes share count once in all

A goal is 0.5 % of a core and 100 MB for both processes of a host. On a machine that does other work at the same time
each wake-up finds the processor's caches cold, and costs up to twice as much; only ratios of runs side by side are
comparable then. So `--beside FOLDER` has the agent of h1 run from another checkout of the sources.

    sudo .venv/bin/python benchmarks/idle.py [--seconds 60] [--beside FOLDER]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from density import Process, boot, process_of, take_down
from netlab.errors import LabError
from netlab.host import Host
from netlab.lab import Lab
from netlab.process import wait_until

FOLDER: Final = Path("/run/natbench-idle")
SETTLE_S: Final = 45.0
"""A bridge reports each port again 15 s after it was added, and an agent sweeps what an earlier one left after 30."""
BOOT_S: Final = 60.0
NAMESPACES: Final = 2
AGENT, RESOLVER = ["netagent agent"], ["netagent.resolver.process"]


@dataclass(frozen=True, slots=True)
class Idle:
    """Of one process."""

    percent: float
    wakeups_per_s: float
    memory_mb: float


def wakeups_of(process: Process) -> int:
    """Return how often its present threads have waited."""
    count = 0
    for status in Path(f"/proc/{process.pid}/task").glob("*/status"):
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        count += int(fields["voluntary_ctxt_switches"])
    return count


def memory_mb_of(process: Process) -> float:
    """Return its proportional set size."""
    lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) * 1024 / 1e6


def measure(processes: Sequence[Process], seconds: float) -> list[Idle]:
    """Watch all of them at the same time."""
    before = [(one.cpu_s, wakeups_of(one)) for one in processes]
    began = time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - began
    return [
        Idle(
            100 * (one.cpu_s - cpu_s) / passed,
            (wakeups_of(one) - wakeups) / passed,
            memory_mb_of(one),
        )
        for one, (cpu_s, wakeups) in zip(processes, before, strict=True)
    ]


def show(title: str, hosts: Sequence[Host], seconds: float) -> None:
    """Print a line per host, and one for the median host."""
    agents, resolvers = ([process_of(host, words) for host in hosts] for words in (AGENT, RESOLVER))
    found = measure([*agents, *resolvers], seconds)
    print(f"\n{title:32} agent %  wake-ups/s      MB   resolver %  wake-ups/s      MB   both %      MB")
    pairs = list(zip(found[: len(hosts)], found[len(hosts) :], strict=True))
    for host, (agent, resolver) in zip(hosts, pairs, strict=True):
        print(
            f"  {host.name:30} {agent.percent:7.2f} {agent.wakeups_per_s:11.1f} {agent.memory_mb:7.1f}"
            f" {resolver.percent:12.2f} {resolver.wakeups_per_s:11.1f} {resolver.memory_mb:7.1f}"
            f" {agent.percent + resolver.percent:8.2f} {agent.memory_mb + resolver.memory_mb:7.1f}"
        )
    percent = statistics.median(agent.percent + resolver.percent for agent, resolver in pairs)
    memory_mb = statistics.median(agent.memory_mb + resolver.memory_mb for agent, resolver in pairs)
    print(f"  the median host: {percent:.2f} % of a core, {memory_mb:.1f} MB", flush=True)


def run_beside(host: Host, sources: Path) -> None:
    """Start the agent of a host again, from other sources."""
    host.stop_agent()
    path = ":".join(str(sources / one) for one in (".", "gossip", "dns"))
    host.must(["sh", "-c", f"PYTHONPATH={path} setsid netagent agent </dev/null >/dev/null 2>&1 &"])
    wait_until(partial(_answers, host), BOOT_S, f"the agent of {host.name} does not answer")


def _answers(host: Host) -> bool:
    try:
        host.must(["netagent", "status"])
    except LabError:
        return False
    return True


def main() -> None:
    """Boot a lab, measure, take it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--beside", type=Path, help="another checkout, whose agent h1 runs")
    arguments = parser.parse_args()
    lab = Lab(FOLDER)
    lab.down()
    try:
        boot(lab, "lan")
        first = lab.host("h1")
        if arguments.beside is not None:
            run_beside(first, arguments.beside.resolve())
        first.must(["netagent", "network", "create", "app"])
        for host in lab.hosts:
            for number in range(NAMESPACES):
                name = f"{host.name}-{number}"
                host.must(["ip", "netns", "add", name])
                host.must(["netagent", "attach", f"netns:{name}", "--network", "app", "--service", "web"])
        time.sleep(SETTLE_S)
        show("without service addresses", lab.hosts, arguments.seconds)
        first.must(["netagent", "service", "create", "web", "--network", "app"])
        time.sleep(SETTLE_S)
        show("with a service address", lab.hosts, arguments.seconds)
    finally:
        take_down(lab)


if __name__ == "__main__":
    main()
