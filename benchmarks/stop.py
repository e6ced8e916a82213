#!/usr/bin/env python3
"""How long after its stop signal is a container still found on other hosts, and what does a rolling replacement cost?

A lab of three hosts, h1 and h2 with Docker, h3 with Podman; the two dockerds are a swarm, too. Programs in containers
of the other hosts ask their resolver for `web` without a pause while it is stopped. The container notes when its
signal came; all clocks are the machine's monotonic clock. "Known" is the last answer with its address, on the last
host. A negative time is one before the signal. The same is measured in an attachable overlay network of the swarm.

Then four replicas on h1 and h2 are replaced one by one under 200 requests per second, each over a connection of its
own and with a look-up of its own: by `docker stop` and `docker run`, and by `docker service update --force`. The
swarm's service has the endpoint mode `dnsrr`, because virtual addresses need IPVS, which the kernel may lack. Both
have a check, and no names before it has succeeded; plain containers in the overlay have names before they listen.

    sudo .venv/bin/python benchmarks/stop.py [--runs 100] [--only stop|replace]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "netns-lab")]

from netlab.lab import Lab  # noqa: E402
from netlab.process import wait_until  # noqa: E402
from netlab.topology import of_hosts  # noqa: E402

FOLDER = Path("/run/natbench-stop")
RUNTIME = {"h1": "docker", "h2": "docker", "h3": "podman"}
REQUESTS = ROOT / "tests/lab/requests.py"
MOUNTS = ("-v", "/usr:/usr:ro", "-v", f"{REQUESTS}:{REQUESTS}:ro")
OVERLAY = "theirs"
PER_S = 200
SETTLED_S = 40.0
LINGER_S = 0.4
"""How long the stopped program goes on: longer than names are expected to lead to it."""
GONE_S = 0.3
"""Without the address in an answer for so long, it has gone."""

CHECK = "bash -c ': </dev/tcp/127.0.0.1/7001'"
"""Docker's; netagent's asks the same."""

PROGRAM = f"""
import signal, time
signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGTERM}})
print("ready", flush=True)
signal.sigwait({{signal.SIGTERM}})
print(time.monotonic(), flush=True)
time.sleep({LINGER_S})
"""
ASKER = f"""
import socket, struct, sys, time
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
number = 0
def found(name):
    global number
    number = (number + 1) & 0xffff
    labels = b"".join(bytes([len(p)]) + p.encode() for p in name.split(".")) + b"\\0"
    question = struct.pack("!HHHHHH", number, 0x0100, 1, 0, 0, 0) + labels + struct.pack("!HH", 1, 1)
    udp.settimeout(0.02)
    udp.sendto(question, ("127.0.0.11", 53))
    try:
        while True:
            answer = udp.recv(1500)
            if answer[:2] == question[:2]:
                return answer[6:8] != b"\\0\\0"
    except OSError:
        return False
for line in sys.stdin:
    name = line.strip()
    while not found(name):
        time.sleep(0.002)
    print("found", flush=True)
    last = time.monotonic()
    while time.monotonic() < last + {GONE_S}:
        if found(name):
            last = time.monotonic()
        time.sleep(0.001)
    print(last, flush=True)
"""


class Bench:
    """The hosts, with both kinds of networks."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.run("h1", "netagent", "network", "create", "app")
        for host in RUNTIME:
            self.wait(partial(self._has_network, host), f"no network app on {host}")
        h1, h2 = lab.host("h1").address, lab.host("h2").address
        self.docker("h1", "swarm", "init", "--advertise-addr", h1)
        token = self.docker("h1", "swarm", "join-token", "-q", "worker").strip()
        self.docker("h2", "swarm", "join", "--advertise-addr", h2, "--token", token, f"{h1}:2377")
        self.docker("h1", "network", "create", "-d", "overlay", "--attachable", OVERLAY)

    def _has_network(self, host: str) -> bool:
        return "app" in self.docker(host, "network", "ls")

    def run(self, host: str, *argv: str) -> str:
        """Run a command on a host; it must succeed."""
        done = self._lab.host(host).run(argv, timeout_s=300.0)
        if done.status:
            raise SystemExit(f"{' '.join(argv)} on {host}: {done.stderr}")
        return done.stdout

    def succeeds(self, host: str, *argv: str) -> bool:
        """Run a command on a host, and return whether it ended well."""
        return self._lab.host(host).run(argv).status == 0

    def docker(self, host: str, *words: str) -> str:
        """Run the host's runtime."""
        return self.run(host, RUNTIME[host], *words)

    def start(self, host: str, name: str, network: str, *options: str, command: Sequence[str]) -> None:
        """Start a container in the background."""
        self.docker(
            host, "run", "-d", "--network", network, "--name", name, *options, *MOUNTS, "lab", *command
        )

    def remove(self, *containers: tuple[str, str]) -> None:
        """Remove containers, by host and name."""
        for host, name in containers:
            at_once = ["-t", "0"] if RUNTIME[host] == "podman" else []
            self.docker(host, "rm", "-f", *at_once, name)

    def wait(self, condition: Callable[[], bool], complaint: str) -> None:
        """Wait for a condition."""
        wait_until(condition, SETTLED_S, complaint)

    @contextmanager
    def inside(self, host: str, container: str, *argv: str) -> Iterator[subprocess.Popen[str]]:
        """Run a program in a container, with pipes."""
        quiet = ("env", "PODMAN_IGNORE_CGROUPSV1_WARNING=1")
        words = self._lab.host(host).entering([*quiet, RUNTIME[host], "exec", "-i", container, *argv])
        with subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
        ) as process:
            try:
                yield process
            finally:
                process.kill()


def measure_stops(
    bench: Bench, host: str, network: str, askers: Sequence[str], runs: int
) -> tuple[list[float], list[float]]:
    """Return the seconds from each signal, and from each stop command, until known on all hosts of the askers."""
    from_signal, from_command = [], []
    name = "web" if network == OVERLAY else f"web.{network}.mesh.internal"
    with ExitStack() as stack:
        asking = []
        for one in askers:
            bench.start(one, "asker", network, command=["sleep", "1000000"])
            asking.append(stack.enter_context(bench.inside(one, "asker", "python3", "-u", "-c", ASKER)))
        bench.start(host, "web", network, command=["python3", "-c", PROGRAM])
        for run in range(runs):
            if run:
                bench.docker(host, "start", "web")
            for process in asking:
                _say(process, name)
            for process in asking:
                _hear(process)
            bench.wait(
                lambda: bench.docker(host, "logs", "web").endswith("ready\n"), "the program does not run"
            )
            begun = time.monotonic()
            bench.docker(host, "stop", "-t", "20", "web")
            signalled = float(bench.docker(host, "logs", "web").split()[-1])
            known = max(float(_hear(process)) for process in asking)
            from_signal.append(known - signalled)
            from_command.append(known - begun)
    bench.remove((host, "web"), *((one, "asker") for one in askers))
    return from_signal, from_command


def _say(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def _hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def show(what: str, seconds: Sequence[float]) -> None:
    """Print the distribution, in milliseconds."""
    ranked = sorted(seconds)
    p99 = ranked[math.ceil(len(ranked) * 0.99) - 1]
    print(
        f"{what}: median {statistics.median(ranked) * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms, "
        f"worst {ranked[-1] * 1e3:.1f} ms of {len(ranked)}",
        flush=True,
    )


def serving(grace_s: float) -> list[str]:
    """The command of a replica that accepts connections for so long after its signal."""
    return ["python3", str(REQUESTS), "serve", str(grace_s)]


def lose(bench: Bench, network: str, replace: Callable[[], None]) -> str:
    """Return how many of the requests failed that a client on each host made meanwhile."""
    reports = []
    with ExitStack() as stack:
        asking = []
        for host in ("h1", "h2"):
            bench.start(host, "client", network, command=["sleep", "1000000"])
            ask = ("python3", str(REQUESTS), "ask", "web", "300", str(PER_S / 2))
            asking.append(stack.enter_context(bench.inside(host, "client", *ask)))
        time.sleep(2.0)
        begun = time.monotonic()
        replace()
        took_s = time.monotonic() - begun
        time.sleep(2.0)
        reports = [json.loads(process.communicate()[0]) for process in asking]
    bench.remove(("h1", "client"), ("h2", "client"))
    failed = [text for report in reports for text in report["failed"]]
    for text in failed[:3]:
        print(f"    {text}")
    return f"{len(failed)} of {len(failed) + sum(report['done'] for report in reports)} in {took_s:.0f} s"


def replace_containers(bench: Bench, network: str, grace_s: float, *, drains: bool) -> str:
    """Stop four containers and start others in their place, one after the other."""
    ours = ("--label", "netagent.check=tcp:7001 interval=1s rise=1", "--label", "netagent.service=web")
    options = ("--network-alias", "web") if network == OVERLAY else ours
    replicas = [(host, f"web{number}") for number in (1, 2) for host in ("h1", "h2")]

    def start(host: str, name: str) -> None:
        bench.start(host, name, network, *options, command=serving(grace_s))
        bench.wait(lambda: _is_up(bench, host, name, network), f"{name} does not come up")

    def replace() -> None:
        for host, name in replicas:
            if drains:
                bench.run(host, "netagent", "drain", name, "--wait", "20s")
            bench.docker(host, "stop", "-t", "20", name)
            bench.remove((host, name))
            start(host, name)

    for host, name in replicas:
        start(host, name)
    lost = lose(bench, network, replace)
    bench.remove(*replicas)
    return lost


def _is_up(bench: Bench, host: str, name: str, network: str) -> bool:
    if network == OVERLAY:
        return bench.succeeds(host, "docker", "exec", name, "sh", "-c", CHECK)
    listed = json.loads(bench.run(host, "netagent", "endpoints", "--local", "--json"))["items"]
    return any(one["name"] == name and one["state"] == "up" for one in listed)


def replace_service(bench: Bench, grace_s: float, order: str) -> str:
    """Let the swarm replace the four replicas of a service."""
    mounts = [f"type=bind,src={path},dst={path},readonly" for path in ("/usr", str(REQUESTS))]
    bench.docker(
        "h1", "service", "create", "--name", "web", "--replicas", "4", "--endpoint-mode", "dnsrr",
        "--network", OVERLAY, "--no-resolve-image", "--update-parallelism", "1", "--update-order", order,
        "--stop-grace-period", "20s", "--health-cmd", CHECK, "--health-interval", "1s",
        *(word for mount in mounts for word in ("--mount", mount)), "lab", *serving(grace_s),
    )  # fmt: skip
    lost = lose(bench, OVERLAY, lambda: _update(bench))
    bench.docker("h1", "service", "rm", "web")
    bench.wait(lambda: "web." not in bench.docker("h1", "ps") + bench.docker("h2", "ps"), "the service stays")
    return lost


def _update(bench: Bench) -> None:
    bench.docker("h1", "service", "update", "--force", "--no-resolve-image", "web")


def main() -> None:
    """Boot a lab, measure, take it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--only", choices=("stop", "replace"))
    arguments = parser.parse_args()
    lab = Lab(FOLDER)
    lab.down()
    try:
        lab.up(of_hosts(3), runtimes=True)
        bench = Bench(lab)
        if arguments.only != "replace":
            for what, host, network, askers in (
                ("netagent, docker stop", "h1", "app", ("h2", "h3")),
                ("netagent, podman stop", "h3", "app", ("h1", "h2")),
                ("Docker's overlay, docker stop", "h1", OVERLAY, ("h2",)),
            ):
                from_signal, from_command = measure_stops(bench, host, network, askers, arguments.runs)
                show(f"{what}: signal to known on {len(askers)} other hosts", from_signal)
                show(f"{what}: command to known", from_command)
        if arguments.only != "stop":
            for grace_s, what in ((0.25, "for 0.25 s after its signal"), (0.0, "until its signal")):
                print(f"rolling replacement of 4 replicas that accept connections {what}; requests lost:")
                for drains in (False, True) if not grace_s else (False,):
                    lost = replace_containers(bench, "app", grace_s, drains=drains)
                    print(
                        f"  netagent, {'drain --wait and ' if drains else ''}docker stop: {lost}", flush=True
                    )
                lost = replace_containers(bench, OVERLAY, grace_s, drains=False)
                print(f"  Docker's overlay, docker stop: {lost}", flush=True)
                for order in ("stop-first", "start-first"):
                    lost = replace_service(bench, grace_s, order)
                    print(f"  Docker's swarm, service update, {order}: {lost}", flush=True)
    finally:
        lab.down()


if __name__ == "__main__":
    main()
