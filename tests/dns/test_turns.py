"""How many queries of a client that floods are answered before it is another client's turn.

The clock moves by a fixed step with each look at it, as if each query took as long, so the counts do not depend on
the machine.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Hashable
from typing import Any

import dns.message
import pytest
import trio
import trio.testing

from netdns.config import Transport
from netdns.resolver import Resolver
from netdns.server import Server
from netdns.testing import listening_pair
from netdns.turns import TURN_S, Turns
from tests.dns.world import make_source

STEP_S = TURN_S / 4
QUERIES = 100
QUERY = dns.message.make_query("victim.mesh.internal", "A").to_wire()


def queries() -> list[bytes]:
    """All different, so that none has a finished answer: those are a batch of 64, which is less than a turn."""
    return [dns.message.make_query(f"n{number}.mesh.internal", "A").to_wire() for number in range(QUERIES)]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += STEP_S
        return self.now


class Watched(Resolver):
    """Notes whose queries it answers, in order; `hook` is called with each."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(source=make_source(), rng=random.Random(1), now=clock.now)
        self.order: list[Hashable] = []
        self.hook: Callable[[Hashable], None] = lambda client: None

    def handle_query(
        self,
        payload: bytes,
        client: Hashable,
        transport: Transport,
        reply_token: Hashable,
        now: float,
    ) -> bytes | None:
        self.order.append(client)
        self.hook(client)
        return super().handle_query(payload, client, transport, reply_token, now)


class Stage:
    def __init__(self) -> None:
        clock = Clock()
        self.resolver = Watched(clock)
        self.server = Server(self.resolver, clock=clock)
        self.addresses: dict[str, tuple[str, int]] = {}

    def listen(self, client: str) -> tuple[str, int]:
        udp, tcp = listening_pair()
        self.server.add_listener(client, udp, tcp)
        self.addresses[client] = udp.getsockname()
        return self.addresses[client]

    async def between(self, floods: Callable[..., Any], after: int) -> int:
        """How many queries are answered between the moment when `victim` asks, after so many, and its answer."""
        self.listen("victim")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as victim:
            victim.connect(self.addresses["victim"])

            def hook(client: Hashable) -> None:
                if len(self.resolver.order) == after:
                    victim.send(QUERY)

            self.resolver.hook = hook
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.server.run)
                await floods(nursery)
                with trio.fail_after(10):
                    while "victim" not in self.resolver.order:
                        await trio.sleep(0.001)
                nursery.cancel_scope.cancel()
        return self.resolver.order.index("victim") - after


@pytest.mark.parametrize("clients", [1, 5])
def test_a_flood_of_datagrams_waits_for_its_turn(clients: int) -> None:
    stage = Stage()
    senders = []
    for number in range(clients):
        address = stage.listen(f"hog{number}")
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        senders.append(sender)
        for query in queries():
            sender.sendto(query, address)

    async def floods(nursery: trio.Nursery) -> None:
        pass

    # The rest of a turn, and one turn of each of the others, which is one query when there are many.
    assert trio.run(stage.between, floods, 10) <= 4 + 2 * clients
    for sender in senders:
        sender.close()


@pytest.mark.parametrize("connections", [1, 10])
def test_a_flood_by_streams_waits_for_its_turn(connections: int) -> None:
    stage = Stage()
    address = stage.listen("hog")

    async def pour(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(b"".join(len(one).to_bytes(2, "big") + one for one in queries()))
            await trio.sleep_forever()

    async def floods(nursery: trio.Nursery) -> None:
        for _ in range(connections):
            nursery.start_soon(pour, await trio.open_tcp_stream(*address))

    assert trio.run(stage.between, floods, 3) <= 8


def test_turns_share_one_round() -> None:
    now = [0.0]
    turns = Turns(lambda: now[0])
    assert turns.begin() == TURN_S
    for client in ("a", "b", "b", "c"):
        turns.end(client, unsated=True)
    assert turns.length_s() == TURN_S / 3
    turns.end("b", unsated=False)
    turns.end("never", unsated=False)
    assert turns.length_s() == TURN_S / 2


def test_a_listener_that_is_closed_while_its_socket_is_readable_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its task has been woken already, so cancelling it comes too late."""
    stage = Stage()
    real = trio.lowlevel.wait_readable

    async def wait_readable(sock: socket.socket) -> None:
        await real(sock)
        stage.server.remove_listener("gone")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.server.run)
            await trio.testing.wait_all_tasks_blocked()
            monkeypatch.setattr(trio.lowlevel, "wait_readable", wait_readable)
            address = stage.listen("gone")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.sendto(QUERY, address)
            with trio.fail_after(5):
                while stage.server.clients():
                    await trio.sleep(0.001)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert stage.resolver.statistics()["clients"] == 0
