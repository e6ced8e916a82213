"""Connections to a backend that is gone end, and no others: what programs in a member's namespace see of it.

Clients wait in poll(2) and note when they were woken, by the clock that all processes of the machine share.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import Any

import pytest
import trio
from harness.namespaces import NamespaceFactory, wait_until
from harness.service_addresses import VNI, Client, Network, open_network, open_tables, result_of

from netagent.datapath.endpoint.netns import boot_id
from netagent.datapath.sockets import reset
from netagent.datapath.sockets.layout import Member, ServiceEntry
from netagent.datapath.sockets.reset import AGAIN_S, ConnectionResets, ServiceUsers, why_it_cannot_reset
from netagent.datapath.sockets.service_tables import ServiceTables
from netagent.model.sandbox import Netns

pytestmark = pytest.mark.kernel

WEB = ("10.98.0.5", "fd98::5", "::ffff:10.98.0.5")
OTHER = "10.98.0.6"
AWAY, AWAY_MAC = "10.97.0.99", "02:00:00:00:00:99"
"""A backend whose host answers nothing."""
PROMPT_S = 0.2
"""Less than AGAIN_S: the first round has found them. `benchmarks/services.py` measures how long it takes."""

_WATCH = """
def watch(socks):
    "Says that it begins; returns when each socket was woken, until all were or five seconds have gone."
    poll, woken = select.poll(), {}
    for sock in socks: poll.register(sock, select.POLLIN)
    print("ready", flush=True)
    end = time.monotonic() + 5
    while len(woken) < len(socks) and time.monotonic() < end:
        for fd, event in poll.poll(100):
            woken[fd] = time.monotonic()
            poll.unregister(fd)
    return [woken.get(sock.fileno()) for sock in socks]
def failure(sock):
    try: sock.recv(1)
    except OSError as error: return of(error)
    return None
def lives(sock):
    sock.settimeout(5); sock.send(b"x"); return sock.recv(99).decode().split()[0]
"""


@pytest.fixture
def network(namespaces: NamespaceFactory) -> Iterator[Network]:
    with open_network(namespaces, clients=2) as made:
        yield made


@pytest.fixture
def client(network: Network) -> Client:
    return network.clients[0]


def web(network: Network, backend: str) -> dict[bytes, ServiceEntry | None]:
    return {entry.address: entry for entry in (network.entry(address, backend) for address in WEB[:2])}


def addresses_of(network: Network, backend: str) -> list[bytes]:
    return [ip_address(address).packed for address in network.backends[backend]]


@asynccontextmanager
async def resets_in(network: Network, tables: ServiceTables) -> AsyncIterator[ConnectionResets]:
    """The task at work, with a namespace among the users that is gone."""
    by_cookie = {
        client.cookie: Netns(client.namespace.path, client.namespace.identity, boot_id())
        for client in network.clients
    }

    async def users(backends: Collection[bytes]) -> ServiceUsers:
        used = [by_cookie[member.cookie] for member in await tables.used_members(backends)]
        return ServiceUsers([Netns("/run/netns/nt4-gone", (1, 1), boot_id()), *used], are_all=True)

    resets = ConnectionResets(users, lambda: tables.origins_fd)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(resets.run)
        yield resets
        nursery.cancel_scope.cancel()


async def begin(client: Client, code: str) -> subprocess.Popen[str]:
    """Start a program of `client`, and wait until it watches."""
    process = client.start(_WATCH + code)
    assert process.stdout is not None
    if await trio.to_thread.run_sync(process.stdout.readline) != "ready\n":
        result_of(process)  # fails with what the program said
        pytest.fail("it does not watch")
    return process


async def end(process: subprocess.Popen[str]) -> Any:
    return await trio.to_thread.run_sync(result_of, process)


async def counted(resets: ConnectionResets, number: int) -> None:
    """The clients know that a socket was ended before the task that counts them does."""
    await wait_until(lambda: resets.ended >= number, f"{number} sockets are counted", 30.0)
    assert resets.ended == number


def test_this_kernel_can_end_sockets() -> None:
    assert why_it_cannot_reset() is None


def test_all_connections_to_a_gone_backend_end_and_no_others(network: Network, client: Client) -> None:
    """Of a hundred, in both families and the one within the other; of MPTCP as well. Connections by other services
    and to the backend's own address live, and so does a table's change alone."""
    direct4, direct6 = network.backends["b1"]

    async def main() -> None:
        entries = [network.entry(address, "b1") for address in WEB[:2]]
        async with (
            open_tables(network, *entries, network.entry(OTHER, "b2")) as tables,
            resets_in(network, tables) as resets,
        ):
            process = await begin(
                client,
                f"""
led = [connected(address, 80) for address in {WEB} for _ in range(33)] + [connected("{WEB[0]}", 80, protocol=262)]
others = [connected("{OTHER}", 80) for _ in range(5)]
direct = [connected(address, 80) for address in ("{direct4}", "{direct6}", "::ffff:{direct4}")]
woken = watch(led)
result = {{"woken": woken, "failures": [failure(sock) for sock in led],
           "others": [lives(sock) for sock in others], "direct": [lives(sock) for sock in direct]}}
""",
            )
            await tables.set_services(web(network, "b2"))
            await trio.sleep(2 * AGAIN_S)
            assert resets.ended == 0
            began = time.monotonic()
            resets.note_gone(addresses_of(network, "b1"))
            seen = await end(process)
            assert seen["failures"] == ["ECONNABORTED"] * 100
            assert all(began < at < began + PROMPT_S for at in seen["woken"]), json.dumps(seen["woken"])
            assert seen["others"] == ["b2"] * 5
            assert seen["direct"] == ["b1"] * 3
            await counted(resets, 100)
            assert resets.trouble is None

    trio.run(main)


def test_a_connect_that_hangs_ends(network: Network, client: Client) -> None:
    client.namespace.run(f"ip neigh replace {AWAY} lladdr {AWAY_MAC} dev eth0")

    async def main() -> None:
        async with (
            open_tables(network, network.entry(WEB[0], AWAY)) as tables,
            resets_in(network, tables) as resets,
        ):
            process = await begin(
                client,
                f"""
socks = []
for address in ("{WEB[0]}", "{WEB[2]}"):
    sock = socket.socket(family(address)); sock.setblocking(False); sock.connect_ex((address, 80)); socks.append(sock)
result = [watch(socks), [errno.errorcode[sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)] for sock in socks]]
""",
            )
            await tables.set_services(web(network, "b1"))
            began = time.monotonic()
            resets.note_gone([ip_address(AWAY).packed])
            woken, failures = await end(process)
            assert failures == ["ECONNABORTED"] * 2
            assert all(began < at < began + PROMPT_S for at in woken)

    trio.run(main)


def test_datagrams_move_on_and_connected_sockets_fail(network: Network, client: Client) -> None:
    async def main() -> None:
        entries = [network.entry(address, "b1") for address in WEB[:2]]
        async with (
            open_tables(network, *entries, network.entry(OTHER, "b2")) as tables,
            resets_in(network, tables) as resets,
        ):
            process = await begin(
                client,
                f"""
def answered_by(sock, address):
    sock.settimeout(5); sock.sendto(b"x", (address, 80)); return sock.recv(99).decode().split()[0]
led = [connected(address, 80, socket.SOCK_DGRAM) for address in {WEB}]
other = connected("{OTHER}", 80, socket.SOCK_DGRAM)
free = [(socket.socket(family(address), socket.SOCK_DGRAM), address) for address in {WEB}]
before = [lives(sock) for sock in led] + [answered_by(*one) for one in free]
woken = watch(led)
result = {{"before": before, "woken": woken, "failures": [failure(sock) for sock in led],
           "free": [answered_by(*one) for one in free], "other": lives(other)}}
sends = []
for sock in led:
    try: sock.send(b"x")
    except OSError as error: sends.append(of(error))
result["sends"] = sends
""",
            )
            await tables.set_services(web(network, "b2"))
            began = time.monotonic()
            resets.note_gone(addresses_of(network, "b1"))
            seen = await end(process)
            assert seen["before"] == ["b1"] * 6
            assert seen["failures"] == ["ECONNABORTED"] * 3
            assert all(began < at < began + PROMPT_S for at in seen["woken"])
            assert seen["sends"] == ["EDESTADDRREQ"] * 3
            assert seen["free"] == ["b2"] * 3
            assert seen["other"] == "b2"
            await counted(resets, 3)

    trio.run(main)


def test_a_namespace_that_was_led_elsewhere_is_left_alone(network: Network, client: Client) -> None:
    """Its connected UDP sockets can't be told from others by their peers."""
    direct = network.backends["b1"][0]

    async def main() -> None:
        entries = [network.entry(address, "b1") for address in WEB[:2]]
        async with (
            open_tables(network, *entries, network.entry(OTHER, "b3")) as tables,
            resets_in(network, tables) as resets,
        ):
            used = await begin(client, f"result = watch([connected('{WEB[0]}', 80)])")
            unused = await begin(
                network.clients[1],
                f"""
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGUSR1}})
sock, other = connected("{direct}", 80, socket.SOCK_DGRAM), connected("{OTHER}", 80)
watch([])
signal.sigwait({{signal.SIGUSR1}})
result = lives(sock)
""",
            )
            gone = addresses_of(network, "b1")
            assert await tables.used_members(gone) == [Member(client.cookie, VNI)]
            await tables.set_services(web(network, "b2"))
            resets.note_gone(gone)
            assert (await end(used))[0] is not None
            unused.send_signal(signal.SIGUSR1)
            assert await end(unused) == "b1"

    trio.run(main)


def test_more_sockets_than_one_listing_notes_all_end(
    network: Network, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reset, "MOST_SOCKETS", 10)

    async def main() -> None:
        entries = [network.entry(address, "b1") for address in WEB[:2]]
        async with open_tables(network, *entries) as tables, resets_in(network, tables) as resets:
            process = await begin(client, f"result = watch([connected('{WEB[0]}', 80) for _ in range(35)])")
            await tables.set_services(web(network, "b2"))
            began = time.monotonic()
            resets.note_gone(addresses_of(network, "b1"))
            assert all(began < at < began + PROMPT_S for at in await end(process))
            await counted(resets, 35)

    trio.run(main)
