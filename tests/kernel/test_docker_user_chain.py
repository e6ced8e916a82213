"""Docker's FORWARD drop, with bridge netfilter on: our accepts let the overlay through, and nothing else."""

from __future__ import annotations

import pytest
import trio
from harness.datapath import ADDRESSES, answers, open_overlay
from harness.docker_user_chain import (
    accepts_of,
    ensure_accepts,
    keeping_accepts,
    remove_accepts,
    wait_for_accepts,
)
from harness.namespaces import Namespace, NamespaceFactory, make_bridge, make_veth

from netagent.integrations.docker import docker_user_chain

pytestmark = pytest.mark.kernel

FAMILIES = (("iptables", "ip"), ("ip6tables", "ip6"))


def drop_as_docker_does(host: Namespace, *, program: str) -> None:
    """The part of dockerd's rules that judges what is forwarded."""
    host.run(f"{program} -N DOCKER-USER")
    host.run(f"{program} -A DOCKER-USER -j RETURN")
    host.run(f"{program} -A FORWARD -j DOCKER-USER")
    host.run(f"{program} -P FORWARD DROP")


def rules(host: Namespace) -> str:
    return host.run("iptables -S") + host.run("ip6tables -S")


def test_the_overlay_passes_dockers_drop_in_both_families(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory
) -> None:
    c1, c2 = namespaces("c1"), namespaces("c2")

    async def main() -> None:
        for host in wire:
            host.run("sysctl -qw net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1")
            # As on a kernel where nothing keeps bridged packets from Docker's rules.
            host.run("sysctl -qw net.bridge.bridge-nf-filter-vlan-tagged=1")
            for program, _ in FAMILIES:
                drop_as_docker_does(host, program=program)
        before = [rules(host) for host in wire]
        async with open_overlay(wire, (c1, c2)):
            _, v4, _, v6 = ADDRESSES
            assert not answers(c1, v4), "without it Docker's drop would prove nothing"
            assert not answers(c1, v6)
            with keeping_accepts(wire[0]), keeping_accepts(wire[1]):
                for host in wire:
                    await wait_for_accepts(host)
                assert answers(c1, v4)
                assert answers(c1, v6)
            assert answers(c1, v4), "the agent may stop, containers go on"
            for host in wire:
                remove_accepts(host)
            assert not answers(c1, v4)
        assert [rules(host) for host in wire] == before

    trio.run(main)


def test_what_the_host_routes_is_not_let_through(namespaces: NamespaceFactory) -> None:
    """Two bridges of ours on one host: their networks stay apart."""
    host, left, right = namespaces("h"), namespaces("c1"), namespaces("c2")
    host.run("sysctl -qw net.ipv4.ip_forward=1")
    for number, container in enumerate((left, right), start=1):
        make_bridge(host, f"na-00000{number}", f"10.7.{number}.1/24")
        make_veth(host, f"nv{number}", container, f"10.7.{number}.2/24", bridge=f"na-00000{number}")
        container.run(f"ip route add default via 10.7.{number}.1")
    left.run("ping -c1 -w5 10.7.2.2")

    async def main() -> None:
        drop_as_docker_does(host, program="iptables")
        with keeping_accepts(host):
            await wait_for_one(host)
        assert not answers(left, "10.7.2.2")

    trio.run(main)


async def wait_for_one(host: Namespace) -> None:
    with trio.fail_after(10):
        while len(accepts_of(host)) != 1:
            await trio.sleep(0.05)


def test_the_rules_follow_docker(namespaces: NamespaceFactory) -> None:
    host = namespaces("h")

    async def main() -> None:
        ensure_accepts(host)
        remove_accepts(host)
        assert host.run("nft list ruleset") == "", "no Docker: not even an empty table is made"
        with keeping_accepts(host):
            drop_as_docker_does(host, program="iptables")
            await wait_for_one(host)
            assert accepts_of(host, "ip6tables") == [], "that Docker has no rules for IPv6"
            # Another program writes all rules anew, as a firewall's reload does.
            host.run("iptables -F")
            await wait_for_one(host)
            # Twice, and one of another form: one is left.
            host.run(f"iptables -I DOCKER-USER {docker_user_chain.RULE}")
            host.run("iptables -I DOCKER-USER -i na-+ -m comment --comment netagent -j ACCEPT")
            host.run("iptables -I DOCKER-USER -i eth9 -m comment --comment netagent-not -j ACCEPT")
            await wait_for_one_beside(host, "netagent-not")
        first = host.run("iptables -S DOCKER-USER").splitlines()
        assert [line for line in first if "netagent-not" in line], "not ours"
        remove_accepts(host)
        assert accepts_of(host) == [line for line in first if "netagent-not" in line]

    trio.run(main)


async def wait_for_one_beside(host: Namespace, other: str) -> None:
    with trio.fail_after(10):
        while [line.partition(" ")[2] for line in accepts_of(host) if other not in line] != [
            f"DOCKER-USER {docker_user_chain.RULE}"
        ]:
            await trio.sleep(0.05)
