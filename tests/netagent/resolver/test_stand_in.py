"""The stand-in by real sockets on loopback."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import trio_test

from netagent.openmetrics.process_families import read_usage
from netagent.resolver import stand_in
from netagent.resolver.privileged import _stand_in
from netagent.resolver.stand_in import MAX_CONNECTIONS, StandIn

PATIENCE_S = 30.0


def stand_in_for(statistics: Callable[[], dict[str, int]]) -> StandIn:
    def listen(place: str) -> socket.socket:
        (found,) = _stand_in(place.encode(), None).sockets
        return found

    return StandIn(statistics, listen=listen, read_usage=lambda: read_usage(os.getpid()))


def free_place() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


async def connected(place: str) -> trio.SocketStream:
    host, _, port = place.rpartition(":")
    with trio.fail_after(PATIENCE_S):
        while True:
            try:
                return await trio.open_tcp_stream(host, int(port))
            except OSError:
                await trio.sleep(0.01)


async def wait_closed(place: str) -> None:
    host, _, port = place.rpartition(":")
    with trio.fail_after(PATIENCE_S):
        while True:
            with socket.socket() as trial:
                if trial.connect_ex((host, int(port))) != 0:
                    return
            await trio.sleep(0.01)


METRICS = b"GET /metrics HTTP/1.1\r\nHost: localhost:7958\r\n\r\n"


async def ask(place: str, request: bytes = METRICS) -> tuple[int, bytes]:
    async with await connected(place) as stream:
        await stream.send_all(request)
        whole = b"".join([part async for part in stream])
    head, _, body = whole.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


@asynccontextmanager
async def standing_in(place: str) -> AsyncIterator[StandIn]:
    one = stand_in_for(lambda: {"queries": 42})
    one.agent_came()
    one.set_place(place)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run)
        yield one
        nursery.cancel_scope.cancel()


@trio_test
async def test_it_gives_the_counters_of_names_while_the_agent_is_away_and_only_then() -> None:
    place = free_place()
    async with standing_in(place) as one:
        await wait_closed(place)
        one.agent_went()
        status, body = await ask(place)
        assert status == 200
        assert b"netagent_dns_queries_total 42.0\n" in body
        assert b"netagent_agent_up 0.0\n" in body
        assert b"\nnetagent_resolver_process_resident_memory_bytes " in body
        assert body.endswith(b"# EOF\n")
        one.agent_came()
        await wait_closed(place)
        host, _, port = place.rpartition(":")
        socket.create_server((host, int(port))).close()  # the agent can listen there again


@trio_test
async def test_it_is_no_replica_for_a_load_balancer() -> None:
    place = free_place()
    async with standing_in(place) as one:
        one.agent_went()
        status, body = await ask(place, b"GET /healthz/service/web HTTP/1.1\r\nHost: localhost:7958\r\n\r\n")
        assert status == 503
        assert json.loads(body)["cause"] == "the agent of this host is away"


@trio_test
async def test_an_address_that_is_taken_is_tried_again() -> None:
    place = free_place()
    host, _, port = place.rpartition(":")
    taken = socket.create_server((host, int(port)))
    async with standing_in(place) as one:
        one.agent_went()
        await trio.testing.wait_all_tasks_blocked()
        taken.close()
        assert (await ask(place))[0] == 200


@trio_test
async def test_an_agent_without_a_listener_is_not_stood_in_for() -> None:
    one = stand_in_for(dict)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run)
        one.agent_went()
        await trio.testing.wait_all_tasks_blocked()
        assert not nursery.cancel_scope.cancelled_caught
        assert len(nursery.child_tasks) == 1
        nursery.cancel_scope.cancel()


@trio_test
async def test_what_strangers_send_costs_one_answer() -> None:
    place = free_place()
    async with standing_in(place) as one:
        one.agent_went()
        assert (await ask(place, b"\x16\x03\x01\x00\xa5 no HTTP\r\n\r\n"))[0] == 400
        assert (await ask(place, b"POST /metrics HTTP/1.1\r\nHost: localhost:7958\r\n\r\n"))[0] == 405
        assert (await ask(place, b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\n"))[0] in {400, 431}
        assert (await ask(place, b"GET /../../etc/shadow HTTP/1.1\r\nHost: localhost:7958\r\n\r\n"))[0] == 503
        assert (await ask(place))[0] == 200


@trio_test
async def test_connections_are_bounded_and_the_next_is_served_when_one_ends() -> None:
    place = free_place()
    async with standing_in(place) as one:
        one.agent_went()
        idle = [await connected(place) for _ in range(MAX_CONNECTIONS)]
        with trio.fail_after(PATIENCE_S):
            while one._open < MAX_CONNECTIONS:
                await trio.sleep(0.01)
        async with await connected(place) as one_more:
            with trio.fail_after(PATIENCE_S):
                assert await one_more.receive_some() == b""
        for each in idle:
            await each.aclose()
        with trio.fail_after(PATIENCE_S):
            while one._open:
                await trio.sleep(0.01)
        assert (await ask(place))[0] == 200


@trio_test
@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil:80", "", "a@127.0.0.1"]
)
async def test_metrics_are_not_for_another_name_that_leads_to_loopback(host: str) -> None:
    place = free_place()
    async with standing_in(place) as one:
        one.agent_went()
        status, body = await ask(place, f"GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert (status, b"queries" in body) == (403, False)
        for name in ("127.0.0.1", "LOCALHOST:7958", "[::1]:7958"):
            assert (await ask(place, f"GET /metrics HTTP/1.1\r\nHost: {name}\r\n\r\n".encode()))[0] == 200


@trio_test
@pytest.mark.parametrize("end", ["127.0.0.1", "127.0.0.2"])
async def test_metrics_are_not_for_other_hosts(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if one end of the connection was another address than one of loopback."""
    place = free_place()
    monkeypatch.setattr(stand_in, "is_loopback", lambda address: address != end)
    async with standing_in(f"127.0.0.2:{place.rpartition(':')[2]}") as one:
        one.agent_went()
        there = f"127.0.0.2:{place.rpartition(':')[2]}"
        assert (await ask(there))[0] == 403
        assert (await ask(there, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"))[0] == 503


@pytest.mark.parametrize(
    "place",
    [
        "localhost:0",
        f"{'a' * 64}.example:80",
        "127.0.0.1:70000",
        "127.0.0.1:0",
        ":80",
        "127.0.0.1\0:80",
        "\xff:80",
    ],
)
def test_the_broker_listens_at_an_address_alone_and_survives_whatever_it_is_asked_for(place: str) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        _stand_in(place.encode("latin-1"), None)
