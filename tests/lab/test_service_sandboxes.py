"""In which namespaces service addresses lead on, and what names say there: through starts, a switch and detaches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lab.harness import Cluster
from netlab.host import Host

pytestmark = [pytest.mark.lab, pytest.mark.services]

WHOAMI = str(Path(__file__).with_name("whoami.py"))
PORT = "8080"
ASKS = ("--service", "web", "--label", "netagent.address=true")
FOLLOWED_S = 10.0
"""Bound of the time for records, kernel and names, on a machine that does much else."""
ANSWERS = """
import collections, json, socket, struct, sys, time
name = b"".join(bytes([len(label)]) + label.encode() for label in sys.argv[1].split(".")) + b"\\0"
query = struct.pack(">6H", 7, 256, 1, 0, 0, 0) + name + struct.pack(">2H", 1, 1)
found = collections.Counter()
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.settimeout(2)
    end = time.monotonic() + float(sys.argv[2])
    while time.monotonic() < end:
        sock.sendto(query, ("127.0.0.11", 53))
        answer = sock.recv(2000)
        count = struct.unpack(">H", answer[6:8])[0]
        found[",".join([str(count), socket.inet_ntoa(answer[-4:])])] += 1
        time.sleep(0.005)
print(json.dumps(found))
"""


def replicas(app: Cluster) -> set[str]:
    return {address for one in app.held("h1") for address in one["addresses"]}


def own_addresses(app: Cluster, container: str, name: str = "web") -> list[str]:
    """The addresses that a container is answered with once these are the service's own, IPv4 first."""
    found: list[str] = []

    def is_own() -> bool:
        found[:] = app.answers(container, name)
        return len(found) == 2 and not {*found} & replicas(app)

    app.wait(is_own, FOLLOWED_S, lambda: f"{container} is answered {found}")
    return sorted(found, key=lambda one: ":" in one)


def await_replicas(app: Cluster, container: str, count: int, name: str = "web") -> None:
    def are_replicas() -> bool:
        found = {*app.ask(container, name).data}
        return len(found) == count and found <= replicas(app)

    app.wait(are_replicas, FOLLOWED_S, lambda: f"{container} is answered {app.answers(container, name)}")


def fetched(app: Cluster, container: str, address: str, port: str = PORT) -> tuple[int, str]:
    """The status of curl, and as whom the server sees the container."""
    host = f"[{address}]" if ":" in address else address
    done = app.inside(container, "curl", "-s", "-m", "5", f"http://{host}:{port}/")
    return done.status, done.stdout


def local_routes(app: Cluster, container: str) -> list[str]:
    found = []
    for family in ("-4", "-6"):
        done = app.inside(container, "ip", family, "route", "show", "table", "local", "proto", "78")
        found += [line.split()[1] for line in done.stdout.splitlines()]
    return found


def reload(app: Cluster, host: str, text: str) -> None:
    """Give the host a configuration beside its own, and have the agent read it."""
    with app.agent_of(host) as changing:
        file = changing.path("/etc/netagent/conf.d/test.toml")
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    app.lab.host(host).must(
        ["pkill", "-HUP", "--oldest", "-f", "netagent agent"]
    )  # in the host's own namespace


CURL_REFUSED = 7


def test_a_service_address_leads_on_through_starts_and_damage_and_not_where_it_is_switched_off(
    app: Cluster,
) -> None:
    for host, name in (("h2", "web1"), ("h3", "web2")):
        app.attach(host, name, *ASKS, command=("python3", WHOAMI, PORT))
        app.await_listening(name, int(PORT))
    addresses = own_addresses(app, "c1")
    own = {":" in one: one for one in app.endpoint("c1")["addresses"]}
    for address in addresses:
        assert fetched(app, "c1", address) == (0, own[":" in address]), "the source is the client's own"
        assert fetched(app, "c1", address, "81")[0] == CURL_REFUSED
        assert app.pings("c1", address)
    ranges = local_routes(app, "c1")
    assert len(ranges) == 2

    # Names have one answer all the time, whatever becomes of the agent.
    watching = app.in_background(
        app.inside, "c1", "python3", "-c", ANSWERS, "web.app.mesh.internal", "12", timeout_s=60.0
    )
    for ending in (Host.stop_agent, Host.kill_agent):
        with app.agent_of("h1") as changing:
            ending(changing)
        assert fetched(app, "c1", addresses[0]) == (0, own[False])
        with app.agent_of("h1") as changing:
            changing.start_agent()
    done = watching.result()
    assert done.status == 0, done.stderr
    assert [*json.loads(done.stdout.splitlines()[-1])] == [f"1,{addresses[0]}"]

    # A program in the sandbox takes a route away. Damage counts once the agent has looked there after its start.
    def is_repaired_and_counted() -> bool:
        app.inside("c1", "ip", "route", "del", "local", ranges[0], "dev", "eth0", "table", "local")
        app.wait(lambda: local_routes(app, "c1") == ranges, 5.0, "the route does not come back")
        return "route-deleted" in app.netagent("h1", "status")["drift"]["kinds"]

    app.wait(is_repaired_and_counted, 20.0, "the damage is not counted")

    # Switched off on this host alone.
    reload(app, "h1", 'service_addresses = "off"\n')
    await_replicas(app, "c1", 2)
    app.wait(lambda: local_routes(app, "c1") == [], 5.0, "routes stay")
    assert own_addresses(app, "c2") == addresses
    reload(app, "h1", 'service_addresses = "on"\n')
    assert own_addresses(app, "c1") == addresses
    assert local_routes(app, "c1") == ranges
    assert fetched(app, "c1", addresses[1]) == (0, own[True])


def test_a_sandbox_translates_for_the_networks_that_it_is_in_and_so_does_a_host(app: Cluster) -> None:
    app.netagent("h1", "network", "create", "back", "--host-access")
    app.attach(
        "h2", "db", "--network", "back", "--label", "netagent.address=true", command=("python3", WHOAMI, PORT)
    )
    app.await_listening("db", int(PORT))
    app.netagent("h1", "network", "connect", "back", "c1")
    addresses = own_addresses(app, "c1", "db")
    (both,) = [one for one in app.held("h1") if one["name"] == "c1" and one["network"] == "back"]
    own = {":" in one: one for one in both["addresses"]}
    for address in addresses:
        assert fetched(app, "c1", address) == (0, own[":" in address])
        assert fetched(app, "c2", address)[0] != 0, "c2 is not in the network"

    # The host has an address of its own in the network.
    hosts = app.netagent("h1", "network", "inspect", "back")["host_addresses"]
    host = {":" in one: one for each in hosts if each["host"] == "h1" for one in each["addresses"]}
    for address in addresses:
        url = f"http://[{address}]:{PORT}/" if ":" in address else f"http://{address}:{PORT}/"
        app.wait(
            lambda: app.lab.host("h1").run(["curl", "-s", "-m", "5", url]).stdout == host[":" in address],
            FOLLOWED_S,
            "the host is not led to the replica",
        )
        assert app.lab.host("h1").run(["ping", "-c", "1", "-W", "1", address]).status == 0
    refused = app.lab.host("h1").run(["curl", "-s", "-m", "5", f"http://{addresses[0]}:81/"])
    assert refused.status == CURL_REFUSED

    # Detached from one network, the sandbox keeps what it has of the other.
    app.netagent("h1", "network", "disconnect", "back", "c1")
    assert app.ask("c1", "db").data == []
    assert local_routes(app, "c1") == []
    assert fetched(app, "c1", addresses[0])[0] != 0
