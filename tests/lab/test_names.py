"""Names as a container sees them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from lab.harness import Cluster
from netlab import programs

pytestmark = pytest.mark.lab


def test_every_form_of_the_name_works(lasting: Cluster) -> None:
    app = lasting
    addresses = sorted(app.attach("h2", "db-2", "--service", "db")["addresses"])
    app.attach("h3", "client", "--link", "db:database")
    for name in (
        "db",
        "db-2",
        "database",
        "db.app.mesh.internal",
        "db-2.app.mesh.internal",
        "db-2.h2.app.mesh.internal",
        "DB.App.Mesh.Internal",
    ):
        app.wait(lambda: app.answers("client", name) == addresses, 1.0, f"{name} is not answered")
    assert app.ask("c1", "database").status == "NXDOMAIN", "an alias belongs to one container only"
    assert app.ask("client", "db.app.mesh.internal", "TXT").status == "NOERROR"
    assert app.ask("client", "nothing.app.mesh.internal").status == "NXDOMAIN"
    assert app.ask("client", "h2.node.mesh.internal").data == ["192.0.2.2"]
    v4 = next(address for address in addresses if ":" not in address)
    reverse = app.inside("client", "dig", "+short", "-x", v4).stdout.strip()
    assert reverse == "db-2.h2.app.mesh.internal."
    app.remove("client", "db-2")


def test_scenario_02_replicas_share_a_name_and_clients_spread_over_them(lasting: Cluster) -> None:
    app = lasting
    replicas = [app.attach(host, f"web-{host}", "--service", "web")["addresses"] for host in app.hosts]
    four, six = (sorted(addresses[family] for addresses in replicas) for family in (0, 1))
    app.wait(lambda: app.ask("c1", "web").data == four, 1.0, "not all replicas are known")
    orders = [app.inside("c1", "dig", "+short", "+search", "web").stdout.split() for _ in range(30)]
    assert all(sorted(order) == four for order in orders)
    assert sorted({order[0] for order in orders}) == four, "each comes first at times"
    # An answer has one of the IPv6 addresses at a time: programs sort them by their own rules (RFC 6724).
    turns = [app.ask("c1", "web", "AAAA").data for _ in range(30)]
    assert sorted({address for turn in turns for address in turn}) == six
    lookup = "import socket; print(socket.create_connection.__name__, socket.getaddrinfo('web', 80)[0][4][0])"
    chosen = {app.inside("c1", "python3", "-c", lookup).stdout for _ in range(30)}
    assert len(chosen) == 3, "what an ordinary program tries first is not always the same replica"
    app.remove(*(f"web-{host}" for host in app.hosts))


def test_links_come_and_go(lasting: Cluster) -> None:
    app = lasting
    app.netagent("h1", "link", "c1", "c2:database")
    assert app.answers("c1", "database") == app.answers("c3", "c2") != []
    app.netagent("h1", "link", "c1", "c2:database")
    app.netagent("h1", "unlink", "c1", "c2:database")
    assert app.ask("c1", "database").status == "NXDOMAIN"
    assert app.try_netagent("h1", "unlink", "c1", "c2:database").status == 1


def test_scenario_04_detaching_from_one_of_two_networks_takes_only_what_is_of_that(lasting: Cluster) -> None:
    app = lasting
    before = state_inside(app, "c1")
    app.netagent("h2", "network", "create", "back")
    app.netagent("h1", "network", "connect", "back", "c1")
    store = app.attach("h3", "store", "--network", "back")
    app.wait(
        lambda: app.answers("c1", "store") == sorted(store["addresses"]),
        1.0,
        "the second network is no good",
    )
    assert all(app.pings("c1", address) for address in store["addresses"])
    assert app.ask("c2", "store").status == "NXDOMAIN", "c2 is not in that network"
    assert not any(app.pings("c2", address) for address in store["addresses"])
    both = state_inside(app, "c1")
    assert all(set(one) < set(two) for one, two in zip(before, both, strict=True)), (
        "nothing of the first went"
    )
    again = app.netagent("h1", "network", "connect", "back", "c1")
    assert again["created"] is False, "one container, although two endpoints have its name"
    app.netagent("h1", "network", "disconnect", "back", "c1")
    assert state_inside(app, "c1") == before, "interface, addresses and routes of the first are untouched"
    assert app.ask("c1", "store").status == "NXDOMAIN"
    assert not any(app.pings("c1", address) for address in store["addresses"])
    for one, other in (("c1", "c2"), ("c2", "c1")):
        addresses = app.answers(one, other)
        assert len(addresses) == 2
        assert all(app.pings(one, address) for address in addresses)
    app.remove("store")
    app.netagent("h1", "network", "rm", "back")


def state_inside(cluster: Cluster, container: str) -> tuple[list[str], ...]:
    """Interfaces with their numbers and addresses, and all routes."""
    commands = (["ip", "-o", "address", "show", "scope", "global"], ["ip", "route"], ["ip", "-6", "route"])
    return tuple(
        [line.rstrip() for line in cluster.inside(container, *command).stdout.splitlines()]
        for command in commands
    )


def test_scenario_08_dual_stack_agrees(app: Cluster) -> None:
    """Both families name, number and reach the same container, from every host and backwards. One host does
    without IPv6, which its containers need not."""
    app.lab.host("h2").must(["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"])
    endpoint = app.attach("h2", "both")
    subnets = [ip_network(subnet) for subnet in app.netagent("h1", "network", "inspect", "app")["subnets"]]
    addresses = [ip_address(text) for text in endpoint["addresses"]]
    assert [address.version for address in addresses] == [4, 6]
    offsets = {int(a) - int(s.network_address) for a, s in zip(addresses, subnets, strict=True)}
    assert len(offsets) == 1, "one number in both subnets"
    for container in ("c1", "c2", "c3"):
        for address, rtype in zip(addresses, ("A", "AAAA"), strict=True):
            app.wait(
                lambda: app.ask(container, "both", rtype).data == [str(address)],
                1.0,
                f"{container} gets another {rtype}",
            )
            reverse = app.inside(container, "dig", "+short", "-x", str(address)).stdout.strip()
            assert reverse == "both.h2.app.mesh.internal."
            assert app.pings(container, str(address))
        both = app.inside(container, "getent", "ahosts", "both").stdout.split()
        assert set(map(str, addresses)) <= set(both), "what an ordinary program gets"
    app.wait(
        lambda: [one["host"] for one in app.netagent("h1", "members") if not one["local"]] == ["answers"] * 2,
        5.0,
        "hosts ask each other by IPv6 whether they are there",
    )
    app.lab.remove_container("both")
    for rtype in ("A", "AAAA"):
        app.wait(lambda: app.ask("c1", "both", rtype).status == "NXDOMAIN", 1.0, "one family stays")


def test_other_names_are_forwarded_to_the_hosts_servers(lasting: Cluster) -> None:
    app = lasting
    fabric = ["ip", "netns", "exec", f"{app.lab.folder.name}-fabric"]
    server = [sys.executable, str(Path(__file__).with_name("upstream.py")), "192.0.2.254"]
    with programs.started([*fabric, *server]):
        # A failure to get an answer would be remembered for five seconds.
        app.wait(lambda: programs.must([*fabric, "ss", "-Hlun", "sport = :53"]) != "", 10.0, "no server")
        app.wait(lambda: app.ask("c1", "www.example.com.").data == ["198.51.100.7"], 10.0, "not forwarded")
        assert app.ask("c1", "missing.example.com.").status == "NXDOMAIN"
        assert app.ask("c1", "c2").status == "NOERROR"
        assert app.ask("c1", "singlelabel.").status == "NXDOMAIN", "a bare word is never sent out"
    assert app.ask("c1", "c2").status == "NOERROR", "our names need no upstream server"


OWN_SERVER = """
import socket, sys
found = []
for family, address in (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::"):
    for kind in socket.SOCK_DGRAM, socket.SOCK_STREAM:
        one = socket.socket(family, kind)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind((address, 53))
        found.append(one)
print("bound", flush=True)
sys.stdin.read()
"""


@contextmanager
def own_server(cluster: Cluster, name: str) -> Iterator[None]:
    """A program in a container that has port 53 on all addresses, and answers nothing."""
    argv = cluster.lab.container(name).entering(["python3", "-c", OWN_SERVER])
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "bound\n"
            yield
        finally:
            process.terminate()


def test_a_container_with_a_dns_server_of_its_own_has_names_all_the_same(app: Cluster) -> None:
    expected = app.answers("c3", "c2")
    h1 = app.lab.host("h1")
    led = ["ip", "netns", "exec", "c1", "nft", "list", "tables"]
    with own_server(app, "c1"):
        assert app.answers("c1", "c2") == expected != []
        with app.agent_of("h1") as agent:
            agent.stop_agent()
            assert app.answers("c1", "c2") == expected
            agent.start_agent()
        assert app.answers("c1", "c2") == expected
        why = json.loads(app.try_netagent("h1", "inspect", "c1", "--why", "--json").stdout)["why"]
        reported = [(one["state"], one["reason"]) for one in why["objects"] if one["kind"] == "resolver"]
        assert reported == [("present", "redirected to port 61053")] * 2
        # Attached while the server runs.
        app.netagent("h1", "detach", "c1")
        assert "netagent" not in h1.must(led)
        app.netagent("h1", "attach", "netns:c1", "--network", "app")
        app.wait(lambda: app.answers("c1", "c2") == expected, 5.0, "c2 is not answered")
    app.netagent("h1", "detach", "c1")
    assert h1.must(["ip", "netns", "exec", "c1", "ss", "-Hlntu"]) == ""
