"""The page's routes, by real sockets on loopback."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from fakes.agent_service import doctor_of
from fakes.registry import H1, H2, N1, Writer, endpoint, host, network
from trio.testing import trio_test

from netagent.access.token_store import TokenStore
from netagent.access.tokens import TokenNetwork
from netagent.control.api import Handlers
from netagent.control.present import Presenter, ProbeView
from netagent.errors import FailedError
from netagent.http.listener import HttpListener
from netagent.interface.cluster import MembersCommand
from netagent.interface.questions import DoctorCommand, FlowsCommand
from netagent.interface.role import Role
from netagent.model.records import Health
from netagent.page.access_key import AccessKeys
from netagent.page.contents import PageSource
from netagent.page.site import MAX_STREAMS_EACH, Site, page_address
from netagent.registry.state_store import StateStore
from netagent.registry.view import RegistryView

KEYS = AccessKeys(b"s" * 32)


def no_tls() -> ssl.SSLContext:
    raise FailedError("only listeners beyond loopback need a certificate")


class World:
    """A site over a registry."""

    def __init__(self, tokens: Path = Path("/nonexistent/tokens")) -> None:
        self.writers = {H1: Writer(H1), H2: Writer(H2)}
        self.live = StateStore(RegistryView(H1), {})
        self.put(H1, host("h1"))
        self.put(H2, host("h2"))
        self.put(H1, network(N1, "app"))
        for number in range(1, 6):
            self.put(H1 if number % 2 else H2, endpoint(number, offset=number + 1))
        self.doctor_runs = 0
        handlers = {MembersCommand: self.members, FlowsCommand: self.flows, DoctorCommand: self.doctor}
        source = PageSource(cast("Handlers", handlers), self.presenter, lambda: "mesh", self.paths)
        self.tokens = TokenStore(tokens)
        self.site = Site(source, self.live.wait_newer, lambda: KEYS, self.tokens)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.key, _ = KEYS.issue(int(time.time()))

    def put(self, owner: Any, record: Any) -> None:
        self.live.update_view(lambda view: view.with_entries(self.writers[owner].put(record)))

    async def presenter(self) -> Presenter:
        return Presenter(self.live.view, "mesh.internal")

    async def members(self, _request: MembersCommand) -> Any:
        present = await self.presenter()
        return {"items": [present.member(one, ProbeView()) for one in self.live.view.hosts.values()]}

    async def paths(self, hosts: Any) -> Any:
        """Know no path."""
        return {}

    async def flows(self, _request: FlowsCommand) -> Any:
        return {"items": []}

    async def doctor(self, _request: DoctorCommand) -> Any:
        self.doctor_runs += 1
        return doctor_of(failed=True)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        place = f"127.0.0.1:{self.port}"
        listener = HttpListener(place, self.site.routes, tokens=self.tokens, make_tls=no_tls)
        shutdown = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener.run, shutdown)
            yield
            shutdown.set()

    async def open(self, path: str, headers: Mapping[str, str], *, method: str = "GET") -> trio.SocketStream:
        with trio.fail_after(30):
            while True:
                try:
                    stream = await trio.open_tcp_stream("127.0.0.1", self.port)
                    break
                except OSError:
                    await trio.sleep(0.01)
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        await stream.send_all(("\r\n".join(lines) + "\r\n\r\n").encode())
        return stream

    async def ask(
        self, path: str, *, key: str | None = None, method: str = "GET", **headers: str
    ) -> tuple[int, Mapping[str, str], bytes]:
        sent = {"Host": f"127.0.0.1:{self.port}", "Connection": "close", **headers}
        if key is not None:
            sent["Authorization"] = f"Bearer {key}"
        async with await self.open(path, sent, method=method) as stream:
            whole = b"".join([part async for part in stream])
        head, _, body = whole.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        found = {line.partition(": ")[0].lower(): line.partition(": ")[2] for line in lines}
        return int(first.split()[1]), found, body


@trio_test
async def test_files_are_answered_without_a_key_and_bind_the_browser() -> None:
    world = World()
    async with world.serving():
        for path in ("/page/", "/page/services", "/page/hosts/0a", "/page/static/app.js"):
            status, headers, body = await world.ask(path)
            assert status == 200, path
            assert headers["content-security-policy"].startswith("default-src 'none'")
            assert body
        status, headers, _ = await world.ask("/page/static/style.css")
        again, _, body = await world.ask("/page/static/style.css", **{"If-None-Match": headers["etag"]})
        assert (again, body) == (304, b"")
        assert (await world.ask("/"))[:1] == (307,)


@pytest.mark.parametrize(
    "path", ["/page/static/../site.py", "/page/static/%2e%2e/site.py", "/page/static//etc/passwd"]
)
@trio_test
async def test_only_the_pages_own_files_are_answered(path: str) -> None:
    world = World()
    async with world.serving():
        assert (await world.ask(path))[0] == 404


@trio_test
async def test_what_the_cluster_is_needs_a_key() -> None:
    world = World()
    async with world.serving():
        for path in ("/page/data/services", "/page/live/services", "/page/data/nothing"):
            status, headers, body = await world.ask(path)
            assert (status, headers["content-type"]) == (401, "application/problem+json")
            assert "netagent dashboard" in json.loads(body)["hint"]
        assert (await world.ask("/page/data/services", key="1-" + "0" * 32))[0] == 401
        assert (await world.ask("/page/data/services", key=world.key))[0] == 200
        assert (await world.ask("/page/data/nothing", key=world.key))[0] == 404


@trio_test
async def test_other_sites_are_refused_even_with_a_key() -> None:
    world = World()
    async with world.serving():
        for headers in (
            {"Host": "evil.example"},
            {"Origin": "http://evil.example"},
            {"Sec-Fetch-Site": "cross-site"},
        ):
            status, _, body = await world.ask("/page/data/services", key=world.key, **headers)
            assert status == 403
            assert b"web" not in body


@trio_test
async def test_the_page_changes_nothing() -> None:
    world = World()
    async with world.serving():
        for method in ("POST", "PUT", "DELETE"):
            async with await world.open(
                "/page/data/services", {"Host": "127.0.0.1", "Connection": "close"}
            ) as stream:
                await stream.aclose()
            async with await trio.open_tcp_stream("127.0.0.1", world.port) as stream:
                request = f"{method} /page/data/services HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
                await stream.send_all((request + f"Authorization: Bearer {world.key}\r\n\r\n").encode())
                whole = b"".join([part async for part in stream])
            assert whole.split()[1] == b"405"


@trio_test
async def test_the_doctor_runs_from_the_page_for_its_own_readers_and_not_at_every_press() -> None:
    world = World()
    path = "/page/run/doctor"
    async with world.serving():
        assert (await world.ask(path, method="POST"))[0] == 401
        for elsewhere in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
            assert (await world.ask(path, key=world.key, method="POST", **elsewhere))[0] == 403
        assert (await world.ask(path, key=world.key, method="DELETE"))[0] == 405
        assert world.doctor_runs == 0
        for _ in range(3):
            status, _, body = await world.ask(path, key=world.key, method="POST")
            (finding,) = json.loads(body)["head"]["findings"]
            assert (status, finding["check"], finding["severity"]) == (200, "neighbours", "failed")
            assert json.loads(body)["head"]["left_out"] == 7
        _, _, body = await world.ask("/page/data/doctor", key=world.key)
        assert json.loads(body)["head"]["findings"] == [finding]
        assert world.doctor_runs == 1


@trio_test
async def test_a_table_is_filtered_ordered_and_cut() -> None:
    world = World()
    async with world.serving():
        _, _, body = await world.ask("/page/data/endpoints?host=h1&sort=-name&limit=2", key=world.key)
        found = json.loads(body)
        assert [found["set"][one]["name"] for one in found["order"]] == ["web5", "web3"]
        assert (found["head"]["matching"], found["head"]["total"]) == (3, 5)
        _, _, body = await world.ask("/page/data/services", key=world.key)
        (row,) = json.loads(body)["set"].values()
        assert (row["id"], row["answering"], row["total"], row["host_count"]) == ("web.app", 5, 5, 2)
        for wrong in ("sort=colour", "offset=x", "q=" + "x" * 999):
            assert (await world.ask(f"/page/data/endpoints?{wrong}", key=world.key))[0] in {200, 400}
        assert (await world.ask("/page/data/endpoints?sort=colour", key=world.key))[0] == 400


class Events:
    """The events of a stream. Its parts are sent in chunks, whose lengths stand on lines of their own."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._text = b""

    async def next(self) -> dict[str, Any]:
        while True:
            event, end, rest = self._text.partition(b"\n\n")
            if not end:
                part = await self._stream.receive_some()
                assert part, "the stream has ended"
                self._text += part
                continue
            self._text = rest
            for line in event.split(b"\r\n"):
                if line.startswith(b"data: "):
                    return cast("dict[str, Any]", json.loads(line.removeprefix(b"data: ")))


@trio_test
async def test_a_stream_follows_a_change() -> None:
    world = World()
    async with world.serving():
        headers = {"Host": "localhost", "Authorization": f"Bearer {world.key}"}
        stream = await world.open("/page/live/services", headers)
        async with stream:
            with trio.fail_after(30):
                following = Events(stream)
                first = await following.next()
                ((row_id, row),) = first["set"].items()
                assert row["state"] == "up"
                world.put(H2, endpoint(2, offset=3, health=Health.UNHEALTHY))
                news = await following.next()
        assert news["set"][row_id]["state"] == "partial"
        assert "order" not in news


@trio_test
async def test_streams_of_one_reader_are_bounded_and_leave_others_theirs(tmp_path: Path) -> None:
    world = World(tmp_path / "tokens")
    _, token = await world.tokens.create("anna", Role.READ, None, None, "root")
    async with world.serving():
        headers = {"Host": "localhost", "Authorization": f"Bearer {token}"}
        streams = []
        for _ in range(MAX_STREAMS_EACH):
            stream = await world.open("/page/live/map", headers)
            with trio.fail_after(30):
                await Events(stream).next()
            streams.append(stream)
        status, _, body = await world.ask("/page/live/map", key=token)
        assert (status, json.loads(body)["code"]) == (409, "too-many-watchers")
        async with await world.open(
            "/page/live/map", {"Host": "localhost", "Authorization": f"Bearer {world.key}"}
        ) as other:
            with trio.fail_after(30):
                await Events(other).next()
        for stream in streams:
            await stream.aclose()
        with trio.fail_after(30):
            while True:
                stream = await world.open("/page/live/map", headers)
                async with stream:
                    if b" 200 " in await stream.receive_some(64):
                        break
                await trio.sleep(0.01)


@pytest.mark.parametrize(
    ("place", "address"),
    [
        ("127.0.0.1:7958", "http://127.0.0.1:7958/page/"),
        ("[::1]:80", "http://[::1]:80/page/"),
        ("0.0.0.0:7958", "http://127.0.0.1:7958/page/"),
        ("[::]:7958", "http://[::1]:7958/page/"),
        ("192.0.2.1:7958", "https://192.0.2.1:7958/page/"),
    ],
)
def test_the_address_of_the_page_is_on_loopback_if_it_is_served_there(place: str, address: str) -> None:
    assert page_address(place) == address


@trio_test
async def test_a_token_opens_it_as_well_until_it_is_revoked(tmp_path: Path) -> None:
    world = World(tmp_path / "tokens")
    _, text = await world.tokens.create("anna", Role.READ, None, None, "root")
    _, limited = await world.tokens.create("ci", Role.READ, (TokenNetwork(N1, "app"),), None, "root")
    async with world.serving():
        assert (await world.ask("/page/data/services", key=limited))[0] == 403
        async with await world.open(
            "/page/live/services", {"Host": "localhost", "Authorization": f"Bearer {text}"}
        ) as stream:
            with trio.fail_after(30):
                await Events(stream).next()
                await world.tokens.revoke("anna")
                while await stream.receive_some():
                    pass
        assert (await world.ask("/page/data/services", key=text))[0] == 401
