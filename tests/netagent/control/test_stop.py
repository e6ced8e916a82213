"""No client may delay the agent's stop: by real sockets, with clients that neither read nor finish."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from trio.testing import trio_test, wait_all_tasks_blocked

from netagent.control import api, asgi
from netagent.control.api import _body
from netagent.control.streaming import PartsResponse, problem_response
from netagent.errors import NetagentError

PATIENCE_S = 60.0
GRACE_S = 600.0
"""So long that a stop within PATIENCE_S does not come from it."""


@asynccontextmanager
async def serving(
    listener: socket.socket, answer: Callable[[Request], Awaitable[Response]]
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Yield what stops the server and waits for it."""
    app, shutdown, ended = Starlette(), trio.Event(), trio.Event()
    app.router.routes.append(Route("/", answer, methods=["GET", "POST"]))
    app.state.stopping = trio.Event()

    async def serve(*, task_status: trio.TaskStatus[None]) -> None:
        await asgi.serve_on(
            listener, app, shutdown, grace_s=GRACE_S, is_bounded=True, task_status=task_status
        )
        ended.set()

    async def stop() -> None:
        shutdown.set()
        await ended.wait()

    async with trio.open_nursery() as nursery:
        await nursery.start(serve)
        yield stop
        shutdown.set()


def unix(folder: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "s"))
    listener.listen()
    listener.setblocking(False)
    return listener


async def long(_http: Request) -> Response:
    return PartsResponse([b"x" * 65536] * 1000)  # no buffer holds it


async def with_body(http: Request) -> Response:
    try:
        return Response(await _body(http))
    except NetagentError as error:
        return problem_response(error)


async def connected(folder: Path, sent: bytes) -> trio.SocketStream:
    stream = await trio.open_unix_socket(folder / "s")
    await stream.send_all(sent)
    return stream


@trio_test
@pytest.mark.parametrize(
    ("sent", "is_taking"),
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", False, id="reads nothing"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", True, id="reads a little at a time"),
        pytest.param(b"GET / HTTP/1.1\r\nHost:", False, id="does not finish its header"),
    ],
)
async def test_a_client_does_not_delay_a_stop(tmp_path: Path, sent: bytes, is_taking: bool) -> None:
    async with serving(unix(tmp_path), long) as stop:
        client = await connected(tmp_path, sent)
        with trio.move_on_after(PATIENCE_S) as scope:
            async with trio.open_nursery() as nursery:
                await wait_all_tasks_blocked(0.05)
                if is_taking:
                    nursery.start_soon(take_slowly, client)
                await stop()
                nursery.cancel_scope.cancel()
        await client.aclose()  # else a server that waits for it would never end
    assert not scope.cancelled_caught


async def take_slowly(client: trio.SocketStream) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        while await client.receive_some(65536):
            await trio.sleep(0.2)


@trio_test
async def test_a_request_that_is_not_finished_ends_with_the_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "BODY_DEADLINE_S", 600.0)
    async with serving(unix(tmp_path), with_body) as stop:
        client = await connected(tmp_path, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        with trio.move_on_after(PATIENCE_S) as scope:
            await wait_all_tasks_blocked(0.05)
            await stop()
        answer = b"" if scope.cancelled_caught else await client.receive_some()
        await client.aclose()
    assert answer.startswith(b"HTTP/1.1 503")
    assert not scope.cancelled_caught


@trio_test
async def test_a_client_of_tcp_must_take_its_answer_and_one_of_the_host_may_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asgi, "SEND_S", 0.2)
    monkeypatch.setattr(asgi, "TCP_LIFE_S", 600.0)
    tcp = socket.create_server(("127.0.0.1", 0))
    tcp.setblocking(False)
    place = tcp.getsockname()
    async with serving(unix(tmp_path), long), serving(tcp, long):
        resting = await connected(tmp_path, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        client = await trio.open_tcp_stream(*place)
        await client.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        with trio.fail_after(PATIENCE_S):
            await until_closed(place)
            taken = 0
            with contextlib.suppress(trio.BrokenResourceError):
                while data := await client.receive_some():
                    taken += len(data)
            assert taken < 64_000_000
            whole = 0
            while whole < 65_536_000:
                whole += len(await resting.receive_some())
        await client.aclose()
        await resting.aclose()


@trio_test
async def test_the_kernel_asks_whether_a_quiet_client_of_tcp_is_still_there() -> None:
    tcp = socket.create_server(("127.0.0.1", 0))
    tcp.setblocking(False)
    place = tcp.getsockname()
    async with serving(tcp, long):
        with trio.fail_after(PATIENCE_S):
            timers: list[str] = []
            while "02" not in timers:  # the timer of keepalive
                client = await trio.open_tcp_stream(*place)
                await wait_all_tasks_blocked(0.05)
                timers = [line[5].partition(":")[0] for line in await connections(place)]
                await client.aclose()


async def until_closed(place: tuple[str, int]) -> None:
    """Wait until the server's end of the only connection to a place is closed, without reading from it."""
    while await connections(place):
        await trio.sleep(0.05)


async def connections(place: tuple[str, int]) -> list[list[str]]:
    """Return the fields of the established connections' server ends in proc(5)'s table."""
    table = (await trio.Path("/proc/net/tcp").read_text()).splitlines()[1:]
    found = [line.split() for line in table]
    return [one for one in found if one[1].endswith(f":{place[1]:04X}") and one[3] == "01"]
