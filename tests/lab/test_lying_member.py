"""A member of three runs a changed program: it has the cluster's keys and its own identity, and writes what no agent
writes (lying_agent.py). The other two keep serving names and paths as before, and name it.

It is the one with the smaller id of the two that did not create the network: the creator's word counts.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from lab.harness import Cluster

pytestmark = pytest.mark.lab

LIAR = (sys.executable, str(Path(__file__).with_name("lying_agent.py")))
NAMED = {"refused-record", "subnet", "address", "endpoint-id"}
WITHIN_S = 20.0
STREAM_S = 8.0


def warnings(cluster: Cluster, host: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in cluster.netagent(host, "status")["warnings"]:
        found[one["code"]] = found.get(one["code"], "") + one["message"]
    return found


def is_told(cluster: Cluster, host: str, liar: str) -> bool:
    """An event is told when the agent next compares, not at the change."""
    news = cluster.netagent(host, "events", "--kind", "conflict")
    return any(f"host {liar} has written" in one["text"] for one in news)


def test_a_member_that_lies_changes_nothing_on_the_others_and_is_named(app: Cluster) -> None:
    ids = {host: str(app.netagent(host, "status")["host"]["id"]) for host in app.hosts}
    liar = min(("h2", "h3"), key=ids.__getitem__)
    one, two = honest = [host for host in app.hosts if host != liar]
    app.netagent(one, "network", "create", "back")
    for host in honest:
        app.attach(host, f"b{host[1]}", "--network", "back")
    pairs = [(f"{kind}{one[1]}", f"{kind}{two[1]}") for kind in "cb"]
    for source, target in pairs:
        app.wait(lambda: app.finds(source, target), 10.0, "the names are not there")
        app.await_pings(source, target)
    names = {(source, target): app.answers(source, target) for source, target in pairs}
    paths = {host: app.paths(host) for host in honest}

    with app.agent_of(liar) as changing:
        changing.stop_agent()
        changing.start_agent(program=LIAR)
    for host in honest:
        app.wait(lambda: warnings(app, host).keys() >= NAMED, WITHIN_S, lambda: str(warnings(app, host)))
        said = warnings(app, host)
        for code in ("refused-record", "address", "endpoint-id"):
            assert liar in said[code], said
        assert "bad3" in said["subnet"]
        app.wait(lambda: is_told(app, host, liar), WITHIN_S, "no event names it")

    streams = [app.in_background(app.ping_stream, source, target, STREAM_S) for source, target in pairs]
    for stream in streams:
        assert stream.result().lost == 0
    assert {(source, target): app.answers(source, target) for source, target in pairs} == names
    for host in honest:
        assert app.paths(host) >= paths[host], "each path is as it was"
        assert sorted(app.agents(host)) == sorted(app.hosts)
    app.remove(f"b{one[1]}")
    assert app.ask(f"b{two[1]}", f"b{one[1]}").status == "NXDOMAIN"
