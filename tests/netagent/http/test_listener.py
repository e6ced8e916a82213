"""The listener by real sockets on loopback."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from starlette.responses import JSONResponse
from starlette.routing import Route
from trio.testing import trio_test

from netagent.access.token_store import TokenStore
from netagent.control import asgi
from netagent.control.asgi import MAX_PER_PEER, peer_of
from netagent.errors import FailedError
from netagent.http import health_routes
from netagent.http.listener import HttpListener
from netagent.model.ids import HostId
from netagent.registry.view import RegistryView


def free_place(host: str = "127.0.0.1") -> str:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        port = probe.getsockname()[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def connected(place: str) -> trio.SocketStream:
    host, _, port = place.rpartition(":")
    with trio.fail_after(10):
        while True:
            try:
                return await trio.open_tcp_stream(host.strip("[]"), int(port))
            except OSError:
                await trio.sleep(0.01)


async def ask(place: str, path: str) -> tuple[int, dict[str, object]]:
    async with await connected(place) as stream:
        await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        whole = b"".join([part async for part in stream])
    head, _, body = whole.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body) if body.startswith(b"{") else {}


def no_tls() -> ssl.SSLContext:
    raise FailedError("cannot make a certificate: the disk is full")


@asynccontextmanager
async def serving(
    place: str, view: RegistryView | None, store: TokenStore | None = None
) -> AsyncIterator[HttpListener]:
    other = [Route("/other", lambda _request: JSONResponse({"from": "another folder"}))]
    health, shutdown = health_routes.routes(lambda: view), trio.Event()
    tokens = store or TokenStore(Path("/nonexistent/tokens"))
    listener = HttpListener(place, health, other, tokens=tokens, make_tls=no_tls)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.run, shutdown)
        yield listener
        shutdown.set()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@trio_test
async def test_it_answers_over_both_families(host: str) -> None:
    place = free_place(host)
    async with serving(place, RegistryView(HostId("0" * 32))):
        assert await ask(place, "/healthz") == (200, {"schema": 1, "status": "up"})
        status, body = await ask(place, "/healthz/service/web")
        assert (status, body["status"]) == (404, "unknown")
        assert await ask(place, "/other") == (200, {"from": "another folder"})
        assert (await ask(place, "/v1/status"))[0] == 404


@trio_test
async def test_a_host_in_no_cluster_is_down() -> None:
    place = free_place()
    async with serving(place, None):
        assert (await ask(place, "/healthz"))[0] == 503
        assert (await ask(place, "/healthz/service/web"))[0] == 503


@trio_test
async def test_an_address_that_is_taken_is_reported_and_tried_again() -> None:
    place = free_place()
    host, _, port = place.rpartition(":")
    taken = socket.create_server((host, int(port)))
    async with serving(place, None) as listener:
        with trio.fail_after(10):
            while listener.trouble is None:
                await trio.sleep(0.01)
        assert listener.trouble == "Address already in use"
        taken.close()
        assert (await ask(place, "/healthz"))[0] == 503
        assert listener.trouble is None


@trio_test
async def test_without_a_certificate_nothing_is_served_beyond_the_host() -> None:
    place = free_place().replace("127.0.0.1", "0.0.0.0")
    async with serving(place, None) as listener:
        with trio.fail_after(30):
            while listener.trouble is None:
                await trio.sleep(0.01)
        assert listener.trouble == "cannot make a certificate: the disk is full"
        with pytest.raises(OSError, match="all attempts to connect"):
            await trio.open_tcp_stream("127.0.0.1", int(place.rpartition(":")[2]))


@trio_test
async def test_connections_are_bounded_and_the_next_is_served_when_one_ends() -> None:
    place = free_place()
    async with serving(place, None):
        idle = [await connected(place) for _ in range(MAX_PER_PEER)]
        with trio.fail_after(10):
            async with await connected(place) as one_more:
                with contextlib.suppress(trio.BrokenResourceError):  # reset: it is closed all the same
                    assert await one_more.receive_some() == b""
        for one in idle:
            await one.aclose()
        with trio.fail_after(10):
            while True:
                try:
                    assert (await ask(place, "/healthz"))[0] == 503
                    break
                except (IndexError, trio.BrokenResourceError):  # a place is not free yet
                    await trio.sleep(0.01)


@trio_test
async def test_a_connection_that_its_client_has_closed_counts_no_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not only when its idle time is over: a browser opens some in advance, and asks nothing on them."""
    monkeypatch.setattr(asgi, "IDLE_S", 3600)
    monkeypatch.setattr(asgi, "TCP_LIFE_S", 3600)
    place = free_place()
    async with serving(place, None):
        for _ in range(2 * MAX_PER_PEER):
            async with await connected(place):
                pass
        with trio.fail_after(30):
            while True:
                try:
                    assert (await ask(place, "/healthz"))[0] == 503
                    break
                except (IndexError, trio.BrokenResourceError):  # some are being closed
                    await trio.sleep(0.01)


def test_a_host_counts_as_one_peer_whichever_of_its_addresses_it_takes() -> None:
    assert peer_of("2001:db8::1") == peer_of("2001:db8::ffff:1") != peer_of("2001:db8:0:1::1")
    assert peer_of("fe80::1%eth0") == "fe80::/64"
    assert peer_of("192.0.2.1") == peer_of("::ffff:192.0.2.1") == "192.0.2.1"


def _frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One of HTTP/2 (RFC 9113 section 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big") + payload


def _head(fields: Mapping[bytes, bytes], *, is_last: bool = True) -> bytes:
    """A HEADERS frame, each field a literal (RFC 7541 section 6.2.2)."""
    block = b"".join(
        b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in fields.items()
    )
    return _frame(1, 5 if is_last else 4, 1, block)


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0)
FIELDS = {b":method": b"GET", b":path": b"/healthz", b":scheme": b"http", b":authority": b"localhost"}
UPGRADE = (
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(PREFACE + _head(FIELDS), id="http-2"),
        pytest.param(PREFACE + _head(FIELDS | {b":path": b"/\xff"}), id="path"),
        pytest.param(PREFACE + _head(FIELDS | {b":method": b"\xff"}), id="method"),
        pytest.param(PREFACE + _head({b":method": b"CONNECT", b":authority": b"localhost"}), id="connect"),
        pytest.param(
            PREFACE + b"".join(_frame(2, 0, 2 * i + 1, b"\0\0\0\0\1") for i in range(1200)), id="priorities"
        ),
        pytest.param(
            PREFACE + _head(FIELDS | {b":method": b"POST"}, is_last=False) + _frame(0, 0, 1, bytes(10)) * 2,
            id="data",
        ),
        pytest.param(
            b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\n"
            b"Upgrade: h2c\r\nHTTP2-Settings: !!!\r\n\r\n",
            id="h2c",
        ),
        pytest.param(UPGRADE + b"\x81\xff" * 50, id="websocket"),
        pytest.param(b"\x00\x01\r\n\r\n", id="no-request"),
    ],
)
@trio_test
async def test_what_a_stranger_sends_ends_his_connection_alone(octets: bytes) -> None:
    place = free_place()
    async with serving(place, RegistryView(HostId("0" * 32))):
        with trio.fail_after(60):
            for _ in range(3):
                async with await connected(place) as stream:
                    with contextlib.suppress(trio.BrokenResourceError):
                        await stream.send_all(octets)
                        while await stream.receive_some():
                            pass
            assert (await ask(place, "/healthz"))[0] == 200
