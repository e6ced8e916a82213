"""`lab demo`: the main use on real programs, step by step, each with what was observed.

A Redis server on h2, two replicas of a small web service on h1 and h3 that use it as `database`, and curl on h1. Then
three failures: an agent is killed, a host loses power, and comes back. Where Docker is installed, its containers join
(`demo_docker.py`). A step with an unexpected result ends the demo with status 1. The demo has a lab of its own, and
removes it also when it fails or is interrupted.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from netlab import programs
from netlab.cluster import alive_members
from netlab.demo_docker import DockerPart, docker_is_installed
from netlab.errors import LabError
from netlab.lab import Lab
from netlab.process import wait_until
from netlab.topology import of_hosts

DEMO_DIR = Path("/run/natlab-demo")

# Debian's redis-tools has the server; the package redis-server adds another name for it and a service that would be
# started on the machine. The program acts according to the name by which it is called.
REDIS = ["bash", "-c", 'exec -a redis-server redis-check-rdb "$@"', "redis"]
REDIS_OPTIONS = ["--bind", "*", "-::*", "--protected-mode", "no", "--save", "", "--dir", "/run"]
WEB = [sys.executable, str(Path(__file__).with_name("demo_web.py"))]
WEB_ATTACH = ["--network", "app", "--service", "web", "--link", "db:database", "--expose", "http=80/tcp"]

FETCHES = 20
HIDE_S = 10.0
"""The promise: a host without power is out of the names of a three-host lab within this time."""

PING_S = 6
"""Long enough for the killed agent to be declared dead while the ping runs."""


class Demo:
    """The steps, which share one lab."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._number = 0

    def steps(self) -> list[tuple[str, Callable[[], str]]]:
        """Return (title, function); a function returns what it observed and raises LabError if that is wrong."""
        return [
            ("boot three hosts, `netagent init` on h1, `netagent join` on h2 and h3", self._boot),
            ("make a network that spans them: `netagent network create app`", self._network),
            ("attach containers: Redis on h2, two web replicas on h1 and h3, curl on h1", self._containers),
            (f"curl on h1 fetches http://web/ {FETCHES} times; web asks Redis as `database`", self._fetch),
            ("ask h3 for the service table: `netagent services`", self._table),
            ("kill the agent of h3 (SIGKILL) under a 100 Hz ping and more curls", self._kill_agent),
            ("start the agent of h3 again", self._restart_agent),
            ("cut the power of h3: names move to the surviving replica", self._power_off),
            ("restore the power of h3", self._power_on),
            *(DockerPart(self._lab, self._get).steps() if docker_is_installed() else []),
        ]

    def _boot(self) -> str:
        self._lab.up(of_hosts(3))
        seen = json.loads(self._on("h1", "members", "--json"))["items"]
        hosts = ", ".join(f"{member['name']} {member['address']} {member['agent']}" for member in seen)
        return f"h1 sees {hosts}"

    def _network(self) -> str:
        made = json.loads(self._on("h1", "network", "create", "app", "--json"))
        return f"{made['name']}: {' and '.join(made['subnets'])}, names end in {made['domain']}"

    def _containers(self) -> str:
        add, took_ms = self._lab.add_container, []
        for name, host, attach, command in (
            ("db", "h2", ["--network", "app"], [*REDIS, *REDIS_OPTIONS]),
            ("web-1", "h1", WEB_ATTACH, WEB),
            ("web-3", "h3", WEB_ATTACH, WEB),
            ("client", "h1", ["--network", "app"], []),
        ):
            begun = time.monotonic()
            add(name, host, attach, command)
            took_ms.append(f"{name} {1000 * (time.monotonic() - begun):.0f} ms")
        for replica in ("web-1", "web-3"):
            wait_until(partial(self._answers, replica), 10.0, f"http://{replica}/ does not answer")
        return f"attached and started: {', '.join(took_ms)}; both replicas answer by their own names"

    def _fetch(self) -> str:
        return self._expect_both_replicas(self._get(FETCHES))

    def _table(self) -> str:
        return "\n" + self._on("h3", "services").rstrip()

    def _kill_agent(self) -> str:
        target = min(self._addresses_of("web-3"))
        with ThreadPoolExecutor(1) as pool:
            ping = pool.submit(self._ping, target)
            wait_until(lambda: not ping.done(), 1.0, "ping does not run")
            with self._lab.changing("h3") as host:
                host.kill_agent()
            during = self._expect_both_replicas(self._get(FETCHES))
            h1 = self._lab.host("h1")
            wait_until(lambda: "h3" not in alive_members(h1), 15.0, "h1 does not notice that the agent died")
            lost = ping.result()
        after = self._expect_both_replicas(self._get(FETCHES))
        if lost != 0:
            raise LabError(f"{lost} pings to {target} were lost; none should be")
        return f"no ping lost; at once: {during}; after h1 had declared the agent dead: {after}"

    def _restart_agent(self) -> str:
        before = self._devices("h3")
        with self._lab.changing("h3") as host:
            host.start_agent()
        took_s = wait_until(
            lambda: "h3" in alive_members(self._lab.host("h1")), 15.0, "h1 does not see the agent of h3 again"
        )
        if self._devices("h3") != before:
            raise LabError("the restarted agent recreated network devices; it should have adopted them")
        return f"alive for h1 {took_s:.1f} s later; every network device of h3 is the one it was before"

    def _power_off(self) -> str:
        gone = self._addresses_of("web-3")
        self._lab.power_off("h3")
        took_s = wait_until(lambda: not gone & self._looked_up("web"), HIDE_S, "names still lead to h3")
        answers = self._get(FETCHES)
        if answers != Counter(h1=FETCHES):
            raise LabError(f"expected {FETCHES} answers by h1, saw {_words(answers)}")
        return f"after {took_s:.1f} s {_words(answers)}, none fails"

    def _power_on(self) -> str:
        failures = self._lab.power_on("h3")
        if failures:
            raise LabError("; ".join(failures))
        took_s = wait_until(
            lambda: self._get(4).keys() == {"h1", "h3"}, 20.0, "h3's replica does not come back"
        )
        return f"{took_s:.1f} s after it had booted: {self._expect_both_replicas(self._get(FETCHES))}"

    # ---- looking

    def _on(self, host: str, *command: str) -> str:
        return self._lab.host(host).must(["netagent", *command])

    def _get(self, count: int) -> Counter[str]:
        """Count which host answered http://web/ how often, or `failed`."""
        loop = f"for _ in $(seq {count}); do curl -s -f -m 2 http://web/ || echo failed; done"
        done = self._lab.container("client").run(["sh", "-c", loop], timeout_s=count * 3.0)
        lines = [line.removeprefix("hello from ").partition(",")[0] for line in done.stdout.splitlines()]
        return Counter(lines)

    def _expect_both_replicas(self, answers: Counter[str]) -> str:
        if answers.keys() != {"h1", "h3"}:
            raise LabError(f"expected answers by h1 and by h3, saw {_words(answers)}")
        return _words(answers)

    def _answers(self, name: str) -> bool:
        return (
            self._lab.container("client").run(["curl", "-s", "-f", "-m", "2", f"http://{name}/"]).status == 0
        )

    def _ping(self, address: str) -> int:
        """Return the number of lost packets, except for the last one, which may be in flight when the time is up."""
        done = self._lab.container("client").run(
            ["ping", "-i", "0.01", "-w", str(PING_S), address], timeout_s=PING_S + 10
        )
        sent = re.search(r"(\d+) packets transmitted", done.stdout)
        if sent is None or int(sent[1]) < 10 * PING_S:
            raise LabError(f"ping did not run: {done.complaint}")
        answered = {int(number) for number in re.findall(r"icmp_seq=(\d+) .*time=", done.stdout)}
        return len(set(range(1, int(sent[1]))) - answered)

    def _addresses_of(self, endpoint: str) -> set[str]:
        """Return the addresses in h1's table, including hidden ones."""
        listed: list[dict[str, Any]] = json.loads(self._on("h1", "endpoints", "--json"))["items"]
        found = {address for item in listed if item["name"] == endpoint for address in item["addresses"]}
        if not found:
            raise LabError(f"h1 knows no endpoint named {endpoint}")
        return found

    def _looked_up(self, name: str) -> set[str]:
        """Return all addresses that a program in the client container gets."""
        done = self._lab.container("client").run(["getent", "ahosts", name])
        return {line.split()[0] for line in done.stdout.splitlines()}

    def _devices(self, host: str) -> set[tuple[int, str]]:
        """Return index and name of each device: a recreated device has another index."""
        listed = json.loads(self._lab.host(host).must(["ip", "-json", "link"]))
        return {(device["ifindex"], device["ifname"]) for device in listed}

    def run(self) -> float:
        """Run all steps; return the seconds. Raises LabError at the first unexpected result."""
        begun = time.monotonic()
        for number, (title, step) in enumerate(self.steps(), 1):
            print(f"{number}. {title}", flush=True)
            step_begun = time.monotonic()
            seen = step()
            print(
                f"   {seen.replace(chr(10), chr(10) + '   ')}   [{time.monotonic() - step_begun:.1f} s]",
                flush=True,
            )
        return time.monotonic() - begun


def run_demo(*, keep: bool) -> int:
    """Return 0 when every step was as expected, else 1. Raises LabError when it cannot begin."""
    programs.require(["netagent", "ip", "nft", "nsenter", "curl", "ping", "bash", "redis-check-rdb"])
    lab = Lab(DEMO_DIR)
    with only_demo():
        if lab.remains():
            print("Removing what an earlier demo left.", flush=True)
            lab.down()
        return _run_and_remove(lab, keep=keep)


@contextmanager
def only_demo() -> Iterator[None]:
    """Raise LabError while another demo runs. The lock is a socket name, which ends with its process."""
    with socket.socket(socket.AF_UNIX) as lock:
        try:
            lock.bind(f"\0{DEMO_DIR.name}")
        except OSError:
            raise LabError("another demo is running on this machine", exit_status=4) from None
        yield


def _run_and_remove(lab: Lab, *, keep: bool) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    status = 1
    try:
        took_s = Demo(lab).run()
        status = 0
        print(f"All as expected, in {took_s:.0f} s.", flush=True)
    except LabError as error:
        print(f"   NOT AS EXPECTED: {error}", flush=True)
    finally:
        if keep:
            print(f"The lab is still up: export NETLAB_DIR={DEMO_DIR}; `lab status`, `lab down`.")
        else:
            lab.down()
            print("The lab is removed; nothing is left behind.")
    return status


def _words(answers: Counter[str]) -> str:
    total = sum(answers.values())
    parts = [
        f"{count} {host if host == 'failed' else 'by ' + host}" for host, count in sorted(answers.items())
    ]
    return f"{total} fetches: {', '.join(parts)}"
