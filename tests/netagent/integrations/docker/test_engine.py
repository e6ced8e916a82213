"""The client of Docker's API, against a socket that gives prepared answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel
from fakes.virtual import virtual
from trio import SocketStream

from netagent.errors import InputError, NetagentError
from netagent.integrations.docker import engine as module
from netagent.integrations.docker.engine import Engine, EngineError

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def whole(body: bytes, head: bytes = OK) -> bytes:
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def chunked(*chunks: bytes) -> bytes:
    return (
        OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in chunks)
    )


@asynccontextmanager
async def docker(
    tmp_path: Path, *answer: bytes, hang: bool = False
) -> AsyncIterator[tuple[Engine, list[bytes]]]:
    """An Engine whose Docker gives these bytes, in pieces, and then closes, or hangs."""
    asked: list[bytes] = []
    path = tmp_path / "d.sock"
    path.unlink(missing_ok=True)
    listener = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    await listener.bind(str(path))
    listener.listen()

    async def serve(stream: SocketStream) -> None:
        async with stream:
            asked.append(await stream.receive_some(65536))
            for piece in answer:
                await stream.send_all(piece)
                await trio.lowlevel.checkpoint()
            if hang:
                await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [trio.SocketListener(listener)])
        yield Engine(path), asked
        nursery.cancel_scope.cancel()


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Any]:
    """Ask once, on the real clock: sockets are the machine's. Gives the answer and what Docker was asked."""

    async def ask(answer: tuple[bytes, ...], method: str, path: str, call: dict[str, Any]) -> Any:
        async with docker(tmp_path, *answer) as (engine, asked):
            try:
                return await engine.call(method, path, **call), asked[0]
            except NetagentError as error:
                return error, asked

    def once(*answer: bytes, method: str = "GET", path: str = "/networks", **call: dict[str, str]) -> Any:
        value, asked = trio.run(ask, answer, method, path, call)
        if isinstance(value, NetagentError):
            raise value
        return value, asked

    return once


def test_an_answer_may_come_in_pieces(run: Callable[..., Any]) -> None:
    assert run(OK, b"Content-Length: 8\r\n\r\n", b'{"a"', b":12}")[0] == {"a": 12}
    assert run(chunked(b"[1,", b"2]", b""))[0] == [1, 2]
    assert run(b"HTTP/1.1 204 No Content\r\n\r\n", method="DELETE")[0] is None


def test_what_is_asked(run: Callable[..., Any]) -> None:
    _, asked = run(
        whole(b"{}"), path="/networks/create", method="POST", body={"Name": "app"}, query={"a": "b c"}
    )
    head, _, body = asked.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /networks/create?a=b+c HTTP/1.1\r\n")
    assert body == b'{"Name": "app"}'


def test_a_refusal_has_docker_s_words_and_status(run: Callable[..., Any]) -> None:
    with pytest.raises(EngineError, match="Docker says: no such network") as error:
        run(whole(b'{"message":"no such network"}', b"HTTP/1.1 404 Not Found\r\n"))
    assert error.value.status == 404


@pytest.mark.parametrize(
    "answer",
    [b"", b"garbage\r\n\r\n", OK, whole(b"x" * 100)[:-5], b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 9000],
)
def test_a_broken_answer_is_an_error_with_a_sentence(run: Callable[..., Any], answer: bytes) -> None:
    with pytest.raises(EngineError) as error:
        run(answer)
    assert "Docker" in str(error.value)


def test_what_is_not_json_is_an_input_error(run: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match="is not JSON"):
        run(whole(b"<html>"))


def test_an_answer_without_end_is_bounded(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BODY_BYTES", 100)
    with pytest.raises(EngineError, match="longer than 100 bytes"):
        run(whole(b"x" * 101))


def test_no_docker_is_an_error_that_names_the_socket(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"missing\.sock"):
        trio.run(Engine(tmp_path / "missing.sock").get, "/networks")


@pytest.mark.parametrize("begun", [(), (OK + b"Content-Length: 8\r\n\r\n{",)])
@virtual
async def test_a_docker_that_hangs_is_given_up(tmp_path: Path, begun: tuple[bytes, ...]) -> None:
    before = trio.current_time()
    async with docker(tmp_path, *begun, hang=True) as (engine, _):
        with pytest.raises(EngineError, match="within 10 s"):
            await engine.get("/networks")
    assert trio.current_time() - before >= module.DEADLINE_S


@virtual
async def test_docker_is_asked_a_bounded_number_of_things_at_once(tmp_path: Path) -> None:
    async with docker(tmp_path, hang=True) as (engine, asked), trio.open_nursery() as nursery:
        for _ in range(module.MAX_REQUESTS + 10):
            nursery.start_soon(engine.get, "/networks")
        await trio.sleep(module.DEADLINE_S / 2)
        assert len(asked) == module.MAX_REQUESTS
        nursery.cancel_scope.cancel()


@pytest.fixture
def follow_events(tmp_path: Path) -> Callable[..., Any]:
    """All events until Docker ends them, and the error that did; and what Docker was asked."""

    async def read(
        pieces: bytes,
    ) -> tuple[list[Any], EngineError, bytes] | tuple[list[dict[str, str]], EngineError, bytes]:
        found = []
        async with docker(tmp_path, pieces) as (engine, asked):
            try:
                async with engine.events({"type": ["container"]}) as events:
                    while True:
                        found += await events.read()
            except EngineError as error:
                return found, error, asked[0]

    return lambda pieces: trio.run(read, pieces)


def test_events_come_one_a_line_however_they_are_cut(follow_events: Callable[..., Any]) -> None:
    pieces = chunked(b'{"Action":"a"}\n{"Act', b'ion":"b"}\n', b"no json\n[]\n", b'{"Action":"c"}\n')
    found, _, asked = follow_events(pieces)
    assert [event["Action"] for event in found] == ["a", "b", "c"]
    assert b"/events?filters=%7B%22type%22" in asked


def test_an_event_without_end_is_bounded(
    follow_events: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_EVENT_BYTES", 100)
    assert "longer than 100 bytes" in str(follow_events(chunked(b"x" * 101))[1])


def test_events_that_are_refused(follow_events: Callable[..., Any]) -> None:
    assert "status 500" in str(follow_events(whole(b"{}", b"HTTP/1.1 500 Oops\r\n"))[1])


class Commands:
    """A Docker that runs the command of one check, and says of it what a test sets."""

    def __init__(self) -> None:
        self.output = b""
        self.is_endless = False
        self.states: list[dict[str, Any]] = []
        """What is said of the command, in turn; the last one stays."""
        self.begun = 0

    async def serve(self, stream: SocketStream) -> None:
        async with stream:
            asked = await stream.receive_some(65536)
            if b"/containers/" in asked:
                await stream.send_all(whole(b'{"Id": "e1"}'))
            elif b"/start" in asked:
                self.begun += 1
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(OK + b"\r\n" + self.output)
                    while self.is_endless:
                        await stream.send_all(bytes(65536))
            else:
                state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
                await stream.send_all(whole(json.dumps(state).encode()))


def commanded(test: Callable[[Commands, Engine], Any]) -> Callable[[Path], None]:
    """Run a test on the real clock with such a Docker."""

    async def run(path: Path) -> None:
        listener = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
        await listener.bind(str(path))
        listener.listen()
        commands = Commands()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, commands.serve, [trio.SocketListener(listener)])
            await test(commands, Engine(path))
            nursery.cancel_scope.cancel()

    def in_folder(tmp_path: Path) -> None:
        trio.run(run, tmp_path / "d.sock")

    return in_folder


RUNS: dict[str, Any] = {"Running": True, "ExitCode": None, "Pid": 0}
ENDED: dict[str, Any] = {"Running": False, "ExitCode": 3, "Pid": 0}


@commanded
async def test_a_command_that_closes_its_output_and_runs_on_is_waited_for(
    commands: Commands, engine: Engine
) -> None:
    commands.states = [RUNS, RUNS, {"Running": False, "ExitCode": None}, ENDED]
    commands.output = b"\x01\0\0\0\0\0\0\x04here"
    assert await engine.execute("web", ("/bin/ready",)) == (3, b"here")


@commanded
async def test_a_command_that_writes_without_end_is_given_up(commands: Commands, engine: Engine) -> None:
    commands.states, commands.is_endless = [ENDED], True
    done = await engine.execute("web", ("/bin/ready",))
    assert done is not None
    assert done[0] == module.TOO_MUCH


@commanded
async def test_no_second_command_is_begun_while_the_first_one_runs(
    commands: Commands, engine: Engine
) -> None:
    commands.states = [RUNS]
    with trio.move_on_after(0.2):
        await engine.execute("web", ("/bin/ready",))
    assert await engine.execute("web", ("/bin/ready",)) is None
    assert commands.begun == 1
    commands.states = [ENDED]
    assert await engine.execute("web", ("/bin/ready",)) == (3, b"")
    assert commands.begun == 2
