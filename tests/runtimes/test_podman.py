"""Podman alone on two hosts: what its users type, and what its program forgets to tell."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from lab.harness import Cluster
from netlab.lab import Lab
from netlab.programs import Finished
from netlab.topology import of_hosts
from runtimes.harness import SPREAD_S, wait_promised

pytestmark = pytest.mark.runtimes

LOOKED_S = 2.0
"""In this time the agent has looked at Podman's containers several times."""


class PodmanHosts(Cluster):
    """h1 and h2 with a network `app`; on h2 runs a container `cli`, from which names are asked."""

    def try_podman(self, *words: str, host: str = "h1") -> Finished:
        return self.lab.host(host).run(["podman", *words], timeout_s=60.0)

    def podman(self, *words: str, host: str = "h1") -> str:
        done = self.try_podman(*words, host=host)
        assert done.status == 0, f"podman {words}: {done.stderr}\n{self.lab.host(host).log_tail()}"
        return done.stdout.strip()

    def start(self, name: str, *options: str, host: str = "h1") -> None:
        self.podman("run", "-d", "--name", name, "--network", "app", *options, "lab", host=host)

    def asked(self, name: str, *, container: str = "cli", host: str = "h2") -> set[str]:
        """The IPv4 addresses that busybox's nslookup gets for a bare name, by the container's resolv.conf."""
        done = self.try_podman("exec", container, "nslookup", "-type=a", name, host=host)
        lines = [line.split() for line in done.stdout.splitlines()]
        return {words[1] for words in lines if words[:1] == ["Address:"] and ":" not in words[1]}

    def known(self, name: str, host: str = "h2") -> dict[str, object] | None:
        """The endpoint as that host lists it."""
        found = [one for one in self.netagent(host, "endpoints", "--local") if one["name"] == name]
        return found[0] if found else None

    def until(self, condition: Callable[[], bool], what: str) -> None:
        self.wait(condition, SPREAD_S, what)

    def networks(self, host: str = "h1") -> set[str]:
        return set(self.podman("network", "ls", "--format", "{{.Name}}", host=host).split())

    def empty(self) -> None:
        self.podman("pod", "rm", "-fa")
        self.try_podman("rm", "-fa")  # of a container whose conmon was killed it complains, once
        self.podman("rm", "-fa")
        self.until(lambda: [one["name"] for one in self.netagent("h2", "endpoints")] == ["cli"], "not empty")


@pytest.fixture(scope="module")
def two_hosts() -> Iterator[PodmanHosts]:
    lab = Lab(Path(f"/run/natlab-podman{os.getpid()}"))
    try:
        lab.up(of_hosts(2))
        for name in ("h1", "h2"):
            with lab.changing(name) as host:
                host.install("podman")
                host.podman.prepare()
                host.stop_agent()
                host.start_agent()
        with ThreadPoolExecutor(4) as pool:
            hosts = PodmanHosts(lab, pool)
            hosts.netagent("h1", "network", "create", "app")
            for name in ("h1", "h2"):
                hosts.until(lambda: "app" in hosts.networks(name), f"no network app on {name}")
            hosts.start("cli", host="h2")
            yield hosts
    finally:
        lab.down()


@pytest.fixture
def hosts(two_hosts: PodmanHosts) -> Iterator[PodmanHosts]:
    yield two_hosts
    two_hosts.empty()


def test_a_container_has_its_names_on_both_hosts_as_soon_as_podman_run_returns(hosts: PodmanHosts) -> None:
    hosts.start(
        *("web", "--network-alias", "Front", "-l", "netagent.service=shop"),
        *("-l", "netagent.expose=http=80", "-l", "netagent.weight=7"),
    )
    address = hosts.podman("inspect", "web", "--format", "{{.NetworkSettings.Networks.app.IPAddress}}")
    for name in ("web", "front"):
        assert hosts.asked(name, container="web", host="h1") == {address}
        hosts.until(lambda: hosts.asked(name) == {address}, f"h2 lacks the name {name}")
    hosts.until(lambda: hosts.asked("shop") == {address}, "the label netagent.service is not followed")
    found = hosts.lab.host("h2").run(["netagent", "lookup", "_http._tcp.shop", "SRV", "--json"]).stdout
    assert [one["data"] for one in json.loads(found)["answers"]] == ["0 7 80 web.h1.app.mesh.internal."]
    conf = hosts.podman("exec", "web", "cat", "/etc/resolv.conf").splitlines()
    assert conf == ["search app.mesh.internal mesh.internal", "nameserver 127.0.0.11"]
    assert hosts.try_podman("exec", "cli", "ping", "-c", "1", "web", host="h2").status == 0
    # The first and only thing that a container does; busybox complains of the search domains that don't have it.
    first = hosts.try_podman("run", "--rm", "--network", "app", "lab", "nslookup", "web", host="h2")
    assert f"Address: {address}" in first.stdout
    hosts.podman("rm", "-f", "web")
    hosts.until(lambda: not hosts.asked("web"), "the name outlives its container")


def test_address_mac_and_interface_are_as_asked_for_and_refused_with_a_sentence(hosts: PodmanHosts) -> None:
    (subnet, _) = json.loads(hosts.podman("network", "inspect", "app"))[0]["subnets"]
    wanted = subnet["gateway"].rsplit(".", 1)[0] + ".77"
    options = f"app:ip={wanted},mac=06:00:00:00:00:77,interface_name=ov0"
    hosts.podman("run", "-d", "--name", "fixed", "--network", options, "lab")
    hosts.until(lambda: hosts.asked("fixed") == {wanted}, "h2 lacks the name")
    assert "06:00:00:00:00:77" in hosts.podman("exec", "fixed", "cat", "/sys/class/net/ov0/address")
    for address, says in (
        (wanted, "belongs to fixed on host h1"),
        ("10.0.0.9", "is not a usable address of network app"),
    ):
        done = hosts.try_podman("run", "--rm", "--network", "app", "--ip", address, "lab", host="h2")
        assert done.status != 0
        assert says in done.stderr


def test_a_container_that_is_killed_comes_back_under_its_name(hosts: PodmanHosts) -> None:
    hosts.start("web", "--restart", "always")
    before = hosts.podman("inspect", "web", "--format", "{{.State.Pid}}")
    hosts.lab.host("h1").must(["kill", "-9", before])
    hosts.until(
        lambda: hosts.podman("inspect", "web", "--format", "{{.State.Pid}}") not in {before, "0"}, "dead"
    )
    hosts.until(lambda: bool(hosts.asked("web")), "no name after the restart")
    hosts.podman("restart", "web")
    # No name leads to it before Podman has been asked whether it has a health check.
    hosts.until(lambda: bool(hosts.asked("web", container="web", host="h1")), "no name of its own")
    own = hosts.asked("web", container="web", host="h1")
    hosts.until(lambda: hosts.asked("web") == own, "another address after the restart")


def test_a_container_whose_cleanup_never_runs_is_withdrawn(hosts: PodmanHosts) -> None:
    hosts.start("web")
    pids = hosts.podman("inspect", "web", "--format", "{{.State.ConmonPid}} {{.State.Pid}}").split()
    hosts.until(lambda: hosts.known("web") is not None, "not there")
    hosts.lab.host("h1").must(["kill", "-9", *pids])
    wait_promised(lambda: hosts.known("web") is None, "the endpoint stays", time.monotonic())


def test_a_monitor_that_dies_alone_costs_no_container_a_name(hosts: PodmanHosts) -> None:
    hosts.start("web")
    hosts.lab.host("h1").must(
        ["kill", "-9", hosts.podman("inspect", "web", "--format", "{{.State.ConmonPid}}")]
    )
    time.sleep(LOOKED_S)  # nothing may happen in this time
    assert hosts.asked("web")


def test_what_happens_while_the_agent_is_away_is_found_when_it_is_back(hosts: PodmanHosts) -> None:
    hosts.start("web")
    hosts.start("crashed")
    hosts.start("stays")
    pids = hosts.podman("inspect", "crashed", "--format", "{{.State.ConmonPid}} {{.State.Pid}}").split()
    with hosts.lab.changing("h1") as host:
        host.kill_agent()
        hosts.try_podman("rm", "-f", "web")  # complains that no agent runs, and removes it
        host.must(["kill", "-9", *pids])
        assert hosts.asked("cli", container="stays", host="h1"), "names are answered without an agent"
        refused = hosts.try_podman("run", "--rm", "--network", "app", "lab")
        assert "no agent runs on this host" in refused.stderr
        host.start_agent()
    hosts.until(lambda: hosts.known("web") is None and hosts.known("crashed") is None, "they stay")
    assert hosts.asked("stays")


def test_a_pod_is_one_endpoint_and_as_well_as_its_containers(hosts: PodmanHosts) -> None:
    hosts.podman("pod", "create", "--name", "shop", "--network", "app", "--label", "netagent.service=front")
    check = ("--health-cmd", "test -e /tmp/ok", "--health-retries", "1", "--health-interval", "disable")
    hosts.podman("run", "-d", "--pod", "shop", "--name", "member", *check, "lab")
    hosts.until(lambda: bool(hosts.asked("front")), "the pod has no name")
    assert hosts.asked("cli", container="member", host="h1")
    hosts.try_podman("healthcheck", "run", "member")
    # The agent may still be asking Podman who is in the pod by now.
    hosts.until(lambda: not hosts.asked("front"), "an unhealthy pod keeps its service's name")
    for is_well in (True, False):
        hosts.podman("exec", "member", *(["touch"] if is_well else ["rm"]), "/tmp/ok")
        hosts.try_podman("healthcheck", "run", "member")
        wait_promised(
            lambda: bool(hosts.asked("front")) is is_well,
            f"the pod is well: {is_well}, and its service's name says otherwise",
            time.monotonic(),
        )


def test_networks_are_connected_and_disconnected_in_a_running_container(hosts: PodmanHosts) -> None:
    hosts.netagent("h1", "network", "create", "back")
    hosts.until(lambda: "back" in hosts.networks(), "no network back")
    hosts.start("web")
    hosts.podman("network", "connect", "--alias", "behind", "back", "web")
    assert hosts.asked("behind.back.mesh.internal", container="web", host="h1")
    hosts.podman("network", "disconnect", "app", "web")
    hosts.until(lambda: not hosts.asked("web"), "it left the network and has a name in it")
    # Podman takes the server of both away with one. A look-up without any server takes seconds, so none is tried.
    hosts.until(
        lambda: "nameserver 127.0.0.11" in hosts.podman("exec", "web", "cat", "/etc/resolv.conf"),
        "it lost its name server",
    )
    assert hosts.asked("behind.back.mesh.internal", container="web", host="h1")
    hosts.podman("network", "connect", "app", "web")
    hosts.until(lambda: bool(hosts.asked("web")), "it is back and has no name")
    hosts.podman("rm", "-f", "web")
    hosts.netagent("h1", "network", "rm", "back")
    hosts.until(lambda: "back" not in hosts.networks(), "Podman's network stays")


def test_a_second_network_of_podman_gives_the_way_out_and_published_ports(hosts: PodmanHosts) -> None:
    hosts.start("web", "--network", "podman", "-p", "8080:80")
    assert "default via" in hosts.podman("exec", "web", "ip", "route")
    assert hosts.try_podman("exec", "web", "ping", "-c", "1", "-W", "2", "192.0.2.2").status == 0
    serve = "mkdir /tmp/w && echo hello >/tmp/w/index.html && httpd -h /tmp/w"
    hosts.podman("exec", "web", "sh", "-c", serve)
    fetched = hosts.lab.host("h2").must(
        ["busybox", "wget", "-T", "3", "-q", "-O", "-", "http://192.0.2.1:8080/"]
    )
    assert fetched.strip() == "hello"
    hosts.until(lambda: bool(hosts.asked("web")), "no name")
    inside = hosts.try_podman("exec", "cli", "wget", "-T", "3", "-q", "-O", "-", "http://web/", host="h2")
    assert inside.stdout.strip() == "hello"


def test_a_container_in_our_network_alone_publishes_its_ports(hosts: PodmanHosts) -> None:
    hosts.start("web", "-p", "8081:80")
    serve = "mkdir /tmp/w && echo hello >/tmp/w/index.html && httpd -h /tmp/w"
    hosts.podman("exec", "web", "sh", "-c", serve)

    def fetched(host: str, address: str) -> str:
        url = f"http://{address}:8081/"
        return hosts.lab.host(host).run(["busybox", "wget", "-T", "2", "-q", "-O", "-", url]).stdout.strip()

    hosts.until(lambda: fetched("h2", "192.0.2.1") == "hello", "the other host does not reach it")
    assert fetched("h1", "127.0.0.1") == "hello"
    [web] = [one for one in hosts.netagent("h1", "endpoints") if one["name"] == "web"]
    assert web["published"] == ["8081:80/tcp"]
    hosts.podman("restart", "-t", "0", "web")
    hosts.podman("exec", "web", "sh", "-c", serve.partition("&& ")[2])
    hosts.until(lambda: fetched("h2", "192.0.2.1") == "hello", "it is not reached after a restart")
    hosts.podman("rm", "-f", "-t", "0", "web")
    assert fetched("h2", "192.0.2.1") == ""


def test_pruned_networks_come_back_and_foreign_ones_are_left(hosts: PodmanHosts) -> None:
    hosts.podman("network", "create", "mine")
    hosts.netagent("h1", "network", "create", "mine")
    try:
        hosts.podman("network", "prune", "-f")
        hosts.until(lambda: {"app", "mine"} <= hosts.networks(), "pruned networks stay away")
        hosts.netagent("h1", "network", "rm", "mine")
        hosts.until(lambda: "mine" not in hosts.networks(), "the mirror of a removed network stays")
        hosts.podman("network", "create", "mine")
        hosts.netagent("h1", "network", "create", "mine")
        hosts.until(
            lambda: "Podman has a network mine of its own" in str(hosts.netagent("h1", "status")["warnings"]),
            "the agent says nothing of a foreign network",
        )
        assert json.loads(hosts.podman("network", "inspect", "mine"))[0]["driver"] == "bridge"
    finally:
        hosts.try_netagent("h1", "network", "rm", "mine")
        hosts.try_podman("network", "rm", "mine")


def test_a_network_made_by_hand_needs_one_of_ours(hosts: PodmanHosts) -> None:
    refused = hosts.try_podman("network", "create", "-d", "netagent", "other")
    assert refused.status != 0
    assert "there is no network 'other'" in refused.stderr
    subnet = ("--subnet", "10.9.0.0/24")
    refused = hosts.try_podman(
        "network", "create", "-d", "netagent", "--opt", "netagent.network=app", *subnet, "x"
    )
    assert "leave out --subnet" in refused.stderr
    hosts.podman("network", "create", "-d", "netagent", "--opt", "netagent.network=app", "other")
    hosts.podman("run", "-d", "--name", "web", "--network", "other", "lab")
    hosts.until(lambda: bool(hosts.asked("web")), "no name")
    hosts.podman("rm", "-f", "web")
    hosts.podman("network", "rm", "other")
