"""Which replica answers begin with, and the records that clients read beside addresses, on whole hosts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from lab.conftest import inhabited
from lab.harness import STREAM, Cluster
from netlab.lab import Lab
from netlab.topology import of_hosts

pytestmark = pytest.mark.lab

ZONES = {"h1": "a", "h2": "a", "h3": "zone-b"}


@pytest.fixture(scope="module")
def zoned(new_lasting_lab: Callable[[], Lab]) -> Iterator[Cluster]:
    """Two hosts in zone a, one in another."""
    lab = new_lasting_lab()
    lab.up(of_hosts(3))
    with ThreadPoolExecutor(8) as pool:
        cluster = Cluster(lab, pool)
        for host, zone in ZONES.items():
            with cluster.agent_of(host) as one:
                one.stop_agent()
                file = one.path("/etc/netagent/netagent.toml")
                file.write_text(file.read_text() + f'zone = "{zone}"\n')
                one.start_agent()
        cluster.wait(
            lambda: all(set(cluster.agents(host).values()) == {"alive"} for host in cluster.hosts),
            15.0,
            "not alive",
        )
        yield inhabited(cluster)


def four(app: Cluster, host: str, name: str, *options: str) -> str:
    """A new replica of `web`; its IPv4 address."""
    addresses: list[str] = app.attach(host, name, "--service", "web", *options)["addresses"]
    return next(one for one in addresses if ":" not in one)


def test_scenario_56_names_lead_to_near_replicas_and_outward_without_them_also_without_agent(
    zoned: Cluster,
) -> None:
    app = zoned
    web = {host: four(app, host, f"web-{host}") for host in app.hosts}
    for container in ("c1", "c3"):
        app.wait(
            lambda: app.ask(container, "web").data == sorted(web.values()), 30.0, "not all replicas are known"
        )

    # Each host has measured the others within seconds of its start.
    app.wait(lambda: app.ask("c1", "nearest.web").data == [web["h1"]], 10.0, "h1 is not its own nearest")
    assert app.ask("c3", "nearest.web").data == [web["h3"]]
    assert app.ask("c3", "a.zone.web.app").data == sorted([web["h1"], web["h2"]])
    assert app.ask("c1", "zone-b.zone.web.app.mesh.internal").data == [web["h3"]]
    assert len(app.ask("c1", "all.web", "AAAA").data) == 3
    assert len(app.ask("c1", "web", "AAAA").data) == 1
    app.wait(
        lambda: app.ask("c1", "top2.nearest.web").data == sorted([web["h1"], web["h2"]]),
        30.0,
        "the same zone is not nearer than another",
    )

    found = app.netagent("h1", "lookup", "top2.nearest.web", "--from", "c1")
    assert "web-h1 on h1 (this host, zone a), web-h2 on h2 (" in found["reason"]
    assert " ms away, zone a), web-h3 on h3 (" in found["reason"]
    objects = app.netagent("h1", "inspect", "web-h3", "--why")["why"]["objects"]
    (order,) = [one for one in objects if one["kind"] == "order"]
    # How many milliseconds depends on how busy this machine is.
    distance = r"web-h3 has weight 100, h3 is at most \d+ ms away, in zone zone-b"
    assert re.fullmatch(distance, order["thing"])

    # Outward as replicas go, and without the agent as with it; a new agent keeps the order.
    app.remove("web-h1")
    assert app.ask("c1", "nearest.web").data == [web["h2"]]
    with app.agent_of("h1") as one:
        one.kill_agent()
        assert app.ask("c1", "nearest.web").data == [web["h2"]]
        assert json.loads((one.path("/run/netagent/distances.json")).read_text()) != {}
        one.start_agent()
    app.wait(lambda: set(app.agents("h1").values()) == {"alive"}, 15.0, "h1 is not back")
    assert app.ask("c1", "nearest.web").data == [web["h2"]]
    app.remove("web-h2")
    assert app.ask("c1", "nearest.web").data == app.ask("c1", "a.zone.web").data == [web["h3"]]
    app.remove("web-h3")
    assert app.ask("c1", "nearest.web.app").status == "NXDOMAIN"


def test_a_network_leads_its_names_to_near_replicas(zoned: Cluster) -> None:
    app = zoned
    app.netagent("h2", "network", "create", "near", "--answer", "nearest")
    refused = app.try_netagent("h2", "network", "create", "near", "--answer", "zone")
    assert (refused.status, "its answers are made by nearest" in refused.stderr) == (4, True), refused.stderr
    for host in ("h1", "h3"):
        app.attach(host, f"ask-{host}", "--network", "near")
    web = {host: four(app, host, f"near-{host}", "--network", "near") for host in ("h2", "h3")}
    app.wait(
        lambda: app.ask("ask-h3", "web.near").data == [web["h3"]], 10.0, "h3's own replica is not the nearest"
    )
    app.wait(
        lambda: app.ask("ask-h1", "web.near").data == [web["h2"]],
        30.0,
        "the replica of the zone is not nearer",
    )
    assert app.ask("ask-h1", "all.web.near").data == sorted(web.values())
    assert app.try_netagent("h3", "doctor").status == 0
    app.remove("near-h2", "near-h3", "ask-h1", "ask-h3")


def test_the_share_of_first_places_is_the_weight(zoned: Cluster) -> None:
    app = zoned
    heavy, light = four(app, "h1", "heavy", "--weight", "300"), four(app, "h2", "light")
    assert app.try_netagent("h1", "attach", "netns:heavy", "--network", "app", "--weight", "1001").status == 2
    app.wait(lambda: app.ask("c1", "web").data == sorted([heavy, light]), 30.0, "not both are known")
    program = (
        "import socket; print([socket.getaddrinfo('web', 80, socket.AF_INET)[0][4][0] for _ in range(80)].count"
        f"('{heavy}'))"
    )
    assert int(app.inside("c1", "python3", "-c", program).stdout) == 60
    app.attach("h3", "ported", "--service", "web", "--weight", "50", "--expose", "http=80/tcp")
    expected = ["0 50 80 ported.h3.app.mesh.internal."]
    app.wait(lambda: app.ask("c1", "_http._tcp.web.app", "SRV").data == expected, 30.0, "no SRV")
    app.remove("heavy", "light", "ported")


def test_a_replica_whose_check_has_just_succeeded_warms_up_on_all_hosts_alike(zoned: Cluster) -> None:
    app = zoned
    exposed = ("--expose", "echo=7000/tcp")
    four(app, "h1", "warm", *exposed)
    checked = ("--service", "web", *exposed, "--check", "tcp:7000 interval=1s")
    app.attach("h2", "cold", *checked, command=("python3", STREAM, "serve"))

    def weights(container: str) -> dict[str, int]:
        found = app.ask(container, "_echo._tcp.web.app", "SRV").data
        return {one.split()[3].partition(".")[0]: int(one.split()[1]) for one in found}

    app.wait(
        lambda: weights("c1").get("cold", 100) < 100, 15.0, "it does not begin with less than its weight"
    )
    with app.agent_of("h3") as one:
        one.kill_agent()  # the share grows all the same
        seen = [weights("c1")["cold"]]

        def is_warm() -> bool:
            seen.append(weights("c1")["cold"])
            return seen[-1] == 100

        app.wait(is_warm, 40.0, "it stays cold")
        app.wait(lambda: weights("c3") == {"warm": 100, "cold": 100}, 3.0, "another host has other shares")
        one.start_agent()
    steps = sorted(set(seen))
    assert set(steps) <= {17, 34, 50, 67, 84, 100}
    assert len(steps) >= 4
    assert seen == sorted(seen), "a share that grows never shrinks"
    app.wait(lambda: set(app.agents("h3").values()) == {"alive"}, 15.0, "h3 is not back")
    app.remove("warm", "cold")


def test_clients_find_texts_instances_and_protocols(zoned: Cluster) -> None:
    app = zoned
    options = (
        "--expose",
        "http=80/tcp",
        "--expose",
        "https=443/tcp+h2+http/1.1",
        "--label",
        "netagent.txt.path=/a b",
    )
    address = four(app, "h2", "shop", *options)
    zone = "app.mesh.internal"
    app.wait(lambda: app.ask("c1", "shop").data == [address], 30.0, "the name is not known")
    assert app.ask("c1", f"shop.{zone}", "TXT").data == ['"path=/a b"']
    assert app.ask("c1", "b._dns-sd._udp.mesh.internal", "PTR").data == [f"{zone}."]
    types = app.ask("c1", f"_services._dns-sd._udp.{zone}", "PTR").data
    assert types == [f"_http._tcp.{zone}.", f"_https._tcp.{zone}."]
    (instance,) = app.ask("c1", types[0], "PTR").data
    assert app.ask("c1", instance, "SRV").data == [f"0 100 80 shop.h2.{zone}."]
    assert app.ask("c1", instance, "TXT").data == ['"path=/a b"']
    (https,) = app.ask("c1", f"shop.{zone}", "HTTPS").data
    assert https.startswith(f'1 shop.h2.{zone}. alpn="h2,http/1.1" port=443 ipv4hint={address} ipv6hint=fd')
    shown = app.netagent("h1", "lookup", f"shop.{zone}", "HTTPS")["answers"][0]["data"]
    assert shown.startswith(f"1 shop.h2.{zone}. alpn=h2,http/1.1 port=443 ipv4hint={address} ipv6hint=fd")
    wrong = app.try_netagent("h2", "attach", "netns:shop", "--network", "app", "--expose", "https=443+H2")
    assert (wrong.status, "is not an ALPN protocol" in wrong.stderr) == (2, True), wrong.stderr
    app.remove("shop")
