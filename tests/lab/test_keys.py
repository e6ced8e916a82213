"""The ring key changes under traffic, and hosts that were away meanwhile come back by themselves."""

from __future__ import annotations

import json
from typing import Any

import pytest
from lab.harness import STREAM, Cluster

pytestmark = pytest.mark.lab

ROTATED_S = 90.0
"""`keys rotate --wait` takes a few seconds, and fails by itself after 60."""
BACK_S = 40.0
RETIRED_S = 60.0
"""A key is accepted for 30 s after it is retired."""


def rotate(app: Cluster, host: str) -> str:
    done = app.try_netagent(host, "keys", "rotate", "--wait", "--json", timeout_s=ROTATED_S)
    assert done.status == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    assert answer["in_use"]
    return str(answer["id"])


def keys(app: Cluster, host: str) -> dict[str, str]:
    return {key["id"]: key["state"] for key in app.netagent(host, "keys", "list")}


def ring(app: Cluster, host: str) -> list[str]:
    found: list[str] = json.loads(app.lab.host(host).path("/var/lib/netagent/keyring").read_text())["keys"]
    return found


def all_alive(app: Cluster) -> bool:
    return all(set(app.agents(host).values()) == {"alive"} for host in app.hosts)


def test_scenario_60_the_key_changes_under_traffic_without_a_loss(app: Cluster) -> None:
    before = ring(app, "h1")
    echo = app.attach("h2", "echo", command=("python3", STREAM, "serve"))
    app.await_listening("echo", 7000)
    stream = app.in_background(app.tcp_stream, "c1", echo["addresses"][0], 12.0)
    for turn in range(2):
        made = app.in_background(rotate, app, ("h1", "h3")[turn])
        app.attach("h2", f"web{turn}")
        app.wait(lambda: app.finds("c1", f"web{turn}"), 10.0, f"web{turn} is not found on h1")
        app.wait(lambda: app.finds("c3", f"web{turn}"), 10.0, f"web{turn} is not found on h3")
        made.result()
    sent = stream.result()
    assert sent["sent"] == sent["echoed"]
    app.wait(
        lambda: all(list(keys(app, host).values()) == ["primary"] for host in app.hosts),
        RETIRED_S,
        "old keys are still accepted",
    )
    assert len({tuple(ring(app, host)) for host in app.hosts}) == 1
    assert not set(before) & set(ring(app, "h1"))


def test_scenario_61_a_host_that_slept_through_two_keys_or_has_an_old_backup_comes_back(app: Cluster) -> None:
    with app.agent_of("h3") as three:
        three.stop_agent()
        file = three.path("/var/lib/netagent/keyring")
        backup = file.read_text()
    app.wait(lambda: app.agents("h1")["h3"] == "dead", 30.0, "h3 is not away")
    made = [rotate(app, "h1"), rotate(app, "h2")]
    assert set(made) < set(keys(app, "h1")), "the old key is kept for h3"
    with app.agent_of("h3") as three:
        three.start_agent()
    app.wait(lambda: all_alive(app), BACK_S, "h3 is not back")
    app.wait(lambda: keys(app, "h3").get(made[1]) == "primary", 10.0, "h3 seals with another key")
    app.attach("h3", "late")
    app.wait(lambda: app.finds("c1", "late"), 10.0, "a record of h3 does not come")
    app.wait(
        lambda: all(list(keys(app, host).values()) == ["primary"] for host in app.hosts),
        RETIRED_S,
        "old keys are still accepted",
    )

    with app.agent_of("h3") as three:
        three.stop_agent()
        three.path("/var/lib/netagent/keyring").write_text(backup)
        three.start_agent()
    app.wait(lambda: all_alive(app) and made[1] in keys(app, "h3"), BACK_S, "the restored host is not back")


def test_a_key_is_installed_used_and_removed_by_hand_while_a_host_is_away(app: Cluster) -> None:
    app.wait(lambda: all_alive(app), BACK_S, "a host is away")
    done = app.try_netagent("h2", "keys", "install", "--wait", "--json", timeout_s=ROTATED_S)
    assert done.status == 0, done.stderr
    made = json.loads(done.stdout)["id"]
    before = next(key for key, state in keys(app, "h1").items() if state == "primary")
    assert all(keys(app, host)[made] == "standby" for host in app.hosts)
    with app.agent_of("h3") as three:
        three.stop_agent()
    app.wait(lambda: app.agents("h1")["h3"] == "dead", 30.0, "h3 is not away")
    done = app.try_netagent("h1", "keys", "use", made[:12], "--wait", timeout_s=ROTATED_S)
    assert done.status == 0, done.stderr
    assert app.try_netagent("h2", "keys", "remove", made).status == 4, "it is in use"
    refused = app.try_netagent("h2", "keys", "remove", before)
    assert refused.status == 4
    assert "h3 is away" in refused.stderr
    assert app.try_netagent("h2", "keys", "remove", before, "--force").status == 0
    kept = {made: "primary", before: "elsewhere"}
    app.wait(lambda: keys(app, "h1") == kept, RETIRED_S, "h1 still accepts the key that only h3 has")
    with app.agent_of("h3") as three:
        three.start_agent()
    app.wait(lambda: all_alive(app), BACK_S, "h3 is not back")
    app.wait(
        lambda: all(keys(app, host) == {made: "primary"} for host in app.hosts),
        RETIRED_S,
        "h3 does not follow",
    )
