"""Hosts that have IPv6 addresses only: everything between them goes over IPv6, and containers notice nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from lab.harness import Cluster
from netlab.lab import Lab
from netlab.topology import of_hosts

pytestmark = pytest.mark.lab

MTU_BYTES = 1500 - 70
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
    six.wait(
        lambda: "2001:db8::1" in {heard["address"] for heard in six.netagent("h3", "status")["heard"]},
        10.0,
        "h3 hears nobody by multicast DNS",
    )
    token = six.lab.host("h1").must(["netagent", "invite", "--uses", "2"])
    for host in ("h2", "h3"):
        six.lab.host(host).must(["netagent", "join", "--token-file", "-"], stdin=token)
    alive = dict.fromkeys(six.hosts, "alive")
    for host in six.hosts:
        six.wait(lambda host=host: six.agents(host) == alive, 10.0, f"{host} does not see the others")
    # The probe network: the others' kernels answer, whatever their agents do.
    six.wait(
        lambda: (
            {member["host"] for member in six.netagent("h1", "members") if member["name"] != "h1"}
            == {"answers"}
        ),
        10.0,
        "the others' kernels do not answer",
    )

    network = six.netagent("h1", "network", "create", "app")
    assert network["mtu_bytes"] == MTU_BYTES
    one, two = six.attach("h1", "one"), six.attach("h2", "two")
    six.wait(lambda: six.answers("one", "two") == sorted(two["addresses"]), 2.0, "no name")
    six.wait(lambda: six.answers("two", "one") == sorted(one["addresses"]), 2.0, "no name back")
    for address in two["addresses"]:
        assert six.pings("one", address), "the first packet is lost"
        header = 48 if ":" in address else 28
        whole = ["ping", "-c1", "-W1", "-M", "do", "-s", str(MTU_BYTES - header), address]
        assert six.inside("one", *whole).status == 0, "a packet of full size does not pass"
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
