from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fakes.agent_service import Served, endpoint_of

from netagent.control.client import Client, quote
from netagent.errors import FailedError, NetagentError, RefusedError, UnreachableError


@contextmanager
def answering(path: Path, answer: bytes | None) -> Iterator[Client]:
    """Something that takes a request, says `answer` and hangs up; None says nothing at all."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        done = threading.Event()

        def run() -> None:
            stream, _ = listener.accept()
            with stream:
                stream.recv(65536)
                if answer is None:
                    done.wait(10)
                else:
                    stream.sendall(answer)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield Client(str(path), timeout_s=0.2 if answer is None else 10)
        finally:
            done.set()
            thread.join()


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (b"", UnreachableError, "closed the connection too early"),
        (b"HTTP/1.1 200 OK\r\n", UnreachableError, "closed the connection too early"),
        (b"SSH-2.0-x\r\n\r\n", FailedError, "does not speak HTTP"),
        (b'HTTP/1.1 200 OK\r\n\r\n{"schema": 1, "it', UnreachableError, "incomplete"),
        (b"HTTP/1.1 200 OK\r\n\r\n[]", UnreachableError, "not an object"),
        (b'HTTP/1.1 418 ?\r\n\r\n{"detail": "tea"}', FailedError, "tea"),
        (None, FailedError, "did not answer within"),
    ],
)
def test_what_is_not_an_agent(
    tmp_path: Path, answer: bytes | None, kind: type[NetagentError], says: str
) -> None:
    with answering(tmp_path / "s", answer) as client, pytest.raises(kind) as caught:
        client.call("GET", "/v1/version")
    assert says in str(caught.value)


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="socket does not exist"):
        Client(str(tmp_path / "none")).call("GET", "/v1/version")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "left"))
    with pytest.raises(UnreachableError, match="no program listens"):
        Client(str(tmp_path / "left")).call("GET", "/v1/version")
    with pytest.raises(UnreachableError, match="cannot reach the agent"):
        Client(str(tmp_path / ("x" * 200))).call("GET", "/v1/version")


def test_not_permitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(RefusedError, match="group netagent") as caught:
        Client(str(tmp_path / "s")).call("GET", "/v1/version")
    assert (caught.value.code, caught.value.exit_status) == ("not-permitted", 4)


def test_quote() -> None:
    assert quote("web-1.app") == "web-1.app"
    assert quote("a/b c?ü%") == "a%2Fb%20c%3F%C3%BC%25"


def test_the_examples_of_the_reference_run(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[3] / "docs/reference/python-client.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(examples) == 3
    served.service.rows.append(endpoint_of("web"))
    program = "\n".join(examples).replace("Client()", f"Client({str(served.path)!r})")
    exec(compile(program, "python-client.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == ["h1", "web app", "not-found"]
