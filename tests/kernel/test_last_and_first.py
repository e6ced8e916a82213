"""The first endpoint of a network on a host, something foreign in its way; and the last one, with all that goes."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from kernel.test_crash import World, names_of
from kernel.test_crash import world as world  # noqa: PLC0414 - the fixture

from netagent.model.ids import NetworkId, vni_of

pytestmark = pytest.mark.kernel

GONE_S = 2.0
PORT = 4799
LOOKS = (
    "ip -o link",
    "ip -o address",
    "ip neigh show nud permanent",
    "bridge fdb",
    "ip route show table all",
    "ip -6 route show table all",
    "nft list ruleset",
    "ls /proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf",
)


def traces(world: World, network_id: str) -> list[str]:
    """Every line in which the kernel of h1 names a device of the network."""
    names = names_of(network_id)
    lines = [line for command in LOOKS for line in world.h1.namespace.run(command).splitlines()]
    return [line for line in lines if any(name in line for name in names)]


def wait_for(condition: Callable[[], bool], within_s: float, what: str) -> None:
    """A look takes a while; one that was begun within the bound and ended beyond it says nothing."""
    end = time.monotonic() + within_s
    while True:
        began = time.monotonic()
        if condition():
            return
        assert began < end, f"not within {within_s} s: {what}"
        time.sleep(0.02)


def network_of(world: World, name: str) -> str:
    networks: dict[str, str] = world.h1.report()["networks"]
    return next(network_id for network_id, known in networks.items() if known == name)


def test_scenario_41_nothing_of_a_network_stays_after_its_last_container(world: World) -> None:
    app, other = network_of(world, "app"), network_of(world, "other")
    assert not traces(world, app), "a host has nothing of a network that it has no container in"
    kept = traces(world, other)
    assert kept
    world.h1.do("attach", "app", world.boxes["web"].name, "web")
    world.rest({"web"})
    found = traces(world, app)
    for part in ("mtu", "inet ", "lladdr", "dst 192.0.2.2", "proto kernel"):
        assert any(part in line for line in found), (part, found)
    rules = world.h1.namespace.run("nft list ruleset")
    assert any(name in rules for name in names_of(app))
    world.h1.do("detach", "web")
    wait_for(lambda: not traces(world, app), GONE_S, f"gone: {traces(world, app)}")
    assert {line.split()[0] for line in traces(world, other)} == {line.split()[0] for line in kept}
    world.rest(set())


def test_scenario_40_a_foreign_device_with_our_vni_and_port(world: World) -> None:
    """Refused with its name, nothing half built; it is not touched; and all works by itself when it goes."""
    app = network_of(world, "app")
    host, box = world.h1.namespace, world.boxes["web"]
    vni = vni_of(NetworkId(app))
    make = f"ip link add vx-foreign type vxlan id {vni} dstport {PORT} local 192.0.2.1"
    host.run(make)
    foreign = host.run("ip -d link show vx-foreign")
    refusal = world.h1.refusal("attach", "app", box.name, "web")
    assert f"another program's device vx-foreign uses VNI {vni}" in refusal
    wait_for(lambda: not traces(world, app), GONE_S, "nothing is half built")
    assert "eth0" not in box.run("ip link")
    assert host.run("ip -d link show vx-foreign") == foreign
    host.run("ip link del vx-foreign")
    world.h1.do("attach", "app", box.name, "web")
    world.rest({"web"})
    whole = sorted(line for line in host.run("bridge fdb").splitlines() if "dst 192.0.2.2" in line)

    # It comes while the network is in use: containers of one host go on, and the tunnel returns with all on it.
    tunnel = next(name for name in names_of(app) if name.startswith("nx-"))
    # Again while the agent is the quicker one.
    instead = f"until ip link del {tunnel} 2>/dev/null; {make} 2>/dev/null; do :; done"
    host.run_code(f"import os; assert not os.system({instead!r})")
    wait_for(lambda: tunnel not in host.run("ip -br link"), GONE_S, "it is in the way")
    host.run("ip link del vx-foreign")
    wait_for(
        lambda: sorted(x for x in host.run("bridge fdb").splitlines() if "dst 192.0.2.2" in x) == whole,
        GONE_S,
        "the tunnel is back with its entries",
    )
    box.run("ping -c1 -w5 " + next(iter(world.h2.report()["rows"].values()))["addresses"][0])
    world.rest({"web"})
