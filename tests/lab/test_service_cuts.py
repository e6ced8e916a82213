"""Connections to addresses of services over cuts, crashes and hours without a packet, and a table that is full."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from lab.harness import Cluster
from lab.test_service_connections import HOLD, WEB, await_reaching, running
from lab.test_service_sandboxes import FOLLOWED_S, PORT, WHOAMI, await_replicas, fetched, own_addresses

pytestmark = [pytest.mark.lab, pytest.mark.services]

PROGRAM = str(Path(__file__).with_name("service_program.py"))
HEALED_S = 60.0
FEW_PORTS = """
import http.client, json, socket, sys
from concurrent.futures import ThreadPoolExecutor
class Agent(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect("/run/netagent/netagent.sock")
def create(number):
    agent = Agent("agent", timeout=60)
    ports = [str(port) for port in range(1000, 1032)]
    body = json.dumps({"name": f"many{number}", "network": "app", "ports": ports})
    agent.request("POST", "/v1/service-addresses", body, {"Content-Type": "application/json"})
    return agent.getresponse().status
with ThreadPoolExecutor(8) as pool:
    print(json.dumps(sorted({*pool.map(create, range(int(sys.argv[1])))})))
"""
"""Makes so many services with 32 ports each."""


def next_line(app: Cluster, lines: Any) -> Any:
    return json.loads(app.in_background(lines.readline).result(60.0))


@pytest.mark.parametrize("cut_s", [6.0, pytest.param(60.0, marks=pytest.mark.long)])
@pytest.mark.timeout(600)
def test_a_cut_ends_at_most_connections_across_it_and_none_that_are_kept(
    lasting: Cluster, cut_s: float
) -> None:
    """The host of a client is cut off, which is the host of a replica to the others."""
    app, names = lasting, []
    for host in ("h1", "h3"):
        for service in ("web", "kept"):
            name = f"{service}-{host}"
            app.attach(host, name, "--service", service, command=("python3", HOLD, "serve", name))
            app.await_listening(name, 7000)
            names.append(name)
    app.netagent("h1", "service", "create", "web", "--network", "app")
    app.netagent("h1", "service", "create", "kept", "--network", "app", "--keep")
    to: dict[str, list[str]] = {}
    for client in ("c1", "c2"):
        to[client] = own_addresses(app, client) + own_addresses(app, client, "kept")
        await_reaching(app, client, to[client], 2, FOLLOWED_S)
    argv = {client: (HOLD, "hold", *addresses) for client, addresses in to.items()}
    programs = {client: running(app.lab.container(client), *words) for client, words in argv.items()}
    outputs: dict[str, str] = {}
    try:
        opened = {client: next_line(app, one.stdout) for client, one in programs.items()}
        for other in ("h2", "h3"):
            app.lab.cut("h1", other)
        time.sleep(cut_s)  # this is what is tried
        app.lab.heal()
        for client, addresses in to.items():
            await_reaching(app, client, addresses, 2, HEALED_S)
    finally:
        app.lab.heal()
        for client, one in programs.items():
            outputs[client] = one.communicate(timeout=60)[0]
    for client, across in (("c1", "h3"), ("c2", "h1")):
        *ended, left = map(json.loads, outputs[client].splitlines())
        print(client, [(one["by"], one["error"]) for one in ended])
        assert all(one["by"] == f"web-{across}" for one in ended), "on this side, and kept ones, all stay"
        assert all(one["error"] == "ECONNABORTED" for one in ended), "the agent ended them, and no timer"
        assert sorted([*left, *([one["by"], one["to"]] for one in ended)]) == sorted(opened[client])
    for service in ("web", "kept"):
        app.netagent("h1", "service", "rm", service, "--network", "app")
    app.remove(*names)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_connection_without_a_packet_for_ten_minutes_is_as_it_was(lasting: Cluster) -> None:
    """Nothing that the kernel or the agent keeps of it ends before it does."""
    app, names = lasting, ("web-h2", "web-h3")
    for name in names:
        app.attach(name[-2:], name, *WEB, command=("python3", HOLD, "serve", name))
        app.await_listening(name, 7000)
    addresses = own_addresses(app, "c1")
    await_reaching(app, "c1", addresses, 2, FOLLOWED_S)
    with running(app.lab.container("c1"), HOLD, "hold", *addresses) as holding:
        try:
            opened = next_line(app, holding.stdout)
            time.sleep(600.0)  # this is what is tried
        finally:
            output, _ = holding.communicate(timeout=60)
    assert sorted(json.loads(output)) == sorted(opened)
    app.remove(*names)


def test_a_member_with_many_ports_leaves_room_and_names_lead_past_what_has_none(lasting: Cluster) -> None:
    app, serve = lasting, ("python3", WHOAMI, PORT)
    app.attach("h2", "mine", "--service", "mine", command=serve)
    app.attach("h2", "late", "--service", "late", command=serve)
    for name in ("mine", "late"):
        app.await_listening(name, int(PORT))
        app.wait(lambda: app.finds("c1", name), FOLLOWED_S, f"c1 lacks {name}")
    made = json.loads(app.lab.host("h2").must(["python3", "-c", FEW_PORTS, "129"]))
    assert made == [201], made

    def warning() -> str:
        found = [one["message"] for one in app.netagent("h1", "status")["warnings"]]
        return next((one for one in found if "as many ports of services there" in one), "")

    # One of them has no room any more: half of the table is for others.
    app.wait(lambda: warning() != "", FOLLOWED_S, "h1 has room for all")
    late = app.netagent("h2", "service", "create", "late", "--network", "app", "--port", PORT)
    refused = late["service_addresses"][0]["addresses"]
    app.wait(
        lambda: refused[0] in json.dumps(app.netagent("h1", "service", "inspect", "late")),
        FOLLOWED_S,
        "h1 does not know it",
    )
    await_replicas(app, "c1", 1, "late")
    assert fetched(app, "c1", app.answers("c1", "late")[0])[0] == 0
    said = app.netagent("h1", "lookup", "late", "--from", "c1")["reason"]
    assert "has as many ports of services there as are left for all members" in said
    # The address itself is refused at once, as whatever has no room.
    assert fetched(app, "c1", refused[0])[0] == 7
    app.netagent("h1", "service", "create", "mine", "--network", "app", "--port", f"80:{PORT}")
    own = own_addresses(app, "c1", "mine")
    assert [fetched(app, "c1", one, "80")[0] for one in own] == [0, 0]
    for number in range(3):
        app.netagent("h2", "service", "rm", f"many{number}", "--network", "app")
    assert sorted(own_addresses(app, "c1", "late")) == sorted(refused)
    assert fetched(app, "c1", refused[0])[0] == 0
    assert warning() == ""
