"""A container that is asked to stop: names lead away while its program still works on the end."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from runtimes.harness import PROGRAMS_OF_THE_MACHINE, RUNTIME, SPREAD_S, Fleet

pytestmark = [pytest.mark.runtimes, pytest.mark.timeout(240)]

HANDLER_S = 5
"""How long the program takes to stop."""
GRACEFUL = f"""
trap 'sleep {HANDLER_S}; exit 0' TERM
trap 'touch /tmp/huped' HUP
while true; do sleep 1000000 & wait; done
"""

REQUESTS = Path(__file__).parents[1] / "lab" / "requests.py"
AT_RATE = 70
"""Requests per second from each of three hosts."""
GRACE_S = 0.25
"""How long a server accepts connections after its stop signal: many do for seconds, the names take some 10 ms."""
OPTIONS = {
    "netagent.group": "shop",
    "netagent.service": "web",
    "netagent.check": "tcp:7001 interval=1s rise=1",
}
"""Of a replica. The check keeps clients away until the server listens."""


def started(fleet: Fleet, host: str) -> None:
    """`web` there, which stops gracefully, and a client on another host that finds it."""
    fleet.start(host, "web", command=["sh", "-c", GRACEFUL])
    fleet.start("h2", "client")
    fleet.wait(lambda: fleet.replicas("h2", "client", "web") != [], SPREAD_S, "web is not found")


@pytest.mark.parametrize("host", ["h1", "h3"], ids=["docker", "podman"])
def test_names_are_gone_on_another_host_before_the_handler_has_run(docker_hosts: Fleet, host: str) -> None:
    fleet = docker_hosts
    started(fleet, host)
    begun = time.monotonic()
    stop = fleet.in_background(fleet.runtime, host, "stop", "--time", "30", "web")
    fleet.wait(lambda: fleet.replicas("h2", "client", "web") == [], HANDLER_S, "web is still found")
    assert time.monotonic() - begun < HANDLER_S
    assert fleet.inspect(host, "web")["State"]["Pid"], "it has not ended"
    endpoint = fleet.find_endpoint("web", seen_from="h2")
    assert endpoint is not None, "its path stays"
    assert (endpoint["state"], endpoint["drain"]["by"]) == ("stopping", "stop")
    address = next(one for one in endpoint["addresses"] if "." in one)
    done = fleet.execute("h2", "client", "ping", "-c", "1", "-W", "3", address)
    assert done.status == 0, "packets still reach it"
    stop.result(timeout=60.0)
    fleet.runtime(host, "start", "web")
    fleet.wait(lambda: fleet.replicas("h2", "client", "web") != [], SPREAD_S, "it does not come back")


def test_other_signals_stop_nothing(docker_hosts: Fleet) -> None:
    fleet = docker_hosts
    started(fleet, "h1")
    fleet.runtime("h1", "kill", "-s", "HUP", "web")
    fleet.wait(lambda: fleet.execute("h1", "web", "test", "-e", "/tmp/huped").status == 0, SPREAD_S, "no HUP")
    endpoint = fleet.find_endpoint("web", seen_from="h1")
    assert endpoint is not None
    assert (endpoint["state"], endpoint["drain"]) == ("up", None)


# -- no failed request ---------------------------------------------------------------------------------------------


def labels() -> list[str]:
    return [word for key, value in OPTIONS.items() for word in ("--label", f"{key}={value}")]


def server(fleet: Fleet, host: str, name: str, grace_s: float) -> None:
    """A replica of the service `web`."""
    command = ["python3", str(REQUESTS), "serve", str(grace_s)]
    fleet.start(host, name, *labels(), "-v", f"{REQUESTS}:{REQUESTS}:ro", command=command)


def has_replicas(fleet: Fleet, count: int) -> bool:
    return all(len(fleet.replicas(host, f"client-{host}", "web")) == count for host in fleet.hosts)


@contextmanager
def asked_steadily(fleet: Fleet) -> Iterator[None]:
    """Each host's client makes requests to `web` while the block lasts, and before and after it; none may fail."""
    asking: list[subprocess.Popen[str]] = []
    with ExitStack() as stack:
        for host in fleet.hosts:
            words = [
                "exec",
                "-i",
                f"client-{host}",
                "python3",
                str(REQUESTS),
                "ask",
                "web",
                "120",
                str(AT_RATE),
            ]
            argv = fleet.lab.host(host).entering([RUNTIME[host], *words])
            process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
            asking.append(stack.enter_context(process))
        try:
            time.sleep(1.0)  # of requests to two replicas
            begun = time.monotonic()
            yield
            time.sleep(1.0)
        finally:
            took_s = time.monotonic() - begun
            reports = [json.loads(process.communicate(timeout=30)[0]) for process in asking]
    for report in reports:
        print(report)
        assert report["failed"] == []
        assert len(report["by"]) >= 2
    assert sum(report["done"] for report in reports) > 0.8 * 3 * AT_RATE * took_s, "it was 200 a second"


@pytest.fixture
def clients(docker_hosts: Fleet) -> Fleet:
    for host in docker_hosts.hosts:
        docker_hosts.start(
            host, f"client-{host}", "--label", "netagent.group=shop", "-v", f"{REQUESTS}:{REQUESTS}:ro"
        )
    return docker_hosts


@pytest.mark.parametrize("host", ["h1", "h3"], ids=["docker", "podman"])
def test_scenario_53_a_stop_and_a_restart_fail_no_request(clients: Fleet, host: str) -> None:
    fleet = clients
    server(fleet, host, "web1", GRACE_S)
    server(fleet, "h2", "web2", GRACE_S)
    fleet.wait(lambda: has_replicas(fleet, 2), SPREAD_S, "not two replicas")
    with asked_steadily(fleet):
        fleet.runtime(host, "stop", "web1")
        assert has_replicas(fleet, 1)
        fleet.runtime(host, "start", "web1")
        fleet.wait(lambda: has_replicas(fleet, 2), SPREAD_S, "it does not come back")
        fleet.runtime(host, "restart", "web1")
        fleet.wait(lambda: has_replicas(fleet, 2), SPREAD_S, "it does not come back")


@pytest.mark.parametrize("host", ["h1", "h3"], ids=["docker", "podman"])
def test_scenario_53_a_drain_before_the_stop_of_a_program_that_ends_at_once_fails_no_request(
    clients: Fleet, host: str
) -> None:
    fleet = clients
    server(fleet, host, "web1", 0.0)
    server(fleet, "h2", "web2", 0.0)
    fleet.wait(lambda: has_replicas(fleet, 2), SPREAD_S, "not two replicas")
    with asked_steadily(fleet):
        fleet.netagent(host, "drain", "web1", "--wait", "20s")
        fleet.runtime(host, "stop", "web1")
        fleet.runtime(host, "start", "web1")
        fleet.wait(lambda: has_replicas(fleet, 2), SPREAD_S, "it does not come back")
        fleet.netagent(host, "drain", "--host")
        assert has_replicas(fleet, 1)
        fleet.netagent(host, "undrain", "--host")
        fleet.wait(lambda: has_replicas(fleet, 2), SPREAD_S, "it does not come back")


def test_scenario_53_compose_recreates_a_replica_and_fails_no_request(clients: Fleet, tmp_path: Path) -> None:
    fleet, file = clients, tmp_path / "compose.json"
    service = {
        "image": "lab",
        "command": ["python3", str(REQUESTS), "serve", str(GRACE_S)],
        "labels": OPTIONS,
        "volumes": [PROGRAMS_OF_THE_MACHINE[1], f"{REQUESTS}:{REQUESTS}:ro"],
        "networks": ["app"],
    }
    file.write_text(json.dumps({"services": {"web": service}, "networks": {"app": {"external": True}}}))
    compose = ("compose", "-f", str(file), "-p", "shop")
    server(fleet, "h2", "web2", GRACE_S)
    try:
        fleet.runtime("h1", *compose, "up", "-d")
        fleet.wait(lambda: has_replicas(fleet, 2), SPREAD_S, "not two replicas")
        with asked_steadily(fleet):
            for _ in range(2):
                fleet.runtime("h1", *compose, "up", "-d", "--force-recreate")
                fleet.wait(lambda: has_replicas(fleet, 2), SPREAD_S, "it does not come back")
    finally:
        fleet.try_runtime("h1", *compose, "down", "-t", "0")
