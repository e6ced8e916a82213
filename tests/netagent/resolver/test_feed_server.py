"""The real resolver process serves feeds inside throw-away network namespaces, whatever its readers do."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from fakes import names
from fakes.resolver_process import Container, agent, ended, inside, process_id_of, serve, until

from netagent.feeds.packed import pack_endpoint
from netagent.feeds.table import FeedEndpoint, FeedNetwork
from netagent.model.ids import NetworkId
from netagent.model.records import Port
from netagent.model.sandbox import SandboxId
from netagent.resolver.feed_server import MAX_OF_SANDBOX, MAX_WATCHERS
from netagent.resolver.name_table import FeedRow, Key, NetworkRow, Row, RowKind
from netagent.resolver.supervisor import Supervisor

pytestmark = pytest.mark.kernel

GET = "GET /{} HTTP/1.1\r\nHost: 127.0.0.11:7953\r\nUser-Agent: test\r\n\r\n"


def fed(number: int, name: str, network_id: NetworkId = names.APP, **fields: Any) -> tuple[Key, Row]:
    """Return the FEED row of an endpoint."""
    known = FeedEndpoint(
        endpoint_id=names.endpoint_id(number),
        network=FeedNetwork("", ""),
        name=name,
        service=fields.pop("service", "web"),
        host="h1",
        addresses=(f"10.160.0.{number}",),
        ports=(Port("metrics", 9100),),
        **fields,
    )
    return (RowKind.FEED, known.endpoint_id), FeedRow(network_id, pack_endpoint(known))


def with_feeds(wanted: frozenset[NetworkId], *rows: tuple[Key, Row]) -> dict[Key, Row]:
    """Return the usual table as an agent publishes it once these feeds are wanted."""
    table = names.world()
    for network_id in wanted:
        row = table[RowKind.NETWORK, network_id]
        assert isinstance(row, NetworkRow)
        table[RowKind.NETWORK, network_id] = NetworkRow(row.label, row.subnets, has_feeds=True)
    return {
        **table,
        **dict(rows or [fed(1, "web-1"), fed(2, "web-2"), fed(3, "db", names.BACK, service="db")]),
    }


async def follow_wanted(one: Supervisor, *rows: tuple[Key, Row]) -> None:
    """Publish what containers ask for, as the agent does."""
    known: frozenset[NetworkId] = frozenset()
    while True:
        await until(lambda: one.wanted_feeds != known)
        known = one.wanted_feeds
        await one.publish(with_feeds(known, *rows))


@contextlib.asynccontextmanager
async def served(run_dir: Path, container: Container) -> AsyncIterator[Supervisor]:
    """An agent whose container can ask for feeds."""
    async with agent(run_dir, stop=True) as one, trio.open_nursery() as nursery:
        await serve(one, container)
        nursery.start_soon(follow_wanted, one)
        await until_listening(container)
        yield one
        nursery.cancel_scope.cancel()


async def connected(container: Container) -> trio.SocketStream:
    sock = inside(container.netns, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    sock.setblocking(False)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
    try:
        await stream.socket.connect(("127.0.0.11", 7953))
    except BaseException:
        sock.close()
        raise
    return stream


async def until_listening(container: Container) -> None:
    with trio.fail_after(10):
        while True:
            with contextlib.suppress(OSError):
                await (await connected(container)).aclose()
                return
            await trio.sleep(0.02)


async def get(container: Container, path: str, text: str = GET) -> tuple[int, dict[str, str], bytes]:
    """Ask once; return status, headers and body."""
    with trio.fail_after(15):
        async with await connected(container) as stream:
            await stream.send_all(text.replace("{}", path).encode())
            data = b""
            while part := await stream.receive_some():
                data += part
    return parsed(data)


def parsed(data: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.lower().split(": ", 1) for line in lines), body


def test_a_container_reads_the_feeds_of_its_networks(run_dir: Path, container: Container) -> None:
    async def main() -> None:
        async with served(run_dir, container):
            status, fields, body = await get(container, "prometheus")
            assert (status, fields["content-type"]) == (200, "application/json")
            assert "x-netagent-age" not in fields
            targets = [one["targets"] for one in json.loads(body)]
            assert targets == [["10.160.0.1:9100"], ["10.160.0.2:9100"], ["10.160.0.3:9100"]]
            status, _, body = await get(container, "services")
            assert [item["id"] for item in json.loads(body)["items"]] == ["db.back", "web.app"]
            status, fields, body = await get(container, "traefik", GET.replace("GET", "HEAD"))
            assert (status, body) == (200, b"")
            assert int(fields["content-length"]) > 0

    trio.run(main)


def test_a_proxy_gets_the_own_addresses_of_services_where_these_are_translated_for_it(
    run_dir: Path, container: Container
) -> None:
    async def main() -> None:
        async with agent(run_dir, stop=True) as one, trio.open_nursery() as nursery:
            await serve(one, container)
            labels = {"traefik.http.services.web.loadbalancer.server.port": "9100"}
            rows = [fed(1, "web-1", labels=labels), names.service_address("web", "10.200.0.7")]
            nursery.start_soon(follow_wanted, one, *rows)
            await until_listening(container)
            path = "traefik?upstream=service"
            status, _, body = await get(container, path)
            assert status == 409
            assert body.startswith(
                b"addresses of services in app are not translated for this container: see "
            )
            status, _, body = await get(container, "traefik")
            assert b"10.160.0.1:9100" in body
            status, _, body = await get(container, "prometheus?upstream=service")
            assert (status, body) == (400, b"/prometheus has no upstream=service: it watches each replica\n")

            box = names.sandbox("c", names.APP, names.BACK, translates=(names.APP,))
            await one.publish(with_feeds(one.wanted_feeds, *rows, box))
            status, _, body = await get(container, path)
            servers = json.loads(body)["http"]["services"]["web"]["loadBalancer"]["servers"]
            assert (status, servers) == (200, [{"url": "http://10.200.0.7:9100"}])
            status, _, body = await get(container, "services")
            assert [item["addresses"] for item in json.loads(body)["items"]] == [["10.200.0.7"]]

            async with await connected(container) as stream:
                await stream.send_all(GET.replace("{}", "services?watch=true&upstream=service").encode())
                assert b'"synced"' in await read_until(stream, b'"synced"')
                await one.publish(with_feeds(one.wanted_feeds, *rows))
                with trio.fail_after(15):
                    while await stream.receive_some():
                        pass  # the promise that was made to it holds no more
            nursery.cancel_scope.cancel()

    trio.run(main)


async def read_until(stream: trio.SocketStream, end: bytes) -> bytes:
    data = b""
    with trio.fail_after(15):
        while end not in data:
            part = await stream.receive_some()
            assert part, data
            data += part
    return data


def test_what_is_not_known_wholly_is_never_an_empty_list(run_dir: Path, container: Container) -> None:
    async def main() -> None:
        async with agent(run_dir, stop=True) as one:
            await serve(one, container)
            await until_listening(container)
            status, fields, _ = await get(container, "prometheus")
            assert (status, fields["retry-after"]) == (503, "5")
            await until(lambda: one.wanted_feeds == {names.APP, names.BACK})
            await one.publish(with_feeds(frozenset({names.APP})))
            assert (await get(container, "services"))[0] == 503
            await one.publish(with_feeds(frozenset({names.APP, names.BACK})))
            assert (await get(container, "services"))[0] == 200

    trio.run(main)


def test_feeds_are_answered_while_the_agent_is_away_and_after(run_dir: Path, container: Container) -> None:
    async def main() -> None:
        async with ended(run_dir):
            async with agent(run_dir) as one, trio.open_nursery() as nursery:
                await serve(one, container)
                nursery.start_soon(follow_wanted, one)
                await until_listening(container)
                _, _, known = await get(container, "prometheus")
                nursery.cancel_scope.cancel()
            status, fields, body = await get(container, "prometheus")
            assert (status, body) == (200, known)
            assert int(fields["x-netagent-age"]) < 15
            async with agent(run_dir) as two:
                await until(lambda: two.wanted_feeds)
                status, fields, body = await get(container, "prometheus")
                assert (status, body, fields.get("x-netagent-age")) == (200, known, None)

    trio.run(main)


def test_feeds_are_back_after_the_process_was_killed(run_dir: Path, container: Container) -> None:
    async def main() -> None:
        async with served(run_dir, container) as one:
            _, _, known = await get(container, "prometheus")
            before = process_id_of(one)
            os.kill(before, signal.SIGKILL)
            await until(lambda: one.status()["process_id"] not in (None, before) and one.status()["running"])
            await until_listening(container)
            assert (await get(container, "prometheus"))[::2] == (200, known)

    trio.run(main)


def test_a_container_that_has_the_port_has_no_feeds_until_it_gives_it_up(
    run_dir: Path, container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        def take() -> socket.socket:
            taken = socket.socket()
            taken.bind(("0.0.0.0", 7953))
            taken.listen()
            return taken

        taken = inside(container.netns, take)
        async with agent(run_dir, stop=True) as one:
            await serve(one, container)
            assert await container.ask("web-1.app.mesh.internal") == ["10.160.0.11"]
            assert (await one.statistics())["feed_listeners"] == 0
            taken.close()
            with trio.fail_after(15):
                while (await one.statistics())["feed_listeners"] == 0:
                    await trio.sleep(0.1)

    trio.run(main)


def events_in(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.split(b"\n"):
        if line.startswith(b"{"):
            yield json.loads(line)


def test_a_watched_feed_says_what_changes(run_dir: Path, container: Container) -> None:
    async def main() -> None:
        async with agent(run_dir, stop=True) as one, trio.open_nursery() as nursery:
            await serve(one, container)
            nursery.start_soon(follow_wanted, one)
            await until_listening(container)
            async with await connected(container) as stream:
                await stream.send_all(GET.format("services?watch=true").encode())
                data = b""

                async def read_to(event: str) -> None:
                    nonlocal data
                    with trio.fail_after(15):
                        while event not in [found["event"] for found in events_in(data)]:
                            data += await stream.receive_some()

                await read_to("synced")
                assert [found["event"] for found in events_in(data)] == ["added", "added", "synced"]
                await one.publish(with_feeds(one.wanted_feeds, fed(1, "web-1"), fed(9, "new", service="new")))
                await read_to("removed")
                got = {(found["event"], found.get("item", {}).get("id")) for found in events_in(data)}
                assert {("added", "new.app"), ("changed", "web.app"), ("removed", "db.back")} <= got
                # What is not known wholly is not told as removed.
                await one.publish(with_feeds(frozenset()))
                await one.publish(
                    with_feeds(one.wanted_feeds, fed(1, "web-1"), fed(8, "last", service="last"))
                )
                data = b""
                await read_to("removed")
                assert [(e["event"], e["item"]["id"]) for e in events_in(data)] == [
                    ("added", "last.app"),
                    ("removed", "new.app"),
                ]
            nursery.cancel_scope.cancel()

    trio.run(main)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /traefik HTTP/1.1\r\nHost: a\r\n",
        b"\0" * 100_000,
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 9000,
    ],
)
def test_a_hostile_reader_costs_others_nothing(run_dir: Path, container: Container, sent: bytes) -> None:
    """It opens connections without end and finishes no request. Names are answered meanwhile."""

    async def main() -> None:
        async with served(run_dir, container) as one:

            async def flood() -> None:
                while True:
                    with contextlib.ExitStack() as opened, trio.move_on_after(0.5):
                        with contextlib.suppress(OSError):
                            for _ in range(30):
                                stream = await connected(container)
                                opened.callback(stream.socket.close)
                                with contextlib.suppress(trio.BrokenResourceError):
                                    await stream.send_all(sent)
                        await trio.sleep_forever()

            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(flood)
                worst_s = 0.0
                for _ in range(60):
                    began = trio.current_time()
                    assert await container.ask("web-1.app.mesh.internal") == ["10.160.0.11"]
                    worst_s = max(worst_s, trio.current_time() - began)
                    await trio.sleep(0.02)
                counted = await one.statistics()
                nursery.cancel_scope.cancel()
            assert counted["feed_connections"] <= MAX_OF_SANDBOX
            assert counted.get("feed_internal_errors", 0) == 0
            assert worst_s < 0.5
            with trio.fail_after(15):  # its own connections have ended by then
                while True:
                    with contextlib.suppress(OSError, trio.BrokenResourceError, IndexError):
                        if (await get(container, "services"))[0] == 200:
                            break
                    await trio.sleep(0.1)

    trio.run(main)


def test_requests_one_after_the_other_on_a_connection_get_one_answer(
    run_dir: Path, container: Container
) -> None:
    async def main() -> None:
        async with served(run_dir, container):
            status, fields, body = await get(container, "services", GET.format("services") * 5)
            assert status == 200
            assert len(body) == int(fields["content-length"])
            assert json.loads(body)["schema"] == 1

    trio.run(main)


@pytest.mark.parametrize(
    ("path", "status"), [("nginx", 404), ("", 404), ("traefik?watch=true", 400), ("services?x=1", 400)]
)
def test_what_is_no_feed_is_refused(run_dir: Path, container: Container, path: str, status: int) -> None:
    async def main() -> None:
        async with served(run_dir, container):
            assert (await get(container, path))[0] == status

    trio.run(main)


def test_only_some_connections_of_a_container_may_watch(run_dir: Path, container: Container) -> None:
    async def main() -> None:
        async with served(run_dir, container) as one:
            await get(container, "services")
            streams = []
            for _ in range(MAX_WATCHERS):
                streams.append(stream := await connected(container))
                await stream.send_all(GET.format("services?watch=true").encode())
                assert parsed(await stream.receive_some())[0] == 200
            assert (await get(container, "services?watch=true"))[0] == 503
            assert (await get(container, "services"))[0] == 200
            for stream in streams:
                await stream.aclose()
            with trio.fail_after(10):
                while (await one.statistics())["feed_connections"]:
                    await trio.sleep(0.05)

    trio.run(main)


def test_a_detached_sandbox_has_no_listener_left(run_dir: Path, container: Container) -> None:
    async def main() -> None:
        async with served(run_dir, container) as one:
            async with await connected(container) as stream:
                await one.remove_sandbox(SandboxId("c"))
                with trio.fail_after(5), contextlib.suppress(trio.BrokenResourceError):
                    assert await stream.receive_some() == b""
            with pytest.raises(ConnectionRefusedError):
                await connected(container)
            assert (await one.statistics())["feed_listeners"] == 0

    trio.run(main)
