"""What a runtime forgot to tell is found, by identity, and withdrawn within two seconds; nothing of it stays."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from runtimes.harness import SPREAD_S, Fleet, wait_promised

pytestmark = pytest.mark.runtimes

MANY = 200


def kill(fleet: Fleet, host: str, container: str) -> float:
    """SIGKILL to its main process behind the runtime's back. The monotonic time of it."""
    pid = fleet.inspect(host, container)["State"]["Pid"]
    fleet.lab.host(host).must(["kill", "-KILL", str(pid)])
    return time.monotonic()


@pytest.mark.parametrize("host", ["h1", "h3"])
def test_a_crashed_container_is_withdrawn(docker_hosts: Fleet, host: str) -> None:
    fleet = docker_hosts
    fleet.start(host, "web")
    fleet.start("h2", "client")
    fleet.addresses("web", seen_from="h2")
    died = kill(fleet, host, "web")
    wait_promised(lambda: fleet.resolve("h2", "client", "web") == [], "web is still found", died)
    fleet.wait(lambda: not fleet.interfaces(host), SPREAD_S, f"{fleet.interfaces(host)} stays")


def test_a_container_that_died_while_dockerd_was_dead_is_withdrawn(fleet: Fleet) -> None:
    fleet.start("h1", "web")
    fleet.start("h2", "client")
    fleet.addresses("web", seen_from="h2")
    pid = fleet.inspect("h1", "web")["State"]["Pid"]
    with fleet.daemons("h1") as h1:
        h1.docker.kill()
        h1.must(["kill", "-KILL", str(pid)])
        wait_promised(
            lambda: fleet.resolve("h2", "client", "web") == [], "web is still found", time.monotonic()
        )
        h1.docker.start([])
    fleet.runtime("h1", "start", "web")
    fleet.wait_endpoints(["client", "web"])
    fleet.reach("h2", "client", "web")


def test_a_podman_container_whose_monitor_died_too_is_withdrawn(docker_hosts: Fleet) -> None:
    """Then no program runs `podman container cleanup`."""
    fleet = docker_hosts
    fleet.start("h3", "web")
    fleet.start("h2", "client")
    fleet.addresses("web", seen_from="h2")
    monitor = fleet.inspect("h3", "web")["State"]["ConmonPid"]
    fleet.lab.host("h3").must(["kill", "-KILL", str(monitor)])
    died = kill(fleet, "h3", "web")
    wait_promised(lambda: fleet.resolve("h2", "client", "web") == [], "web is still found", died)
    fleet.wait(lambda: not fleet.interfaces("h3"), SPREAD_S, f"{fleet.interfaces('h3')} stays")
    fleet.try_runtime("h3", "rm", "-f", "web")  # complains that the monitor is gone; the next one removes it


def test_a_removed_network_takes_its_endpoints_along(docker_hosts: Fleet) -> None:
    fleet = docker_hosts
    fleet.netagent("h1", "network", "create", "brief")
    fleet.wait(lambda: "brief" in fleet.networks("h2"), SPREAD_S, "no mirror")
    fleet.start("h2", "web", "--network", "brief")
    fleet.remove_from("h2", "web")
    fleet.netagent("h1", "network", "rm", "brief")
    for host in fleet.hosts:
        fleet.wait(lambda: "brief" not in fleet.networks(host), SPREAD_S, f"brief stays on {host}")


def test_a_docker_run_that_is_interrupted_leaves_one_endpoint_or_none(docker_hosts: Fleet) -> None:
    """The client is killed at ever later moments of its `docker run`."""
    fleet = docker_hosts
    run = ["docker", "run", "-d", "--network", "app", "lab"]
    begun = time.monotonic()
    fleet.lab.host("h1").must(run)
    whole_s = time.monotonic() - begun
    for number in range(8):
        fleet.lab.host("h1").run(["timeout", "-s", "KILL", f"{whole_s * (number + 1) / 9:.3f}", *run])
    running = fleet.runtime("h1", "ps", "-q").split()
    fleet.wait(
        lambda: len(fleet.netagent("h1", "endpoints")) == len(fleet.runtime("h1", "ps", "-q").split()),
        SPREAD_S,
        f"{len(running)} containers, but endpoints {fleet.endpoint_names('h1')}",
    )


@pytest.mark.parametrize(
    "count", [20, pytest.param(MANY, marks=[pytest.mark.long, pytest.mark.timeout(900)])]
)
def test_many_containers_started_at_once(docker_hosts: Fleet, count: int) -> None:
    fleet = docker_hosts
    names = [f"many-{number}" for number in range(count)]
    with ThreadPoolExecutor(count) as pool:
        done = list(
            pool.map(
                lambda name: fleet.try_runtime(
                    "h1", "run", "-d", "--name", name, "--network", "app", "lab", timeout_s=600.0
                ),
                names,
            )
        )
    failed = Counter(one.complaint for one in done if one.status != 0)
    assert not failed, f"of {count}: {failed}\n{fleet.lab.host('h1').log_tail()}"
    fleet.wait_endpoints(names, within_s=30.0)
    given = [address for one in fleet.netagent("h1", "endpoints") for address in one["addresses"]]
    assert len(given) == 2 * count
    assert len(set(given)) == 2 * count, "an address was given twice"
    assert len(fleet.interfaces("h1")) == count
    fleet.runtime("h1", "rm", "-f", *names, timeout_s=600.0)
    fleet.wait_endpoints([], within_s=30.0)
    fleet.wait(lambda: not fleet.interfaces("h1"), 30.0, "interfaces stay")
    # A row in the journal is the last thing of a detach, after the interface.
    fleet.wait(lambda: fleet.journal_endpoints("h1") == 0, SPREAD_S, "rows stay in the journal")
