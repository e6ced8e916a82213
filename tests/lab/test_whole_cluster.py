"""The table from any member: what a host answers of networks that it takes no part in."""

from __future__ import annotations

import json
import subprocess
from functools import partial
from pathlib import Path

import pytest
from lab.harness import Cluster

pytestmark = pytest.mark.lab


def test_a_host_without_containers_answers_for_the_whole_cluster(cluster: Cluster) -> None:
    cluster.netagent("h1", "network", "create", "app")
    cluster.attach("h2", "web-1", "--service", "web", "--alias", "www")
    cluster.attach("h3", "web-2", "--service", "web")
    cluster.attach("h3", "db")
    assert cluster.netagent("h1", "status")["networks"] == []
    tables = {}
    for host in cluster.hosts:
        tables[host] = [
            (one["name"], one["host"], one["addresses"], one["state"], one["names"])
            for one in cluster.netagent(host, "endpoints")
        ]
    assert tables["h1"] == tables["h2"] == tables["h3"]
    assert len(tables["h1"]) == 3
    services = {one["name"]: one for one in cluster.netagent("h1", "services")}
    assert (services["web"]["endpoint_count"], services["web"]["answering"]) == (2, 2)
    assert services["web"]["source"] == "asked"
    assert set(services["web"]["told_by"]) <= {"h2", "h3"}
    assert services["web"]["told_by"]
    assert cluster.netagent("h1", "services", "--local") == []
    (network,) = cluster.netagent("h1", "network", "ls")
    assert (network["endpoint_count"], network["use"]["used"], network["attached"]) == (3, 3, False)
    assert cluster.netagent("h1", "inspect", "app")["endpoint_count"] == 3
    assert cluster.netagent("h1", "inspect", "web")["kind"] == "service"
    assert cluster.netagent("h1", "inspect", "www")["alias_of"] == ["web"]
    assert cluster.netagent("h1", "inspect", services["db"]["addresses"][0])["name"] == "db"
    assert len(cluster.netagent("h1", "inspect", "h3")["endpoints"]) == 2
    why = cluster.netagent("h1", "inspect", "db", "--why")["why"]
    assert why["records"][0]["sequence"] is not None
    assert {one["state"] for one in why["objects"]} == {"not needed"}
    found = cluster.netagent("h1", "lookup", "db.app")
    assert [one["data"] for one in found["answers"]] == [services["db"]["addresses"][0]]
    assert "is not in that network" in found["reason"]
    assert cluster.netagent("h1", "ping", "web-1")["host"] == "h2"
    nothing = cluster.try_netagent("h1", "inspect", "nothing")
    assert (nothing.status, "nothing has the name, address or id" in nothing.stderr) == (1, True)
    reason = cluster.try_netagent("h1", "lookup", "web", "NS").stderr
    assert ("without records of type NS" in reason, "whose name" in reason) == (True, False)
    held = cluster.try_netagent("h1", "inspect", "web", "--local")
    assert (held.status, "nothing on this host has the name, address or id 'web'" in held.stderr) == (1, True)
    held = cluster.try_netagent("h1", "lookup", "web", "--local")
    assert (held.status, "this host takes part in no network" in held.stderr) == (1, True)
    held = cluster.try_netagent("h1", "ping", "web-1", "db")
    assert (held.status, "'web-1' is on host h2; type this command there" in held.stderr) == (4, True)
    # Nothing of that was entered: neither names nor kernel nor the others know of it.
    assert cluster.netagent("h1", "status")["networks"] == []
    assert cluster.netagent("h2", "network", "inspect", "app")["hosts"] == ["h2", "h3"]

    cluster.lab.remove_container("db")
    cluster.wait(
        lambda: {one["name"] for one in cluster.netagent("h1", "endpoints")} == {"web-1", "web-2"},
        10.0,
        "h1 goes on telling of a container that has gone",
    )
    cluster.attach("h1", "cli")
    cluster.wait(
        lambda: cluster.finds("cli", "web", "www"), 5.0, "h1 entered the network without its records"
    )
    assert {one["source"] for one in cluster.netagent("h1", "endpoints")} == {"own", "replicated"}


def test_what_no_host_could_answer_is_named_and_is_no_answer(cluster: Cluster) -> None:
    cluster.netagent("h1", "network", "create", "app")
    cluster.attach("h3", "web")
    with cluster.agent_of("h3") as changing:
        changing.kill_agent()
    cluster.wait(
        lambda: cluster.netagent("h1", "status")["members"].get("dead") == 1, 30.0, "h3 is not dead on h1"
    )
    done = cluster.try_netagent("h1", "services")
    assert (done.status, done.stdout) == (0, "nothing is known here\n")
    assert "network app" in done.stderr
    assert "h3" in done.stderr
    reported = json.loads(cluster.try_netagent("h1", "endpoints", "--json").stdout)
    assert (reported["items"], reported["warnings"][0]["code"]) == ([], "not-known")
    watching = cluster.lab.host("h1").run(["timeout", "4", "netagent", "services", "--watch"])
    assert "nothing is known here" in watching.stdout
    for command in (("inspect", "web"), ("lookup", "web.app"), ("ping", "web")):
        done = cluster.try_netagent("h1", *command)
        assert done.status == 5, (command, done)
        assert "h3" in done.stderr
    assert cluster.netagent("h1", "inspect", "app")["endpoint_count"] is None
    assert cluster.netagent("h1", "network", "inspect", "app")["use"]["used"] is None


def test_who_watches_from_outside_sees_what_comes_and_goes(cluster: Cluster, tmp_path: Path) -> None:
    cluster.netagent("h1", "network", "create", "app")
    cluster.attach("h2", "web")
    seen = tmp_path / "events"

    def sees(event: str, name: str) -> None:
        cluster.wait(partial(has_seen, seen, event, name), 10.0, f"the watcher misses: {event} {name}")

    watch = cluster.lab.host("h1").entering(["netagent", "endpoints", "--watch", "--json"])
    with seen.open("w") as events, subprocess.Popen(watch, stdout=events, stderr=events) as watching:
        try:
            sees("added", "web")  # before that it could miss what comes now, and what goes
            cluster.attach("h3", "db")
            cluster.attach("h3", "cache")
            cluster.lab.remove_container("web")
            for event, name in (("added", "db"), ("added", "cache"), ("removed", "web")):
                sees(event, name)
        finally:
            watching.terminate()


def has_seen(events: Path, event: str, name: str) -> bool:
    lines = [json.loads(line) for line in events.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return (event, name) in [(one["event"], one["item"]["name"]) for one in lines if "item" in one]
