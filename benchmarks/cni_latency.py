#!/usr/bin/env python3
"""How long do ADD and DEL of the CNI plug-in take, compared with CNI's own `bridge` with `host-local`, and netavark?

One host of a lab, all three in turn, each on a fresh namespace with an address of each family; the time is that of
the whole program from start to end. VERSION shows the program's start alone. There is a pause between two calls for
work that a call leaves in the background: so a container is removed like one that has been running, and no work of
one call is in another's time. Prints median and worst, and how much longer ours takes than the best.

    sudo .venv/bin/python benchmarks/cni_latency.py [--runs 100]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "netns-lab")]

from netlab.lab import Lab  # noqa: E402
from netlab.topology import of_hosts  # noqa: E402

FOLDER = Path("/run/natbench-cni")
OURS, REFERENCE, NETAVARK = "netagent", "bridge", "netavark"
PAUSE_S = 0.25
"""The reconciler looks 50 ms after an attach, and then attaches programs to the port, some 15 ms each."""
ALLOWED_MS = 15.0
"""How much longer ours may take than the best: two processes instead of one, and a program in Python."""

# Runs on the lab's host as one process, so that entering the host is not part of the times.
TIMER = r"""
import json, os, subprocess, sys, time

programs = json.load(sys.stdin)

def timed(argv, variables, config):
    begun = time.perf_counter()
    done = subprocess.run(argv, input=config, env={**os.environ, **variables}, capture_output=True)
    taken = time.perf_counter() - begun
    if done.returncode:
        sys.exit(f"{argv}: {done.stdout.decode()} {done.stderr.decode()}")
    return taken

def cni(name, verb, run, netns):
    one = programs[name]
    variables = {"CNI_COMMAND": verb, "CNI_CONTAINERID": f"{name}{run}", "CNI_NETNS": netns, "CNI_IFNAME": "eth0",
                 "CNI_PATH": "/usr/lib/cni"}
    return timed([one["program"]], variables, json.dumps(one["config"]).encode())

def netavark(verb, run, netns):
    if verb == "VERSION":
        return timed([programs["netavark"]["program"], "--version"], {}, b"")
    options = json.loads(json.dumps(programs["netavark"]["config"]).replace("@RUN@", f"{run + 2:x}"))
    options["container_id"] = options["container_name"] = f"n{run}"
    command = {"ADD": "setup", "DEL": "teardown"}[verb]
    argv = [programs["netavark"]["program"], "--config", "/run/netavark", command, netns]
    return timed(argv, {}, json.dumps(options).encode())

os.makedirs("/run/netavark", exist_ok=True)
times = {}
for run in range(programs["runs"]):
    for name in ("netagent", "bridge", "netavark"):
        netns = f"{name}{run}"
        subprocess.run(["ip", "netns", "add", netns], check=True)
        for verb in ("VERSION", "ADD", "DEL"):
            call = netavark if name == "netavark" else lambda *rest: cni(name, *rest)
            times.setdefault(f"{verb} {name}", []).append(call(verb, run, f"/run/netns/{netns}"))
            time.sleep(programs["pause_s"])
# At the end: the kernel takes a namespace down later, and holds the lock that all three need.
for netns in os.listdir("/run/netns"):
    subprocess.run(["ip", "netns", "del", netns], check=True)
print(json.dumps(times))
"""


def programs(runs: int, shim: Path) -> dict[str, object]:
    """Return the input of TIMER."""
    ours = {"cniVersion": "1.0.0", "name": "app-net", "type": OURS, "network": "app"}
    ranges = [[{"subnet": "198.51.100.0/24"}], [{"subnet": "2001:db8:51::/64"}]]
    reference = {
        "cniVersion": "1.0.0",
        "name": "reference",
        "type": REFERENCE,
        "bridge": "cni0",
        "ipam": {"type": "host-local", "ranges": ranges},
    }
    network = {
        "name": "net",
        "id": "1" * 64,
        "driver": "bridge",
        "network_interface": "podman0",
        "internal": True,
        "ipv6_enabled": True,
        "dns_enabled": False,
        "subnets": [{"subnet": "203.0.113.0/24"}, {"subnet": "2001:db8:71::/64"}],
    }
    container = {"interface_name": "eth0", "static_ips": ["203.0.113.7", "2001:db8:71::@RUN@"]}
    return {
        "runs": runs,
        "pause_s": PAUSE_S,
        OURS: {"program": str(shim), "config": ours},
        REFERENCE: {"program": "/usr/lib/cni/bridge", "config": reference},
        NETAVARK: {
            "program": "/usr/lib/podman/netavark",
            "config": {"networks": {"net": container}, "network_info": {"net": network}},
        },
    }


def measure(lab: Lab, runs: int) -> dict[str, list[float]]:
    """Return milliseconds by verb and program."""
    with tempfile.TemporaryDirectory() as folder:  # not in /run, which the lab's hosts do not share
        shim = Path(folder, OURS)
        shutil.copy(ROOT / "netagent/integrations/shim.py", shim)
        done = subprocess.run(
            lab.host("h1").entering(["/usr/bin/python3", "-c", TIMER]),
            input=json.dumps(programs(runs, shim)),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return {what: [one * 1e3 for one in times] for what, times in json.loads(done.stdout).items()}


def show(times: dict[str, list[float]]) -> bool:
    """Print the times; return True when ours takes no longer than it may."""
    medians = {what: statistics.median(some) for what, some in times.items()}
    for what, some in times.items():
        best, median, worst = min(some), medians[what], max(some)
        print(
            f"{what:18} best {best:6.1f} ms   median {median:6.1f} ms   worst {worst:6.1f} ms   of {len(some)}"
        )
    good = True
    for verb in ("VERSION", "ADD", "DEL"):
        best = min(medians[f"{verb} {name}"] for name in (REFERENCE, NETAVARK))
        ours = medians[f"{verb} {OURS}"]
        good = good and ours <= best + ALLOWED_MS
        print(f"{verb:8} ours {ours / best:4.1f} times the best, {ours - best:+.1f} ms")
    return good


def main() -> int:
    """Boot a lab, measure, take it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100)
    arguments = parser.parse_args()
    lab = Lab(FOLDER)
    lab.down()
    try:
        lab.up(of_hosts(1))
        lab.host("h1").must(["netagent", "network", "create", "app"])
        # The bridges of the other two stay when their last container goes; ours stays only while it has one.
        lab.add_container("resident", "h1", ["--network", "app"])
        good = show(measure(lab, arguments.runs))
    finally:
        lab.down()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
