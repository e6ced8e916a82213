"""Names as a container sees them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from lab.harness import Cluster
from netlab import programs

pytestmark = pytest.mark.lab


def test_every_form_of_the_name_works(app: Cluster) -> None:
    addresses = sorted(app.attach("h2", "db-2", "--service", "db")["addresses"])
    app.attach("h3", "client", "--link", "db:database")
    for name in (
        "db",
        "db-2",
        "database",
        "db.app.mesh.internal",
        "db-2.app.mesh.internal",
        "db-2.h2.app.mesh.internal",
        "DB.App.Mesh.Internal",
    ):
        app.wait(lambda name=name: app.answers("client", name) == addresses, 1.0, f"{name} is not answered")
    assert app.ask("c1", "database").status == "NXDOMAIN", "an alias belongs to one container only"
    assert app.ask("client", "db.app.mesh.internal", "TXT").status == "NOERROR"
    assert app.ask("client", "nothing.app.mesh.internal").status == "NXDOMAIN"
    assert app.ask("client", "h2.node.mesh.internal").data == ["192.0.2.2"]
    v4 = next(address for address in addresses if ":" not in address)
    reverse = app.inside("client", "dig", "+short", "-x", v4).stdout.strip()
    assert reverse == "db-2.h2.app.mesh.internal."


def test_replicas_share_a_name_and_clients_spread_over_them(app: Cluster) -> None:
    for host in app.hosts:
        app.attach(host, f"web-{host}", "--service", "web")
    app.wait(lambda: len(app.ask("c1", "web").data) == 3, 1.0, "not all replicas are known")
    lookup = "import socket; print(socket.create_connection.__name__, socket.getaddrinfo('web', 80)[0][4][0])"
    chosen = {app.inside("c1", "python3", "-c", lookup).stdout for _ in range(30)}
    assert len(chosen) == 3, "what an ordinary program tries first is not always the same replica"


def test_links_come_and_go(app: Cluster) -> None:
    app.netagent("h1", "link", "c1", "c2:database")
    assert app.answers("c1", "database") == app.answers("c3", "c2") != []
    app.netagent("h1", "link", "c1", "c2:database")
    app.netagent("h1", "unlink", "c1", "c2:database")
    assert app.ask("c1", "database").status == "NXDOMAIN"
    assert app.try_netagent("h1", "unlink", "c1", "c2:database").status == 1


def test_a_sandbox_in_two_networks(app: Cluster) -> None:
    app.netagent("h2", "network", "create", "back")
    app.netagent("h1", "network", "connect", "back", "netns:c1")
    store = app.attach("h3", "store", "--network", "back")
    app.wait(
        lambda: app.answers("c1", "store") == sorted(store["addresses"]),
        1.0,
        "the second network is no good",
    )
    assert app.pings("c1", store["addresses"][0])
    assert app.ask("c2", "store").status == "NXDOMAIN", "c2 is not in that network"
    assert not app.pings("c2", store["addresses"][0])
    app.netagent("h1", "network", "disconnect", "back", "netns:c1")
    assert app.ask("c1", "store").status == "NXDOMAIN"


def test_other_names_are_forwarded_to_the_hosts_servers(app: Cluster) -> None:
    fabric = f"{app.lab.folder.name}-fabric"
    server = [sys.executable, str(Path(__file__).with_name("upstream.py")), "192.0.2.254"]
    with programs.started(["ip", "netns", "exec", fabric, *server]):
        app.wait(lambda: app.ask("c1", "www.example.com.").data == ["198.51.100.7"], 10.0, "not forwarded")
        assert app.ask("c1", "missing.example.com.").status == "NXDOMAIN"
        assert app.ask("c1", "c2").status == "NOERROR"
        assert app.ask("c1", "singlelabel.").status == "NXDOMAIN", "a bare word is never sent out"
    assert app.ask("c1", "c2").status == "NOERROR", "our names need no upstream server"
