"""Port 53 in a container is the container's own, and 127.0.0.11 port 53 is ours all the same. Needs the kernel."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import signal
import socket
import subprocess
from pathlib import Path
from socket import AddressFamily
from typing import Any

import dns.message
import pytest
import trio
from fakes import names
from fakes.resolver_process import Container, agent, ended, gone, inside, process_id_of, serve, until

from netagent.datapath.endpoint import dns_redirect, netns
from netagent.datapath.netlink import nftables
from netagent.datapath.netlink.nftables import NftMessage
from netagent.model.sandbox import SandboxId
from netagent.projection.resolver_sockets import ResolverSockets
from netagent.resolver.channel import SocketChannel, connect
from netagent.resolver.protocol import (
    SOCKET_NAME,
    AgentHello,
    FetchedSockets,
    FetchSockets,
    parse_reply_untrusted,
    request_bytes,
)
from netdns import server

pytestmark = pytest.mark.kernel

EVERYWHERE = [("0.0.0.0", socket.AF_INET), ("::", socket.AF_INET6), ("127.0.0.11", socket.AF_INET)]
OURS = ["10.170.0.21"]


class OwnServer:
    """A DNS server of the container's, which never answers: what reaches it is seen in its sockets."""

    def __init__(self, container: Container, address: str, family: AddressFamily) -> None:
        def bind() -> tuple[socket.socket, socket.socket]:
            udp, tcp = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family, socket.SOCK_STREAM)
            for one in (udp, tcp):
                one.setblocking(False)
                one.bind((address, 53))
            tcp.listen(8)
            return udp, tcp

        self.udp, self.tcp = inside(container.netns, bind)

    def heard(self) -> bytes | None:
        with contextlib.suppress(BlockingIOError):
            return self.udp.recvfrom(4096)[0]
        with contextlib.suppress(BlockingIOError):
            self.tcp.accept()[0].close()
            return b"connection"
        return None

    def close(self) -> None:
        self.udp.close()
        self.tcp.close()


def run_inside(container: Container, command: str) -> str:
    full = ["nsenter", f"--net=/run/netns/{container.netns}", "sh", "-c", command]
    return subprocess.run(full, check=True, capture_output=True, text=True).stdout


async def all_come_to_us(container: Container, own: OwnServer | None = None) -> None:
    for _ in range(2):
        assert await container.ask("database") == OURS
        assert await container.ask_tcp("database") == OURS
    if own is not None:
        assert own.heard() is None


@pytest.mark.parametrize(("address", "family"), EVERYWHERE)
@pytest.mark.parametrize("is_first", [True, False])
def test_a_containers_own_server_has_port_53_and_none_of_our_queries(
    run_dir: Path, container: Container, address: str, family: AddressFamily, is_first: bool
) -> None:
    async def main() -> None:
        async with agent(run_dir, stop=True) as one:
            own = OwnServer(container, address, family) if is_first else None
            await serve(one, container)
            own = own or OwnServer(container, address, family)
            with contextlib.closing(own):
                await all_come_to_us(container, own)
                if address != "127.0.0.11":
                    ask = functools.partial(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
                    with inside(container.netns, ask) as asker:
                        asker.sendto(b"for you", ("127.0.0.1", 53))
                    assert own.heard() == b"for you"

    trio.run(main)


def test_answers_come_from_where_the_query_went(run_dir: Path, container: Container) -> None:
    """To a socket that is not connected, too; and port 53 is what connections have at their other end."""

    async def main() -> None:
        async with agent(run_dir, stop=True) as one:
            await serve(one, container)
            query = dns.message.make_query("database", "A").to_wire()
            plain = inside(container.netns, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            mapped = inside(container.netns, lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
            for sock, address in ((plain, "127.0.0.11"), (mapped, "::ffff:127.0.0.11")):
                sock.setblocking(False)
                with trio.socket.from_stdlib_socket(sock) as asker, trio.fail_after(10):
                    await asker.sendto(query, (address, 53))
                    _, source = await asker.recvfrom(4096)
                    assert source[:2] == (address, 53)
            assert await container.ask_tcp("database") == OURS

    trio.run(main)


@pytest.mark.parametrize(
    "command",
    [
        "nft flush ruleset",
        "! nft delete table ip netagent-dns",
        "iptables -w -F; iptables -w -t nat -F; iptables -w -t mangle -F; iptables -w -X",
        # What a container's firewall says of port 53 holds of us as if we had it, tracked or not.
        (
            "iptables -w -P INPUT DROP; iptables -w -P OUTPUT DROP;"
            " iptables -w -A OUTPUT -p udp --dport 53 -j ACCEPT; iptables -w -A OUTPUT -p tcp --dport 53 -j ACCEPT;"
            " iptables -w -A INPUT -p udp --dport 53 -j ACCEPT; iptables -w -A INPUT -p tcp --dport 53 -j ACCEPT;"
            " iptables -w -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT;"
            " iptables -w -A OUTPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT"
        ),
        (
            "nft add table ip raw; nft add chain ip raw o '{ type filter hook output priority raw; }';"
            " nft add rule ip raw o notrack"
        ),
    ],
)
def test_the_containers_own_rules_do_not_part_us(run_dir: Path, container: Container, command: str) -> None:
    async def main() -> None:
        async with agent(run_dir, stop=True) as one:
            await serve(one, container)
            run_inside(container, command)
            await all_come_to_us(container)

    trio.run(main)


def test_nothing_is_left_in_a_namespace_that_is_removed(run_dir: Path, container: Container) -> None:
    async def main() -> None:
        async with agent(run_dir, stop=True) as one:
            for _ in range(3):  # the next one is not in the way of the one before
                await serve(one, container)
                assert "netagent-dns" in run_inside(container, "nft list tables")
                await one.remove_sandbox(SandboxId("c"))
                assert run_inside(container, "nft list tables; ss -Hlntu") == ""

    trio.run(main)


def test_nothing_is_led_any_more_when_agent_and_process_are_gone(run_dir: Path, container: Container) -> None:
    async def main() -> None:
        async with ended(run_dir):
            async with agent(run_dir) as one:
                await serve(one, container)
                process_id = process_id_of(one)
            assert await container.ask("database") == OURS
            os.kill(process_id, signal.SIGKILL)
            await until(lambda: gone(process_id))
            await until(lambda: run_inside(container, "nft list tables") == "")

    trio.run(main)


async def keep_asking(container: Container, done: trio.Event, asked: list[Any]) -> None:
    while not done.is_set():
        assert await container.ask("database") == OURS
        assert await container.ask_tcp("database") == OURS
        asked.append(1)
        await trio.sleep(0.002)


def test_what_an_earlier_release_had_bound_is_freed_and_no_query_is_lost(
    run_dir: Path, container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process is replaced first; then queries are led to new sockets, and the old ones are closed at the end."""

    async def main() -> None:
        asked: list[Any] = []
        async with ended(run_dir), trio.open_nursery() as nursery:
            async with agent(run_dir, release="old") as one:
                await one.add_sandbox(SandboxId("c"), *container.bound()[:2])
                assert await one.publish(names.world())
            async with agent(run_dir, release="new") as two:
                resolvers = ResolverSockets(two)
                assert await two.publish(names.world()) or await two.publish(names.world())
                assert await two.known_sandboxes() == {"c"}
                done = trio.Event()
                # Over TCP connections of the replaced process end with it, so not before.
                nursery.start_soon(keep_asking, container, done, asked)
                await until(lambda: len(asked) > 20)
                with netns.opened_netns(f"/run/netns/{container.netns}") as netns_fd:
                    for _ in range(2):
                        await resolvers.ensure_listening(SandboxId("c"), netns_fd, behind_runtime=False)
                before = len(asked)
                await until(lambda: len(asked) > before + 20)
                assert inside(container.netns, dns_redirect.redirected_port) == 61053
                # As long as a query may be under way, the old ones are there.
                await until(lambda: "127.0.0.11:53 " not in run_inside(container, "ss -Hlntu"))
                before = len(asked)
                await until(lambda: len(asked) > before + 20)
                done.set()
            async with agent(run_dir, release="new", stop=True) as three:
                assert await three.known_sandboxes() == {"c"}
                assert three.sockets()[SandboxId("c")].port_redirect is not None

    assert server.RETIRING_S < 15
    trio.run(main)


def test_a_query_under_way_is_answered_by_the_sockets_that_it_came_to(
    run_dir: Path, container: Container
) -> None:
    """It was read from the old socket's queue, or is to be, when the new ones are there."""

    async def main() -> None:
        async with agent(run_dir, stop=True) as one:
            await one.add_sandbox(SandboxId("c"), *container.bound()[:2])  # no table yet: queries wait
            with container.asker() as waiting, trio.fail_after(10):
                await waiting.send(dns.message.make_query("database", "A").to_wire())
                assert await one.publish(names.world())
                await waiting.recv(4096)
                os.kill(process_id_of(one), signal.SIGSTOP)
                await waiting.send(dns.message.make_query("web-1.app.mesh.internal", "A").to_wire())
                async with trio.open_nursery() as nursery:
                    resolvers = ResolverSockets(one)

                    async def free() -> None:
                        with netns.opened_netns(f"/run/netns/{container.netns}") as netns_fd:
                            await resolvers.ensure_listening(SandboxId("c"), netns_fd, behind_runtime=False)

                    nursery.start_soon(free)
                    await until(lambda: inside(container.netns, dns_redirect.redirected_port) is not None)
                    os.kill(process_id_of(one), signal.SIGCONT)
                answer = dns.message.from_wire(await waiting.recv(4096))
                assert str(answer.answer[0][0]) == "10.160.0.11"
            await all_come_to_us(container)

    trio.run(main)


def test_an_agent_of_an_earlier_release_is_given_what_it_knows(run_dir: Path, container: Container) -> None:
    """A downgrade: it fetches the sockets, ends the process, and what leads to high ports is gone with that."""

    async def main() -> None:
        async with ended(run_dir):
            async with agent(run_dir, release="new") as one:
                await serve(one, container)
            with trio.fail_after(10), SocketChannel(await connect(run_dir / SOCKET_NAME)) as old:
                await old.send(request_bytes(AgentHello(1, 1, "old", redirects=False)))
                await old.receive()
                await old.send(request_bytes(FetchSockets(2, SandboxId("c"))))
                answer = await old.receive()
                assert answer is not None
                reply, pair = answer
                assert pair is not None
                assert parse_reply_untrusted(reply) == FetchedSockets(2, SandboxId("c"), False)
                assert pair.port_redirect is None
                assert pair.udp.getsockname() == pair.tcp.getsockname() == ("127.0.0.11", 53)
                pair.close()
                await all_come_to_us(container)

    trio.run(main)


def test_a_kernel_without_owners_of_tables_has_them_repaired(
    run_dir: Path, container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux before 5.12: `nft flush ruleset` in the container takes the lead away."""
    made = nftables.commit

    def commit(sock: socket.socket, changes: list[NftMessage]) -> None:
        flag = nftables.number(2, nftables.TABLE_F_OWNER)
        if any(change.kind == nftables.NEWTABLE and flag in change.attributes for change in changes):
            raise OSError(errno.EOPNOTSUPP, "no owners")
        made(sock, changes)

    monkeypatch.setattr(nftables, "commit", commit)

    async def main() -> None:
        async with agent(run_dir, stop=True) as one:
            resolvers = ResolverSockets(one)
            await serve(one, container)
            await all_come_to_us(container)
            assert "owner" not in run_inside(container, "nft list ruleset")
            await resolvers.repair()
            run_inside(container, "nft flush ruleset")
            with pytest.raises(ConnectionRefusedError):
                await container.ask("database")
            await resolvers.repair()
            await all_come_to_us(container)
            await one.remove_sandbox(SandboxId("c"))
            assert run_inside(container, "nft list tables") == ""

    trio.run(main)


def test_a_table_with_an_owner_is_looked_at_once(
    run_dir: Path, container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    whole = dns_redirect.port_redirect_outcome

    def looking(sock: socket.socket) -> Any:
        asked.append(1)
        return whole(sock)

    monkeypatch.setattr(
        "netagent.projection.resolver_sockets.port_redirect_outcome",
        looking,
    )

    async def main() -> None:
        async with agent(run_dir, stop=True) as one:
            resolvers = ResolverSockets(one)
            await serve(one, container)
            for _ in range(3):
                await resolvers.repair()
            assert asked == [1]

    trio.run(main)
