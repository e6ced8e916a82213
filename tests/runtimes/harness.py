"""What the tests of the runtimes share: a cluster whose hosts run Docker and Podman, driven by their own commands.

h1 and h2 use Docker, h3 Podman, as the fixture `fleet` makes them. Containers get the machine's programs, so that
names are asked through the C library and the container's own resolv.conf.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

from lab.harness import OURS, Cluster
from netlab.errors import LabError
from netlab.host import Host
from netlab.lab import Lab
from netlab.programs import Finished

RUNTIME = {"h1": "docker", "h2": "docker", "h3": "podman"}
PROGRAMS_OF_THE_MACHINE = ("-v", "/usr:/usr:ro")

WITHDRAWN_S = 2.0
"""Promised: what a runtime forgot to tell, and what became unhealthy, is out of the names within this time."""

SLACK_S = 1.0
"""What a test adds to a promise, because the machine is busy."""

SPREAD_S = 15.0
"""A bound on what takes some 10 ms (a change being known on all hosts) or a second (a mirror being made), and no
promise. A look alone takes 0.3 s, and a second where the machine is busy."""

REDIS = ["bash", "-c", 'exec -a redis-server redis-check-rdb "$@"', "redis"]
REDIS_OPTIONS = ["--bind", "*", "-::*", "--protected-mode", "no", "--save", "", "--dir", "/tmp"]


NO_SUCH_NAME = 2
"""How ping(8) ends when nothing can be sent."""


def wait_promised(condition: Callable[[], bool], what: str, since: float) -> None:
    """The condition holds WITHDRAWN_S after `since` (monotonic seconds).

    Judged by looks that begin later: how long a look takes is no fault of what is looked at."""
    while True:
        begun = time.monotonic()
        if condition():
            return
        assert begun < since + WITHDRAWN_S + SLACK_S, what
        time.sleep(0.02)


class Fleet(Cluster):
    """Three hosts in one cluster with a network `app`."""

    # ---- commands

    def runtime(self, host: str, *arguments: str, timeout_s: float = 60.0) -> str:
        """What `docker …` or `podman …` printed; it must succeed."""
        done = self.try_runtime(host, *arguments, timeout_s=timeout_s)
        assert done.status == 0, (
            f"{RUNTIME[host]} {' '.join(arguments)} on {host}: {done.status} {done.stderr}"
            f"the end of its agent's log:\n{self.lab.host(host).log_tail()}"
        )
        return done.stdout.strip()

    def try_runtime(self, host: str, *arguments: str, timeout_s: float = 60.0) -> Finished:
        return self.lab.host(host).run([RUNTIME[host], *arguments], timeout_s=timeout_s)

    def start(self, host: str, name: str, *options: str, command: Sequence[str] = ()) -> str:
        """A container in the background, in the network `app` unless an option names another; its id."""
        network = () if "--network" in options else ("--network", "app")
        options = (*network, *options, *PROGRAMS_OF_THE_MACHINE)
        return self.runtime(host, "run", "-d", "--name", name, *options, "lab", *command)

    def ask_once(self, host: str, *argv: str, network: str = "app") -> Finished:
        """A container whose first and only act is this command."""
        return self.try_runtime(
            host, "run", "--rm", "--network", network, *PROGRAMS_OF_THE_MACHINE, "lab", *argv
        )

    def execute(self, host: str, container: str, *argv: str) -> Finished:
        return self.try_runtime(host, "exec", container, *argv)

    def remove_from(self, host: str, *containers: str) -> None:
        # Docker kills them; Podman would ask them to stop, and wait for those that don't handle its signal.
        at_once = ["-t", "0"] if RUNTIME[host] == "podman" else []
        self.runtime(host, "rm", "-f", *at_once, *containers)

    # ---- looking

    def resolve(self, host: str, container: str, name: str) -> list[str]:
        """The addresses that a program in the container gets, of both families, sorted; empty = none."""
        done = self.execute(host, container, "getent", "ahosts", name)
        assert done.status in (0, 2), done.stderr
        return sorted({line.split()[0] for line in done.stdout.splitlines()})

    def replicas(self, host: str, container: str, name: str) -> list[str]:
        """The IPv4 addresses alone: of several IPv6 addresses an answer has one (docs/design/0008)."""
        return [address for address in self.resolve(host, container, name) if "." in address]

    def reach(self, host: str, container: str, name: str, *, within_s: float = 0.0) -> None:
        """A packet each for IPv4 and IPv6 must come back: the first one after the name is known, unless there is time
        for more."""
        for family in ("-4", "-6"):
            begun = time.monotonic()
            while True:
                # The other host may learn of a container after its first packet; the answer then waits for ARP's
                # second try.
                done = self.execute(host, container, "ping", family, "-c", "1", "-W", "3", name)
                took_s = time.monotonic() - begun
                if done.status == 0 or took_s >= (SPREAD_S if done.status == NO_SUCH_NAME else within_s):
                    break
            assert done.status == 0, f"{name} from {container} on {host}: {done.stdout}{done.stderr}"

    def inspect(self, host: str, thing: str, *options: str) -> Any:
        return json.loads(self.runtime(host, *options, "inspect", thing))[0]

    def find_endpoint(self, name: str, seen_from: str = "h1", network: str = "app") -> dict[str, Any] | None:
        """As that host's table has it."""
        listed = self.netagent(seen_from, "endpoints", "--local", "--network", network)
        found: list[dict[str, Any]] = [one for one in listed if one["name"] == name]
        assert len(found) <= 1, found
        return found[0] if found else None

    def addresses(self, name: str, seen_from: str = "h1", network: str = "app") -> list[str]:
        """Without prefix lengths, sorted; waits until that host knows the endpoint."""
        self.wait(
            lambda: self.find_endpoint(name, seen_from, network) is not None, SPREAD_S, f"no endpoint {name}"
        )
        endpoint = self.find_endpoint(name, seen_from, network)
        assert endpoint is not None
        return sorted(address.partition("/")[0] for address in endpoint["addresses"])

    def networks(self, host: str) -> set[str]:
        return set(self.runtime(host, "network", "ls", "--format", "{{.Name}}").splitlines())

    def interfaces(self, host: str) -> set[str]:
        """Names of our endpoints' devices in the host's own namespace."""
        return {name for _, name in self.devices(host) if OURS.fullmatch(name) and name.startswith("nv")}

    def wait_endpoints(self, expected: Sequence[str], within_s: float = SPREAD_S) -> None:
        """Until the hosts have exactly these, by name, and each host that is in the network knows them all."""
        seen: dict[str, list[tuple[str, bool]]] = {}

        def so() -> bool:
            for host in self.hosts:
                seen[host] = [
                    (one["name"], one["local"]) for one in self.netagent(host, "endpoints", "--local")
                ]
            own = [name for listed in seen.values() for name, local in listed if local]
            inside = [listed for listed in seen.values() if any(local for _, local in listed)]
            return all(
                sorted(names) == sorted(expected) for names in (own, *([n for n, _ in i] for i in inside))
            )

        try:
            self.wait(so, within_s, "")
        except LabError:
            logs = "\n".join(f"{host.name}:\n{host.log_tail()}" for host in self.lab.hosts)
            raise AssertionError(
                f"not {sorted(expected)}, but {seen}; the agents' logs end:\n{logs}"
            ) from None

    # ---- daemons

    @contextmanager
    def daemons(self, host: str) -> Iterator[Host]:
        """The host, to start and stop its agent (`.start_agent()` …) and its dockerd (`.docker.start([])` …)."""
        with self.lab.changing(host) as changing:
            yield changing

    # ---- tidiness

    def empty(self) -> None:
        """Remove all containers, pods and networks but `app`, and see that nothing of them stays."""
        for host in self.hosts:
            containers = self.runtime(host, "ps", "-aq").split()
            if RUNTIME[host] == "podman":
                self.runtime(host, "pod", "rm", "-fa")
                containers = self.runtime(host, "ps", "-aq").split()
            if containers:
                self.remove_from(host, *containers)
        self.wait_endpoints([])
        for host in self.hosts:
            self.wait(partial(self._has_no_interfaces, host), SPREAD_S, f"{host}: {self.interfaces(host)}")

    def _has_no_interfaces(self, host: str) -> bool:
        return not self.interfaces(host)

    def has_network(self, host: str, name: str) -> bool:
        return name in self.networks(host)


def fleet_of(lab: Lab, pool: ThreadPoolExecutor) -> Fleet:
    """Make the network, wait until both runtimes have it, and be ready."""
    fleet = Fleet(lab, pool)
    fleet.netagent("h1", "network", "create", "app")
    for host in fleet.hosts:
        fleet.wait(partial(fleet.has_network, host, "app"), 10.0, f"no network app on {host}")
    return fleet
