"""Published ports, on whole hosts: who reaches them, who is refused one, and what outlives what."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from lab.harness import Cluster

pytestmark = pytest.mark.lab

WHOAMI = str(Path(__file__).with_name("whoami.py"))
H1, H2, H3 = "192.0.2.1", "192.0.2.2", "192.0.2.3"


def from_host(cluster: Cluster, host: str, address: str, port: int) -> str:
    """As whom the web server behind a port sees a host; "" without an answer."""
    url = f"http://{address}:{port}/"
    return cluster.lab.host(host).run(["curl", "-s", "--max-time", "2", url]).stdout


def from_container(cluster: Cluster, name: str, address: str, port: int) -> str:
    return cluster.inside(name, "curl", "-s", "--max-time", "2", f"http://{address}:{port}/").stdout


def test_scenario_47_ports_are_published_and_taken_back_however_often(cluster: Cluster) -> None:
    cluster.netagent("h1", "network", "create", "app", "--policy", "links")
    serve = ["python3", WHOAMI, "80"]
    made = cluster.attach("h1", "web", "-p", "8080:80", command=serve)
    assert made["published"] == ["8080:80/tcp"]
    cluster.attach("h1", "near")
    cluster.attach("h2", "far")
    gateway = cluster.netagent("h1", "network", "inspect", "app")["gateways"][0]
    cluster.wait(lambda: from_host(cluster, "h2", H1, 8080) == H2, 5.0, "no answer for the host")
    assert cluster.netagent("h1", "network", "inspect", "app")["published"] == ["8080:80/tcp to web"]
    assert from_host(cluster, "h1", H1, 8080) == gateway
    assert from_host(cluster, "h1", "127.0.0.1", 8080) == gateway
    assert from_container(cluster, "near", H1, 8080) == gateway, "a container of the same network and host"
    assert from_container(cluster, "far", H1, 8080) == H2, "in the name of its host, like everything outside"
    assert from_host(cluster, "h2", H1, 80) == "", "only what is published"

    why = cluster.netagent("h1", "inspect", made["id"], "--why")["why"]
    ports = [(one["thing"], one["state"]) for one in why["objects"] if one["kind"] == "published port"]
    assert ports == [("8080:80/tcp leads to web", "present")]

    # The same again changes nothing; another's port, and one at which the host listens, are refused by name.
    again = cluster.netagent("h1", "attach", "netns:web", "--network", "app", "-p", "8080:80")
    assert (again["created"], again["published"]) == (False, ["8080:80/tcp"])
    for _ in range(2):
        assert cluster.netagent("h1", "publish", "web", "8081:80")["published"] == [
            "8080:80/tcp",
            "8081:80/tcp",
        ]
        assert from_host(cluster, "h2", H1, 8081) == H2
    said = cluster.try_netagent("h1", "publish", "near", "8080:80")
    assert said.status == 4
    assert "published by web (8080:80/tcp)" in said.stderr
    said = cluster.try_netagent("h1", "publish", "near", "7956:80")
    assert said.status == 4
    assert "port 7956/tcp of this host is used by " in said.stderr
    for _ in range(2):
        assert cluster.netagent("h1", "unpublish", "web", "8081:80")["published"] == ["8080:80/tcp"]
        assert from_host(cluster, "h2", H1, 8081) == ""

    # It outlives a flush, and the agent; what it is, the next agent knows.
    cluster.lab.host("h1").must(["nft", "flush", "ruleset"])
    cluster.wait(lambda: from_host(cluster, "h2", H1, 8080) == H2, 2.0, "it is not put back")
    with cluster.agent_of("h1") as agent:
        agent.kill_agent()
    assert from_host(cluster, "h2", H1, 8080) == H2
    with cluster.agent_of("h1") as agent:
        agent.start_agent()
    assert from_host(cluster, "h2", H1, 8080) == H2
    [web] = [one for one in cluster.netagent("h1", "endpoints") if one["name"] == "web"]
    assert web["published"] == ["8080:80/tcp"]
    assert cluster.try_netagent("h1", "publish", "near", "8080:80").status == 4

    cluster.netagent("h1", "detach", "web")
    assert from_host(cluster, "h2", H1, 8080) == ""
    assert cluster.netagent("h1", "publish", "near", "8080:80")["published"] == ["8080:80/tcp"]


def test_a_published_service_is_reached_on_each_host_with_a_replica_and_refused_on_others(
    cluster: Cluster, tmp_path: Path
) -> None:
    cluster.netagent("h1", "network", "create", "app")
    serve = ["python3", WHOAMI, "80"]
    for name in ("web-1", "web-2"):
        cluster.attach("h1", name, "--service", "web", command=serve)
    cluster.attach("h2", "client")

    def health(host: str, path: str) -> str:
        asked = [
            "curl",
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "http://127.0.0.1:7958/healthz" + path,
        ]
        return cluster.lab.host(host).run(asked).stdout

    # Typed on a host that is not in the network.
    made = cluster.netagent("h3", "publish", "--service", "web", "80:80")
    assert (made["name"], made["network"], made["created"], made["replicas"]) == ("web", "app", True, 0)
    assert cluster.netagent("h3", "service", "publish", "web", "80:80")["created"] is False
    cluster.wait(lambda: from_host(cluster, "h3", H1, 80) == H3, 5.0, "h1 does not lead to its replicas")
    assert from_host(cluster, "h3", H2, 80) == "", "no replica, so it is refused"
    assert [health(host, "/service/web") for host in ("h1", "h2", "h3")] == ["200", "503", "404"]
    assert health("h1", "") == "200"

    # A replica comes, is drained, and returns. Connections follow without a command.
    cluster.attach("h2", "web-3", "--service", "web", command=serve)
    cluster.wait(lambda: from_host(cluster, "h3", H2, 80) == H3, 5.0, "h2 has a replica")
    cluster.netagent("h2", "drain", "web-3")
    cluster.wait(lambda: from_host(cluster, "h3", H2, 80) == "", 5.0, "its only replica is drained")
    assert health("h2", "/service/web") == "503"
    cluster.netagent("h2", "undrain", "web-3")
    cluster.wait(lambda: from_host(cluster, "h3", H2, 80) == H3, 5.0, "it is back")

    # A program of a host keeps its port.
    cluster.lab.host("h2").start(["python3", WHOAMI, "81"], tmp_path / "whoami.log")
    cluster.wait(lambda: from_host(cluster, "h3", H2, 81) == H3, 5.0, "the host's program answers")
    said = cluster.try_netagent("h2", "publish", "--service", "web", "81:80")
    assert said.status == 4
    assert "port 81/tcp of this host is used by " in said.stderr
    for wrong, status, text in (
        (("--service", "web", "192.0.2.1:82:80"), 2, "a service is published on all hosts"),
        (("--service", "web", "80:81"), 4, "port 80/tcp is published for service web.app (80:80/tcp)"),
        (("--service", "db", "82:80"), 1, "there is no service 'db'"),
        (("82:80",), 2, "name an endpoint or a service"),
    ):
        said = cluster.try_netagent("h1", "publish", *wrong)
        assert (said.status, text in said.stderr) == (status, True), said

    # What a host publishes stays when its agent is away.
    cluster.lab.host("h1").kill_agent()
    assert from_host(cluster, "h3", H1, 80) == H3
    cluster.lab.host("h1").start_agent()
    said = cluster.try_netagent("h1", "unpublish", "--service", "web", "80:80")
    assert said.status == 4
    assert "was published on host h3" in said.stderr
    cluster.netagent("h3", "unpublish", "--service", "web", "80:80")
    for address in (H1, H2):
        cluster.wait(partial(_is_silent, cluster, address), 5.0, f"{address} still leads on")


def _is_silent(cluster: Cluster, address: str) -> bool:
    return from_host(cluster, "h3", address, 80) == ""
