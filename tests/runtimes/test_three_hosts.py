"""Two dockerds and a podman share one network: what a user does first."""

from __future__ import annotations

import itertools
import json
import re
from functools import partial
from pathlib import Path

import pytest
from netlab import demo_web
from runtimes.harness import PROGRAMS_OF_THE_MACHINE, REDIS, REDIS_OPTIONS, SPREAD_S, Fleet

pytestmark = pytest.mark.runtimes

PODMAN_API = "unix:///run/podman.sock"
FETCH = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=9).read().decode())"
COMPOSE = """
x-common: &common
  image: lab
  pull_policy: never
  volumes: ["/usr:/usr:ro", "{netlab}:/web:ro"]
  networks: [app]
services:
  client:
    <<: *common
  web:
    <<: *common
    command: [python3, /web/demo_web.py]
    external_links: ["redis:database"]
    labels:
      netagent.expose: http=80/tcp
  redis:
    <<: *common
    command: {redis}
networks:
  app:
    external: true
"""


def test_containers_of_three_hosts_reach_each_other_by_name(docker_hosts: Fleet) -> None:
    fleet = docker_hosts
    names = {host: f"c-{host}" for host in fleet.hosts}
    for host, name in names.items():
        fleet.start(host, name)
    fleet.wait_endpoints(list(names.values()))
    for (host, name), (_, other) in itertools.permutations(names.items(), 2):
        fleet.reach(host, name, other)
    for other in names.values():
        expected = fleet.addresses(other)
        assert len(expected) == 2, "one of each family"
        for host, name in names.items():
            if name != other:  # and has reached it by name
                assert fleet.resolve(host, name, other) == expected
                assert fleet.resolve(host, name, f"{other}.app.mesh.internal") == expected


def test_containers_of_each_runtime_read_feeds(docker_hosts: Fleet) -> None:
    """Also where Docker's own resolver has 127.0.0.11."""
    fleet = docker_hosts
    names = {host: f"c-{host}" for host in fleet.hosts}
    for host, name in names.items():
        fleet.start(host, name)
    fleet.wait_endpoints(list(names.values()))
    url = "http://127.0.0.11:7953/services"

    def has_feed(host: str) -> bool:
        done = fleet.execute(host, names[host], "python3", "-c", FETCH, url)
        seen = json.loads(done.stdout)["items"] if done.status == 0 else []
        return [item["name"] for item in seen] == sorted(names.values())

    for host in fleet.hosts:
        fleet.wait(partial(has_feed, host), SPREAD_S, f"no feed on {host}")


@pytest.mark.parametrize("host", ["h1", "h3"])
def test_names_resolve_from_the_first_instant(docker_hosts: Fleet, host: str) -> None:
    fleet = docker_hosts
    fleet.start("h2", "web")
    expected = fleet.addresses("web", seen_from="h2")  # alone in the network, it alone knows
    for _ in range(10):
        done = fleet.ask_once(host, "getent", "ahosts", "web")
        assert done.status == 0, f"{done.stderr}\n{fleet.lab.host(host).log_tail()}"
        assert sorted({line.split()[0] for line in done.stdout.splitlines()}) == expected


def test_a_compose_file_spread_over_the_hosts(docker_hosts: Fleet, tmp_path: Path) -> None:
    fleet = docker_hosts
    file = tmp_path / "compose.yml"
    file.write_text(
        COMPOSE.format(netlab=Path(demo_web.__file__).parent, redis=json.dumps([*REDIS, *REDIS_OPTIONS]))
    )
    compose = ("-f", str(file), "-p", "shop")
    h3 = fleet.lab.host("h3")
    h3.start(["podman", "system", "service", "--time", "0", PODMAN_API], tmp_path / "podman.log")
    of_podman = ["env", f"DOCKER_HOST={PODMAN_API}"]
    fleet.wait(
        lambda: h3.run([*of_podman, "docker", "version"]).status == 0, SPREAD_S, "podman serves no API"
    )
    try:
        h3.must([*of_podman, "docker-compose", *compose, "up", "-d", "redis"], timeout_s=60.0)
        fleet.runtime("h2", "compose", *compose, "up", "-d", "web")
        fleet.runtime("h1", "compose", *compose, "up", "-d", "client")
        fetch = ("curl", "-s", "-f", "-m", "2", "http://web/")
        pages: list[str] = []

        def is_answered() -> bool:
            done = fleet.execute("h1", "shop-client-1", *fetch)
            pages.append(done.stdout)
            return done.status == 0

        fleet.wait(is_answered, SPREAD_S, "web does not answer")
        assert re.fullmatch(r"hello from [0-9a-f]{12}, visit \d+\n", pages[-1]), pages
    finally:
        for host in ("h1", "h2"):
            fleet.try_runtime(host, "compose", *compose, "down", "-t", "0")


def test_a_container_has_a_way_out_and_published_ports(docker_hosts: Fleet) -> None:
    fleet = docker_hosts
    command = ["python3", "-m", "http.server", "80"]
    fleet.start("h1", "web", "-p", "8080:80", command=command)
    fetch = ["curl", "-s", "-f", "-o", "/dev/null", "-m", "2", "http://192.0.2.1:8080/"]
    fleet.wait(lambda: fleet.lab.host("h2").run(fetch).status == 0, SPREAD_S, "the published port is closed")
    # Two tries of ARP, as the host may ask for its neighbour's address anew.
    assert fleet.execute("h1", "web", "ping", "-c", "1", "-W", "3", "192.0.2.3").status == 0


def test_an_internal_network_has_no_way_out(docker_hosts: Fleet) -> None:
    fleet = docker_hosts
    fleet.netagent("h1", "network", "create", "closed", "--internal")
    try:
        fleet.wait(lambda: "closed" in fleet.networks("h2"), SPREAD_S, "no network on h2")
        for host in ("h1", "h2"):
            fleet.wait(lambda: "closed" in fleet.networks(host), SPREAD_S, f"no network on {host}")
            fleet.start(host, f"c-{host}", "--network", "closed")
        fleet.reach("h1", "c-h1", "c-h2")
        assert fleet.execute("h1", "c-h1", "ping", "-c", "1", "-W", "1", "192.0.2.3").status != 0
        assert fleet.inspect("h1", "closed", "network")["Internal"]
        for host in ("h1", "h2"):
            fleet.remove_from(host, f"c-{host}")
    finally:
        fleet.netagent("h1", "network", "rm", "closed", "--force")
    for host in fleet.hosts:
        fleet.wait(lambda: "closed" not in fleet.networks(host), SPREAD_S, f"closed stays on {host}")


def test_a_network_with_an_egress_has_no_other_way_out(docker_hosts: Fleet) -> None:
    """Docker gives no second interface there; netagent's route is the container's, and its rules hold."""
    fleet = docker_hosts
    fleet.netagent("h1", "network", "create", "held", "--egress", "192.0.2.3")
    try:
        for host in fleet.hosts:
            fleet.wait(lambda: fleet.has_network(host, "held"), SPREAD_S, f"no network on {host}")
            fleet.start(host, f"c-{host}", "--network", "held")

        def passes(host: str, address: str) -> bool:
            return fleet.execute(host, f"c-{host}", "ping", "-c", "1", "-W", "2", address).status == 0

        for host, other in (("h1", "192.0.2.2"), ("h2", "192.0.2.1")):
            fleet.wait(lambda: passes(host, "192.0.2.3"), SPREAD_S, f"c-{host} does not get out")
            assert not passes(host, other)
        assert not passes("h3", "192.0.2.1")
        fleet.netagent("h2", "network", "set", "held", "--egress", "none")
        for host in ("h1", "h2"):
            fleet.wait(lambda: not passes(host, "192.0.2.3"), SPREAD_S, f"c-{host} still gets out")
        fleet.reach("h1", "c-h1", "c-h2")
        for host in fleet.hosts:
            fleet.remove_from(host, f"c-{host}")
    finally:
        fleet.netagent("h1", "network", "rm", "held", "--force")
    for host in fleet.hosts:
        fleet.wait(lambda: not fleet.has_network(host, "held"), SPREAD_S, f"held stays on {host}")


def test_a_pod_is_one_place(docker_hosts: Fleet) -> None:
    fleet = docker_hosts
    fleet.runtime("h3", "pod", "create", "--name", "shop", "--network", "app")
    command = ["python3", "-m", "http.server", "80"]
    fleet.runtime(
        "h3", "run", "-d", "--pod", "shop", "--name", "a", *PROGRAMS_OF_THE_MACHINE, "lab", *command
    )
    fleet.start("h1", "client")
    fleet.wait(lambda: len(fleet.endpoint_names("h1")) == 2, SPREAD_S, "h1 knows no pod")
    (pod,) = fleet.netagent("h1", "endpoints", "--host", "h3")
    fetch = ("curl", "-s", "-f", "-o", "/dev/null", "-m", "2", f"http://{pod['name']}/")
    fleet.wait(lambda: fleet.execute("h1", "client", *fetch).status == 0, SPREAD_S, f"no answer by {pod}")
