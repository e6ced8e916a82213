"""A live host is revoked: the others drop it at once, and it comes back by an invitation only."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from lab.harness import Cluster

pytestmark = pytest.mark.lab

SECONDS = 5.0
"""For the others to drop it."""


def is_outside(cluster: Cluster, host: str) -> bool:
    status = cluster.netagent(host, "status")
    return status["cluster"] is None and [one["code"] for one in status["warnings"]][:1] == ["revoked"]


def is_dropped(cluster: Cluster, *hosts: str) -> bool:
    return all(sorted(cluster.agents(host)) == ["h1", "h2"] for host in hosts)


def evictions(cluster: Cluster) -> list[dict[str, Any]]:
    """What h2 tells of hosts that had to go. An event is told when the agent next compares, not at the change."""
    found: list[dict[str, Any]] = cluster.netagent("h2", "events", "--kind", "evict")
    return found


def restart_from(cluster: Cluster, host: str, kept: Path) -> None:
    """Start the host's agent with a copy of its state from before: identity, journal and key ring."""
    with cluster.agent_of(host) as changing:
        changing.stop_agent()
        state = changing.path("/var/lib/netagent")
        shutil.rmtree(state)
        shutil.copytree(kept, state)
        changing.start_agent()


def restart(cluster: Cluster, host: str) -> None:
    with cluster.agent_of(host) as changing:
        changing.stop_agent()
        changing.start_agent()


def test_scenario_59_a_live_host_is_revoked(app: Cluster, tmp_path: Path) -> None:
    """Its names and paths go, and neither a restart nor a copy of its state brings it back."""
    c3 = str({one["name"]: one for one in app.netagent("h3", "endpoints")}["c3"]["addresses"][0])
    former = app.netagent("h3", "status")["host"]["id"]
    app.await_pings("c1", "c3")
    asked = app.try_netagent("h1", "revoke", "h3")
    assert (asked.status, "add --yes" in asked.stderr) == (2, True)
    kept = tmp_path / "h3"
    with app.agent_of("h3") as changing:
        changing.kill_agent()
        shutil.copytree(changing.path("/var/lib/netagent"), kept)
        changing.start_agent()
    app.wait(lambda: app.agents("h1").get("h3") == "alive", 20.0, "h3 is not back")

    before = app.netagent("h1", "invite", "--uses", "9")["token"]
    done = app.netagent("h1", "revoke", "h3", "--yes")
    assert [one["id"] for one in done["hosts"]] == [former]
    app.wait(lambda: is_dropped(app, "h1", "h2"), SECONDS, "the others still know h3")
    for host in ("h1", "h2"):
        app.wait(lambda: app.endpoint_names(host) == ["c1", "c2"], SECONDS, f"{host} still shows c3")
        app.wait(lambda: not any(c3 in entry for entry in app.paths(host)), SECONDS, "a path is left")
    app.wait(lambda: app.ask("c1", "c3").status == "NXDOMAIN", SECONDS, "its name stays")
    app.wait(lambda: is_outside(app, "h3"), 30.0, "h3 does not know")
    warning = app.netagent("h3", "status")["warnings"][0]
    assert "on h1" in warning["message"]
    assert "netagent join" in warning["cure"]
    app.wait(lambda: len(evictions(app)) == 1, SECONDS, lambda: f"h2 tells {app.netagent('h2', 'events')}")
    (news,) = evictions(app)
    assert (news["subject"], news["author"]["name"]) == ("h3", "h1")
    assert "revoked" in news["text"]
    assert not app.pings("c1", c3)

    restart_from(app, "h3", kept)
    app.wait(lambda: is_outside(app, "h3"), 60.0, "the copy is not told")
    assert is_dropped(app, "h1", "h2")
    restart(app, "h2")  # and a host that restarts still knows it
    restart_from(app, "h3", kept)
    app.wait(lambda: is_outside(app, "h3"), 60.0, "the second copy is not told")
    assert is_dropped(app, "h1", "h2")

    restart(app, "h3")
    assert is_outside(app, "h3"), "after a restart as well"
    refused = app.try_netagent("h3", "join", "--token-file", "-", stdin=before)
    assert refused.status == 4, refused.stdout
    assert "revoked since the invitation was created" in refused.stderr
    assert "create a new invitation" in refused.stderr
    token = app.netagent("h2", "invite")["token"]
    app.netagent("h3", "join", "--token-file", "-", stdin=token)
    app.wait(lambda: app.agents("h1").get("h3") == "alive", 20.0, "it does not come back")
    assert app.netagent("h3", "status")["host"]["id"] != former
