"""Addresses that change hands, hardware addresses that change, networks that are given up."""

from __future__ import annotations

import re
import time

import pytest
from lab.harness import STREAM, Cluster

pytestmark = pytest.mark.lab

REACHED_S = 1.0
"""From the moment that `attach` returns."""
AGAIN_S = 5.0


def reached_within(app: Cluster, container: str, address: str, within_s: float) -> float:
    """Seconds until a ping is answered; one is sent every 50 ms, whether or not those before were."""
    argv = ("ping", "-n", "-i", "0.05", "-c", "1", "-w", f"{within_s + 1:.0f}", address)
    begun = time.monotonic()
    done = app.inside(container, *argv, timeout_s=within_s + 10)
    took_s = time.monotonic() - begun
    assert done.status == 0, f"{address} is not reached from {container}: {done.stdout}"
    assert took_s < within_s, f"{address} is reached from {container} after {took_s:.1f} s"
    return took_s


@pytest.mark.parametrize("macs", [(), ("06:aa:00:00:00:01", "06:aa:00:00:00:02")], ids=["same", "other"])
def test_scenario_31_an_address_released_and_reused_elsewhere_is_reached_by_a_third(
    lasting: Cluster, macs: tuple[str, ...]
) -> None:
    """Also with another hardware address, which those who spoke to the one before still have in their caches."""
    app = lasting
    address = app.attach("h2", "before")["addresses"][0]
    app.lab.remove_container("before")
    options = [("--ip", address, *(("--mac", mac) if mac else ())) for mac in (macs or ("", ""))]
    six = app.attach("h2", "first", *options[0])["addresses"][1]
    for container in ("c1", "c2", "c3"):
        for one in (address, six):
            reached_within(app, container, one, REACHED_S)
    app.lab.remove_container("first")
    app.wait(lambda: "first" not in app.endpoint_names("h3"), REACHED_S, "h3 does not hear that it is free")
    app.attach("h3", "second", *options[1])
    for container in ("c1", "c2", "c3"):
        for one in (address, six):
            print(f"{one} from {container}: {reached_within(app, container, one, REACHED_S):.2f} s")
    assert app.answers("c1", "second") == sorted([address, six])
    app.lab.remove_container("second")


def test_scenario_45_the_hardware_address_of_a_host_changes(lasting: Cluster) -> None:
    """As when a virtual machine moves, or its network card is replaced."""
    app = lasting
    address = app.attach("h3", "echo", command=("python3", STREAM, "serve"))["addresses"][0]
    for container in ("c1", "c2"):
        app.wait(lambda: app.finds(container, "echo"), REACHED_S, f"{container} does not find it")
    streams = [
        app.in_background(app.ping_stream, "c1", address, 8.0),
        app.in_background(app.ping_stream, "c2", address, 8.0),
    ]
    time.sleep(1.0)
    app.lab.host("h3").must(["ip", "link", "set", "eth0", "address", "02:bb:00:00:00:03"])
    lost_s = max(stream.result().silent_s for stream in streams)
    print(f"nothing passed for at most {lost_s:.2f} s")
    assert lost_s < AGAIN_S
    app.wait(lambda: set(app.agents("h1").values()) == {"alive"}, AGAIN_S, "a host is not alive")
    app.lab.remove_container("echo")


def test_scenario_46_a_network_is_removed_when_no_living_endpoint_is_in_it(lasting: Cluster) -> None:
    app = lasting
    app.netagent("h1", "network", "create", "old")
    app.attach("h1", "near", "--network", "old")
    app.attach("h2", "far", "--network", "old")
    app.wait(lambda: app.finds("near", "far"), REACHED_S, "h1 does not know of it")
    for host in app.hosts:
        refused = app.try_netagent(host, "network", "rm", "old")
        assert refused.status == 4
        assert re.search(r"far on h2, near on h1", refused.stderr), refused.stderr
    # A container that has just ended without a word belongs to no endpoint any more.
    app.lab.remove_container("near", kill=True)
    refused = app.try_netagent("h1", "network", "rm", "old")
    assert refused.status == 4
    assert "by far on h2" in refused.stderr
    app.lab.power_off("h2")
    app.wait(lambda: app.try_netagent("h1", "network", "rm", "old").status == 0, 15.0, "it stays")
    assert [n["name"] for n in app.netagent("h1", "network", "ls")] == ["app"]
    app.lab.power_on("h2")
    app.wait(lambda: set(app.agents("h1").values()) == {"alive"}, 15.0, "h2 is not back")
    app.wait(lambda: [n["name"] for n in app.netagent("h2", "network", "ls")] == ["app"], 5.0, "it is back")
    app.wait(
        lambda: app.endpoint_names("h2") == app.endpoint_names("h1") == ["c1", "c2", "c3"],
        10.0,
        "not the same",
    )
