"""Docker's options, networks by hand, the mirror: users keep their own commands."""

from __future__ import annotations

import ipaddress

import pytest
from runtimes.harness import SPREAD_S, Fleet

pytestmark = pytest.mark.runtimes

BY_HAND = ("network", "create", "-d", "netagent")
IPAM = ("--ipam-driver", "netagent", "--ipam-opt", "netagent.network=app", "--ipv6")


def subnets(fleet: Fleet) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """IPv4 first."""
    listed = fleet.netagent("h1", "network", "inspect", "app")["subnets"]
    found = [ipaddress.ip_network(text) for text in listed]
    return sorted(found, key=lambda network: network.version)


def test_aliases_links_and_labels_are_names(docker_hosts: Fleet) -> None:
    fleet = docker_hosts
    labels = (
        "--label",
        "netagent.service=shop",
        "--label",
        "netagent.expose=http=80/tcp,https=443/tcp+h2",
        "--label",
        "netagent.weight=7",
        "--label",
        "netagent.txt.path=/shop",
        "--label",
        "tier=1",
    )
    fleet.start("h1", "web-1", "--network-alias", "www", *labels)
    fleet.start("h2", "client", "--link", "web-1:backend")
    expected = fleet.addresses("web-1", seen_from="h2")
    for name in ("web-1", "www", "shop", "backend", "shop.app.mesh.internal"):
        fleet.wait(lambda: fleet.resolve("h2", "client", name) == expected, SPREAD_S, f"{name} is no name")
    endpoint = fleet.find_endpoint("web-1", seen_from="h2")
    assert endpoint is not None
    given = {key: value for key, value in endpoint["labels"].items() if not key.startswith("netagent.")}
    assert given == {"tier": "1"}
    for name, rtype, answer in (
        ("_http._tcp.shop", "SRV", "0 7 80 web-1.h1."),
        ("shop", "TXT", '"path=/shop"'),
        ("shop", "HTTPS", '1 web-1.h1.app.mesh.internal. alpn="h2" no-default-alpn port=443 ipv4hint='),
    ):
        said = fleet.execute("h2", "client", "dig", "+short", f"{name}.app.mesh.internal", rtype).stdout
        assert said.startswith(answer), said


def test_addresses_by_hand_are_honoured_and_never_given_twice(docker_hosts: Fleet) -> None:
    fleet = docker_hosts
    four, six = subnets(fleet)
    offset = 0x5B
    given = [str(four[offset]), str(six[offset])]
    mac = "02:42:ac:11:ff:5b"
    fleet.start("h1", "fixed", "--ip", given[0], "--ip6", given[1], "--mac-address", mac)
    fleet.start("h2", "client")
    assert fleet.addresses("fixed", seen_from="h2") == sorted(given)
    endpoint = fleet.find_endpoint("fixed", seen_from="h2")
    assert endpoint is not None
    assert endpoint["mac"] == mac
    shown = fleet.execute("h1", "fixed", "ip", "address").stdout
    assert f"inet {given[0]}" in shown
    assert f"inet6 {given[1]}" in shown
    assert mac in shown
    fleet.reach("h2", "client", "fixed")
    for host in ("h1", "h2"):
        again = fleet.try_runtime(host, "run", "--rm", "--network", "app", "--ip", given[0], "lab", "true")
        assert again.status != 0
        assert "fixed" in again.stderr, again.stderr


def test_hot_connect_and_disconnect(docker_hosts: Fleet) -> None:
    fleet = docker_hosts
    fleet.start("h2", "web")
    fleet.start("h1", "client", "--network", "bridge")
    fleet.runtime("h1", "network", "connect", "--alias", "visitor", "app", "client")
    fleet.reach("h1", "client", "web")
    expected = fleet.addresses("client", seen_from="h2")
    fleet.wait(lambda: fleet.resolve("h2", "web", "visitor") == expected, SPREAD_S, "the alias is no name")
    fleet.runtime("h1", "network", "disconnect", "app", "client")
    fleet.wait_endpoints(["web"])
    fleet.wait(lambda: fleet.resolve("h2", "web", "client") == [], SPREAD_S, "client is still a name")


def test_a_container_of_another_network_is_attached_beside(docker_hosts: Fleet) -> None:
    fleet = docker_hosts
    fleet.start("h2", "web")
    fleet.start("h1", "plain", "--network", "bridge")
    fleet.netagent("h1", "attach", "docker:plain", "--network", "app")
    fleet.wait_endpoints(["plain", "web"])
    fleet.reach("h2", "web", "plain")
    fleet.netagent("h1", "detach", "plain")
    fleet.wait_endpoints(["web"])


def test_a_network_by_hand_needs_our_addresses(docker_hosts: Fleet) -> None:
    fleet = docker_hosts
    refused = fleet.try_runtime("h1", *BY_HAND, "-o", "netagent.network=app", "mine")
    assert refused.status != 0
    assert "--ipam-driver netagent" in refused.stderr, refused.stderr
    assert "--ipam-opt netagent.network=" in refused.stderr
    unknown = fleet.try_runtime("h1", *BY_HAND, *IPAM[:3], "netagent.network=nowhere", "--ipv6", "mine")
    assert unknown.status != 0
    assert "nowhere" in unknown.stderr, unknown.stderr
    assert "mine" not in fleet.networks("h1")

    fleet.runtime("h1", *BY_HAND, *IPAM, "mine")
    try:
        fleet.start("h1", "by-hand", "--network", "mine")
        fleet.start("h2", "client")
        fleet.reach("h2", "client", "by-hand")
        fleet.remove_from("h1", "by-hand")
    finally:
        fleet.runtime("h1", "network", "rm", "mine")
    assert "app" in fleet.networks("h1")


def test_a_foreign_network_of_that_name_is_left_alone_and_reported(docker_hosts: Fleet) -> None:
    fleet = docker_hosts
    for host in ("h1", "h3"):
        fleet.runtime(host, "network", "create", "shared")
    try:
        fleet.netagent("h2", "network", "create", "shared")
        fleet.wait(lambda: "shared" in fleet.networks("h2"), SPREAD_S, "h2 has no mirror")
        for host in ("h1", "h3"):
            fleet.wait(lambda: "shared" in status(fleet, host), SPREAD_S, f"{host} says nothing")
            shown = fleet.inspect(host, "shared", "network")
            assert shown.get("Driver", shown.get("driver")) == "bridge"
        fleet.netagent("h2", "network", "rm", "shared")
        fleet.wait(lambda: "shared" not in fleet.networks("h2"), SPREAD_S, "the mirror stays on h2")
        for host in ("h1", "h3"):
            fleet.wait(lambda: "shared" not in status(fleet, host), SPREAD_S, f"{host} still warns")
            assert "shared" in fleet.networks(host)
    finally:
        for host in ("h1", "h3"):
            fleet.runtime(host, "network", "rm", "shared")


def test_a_mirror_that_was_removed_by_hand_is_made_again(docker_hosts: Fleet) -> None:
    fleet = docker_hosts
    for host in ("h1", "h3"):
        fleet.runtime(host, "network", "rm", "app")
        fleet.wait(lambda: "app" in fleet.networks(host), SPREAD_S, f"no mirror on {host}")
        fleet.start(host, f"c-{host}")
    fleet.reach("h1", "c-h1", "c-h3")


def test_prune_leaves_nothing_of_a_pruned_network(docker_hosts: Fleet) -> None:
    fleet = docker_hosts
    fleet.start("h1", "web")
    fleet.runtime("h1", "kill", "web")
    fleet.runtime("h1", "container", "prune", "-f")
    fleet.runtime("h1", "network", "prune", "-f")
    fleet.wait_endpoints([])
    fleet.wait(lambda: "app" in fleet.networks("h1"), SPREAD_S, "the mirror does not come back")
    fleet.start("h1", "web")
    fleet.wait_endpoints(["web"])


def status(fleet: Fleet, host: str) -> str:
    return "\n".join(map(str, fleet.netagent(host, "status")["warnings"]))
