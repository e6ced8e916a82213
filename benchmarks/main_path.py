"""Figures of the main path on a lab of three hosts: `sudo .venv/bin/python benchmarks/main_path.py`.

Prints how long it takes from `netagent attach` on one host to the first good answer to the new name on another one
(50 rounds), what an idle agent and its resolver cost, and how long `netagent services` takes.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "netns-lab"))

from netlab.host import Host  # noqa: E402
from netlab.lab import Lab  # noqa: E402
from netlab.topology import of_hosts  # noqa: E402

ROUNDS = 50
IDLE_S = 20.0

# Runs in a container on h2: prints the time, on the clock that all processes share, of the first answer to each
# name read from standard input. A plain socket, so that the client's own cost is small.
WATCHER = """
import socket, sys, time
for number, name in enumerate(map(str.strip, sys.stdin)):
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    query = number.to_bytes(2, "big") + b"\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0" + labels + b"\\0\\0\\1\\0\\1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect(("127.0.0.11", 53))
        asking.settimeout(1)
        print("ready", flush=True)
        while True:
            asking.send(query)
            answer = asking.recv(1500)
            if answer[3] & 15 == 0 and answer[7] > 0:
                break
            time.sleep(0.001)
    print(time.monotonic(), flush=True)
"""


def attach_to_answer(lab: Lab) -> tuple[list[float], list[float]]:
    """(milliseconds from the start of the command, from its return) of each round."""
    from_start, from_return = [], []
    argv = lab.container("watcher").entering([sys.executable, "-c", WATCHER])
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdin is not None
        assert watcher.stdout is not None
        for number in range(ROUNDS):
            lab.host("h1").must(["ip", "netns", "add", f"bench{number}"])
            watcher.stdin.write(f"bench{number}.app.mesh.internal\n")
            watcher.stdin.flush()
            watcher.stdout.readline()
            begun = time.monotonic()
            lab.host("h1").must(
                ["netagent", "attach", f"netns:bench{number}", "--network", "app", "--name", f"bench{number}"]
            )
            returned = time.monotonic()
            answered = float(watcher.stdout.readline())
            from_start.append((answered - begun) * 1000)
            from_return.append((answered - returned) * 1000)
        watcher.stdin.close()
    return from_start, from_return


def idle_cost(host: Host) -> list[str]:
    """One line for each process of ours on the host: memory, and CPU over a quiet time."""
    lines = []
    before = {pid: _cpu_s(host, pid) for pid in _processes(host)}
    time.sleep(IDLE_S)
    for pid, name in _processes(host).items():
        status = host.path(f"/proc/{pid}/status").read_text()
        memory_kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        cpu = (_cpu_s(host, pid) - before[pid]) / IDLE_S * 100
        lines.append(f"{name}: {memory_kb / 1024:.1f} MB resident, {cpu:.2f} % of a core")
    return lines


def _processes(host: Host) -> dict[str, str]:
    listed = host.must(["ps", "-eo", "pid=,args="]).splitlines()
    found = {}
    for pid, _, arguments in (line.strip().partition(" ") for line in listed):
        if "netagent agent" in arguments:
            found[pid] = "agent"
        elif "netagent.names.process" in arguments:
            found[pid] = "resolver"
    return found


def _cpu_s(host: Host, pid: str) -> float:
    fields = host.path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def command_time_ms(host: Host) -> list[float]:
    """`netagent services`, as a whole process, without the cost of entering the lab host."""
    script = (
        "import subprocess, time\n"
        "for _ in range(30):\n"
        "    begun = time.perf_counter()\n"
        "    subprocess.run(['netagent', 'services'], check=True, stdout=subprocess.DEVNULL)\n"
        "    print((time.perf_counter() - begun) * 1000)\n"
    )
    return [float(line) for line in host.must([sys.executable, "-c", script], timeout_s=120).split()]


def _spread(values: list[float]) -> str:
    return f"median {statistics.median(values):.0f} ms, worst {max(values):.0f} ms"


def main() -> None:
    """Build the lab, measure, remove it."""
    lab = Lab(Path("/run/natlab-bench"))
    lab.down()
    try:
        lab.up(of_hosts(3))
        lab.host("h1").must(["netagent", "network", "create", "app"])
        lab.add_container("watcher", "h2", ["--network", "app"])
        lab.add_container("other", "h1", ["--network", "app"])
        print(f"machine: {os.cpu_count()} cores, kernel {os.uname().release}")
        from_start, from_return = attach_to_answer(lab)
        print(f"from `netagent attach` on h1 to the first good answer on h2, {ROUNDS} rounds:")
        print(f"  from the start of the command: {_spread(from_start)}")
        print(f"  from its return: {_spread(from_return)} (below 0: answered before it returned)")
        for line in idle_cost(lab.host("h2")):
            print(f"idle for {IDLE_S:g} s, {line}")
        print(f"`netagent services` as a process: {_spread(command_time_ms(lab.host('h1')))}")
    finally:
        lab.down()


if __name__ == "__main__":
    main()
