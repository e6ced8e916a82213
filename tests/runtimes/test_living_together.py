"""Two hosts with a real Docker swarm, a VXLAN as Flannel makes it and a firewall: we come and go unnoticed.

Our part is the datapath and the accepts, which are all that touches a host's kernel beside names in containers.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from harness.datapath import ADDRESSES, UNDERLAYS, answers, open_overlay
from harness.docker_user_chain import keeping_accepts, remove_accepts
from harness.namespaces import Namespace, NamespaceFactory, wait_until
from runtimes.lone_docker import LoneDocker

pytestmark = pytest.mark.runtimes

LOOP = """
while true; do
    if {command} >/dev/null 2>&1; then echo good; else echo bad; fi
    sleep 0.05
done
"""
FIREWALL = """
table inet firewall {
    set friends { type ipv4_addr; elements = { 192.0.2.1, 192.0.2.2 } }
    chain input { type filter hook input priority 0; policy accept; ip saddr @friends udp dport 8472 accept; }
    chain forward { type filter hook forward priority 10; policy accept; ct state invalid drop; }
}
"""


class Loop:
    """Something that is done again and again on a host, and counted."""

    def __init__(self, host: Namespace, command: str) -> None:
        self._what = command
        self._argv = ["nsenter", f"--net={host.path}", "sh", "-c", LOOP.format(command=command)]
        self.good = self.bad = 0

    async def run(self) -> None:
        """Until cancelled."""
        process = await trio.lowlevel.open_process(self._argv, stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            while part := await process.stdout.receive_some():
                self.good += part.count(b"good")
                self.bad += part.count(b"bad")
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()

    async def goes_on(self) -> None:
        """Wait for some more rounds, and see that none has failed."""
        end = self.good + 5
        await wait_until(lambda: self.good >= end or self.bad, f"{self._what} goes on", 20.0)
        assert self.bad == 0, f"{self._what} failed"


@dataclass(frozen=True)
class Site:
    hosts: tuple[Namespace, Namespace]
    containers: tuple[Namespace, Namespace]
    dockers: tuple[LoneDocker, LoneDocker]


@pytest.fixture
def site(wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory, tmp_path: Path) -> Iterator[Site]:
    h1, h2 = wire
    dockers = []
    with ExitStack() as cleanup:
        for host in wire:
            folder = tmp_path / host.name
            folder.mkdir()
            dockers.append(LoneDocker(host.name, folder))
            cleanup.callback(dockers[-1].close)
            dockers[-1].start()
        make_flannel(h1, h2)
        for host in (h1, h2):
            subprocess.run(
                ["nsenter", f"--net={host.path}", "nft", "-f", "-"], input=FIREWALL.encode(), check=True
            )
        make_swarm(*dockers)
        yield Site(wire, (namespaces("c1"), namespaces("c2")), (dockers[0], dockers[1]))


def make_flannel(*hosts: Namespace) -> None:
    """A device for all peers, no learning, one route and one fixed entry for each."""
    for number, host in enumerate(hosts, start=1):
        peer = 3 - number
        host.run(
            f"ip link add flannel.1 address 02:f1:00:00:00:0{number} type vxlan id 1 dev wire "
            f"local {UNDERLAYS[number - 1]} dstport 8472 nolearning"
        )
        host.run(f"ip addr add 10.244.{number}.0/32 dev flannel.1")
        host.run("ip link set flannel.1 up")
        host.run(f"ip route add 10.244.{peer}.0/24 via 10.244.{peer}.0 dev flannel.1 onlink")
        host.run(f"ip neigh add 10.244.{peer}.0 lladdr 02:f1:00:00:00:0{peer} dev flannel.1 nud permanent")
        host.run(
            f"bridge fdb add 02:f1:00:00:00:0{peer} dev flannel.1 dst {UNDERLAYS[peer - 1]} self permanent"
        )


def make_swarm(first: LoneDocker, second: LoneDocker) -> None:
    """With an overlay network of its own, and a server on the first host that is asked from the second."""
    first.docker("swarm", "init", "--advertise-addr", UNDERLAYS[0])
    token = first.docker("swarm", "join-token", "-q", "worker")
    second.docker("swarm", "join", "--token", token, f"{UNDERLAYS[0]}:2377")
    first.docker("network", "create", "-d", "overlay", "--attachable", "theirs")
    first.docker("run", "-d", "--network", "theirs", "--name", "site", "lab", "httpd", "-f", "-h", "/etc")
    second.docker("run", "-d", "--network", "theirs", "--name", "asker", "lab", "sleep", "1000000")


async def settled_states(site: Site) -> list[str]:
    """Of both hosts, once both dockerds have done what `docker swarm join` does not wait for."""

    def is_done(docker: LoneDocker) -> bool:
        return "ingress" in docker.docker("network", "ls", "--format", "{{.Name}}").split() and (
            "ingress-sbox" in docker.docker("network", "inspect", "-f", "{{json .Containers}}", "ingress")
        )

    await wait_until(lambda: all(map(is_done, site.dockers)), "the swarm's own network is there", 30.0)
    states: list[list[str]] = []

    def is_settled() -> bool:
        states.append([state_of(host) for host in site.hosts])
        return len(states) > 1 and states[-1] == states[-2]

    await wait_until(is_settled, "the hosts have settled", 30.0)
    return states[-1]


def state_of(host: Namespace) -> str:
    """The ruleset of all programs, without its counters, and all settings of the network that are no measurement."""
    settings = host.run("sysctl -a --pattern ^net")
    measured = ("nf_conntrack_count", "random", "file-nr")
    kept = [line for line in settings.splitlines() if not any(word in line for word in measured)]
    return "\n".join([host.run("nft --stateless list ruleset"), *kept])


def judge_tagged_too(site: Site, *, is_on: bool) -> None:
    for host in site.hosts:
        host.run(f"sysctl -qw net.bridge.bridge-nf-filter-vlan-tagged={int(is_on)}")


def test_we_come_and_go_unnoticed(site: Site) -> None:
    h1, h2 = site.hosts
    c1, _ = site.containers
    _, v4, _, v6 = ADDRESSES
    other = site.dockers[1]
    fetch = f"nsenter --target {other.pid('asker')} --all wget -q -T 5 -O /dev/null http://site/hostname"

    async def main() -> None:
        swarm, flannel = Loop(h2, fetch), Loop(h1, "ping -c 1 -W 5 10.244.2.0")
        async with trio.open_nursery() as nursery:
            await wait_until(lambda: h2.try_run(fetch).returncode == 0, "the swarm has settled", 40.0)
            nursery.start_soon(swarm.run)
            nursery.start_soon(flannel.run)
            await swarm.goes_on()
            await flannel.goes_on()
            before = await settled_states(site)
            assert all("-P FORWARD DROP" in host.run("iptables -S FORWARD") for host in site.hosts)
            async with open_overlay(site.hosts, site.containers):
                await wait_until(lambda: answers(c1, v4), "our bridges are kept from Docker's rules")
                # As on a kernel where nothing can be kept from them.
                judge_tagged_too(site, is_on=True)
                await wait_until(lambda: not answers(c1, v4), "Docker drops it")
                with keeping_accepts(h1), keeping_accepts(h2):
                    await wait_until(lambda: answers(c1, v4), "our own packets pass", 20.0)
                    assert answers(c1, v6)
                    await swarm.goes_on()
                    await flannel.goes_on()
                other.docker("network", "create", "more")  # Docker writes rules beside ours
                assert answers(c1, v4)
                other.docker("network", "rm", "more")
                await swarm.goes_on()
                for host in site.hosts:
                    remove_accepts(host)
                judge_tagged_too(site, is_on=False)
            await swarm.goes_on()
            await flannel.goes_on()
            with trio.move_on_after(20.0):
                while [state_of(host) for host in site.hosts] != before:
                    await trio.sleep(0.2)
            assert [state_of(host) for host in site.hosts] == before
            nursery.cancel_scope.cancel()

    trio.run(main)
