"""A living cluster begins to encrypt, and ends it, while containers talk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from lab.harness import STREAM, Cluster
from netlab.lab import Lab
from netlab.programs import must
from netlab.topology import of_hosts

pytestmark = pytest.mark.lab

STREAM_S = 8
CHANGE_S = 30.0
"""A change takes about a second; the machine may be busy."""
WATCH = """
table bridge seen {
    counter clear { }
    chain seen {
        type filter hook forward priority -250; policy accept;
        meta protocol ip udp dport 4799 counter name clear
    }
}
"""


SHUT = """
table inet shut {
    chain comes { type filter hook input priority -10; udp dport 7955 drop; }
    chain goes { type filter hook output priority -10; udp dport 7955 drop; }
}
"""


@pytest.fixture
def living(new_lab: Callable[[], Lab]) -> Iterator[Cluster]:
    """Three hosts of a cluster in the clear, a server of streams on h1 and a client on h2."""
    lab = new_lab()
    lab.up(of_hosts(3))
    must(["ip", "netns", "exec", f"{lab.folder.name}-fabric", "nft", "-f", "-"], stdin=WATCH)
    with ThreadPoolExecutor(8) as pool:
        app = Cluster(lab, pool)
        app.netagent("h1", "network", "create", "app")
        app.attach("h1", "echo", command=("python3", STREAM, "serve"))
        app.attach("h2", "client")
        app.await_listening("echo", 7000)
        app.wait(lambda: app.finds("client", "echo"), 10.0, "echo is not found")
        yield app


def state(app: Cluster, host: str) -> str:
    return str(app.netagent(host, "encrypt", "status")["state"])


def await_all(app: Cluster, wanted: str, *hosts: str) -> None:
    for host in hosts:
        app.wait(lambda host=host: state(app, host) == wanted, CHANGE_S, f"{host} is not {wanted}")  # type: ignore[misc]


def sent_in_the_clear(app: Cluster) -> int:
    fabric = f"{app.lab.folder.name}-fabric"
    listed = json.loads(
        must(["ip", "netns", "exec", fabric, "nft", "-j", "list", "counter", "bridge", "seen", "clear"])
    )
    (found,) = (one["counter"]["packets"] for one in listed["nftables"] if "counter" in one)
    return int(found)


@pytest.mark.timeout(300)
def test_no_stream_breaks_when_encryption_is_turned_on_and_off(living: Cluster) -> None:
    addresses = living.endpoint("echo")["addresses"]
    for wanted, options in (("on", ()), ("off", ("--yes",))):
        tcps = [living.in_background(living.tcp_stream, "client", one, STREAM_S) for one in addresses]
        pings = [living.in_background(living.ping_stream, "client", one, STREAM_S) for one in addresses]
        flood = living.in_background(living.datagram_stream, "client", addresses[0], STREAM_S)
        living.wait(
            lambda: living.inside("echo", "ss", "-Htn", "state", "established").stdout.count("\n") >= 2,
            15.0,
            "idle",
        )
        answer = living.netagent("h3", "encrypt", wanted, *options)
        assert answer["state"] == wanted
        for tcp in tcps:
            report = tcp.result()
            assert report["echoed"] == report["sent"] > 50 * STREAM_S
            assert report["lost"] <= 1, "more than one retransmission"
        for ping in pings:
            pinged = ping.result()
            assert pinged.sent > 25 * STREAM_S
            assert pinged.lost <= 1
        counted = flood.result()
        assert counted["sent"] - counted["came"] <= 5, counted
        await_all(living, wanted, *living.hosts)
        before = sent_in_the_clear(living)
        assert living.pings("client", addresses[0])
        assert (sent_in_the_clear(living) > before) == (wanted == "off")
    assert "not encrypted: turned off by root on h3" in living.netagent("h2", "status")["data_plane"]
    assert "nx-tunnel" not in living.lab.host("h2").must(["ip", "-br", "link"]), "the tunnel is left behind"


def test_a_host_that_cannot_encrypt_is_named_and_nothing_is_changed(living: Cluster) -> None:
    living.lab.host("h3").must(["sh", "-c", "mount --bind /dev/null $(command -v wireguard-go)"])
    done = living.try_netagent("h1", "encrypt", "on")
    assert done.status == 4
    assert "h3: this host cannot encrypt: its kernel has no WireGuard" in done.stderr
    assert "wireguard-go is not installed" in done.stderr
    assert "apt install wireguard-go" in done.stderr
    assert state(living, "h1") == "off"
    refused = living.try_netagent("h1", "encrypt", "off")
    assert refused.status == 4
    assert "--yes" in refused.stderr


@pytest.mark.timeout(200)
def test_a_host_that_is_away_follows_and_one_that_gets_no_session_holds_up_all(living: Cluster) -> None:
    (v4,) = (one for one in living.endpoint("echo")["addresses"] if ":" not in one)
    with living.agent_of("h3") as host:
        host.kill_agent()
    living.wait(
        lambda: any(m["name"] == "h3" and m["agent"] == "dead" for m in living.netagent("h1", "members")),
        CHANGE_S,
        "h3 is not given up",
    )
    living.lab.host("h2").must(["nft", "-f", "-"], stdin=SHUT)
    begun = living.in_background(living.netagent, "h1", "encrypt", "on")
    living.wait(
        lambda: "no handshake with h2" in " ".join(living.netagent("h1", "encrypt", "status")["waiting"]),
        CHANGE_S,
        "the host without a session is not named",
    )
    assert living.pings("client", v4), "a path is lost although it was not encrypted yet"
    living.lab.host("h2").must(["nft", "delete", "table", "inet", "shut"])
    answer = begun.result()
    assert (answer["state"], answer["away"]) == ("on", ["h3"])
    assert living.pings("client", v4)

    with living.agent_of("h3") as host:
        host.start_agent()
    await_all(living, "on", *living.hosts)
    living.attach("h3", "third")
    living.await_pings("third", v4)
    assert living.netagent("h3", "encrypt", "status")["encrypted"] == 2
