"""Daemons are killed and started in every order: containers that live keep their network, others are withdrawn."""

from __future__ import annotations

import time
from typing import Any

import pytest
from netlab.process import wait_until
from runtimes.harness import SPREAD_S, Fleet, wait_promised

pytestmark = [pytest.mark.runtimes, pytest.mark.timeout(240)]

LIVE = "--live-restore"
ABSENT_S = 15.0
"""How long dockerd, when it starts, waits for a plug-in at whose socket no program listens."""

HOLD_SOCKET = """
import os, socket, sys, time
path, wait_s = sys.argv[1], float(sys.argv[2])
os.makedirs(os.path.dirname(path), exist_ok=True)
if os.path.exists(path):
    os.unlink(path)
held = socket.socket(socket.AF_UNIX)
held.bind(path)
held.listen(64)
print("listening", flush=True)
time.sleep(wait_s)
os.dup2(os.dup(held.fileno()), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES="docker", LISTEN_PID=str(os.getpid()))
os.execvp("netagent", ["netagent", "agent"])
"""
"""What systemd does with netagent-docker.socket: the socket is there before the agent is."""


def everything_works(fleet: Fleet) -> None:
    """web on h1 and client on h2 find and reach each other, and new containers do too."""

    def is_found() -> bool:
        # Asked anew each time: of a container that was started again h2 may still know the old endpoint.
        known = [one for one in fleet.netagent("h2", "endpoints") if one["name"] == "web"]
        addresses = sorted(address.partition("/")[0] for one in known for address in one["addresses"])
        return bool(addresses) and fleet.resolve("h2", "client", "web") == addresses

    fleet.wait(is_found, SPREAD_S, "web is not found")
    fleet.reach("h2", "client", "web", within_s=SPREAD_S)
    fleet.reach("h1", "web", "client", within_s=SPREAD_S)
    for host, other in (("h1", "client"), ("h2", "web")):
        # The other host may learn of a container after its first packet; the answer then waits for ARP's second try.
        done = fleet.ask_once(host, "ping", "-c", "1", "-W", "3", other)
        assert done.status == 0, done


@pytest.fixture
def pair(fleet: Fleet) -> Fleet:
    """`web` on h1, whose dockerd lets containers live when it ends, and `client` on h2."""
    with fleet.daemons("h1") as h1:
        h1.docker.stop()
        h1.docker.start([LIVE])
    fleet.start("h1", "web")
    fleet.start("h2", "client")
    everything_works(fleet)
    return fleet


@pytest.fixture(scope="module")
def lasting(shared_fleet: Fleet) -> Fleet:
    """The same without `web`, for tests that leave it as they found it."""
    with shared_fleet.daemons("h1") as h1:
        h1.docker.stop()
        h1.docker.start([LIVE])
    shared_fleet.start("h2", "client")
    return shared_fleet


def agent_dies(host: Any) -> None:
    host.kill_agent()


def agent_stops(host: Any) -> None:
    host.stop_agent()


def docker_dies(host: Any) -> None:
    host.docker.kill()


def docker_stops(host: Any) -> None:
    host.docker.stop()


@pytest.mark.parametrize(
    "ends", [[agent_dies, docker_dies], [docker_dies, agent_dies], [agent_stops, docker_stops]]
)
@pytest.mark.parametrize("first_up", ["agent", "docker"])
def test_living_containers_keep_their_network(lasting: Fleet, ends: list[Any], first_up: str) -> None:
    fleet = lasting
    fleet.start("h1", "web")
    everything_works(fleet)
    before = (fleet.devices("h1"), fleet.addresses("web"), fleet.inspect("h1", "web")["State"]["StartedAt"])
    target = fleet.addresses("web")[0]
    with fleet.daemons("h1") as h1:
        for end in ends:
            end(h1)
        assert fleet.execute("h2", "client", "ping", "-c", "1", "-W", "1", target).status == 0
        if first_up == "agent":
            h1.start_agent()
            h1.docker.start([LIVE])
        else:
            h1.docker.start([LIVE])
            h1.start_agent()
    fleet.wait(lambda: fleet.agents("h2")["h1"] == "alive", SPREAD_S, "h2 does not see the agent of h1")
    everything_works(fleet)
    after = (fleet.devices("h1"), fleet.addresses("web"), fleet.inspect("h1", "web")["State"]["StartedAt"])
    assert after == before, "nothing was made anew"
    fleet.remove_from("h1", "web")
    fleet.wait_endpoints(["client"])


def test_without_live_restore_containers_end_with_dockerd_and_are_withdrawn(fleet: Fleet) -> None:
    fleet.start("h1", "web")
    fleet.start("h2", "client")
    with fleet.daemons("h1") as h1:
        h1.docker.kill()
        assert fleet.find_endpoint("web", seen_from="h2"), "it lives on"
        h1.docker.start([])
        begun = time.monotonic()
    assert fleet.runtime("h1", "ps", "-q") == ""
    wait_promised(lambda: fleet.resolve("h2", "client", "web") == [], "web is still found", begun)
    fleet.runtime("h1", "start", "web")
    everything_works(fleet)


def test_removed_while_the_agent_is_away(pair: Fleet) -> None:
    """Docker calls the plug-in in vain, again and again, until the agent is back."""
    fleet = pair
    pid = str(fleet.inspect("h1", "web")["State"]["Pid"])
    with fleet.daemons("h1") as h1:
        h1.kill_agent()
        removal = fleet.in_background(fleet.remove_from, "h1", "web")
        fleet.wait(lambda: h1.run(["kill", "-0", pid]).status != 0, SPREAD_S, "web is not killed")
        h1.start_agent()
    removal.result(timeout=60.0)
    fleet.wait_endpoints(["client"])
    fleet.wait(lambda: not fleet.interfaces("h1"), SPREAD_S, "its interface stays")
    fleet.start("h1", "web")
    everything_works(fleet)


def test_a_held_socket_makes_the_order_of_start_irrelevant(fleet: Fleet) -> None:
    """As by socket activation: dockerd and its containers come back before the agent, and wait for it."""
    fleet.start("h1", "web", "--restart", "always")
    fleet.start("h2", "client")
    away_s = 3.0
    with fleet.daemons("h1") as h1:
        h1.docker.stop()
        h1.stop_agent()
        log = h1.log_file.with_name("held.log")
        plugin = "/run/docker/plugins/netagent.sock"
        h1.start(["python3", "-c", HOLD_SOCKET, plugin, str(away_s)], log)
        wait_until(lambda: "listening" in log.read_text(), SPREAD_S, "no socket")
        begun = time.monotonic()
        h1.docker.start([])
        took_s = time.monotonic() - begun
    assert took_s < ABSENT_S, f"dockerd waited {took_s:.1f} s for an agent that was away for {away_s:.0f} s"
    fleet.wait(
        lambda: fleet.inspect("h1", "web")["State"]["Running"],
        20.0,
        f"web was not started again: {log.read_text()}",
    )
    everything_works(fleet)


def test_a_host_loses_power_and_comes_back(fleet: Fleet) -> None:
    fleet.start("h1", "web", "--restart", "always")
    fleet.start("h2", "client")
    fleet.lab.power_off("h1")
    fleet.wait(
        lambda: fleet.resolve("h2", "client", "web") == [], SPREAD_S, "the dead host is still in the names"
    )
    assert fleet.lab.power_on("h1") == []
    fleet.wait(lambda: fleet.inspect("h1", "web")["State"]["Running"], 20.0, "web was not started again")
    everything_works(fleet)
