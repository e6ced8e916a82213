"""Hosts that meet under one cluster key: two parts that were started apart, and two hosts with one identity."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from lab.harness import Cluster
from netlab.lab import Lab
from netlab.topology import of_hosts

pytestmark = pytest.mark.lab

SUBNET = "10.66.0.0/24"
STATE = "/var/lib/netagent"
SERVER = """
import contextlib, socket, sys
with socket.create_server(("0.0.0.0", 8000)) as server:
    while True:
        with server.accept()[0] as client, contextlib.suppress(OSError):
            client.sendall(sys.argv[1].encode())
"""
ASK = "import socket, sys; print(socket.create_connection((sys.argv[1], 8000), 2).recv(99).decode())"


@pytest.fixture
def parts(new_lab: Callable[[], Lab]) -> Iterator[Cluster]:
    """h1 and h2 are one part, h3 is another, which was given the same key ring and has never heard of them."""
    lab = new_lab()
    lab.up(of_hosts(3), agents=False)
    for host in ("h1", "h2"):
        lab.cut(host, "h3")
        with lab.changing(host) as changing:
            changing.start_agent()
    with ThreadPoolExecutor(4) as pool:
        cluster = Cluster(lab, pool)
        cluster.netagent("h1", "init")
        token = cluster.netagent("h1", "invite")["token"]
        cluster.netagent("h2", "join", "--token-file", "-", stdin=token)
        with lab.changing("h3") as third:
            folder = third.path(STATE)
            folder.mkdir(mode=0o700, exist_ok=True)
            shutil.copy2(lab.host("h1").path(STATE) / "keyring", folder / "keyring")
            third.start_agent()
        yield cluster


def served_by(cluster: Cluster, container: str, address: str) -> str:
    """Which container's server a container reaches at an address."""
    return cluster.inside(container, "python3", "-c", ASK, address).stdout.strip()


def warning_codes(cluster: Cluster, host: str) -> list[str]:
    """Of a host's status, but for the lab's own: nothing answers other names there."""
    found = {one["code"] for one in cluster.netagent(host, "status")["warnings"]}
    return sorted(found - {"upstream-dead"})


def warnings(cluster: Cluster, host: str, *codes: str) -> list[str]:
    found = cluster.netagent(host, "status")["warnings"]
    return sorted(one["message"] for one in found if one["code"] in codes)


def test_scenario_29_two_parts_started_apart_join_later(parts: Cluster) -> None:
    """The same network, subnet, addresses and names on both sides: decided alike everywhere, reported, not mixed."""
    ids = {}
    for host in ("h1", "h3"):
        ids[host] = parts.netagent(host, "network", "create", "app", "--subnet", SUBNET)["id"]
    fixed = {"c1": ("h1", "10.66.0.10"), "c2": ("h2", "10.66.0.11")}
    fixed |= {"c3": ("h3", "10.66.0.10"), "c4": ("h3", "10.66.0.11")}
    before: dict[str, Any] = {}
    for container, (host, address) in fixed.items():
        name = "web" if container in ("c1", "c3") else "cli"
        serve = ("python3", "-c", SERVER, container)
        before[container] = parts.attach(host, container, "--name", name, "--ip", address, command=serve)
    for client, server in (("c2", "c1"), ("c4", "c3")):
        parts.wait(
            lambda: served_by(parts, client, fixed[server][1]) == server, 10.0, f"{client} lacks {server}"
        )
    stream = parts.in_background(parts.ping_stream, "c2", fixed["c1"][1], 8.0)
    parts.lab.heal()
    for host in parts.hosts:
        parts.wait(
            lambda: list(parts.agents(host).values()) == ["alive"] * 3, 20.0, f"{host} does not see all"
        )
        parts.wait(
            lambda: {one["id"] for one in parts.netagent(host, "network", "ls")} == set(ids.values()),
            10.0,
            f"{host} does not know both networks",
        )
    pinged = stream.result()
    assert (pinged.sent > 100, pinged.lost) == (True, 0), "links stay up"
    winner, loser = sorted(ids.values())
    for host in parts.hosts:
        shown = {one["id"]: one for one in parts.netagent(host, "network", "ls")}
        assert shown[winner]["name"] == "app"
        assert shown[loser]["name"] == f"app-{loser[:4]}"
        assert shown[loser]["clash"] == "another network has the name app"
        assert warnings(parts, host, "network-name", "subnet") == warnings(
            parts, "h1", "network-name", "subnet"
        )
        assert len(warnings(parts, host, "network-name")) == len(warnings(parts, host, "subnet")) == 1
    for client, server in (("c2", "c1"), ("c4", "c3")):
        assert served_by(parts, client, fixed[server][1]) == server
        own = [fixed[server][1], before[server]["addresses"][1]]
        for name in ("web", "web.app.mesh.internal."):
            assert parts.answers(client, name) == own, (
                "what it was called, also where the other took the name"
            )
    # A container of one part that enters the other's network is in both, and each name means its own network's.
    owner = "h1" if ids["h1"] == winner else "h3"
    there = "h3" if owner == "h1" else "h1"
    newcomer = parts.attach(there, "c5", "--network", "app", "--name", "late")
    assert newcomer["network_id"] == winner
    client, server = ("c5", "c1") if owner == "h1" else ("c5", "c3")
    assert served_by(parts, client, fixed[server][1]) == server
    parts.wait(lambda: parts.finds(client, "web"), 5.0, "the newcomer does not find web")
    assert parts.answers(client, "web") == [fixed[server][1], before[server]["addresses"][1]]


def test_scenario_26_two_hosts_with_one_identity(cluster: Cluster) -> None:
    """A machine is cloned, state and all: both copies name each other, a third host names both, and no host warns of
    anything else. Nothing else of it is noticed."""
    cluster.netagent("h1", "network", "create", "app")
    for container in ("c1", "d1"):
        cluster.attach("h1", container)
    cluster.netagent("h3", "leave")
    for host in ("h2", "h3"):
        with cluster.agent_of(host) as changing:
            changing.stop_agent()
    shutil.rmtree(cluster.lab.host("h3").path(STATE))
    shutil.copytree(cluster.lab.host("h2").path(STATE), cluster.lab.host("h3").path(STATE))
    for host in ("h2", "h3"):
        with cluster.agent_of(host) as changing:
            changing.start_agent()
    stream = cluster.in_background(cluster.ping_stream, "c1", "d1", 8.0)
    for host, other in (("h2", "192.0.2.3"), ("h3", "192.0.2.2")):
        cluster.wait(
            lambda: (
                warnings(cluster, host, "identity")
                == [f"the machine at {other} uses this host's identity: it was cloned"]
            ),
            30.0,
            f"{host} does not name {other}",
        )
    cluster.wait(lambda: bool(warnings(cluster, "h1", "identity")), 30.0, "the third host names no copy")
    (named,) = warnings(cluster, "h1", "identity")
    assert sorted(re.findall(r"192\.0\.2\.\d+", named)) == ["192.0.2.2", "192.0.2.3"]
    assert "h2" in named
    assert "one was cloned" in named
    codes = {host: warning_codes(cluster, host) for host in cluster.hosts}
    assert codes == {host: ["identity"] for host in cluster.hosts}, "nothing that leads away from the cause"
    assert cluster.netagent("h1", "lookup", "d1", "--from", "c1")["status"] == "NOERROR"
    assert cluster.attach("h1", "e1")["state"] == "up"
    pinged = stream.result()
    assert (pinged.sent > 100, pinged.lost) == (True, 0)

    # The cure that `status` names, on one of the two.
    token = cluster.netagent("h1", "invite")["token"]
    with cluster.agent_of("h3") as third:
        third.stop_agent()
        shutil.rmtree(third.path(STATE))
        third.path(STATE).mkdir(mode=0o700)
        third.start_agent()
    cluster.netagent("h3", "join", "--token-file", "-", stdin=token)
    for host in ("h1", "h2"):
        cluster.wait(lambda: not warnings(cluster, host, "identity"), 90.0, f"{host} still sees a clone")
    cluster.wait(lambda: set(cluster.agents("h1").values()) <= {"alive", "left"}, 20.0, "a host is dead")
    cluster.attach("h2", "c2")
    cluster.attach("h3", "c3")
    cluster.wait(lambda: cluster.pings("c2", "c3"), 5.0, "the two do not reach each other")
