"""Networks with `--policy links`: only linked services may be reached, one way, and they may answer."""

from __future__ import annotations

import dataclasses
import errno
import os
import socket
from collections.abc import Awaitable, Iterable

import pytest
import trio
from harness.firewall import Netfilter, bridge, give, guarding, plug, tables_of
from harness.namespaces import Namespace, NamespaceFactory, wait_until

from netagent.datapath.endpoint.netns import opened_netns, run_in_netns
from netagent.firewall.inputs import AllowedFlow, FirewallInput, GuardedEndpoint, GuardedNetwork

pytestmark = pytest.mark.kernel

TUNNEL = "nx-8388609"
NET = GuardedNetwork(bridge="na-8388609", bridge_mac="06:00:00:00:00:01", tunnel=TUNNEL, restricted=True)
DB = GuardedEndpoint(
    veth="nv00000002", mac="02:0a:00:00:00:02", addresses=("10.66.0.2", "fd66::2"), bridge=NET.bridge
)
WEB = GuardedEndpoint(
    veth="nv00000003", mac="02:0a:00:00:00:03", addresses=("10.66.0.3", "fd66::3"), bridge=NET.bridge
)
OTHER = GuardedEndpoint(
    veth="nv00000004", mac="02:0a:00:00:00:04", addresses=("10.66.0.4", "fd66::4"), bridge=NET.bridge
)
PROMPT_S = 0.9
"""A refusal arrives within milliseconds. Who hears nothing asks again after a second."""
PORT = 8080


def ways(port: str, source: GuardedEndpoint, destination: GuardedEndpoint) -> Iterable[AllowedFlow]:
    pairs = zip(source.addresses, destination.addresses, strict=True)
    return ((port, one, other) for one, other in pairs)


def linked(given: FirewallInput, client: GuardedEndpoint, server: GuardedEndpoint) -> FirewallInput:
    """With both on this host."""
    return dataclasses.replace(
        given,
        requests=given.requests | frozenset(ways(client.veth, client, server)),
        answers=given.answers | frozenset(ways(server.veth, server, client)),
    )


async def sock_in(
    where: Namespace, kind: socket.SocketKind, local: str, port: int = 0
) -> trio.socket.SocketType:
    family = socket.AF_INET6 if ":" in local else socket.AF_INET
    with opened_netns(where.path) as fd:
        sock = await run_in_netns(fd, lambda: socket.socket(family, kind | socket.SOCK_NONBLOCK))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((local, port))
    return trio.socket.from_stdlib_socket(sock)


async def connected(
    client: Namespace, source: str, server: Namespace, destination: str
) -> tuple[trio.socket.SocketType, trio.socket.SocketType]:
    """Both ends of a connection over which a word has gone each way. OSError when it is refused."""
    listener = await sock_in(server, socket.SOCK_STREAM, destination, PORT)
    with listener:
        listener.listen()
        near = await sock_in(client, socket.SOCK_STREAM, source)
        try:
            with trio.fail_after(PROMPT_S):
                await near.connect((destination, PORT))
                far, _ = await listener.accept()
        except BaseException:
            near.close()
            raise
        await talk(near, far)
        await talk(far, near)
        return near, far


async def talk(one: trio.socket.SocketType, other: trio.socket.SocketType) -> None:
    with trio.fail_after(PROMPT_S):
        await one.send(b"word")
        assert await other.recv(100) == b"word"


async def asks_by_datagram(
    client: Namespace, source: str, server: Namespace, destination: str, size_bytes: int = 100
) -> None:
    """A datagram and its answer. OSError when it is refused."""
    with (
        await sock_in(server, socket.SOCK_DGRAM, destination, PORT) as far,
        await sock_in(client, socket.SOCK_DGRAM, source) as near,
    ):
        await near.connect((destination, PORT))
        await near.send(b"x" * size_bytes)
        with trio.fail_after(PROMPT_S):
            await any_readable(near, far)
            if error := near.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(error, os.strerror(error))
            asked, sender = await far.recvfrom(1 << 16)
            await far.sendto(asked, sender)
            assert await near.recv(1 << 16) == b"x" * size_bytes


async def any_readable(*socks: trio.socket.SocketType) -> None:
    """Until there are data, or an error, at one of them."""

    async def wait(sock: trio.socket.SocketType) -> None:
        await trio.lowlevel.wait_readable(sock)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for sock in socks:
            nursery.start_soon(wait, sock)


async def refusal_of(asking: Awaitable[object]) -> int:
    """The number of the error that it ends with."""
    try:
        await asking
    except OSError as error:
        return error.errno or 0
    raise AssertionError("it was not refused")


def place(namespaces: NamespaceFactory, *endpoints: GuardedEndpoint) -> tuple[Namespace, list[Namespace]]:
    host = namespaces("h")
    bridge(host, NET)
    containers = [namespaces(f"c{one.veth[-1]}") for one in endpoints]
    for container, one in zip(containers, endpoints, strict=True):
        plug(host, container, one, NET)
    return host, containers


@pytest.mark.parametrize("bridge_netfilter", Netfilter)
def test_only_linked_services_are_reached_one_way_and_they_answer(
    namespaces: NamespaceFactory, bridge_netfilter: Netfilter
) -> None:
    host, (db, web, other) = place(namespaces, DB, WEB, OTHER)
    bridge_netfilter.set(host)
    given = FirewallInput(vxlan_port=4799, endpoints=(DB, WEB, OTHER), networks=(NET,))

    async def main() -> None:
        async with guarding(host, linked(given, WEB, DB)) as guard:
            for source, destination in zip(WEB.addresses, DB.addresses, strict=True):
                for end in await connected(web, source, db, destination):
                    end.close()
                await asks_by_datagram(web, source, db, destination)
                await asks_by_datagram(web, source, db, destination, size_bytes=4000)  # in fragments
                web.run(f"ping -c1 -W1 {destination}")
            assert guard.status().dropped["refused"] == 0
            for asker, server, here, there in ((DB, WEB, db, web), (OTHER, DB, other, db)):
                for source, destination in zip(asker.addresses, server.addresses, strict=True):
                    refused = await refusal_of(connected(here, source, there, destination))
                    assert refused == errno.ECONNREFUSED
                    refused = await refusal_of(asks_by_datagram(here, source, there, destination))
                    assert refused == (errno.EACCES if ":" in source else errno.EHOSTUNREACH)
                    said = here.try_run(f"ping -c1 -W5 {destination}")
                    assert "filtered" in said.stdout or "prohibited" in said.stdout
            assert guard.status().dropped["refused"] >= 12
            # Whom they may not reach they still know: neighbours are found.
            assert DB.mac in other.run("ip neigh show 10.66.0.2")
            assert DB.mac in other.run("ip neigh show fd66::2")
            # Nor is there a way around by what is in no record, or goes to all.
            assert "prohibited" in other.try_run("ping -c1 -W5 fe80::a:ff:fe00:2%eth0").stdout
            answered = other.try_run("ping -c2 -i0.2 -W1 ff02::1%eth0").stdout
            assert "fe80::a:ff:fe00:2" not in answered

    trio.run(main)


def test_a_link_comes_and_goes_while_connections_stand(namespaces: NamespaceFactory) -> None:
    host, (db, web) = place(namespaces, DB, WEB)
    apart = FirewallInput(vxlan_port=4799, endpoints=(DB, WEB), networks=(NET,))
    together = linked(apart, WEB, DB)

    async def main() -> None:
        async with guarding(host, apart) as guard:
            source, destination = "10.66.0.3", "10.66.0.2"
            assert await refusal_of(connected(web, source, db, destination)) == errno.ECONNREFUSED
            await give(guard, together, 2)
            near, far = await connected(web, source, db, destination)
            with near, far:
                # Nothing of a connection is remembered, so nothing is lost when the tables are replaced.
                host.run("nft flush ruleset")
                with trio.fail_after(5):
                    while guard.status().restored == 0:
                        await trio.sleep(0.01)
                await talk(far, near)
                await talk(near, far)
                await give(guard, apart, 3)
                for end in (near, far):
                    with trio.fail_after(PROMPT_S):
                        assert await refusal_of(talk(end, end)) == errno.ECONNRESET

    trio.run(main)


def test_nobody_answers_what_was_not_asked(namespaces: NamespaceFactory) -> None:
    host, (db, web) = place(namespaces, DB, WEB)
    given = linked(FirewallInput(vxlan_port=4799, endpoints=(DB, WEB), networks=(NET,)), WEB, DB)

    async def main() -> None:
        async with guarding(host, given) as guard:
            with (
                await sock_in(db, socket.SOCK_DGRAM, "10.66.0.2", PORT) as far,
                await sock_in(web, socket.SOCK_DGRAM, "10.66.0.3", PORT) as near,
            ):
                await far.sendto(b"unasked", ("10.66.0.3", PORT))
                await near.sendto(b"asked", ("10.66.0.2", PORT))
                with trio.fail_after(PROMPT_S):
                    assert await far.recv(100) == b"asked"
                await far.sendto(b"answer", ("10.66.0.3", PORT))
                with trio.fail_after(PROMPT_S):
                    assert await near.recv(100) == b"answer"
                # A user makes a network, on any host: rules of the host change, not the allowed flows here.
                await give(guard, dataclasses.replace(given, subnets=("10.77.0.0/16",)), 2)
                await far.sendto(b"more", ("10.66.0.3", PORT))
                with trio.fail_after(PROMPT_S):
                    assert await near.recv(100) == b"more"
                await far.sendto(b"elsewhere", ("10.66.0.3", PORT + 1))
            await wait_until(lambda: guard.status().dropped["refused"] == 2, "both unasked ones are refused")
            assert "10.77.0.0/16" in host.run("nft list table inet netagent")
            assert guard.status().restored == 0

    trio.run(main)


def test_both_hosts_of_a_pair_judge(namespaces: NamespaceFactory) -> None:
    """By the tunnel comes what the other host let pass: ours lets it pass as well, by the same records."""
    hosts = [namespaces("h1"), namespaces("h2")]
    containers = {one.veth: namespaces(f"c{one.veth[-1]}") for one in (DB, WEB, OTHER)}
    hosts[0].run(f"ip link add {TUNNEL} type veth peer name {TUNNEL} netns {hosts[1].name}")  # like a tunnel
    for host, residents in zip(hosts, ((DB,), (WEB, OTHER)), strict=True):
        bridge(host, NET)
        host.run(f"ip link set {TUNNEL} master {NET.bridge} up")
        for one in residents:
            plug(host, containers[one.veth], one, NET)
    db, web, other = (containers[one.veth] for one in (DB, WEB, OTHER))
    for one, peer in ((DB, WEB), (WEB, DB), (OTHER, DB)):  # no container asks through a tunnel
        for address in peer.addresses:
            containers[one.veth].run(f"ip neigh add {address} lladdr {peer.mac} dev eth0")
    empty = FirewallInput(vxlan_port=4799, networks=(NET,))
    there = dataclasses.replace(
        empty,
        endpoints=(DB,),
        requests=frozenset(ways(TUNNEL, WEB, DB)),
        answers=frozenset(ways(DB.veth, DB, WEB)),
    )
    here = dataclasses.replace(
        empty,
        endpoints=(WEB, OTHER),
        requests=frozenset(ways(WEB.veth, WEB, DB)),
        answers=frozenset(ways(TUNNEL, DB, WEB)),
    )

    async def main() -> None:
        for host in hosts:
            await wait_until(
                lambda: "disabled" not in host.run("bridge link show"), "the bridges' ports are up"
            )
        async with guarding(hosts[0], there) as far_guard, guarding(hosts[1], here) as near_guard:
            for source, destination in zip(WEB.addresses, DB.addresses, strict=True):
                for end in await connected(web, source, db, destination):
                    end.close()
                await asks_by_datagram(web, source, db, destination, size_bytes=4000)
                assert await refusal_of(connected(db, destination, web, source)) == errno.ECONNREFUSED
            assert await refusal_of(connected(other, "10.66.0.4", db, "10.66.0.2")) == errno.ECONNREFUSED
            assert near_guard.status().dropped["refused"] == 1
            # A host that lets pass what ours does not know of: not answered, and soon asked again.
            lax = dataclasses.replace(here, requests=here.requests | frozenset(ways(OTHER.veth, OTHER, DB)))
            before = far_guard.status().dropped["refused"]
            await give(near_guard, lax, 2)
            with pytest.raises(trio.TooSlowError):
                await connected(other, "10.66.0.4", db, "10.66.0.2")
            assert far_guard.status().dropped["refused"] > before

    trio.run(main)


def test_a_kernel_whose_chains_can_t_wait_for_a_device_drops_until_it_can_reject(
    namespaces: NamespaceFactory,
) -> None:
    """As before Linux 6.16: the tables stand without that chain, and get it soon after the bridge."""
    host, db, web = namespaces("h"), namespaces("c2"), namespaces("c3")
    given = FirewallInput(vxlan_port=4799, endpoints=(DB, WEB), networks=(NET,))
    old_nft = (
        'text=$(cat); case "$text" in *"hook ingress"*) ip link show na-8388609 || exit 1;; esac;'
        ' printf "%s\\n" "$text" | nft -f -'
    )

    async def main() -> None:
        tables = await tables_of(host)
        tables.nft = (*tables.nft[:-1], "sh", "-c", old_nft)
        async with guarding(host, given, tables=tables) as guard:
            assert "does not exist" in guard.status().trouble
            assert "chain linked" in host.run("nft list table bridge netagent")
            bridge(host, NET)
            plug(host, db, DB, NET)
            plug(host, web, WEB, NET)
            await wait_until(lambda: not guard.status().trouble, "the chain is there", 2.0)
            assert await refusal_of(connected(web, "10.66.0.3", db, "10.66.0.2")) == errno.ECONNREFUSED

    trio.run(main)


def test_audit_counts_what_links_would_refuse_and_lets_it_pass(namespaces: NamespaceFactory) -> None:
    """From open by audit to links, and back: what links allow is not interrupted, in either family."""
    host, (db, web, other) = place(namespaces, DB, WEB, OTHER)
    audited = dataclasses.replace(NET, audited=True)
    given = linked(FirewallInput(vxlan_port=4799, endpoints=(DB, WEB, OTHER), networks=(NET,)), WEB, DB)
    strict, audit = given, dataclasses.replace(given, networks=(audited,))
    free = FirewallInput(
        vxlan_port=4799, endpoints=given.endpoints, networks=(dataclasses.replace(NET, restricted=False),)
    )

    async def main() -> None:
        async with guarding(host, free) as guard:
            near, far = await connected(web, "10.66.0.3", db, "10.66.0.2")
            with (
                near,
                far,
                await sock_in(db, socket.SOCK_DGRAM, "fd66::2", PORT) as source,
                await sock_in(web, socket.SOCK_DGRAM, "fd66::3", PORT) as sink,
            ):
                # web has asked for a stream, long ago.
                await sink.sendto(b"asked", ("fd66::2", PORT))
                assert await source.recv(100) == b"asked"

                async def push() -> None:
                    await source.sendto(b"pushed", ("fd66::3", PORT))
                    with trio.fail_after(PROMPT_S):
                        assert await sink.recv(100) == b"pushed"

                await give(guard, audit, 2)
                await talk(near, far)
                await talk(far, near)
                assert guard.status().audited == 0, "nothing but what is linked"
                await push()
                assert guard.status().audited == 1, "an answer that was not asked for under these rules"
                await push()
                assert guard.status().audited == 1, "it is noted"
                for address, theirs in zip(OTHER.addresses, DB.addresses, strict=True):
                    before = guard.status().audited
                    for end in await connected(other, address, db, theirs):
                        end.close()
                    assert guard.status().audited == before + 1, "the first packet, of all these"
                    await asks_by_datagram(other, address, db, theirs)
                    assert guard.status().audited == before + 3
                before = guard.status().audited
                assert "fe80::a:ff:fe00:2" in other.run("ping -c2 -i0.2 -W1 ff02::1%eth0")
                assert guard.status().audited > before, "multicast reaches all, and is counted"
                assert guard.status().dropped["refused"] == 0

                rules = host.run("nft -s list table bridge netagent")
                await give(guard, strict, 3)
                await push()
                await talk(near, far)
                await talk(far, near)
                assert await refusal_of(connected(other, "10.66.0.4", db, "10.66.0.2")) == errno.ECONNREFUSED
                await give(guard, audit, 4)
                await push()
                for end in await connected(other, "10.66.0.4", db, "10.66.0.2"):
                    end.close()
                assert host.run("nft -s list table bridge netagent") == rules
                await give(guard, free, 5)
                await talk(near, far)
                await push()
            assert guard.status().restored == 0

    trio.run(main)
