"""An agent that is away cuts nobody off, and coming back it adopts what is there."""

from __future__ import annotations

import re
import time

import pytest
from lab.harness import STREAM, Cluster
from netlab.errors import LabError

pytestmark = pytest.mark.lab


def go_away(app: Cluster, how: str) -> None:
    with app.agent_of("h3") as host:
        host.kill_agent() if how == "killed" else host.stop_agent()


def come_back(app: Cluster) -> None:
    with app.agent_of("h3") as host:
        host.start_agent()
    app.wait(lambda: set(app.agents("h1").values()) == {"alive"}, 15.0, "h1 does not see all agents alive")


AWAY = [
    pytest.param("killed", 8.0, id="killed"),
    pytest.param("stopped", 8.0, id="stopped"),
    pytest.param("killed", 60.0, id="killed for a minute", marks=pytest.mark.long),
    pytest.param("stopped", 60.0, id="stopped for a minute", marks=pytest.mark.long),
]


@pytest.mark.timeout(200)
@pytest.mark.parametrize(("how", "away_s"), AWAY)
def test_traffic_and_names_go_on(app: Cluster, how: str, away_s: float) -> None:
    echo = app.attach("h3", "echo", command=("python3", STREAM, "serve"))["addresses"]
    app.wait(lambda: app.inside("echo", "ss", "-Hltn", "sport = :7000").stdout != "", 10.0, "no echo server")
    v4, v6 = sorted(echo, key=lambda address: ":" in address)
    running_s = away_s + 6.0  # a second of it before, and the restart inside too
    streams = [app.in_background(app.tcp_stream, "c1", address, running_s) for address in (v4, v6)]
    pings = [app.in_background(app.ping_stream, "c2", address, running_s) for address in (v4, v6)]
    app.wait(
        lambda: app.inside("echo", "ss", "-Htn", "state", "established").stdout.count("\n") == 2, 5.0, "idle"
    )

    go_away(app, how)
    answered = 0
    end = time.monotonic() + away_s
    while time.monotonic() < end:
        for container in ("c1", "c2", "c3"):
            assert app.answers(container, "echo") == sorted(echo), f"in {container}"
            answered += 1
        assert app.ask("c3", "c1").status == "NOERROR", "its own containers still resolve"
    assert answered > 10
    if how == "killed":
        assert app.agents("h1")["h3"] != "alive", "away for too short a time to prove anything"
    come_back(app)

    for stream in streams:
        report = stream.result()
        assert report["echoed"] == report["sent"] > 50 * running_s
        assert report["lost"] == 0
    for ping in pings:
        sent, lost = ping.result()
        assert sent > 50 * running_s
        assert lost == 0


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_restart_deletes_and_remakes_nothing(app: Cluster, how: str) -> None:
    app.netagent("h3", "link", "c3", "c1:database")
    before = app.netagent("h3", "endpoints"), app.traces(), app.netagent("h3", "status")["host"]["id"]
    go_away(app, how)
    watch = app.in_background(
        app.lab.host("h3").run, ["timeout", "6", "ip", "monitor", "link", "address", "neigh", "route"]
    )
    come_back(app)
    after = app.netagent("h3", "endpoints"), app.traces(), app.netagent("h3", "status")["host"]["id"]
    assert after == before
    assert app.answers("c3", "database") == app.answers("c3", "c1")
    deleted = [line for line in watch.result().stdout.splitlines() if line.startswith("Deleted")]
    assert not [line for line in deleted if re.search(r"\b(na|nx)-|\bnv[0-9a-f]{8}", line)]


def test_without_its_journal_an_agent_stays_away_and_removes_nothing(app: Cluster) -> None:
    before = app.devices("h3"), app.answers("c3", "c1")
    go_away(app, "killed")
    state = app.lab.host("h3").path("/var/lib/netagent")
    (state / "state.db").rename(state / "kept.db")
    (state / "state.db-wal").rename(state / "kept.db-wal")
    for _ in range(2):
        with app.agent_of("h3") as host, pytest.raises(LabError, match=r"journal /var\S*/state.db is lost"):
            host.start_agent()
    assert (app.devices("h3"), app.answers("c3", "c1")) == before
    (state / "kept.db").rename(state / "state.db")
    (state / "kept.db-wal").rename(state / "state.db-wal")
    come_back(app)
    assert (app.devices("h3"), app.answers("c3", "c1")) == before

    go_away(app, "killed")
    (state / "state.db").unlink()
    (state / "keyring").rename(state / "old-keyring")
    with app.agent_of("h3") as host:
        host.start_agent()
    token = app.netagent("h1", "invite")["token"]
    app.netagent("h3", "join", "--token-file", "-", stdin=token)
    assert not [name for _, name in app.devices("h3") if name.startswith("nv")], "given up, as the error says"


def test_a_container_removed_meanwhile_is_gone_everywhere(app: Cluster) -> None:
    app.attach("h3", "fleeting")
    app.wait(lambda: app.ask("c1", "fleeting").status == "NOERROR", 1.0, "not known")
    go_away(app, "killed")
    app.lab.remove_container("fleeting", kill=True)
    come_back(app)
    for container in ("c1", "c2", "c3"):
        app.wait(
            lambda c=container: app.ask(c, "fleeting").status == "NXDOMAIN", 10.0, f"{container} finds it"
        )
    for host in app.hosts:
        assert app.endpoint_names(host) == ["c1", "c2", "c3"]
    veths = [name for _, name in app.devices("h3") if name.startswith("nv")]
    assert len(veths) == 1, "c3's only"


def test_a_container_removed_without_a_word_is_noticed(app: Cluster) -> None:
    app.attach("h3", "fleeting")
    app.wait(lambda: app.ask("c1", "fleeting").status == "NOERROR", 1.0, "not known")
    app.lab.remove_container("fleeting", kill=True)
    app.wait(lambda: app.ask("c1", "fleeting").status == "NXDOMAIN", 15.0, "its name stays")


def test_an_agent_killed_again_and_again_keeps_everything(app: Cluster) -> None:
    before = app.traces()
    for _ in range(3):
        go_away(app, "killed")
        with app.agent_of("h3") as host:
            host.start_agent()
    app.wait(lambda: set(app.agents("h1").values()) == {"alive"}, 15.0, "not all alive")
    assert app.traces() == before
