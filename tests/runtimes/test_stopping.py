"""A container that is asked to stop: names lead away while its program still works on the end."""

from __future__ import annotations

import time

import pytest
from runtimes.harness import SPREAD_S, Fleet

pytestmark = [pytest.mark.runtimes, pytest.mark.timeout(240)]

HANDLER_S = 5
"""How long the program takes to stop."""
GRACEFUL = f"""
trap 'sleep {HANDLER_S}; exit 0' TERM
trap 'touch /tmp/huped' HUP
while true; do sleep 1000000 & wait; done
"""


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
