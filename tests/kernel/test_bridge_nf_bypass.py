"""Bridge netfilter on, FORWARD chains that drop: our bridges pass what they should; no packet leaves with a tag."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

import pytest
import trio
from harness.datapath import ADDRESSES, Host, answers, open_overlay
from harness.namespaces import Namespace, NamespaceFactory, wait_until
from kernel.eavesdropping import CABLE, carried, packets_at

from netagent.datapath.bpf import programs, tcx
from netagent.datapath.bpf.programs import Kind
from netagent.datapath.bpf.tcx import Side
from netagent.datapath.endpoint.netns import call_in_netns_of, opened_netns, run_in_netns
from netagent.datapath.netlink.link import decode_link, link_dump
from netagent.datapath.reconcile import bridge_nf_bypass
from netagent.datapath.reconcile.bridge_nf_bypass import BridgeNfBypass, are_tagged
from netagent.datapath.reconcile.drift import Drift

pytestmark = pytest.mark.kernel

PROMPT_S = 2.0
"""Within which damage is put right, and a switch of the kernel heeded."""
SOL_PACKET, PACKET_AUXDATA, STATUS_AT, VLAN_VALID = 263, 8, slice(0, 4), 1 << 4
ETHERTYPE = slice(12, 14)
VLAN = b"\x81\x00"


@pytest.fixture
def hosts(wire: tuple[Namespace, Namespace]) -> tuple[Namespace, Namespace]:
    for host in wire:
        switch(host, "call-iptables", 1)
        switch(host, "call-ip6tables", 1)
        host.run("iptables -P FORWARD DROP")
        host.run("ip6tables -P FORWARD DROP")
    return wire


def switch(host: Namespace, name: str, value: int) -> None:
    host.run(f"sysctl -qw net.bridge.bridge-nf-{name}={value}")


def pass_both_ways(c1: Namespace, c2: Namespace) -> list[bool]:
    ways = [(c1, ADDRESSES[1]), (c2, ADDRESSES[0]), (c1, ADDRESSES[3]), (c2, ADDRESSES[2])]
    return [answers(*way) for way in ways]


async def ports_of(host: Host) -> dict[int, str]:
    links = [decode_link(message.body) for message in await host.netlink.dump(link_dump())]
    return {link.index: link.name for link in links if link.port is not None}


async def look(host: Host) -> tuple[bool, dict[tuple[int, Side], list[int]]]:
    """Whether all ports are tagged, and what stands at each."""
    ports = await ports_of(host)

    def visit() -> tuple[bool, dict[tuple[int, Side], list[int]]]:
        found = {(index, side): tcx.programs_at(index, side) for index in ports for side in Side}
        return are_tagged(ports), found

    with opened_netns(host.namespace.path) as fd:
        return await run_in_netns(fd, visit)


async def wait_tagged(host: Host, *, is_tagged: bool) -> None:
    """And until the bypass knows that it is done: what goes before is no damage to it."""
    with trio.fail_after(PROMPT_S):
        while (await look(host))[0] is not is_tagged:
            await trio.sleep(0.05)
        ports = await ports_of(host)
        while not host.bridge_nf_bypass._done >= ports.keys():
            await trio.sleep(0.05)


async def wait_bare(host: Host) -> None:
    with trio.fail_after(PROMPT_S):
        while any((await look(host))[1].values()):
            await trio.sleep(0.05)


def tags_seen(sock: socket.socket) -> Iterator[bool]:
    """Of each frame of IP or ARP that came in: whether it had a VLAN tag, beside it or in it."""
    while True:
        try:
            frame, reported, _flags, (_device, _protocol, kind, *_) = sock.recvmsg(2000, 256)
        except BlockingIOError:
            return
        if kind == socket.PACKET_OUTGOING:
            continue
        status = next(data[STATUS_AT] for level, name, data in reported if (level, name) == (SOL_PACKET, 8))
        yield bool(int.from_bytes(status, "little") & VLAN_VALID) or frame[ETHERTYPE] == VLAN


def test_no_rule_for_routed_packets_judges_what_a_bridge_passes(
    hosts: tuple[Namespace, Namespace], namespaces: NamespaceFactory
) -> None:
    """In full size; no container and no cable ever sees the tag."""
    c1, c2 = namespaces("c1"), namespaces("c2")

    async def main() -> None:
        async with open_overlay(hosts, (c1, c2)) as (h1, h2):
            for host in (h1, h2):
                await wait_tagged(host, is_tagged=True)
            assert pass_both_ways(c1, c2) == [True] * 4
            inside, outside = await packets_at(c2, "eth0"), await packets_at(hosts[1], CABLE)
            with inside, outside:
                inside.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
                c1.run(f"ping -c3 -i0.2 -W1 -M do -s 1372 {ADDRESSES[1]}")
                c1.run(f"ping -c1 -W1 {ADDRESSES[3]}")
                seen = list(tags_seen(inside))
                assert len(seen) >= 4
                assert not any(seen)
                frames = []
                while True:
                    try:
                        frames.append(carried(outside.recv(2000)))
                    except BlockingIOError:
                        break
                assert len([frame for frame in frames if frame]) >= 8
                assert VLAN not in {frame[ETHERTYPE] for frame in frames}
            assert (h1.bridge_nf_bypass.trouble, h2.bridge_nf_bypass.trouble) == ("", "")

    trio.run(main)


def test_it_follows_the_kernel_s_switches(
    hosts: tuple[Namespace, Namespace], namespaces: NamespaceFactory
) -> None:
    c1, c2 = namespaces("c1"), namespaces("c2")

    async def main() -> None:
        async with open_overlay(hosts, (c1, c2)) as (h1, _h2):
            await wait_tagged(h1, is_tagged=True)
            # Bridge netfilter looks at tagged frames, too: a tag would be of no use.
            switch(hosts[0], "filter-vlan-tagged", 1)
            await wait_tagged(h1, is_tagged=False)
            await wait_bare(h1)
            assert pass_both_ways(c1, c2) == [False] * 4
            switch(hosts[0], "filter-vlan-tagged", 0)
            await wait_tagged(h1, is_tagged=True)
            assert pass_both_ways(c1, c2) == [True] * 4
            switch(hosts[0], "call-iptables", 0)
            switch(hosts[0], "call-ip6tables", 0)
            switch(hosts[0], "call-arptables", 0)
            await wait_tagged(h1, is_tagged=False)
            await wait_bare(h1)
            assert pass_both_ways(c1, c2) == [True] * 4
            assert h1.reconciler.status().drift == {}

    trio.run(main)


def test_scenario_37_what_is_taken_from_a_port_is_put_back_and_a_start_adopts(
    hosts: tuple[Namespace, Namespace], namespaces: NamespaceFactory
) -> None:
    c1, c2 = namespaces("c1"), namespaces("c2")

    async def main() -> None:
        async with open_overlay(hosts, (c1, c2)) as (h1, _h2):
            await wait_tagged(h1, is_tagged=True)
            there = (await look(h1))[1]
            (index, side), (program,) = next(iter(there.items()))
            foreign: list[int] = []

            def tamper() -> None:
                other = programs.load(Kind.SCHED_CLS, "somebody_s", bridge_nf_bypass._END)
                tcx.attach(index, side, other)
                tcx.detach(index, side, program)
                foreign.append(other.id)

            with opened_netns(hosts[0].path) as fd:
                await run_in_netns(fd, tamper)
            assert not (await look(h1))[0]
            await wait_tagged(h1, is_tagged=True)
            await wait_until(lambda: h1.reconciler.status().drift == {"tag-removed": 1}, "it is counted once")
            before = (await look(h1))[1]
            assert foreign[0] in before[index, side], "another program's BPF program is left alone"

            # Another agent, with programs of its own in hand, finds that these do the same.
            with opened_netns(hosts[0].path) as fd:
                sock = await run_in_netns(fd, socket.socket)
            with sock:
                drift = Drift()
                another = BridgeNfBypass(drift, within=lambda fn: call_in_netns_of(sock, fn))
                another.set_ports(await ports_of(h1))
                another.look()
            assert (await look(h1))[1] == before
            assert drift.kinds == {}

    trio.run(main)


def test_without_the_means_all_is_as_without_it_and_reported(
    hosts: tuple[Namespace, Namespace], namespaces: NamespaceFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    c1, c2 = namespaces("c1"), namespaces("c2")

    def refuse(*_arguments: object) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    async def main() -> None:
        async with open_overlay(hosts, (c1, c2)) as (h1, h2):
            for host in (h1, h2):
                await wait_tagged(host, is_tagged=True)
            # As on a kernel that can't: what can't be put there is not half there.
            monkeypatch.setattr(programs, "load", refuse)
            monkeypatch.setattr(tcx, "attach", refuse)
            ports = list(await ports_of(h1))

            def take_one() -> None:
                for number in tcx.programs_at(ports[0], Side.INGRESS):
                    tcx.detach(ports[0], Side.INGRESS, number)

            with opened_netns(hosts[0].path) as fd:
                await run_in_netns(fd, take_one)
            await wait_until(lambda: h1.bridge_nf_bypass.trouble, "it says so")
            assert "Linux 6.6" in h1.bridge_nf_bypass.trouble
            await wait_bare(h1)
            assert pass_both_ways(c1, c2) == [False] * 4
            for namespace in hosts:
                namespace.run("iptables -P FORWARD ACCEPT")
                namespace.run("ip6tables -P FORWARD ACCEPT")
            assert pass_both_ways(c1, c2) == [True] * 4
            monkeypatch.undo()
            await wait_until(lambda: not h1.bridge_nf_bypass.trouble, "it can again")
            await wait_tagged(h1, is_tagged=True)
            assert h2.bridge_nf_bypass.trouble == ""

    trio.run(main)
