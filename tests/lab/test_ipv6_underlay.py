"""Hosts that have IPv6 addresses only: everything between them goes over IPv6, and containers notice nothing."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from lab.group import GROUP, GROUP6
from lab.harness import Cluster
from lab.origins import seen, watch
from lab.test_multicast import PROGRAM, lines, listening
from netlab.lab import Lab
from netlab.programs import must
from netlab.topology import of_hosts

pytestmark = pytest.mark.lab

BULK = str(Path(__file__).with_name("bulk.py"))
MTU_BYTES = 1500 - 70 - 80
"""Ethernet 14, VXLAN 8, UDP 8 and IPv6 40 around each packet."""


@pytest.fixture
def six(new_lab: Callable[[], Lab]) -> Iterator[Cluster]:
    """Three hosts, h1 and h2 of one cluster; the third's agent belongs to none and hears by multicast only."""
    lab = new_lab()
    lab.up(of_hosts(3, ipv6=True), join=False)
    lab.host("h1").must(["netagent", "init"])
    with ThreadPoolExecutor(8) as pool:
        yield Cluster(lab, pool)


def test_a_cluster_over_ipv6_alone(six: Cluster) -> None:
    for host in six.hosts:
        assert "inet " not in six.lab.host(host).must(["ip", "address", "show", "dev", "eth0"])
    join_by_invitation(six)
    network = six.netagent("h1", "network", "create", "app", "--multicast")
    assert network["mtu_bytes"] == MTU_BYTES
    one, two = six.attach("h1", "one"), six.attach("h2", "two", command=("python3", BULK, "serve"))
    six.wait(lambda: six.answers("one", "two") == sorted(two["addresses"]), 2.0, "no name")
    six.wait(lambda: six.answers("two", "one") == sorted(one["addresses"]), 2.0, "no name back")
    for address in two["addresses"]:
        assert six.pings("one", address), "the first packet is lost"
        assert passes_whole("one", address, six), "a packet of full size does not pass"
    assert six.ask("one", "h2.node.mesh.internal", "AAAA").data == ["2001:db8::2"]

    # Checksums of the outer packets are sent and expected, on every device, so that hosts agree on them.
    for host in ("h1", "h2"):
        shown = six.lab.host(host).must(["ip", "-d", "link", "show", "type", "vxlan"])
        assert len(re.findall(r" local 2001:db8::\d ", shown)) == 2
        assert "zerocsum" not in shown

    with six.agent_of("h2") as agent:
        agent.kill_agent()
        assert six.pings("one", two["addresses"][0])
        devices, paths = six.devices("h2"), six.paths("h2")
        agent.start_agent()
    assert (six.devices("h2"), six.paths("h2")) == (devices, paths)

    multicast_reaches_the_others(six)
    status_tells_of_ipv6(six)
    only_members_are_heard(six)
    sends_from_the_advertised_address(six)
    address_changes(six)
    other_uplink_takes_over(six)


def join_by_invitation(six: Cluster) -> None:
    six.wait(
        lambda: "2001:db8::1" in {heard["address"] for heard in six.netagent("h3", "status")["heard"]},
        10.0,
        "h3 hears no host by multicast DNS",
    )
    token = six.lab.host("h1").must(["netagent", "invite", "--uses", "2"])
    for host in ("h2", "h3"):
        six.lab.host(host).must(["netagent", "join", "--token-file", "-"], stdin=token)
    alive = dict.fromkeys(six.hosts, "alive")
    for host in six.hosts:
        six.wait(lambda: six.agents(host) == alive, 10.0, f"{host} does not see the others")
    # The probe network: the others' kernels answer, whatever their agents do.
    six.wait(
        lambda: (
            {member["host"] for member in six.netagent("h1", "members") if member["name"] != "h1"}
            == {"answers"}
        ),
        10.0,
        "the others' kernels do not answer",
    )


def passes_whole(container: str, address: str, six: Cluster, mtu_bytes: int = MTU_BYTES) -> bool:
    """One packet as large as the network's MTU, not to be cut."""
    payload = mtu_bytes - (48 if ":" in address else 28)
    whole = ["ping", "-c1", "-W1", "-M", "do", "-s", str(payload), address]
    return six.inside(container, *whole).status == 0


def member(six: Cluster, name: str) -> dict[str, Any]:
    """As h1 sees it."""
    return next(one for one in six.netagent("h1", "members") if one["name"] == name)


def warned(six: Cluster) -> list[dict[str, str]]:
    """By h1; the lab's hosts have a name server at which nothing listens."""
    found = six.netagent("h1", "status")["warnings"]
    return [one for one in found if one["code"] != "upstream-dead"]


def multicast_reaches_the_others(six: Cluster) -> None:
    """A copy to each host, as an outer packet of IPv6: groups of both families, and broadcast."""
    with listening(six, "two") as process:
        assert lines(six, process, 1) == ["joined"]
        sent = six.inside("one", *PROGRAM, "send", "hello")
        assert sent.status == 0, sent.stderr
        heard = lines(six, process, 3)
    assert heard == sorted(f"{address} hello" for address in (GROUP, GROUP6, "255.255.255.255"))


def status_tells_of_ipv6(six: Cluster) -> None:
    six.wait(lambda: six.netagent("h1", "status")["paths"] == {"ok": 2}, 10.0, "the paths are not good")
    six.wait(lambda: warned(six) == [], 10.0, "warns of something")
    assert member(six, "h2")["path_mtu_bytes"] == MTU_BYTES
    assert six.netagent("h1", "status")["host"]["address"] == "2001:db8::1"
    # A path that carries less: known, reported with its size and with what the cable must carry, and TCP fits in.
    six.lab.shrink("h2", 1400)
    six.wait(lambda: member(six, "h2")["path"] == "degraded", 20.0, "a smaller cable goes unnoticed")
    assert member(six, "h2")["path_mtu_bytes"] == 1400 - 70
    (warning,) = [one for one in warned(six) if one["code"] == "path-degraded"]
    assert "packets of 1420 bytes pass between 2001:db8::1 and 2001:db8::2" in warning["cure"]

    def agreed_bytes(address: str) -> int:
        """0 where nothing passes: the firewall hears of the path a moment after who asks how it is."""
        done = six.inside("one", "python3", BULK, "move", address, "2000000")
        moved = json.loads(done.stdout) if done.status == 0 else {"moved": 0, "mss_bytes": 0}
        return int(moved["mss_bytes"]) if moved["moved"] == 2_000_000 else 0

    for address in six.answers("one", "two"):
        fitting = 1400 - 70 - (60 if ":" in address else 40) - 12
        six.wait(lambda: agreed_bytes(address) == fitting, 15.0, "TCP does not fit in")
    six.lab.heal()
    six.wait(lambda: member(six, "h2")["path"] == "ok", 30.0, "the whole cable goes unnoticed")


def only_members_are_heard(six: Cluster) -> None:
    listed = six.lab.host("h1").must(["nft", "-j", "list", "set", "inet", "netagent", "members6"])
    (members,) = [one["set"]["elem"] for one in json.loads(listed)["nftables"] if "set" in one]
    assert sorted(members) == ["2001:db8::2", "2001:db8::3"]
    fabric = f"{six.lab.folder.name}-fabric"
    before = unknown_sources(six)
    code = "import socket; socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto(bytes(60), ('2001:db8::1', 4799))"
    must(["ip", "netns", "exec", fabric, sys.executable, "-c", code])
    six.wait(
        lambda: unknown_sources(six) > before,
        5.0,
        "a stranger's packet is not refused, or not counted",
    )


def unknown_sources(six: Cluster) -> int:
    """VXLAN packets from no member that h1 has dropped; those of members that it did not know yet among them."""
    return int(six.netagent("h1", "status")["refused"].get("packets_strangers", 0))


def sends_from_the_advertised_address(six: Cluster) -> None:
    """Whatever other address the kernel would take; and its hardware address may become another."""
    h2, addresses = six.lab.host("h2"), six.answers("one", "two")
    h2.must(["ip", "address", "add", "2001:db8::77/64", "dev", "eth0", "nodad"])
    h2.must(["ip", "route", "add", "2001:db8::/64", "dev", "eth0", "metric", "1", "src", "2001:db8::77"])
    assert "src 2001:db8::77" in h2.must(["ip", "route", "get", "2001:db8::1"])
    watch(six, "h2", "ip6")
    six.attach("h2", "third")
    six.wait(
        lambda: (
            all(six.pings("one", address) for address in addresses)
            and six.ask("one", "third").status == "NOERROR"
            and all(seen(six).values())
        ),
        5.0,
        "nothing passes",
    )
    assert seen(six) == {"tunnels": ["2001:db8::2"], "agents": ["2001:db8::2"]}
    h2.must(["ip", "address", "del", "2001:db8::77/64", "dev", "eth0"])
    h2.must(["ip", "link", "set", "eth0", "address", "02:bb:00:00:00:02"])
    six.wait(lambda: all(six.pings("one", address) for address in addresses), 5.0, "its MAC is not found")


def address_changes(six: Cluster) -> None:
    """Nothing passes for less than 5 s, in either direction."""
    one, two = (six.answers("two" if name == "one" else "one", name)[-1] for name in ("one", "two"))
    assert ":" in one
    assert ":" in two
    pings = [six.in_background(six.ping_stream, *way, 8.0) for way in (("one", two), ("two", one))]
    six.lab.readdress("h2", "2001:db8::22")
    six.wait(lambda: member(six, "h2")["address"] == "2001:db8::22", 5.0, "h1 has not heard of it")
    silent_s = max(ping.result().silent_s for ping in pings)
    print(f"nothing passed for at most {silent_s:.1f} s")
    assert silent_s < 5.0
    assert six.answers("one", "h2.node.mesh.internal") == ["2001:db8::22"]
    assert any(path.endswith("dst 2001:db8::22 self permanent") for path in six.paths("h1"))
    six.wait(lambda: set(six.agents("h1").values()) == {"alive"}, 10.0, "not alive there")
    late = six.attach("h1", "late")
    six.wait(lambda: six.answers("two", "late") == sorted(late["addresses"]), 2.0, "h2 hears nothing new")


def other_uplink_takes_over(six: Cluster) -> None:
    """The default route moves to a second uplink, which h1 has as well, and the first one fails; then back."""
    h2, there = six.lab.host("h2"), six.answers("one", "two")[-1]
    six.lab.plug_in_second("h1")
    second = six.lab.plug_in_second("h2")
    assert second == "2001:db8:0:1::22"
    assert six.netagent("h2", "status")["host"]["address"] == "2001:db8::22", (
        "another uplink is no reason to move"
    )
    stream = six.in_background(six.ping_stream, "one", there, 8.0)
    h2.must(["ip", "route", "add", "default", "via", "2001:db8:0:1::1", "dev", "eth1"])
    six.wait(lambda: six.netagent("h2", "status")["host"]["address"] == second, 5.0, "it stays")
    h2.must(["ip", "link", "set", "eth0", "down"])
    six.wait(lambda: member(six, "h2")["address"] == second, 10.0, "h1 has not heard of it")
    silent_s = stream.result().silent_s
    print(f"to the other uplink: nothing passed for at most {silent_s:.1f} s")
    assert silent_s < 5.0
    watch(six, "h2", "ip6")
    six.wait(lambda: six.pings("one", there) and all(seen(six).values()), 5.0, "no traffic passes")
    assert seen(six) == {"tunnels": [second], "agents": [second]}

    # IPv6 addresses go with their link; the program that configured the first one restores it.
    h2.must(["ip", "link", "set", "eth0", "up"])
    h2.must(["ip", "address", "add", "2001:db8::22/64", "dev", "eth0", "nodad"])
    h2.must(["ip", "link", "set", "eth1", "down"])
    six.wait(
        lambda: six.netagent("h2", "status")["host"]["address"] == "2001:db8::22", 5.0, "it does not return"
    )
    six.wait(lambda: six.pings("one", there), 5.0, "nothing passes by the first uplink")
    six.wait(lambda: set(six.agents("h1").values()) == {"alive"}, 15.0, "not alive")
