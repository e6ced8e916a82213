"""Addresses of services in containers of Docker and Podman, whichever way a program gets into them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from runtimes.harness import PROGRAMS_OF_THE_MACHINE, RUNTIME, SPREAD_S, Fleet

pytestmark = pytest.mark.runtimes

PORT = "8080"
IN_SHOP = ("--network", "shop")
SERVE = ("httpd", "-f", "-p", f"[::]:{PORT}", "-h", "/tmp")
CURL_REFUSED = 7
ONCE = """
for address in {addresses}; do
    curl -s -m 5 -o /dev/null -w '%{{remote_ip}} %{{local_ip}}\\n' "http://$address:{port}/"
done
"""
"""With whom curl thinks it talks, and as whom."""


def asking(addresses: list[str], port: str = PORT) -> tuple[str, ...]:
    listed = " ".join(f"[{one}]" if ":" in one else one for one in addresses)
    return "sh", "-c", ONCE.format(addresses=listed, port=port)


@pytest.fixture
def shop(docker_hosts: Fleet) -> Iterator[Fleet]:
    """The hosts with a network that gives each of its services an address."""
    docker_hosts.netagent("h1", "network", "create", "shop", "--service-addresses", "on")
    for host in docker_hosts.hosts:
        docker_hosts.wait(
            lambda: docker_hosts.has_network(host, "shop"), SPREAD_S, f"{host} has no network shop"
        )
    yield docker_hosts
    docker_hosts.empty()
    docker_hosts.netagent("h1", "network", "rm", "shop")
    for host in docker_hosts.hosts:
        docker_hosts.wait(
            lambda: not docker_hosts.has_network(host, "shop"), SPREAD_S, f"{host} keeps the network shop"
        )


def serving(fleet: Fleet) -> list[str]:
    """A replica each on h1 and h3; return the addresses of their service, once containers on all hosts get them."""
    for host in ("h1", "h3"):
        fleet.start(host, f"web-{host}", *IN_SHOP, "--label", "netagent.service=web", command=SERVE)
    replicas = {
        address for host in ("h1", "h3") for address in fleet.addresses(f"web-{host}", network="shop")
    }
    found: list[list[str]] = []

    def is_own() -> bool:
        found[:] = [fleet.resolve(host, f"cli-{host}", "web") for host in fleet.hosts]
        return all(one == found[0] and len(one) == 2 and not {*one} & replicas for one in found)

    for host in fleet.hosts:
        fleet.start(host, f"cli-{host}", *IN_SHOP)
    fleet.wait(is_own, SPREAD_S, lambda: f"names lead to {found}")
    return found[0]


def test_programs_of_containers_are_led_on_however_they_are_started(shop: Fleet) -> None:
    fleet = shop
    addresses = serving(fleet)
    for host in fleet.hosts:
        name, program = f"cli-{host}", asking(addresses)
        own = {":" in one: one for one in fleet.addresses(name, host, "shop")}
        wanted = [f"{one} {own[':' in one]}" for one in addresses]

        def runs(*words: str, host: str = host) -> list[str]:
            return fleet.runtime(host, *words).splitlines()

        assert runs("exec", name, *program) == wanted
        assert runs("exec", "--privileged", name, *program) == wanted
        joined = ("run", "--rm", "--network", f"container:{name}", "-v", "/usr:/usr:ro")
        assert runs(*joined, "lab", *program) == wanted, (
            f"a container of {RUNTIME[host]} in another's network"
        )
        assert runs(*joined, "--cgroupns=host", "lab", *program) == wanted
        assert runs(*joined, "--privileged", "lab", *program) == wanted
        # Its first program, in its first moment, in a namespace of its own.
        first = fleet.ask_once(host, *program, network="shop")
        assert [line.split()[0] for line in first.stdout.splitlines()] == addresses, first
        refused = fleet.execute(host, name, "curl", "-s", "-m", "5", f"http://{addresses[0]}:81/")
        assert refused.status == CURL_REFUSED
        fleet.reach(host, name, "web")


def test_a_restarted_container_is_led_on_again_and_one_of_no_network_of_ours_never(
    shop: Fleet,
) -> None:
    fleet = shop
    addresses = serving(fleet)
    for host in ("h1", "h3"):
        fleet.runtime(host, "restart", "-t", "0", f"cli-{host}")
        fleet.wait(
            lambda: fleet.resolve(host, f"cli-{host}", "web") == addresses,
            SPREAD_S,
            f"names in the restarted container of {host} lead elsewhere",
        )
        lines = fleet.execute(host, f"cli-{host}", *asking(addresses)).stdout.splitlines()
        assert [line.split()[0] for line in lines] == addresses
        other = fleet.try_runtime(
            host,
            "run",
            "--rm",
            "-v",
            "/usr:/usr:ro",
            "lab",
            "curl",
            "-s",
            "-m",
            "2",
            f"http://{addresses[0]}:{PORT}/",
        )
        assert other.status != 0


def test_a_label_gives_an_address_in_docker_in_podman_and_in_a_compose_file(
    docker_hosts: Fleet, tmp_path: Path
) -> None:
    fleet, asks = docker_hosts, {"netagent.address": "true"}
    service = {"image": "lab", "volumes": [PROGRAMS_OF_THE_MACHINE[1]], "networks": ["app"]}
    deployed = {**service, "deploy": {"labels": asks}}
    file = tmp_path / "compose.json"
    file.write_text(
        json.dumps(
            {
                "services": {"labelled": {**service, "labels": asks}, "deployed": deployed},
                "networks": {"app": {"external": True}},
            }
        )
    )

    def addressed() -> list[str]:
        return sorted(one["id"] for one in fleet.netagent("h1", "services") if one["service_addresses"])

    for host in ("h1", "h3"):
        fleet.start(host, f"of-{RUNTIME[host]}", "--label", "netagent.address=true")
    compose = ("compose", "-f", str(file), "-p", "project")
    fleet.runtime("h1", *compose, "up", "-d")
    try:
        fleet.start("h1", "plain")
        # Compose passes labels of `deploy` to no container.
        wanted = sorted(["labelled.project.app", *(f"of-{RUNTIME[host]}.app" for host in ("h1", "h3"))])
        fleet.wait(lambda: addressed() == wanted, SPREAD_S, lambda: f"with an address: {addressed()}")
    finally:
        fleet.try_runtime("h1", *compose, "down", "-t", "0")
