"""Published ports, on whole hosts: who reaches them, who is refused one, and what outlives what."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab.harness import Cluster

pytestmark = pytest.mark.lab

WHOAMI = str(Path(__file__).with_name("whoami.py"))
H1, H2 = "192.0.2.1", "192.0.2.2"


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
