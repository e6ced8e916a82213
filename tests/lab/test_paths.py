"""What lies between hosts is in trouble: paths that carry too little, or nothing for a while."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lab.harness import Cluster
from netlab.lab import Lab
from netlab.programs import must
from netlab.topology import of_hosts

pytestmark = pytest.mark.lab

BULK, CARD = (str(Path(__file__).with_name(name)) for name in ("bulk.py", "card.py"))
OFFLOAD = """
import socket, sys
from netagent.datapath.host.offload import set_tx_checksum, tx_checksum
sock, device = socket.socket(), sys.argv[1]
"""
TX_CHECKSUM = OFFLOAD + "print(tx_checksum(sock, device))"
TX_ON = OFFLOAD + "set_tx_checksum(sock, device, is_on=True); print(tx_checksum(sock, device))"
OFFLOAD_S = 40.0
"""A calm path is tried every ten seconds; then once a second, six times. A path that was in doubt begins again."""
OVERHEAD_BYTES = 50
FOUND_S = 20.0
"""A calm path is tried every five seconds; then four rounds of half a second, and a search. A search that missed
answers finds too little, and goes on two seconds later."""
CLEARED_S = 10.0
HEALED_S = 10.0
"""The promised time after a cut until all hosts know everything."""
TRANSFER_BYTES = 20_000_000


@pytest.fixture(scope="module")
def shared(new_lasting_lab: Callable[[], Lab]) -> Iterator[Cluster]:
    """Two hosts with a container each, c1 and c2, where `bulk.py` serves."""
    lab = new_lasting_lab()
    lab.up(of_hosts(2))
    with ThreadPoolExecutor(8) as pool:
        cluster = Cluster(lab, pool)
        cluster.netagent("h1", "network", "create", "app")
        for number in (1, 2):
            cluster.attach(f"h{number}", f"c{number}", command=("python3", BULK, "serve"))
        yield cluster


@pytest.fixture
def app(shared: Cluster) -> Cluster:
    """Nothing is wrong at the beginning of a test."""
    shared.lab.heal()
    for host, box, other in (("h1", "c1", "c2"), ("h2", "c2", "c1")):
        shared.wait(
            lambda: set(shared.agents(host).values()) == {"alive"} and path(shared, host)["path"] == "ok",
            30.0,
            f"{host} is not well",
        )
        shared.wait(lambda: shared.ask(box, other).status == "NOERROR", 5.0, "unknown names")
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
            lambda: path(app, host)["path"] == "degraded" and path(app, host)["path_mtu_bytes"] == size,
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
    assert "1350 bytes, but a network sends up to 1370" in notice["message"]
    assert app.netagent("h1", "status")["paths"] == {"degraded": 1}

    # A new agent goes on with what the last one knew.
    clamps = app.lab.host("h1").must(["nft", "list", "map", "bridge", "netagent", "clamps4"])
    watch = app.in_background(app.lab.host("h1").run, ["timeout", "4", "nft", "monitor", "elements"])
    with app.agent_of("h1") as agent:
        agent.kill_agent()
        agent.start_agent()
    app.wait(lambda: path(app, "h1")["path"] == "degraded", FOUND_S, "the new agent does not find it")
    assert "clamps" not in watch.result().stdout
    assert app.lab.host("h1").must(["nft", "list", "map", "bridge", "netagent", "clamps4"]) == clamps
    app.lab.heal()
    app.wait(lambda: path(app, "h1")["path"] == path(app, "h2")["path"] == "ok", CLEARED_S, "it stays small")
    app.wait(
        lambda: move(app, "c1", address)["mss_bytes"] == 1370 - 40 - 12, 5.0, "TCP has not all of it again"
    )


def test_scenario_06_a_middlebox_drops_what_is_above_700_bytes(app: Cluster) -> None:
    size = shrink(app, 700)
    shown = app.try_netagent("h1", "members").stdout
    assert f"degraded to {size}" in shown
    assert app.agents("h1") == {"h1": "alive", "h2": "alive"}, "small packets pass"
    assert app.netagent("h1", "status")["paths"] == {"degraded": 1}
    said = app.try_netagent("h1", "ping", "c1", "c2")
    assert said.status == 1
    assert (
        "those of 1370 bytes are lost: degraded, packets of up to 650 bytes pass (lost at: path)"
        in said.stdout
    )
    assert_tcp_passes(app, size)


def complete(app: Cluster, there: dict[str, list[str]], gone: str) -> bool:
    """Whether both containers get exactly these names' addresses, and all agents live."""
    asked = [(box, name) for box in ("c1", "c2") for name in there]
    return (
        all(set(app.agents(host).values()) == {"alive"} for host in app.hosts)
        and all(app.answers(box, name) == there[name] for box, name in asked)
        and all(app.ask(box, gone).status == "NXDOMAIN" for box in ("c1", "c2"))
    )


def test_ping_says_where_packets_stay(app: Cluster) -> None:
    assert app.try_netagent("h1", "ping", "c1", "c2").status == 0
    found = app.netagent("h1", "ping", "c1", "c2", "--trace")
    assert sorted({one["address"] for one in found["results"]}) == app.answers("c1", "c2")
    assert sorted({one["size_bytes"] for one in found["results"]}) == [84, 1370]
    assert all(one["received"] == one["sent"] == 3 and one["rtt_avg_s"] > 0 for one in found["results"])
    layers = [hop["layer"] for hop in found["trace"]]
    assert layers == sorted(layers, key=["name", "container", "kernel", "policy", "path", "host"].index)
    assert all(hop["ok"] for hop in found["trace"])
    (outside,) = app.netagent("h1", "ping", "c1", f"{app.answers('c1', 'c2')[0]}:7002")["results"]
    assert outside["received"] == 1
    assert app.netagent("h1", "ping", "h2")["host"] == "h2"

    def fails(status: int, *words: str) -> str:
        done = app.try_netagent("h1", "ping", *words)
        assert done.status == status, done
        return done.stdout + done.stderr

    assert "nothing listens at its port 7003" in fails(1, "c1", "c2:7003")
    assert "there is no host and no endpoint 'h9'" in fails(1, "h9")
    assert "cannot resolve 'nobody'" in fails(1, "c1", "nobody")
    assert "on host h2" in fails(4, "c2", "c1")
    assert "is not a port" in fails(2, "c1", "c2:0")
    assert "'h1' is this host" in fails(2, "h1")
    app.netagent("h1", "network", "create", "other")
    addresses = app.attach("h1", "apart", "--network", "other")["addresses"]
    said = fails(1, "c1", addresses[0])
    assert "networks are isolated from each other (lost at: policy)" in said
    app.lab.remove_container("apart")
    app.netagent("h1", "network", "create", "closed", "--internal")
    app.attach("h1", "inner", "--network", "closed")
    assert "all networks of inner are internal" in fails(1, "inner", "192.0.2.254")
    app.lab.remove_container("inner")
    for network in ("other", "closed"):
        app.netagent("h1", "network", "rm", network)
    app.lab.cut("h1", "h2")  # and the probes have not seen it yet
    assert "(lost at: path)" in fails(1, "c1", "c2", "--count", "1")
    assert "(lost at: path)" in fails(1, "h2")


@contextmanager
def broken_card(app: Cluster, host: str) -> Iterator[None]:
    """Everything that this host sends or gets passes a card that breaks checksums inside VXLAN."""
    inside = ["ip", "netns", "exec", f"{app.lab.folder.name}-fabric"]
    must([*inside, "ip", "link", "add", "card", "type", "veth", "peer", "name", "slot"])
    for device in ("card", "slot"):
        must([*inside, "ip", "link", "set", device, "up"])
    for one in app.hosts:  # the card gets packets, not what is left to be cut into packets
        app.lab.host(one).must(["ip", "link", "set", "eth0", "gso_max_segs", "1"])
    words = [*inside, sys.executable, CARD, host, "slot"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as card:
        try:
            assert card.stdout is not None
            assert card.stdout.readline() == "ready\n"
            must([*inside, "ip", "link", "set", host, "nomaster"])
            must([*inside, "ip", "link", "set", "card", "master", "fabric"])
            yield
        finally:
            must([*inside, "ip", "link", "set", host, "master", "fabric"])
            card.kill()
            must([*inside, "ip", "link", "del", "card"])


def device(app: Cluster) -> str:
    """The VXLAN device of the network, which has the same name on every host."""
    (network,) = app.netagent("h1", "network", "ls")
    return f"nx-{network['vni']}"


def codes(app: Cluster, host: str) -> list[str]:
    """What a host's `status` warns of."""
    return [one["code"] for one in app.netagent(host, "status")["warnings"]]


def uses_the_card(app: Cluster, host: str) -> bool:
    """Whether the VXLAN device of the network leaves checksums to what is below it."""
    shown = app.lab.host(host).must([sys.executable, "-c", TX_CHECKSUM, device(app)])
    return shown.strip() == "True"


@pytest.mark.timeout(240)
def test_checksums_that_the_card_breaks_are_made_by_the_kernel(app: Cluster) -> None:
    (address,) = [one for one in app.answers("c1", "c2") if "." in one]
    assert uses_the_card(app, "h1")
    with broken_card(app, "h2"):
        connect = f"import socket; socket.create_connection(('{address}', 7002), 2)"
        assert app.inside("c1", "python3", "-c", connect).status != 0, "TCP hangs"
        assert app.pings("c1", address), "and pings pass"
        for host in app.hosts:
            took_s = app.wait(lambda: not uses_the_card(app, host), OFFLOAD_S, f"{host} still uses it")
            print(f"{host}: off {took_s:.1f} s later")
        for one in app.answers("c1", "c2"):
            assert move(app, "c1", one, 2_000_000)["moved"] == 2_000_000
        assert "checksum-offload" in codes(app, "h1")
        assert app.lab.host("h1").must([sys.executable, "-c", TX_ON, device(app)]) == "True\n"
        app.wait(lambda: not uses_the_card(app, "h1"), 2.0, "who turned it on by hand has his way")
        # An agent that starts does not know yet, and changes nothing until it does.
        with app.agent_of("h1") as agent:
            agent.kill_agent()
            agent.start_agent()
        seen = set()

        def is_known_again() -> bool:
            seen.add(uses_the_card(app, "h1"))
            return "checksum-offload" in codes(app, "h1")

        app.wait(is_known_again, OFFLOAD_S, "the new agent does not find out")
        assert seen == {False}
    for host in app.hosts:
        app.wait(lambda: uses_the_card(app, host), OFFLOAD_S, f"{host} does not use it again")
    assert "checksum-offload" not in codes(app, "h1")


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
    app.wait(lambda: app.agents("h1")["h2"] == "dead", 10.0, "cut for long enough to prove something")
    app.lab.heal()
    took_s = app.wait(lambda: complete(app, there, "gone"), HEALED_S, "not complete")
    print(f"cut for {cut_s:.0f} s: complete {took_s:.1f} s after it")
    for box, other in (("c1", "new-h2"), ("c2", "new-h1")):
        assert all(app.pings(box, address) for address in there[other])
    for name in there:
        app.lab.remove_container(name)
