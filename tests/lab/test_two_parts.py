"""Hosts that meet under one cluster key: two parts that were started apart."""

from __future__ import annotations

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
