"""Connections to addresses of services: when replicas are replaced, when a host loses power, and under a policy."""

from __future__ import annotations

import json
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lab.harness import Cluster
from lab.test_policy import ECHO, asked
from lab.test_service_sandboxes import own_addresses
from netlab.container import Container

pytestmark = [pytest.mark.lab, pytest.mark.services]

REQUESTS = str(Path(__file__).with_name("requests.py"))
HOLD = str(Path(__file__).with_name("hold.py"))
WEB = ("--service", "web", "--label", "netagent.address=true")
CHECKED = ("--check", "tcp:7001 interval=1s timeout=500ms")
"""Nothing leads to a replica before it listens."""
RATE = 500
"""Requests a second."""
RESET_S = 5.0
"""What is promised: from the end of a host's power until connections to its replicas are reset."""


def running(container: Container, *argv: str) -> subprocess.Popen[str]:
    """A program that works until its standard input ends."""
    command = container.entering(["python3", *argv])
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")


def connecting(address: str) -> tuple[str, ...]:
    return ("python3", "-c", f"import socket; socket.create_connection(('{address}', 7001), 5)")


def has_served(app: Cluster, name: str) -> bool:
    return app.inside(name, "ss", "-Htn", "state", "time-wait", "sport = :7001").stdout != ""


def reached(app: Cluster, client: str, address: str) -> set[str]:
    """The servers that answer twenty connections; none when one connection fails."""
    done = app.inside(client, "python3", HOLD, "once", address)
    return {*done.stdout.split()} if done.status == 0 else set()


def await_reaching(app: Cluster, client: str, addresses: list[str], count: int, within_s: float) -> None:
    """The names have the addresses before the records of all replicas have come."""
    for address in addresses:
        app.wait(partial(reaches, app, client, address, count), within_s, f"{client} at {address}")


def reaches(app: Cluster, client: str, address: str, count: int) -> bool:
    return len(reached(app, client, address)) == count


def test_replacing_all_replicas_fails_no_request_of_clients_that_keep_the_address(app: Cluster) -> None:
    serve = ("python3", REQUESTS, "serve", "2")
    for host in ("h2", "h3"):
        app.attach(host, f"old-{host}", *WEB, *CHECKED, command=serve)
        app.await_listening(f"old-{host}", 7001)
    address = own_addresses(app, "c1")[0]
    # The name has this address before its first replica has passed a check.
    app.wait(lambda: app.inside("c1", *connecting(address)).status == 0, 10.0, f"{address} leads nowhere")
    argv = (REQUESTS, "ask", address, "100", str(RATE))
    with running(app.lab.container("c1"), *argv) as asking:
        try:
            for host in ("h2", "h3"):
                app.wait(partial(has_served, app, f"old-{host}"), 10.0, f"the one on {host} serves nothing")
                app.attach(host, f"new-{host}", *WEB, *CHECKED, command=serve)
                app.wait(
                    partial(has_served, app, f"new-{host}"), 10.0, f"the new one on {host} serves nothing"
                )
                with app.agent_of("h1") as changing:  # where the clients are
                    changing.kill_agent()
                    changing.start_agent()
                app.netagent(host, "drain", f"old-{host}", "--wait", "10s")
                app.remove(f"old-{host}")
        finally:
            output, _ = asking.communicate(timeout=60)
    report = json.loads(output)
    print(report["done"], report["failed"][:5])
    assert report["failed"] == []
    assert report["done"] > RATE
    assert [*report["by"]] == [address]


def test_connections_to_a_host_without_power_are_reset_and_others_stay(app: Cluster) -> None:
    for host in ("h2", "h3"):
        app.attach(host, f"web-{host}", *WEB, command=("python3", HOLD, "serve", f"web-{host}"))
        app.await_listening(f"web-{host}", 7000)
    addresses = own_addresses(app, "c1")
    await_reaching(app, "c1", addresses, 2, 10.0)
    with running(app.lab.container("c1"), HOLD, "hold", *addresses) as holding:
        lines = holding.stdout
        assert lines is not None

        def next_line() -> Any:
            return json.loads(app.in_background(lines.readline).result(30.0))

        try:
            opened = next_line()
            assert {by for by, _ in opened} == {"web-h2", "web-h3"}, opened
            lost = [one for one in opened if one[0] == "web-h3"]
            off_at = time.time()
            app.lab.power_off("h3")
            ended = [next_line() for _ in lost]
        finally:
            output, _ = holding.communicate(timeout=30)
    print([(one["by"], one["error"], round(one["at"] - off_at, 1)) for one in ended])
    assert sorted([one["by"], one["to"]] for one in ended) == sorted(lost)
    assert {one["error"] for one in ended} == {"ECONNABORTED"}, "the agent ended them, and no timer"
    assert max(one["at"] for one in ended) - off_at <= RESET_S
    assert sorted(json.loads(output)) == sorted(one for one in opened if one not in lost)
    # The address leads to what is left.
    assert [reached(app, "c1", to) for to in addresses] == [{"web-h2"}, {"web-h2"}]


def test_an_address_leads_only_where_the_policy_lets_a_container(cluster: Cluster) -> None:
    cluster.netagent("h1", "network", "create", "app", "--policy", "links")
    serve = ["python3", "-c", ECHO]
    for host in ("h1", "h2"):
        cluster.attach(
            host, f"db-{host}", "--service", "db", "--label", "netagent.address=true", command=serve
        )
    cluster.attach("h1", "near", "--link", "db")
    cluster.attach("h2", "other")
    for client in ("near", "other"):
        for address in own_addresses(cluster, client, "db"):
            assert address in cluster.answers("near", "db")
    cluster.wait(lambda: asked(cluster, "near", "db", 0.5)[0] == {"answer"}, 10.0, "near does not reach it")
    assert asked(cluster, "other", "db")[0] == {"refused"}
    cluster.netagent("h2", "link", "other", "db")
    cluster.wait(lambda: asked(cluster, "other", "db", 0.5)[0] == {"answer"}, 5.0, "not linked")
    cluster.netagent("h2", "unlink", "other", "db")
    cluster.wait(lambda: asked(cluster, "other", "db", 0.5)[0] == {"refused"}, 5.0, "not unlinked")
    assert asked(cluster, "near", "db")[0] == {"answer"}
