"""Entering a cluster, networks made by all at once, and noise on the ports."""

from __future__ import annotations

import base64
import json
import time
from ipaddress import ip_network

import pytest
from lab.harness import Cluster
from netlab.lab import Lab

pytestmark = pytest.mark.lab

NOISE = """
import random, socket, sys
rng = random.Random(int(sys.argv[1]))
for address, port in ((sys.argv[2], int(sys.argv[3])),):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        for _ in range(200):
            udp.sendto(rng.randbytes(rng.randrange(1, 1400)), (address, port))
    for _ in range(20):
        with socket.create_connection((address, port), 2) as tcp:
            try:
                tcp.sendall(rng.randbytes(rng.randrange(1, 5000)))
                tcp.shutdown(socket.SHUT_WR)
                tcp.settimeout(15)
                while tcp.recv(65536):
                    pass
            except ConnectionError:
                pass
"""

TERMINAL = """
import os, pty, subprocess, sys
here, there = pty.openpty()
program = subprocess.Popen(sys.argv[1:], stdout=there, stderr=there)
os.close(there)
shown = b""
try:
    while part := os.read(here, 4096):
        shown += part
except OSError:
    pass  # the other end is closed
sys.stdout.write(shown.decode())
sys.exit(program.wait())
"""
"""Runs a program whose output goes to a terminal."""
WAITING = "asking the members that the token names"


def test_unknown_sources_form_no_cluster_and_status_says_what_to_type(unknown_sources: Cluster) -> None:
    for host in unknown_sources.hosts:
        status = unknown_sources.netagent(host, "status")
        assert status["cluster"] is None
        assert status["heard"] == []
        shown = unknown_sources.try_netagent(host, "status")
        assert "netagent init" in shown.stdout
        assert "netagent join" in shown.stdout
        refused = unknown_sources.try_netagent(host, "network", "create", "app")
        assert refused.status == 4
        assert "netagent join" in refused.stderr


def test_a_stranger_that_hears_a_cluster_says_how_to_enter(unknown_sources: Cluster) -> None:
    unknown_sources.netagent("h1", "init")
    unknown_sources.lab.heal()
    unknown_sources.wait(
        lambda: (
            "192.0.2.1" in {heard["address"] for heard in unknown_sources.netagent("h2", "status")["heard"]}
        ),
        15.0,
        "h2 does not hear h1",
    )
    assert unknown_sources.netagent("h2", "status")["cluster"] is None
    assert "netagent invite" in unknown_sources.try_netagent("h2", "status").stdout
    token = unknown_sources.netagent("h1", "invite", "--uses", "1")["token"]
    wrong = token[:-4] + ("AAAA" if token[-4:] != "AAAA" else "BBBB")
    assert unknown_sources.try_netagent("h2", "join", "--token-file", "-", stdin=wrong).status in (2, 4)
    assert unknown_sources.netagent("h2", "join", "--token-file", "-", stdin=token)["members"] == 2
    again = unknown_sources.try_netagent("h3", "join", "--token-file", "-", stdin=token)
    assert again.status == 4, "one use"
    assert token not in again.stderr


def test_who_comes_with_another_label_or_key_is_refused_counted_and_shown(unknown_sources: Cluster) -> None:
    """Both have h1 as a seed: h2 with its cluster id and another key, h3 as the member of another cluster."""
    for host, name in (("h1", "mesh"), ("h3", "other")):
        unknown_sources.netagent(host, "init", "--cluster", name)
    unknown_sources.lab.heal()
    ring = json.loads(unknown_sources.lab.host("h1").path("/var/lib/netagent/keyring").read_text())
    ring["keys"] = [base64.b64encode(b"k" * 32).decode()]
    for host in ("h2", "h3"):
        with unknown_sources.agent_of(host) as changing:
            with changing.path("/etc/netagent/netagent.toml").open("a") as configuration:
                configuration.write('seeds = ["192.0.2.1"]\n')
            if host == "h3":
                changing.signal_agent("HUP")
                continue
            changing.stop_agent()
            changing.path("/var/lib/netagent/keyring").write_text(json.dumps(ring))
            changing.start_agent()

    def shows(at: str, address: str, reason: str) -> bool:
        status = unknown_sources.netagent(at, "status")
        reported = [one for one in status["warnings"] if one["code"] == "stranger"]
        return (
            status["refused"].get(f"gossip_refused_{reason.replace('-', '_')}", 0) > 0
            and any(f"{address} are refused: {reason}" in one["message"] for one in reported)
            and all("netagent join" in one["cure"] for one in reported)
            and address in {one["address"] for one in status["heard"] if one["how"] == "gossip"}
        )

    for at, address, reason in (
        ("h1", "192.0.2.2", "wrong-key"),
        ("h1", "192.0.2.3", "other-label"),
        ("h2", "192.0.2.1", "wrong-key"),
    ):
        unknown_sources.wait(lambda: shows(at, address, reason), 15.0, f"{at} shows no {reason}")
    for host in unknown_sources.hosts:
        assert unknown_sources.agents(host) == {host: "alive"}, "none is a member of the others'"


def test_a_join_that_reaches_no_record_port_says_so_once_and_soon(unknown_sources: Cluster) -> None:
    """The whole command, on a terminal: a firewall drops 7957 of both members that are named."""
    unknown_sources.netagent("h1", "init")
    unknown_sources.lab.heal()
    first = unknown_sources.netagent("h1", "invite")["token"]
    unknown_sources.netagent("h2", "join", "--token-file", "-", stdin=first)
    unknown_sources.wait(
        lambda: list(unknown_sources.agents("h1").values()) == ["alive"] * 2, 10.0, "h1 and h2 are no cluster"
    )
    token = unknown_sources.netagent("h1", "invite")["token"]
    for host in ("h1", "h2"):
        unknown_sources.lab.block(host, 7957)
    begun = time.monotonic()
    done = unknown_sources.lab.host("h3").run(
        ["python3", "-c", TERMINAL, "netagent", "join", "192.0.2.1", "192.0.2.2", "--token-file", "-"],
        stdin=token,
        timeout_s=60.0,
    )
    took_s = time.monotonic() - begun
    shown = done.stdout.replace("\r", "\n")
    assert done.status != 0, shown
    assert took_s <= 20.0, f"{took_s:.0f} s: members are asked one after the other"
    before, error, after = shown.partition("could not join the cluster")
    assert error, shown
    assert WAITING in before, "nothing says what is waited for"
    assert "could not join" not in after, "said twice"
    assert "192.0.2.1, 192.0.2.2" in after, "one reason, with both of whom it holds"
    assert "7957" in after
    for raw in ("Errno", "Exception", "Error(", "Traceback", "trio", token):
        assert raw not in shown, shown
    unknown_sources.lab.heal()
    joined = unknown_sources.netagent("h3", "join", "--token-file", "-", stdin=token)
    assert joined["members"] == 3


def test_networks_made_by_all_hosts_at_the_same_instant_are_one(cluster: Cluster) -> None:
    made = cluster.all_at_once(lambda host: cluster.try_netagent(host, "network", "create", "app"))
    assert [done.status for done in made] == [0, 0, 0], [done.stderr for done in made]

    def ids() -> set[tuple[str, ...]]:
        return {
            tuple(network["id"] for network in cluster.netagent(host, "network", "ls"))
            for host in cluster.hosts
        }

    cluster.wait(lambda: len(ids()) == 1 and len(next(iter(ids()))) == 1, 5.0, "there is not one network")
    addresses = [cluster.attach(host, f"on-{host}")["addresses"] for host in cluster.hosts]
    assert len({address for pair in addresses for address in pair}) == 6
    again = cluster.try_netagent("h2", "network", "create", "app")
    assert again.status == 0
    assert "exists" in again.stdout + again.stderr
    other = cluster.try_netagent("h2", "network", "create", "app", "--subnet", "10.99.0.0/24")
    assert other.status == 4
    assert "app" in other.stderr


def test_scenario_27_leave_gives_back_the_space_and_the_names(app: Cluster) -> None:
    """In one round: when the command returns, the others have both."""

    def owned(at: str) -> dict[str, int]:
        """By host, how many addresses of the network it owns, as one host sees it."""
        (network,) = app.netagent(at, "network", "ls")
        assert network["use"]["unowned"] == 0
        return {share["host"]: share["owned"] for share in network["use"]["owners"]}

    before = owned("h1")
    assert before["h3"] > 0
    app.netagent("h3", "leave")
    for client in ("c1", "c2"):
        assert app.ask(client, "c3").status == "NXDOMAIN", "its names stay"
    for host in ("h1", "h2"):
        after = owned(host)
        assert after.keys() == {"h1", "h2"}, "its addresses stay"
        assert sum(after.values()) == sum(before.values())
    app.wait(lambda: app.agents("h1").get("h3", "left") == "left", 5.0, "it is not seen to leave")
    assert {name for _, name in app.devices("h3") if name[:2] in ("na", "nx", "nv")} == set()
    assert app.netagent("h3", "status")["cluster"] is None
    assert app.pings("c1", "c2")
    # What came back can be had.
    subnet = app.netagent("h1", "network", "inspect", "app")["subnets"][0]
    assert app.attach("h1", "late", "--ip", str(ip_network(subnet)[-2]))["state"] == "up"

    # Where it is configured so, a stop is a leave.
    with app.agent_of("h2") as second:
        with second.path("/etc/netagent/netagent.toml").open("a") as configuration:
            configuration.write("leave_on_shutdown = true\n")
        second.stop_agent()
    assert owned("h1").keys() == {"h1", "h2"}, "that agent was started before: a stop is a stop"
    with app.agent_of("h2") as second:
        second.start_agent()
        second.stop_agent()
    assert app.ask("c1", "c2").status == "NXDOMAIN"
    assert owned("h1").keys() == {"h1"}
    app.wait(lambda: app.agents("h1").get("h2", "left") == "left", 5.0, "it is not seen to leave")


@pytest.mark.parametrize("port", [7956, 7957])
def test_random_bytes_on_the_ports_change_nothing_and_are_counted(lasting: Cluster, port: int) -> None:
    app = lasting

    def refused() -> int:
        return sum(app.netagent("h1", "status")["refused"].values())

    before, counted = app.traces(), refused()
    done = app.lab.host("h2").run(["python3", "-c", NOISE, "7", "192.0.2.1", str(port)], timeout_s=60)
    assert done.status == 0, done.stderr
    app.wait(lambda: refused() >= counted + 200, 5.0, "not all was counted")
    assert set(app.agents("h1").values()) == {"alive"}
    assert app.traces() == before


def test_random_bytes_to_the_resolver_change_nothing_and_are_counted(lasting: Cluster) -> None:
    app = lasting

    def refused() -> int:
        return sum(app.netagent("h1", "status")["refused"].values())

    before, counted = app.traces(), refused()
    done = app.inside("c1", "python3", "-c", NOISE, "7", "127.0.0.11", "53", timeout_s=60)
    assert done.status == 0, done.stderr
    app.wait(lambda: refused() >= counted + 100, 10.0, "not all was counted")
    assert app.ask("c1", "c2").status == "NOERROR"
    assert app.traces() == before


def test_a_second_agent_on_a_host_is_refused(lasting: Cluster) -> None:
    app = lasting
    second = app.try_netagent("h1", "agent")
    assert second.status == 4
    assert app.agents("h2")["h1"] == "alive"


def test_the_agent_cannot_be_reached(bare_lab: Lab) -> None:
    done = bare_lab.host("h1").run(["netagent", "status"])
    assert done.status == 3
    assert "netagent agent" in done.stderr
