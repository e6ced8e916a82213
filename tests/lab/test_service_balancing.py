"""Connections to a service's address on whole hosts: by weight, not to a drained replica, ended with a gone one."""

from __future__ import annotations

import ipaddress
import json
import math
import time
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from lab.harness import Cluster

pytestmark = pytest.mark.lab

PROGRAM: Final = str(Path(__file__).with_name("service_program.py"))
PORT: Final = "8080"
NEVER_S: Final = 60.0
"""How long a client waits whose connection nothing ends."""


def serve(app: Cluster, host: str, name: str, *options: str) -> None:
    """A replica of `web` that asks for an address of the service."""
    command = ("python3", PROGRAM, "serve", PORT, name)
    app.attach(host, name, "--service", "web", "--label", "netagent.address=true", *options, command=command)
    app.await_listening(name, int(PORT))


def addresses_of(app: Cluster, container: str, name: str = "web") -> list[str]:
    """The addresses that a container is answered with, once these are the service's own: one of each family."""
    found: list[str] = []

    def is_own() -> bool:
        found[:] = app.answers(container, name)
        return len(found) == 2 and not {*found} & {
            one for each in app.held("h1") for one in each["addresses"]
        }

    app.wait(is_own, 15.0, lambda: f"{container} is answered {found}")
    return sorted(found, key=lambda one: ipaddress.ip_address(one).version)


def counted(app: Cluster, container: str, address: str, number: int = 300) -> dict[str, int]:
    done = app.inside(container, "python3", PROGRAM, "count", address, PORT, str(number), timeout_s=60.0)
    assert done.status == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    return found


def held(app: Cluster, container: str, address: str, name: str) -> Future[dict[str, Any]]:
    """What becomes of a connection to a replica; it exists when this returns."""

    def hold() -> dict[str, Any]:
        command = ("python3", PROGRAM, "hold", address, PORT, name)
        done = app.inside(container, *command, timeout_s=NEVER_S)
        assert done.status == 0, done.stderr
        report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return report

    before = established(app, container)
    future = app.in_background(hold)
    app.wait(lambda: established(app, container) > before or future.done(), 10.0, "no connection")
    return future


def established(app: Cluster, container: str) -> int:
    return len(
        app.inside(container, "ss", "-Htn", "state", "established", "dport", f"= :{PORT}").stdout.splitlines()
    )


def test_connections_follow_weights_leave_a_drained_replica_and_end_with_a_gone_one(app: Cluster) -> None:
    serve(app, "h2", "web-h2", "--weight", "100")
    serve(app, "h3", "web-h3", "--weight", "200")
    address, address6 = addresses_of(app, "c1")

    def leads_to(*names: str) -> bool:
        return {*counted(app, "c1", address, 20)} == {*names}

    app.wait(partial(leads_to, "web-h2", "web-h3"), 10.0, "not both replicas are backends")
    for to in (address, address6):
        found = counted(app, "c1", to)
        # 21 or 22 of 64 places, within four standard deviations
        share, slack = 1 / 3, 4 * math.sqrt(2 / 9 / 300) + 1 / 64
        assert abs(found["web-h2"] / 300 - share) < slack, found
    assert app.pings("c1", address), "its own kernel answers"
    assert app.inside("c1", "python3", PROGRAM, "count", address, "9", "1").status, "where no program listens"

    objects = app.netagent("h1", "inspect", "web", "--why")["why"]["objects"]
    own = [one for one in objects if one["kind"] == "service address"]
    assert [(one["thing"], one["state"]) for one in own] == [
        (f"{one} leads to 2 backends", "present") for one in (address, address6)
    ]
    assert {one["thing"].split(" has ")[0] for one in objects if one["kind"] == "backend"} == {
        "web-h2 on h2",
        "web-h3 on h3",
    }
    assert app.netagent("h1", "inspect", address6)["name"] == "web"
    objects = app.netagent("h1", "inspect", "c1.h1.app", "--why")["why"]["objects"]
    (line,) = [one for one in objects if one["kind"] == "service addresses"]
    assert line["state"] == "present", line
    report = app.netagent("h1", "doctor")
    (check,) = [one for one in report["intent"] if one["name"] == "service-addresses"]
    assert (check["verdict"], check["findings"]) == ("passed", [])

    on_h2, on_h3 = held(app, "c1", address, "web-h2"), held(app, "c1", address6, "web-h3")
    app.netagent("h2", "drain", "web-h2")
    app.wait(partial(leads_to, "web-h3"), 5.0, "a drained replica gets new connections")
    assert not on_h2.done()
    app.netagent("h2", "undrain", "web-h2")
    app.wait(partial(leads_to, "web-h2", "web-h3"), 5.0, "it comes back")

    # Without its interface the replica can say nothing: only this host's kernel can end the connection.
    gone_at = time.time()
    app.netagent("h2", "detach", "web-h2")
    report = on_h2.result(30.0)
    assert report["woken_by"] == "ECONNABORTED"
    assert report["at"] - gone_at < 3.0
    assert leads_to("web-h3")
    assert not on_h3.done()

    off_at = time.time()
    app.lab.power_off("h3")
    report = on_h3.result(30.0)
    assert report["woken_by"] == "ECONNABORTED"
    assert report["at"] - off_at < 6.0
    refused = app.inside("c1", "python3", PROGRAM, "count", address, PORT, "1")
    assert "ConnectionRefusedError" in refused.stderr, "without a replica, at once"
