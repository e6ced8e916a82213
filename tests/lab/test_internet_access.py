"""What containers reach outside, and who is kept apart."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lab.harness import Cluster

pytestmark = pytest.mark.lab

WHOAMI = str(Path(__file__).with_name("whoami.py"))
OUTSIDE = ("192.0.2.254", "2001:db8::fe")
"""The fabric itself."""
SWITCHES = (
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/net/ipv4/conf/eth0/forwarding",
    "/proc/sys/net/ipv6/conf/all/forwarding",
    "/proc/sys/net/ipv6/conf/eth0/force_forwarding",
)


@contextmanager
def outside_web(cluster: Cluster) -> Iterator[None]:
    namespace = f"{cluster.lab.folder.name}-fabric"
    command = ["ip", "netns", "exec", namespace, sys.executable, WHOAMI, "80"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()


def seen_as(cluster: Cluster, container: str, address: str) -> str:
    """As whom a web server sees a container; "" when it can't be reached."""
    host = f"[{address}]" if ":" in address else address
    return cluster.inside(container, "curl", "-s", "--max-time", "3", f"http://{host}/").stdout


def switches(cluster: Cluster, host: str) -> list[str]:
    return cluster.lab.host(host).must(["cat", *SWITCHES]).split()


def test_scenario_03_networks_are_apart_and_each_host_is_the_way_out(cluster: Cluster) -> None:
    for number in (1, 2):  # the lab gives its hosts one family, and no way beyond the fabric
        host = cluster.lab.host(f"h{number}")
        host.must(["ip", "address", "add", f"2001:db8::{number}/64", "dev", "eth0", "nodad"])
        for address in OUTSIDE:
            host.must(["ip", "route", "add", "default", "via", address])
    before = {host: switches(cluster, host) for host in ("h1", "h2")}
    assert before["h1"] == ["0"] * 4
    for name, options in {"app": [], "back": [], "closed": ["--internal"]}.items():
        cluster.netagent("h1", "network", "create", name, *options)
    web = cluster.attach("h1", "web", command=("python3", WHOAMI, "80"))
    cluster.attach("h2", "cli")
    store = cluster.attach("h2", "store", "--network", "back", command=("python3", WHOAMI, "80"))
    cluster.attach("h1", "hermit", "--network", "closed")
    cluster.wait(lambda: seen_as(cluster, "cli", web["addresses"][0]) != "", 10.0, "web does not serve")
    cluster.wait(lambda: seen_as(cluster, "store", "127.0.0.1") != "", 10.0, "store does not serve")

    with outside_web(cluster):
        for container, number in (("web", 1), ("cli", 2), ("store", 2)):
            found = [seen_as(cluster, container, address) for address in OUTSIDE]
            assert found == [f"192.0.2.{number}", f"2001:db8::{number}"], "in the name of its own host"
        assert [seen_as(cluster, "hermit", address) for address in OUTSIDE] == ["", ""]
        check_egress(cluster)
    assert [seen_as(cluster, "cli", address) for address in web["addresses"]] == sorted(
        endpoint_of(cluster, "cli")["addresses"], key=lambda address: ":" in address
    ), "on the overlay each container keeps its own address"

    # Two networks: no name, no way, whether both are on the host or not, and whatever routes a user makes.
    assert cluster.ask("cli", "store.back.mesh.internal").status == "NXDOMAIN"
    gateways = cluster.netagent("h1", "network", "inspect", "app")["gateways"]
    for container in ("cli", "web"):
        for address, gateway in zip(store["addresses"], gateways, strict=True):
            assert seen_as(cluster, container, address) == ""
            cluster.inside(container, "ip", "route", "add", address, "via", gateway)
            assert seen_as(cluster, container, address) == "", "by the gateway"
    assert cluster.netagent("h2", "status")["refused"]["packets_crossed"] > 0
    assert cluster.netagent("h1", "status")["refused"]["packets_crossed"] > 0

    # The host takes no part, and is no router for its neighbours.
    with served(cluster, "h1"):
        assert [seen_as(cluster, "web", address) for address in ("192.0.2.1", *gateways)] == ["", "", ""]
        assert (
            cluster.lab.host("h1")
            .run(["curl", "-s", "--max-time", "2", f"http://{web['addresses'][0]}/"])
            .stdout
            == ""
        )
    assert cluster.netagent("h1", "network", "inspect", "closed")["gateways"] == []
    assert switches(cluster, "h1") == ["0", "1", "0", "1"]

    cluster.lab.remove_container("web")
    cluster.wait(lambda: switches(cluster, "h1") == before["h1"], 5.0, "switches are not turned back")
    cluster.netagent("h2", "leave", "--drain", "0s")
    cluster.wait(lambda: switches(cluster, "h2") == before["h2"], 5.0, "a host that left still routes")


def check_egress(cluster: Cluster) -> None:
    """A network whose containers connect only to what is listed, on all hosts, from the next packet on."""
    cluster.netagent("h1", "network", "create", "held", "--egress", f"{OUTSIDE[0]}:80/tcp")
    for container, number in (("held1", 1), ("held2", 2)):
        cluster.attach(f"h{number}", container, "--network", "held")

    def reached(container: str) -> list[str]:
        return [seen_as(cluster, container, address) for address in OUTSIDE]

    def set_egress(host: str, egress: str) -> None:
        cluster.netagent(host, "network", "set", "held", "--egress", egress)

    assert [reached("held1"), reached("held2")] == [["192.0.2.1", ""], ["192.0.2.2", ""]]
    for host, egress, wanted in (
        ("h2", "none", [["", ""], ["", ""]]),
        ("h1", f"[{OUTSIDE[1]}]:80,198.51.100.0/24", [["", "2001:db8::1"], ["", "2001:db8::2"]]),
        ("h3", "open", [["192.0.2.1", "2001:db8::1"], ["192.0.2.2", "2001:db8::2"]]),
        ("h1", "none", [["", ""], ["", ""]]),
    ):
        set_egress(host, egress)
        cluster.wait(
            lambda: [reached("held1"), reached("held2")] == wanted,
            5.0,
            f"the egress {egress} is not in force",
        )
    assert cluster.netagent("h2", "status")["refused"]["packets_unlisted"] > 0
    refused = cluster.try_netagent("h1", "network", "set", "held", "--internal", "yes")
    assert "cannot be internal and have an egress" in refused.stderr
    refused = cluster.try_netagent("h1", "network", "set", "held", "--egress", "example.org")
    assert (refused.status, "'example.org' is no address" in refused.stderr) == (2, True)
    refused = cluster.try_netagent(
        "h1", "service", "add", "pg", "--address", f"{OUTSIDE[0]}:5432", "--network", "held"
    )
    assert "the egress of network held does not list" in refused.stderr
    for container in ("held1", "held2"):
        cluster.lab.remove_container(container)
    cluster.netagent("h1", "network", "rm", "held")


@contextmanager
def served(cluster: Cluster, host: str) -> Iterator[None]:
    with subprocess.Popen(
        cluster.lab.host(host).entering(["python3", WHOAMI, "80"]), stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()


def endpoint_of(cluster: Cluster, name: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = json.loads(
        cluster.lab.host("h1").must(["netagent", "endpoints", "--json"])
    )["items"]
    return next(one for one in found if one["name"] == name)


def test_host_access_lets_hosts_and_containers_reach_each_other(cluster: Cluster) -> None:
    """Every host has an address of its own in the network, whether or not it has containers there."""
    refused = cluster.try_netagent("h1", "network", "create", "x", "--host-access", "--policy", "links")
    assert refused.status == 2
    cluster.netagent("h1", "network", "create", "app", "--host-access")
    web = cluster.attach("h2", "web", command=("python3", WHOAMI, "80"))
    for host in cluster.hosts:
        cluster.wait(lambda: len(own_addresses(cluster, host)) == 3, 5.0, "not every host has an address")
    own = own_addresses(cluster, "h3")
    cluster.wait(lambda: cluster.endpoint_names("h1") == ["web"], 5.0, "h1 does not know the container")
    (listed,) = cluster.netagent("h1", "network", "ls")
    assert listed["use"]["used"] == 4, "three hosts and a container"
    assert {one["host"]: one["used"] for one in listed["use"]["owners"]} == {"h1": 1, "h2": 2, "h3": 1}
    assert cluster.netagent("h3", "inspect", own["h1"][0])["name"] == "h1"
    assert not {one for addresses in own.values() for one in addresses} & set(web["addresses"])
    for address in web["addresses"]:
        for host in ("h1", "h2", "h3"):
            family = ":" in address
            mine = next(one for one in own[host] if (":" in one) is family)
            curl = ["curl", "-s", "--max-time", "2", f"http://{f'[{address}]' if family else address}/"]
            cluster.wait(
                lambda: cluster.lab.host(host).run(curl).stdout == mine,
                5.0,
                f"{host} does not reach {address} as {mine}",
            )
    with served(cluster, "h1"), served(cluster, "h2"):
        for address in (*own["h1"], *own["h2"]):
            assert seen_as(cluster, "web", address) in web["addresses"], (
                f"the container does not reach {address}"
            )
        assert seen_as(cluster, "web", "192.0.2.2") == "", "not by another address of its host"
    assert cluster.endpoint_names("h1") == ["web"], "hosts are no endpoints"

    with cluster.agent_of("h3") as third:
        third.stop_agent()
        third.start_agent()
    cluster.wait(lambda: own_addresses(cluster, "h3") == own, 5.0, "it does not keep the same one")
    cluster.netagent("h3", "leave", "--drain", "0s")
    cluster.wait(lambda: set(own_addresses(cluster, "h1")) == {"h1", "h2"}, 5.0, "h3 keeps its address")
    cluster.netagent("h1", "network", "rm", "app", "--force")
    cluster.wait(
        lambda: not any(name.startswith("na-") for _, name in cluster.devices("h1")), 5.0, "a bridge is left"
    )


def own_addresses(cluster: Cluster, host: str) -> dict[str, list[str]]:
    """Of each host in the network, as this one sees it."""
    found = cluster.netagent(host, "network", "inspect", "app")["host_addresses"]
    return {one["host"]: one["addresses"] for one in found}
