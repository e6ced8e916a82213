"""Hosts of two families: those with both addresses enter either cluster, the others are refused with a way out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from lab.harness import OURS, Cluster
from netlab.lab import Lab
from netlab.topology import Topology

pytestmark = pytest.mark.lab

BOTH, ONLY_4, ONLY_6 = ("h1", "h2"), "h3", "h4"


@pytest.fixture
def mixed(new_lab: Callable[[], Lab]) -> Iterator[Cluster]:
    """Agents run and belong to no cluster. h1 and h2 have addresses of both families, h3 of IPv4, h4 of IPv6."""
    lab = new_lab()
    lab.up(
        Topology({"h1": "192.0.2.1", "h2": "192.0.2.2", "h3": "192.0.2.3", "h4": "2001:db8::4"}), agents=False
    )
    for host in BOTH:
        lab.host(host).must(["ip", "address", "add", six(host), "dev", "eth0", "nodad"])
    for host in (*BOTH, ONLY_4, ONLY_6):
        with lab.changing(host) as changing:
            changing.start_agent()
    with ThreadPoolExecutor(8) as pool:
        yield Cluster(lab, pool)


def six(host: str) -> str:
    return f"2001:db8::{host[1:]}/64"


def test_hosts_of_two_families(mixed: Cluster) -> None:
    mixed.netagent("h1", "init")
    join(mixed, "h2")
    join(mixed, ONLY_4)
    mixed.netagent("h1", "network", "create", "app")
    one, two, three = (mixed.attach(host, f"c{host[1]}") for host in ("h1", "h2", "h3"))
    for other in (two, three):
        mixed.wait(lambda: pings_all(mixed, "c1", other), 5.0, "the first host does not reach it")

    stream = mixed.in_background(mixed.ping_stream, "c1", three["addresses"][0], 20.0)
    is_refused_and_stays_as_it_was(mixed)
    loses_the_cluster_s_family_and_gets_it_back(mixed, one)
    pinged = stream.result()
    assert (pinged.sent > 100, pinged.lost) == (True, 0), "packets between two others are lost"

    # The same hosts with a cluster of the other family: who has both enters it by that one.
    mixed.netagent("h2", "leave", "--drain", "0s")
    mixed.netagent(ONLY_6, "init", "--cluster", "six")
    join(mixed, "h2", by=ONLY_6)
    assert mixed.netagent("h2", "status")["host"]["address"] == "2001:db8::2"
    sees = {"h2": "alive", ONLY_6: "alive"}
    for host in ("h2", ONLY_6):
        mixed.wait(lambda: mixed.agents(host) == sees, 10.0, f"{host} does not see the other")
    mixed.wait(lambda: member(mixed, "h2", ONLY_6)["host"] == "answers", 10.0, "no way by the probe network")


def join(mixed: Cluster, host: str, by: str = "h1") -> None:
    token = mixed.lab.host(by).must(["netagent", "invite"])
    mixed.netagent(host, "join", "--token-file", "-", stdin=token)


def member(mixed: Cluster, host: str, other: str) -> dict[str, Any]:
    return next(one for one in mixed.netagent(host, "members") if one["name"] == other)


def pings_all(mixed: Cluster, container: str, endpoint: dict[str, Any]) -> bool:
    return all(mixed.pings(container, address) for address in endpoint["addresses"])


def of_another_family(mixed: Cluster, host: str) -> dict[str, dict[str, str]]:
    """Host -> what the status of this one says of it, of those that have no address of its family."""
    found = mixed.netagent(host, "status")["warnings"]
    return {one["message"][:2]: one for one in found if one["code"] == "underlay-family"}


def is_refused_and_stays_as_it_was(mixed: Cluster) -> None:
    token = mixed.lab.host("h1").must(["netagent", "invite"])
    refused = mixed.lab.host(ONLY_6).run(["netagent", "join", "--token-file", "-"], stdin=token)
    assert refused.status == 4
    for word in (
        "the cluster mesh",
        "IPv4 (192.0.2.1)",
        "IPv6 (2001:db8::4)",
        "give this host an IPv4 address",
    ):
        assert word in refused.stderr
    assert mixed.netagent(ONLY_6, "status")["cluster"] is None
    assert not [name for _, name in mixed.devices(ONLY_6) if OURS.fullmatch(name)]
    assert mixed.lab.host(ONLY_6).run(["test", "-e", "/var/lib/netagent/keyring"]).status != 0
    assert set(mixed.agents("h1")) == {"h1", "h2", "h3"}


def loses_the_cluster_s_family_and_gets_it_back(mixed: Cluster, one: dict[str, Any]) -> None:
    host = mixed.lab.host("h2")
    host.must(["ip", "address", "del", "192.0.2.2/24", "dev", "eth0"])
    mixed.wait(lambda: member(mixed, "h2", "h1")["path"] == "down", 10.0, "the path is not down")
    mixed.wait(lambda: {"h1", "h3"} <= set(of_another_family(mixed, "h2")), 5.0, "h2 knows no cause")
    reported = of_another_family(mixed, "h2")
    for name, address in (("h1", "192.0.2.1"), ("h3", "192.0.2.3")):
        assert f"has the address {address} and this host 2001:db8::2" in reported[name]["message"]
        assert "`advertise`" in reported[name]["cure"]
    found = mixed.try_netagent("h2", "doctor")
    assert found.status == 1
    assert "h1 has the address 192.0.2.1 and this host 2001:db8::2" in found.stdout
    # To the others it is as without power: for good, and not by turns.
    for name in ("h1", "h3"):
        mixed.wait(lambda: mixed.agents(name)["h2"] == "dead", 10.0, f"{name} believes that h2 is there")
    mixed.wait(lambda: mixed.answers("c1", "c2") == [], 5.0, "its names stay")

    host.must(["ip", "address", "add", "192.0.2.2/24", "dev", "eth0"])
    alive = dict.fromkeys(("h1", "h2", "h3"), "alive")
    for name in alive:
        mixed.wait(lambda: mixed.agents(name) == alive, 15.0, f"{name} does not see all again")
    mixed.wait(lambda: pings_all(mixed, "c2", one), 5.0, "nothing passes again")
    codes = {one["code"] for one in mixed.netagent("h2", "status")["warnings"]}
    assert not {"underlay-family", "agent-dead"} & codes
