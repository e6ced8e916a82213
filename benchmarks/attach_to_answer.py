#!/usr/bin/env python3
"""How long after `attach` on one host does a container on another host get the first good answer for the new name?

A lab of three hosts. In a container on h2 a small program asks 127.0.0.11 for a name every half millisecond; on h1 an
empty namespace is attached under that name through the agent's socket. Both clocks are the machine's monotonic clock.
Prints the median and the worst of the runs, for the attach call alone and until the answer, the idle memory and CPU
of agent and resolver, and the start-up time of `netagent services`.

    sudo .venv/bin/python benchmarks/attach_to_answer.py [--runs 50] [--idle-s 20]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "netns-lab")]

from netlab.host import Host  # noqa: E402
from netlab.lab import Lab  # noqa: E402
from netlab.topology import of_hosts  # noqa: E402

from netagent.control.client import Client  # noqa: E402 - the path is set above

FOLDER = Path("/run/natbench")
ASK_EVERY_S = 0.0005
GIVE_UP_S = 5.0

ASKER = f"""
import socket, struct, sys, time
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.settimeout({ASK_EVERY_S})
for number, line in enumerate(sys.stdin, 1):
    name = line.strip()
    labels = b"".join(bytes([len(p)]) + p.encode() for p in name.split(".")) + b"\\0"
    question = struct.pack("!HHHHHH", number, 0x0100, 1, 0, 0, 0) + labels + struct.pack("!HH", 1, 1)
    end = time.monotonic() + {GIVE_UP_S}
    print("asking", flush=True)
    while time.monotonic() < end:
        udp.sendto(question, ("127.0.0.11", 53))
        try:
            answer = udp.recv(1500)
        except TimeoutError:
            continue
        if answer[:2] == question[:2] and answer[6:8] != b"\\0\\0":
            print(time.monotonic(), flush=True)
            break
        time.sleep({ASK_EVERY_S})
    else:
        print("nan", flush=True)
"""


def measure_attaches(lab: Lab, runs: int) -> tuple[list[float], list[float]]:
    """Return the seconds of each attach call, and the seconds from its start to the first good answer on h2."""
    h1 = lab.host("h1")
    client = Client(str(h1.path("/run/netagent/netagent.sock")))
    asker = subprocess.Popen(
        lab.container("asker").entering([sys.executable, "-c", ASKER]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert asker.stdin is not None
    assert asker.stdout is not None
    calls, answers = [], []
    for run in range(runs):
        h1.must(["ip", "netns", "add", f"b{run}"])
        asker.stdin.write(f"b{run}.app.mesh.internal\n")
        asker.stdin.flush()
        asker.stdout.readline()
        began = time.monotonic()
        client.call("POST", "/v1/endpoints", body={"target": f"netns:b{run}", "network": "app"})
        calls.append(time.monotonic() - began)
        answers.append(float(asker.stdout.readline()) - began)
    asker.stdin.close()
    asker.wait()
    return calls, answers


def measure_idle(hosts: Sequence[Host], idle_s: float) -> None:
    """Print memory and CPU of the lab's idle agents and resolver processes."""
    ours = {(host.path("/").parent / "ns/pid").readlink() for host in hosts}
    found: dict[str, list[Path]] = {"agent": [], "resolver": []}
    for process in Path("/proc").iterdir():
        try:
            if not process.name.isdigit() or (process / "ns/pid").readlink() not in ours:
                continue
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"netagent.resolver.process" in words:
            found["resolver"].append(process)
        elif b"agent" in words[2:3] and words[1].endswith(b"/netagent"):
            found["agent"].append(process)
    before = {process: _cpu_s(process) for group in found.values() for process in group}
    time.sleep(idle_s)
    for kind, processes in sorted(found.items()):
        memory = statistics.median(_memory_mb(process) for process in processes)
        cpu = statistics.median((_cpu_s(process) - before[process]) / idle_s * 100 for process in processes)
        print(
            f"{kind:9} idle: {memory:5.1f} MB resident, {cpu:.2f} % of a core (median of {len(processes)} hosts)"
        )


def _cpu_s(process: Path) -> float:
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory_mb(process: Path) -> float:
    pages = int((process / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure_command(host: Host, runs: int) -> list[float]:
    """Return the seconds of `netagent services`, for the whole process."""
    environment = {**os.environ, "NETAGENT_SOCKET": str(host.path("/run/netagent/netagent.sock"))}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [str(Path(sys.executable).with_name("netagent")), "services"]
    taken = []
    for _ in range(runs):
        began = time.monotonic()
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
        taken.append(time.monotonic() - began)
    return taken


def show(what: str, seconds: Sequence[float]) -> None:
    """Print median and worst, in milliseconds."""
    print(
        f"{what}: median {statistics.median(seconds) * 1e3:.1f} ms, "
        f"worst {max(seconds) * 1e3:.1f} ms of {len(seconds)}"
    )


def main() -> None:
    """Boot a lab, measure, take it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--idle-s", type=float, default=20.0)
    arguments = parser.parse_args()
    lab = Lab(FOLDER)
    lab.down()
    try:
        lab.up(of_hosts(3))
        lab.host("h1").must(["netagent", "network", "create", "app"])
        lab.add_container("asker", "h2", ["--network", "app"])
        calls, answers = measure_attaches(lab, arguments.runs)
        show("attach call on h1", calls)
        show("attach to first good answer on h2", answers)
        show("netagent services", measure_command(lab.host("h1"), arguments.runs))
        measure_idle(lab.hosts, arguments.idle_s)
    finally:
        lab.down()


if __name__ == "__main__":
    main()
