"""Hosts that are gone for good, and one that was thought to be."""

from __future__ import annotations

import pytest
from lab.harness import Cluster

pytestmark = pytest.mark.lab

COUNT = """
import sqlite3, sys
base = sqlite3.connect("file:/var/lib/netagent/state.db?mode=ro", uri=True)
print(base.execute(sys.argv[1]).fetchone()[0])
"""


def cut_off(cluster: Cluster, host: str) -> None:
    """No other host hears anything of this one, until `heal`."""
    for other in cluster.hosts:
        if other != host:
            cluster.lab.cut(host, other)


def wait_silent(cluster: Cluster, at: str, host: str) -> None:
    def is_silent() -> bool:
        shown = {one["name"]: one for one in cluster.netagent(at, "members")}
        return bool(shown[host]["agent"] == "dead" and shown[host]["host"] == "silent")

    cluster.wait(is_silent, 30.0, f"{at} still hears of {host}")


def is_anew(cluster: Cluster, host: str, former: str) -> bool:
    """The host is a member under another identity."""
    status = cluster.netagent(host, "status")
    return status["cluster"] is not None and status["host"]["id"] != former


def is_outside(cluster: Cluster, host: str) -> bool:
    """The host is in no cluster, and says that it was revoked."""
    status = cluster.netagent(host, "status")
    return status["cluster"] is None and [one["code"] for one in status["warnings"]][:1] == ["revoked"]


def own(cluster: Cluster, host: str) -> dict[str, dict[str, object]]:
    """The endpoints that a host shows as its own, by name."""
    return {one["name"]: one for one in cluster.netagent(host, "endpoints") if one["local"]}


def journal_rows(cluster: Cluster, host: str, sql: str) -> int:
    """What a counting query finds in the host's journal."""
    return int(cluster.lab.host(host).must(["python3", "-c", COUNT, sql]))


def test_scenario_33_a_forgotten_host_returns(app: Cluster) -> None:
    """It learns of it, what it holds is fenced and not used until it is attached again; no other host notices."""
    before = own(app, "h3")["c3"]
    ipv4 = before["addresses"][0]  # type: ignore[index]
    former = app.netagent("h3", "status")["host"]["id"]
    refused = app.try_netagent("h1", "forget", "h3")
    assert refused.status == 4
    assert "netagent leave" in refused.stderr
    cut_off(app, "h3")
    wait_silent(app, "h1", "h3")
    early = app.try_netagent("h1", "forget", "h3", "--dead-for", "72h")
    assert (early.status, "less than the 259200 s of --dead-for" in early.stderr) == (4, True)
    assert app.netagent("h1", "forget", "h3")["hosts"][0]["id"] == former
    app.wait(lambda: set(app.agents("h2")) == {"h1", "h2"}, 5.0, "h2 still knows h3")
    for host in ("h1", "h2"):
        app.wait(lambda: app.endpoint_names(host) == ["c1", "c2"], 5.0, f"{host} still shows c3")
        app.wait(
            lambda: not any(ipv4 in entry for entry in app.paths(host)),
            5.0,
            f"{host} keeps its kernel entries",
        )
    app.wait(lambda: app.ask("c1", "c3").status == "NXDOMAIN", 5.0, "its name stays")

    # Another container has its address from now on, while its own still has it on the other side of the cut.
    assert app.attach("h1", "c4", "--ip", str(ipv4))["addresses"][0] == ipv4
    assert own(app, "h3")["c3"]["state"] == "up"
    app.lab.heal()
    # The others may have dropped the old key by now. Then it learns this only by a return: 10 s for an attempt that
    # began during the cut, and 7.5 s of pause.
    app.wait(lambda: is_outside(app, "h3"), 30.0, "h3 does not know that it was forgotten")
    token = app.netagent("h1", "invite")["token"]
    app.netagent("h3", "join", "--token-file", "-", stdin=token)
    assert is_anew(app, "h3", former)
    app.wait(lambda: app.agents("h1").get("h3") == "alive", 20.0, "h3 did not come in anew")
    assert own(app, "h3")["c3"]["state"] == "fenced"
    now = app.netagent("h3", "status")
    (warning,) = [one for one in now["warnings"] if one["code"] == "forgotten"]
    assert "c3" in warning["message"]
    assert "netagent attach" in warning["cure"]
    (fenced,) = app.netagent("h3", "events", "--kind", "fence")
    assert fenced["text"].startswith("fenced c3: the cluster evicted this host")
    (evicted,) = app.netagent("h2", "events", "--kind", "evict")
    assert (evicted["subject"], evicted["author"]["name"]) == ("h3", "h1")
    assert str(ipv4) not in app.inside("c3", "ip", "address").stdout
    assert app.pings("c2", str(ipv4)), "this is c4"

    app.netagent("h3", "attach", "netns:c3", "--network", "app")
    assert own(app, "h3")["c3"]["state"] == "up"
    assert own(app, "h3")["c3"]["addresses"] != before["addresses"]
    app.wait(lambda: app.ask("c1", "c3").status == "NOERROR", 5.0, "h1 does not know c3")
    app.await_pings("c1", "c3")
    # Nothing is left of the former identity, but for what fences it.
    kept = f"SELECT count(*) FROM replica_log WHERE owner = '{former}'"
    app.wait(lambda: journal_rows(app, "h2", kept) == 0, 20.0, "h2 keeps its log")
    members = f"SELECT count(*) FROM member WHERE node_id = '{former}'"
    app.wait(lambda: journal_rows(app, "h2", members) == 0, 20.0, "h2 keeps its place")
    assert sorted(app.agents("h2")) == ["h1", "h2", "h3"]

    # Now it goes for good, without any command.
    for host in ("h1", "h2"):
        with app.agent_of(host) as changing:
            with changing.path("/etc/netagent/netagent.toml").open("a") as configuration:
                configuration.write("forget_after_s = 4\n")
            changing.stop_agent()
            changing.start_agent()
    app.lab.power_off("h3")
    app.wait(lambda: sorted(app.agents("h2")) == ["h1", "h2"], 40.0, "it is not forgotten by itself")

    def is_shared_out(host: str) -> bool:
        (network,) = app.netagent(host, "network", "ls")
        owners = {share["host"] for share in network["use"]["owners"]}
        return owners == {"h1", "h2"} and (network["use"]["away"], network["use"]["unowned"]) == (0, 0)

    for host in ("h1", "h2"):
        app.wait(lambda: is_shared_out(host), 10.0, f"{host} counts its space as another's")
