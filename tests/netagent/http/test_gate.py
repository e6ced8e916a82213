"""The gate by itself, and the whole API by TCP: over TLS, with real tokens."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from fakes.agent_service import FakeService, endpoint_of
from starlette.types import Message, Scope
from trio.testing import trio_test

from netagent.access.grant import Grant
from netagent.access.token_store import TokenStore
from netagent.access.tokens import TokenNetwork, bearer_untrusted
from netagent.control import asgi
from netagent.control.api import ApiAccess, api_routes
from netagent.control.client import Client
from netagent.errors import FailedError, ForbiddenError, InputError, NetagentError, UnauthorizedError
from netagent.http.certificate import server_context
from netagent.http.gate import Gate
from netagent.http.listener import HttpListener
from netagent.interface.cluster import InviteCommand
from netagent.interface.command import Command
from netagent.interface.containers import AttachCommand
from netagent.interface.questions import EndpointsCommand, StatusCommand
from netagent.interface.role import Role
from netagent.interface.tokens import TokenCreateCommand
from netagent.model.author import current_author
from netagent.model.ids import NetworkId

APP = TokenNetwork(NetworkId("a" * 32), "app")


async def passed(
    store: TokenStore,
    path: str,
    *,
    scheme: str = "http",
    server: str = "127.0.0.1",
    client: str = "127.0.0.1",
    **headers: str,
) -> int:
    """Return the status that the gate answers; 0: it lets the request pass."""
    scope: Scope = {
        "type": "http",
        "path": path,
        "scheme": scheme,
        "server": (server, 7958),
        "client": (client, 40000),
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
    }
    statuses = [0]

    async def app(*_: Any) -> None:
        pass

    async def receive() -> Message:
        raise AssertionError("the gate reads no body")

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await Gate(app, store)(scope, receive, send)
    return statuses[-1]


OUTSIDE = {"server": "192.0.2.1", "client": "192.0.2.2"}


@pytest.mark.parametrize(
    ("path", "ends", "headers", "status"),
    [
        ("/healthz", {}, {"host": "evil.example"}, 0),
        ("/healthz/service/web", OUTSIDE, {"host": "lb"}, 0),
        ("/healthzx", OUTSIDE, {}, 403),
        ("/metrics", {}, {"host": "localhost:7958"}, 0),
        ("/metrics", {}, {"host": "127.0.0.1:7958"}, 0),
        ("/metrics", {"server": "::1", "client": "::1"}, {"host": "[::1]:7958"}, 0),
        ("/metrics", {"server": "::ffff:127.0.0.1", "client": "::ffff:127.0.0.1"}, {"host": "localhost"}, 0),
        # DNS rebinding: the browser of this host believes that 127.0.0.1 is evil.example.
        ("/metrics", {}, {"host": "evil.example"}, 403),
        ("/metrics", {}, {"host": "127.0.0.1.evil.example"}, 403),
        ("/metrics", {}, {"host": "localhost.evil.example"}, 403),
        ("/metrics", {}, {"host": "localhost@evil.example"}, 403),
        ("/metrics", {}, {}, 403),
        # Pages of other sites, and of ours: none uses the API.
        ("/v1/networks", {}, {"host": "localhost", "origin": "https://evil.example"}, 403),
        ("/v1/networks", {}, {"host": "localhost", "origin": "null"}, 403),
        ("/v1/networks", {}, {"host": "localhost", "sec_fetch_site": "cross-site"}, 403),
        ("/v1/networks", {}, {"host": "localhost", "sec_fetch_site": "same-site"}, 403),
        ("/v1/networks", {}, {"host": "localhost", "sec_fetch_site": "none"}, 0),
        ("/v1/networks", {**OUTSIDE, "scheme": "https"}, {"host": "h1", "origin": "https://h1"}, 403),
        # route_localnet: a packet from elsewhere to 127.0.0.1.
        ("/metrics", {"client": "192.0.2.2"}, {"host": "localhost"}, 403),
        ("/metrics", OUTSIDE, {"host": "localhost"}, 403),
        ("/v1/status", OUTSIDE, {"host": "h1", "authorization": "Bearer x"}, 403),
        ("/v1/status", {**OUTSIDE, "scheme": "https"}, {"host": "h1"}, 0),  # the API looks for itself
        ("/metrics", {**OUTSIDE, "scheme": "https"}, {"host": "h1"}, 401),
        ("/metrics", {**OUTSIDE, "scheme": "https"}, {"host": "h1", "authorization": "Bearer x"}, 401),
        # The page's files show nothing; what the cluster is does.
        ("/", {**OUTSIDE, "scheme": "https"}, {"host": "h1"}, 0),
        ("/page/services", {**OUTSIDE, "scheme": "https"}, {"host": "h1"}, 0),
        ("/page/static/app.js", {**OUTSIDE, "scheme": "https"}, {"host": "h1"}, 0),
        ("/page/static/app.js", OUTSIDE, {"host": "h1"}, 403),
        ("/page/data/services", {**OUTSIDE, "scheme": "https"}, {"host": "h1"}, 401),
        ("/page/live/services", {**OUTSIDE, "scheme": "https"}, {"host": "h1"}, 401),
        ("/pagex", {**OUTSIDE, "scheme": "https"}, {"host": "h1"}, 401),
    ],
)
@trio_test
async def test_who_passes(
    path: str, ends: dict[str, str], headers: dict[str, str], status: int, tmp_path: Path
) -> None:
    assert await passed(TokenStore(tmp_path / "tokens"), path, **ends, **headers) == status


@trio_test
async def test_what_shows_all_needs_a_token_without_limits(tmp_path: Path) -> None:
    store = TokenStore(tmp_path / "tokens")
    _, whole = await store.create("grafana", Role.READ, None, None, "root")
    _, limited = await store.create("ci", Role.ATTACH, (APP,), None, "root")

    async def status(text: str, **ends: str) -> int:
        return await passed(store, "/metrics", host="h1", authorization=f"Bearer {text}", **OUTSIDE, **ends)

    assert await status(whole, scheme="https") == 0
    assert await status(limited, scheme="https") == 403
    assert await status(whole) == 403  # in clear text not even a valid one


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Served:
    """The API by TCP, as the agent serves it."""

    def __init__(self, folder: Path) -> None:
        self.store = TokenStore(folder / "tokens")
        self.port = free_port()
        self.ca_file = str(folder / "http-ca.crt")
        self.service = FakeService()
        self.authors: list[str] = []
        self.takes_s = 0.0

    def client(self, token: str, scheme: str = "https") -> Client:
        return Client(f"{scheme}://localhost:{self.port}", token=token, ca_file=self.ca_file, timeout_s=30)

    async def ask(self, token: str, ask: Callable[[Client], Any]) -> Any:
        return await trio.to_thread.run_sync(ask, self.client(token))


def limited(grant: Grant, request: Command[Any]) -> Command[Any]:
    if grant.networks is not None and isinstance(request, StatusCommand):
        raise ForbiddenError("beyond the limit")
    return request


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Served]:
    served = Served(folder)

    def grant_of(http: Any) -> Grant:
        return served.store.proven_untrusted(bearer_untrusted(http.headers.get("authorization"))).grant

    def noting(handler: Any) -> Any:
        async def run(request: Any) -> Any:
            author = current_author()
            served.authors.append(f"{author.kind} {author.name}")
            await trio.sleep(served.takes_s)
            return await handler(request)

        return run

    handlers = {command: noting(handler) for command, handler in served.service.handlers().items()}
    access = ApiAccess(grant_of, limited, served.store.ended)
    routes = api_routes(handlers, served.service.wait_changed, access=access)

    def make_tls() -> ssl.SSLContext:
        return server_context(folder, folder, "h1", ["127.0.0.1"], dt.datetime.now(dt.UTC))

    place = f"0.0.0.0:{served.port}"
    listener, shutdown = HttpListener(place, routes, tokens=served.store, make_tls=make_tls), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.run, shutdown)
        with trio.fail_after(30):
            while True:
                try:
                    await (await trio.open_tcp_stream("127.0.0.1", served.port)).aclose()
                    break
                except OSError:
                    await trio.sleep(0.01)
        yield served
        shutdown.set()


@trio_test
async def test_commands_by_tls_and_token(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        _, read = await served.store.create("grafana", Role.READ, None, None, "root")
        _, attach = await served.store.create("ci", Role.ATTACH, (APP,), None, "root")
        _, admin = await served.store.create("boss", Role.ADMIN, None, None, "root")
        attaching = AttachCommand(target="netns:new", network="app")
        assert (await served.ask(read, lambda client: client.send(StatusCommand())))["host"]
        assert (await served.ask(attach, lambda client: client.send(attaching)))["name"]
        assert served.authors == ["token grafana", "token ci"]
        with pytest.raises(NetagentError, match="needs the role attach, and the token grafana gives read"):
            await served.ask(read, lambda client: client.send(attaching))
        with pytest.raises(NetagentError, match="beyond the limit"):
            await served.ask(attach, lambda client: client.send(StatusCommand()))
        with pytest.raises(
            NetagentError, match="works only by the agent's own socket, and not by the token boss"
        ):
            await served.ask(admin, lambda client: client.send(TokenCreateCommand(name="more", read=True)))
        for wrong in ("", "netagent_00000000_" + "0" * 64):
            with pytest.raises(NetagentError) as caught:
                await served.ask(wrong, lambda client: client.send(StatusCommand()))
            assert caught.value.code == UnauthorizedError.code
        assert len(served.authors) == 2  # no handler ran for the others
        await served.store.revoke("grafana")
        with pytest.raises(NetagentError, match="the token is not valid on this host"):
            await served.ask(read, lambda client: client.send(StatusCommand()))


@trio_test
async def test_a_watch_outlives_a_strangers_time_and_ends_with_its_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asgi, "TCP_LIFE_S", 0.5)
    async with serving(tmp_path) as served:
        _, read = await served.store.create("grafana", Role.READ, None, None, "root")
        seen: list[Any] = []

        def read_all() -> None:
            for events in served.client(read).follow(EndpointsCommand(watch=True)):
                seen.extend(events)

        def follow() -> None:
            with pytest.raises(NetagentError, match="has stopped"):
                read_all()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(trio.to_thread.run_sync, follow, abandon_on_cancel=True))
            with trio.fail_after(60):
                while not seen:
                    await trio.sleep(0.01)
                await trio.sleep(2 * asgi.TCP_LIFE_S)
                count = len(seen)
                served.service.rows.append(endpoint_of("web"))
                served.service.change()
                while len(seen) == count:  # still there
                    await trio.sleep(0.01)
                await served.store.revoke("grafana")


@trio_test
async def test_a_change_that_takes_long_is_made_wholly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asgi, "TCP_LIFE_S", 0.5)
    async with serving(tmp_path) as served:
        _, admin = await served.store.create("boss", Role.ADMIN, None, None, "root")
        served.takes_s = 1.5
        attaching = AttachCommand(target="netns:new", network="app")
        assert (await served.ask(admin, lambda client: client.send(attaching)))["name"]
        assert len(served.service.attached) == 1


@trio_test
async def test_a_retry_with_a_key_changes_nothing_again(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        _, admin = await served.store.create("boss", Role.ADMIN, None, None, "root")
        _, other = await served.store.create("other", Role.ADMIN, None, None, "root")
        invite = InviteCommand(uses=2)

        async def ask(token: str, key: str, request: Any) -> Any:
            return await served.ask(token, lambda client: client.send(request, idempotency_key=key))

        first = await ask(admin, "k1", invite)
        count = len(served.authors)
        assert await ask(admin, "k1", invite) == first
        assert len(served.authors) == count
        await ask(other, "k1", invite)
        assert len(served.authors) == count + 1
        with pytest.raises(NetagentError, match="the Idempotency-Key was used for another request"):
            await ask(admin, "k1", InviteCommand(uses=3))
        await served.store.revoke("boss")
        with pytest.raises(NetagentError) as caught:
            await ask(admin, "k1", invite)
        assert caught.value.code == UnauthorizedError.code


@trio_test
async def test_the_client_trusts_only_the_authority_that_it_is_given(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        stranger = tmp_path / "stranger"
        stranger.mkdir()
        server_context(stranger, stranger, "h1", [], dt.datetime.now(dt.UTC))
        for ca_file in (None, str(stranger / "http-ca.crt")):
            client = Client(f"https://localhost:{served.port}", token="secret", ca_file=ca_file, timeout_s=30)
            with pytest.raises(FailedError) as caught:
                await trio.to_thread.run_sync(client.send, StatusCommand())
            assert caught.value.code == "not-trusted"
        client = Client(f"https://127.0.0.2:{served.port}", ca_file=served.ca_file, timeout_s=30)
        with pytest.raises(FailedError, match="cannot trust"):
            await trio.to_thread.run_sync(client.send, StatusCommand())


@trio_test
async def test_clear_text_still_answers_there_and_silence_is_cut(tmp_path: Path) -> None:
    """Load balancers may go on asking in clear text."""
    async with serving(tmp_path) as served:
        async with await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
            await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            with trio.fail_after(30):
                assert b"".join([part async for part in stream]).startswith(b"HTTP/1.1 404")  # no health here
        # A handshake that does not end must not stay.
        async with await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
            await stream.send_all(b"\x16\x03\x01")
            with trio.fail_after(60):
                assert b"".join([part async for part in stream]) == b""


def test_a_token_is_never_sent_in_clear_text() -> None:
    with pytest.raises(InputError, match="a token is never sent in clear text, as to http://h1:7958"):
        Client("http://h1:7958", token="secret")
    for place in ("http://127.0.0.1.evil.example", "http://127.0.0.1evil", "http://1.127.0.0.1"):
        with pytest.raises(InputError):
            Client(place, token="secret")
    for place in ("http://127.0.0.1:7958", "http://localhost", "http://[::1]:7958", "https://h1"):
        Client(place, token="secret")


@pytest.mark.parametrize(
    "agent", ["ftp://h1", "https://", "https://h1/x", "https://h1:70000:1", "https://a@b", "https://h1\r\nX:"]
)
def test_an_address_is_a_host_and_a_port(agent: str) -> None:
    with pytest.raises(InputError, match="names no agent"):
        Client(agent)


@pytest.mark.parametrize("token", ["a\r\nX-Evil: 1", "a b", "é"])
def test_a_token_begins_no_other_header(token: str) -> None:
    with pytest.raises(InputError):
        Client("https://h1", token=token)


def test_an_address_that_changed_needs_no_other_trust(tmp_path: Path) -> None:
    """The authority stays; what it signs is made at each start."""
    now = dt.datetime.now(dt.UTC)
    server_context(tmp_path, tmp_path, "h1", ["192.0.2.1"], now)
    public, own = (tmp_path / "http-ca.crt").read_bytes(), (tmp_path / "http.pem").read_bytes()
    server_context(tmp_path, tmp_path, "h1", ["192.0.2.1", "2001:db8::1"], now)
    assert (tmp_path / "http-ca.crt").read_bytes() == public
    assert (tmp_path / "http.pem").read_bytes() != own
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("http.pem", "http-ca.pem")} == {0o600}
    assert b"PRIVATE" not in public


@pytest.mark.parametrize(
    "content", ["", "nonsense", "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----"]
)
def test_a_damaged_authority_is_not_replaced(tmp_path: Path, content: str) -> None:
    """Clients trust it: who finds it damaged decides."""
    (tmp_path / "http-ca.pem").write_text(content)
    with pytest.raises(FailedError, match="cannot make a certificate"):
        server_context(tmp_path, tmp_path, "h1", [], dt.datetime.now(dt.UTC))
    assert (tmp_path / "http-ca.pem").read_text() == content
