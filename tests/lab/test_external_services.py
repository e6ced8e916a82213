"""Services that are no containers, on whole hosts: who asks for them, and what containers are answered."""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lab.harness import Cluster
from netlab import programs

pytestmark = [pytest.mark.lab, pytest.mark.services]

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "external-services.md"
OUTSIDE = "192.0.2.254"
"""The fabric, which is on no host."""
SERVER = """
import socket, sys
with socket.create_server((sys.argv[1], 5432), backlog=64) as server:
    while True:
        connection, (address, _) = server.accept()
        with connection, open(sys.argv[2], "a") as log:
            log.write(address + "\\n")
"""
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], 5432), 5)"
MOVED_S = 40.0
"""From the end of the owner's agent: declared dead, and some seconds in which it may come back. Eight seconds on a
quiet machine; where an agent waits for its turn on a processor it suspects others for longer (Lifeguard)."""
HOST_OF = {"192.0.2.1": "h1", "192.0.2.2": "h2", "192.0.2.3": "h3"}


@contextmanager
def running(app: Cluster, *argv: str) -> Iterator[None]:
    """Run a program of the machine on the fabric, outside all hosts."""
    fabric = ["ip", "netns", "exec", f"{app.lab.folder.name}-fabric"]
    with programs.started([*fabric, sys.executable, *argv]):
        yield


def askers(log: Path) -> set[str]:
    """The hosts that have connected since the last call."""
    found = log.read_text().split() if log.exists() else []
    log.write_text("")
    return {HOST_OF[one] for one in found}


def states(app: Cluster, host: str, name: str) -> list[str]:
    (found,) = [one for one in app.netagent(host, "services") if one["name"] == name]
    return [address["state"] for part in found["external"] for address in part["addresses"]]


def added(app: Cluster, host: str, *options: str) -> Any:
    return app.netagent(host, "service", "add", *options)


def test_scenario_58_the_owner_of_an_external_service_loses_power(app: Cluster, tmp_path: Path) -> None:
    log = tmp_path / "askers"
    with running(app, "-c", SERVER, OUTSIDE, str(log)):
        added(app, "h3", "pg", "--network", "app", "--address", f"{OUTSIDE}:5432",
              "--expose", "postgres=5432", "--check", "tcp:5432 interval=1s fall=2")  # fmt: skip
        for container in ("c1", "c2", "c3"):
            app.wait(lambda: app.ask(container, "pg").data == [OUTSIDE], 10.0, f"{container} lacks it")
        assert app.inside("c1", sys.executable, "-c", CONNECT, "pg").status == 0
        assert app.ask("c1", "_postgres._tcp.pg", "SRV").status == "NOERROR"
        askers(log)
        app.wait(lambda: askers(log) == {"h3"}, 5.0, "its owner asks")

        ids = {one["id"]: one["name"] for one in app.netagent("h1", "members") if one["name"] != "h3"}
        after = ids[min(ids)]
        app.lab.power_off("h3")
        asked_by: list[set[str]] = []

        def only_the_next_asks() -> bool:
            if found := askers(log):
                asked_by.append(found)
            return asked_by[-1:] == [{after}]

        app.wait(
            only_the_next_asks,
            MOVED_S,
            lambda: (
                f"{after} asks now; since then {asked_by} asked, h1 knows {app.netagent('h1', 'members')}"
            ),
        )
        until = time.monotonic() + 6.0
        seen: set[str] = set()
        while time.monotonic() < until:
            assert app.ask("c2", "pg").data == [OUTSIDE], "the death of its owner changes no answer"
            seen |= askers(log)
        assert seen == {after}, "exactly one asks"
    app.wait(lambda: app.ask("c2", "pg").data == [], 15.0, "what fails now leaves names")
    assert states(app, "h2", "pg") == ["unhealthy"]
    refused = app.try_netagent("h2", "service", "rm", "pg")
    assert refused.status == 4
    assert "was added on host h3; type this command there" in refused.stderr
    app.netagent("h2", "forget", "h3", "--force")
    app.wait(lambda: app.try_netagent("h2", "service", "rm", "pg").status == 0, 5.0, "h2 has it now")
    app.wait(lambda: not [s for s in app.netagent("h1", "services") if s["name"] == "pg"], 2.0, "it is gone")


def test_names_outside_programs_of_hosts_and_names_of_ones_own(app: Cluster) -> None:
    upstream = str(Path(__file__).with_name("upstream.py"))
    with running(app, upstream, OUTSIDE):
        added(app, "h2", "db", "--network", "app", "--name", "db.example.com:5432")
        app.wait(lambda: app.ask("c1", "db").data == ["198.51.100.7"], 10.0, "it is resolved")
        dig = app.inside("c1", "dig", "+search", "+noall", "+answer", "db").stdout.split()
        assert int(dig[1]) == 60, "its TTL is kept"
    assert app.ask("c1", "db").data == ["198.51.100.7"], "the last answer stands"
    assert "h2 (external)" in app.try_netagent("h1", "services", "-o", "table").stdout

    app.netagent("h1", "network", "create", "ops", "--host-access")
    app.attach("h1", "o1", "--network", "ops")
    for host in app.hosts:
        added(app, host, "node", "--network", "ops", "--host-port", "9100")
    app.wait(lambda: len(app.ask("o1", "node").data) == 3, 10.0, "each host has an address there")
    address = app.ask("o1", "node").data[0]
    pointer = app.inside("o1", "dig", "+short", "-x", address).stdout
    assert pointer.strip().endswith(".ops.mesh.internal.")
    no_access = app.try_netagent("h1", "service", "add", "node", "--network", "app", "--host-port", "9100")
    assert (no_access.status, "--host-access" in no_access.stderr) == (4, True)

    app.netagent("h1", "network", "create", "closed", "--internal")
    closed = app.try_netagent("h1", "service", "add", "x", "--network", "closed", "--address", OUTSIDE)
    assert (closed.status, "closed is internal" in closed.stderr) == (4, True)

    app.netagent("h1", "name", "add", "shop.app", "--cname", "c2")
    app.netagent("h1", "name", "add", "*.shop.app", "--cname", "c2")
    app.netagent("h1", "name", "add", "alias.app", "--cname", "o1.ops")
    for name in ("shop", "a.b.shop.app.mesh.internal"):
        app.wait(lambda: app.answers("c3", name) == app.answers("c3", "c2") != [], 2.0, f"{name} is no alias")
    assert app.ask("c3", "alias.app.mesh.internal").status == "NXDOMAIN", "c3 is not in ops"
    app.attach("h3", "c2b", "--alias", "shop")
    app.wait(
        lambda: app.answers("c3", "shop") == app.answers("c3", "c2b") != [], 2.0, "a container comes first"
    )
    shadowed = [one["message"] for one in app.netagent("h2", "status")["warnings"]]
    assert any("shop.app" in one and "c2b has the name" in one for one in shadowed)


def test_links_restrict_no_external_service(app: Cluster) -> None:
    app.netagent("h1", "network", "create", "strict", "--policy", "links")
    app.attach("h1", "s1", "--network", "strict", "--link", "pg:database")
    app.attach("h1", "s2", "--network", "strict")
    with running(app, "-c", SERVER, OUTSIDE, "/dev/null"):
        added(app, "h1", "pg", "--network", "strict", "--address", f"{OUTSIDE}:5432")
        app.wait(lambda: app.ask("s1", "database").data == [OUTSIDE], 5.0, "the link leads there")
        assert app.inside("s1", sys.executable, "-c", CONNECT, "database").status == 0
        assert app.inside("s2", sys.executable, "-c", CONNECT, "pg").status == 0
        assert app.ask("s2", "database").status == "NXDOMAIN"


def test_the_commands_of_the_guide_do_what_it_says(app: Cluster) -> None:
    typed = re.findall(r"^sudo (netagent .*)$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(typed) > 10
    for line in typed:
        done = app.try_netagent("h1", *shlex.split(line)[1:])
        assert done.status == 0, (line, done.stderr)
    services = {one["name"]: one for one in app.netagent("h2", "services")}
    assert {"api", "site", "pg", "db", "node"} <= services.keys()
    assert [part["weight"] for part in services["api"]["external"]] != [100, 100]
    assert services["pg"]["external"][0]["checks"] == ["tcp:5432"]
    names = {one["name"]: one for one in app.netagent("h3", "name", "ls")}
    assert names.keys() == {"shop.app", "*.shop.app", "printer.app", "note.app"}
    assert app.ask("c2", "note", "TXT").status == "NOERROR"
    assert app.ask("c2", "printer").data == ["192.0.2.77"]
