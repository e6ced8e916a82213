"""The executable as a process of its own, against the route that it calls and against servers that misbehave."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette

from netagent.control.server import serve
from netagent.errors import InputError
from netagent.integrations import shim, shim_call
from netagent.integrations.cni.answer import versions
from netagent.integrations.cni.protocol import SUPPORTED
from netagent.integrations.shim_call import Answer, Call, parse_call_untrusted, shim_route
from netagent.model.author import Author, AuthorKind, current_author

SHIM = Path(shim.__file__)
RUN = [sys.executable, "-SEI", str(SHIM)]


async def run(
    path: Path, *arguments: str, stdin: bytes = b"", cni: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """Exit status and output of one run."""
    environment = {"NETAGENT_SOCKET": str(path), "SECRET": "stays here", **(cni or {})}
    done = await trio.run_process(
        [*RUN, *arguments],
        stdin=stdin,
        env=environment,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    assert done.stderr == b""
    return done.returncode, done.stdout


class Runtimes:
    """Both handlers: what they were called with, and what they do."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Call]] = []
        self.authors: list[Author] = []
        self.answer = Answer(b'{"answer":1}\n')
        self.error: Exception | None = None

    async def cni(self, call: Call) -> Answer:
        return self._said("cni", call)

    async def netavark(self, call: Call) -> Answer:
        return self._said("netavark", call)

    def _said(self, kind: str, call: Call) -> Answer:
        self.calls.append((kind, call))
        self.authors.append(current_author())
        if self.error is not None:
            raise self.error
        return self.answer


@asynccontextmanager
async def serving(path: Path, runtimes: Runtimes, *, podman: bool = True) -> AsyncIterator[None]:
    app = Starlette(routes=[shim_route(runtimes.cni, runtimes.netavark if podman else None)])
    app.state.stopping = trio.Event()
    shutdown = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, app, path, "no-such-group", shutdown)
        yield
        shutdown.set()


@asynccontextmanager
async def saying(path: Path, *pieces: bytes, goes_on: bool = False) -> AsyncIterator[None]:
    """A server that reads one request and says just that; `goes_on`: and has more to do before it closes."""
    listener = trio.socket.socket(socket.AF_UNIX)
    await listener.bind(str(path))
    listener.listen()

    async def serve_one() -> None:
        stream = trio.SocketStream((await listener.accept())[0])
        async with stream:
            await stream.receive_some()
            for piece in filter(None, pieces):
                await stream.send_all(piece)
                await trio.sleep(0.02)
            if goes_on:
                await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_one)
        yield
        if goes_on:
            nursery.cancel_scope.cancel()
    listener.close()


def test_everything_is_passed_on_and_the_answer_comes_back(tmp_path: Path) -> None:
    runtimes = Runtimes()
    stdin = b'{"bytes": "\0\0\xff"}' * 20_000
    runtimes.answer = Answer(b"x" * 200_000, exit_status=3)

    async def main() -> None:
        async with serving(tmp_path / "s", runtimes):
            variables = {"CNI_COMMAND": "ADD", "CNI_ARGS": "A=1;B=ü", "CNI_NETNS": ""}
            assert await run(tmp_path / "s", "a", "b c", stdin=stdin, cni=variables) == (3, b"x" * 200_000)
            assert runtimes.calls == [("cni", Call((str(SHIM), "a", "b c"), variables, stdin))]
            await run(tmp_path / "s", "setup", "/run/netns/x", stdin=b"{}")
            assert runtimes.calls[1:] == [("netavark", Call((str(SHIM), "setup", "/run/netns/x"), {}, b"{}"))]
            kinds = {author.kind for author in runtimes.authors}
            assert (kinds, [str(author) for author in runtimes.authors]) == (
                {AuthorKind.RUNTIME},
                ["cni", "podman"],
            )

    trio.run(main)


def test_netavark_is_told_when_podman_is_not_enabled(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path / "s", Runtimes(), podman=False):
            status, output = await run(tmp_path / "s", "setup", "/run/netns/x", stdin=b"{}")
            assert status == 1
            assert "podman.enabled = true" in json.loads(output)["error"]

    trio.run(main)


def test_a_handler_that_fails_or_hangs_gives_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runtimes = Runtimes()

    async def hang(_call: Call) -> Answer:
        await trio.sleep_forever()
        raise AssertionError

    async def main() -> None:
        async with serving(tmp_path / "s", runtimes):
            runtimes.error = RuntimeError("boom")
            status, output = await run(tmp_path / "s", cni={"CNI_COMMAND": "ADD"})
            assert (status, json.loads(output)["code"]) == (1, 11)
            assert "failed unexpectedly (RuntimeError)" in json.loads(output)["msg"]
            assert "boom" in caplog.text
        monkeypatch.setattr(shim_call, "ANSWER_S", 0.05)
        monkeypatch.setattr(runtimes, "netavark", hang)
        async with serving(tmp_path / "s", runtimes):
            status, output = await run(tmp_path / "s", "setup", "/run/netns/x")
            assert status == 1
            assert "was undone; try again" in json.loads(output)["error"]

    trio.run(main)


@pytest.mark.parametrize(("command", "code"), [("ADD", 11), ("DEL", 11), ("STATUS", 50)])
def test_without_an_agent_cni_is_told_to_try_again(tmp_path: Path, command: str, code: int) -> None:
    async def main() -> None:
        status, output = await run(tmp_path / 'no"ne', stdin=b"{}", cni={"CNI_COMMAND": command})
        error = json.loads(output)
        assert (status, error["code"], error["cniVersion"]) == (1, code, "1.0.0")
        assert "no agent runs on this host" in error["msg"]

    trio.run(main)


def test_without_an_agent_cni_learns_the_versions_all_the_same(tmp_path: Path) -> None:
    async def main() -> None:
        status, output = await run(tmp_path / "none", stdin=b"{}", cni={"CNI_COMMAND": "VERSION"})
        assert (status, json.loads(output)) == (0, json.loads(versions(SUPPORTED[-1]).output))

    trio.run(main)


def test_without_an_agent_netavark_gets_its_own_form(tmp_path: Path) -> None:
    (tmp_path / "left").touch()
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / "dead"))
    dead.close()

    async def main() -> None:
        for name in ("none", "dead", "left"):
            status, output = await run(tmp_path / name, "create", stdin=b"{}")
            assert status == 1
            assert "no agent runs on this host" in json.loads(output)["error"]

    trio.run(main)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "closed the connection too early"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\nx-exit-status: 0\r\n\r\n{",
            "closed the connection too early",
        ),
        (b"SSH-2.0-OpenSSH\r\n", "closed the connection too early"),
        (
            b"HTTP/1.1 404 \r\ncontent-length: 2\r\ncontent-type: application/json\r\n\r\n{}",
            "another version",
        ),
        (b"HTTP/1.1 400 \r\ncontent-length: 3\r\ncontent-type: text/plain\r\n\r\nno\n", "no"),
    ],
)
def test_a_broken_answer_is_no_success(tmp_path: Path, answer: bytes, words: str) -> None:
    async def main() -> None:
        async with saying(tmp_path / "s", answer):
            status, output = await run(tmp_path / "s", cni={"CNI_COMMAND": "ADD"})
            assert status == 1
            assert words in json.loads(output)["msg"]

    trio.run(main)


@pytest.mark.parametrize(
    "pieces",
    [
        (b"HTTP/1.1 200 \r\nx-exit-status: 0\r\ncontent-length: 0\r\n\r\n",),
        (b"HTTP/1.1 200 \r\ncontent-length: 0", b"\r\nx-exit-status: 0\r\n\r\n"),
        (b"HTTP/1.1 200 \r\nx-exit-status: 0\r\ncontent-length: 11\r\n\r\n", b"nothing", b" new"),
    ],
)
def test_a_whole_answer_is_not_made_to_wait_for_the_end_of_the_connection(
    tmp_path: Path, pieces: tuple[bytes, ...]
) -> None:
    async def main() -> None:
        async with saying(tmp_path / "s", *pieces, goes_on=True):
            with trio.fail_after(10):
                status, output = await run(tmp_path / "s", cni={"CNI_COMMAND": "DEL"})
            assert (status, output) == (0, b"".join(pieces).partition(b"\r\n\r\n")[2])

    trio.run(main)


def test_input_without_end_or_without_bound_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        status, output = await run(tmp_path / "s", stdin=b"x" * 2_000_000, cni={"CNI_COMMAND": "ADD"})
        assert (status, json.loads(output)["code"]) == (1, 6)

    trio.run(main)
    hurried = SHIM.read_text().replace("DEADLINE_S = 20", "DEADLINE_S = 1")
    (tmp_path / "hurried").write_text(hurried)
    reading, writing = os.pipe()
    try:
        done = subprocess.run(
            [*RUN[:-1], str(tmp_path / "hurried")],
            stdin=reading,
            env={"CNI_COMMAND": "ADD"},
            capture_output=True,
            check=False,
        )
    finally:
        os.close(reading)
        os.close(writing)
    assert done.returncode == 1
    assert "did not end within 1 s" in json.loads(done.stdout)["msg"]


def test_rootless_podman_is_refused_with_the_reason(tmp_path: Path) -> None:
    """In a user namespace, as Podman makes one for an ordinary user."""
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", *RUN, "setup", "/run/netns/x"],
        env={"PATH": os.environ["PATH"], "NETAGENT_SOCKET": str(tmp_path / "none")},
        input=b"{}",
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "rootful Podman" in json.loads(done.stdout)["error"]


def test_it_imports_nothing_that_takes_time() -> None:
    source = SHIM.read_text()
    assert source.startswith("#!/usr/bin/python3 -SEI\n")
    assert os.access(SHIM, os.X_OK)
    done = subprocess.run(
        [sys.executable, "-SEI", "-X", "importtime", str(SHIM)],
        env={"CNI_COMMAND": "VERSION", "NETAGENT_SOCKET": "/nowhere"},
        input=b"",
        capture_output=True,
        check=False,
    )
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.decode().splitlines()}
    assert loaded.isdisjoint({"socket", "json", "typing", "signal", "re", "pathlib", "site", "subprocess"})


@pytest.mark.parametrize(
    "body",
    [b"", b"a", b"a\0\0", b"a\0\0K=V", b"a\0\0K\0\0", b"a\0\0=V\0\0", b"\xff\0\0K=V\0\0", b"a\0\0K=\xff\0\0"],
)
def test_what_is_no_call_is_refused(body: bytes) -> None:
    with pytest.raises(InputError):
        parse_call_untrusted(body)


@given(st.binary(max_size=60) | st.lists(st.sampled_from([b"\0", b"a", b"=", b"\xff"])).map(b"".join))
def test_any_bytes_are_a_call_or_refused(body: bytes) -> None:
    with suppress(InputError):
        call = parse_call_untrusted(body)
        assert all("\0" not in one for one in (*call.arguments, *call.variables, *call.variables.values()))


def test_a_call_without_variables_or_input_is_one() -> None:
    assert parse_call_untrusted(b"a\0\0\0\0") == Call(("a",), {}, b"")
    assert parse_call_untrusted(b"a\0b\0\0K=V=W\0L=\0\0\0\0x") == Call(
        ("a", "b"), {"K": "V=W", "L": ""}, b"\0\0x"
    )
