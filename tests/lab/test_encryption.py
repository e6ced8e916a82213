"""A cluster that encrypts: what containers send leaves a host by the tunnel, or not at all."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from lab.harness import Cluster
from netlab.lab import Lab
from netlab.programs import must, started
from netlab.topology import of_hosts

pytestmark = pytest.mark.lab

MTU_BYTES = 1500 - 50 - 80
"""Less VXLAN's part and WireGuard's."""
WATCH = """
table bridge seen {
    counter clear { }
    counter sealed { }
    chain seen {
        type filter hook forward priority -250; policy accept;
        meta protocol ip udp dport 4799 counter name clear
        meta protocol ip udp dport 7955 counter name sealed
    }
}
"""
STREAM_BYTES = 3_000_000
TAKE = f"""
import socket
with socket.create_server(("::", 7000), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
    while True:
        with listener.accept()[0] as connection:
            connection.sendall(connection.recv({STREAM_BYTES}, socket.MSG_WAITALL)[-4:])
"""
GIVE = f"""
import socket, sys
with socket.create_connection((sys.argv[1], 7000), timeout=5) as connection:
    connection.sendall(bytes({STREAM_BYTES - 4}) + b"last")
    assert connection.recv(4, socket.MSG_WAITALL) == b"last"
"""


@pytest.fixture
def sealed(new_lab: Callable[[], Lab]) -> Iterator[Cluster]:
    """Three hosts of a cluster that encrypts, and a count of what passes between them."""
    lab = new_lab()
    lab.up(of_hosts(3), join=False)
    on_fabric(lab, "nft", "-f", "-", stdin=WATCH)
    lab.host("h1").must(["netagent", "init", "--encrypt", "--network", "app"])
    token = lab.host("h1").must(["netagent", "invite", "--uses", "2"])
    for host in ("h2", "h3"):
        lab.host(host).must(["netagent", "join", "--token-file", "-"], stdin=token)
    with ThreadPoolExecutor(8) as pool:
        yield Cluster(lab, pool)


def on_fabric(lab: Lab, *argv: str, stdin: str = "") -> str:
    return must(["ip", "netns", "exec", f"{lab.folder.name}-fabric", *argv], stdin=stdin)


def packets(app: Cluster, counter: str) -> int:
    listed = json.loads(on_fabric(app.lab, "nft", "-j", "list", "counter", "bridge", "seen", counter))
    (found,) = (one["counter"]["packets"] for one in listed["nftables"] if "counter" in one)
    return int(found)


def test_containers_packets_leave_by_the_tunnel_or_not_at_all(sealed: Cluster) -> None:
    assert sealed.netagent("h1", "network", "inspect", "app")["mtu_bytes"] == MTU_BYTES
    sealed.attach("h1", "one")
    (v4,) = (one for one in sealed.attach("h2", "two")["addresses"] if ":" not in one)
    sealed.await_pings("one", v4)
    full = sealed.inside("one", "ping", "-c", "1", "-W", "2", "-M", "do", "-s", str(MTU_BYTES - 28), v4)
    assert full.status == 0, full.stdout
    sealed.wait(
        lambda: all(one["encrypted"] for one in sealed.netagent("h1", "members") if not one["local"]),
        10.0,
        "not shown as encrypted",
    )
    sealed.wait(
        lambda: sealed.netagent("h1", "status")["data_plane"].startswith("encrypted: 2 of 2 paths"),
        10.0,
        "status does not count the paths",
    )

    # The agent is away, and the tunnel goes: fail closed. Back: by itself.
    with sealed.agent_of("h1") as host:
        host.kill_agent()
    assert sealed.pings("one", v4), "an agent that is away costs a path"
    sealed.lab.host("h1").must(["ip", "link", "delete", "nx-tunnel"])
    sealed.lab.host("h1").must(["ip", "route", "replace", "default", "via", "192.0.2.254"])
    assert not sealed.pings("one", v4)
    with sealed.agent_of("h1") as host:
        host.start_agent()
    sealed.await_pings("one", v4, 20.0)
    assert packets(sealed, "sealed") > 0
    assert packets(sealed, "clear") == 0


def test_a_stream_goes_past_vxlan_also_while_agents_are_away(sealed: Cluster) -> None:
    sealed.attach("h1", "one")
    addresses = sealed.attach("h2", "two")["addresses"]
    sealed.await_pings("one", next(one for one in addresses if ":" not in one))
    vni = sealed.netagent("h1", "network", "inspect", "app")["vni"]
    count = f"cat /sys/class/net/nx-{vni}/statistics/tx_bytes"
    h1 = sealed.lab.host("h1")

    def passes_without_vxlan(address: str) -> bool:
        before = int(h1.must(count.split()))
        sent = sealed.inside("one", sys.executable, "-c", GIVE, address)
        assert sent.status == 0, sent.stderr
        return int(h1.must(count.split())) - before < STREAM_BYTES / 10

    def listens() -> bool:
        return "7000" in sealed.inside("two", "ss", "-Htln", "sport", "=", ":7000").stdout

    with started(sealed.lab.container("two").entering([sys.executable, "-c", TAKE])):
        sealed.wait(listens, 10.0, "nothing listens")
        for address in addresses:
            sealed.wait(partial(passes_without_vxlan, address), 20.0, "streams go by VXLAN")
        for name in ("h1", "h2"):
            with sealed.agent_of(name) as host:
                host.kill_agent()
        assert all(map(passes_without_vxlan, addresses))
        for name in ("h1", "h2"):
            with sealed.agent_of(name) as host:
                host.start_agent()
        assert all(map(passes_without_vxlan, addresses))
    assert packets(sealed, "clear") == 0


def test_a_host_that_cannot_encrypt_starts_no_cluster_that_does(new_lab: Callable[[], Lab]) -> None:
    lab = new_lab()
    lab.up(of_hosts(1), join=False)
    lab.host("h1").must(["ip", "link", "add", "nx-tunnel", "type", "bridge"])
    done = lab.host("h1").run(["netagent", "init", "--encrypt"])
    assert done.status != 0
    assert "nx-tunnel" in done.stderr
    assert "no cluster" in lab.host("h1").must(["netagent", "status"])


def test_a_host_without_journal_and_without_the_others_sends_nothing_in_the_clear(sealed: Cluster) -> None:
    hosts = [sealed.lab.host(name) for name in ("h1", "h2", "h3")]
    for name in ("h1", "h2", "h3"):
        with sealed.agent_of(name) as host:
            host.kill_agent()
    hosts[1].must(["sh", "-c", "rm /var/lib/netagent/state.db*; nft flush ruleset"])
    with sealed.agent_of("h2") as host:
        host.start_agent()
    assert sealed.netagent("h2", "status")["data_plane"].startswith("encrypted: 0 of 0 paths")
    sealed.wait(
        lambda: 'oifname != "nx-tunnel"' in hosts[1].must(["nft", "list", "table", "inet", "netagent"]),
        10.0,
        "the firewall does not refuse VXLAN in the clear",
    )


def test_a_host_changes_its_key_under_a_stream(sealed: Cluster) -> None:
    """One host of the two: changes of both at one moment cross, which 0083 tells of."""
    sealed.attach("h1", "one")
    (v4,) = (one for one in sealed.attach("h2", "two")["addresses"] if ":" not in one)
    sealed.await_pings("one", v4)
    before = public_key(sealed, "h2")
    with sealed.agent_of("h2") as host:
        with host.path("/etc/netagent/netagent.toml").open("a") as configuration:
            configuration.write("rotate_tunnel_every_s = 3\n")
        host.stop_agent()
        host.start_agent()
    done = sealed.inside("one", "ping", "-q", "-i", "0.01", "-w", "15", v4, timeout_s=60.0)
    assert public_key(sealed, "h2") != before
    changes = sealed.lab.host("h2").log_tail(200).count("has a new key")
    sent, received = (int(one) for one in re.findall(r"(\d+) (?:packets transmitted|received)", done.stdout))
    assert changes >= 3
    assert sent - received <= changes, done.stdout
    assert sealed.netagent("h2", "status")["data_plane"].endswith(" s old")


def public_key(app: Cluster, host: str) -> str:
    return app.lab.host(host).must(["wg", "show", "nx-tunnel", "public-key"]).strip()
