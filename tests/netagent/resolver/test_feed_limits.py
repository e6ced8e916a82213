"""What one container may take of the server of feeds, in simulated time: connections, patience, memory."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from fakes import names
from fakes.feed_tables import an_endpoint

from netagent.feeds.packed import pack_endpoint
from netagent.model.sandbox import SandboxId
from netagent.resolver import feed_server
from netagent.resolver.feed_server import MAX_BODIES, MAX_CONNECTIONS, MAX_OF_SANDBOX, FeedServer
from netagent.resolver.feed_source import FeedSource
from netagent.resolver.name_table import Change, FeedRow, NetworkRow, RowKind
from netagent.resolver.zone_source import ZoneSource

GET = b"GET /services HTTP/1.1\r\nHost: a\r\n\r\n"


class Containers:
    """A server, and containers that ask it: sandboxes with a listener each, in one namespace."""

    def __init__(self, count: int, *, endpoints: int = 1) -> None:
        source = ZoneSource()
        feeds = FeedSource(source)
        rows: list[Change] = [
            names.settings(),
            ((RowKind.NETWORK, names.APP), NetworkRow("app", (), has_feeds=True)),
            *(names.sandbox(f"c{number}", names.APP) for number in range(count)),
        ]
        for number in range(endpoints):
            packed = pack_endpoint(an_endpoint(1, labels={"text": "x" * 8000}))
            rows.append(((RowKind.FEED, f"{number:032x}"), FeedRow(names.APP, packed)))
        source.apply(rows)
        feeds.apply(rows)
        feeds.commit()
        self.source = feeds
        self.server = FeedServer(feeds, away_s=lambda: None, note_wanted=lambda: None)
        self.ports: list[int] = []
        for number in range(count):
            listener = socket.create_server(("127.0.0.1", 0), backlog=128)
            listener.setblocking(False)
            self.ports.append(listener.getsockname()[1])
            self.server.add_listener(SandboxId(f"c{number}"), listener)

    @property
    def connections(self) -> int:
        return self.server.statistics()["feed_connections"]

    async def connect(self, number: int = 0) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.ports[number])

    async def until(self, count: int) -> None:
        """Wait until there are so many connections."""
        with trio.fail_after(30):
            while self.connections != count:
                await trio.sleep(0.01)


def run(containers: Containers, play: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(containers.server.run)
            await play()
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.02))


async def all_of(stream: trio.SocketStream) -> bytes:
    data = b""
    with contextlib.suppress(trio.BrokenResourceError):
        while part := await stream.receive_some():
            data += part
    return data


def test_a_client_that_asks_nothing_is_sent_away() -> None:
    containers = Containers(1)

    async def play() -> None:
        began = trio.current_time()
        async with await containers.connect() as stream:
            await stream.send_all(GET[:-1])
            assert (await all_of(stream)).startswith(b"HTTP/1.1 408 ")
        assert 5 <= trio.current_time() - began < 8
        await containers.until(0)

    run(containers, play)


def test_a_reader_that_takes_nothing_is_cut_off() -> None:
    containers = Containers(1, endpoints=2000)  # more than the kernel keeps for a connection

    async def play() -> None:
        async with await containers.connect() as stream:
            await stream.send_all(GET)
            await containers.until(1)
            began = trio.current_time()
            await containers.until(0)
            assert trio.current_time() - began < 15
            assert len(await all_of(stream)) < 16_000_000

    run(containers, play)


def test_a_container_gets_one_large_answer_each_second() -> None:
    containers = Containers(1, endpoints=200)

    async def play() -> None:
        times = []
        for _ in range(4):
            async with await containers.connect() as stream:
                await stream.send_all(GET)
                assert len(await all_of(stream)) > 1_000_000
                times.append(trio.current_time())
        assert times[-1] - times[0] >= 3

    run(containers, play)


def test_a_container_has_eight_connections_and_others_find_room() -> None:
    count = MAX_CONNECTIONS // MAX_OF_SANDBOX + 1
    containers = Containers(count)

    async def play() -> None:
        async with contextlib.AsyncExitStack() as opened:
            for number in range(count - 1):
                for _ in range(MAX_OF_SANDBOX + 2):
                    await opened.enter_async_context(await containers.connect(number))
            with trio.move_on_after(3):
                await containers.until(MAX_CONNECTIONS)
            assert containers.connections == MAX_CONNECTIONS
            async with await containers.connect(count - 1) as stream:
                await stream.send_all(GET)
                assert (await all_of(stream)).startswith(b"HTTP/1.1 200 ")
            counted = containers.server.statistics()
            assert counted["feed_displaced"] == 1
            assert counted["feed_refused"] == 2 * (count - 1)

    run(containers, play)


def test_watchers_of_as_many_containers_keep_no_other_out() -> None:
    containers = Containers(MAX_CONNECTIONS + 1)

    async def play() -> None:
        async with contextlib.AsyncExitStack() as opened:
            watching = []
            for number in range(MAX_CONNECTIONS):
                watching.append(await opened.enter_async_context(await containers.connect(number)))
                await watching[-1].send_all(GET.replace(b"services", b"services?watch=true"))
                assert (await watching[-1].receive_some()).startswith(b"HTTP/1.1 200 ")
            async with await containers.connect(MAX_CONNECTIONS) as stream:
                await stream.send_all(GET)
                assert (await all_of(stream)).startswith(b"HTTP/1.1 200 ")
            with trio.fail_after(5):
                await all_of(watching[0])  # the oldest one has been closed
            await containers.until(MAX_CONNECTIONS - 1)

    run(containers, play)


def test_a_listener_that_cannot_be_waited_for_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    containers = Containers(1)
    listener = socket.create_server(("127.0.0.1", 0))

    class Full:
        def register(self, *_: object) -> None:
            raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patched:
        patched.setattr(containers.server, "_epoll", Full())
        with pytest.raises(OSError, match="full"):
            containers.server.add_listener(SandboxId("c1"), listener)
    assert listener.fileno() == -1
    assert containers.server.sandboxes() == {"c0"}
    containers.server.remove_listener(SandboxId("c0"))


def test_one_body_is_made_for_all_who_ask_for_the_same() -> None:
    containers = Containers(20)

    async def play() -> None:
        for number in range(20):
            async with await containers.connect(number) as stream:
                await stream.send_all(GET)
                assert (await all_of(stream)).startswith(b"HTTP/1.1 200 ")
        assert containers.server.statistics()["feed_bodies"] == 1

    run(containers, play)


def test_a_fault_in_a_feed_costs_one_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(_table: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(feed_server, "FEEDS", {"services": fault})
    containers = Containers(1)

    async def play() -> None:
        async with await containers.connect() as stream:
            await stream.send_all(GET)
            assert await all_of(stream) == b""
        async with await containers.connect() as stream:
            await stream.send_all(GET.replace(b"services", b"nothing"))
            assert (await all_of(stream)).startswith(b"HTTP/1.1 404 ")
        assert containers.server.statistics()["feed_internal_errors"] == 1

    run(containers, play)


def test_feeds_that_are_kept_are_few() -> None:
    containers = Containers(1)

    async def play() -> None:
        for number in range(MAX_BODIES + 5):
            await containers.server._body("services", (names.APP,) * (number + 1), SandboxId("c0"))
        assert len(containers.server._bodies) == MAX_BODIES

    run(containers, play)
