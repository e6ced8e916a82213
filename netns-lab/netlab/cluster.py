"""Make hosts a cluster, with the commands that a user would type."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from netlab.errors import LabError
from netlab.host import Host
from netlab.process import wait_until

CLUSTER_S = 20.0
"""Limit until all hosts see each other; three hosts take about a second."""


def start_agents(hosts: Sequence[Host]) -> None:
    """Start all at once, then wait for each. Raises LabError with the log of one that fails."""
    for host in hosts:
        host.start_agent(wait=False)
    for host in hosts:
        host.wait_agent()


def form_cluster(hosts: Sequence[Host]) -> None:
    """Run `init` on the first that is not behind NAT, `join` on the others. The cluster encrypts if any host is
    behind NAT: others reach it by the tunnel only. Returns when every host sees every other one alive."""
    first, *others = sorted(hosts, key=lambda host: host.is_behind_nat)
    first.must(["netagent", "init", *(["--encrypt"] if any(one.is_behind_nat for one in hosts) else [])])
    if others:
        token = first.must(["netagent", "invite", "--ttl", "10m", "--uses", str(len(others))])
        with ThreadPoolExecutor(max_workers=4) as pool:
            list(
                pool.map(
                    lambda host: host.must(["netagent", "join", "--token-file", "-"], stdin=token), others
                )
            )
    wait_until(lambda: all_see_all(hosts), CLUSTER_S, lambda: _who_sees_whom(hosts))


def install_runtimes(hosts: Sequence[Host]) -> None:
    """Make the agents serve Docker and Podman from their next start."""
    for host in hosts:
        for runtime in ("docker", "podman"):
            host.install(runtime)


def start_runtimes(hosts: Sequence[Host]) -> None:
    """Start a dockerd on each host, all at once, and set podman up. Raises LabError for one that fails."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(lambda host: host.docker.start([]), hosts))
        list(pool.map(lambda host: host.podman.prepare(), hosts))


def alive_members(host: Host) -> list[str]:
    """Return the hosts whose agents this one considers alive, itself included."""
    listed = json.loads(host.must(["netagent", "members", "--json"]))
    return sorted(member["name"] for member in listed["items"] if member["agent"] == "alive")


def all_see_all(hosts: Sequence[Host]) -> bool:
    """Return whether every host counts every host as alive."""
    names = sorted(host.name for host in hosts)
    return all(alive_members(host) == names for host in hosts)


def _who_sees_whom(hosts: Sequence[Host]) -> str:
    seen = []
    for host in hosts:
        try:
            seen.append(f"{host.name} sees {', '.join(alive_members(host)) or 'no host'}")
        except LabError as error:
            seen.append(str(error))
    return "the hosts do not see each other: " + "; ".join(seen)
