"""What lies between hosts is in trouble: paths that carry too little, or nothing for a while."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from lab.harness import Cluster
from netlab.lab import Lab
from netlab.topology import of_hosts

pytestmark = pytest.mark.lab

BULK = str(Path(__file__).with_name("bulk.py"))
OVERHEAD_BYTES = 50
FOUND_S = 12.0
"""A calm path is tried every five seconds; then four rounds of half a second, and a search."""
CLEARED_S = 10.0
HEALED_S = 10.0
"""What is promised: so long after a cut everybody knows everything."""
TRANSFER_BYTES = 20_000_000


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two hosts with a container each, c1 and c2, where `bulk.py` serves; healed before each test."""
    lab = Lab(Path(f"/run/natlab-{tmp_path_factory.mktemp('paths').parent.parent.name[-8:]}-paths"))
    try:
        lab.up(of_hosts(2))
        with ThreadPoolExecutor(8) as pool:
            cluster = Cluster(lab, pool)
            cluster.netagent("h1", "network", "create", "app")
            for number in (1, 2):
                cluster.attach(f"h{number}", f"c{number}", command=("python3", BULK, "serve"))
            for container, other in (("c1", "c2"), ("c2", "c1")):
                cluster.wait(
                    lambda c=container, o=other: cluster.ask(c, o).status == "NOERROR", 5.0, "unknown names"
                )
            yield cluster
    finally:
        lab.down()


@pytest.fixture
def app(shared: Cluster) -> Cluster:
    shared.lab.heal()
    for host in shared.hosts:
        shared.wait(lambda h=host: path(shared, h)["path"] == "ok", CLEARED_S, f"{host}'s path is not well")
    return shared


def path(app: Cluster, host: str) -> dict[str, Any]:
    """What a host says of the path to the other."""
    (other,) = [member for member in app.netagent(host, "members") if not member["local"]]
    return dict(other)


def move(app: Cluster, container: str, address: str, size: int = TRANSFER_BYTES) -> dict[str, Any]:
    done = app.inside(container, "python3", BULK, "move", address, str(size), timeout_s=60)
    assert done.status == 0, done.stderr
    return dict(json.loads(done.stdout))


def shrink(app: Cluster, wire_bytes: int) -> int:
    """The path carries only so much; what that leaves for a container's packet, once both hosts know it."""
    app.lab.shrink("h2", wire_bytes)
    size = wire_bytes - OVERHEAD_BYTES
    for host in app.hosts:
        app.wait(
            lambda h=host: path(app, h)["path"] == "degraded" and path(app, h)["path_mtu_bytes"] == size,
            FOUND_S,
            f"{host} does not find the path's size",
        )
    return size


def assert_tcp_passes(app: Cluster, size: int) -> None:
    for container, other in (("c1", "c2"), ("c2", "c1")):
        for address in app.answers(container, other):
            done = move(app, container, address)
            assert done["moved"] == TRANSFER_BYTES
            # TCP's time stamps take twelve bytes of each segment.
            assert done["mss_bytes"] == size - (60 if ":" in address else 40) - 12


def test_scenario_05_a_large_transfer_passes_a_path_of_1400_bytes(app: Cluster) -> None:
    size = shrink(app, 1400)
    (address,) = [one for one in app.answers("c1", "c2") if "." in one]
    large = ("ping", "-c2", "-W1", "-i0.2", "-M", "do", "-s", str(size - 28 + 1), address)
    assert app.inside("c1", *large).status != 0, "what is larger is lost in silence"
    assert_tcp_passes(app, size)
    (notice,) = [one for one in app.netagent("h1", "status")["warnings"] if one["code"] == "path-degraded"]
    assert "1350 bytes of the 1450" in notice["message"]
    assert app.netagent("h1", "status")["paths"] == {"degraded": 1}
    app.lab.heal()
    app.wait(lambda: path(app, "h1")["path"] == path(app, "h2")["path"] == "ok", CLEARED_S, "it stays small")
    assert move(app, "c1", address)["mss_bytes"] == 1450 - 40 - 12, "TCP has all of it again"


def test_scenario_06_a_middlebox_drops_what_is_above_700_bytes(app: Cluster) -> None:
    size = shrink(app, 700)
    shown = app.try_netagent("h1", "members").stdout
    assert f"degraded to {size}" in shown
    assert app.agents("h1") == {"h1": "alive", "h2": "alive"}, "small packets pass"
    assert app.netagent("h1", "status")["paths"] == {"degraded": 1}
    assert_tcp_passes(app, size)


def complete(app: Cluster, there: dict[str, list[str]], gone: str) -> bool:
    """Whether both containers are told exactly these names' addresses, and all agents live."""
    asked = [(box, name) for box in ("c1", "c2") for name in there]
    return (
        all(set(app.agents(host).values()) == {"alive"} for host in app.hosts)
        and all(app.answers(box, name) == there[name] for box, name in asked)
        and all(app.ask(box, gone).status == "NXDOMAIN" for box in ("c1", "c2"))
    )


@pytest.mark.timeout(240)
@pytest.mark.parametrize("cut_s", [10.0, pytest.param(90.0, marks=pytest.mark.long)])
def test_scenario_22_after_a_partition_all_is_complete_within_the_stated_bound(
    app: Cluster, cut_s: float
) -> None:
    app.attach("h2", "gone")
    app.wait(lambda: app.ask("c1", "gone").status == "NOERROR", 5.0, "h1 does not know it")
    app.lab.cut("h1", "h2")
    end = time.monotonic() + cut_s
    there = {f"new-{host}": sorted(app.attach(host, f"new-{host}")["addresses"]) for host in app.hosts}
    app.lab.remove_container("gone")
    for host, box in (("h1", "c1"), ("h2", "c2")):
        assert app.answers(box, f"new-{host}") == there[f"new-{host}"], "each side goes on by itself"
    app.wait(lambda: time.monotonic() >= end, cut_s + 1, "time stands still")
    assert app.ask("c1", "new-h2").status != "NOERROR"
    assert app.agents("h1")["h2"] == "dead", "cut for long enough to prove something"
    app.lab.heal()
    took_s = app.wait(lambda: complete(app, there, "gone"), HEALED_S, "not complete")
    print(f"cut for {cut_s:.0f} s: complete {took_s:.1f} s after it")
    for box, other in (("c1", "new-h2"), ("c2", "new-h1")):
        assert all(app.pings(box, address) for address in there[other])
    for name in there:
        app.lab.remove_container(name)
