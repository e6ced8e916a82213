"""A host's own addresses change under the overlay, and traffic goes on."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from lab.harness import STREAM, Cluster
from lab.origins import seen, watch

pytestmark = pytest.mark.lab

AGAIN_S = 5.0
"""What is promised: traffic continues within this after the underlay address of a host has changed."""


@pytest.fixture
def talking(app: Cluster) -> Cluster:
    """An echo server on h3."""
    app.attach("h3", "echo", command=("python3", STREAM, "serve"))
    app.wait(lambda: app.inside("echo", "ss", "-Hltn", "sport = :7000").stdout != "", 10.0, "no echo server")
    app.wait(lambda: app.ask("c1", "echo").status == "NOERROR", 2.0, "h1 does not know it")
    return app


@contextmanager
def stream_through(app: Cluster, seconds: float) -> Iterator[dict[str, float]]:
    """TCP from h1 to h3 and pings both ways over it all; the dict says for how long nothing passed."""
    (address,) = [one for one in app.answers("c1", "echo") if "." in one]
    (other,) = [one for one in app.answers("c3", "c1") if "." in one]
    stream = app.in_background(app.tcp_stream, "c1", address, seconds)
    pings = [
        app.in_background(app.ping_stream, "c1", address, seconds),
        app.in_background(app.ping_stream, "c3", other, seconds),
    ]
    app.wait(lambda: app.inside("echo", "ss", "-Htn", "state", "established").stdout != "", 5.0, "idle")
    report: dict[str, float] = {}
    yield report
    done = stream.result()
    assert done["echoed"] == done["sent"], "every line came back"
    report["tcp_s"] = done["worst_ms"] / 1000
    report["ping_s"] = max(ping.result().silent_s for ping in pings)


def test_scenario_43_the_underlay_address_of_a_host_changes(talking: Cluster) -> None:
    app = talking
    with stream_through(app, 11.0) as report:
        app.lab.readdress("h3", "192.0.2.33")
        for host in ("h1", "h2"):
            app.wait(
                lambda: (
                    [m["address"] for m in app.netagent(host, "members") if m["name"] == "h3"]
                    == ["192.0.2.33"]
                ),
                AGAIN_S,
                f"{host} has not heard of it",
            )
        app.wait(lambda: set(app.agents("h1").values()) == {"alive"}, AGAIN_S, "not alive there")
        watch(app, "h3")
    print(f"nothing passed for at most {report['tcp_s']:.1f} s (TCP), {report['ping_s']:.1f} s (ping)")
    assert report["ping_s"] < AGAIN_S
    assert report["tcp_s"] < 2 * AGAIN_S, "its next repetition may be as far away as the outage was long"
    app.wait(lambda: all(seen(app).values()), AGAIN_S, "h3 is silent")
    assert seen(app) == {"tunnels": ["192.0.2.33"], "agents": ["192.0.2.33"]}
    assert app.answers("c1", "h3.node.mesh.internal") == ["192.0.2.33"]
    status = app.netagent("h3", "status")
    assert status["host"]["address"] == "192.0.2.33"
    assert [one for one in status["warnings"] if one["code"] == "address"] == []
    # A record written now gets there and back: both sides speak to the new address.
    begun = time.monotonic()
    app.attach("h1", "late")
    app.wait(lambda: app.ask("c3", "late").status == "NOERROR", 2.0, "h3 hears nothing new")
    assert time.monotonic() - begun < 4.0
    app.lab.power_off("h3")
    assert app.lab.power_on("h3") == []
    app.wait(lambda: set(app.agents("h1").values()) == {"alive"}, 15.0, "h3 is not back at its new address")


def test_scenario_44_a_secondary_address_and_a_second_uplink_change_no_source(talking: Cluster) -> None:
    app = talking
    h3 = app.lab.host("h3")
    second = app.lab.plug_in_second("h3")
    app.lab.plug_in_second("h1")
    with stream_through(app, 8.0) as report:
        h3.must(["ip", "address", "add", "192.0.2.77/24", "dev", "eth0"])
        # The kernel would now send from the other address and by the other uplink, unless configured otherwise.
        h3.must(["ip", "route", "replace", "192.0.2.0/24", "dev", "eth0", "src", "192.0.2.77"])
        watch(app, "h3")
        time.sleep(1.0)  # seen at least for so long
        app.wait(lambda: all(seen(app).values()), AGAIN_S, "h3 is silent")
        found = seen(app)
        app.netagent("h3", "network", "create", "other")
    assert report["ping_s"] < 0.1, "the move was noticed"
    assert found == {"tunnels": ["192.0.2.3"], "agents": ["192.0.2.3"]}
    assert second == "198.51.100.3"
    assert app.netagent("h3", "status")["host"]["address"] == "192.0.2.3"

    # The default route moves to the other uplink: so does what this host tells others, unless it is configured.
    h3.must(["ip", "route", "add", "default", "via", "198.51.100.1", "dev", "eth1"])
    app.wait(lambda: app.netagent("h3", "status")["host"]["address"] == second, AGAIN_S, "it stays")
    # The first one fails, and all goes by the other: h1, which has that uplink too, is its router there.
    h3.must(["ip", "link", "set", "eth0", "down"])
    there = app.endpoint("echo")["addresses"][0]
    app.wait(lambda: app.pings("c1", there), AGAIN_S, "nothing passes by the other uplink")
    watch(app, "h3")
    app.wait(lambda: seen(app)["agents"] != [] and app.pings("c1", there), AGAIN_S, "no traffic passes")
    assert seen(app) == {"tunnels": [second], "agents": [second]}
    h3.must(["ip", "link", "set", "eth0", "up"])
    h3.must(["ip", "route", "del", "default"])
    h3.must(["ip", "link", "set", "eth1", "down"])
    app.wait(
        lambda: (
            re.fullmatch(r"192\.0\.2\.(3|77)", app.netagent("h3", "status")["host"]["address"]) is not None
        ),
        AGAIN_S,
        "it stays at an uplink that is down",
    )
    app.wait(lambda: app.pings("c1", there), AGAIN_S, "nothing passes by the first uplink again")
    app.wait(lambda: set(app.agents("h1").values()) == {"alive"}, 15.0, "not alive")
    app.wait(lambda: app.finds("c1", "c3"), AGAIN_S, "its names are gone")


def test_a_configured_address_that_vanishes_is_waited_for(talking: Cluster) -> None:
    app = talking
    there = app.ask("c1", "echo").data[0]
    with app.agent_of("h3") as host:
        config = host.path("/etc/netagent/netagent.toml")
        config.write_text(config.read_text() + 'advertise = "192.0.2.3"\n')
        host.stop_agent()
        host.start_agent()
    h3 = app.lab.host("h3")
    h3.must(["ip", "address", "add", "192.0.2.77/24", "dev", "eth0"])
    h3.must(["sysctl", "-qw", "net.ipv4.conf.eth0.promote_secondaries=1"])
    h3.must(["ip", "address", "del", "192.0.2.3/24", "dev", "eth0"])

    def warned() -> list[dict[str, str]]:
        return [one for one in app.netagent("h3", "status")["warnings"] if one["code"] == "address"]

    app.wait(lambda: warned() != [], AGAIN_S, "status says nothing")
    found = json.loads(app.try_netagent("h3", "doctor", "--json").stdout)
    assert "own-address" in {one["name"] for one in found["host"] if one["verdict"] == "failed"}
    assert "192.0.2.3" in warned()[0]["message"]
    assert "192.0.2.77" in warned()[0]["message"]
    assert app.netagent("h3", "status")["host"]["address"] == "192.0.2.3", "it does not become another"
    h3.must(["ip", "address", "add", "192.0.2.3/24", "dev", "eth0"])
    app.wait(lambda: warned() == [], AGAIN_S, "it is not noticed")
    app.wait(lambda: app.pings("c1", there), AGAIN_S, "no way there")
    app.wait(lambda: set(app.agents("h1").values()) == {"alive"}, 15.0, "not alive")
    app.wait(lambda: app.finds("c1", "c3"), AGAIN_S, "its names are gone")
