"""The whole way: client, unix socket, HTTP server, routes, a service in memory."""

from __future__ import annotations

import contextlib
import getpass
import json
import socket
import time
from collections.abc import Callable, Generator
from typing import Any

import pytest
from fakes.agent_service import Served, endpoint_of

from netagent.control.api import MAX_WATCHERS_EACH
from netagent.control.client import Client
from netagent.errors import (
    FailedError,
    InputError,
    NetagentError,
    NotFoundError,
    RefusedError,
    UnreachableError,
)
from netagent.interface.schema import Notice

BOUND_S = 10.0


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + BOUND_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_every_path_answers(client: Client) -> None:
    def call(method: str, path: str, body: dict[str, Any] | None = None, **query: str) -> dict[str, Any]:
        answer = client.call(method, path, body=body, query=query)
        assert answer.pop("schema") == 1
        return answer

    assert call("GET", "/v1/version")["version"] == "0.1.0"
    assert call("GET", "/v1/status")["data_plane"] == "not encrypted"
    assert call("POST", "/v1/init", {"cluster": "lab"})["cluster"]["name"] == "lab"
    assert call("POST", "/v1/invite", {"ttl_s": 60})["uses"] == 1
    assert call("POST", "/v1/join", {"token": "t"})["members"] == 3
    assert [m["name"] for m in call("GET", "/v1/members")["items"]] == ["h1", "h2"]
    assert call("POST", "/v1/networks", {"name": "db"})["created"] is True
    assert call("POST", "/v1/networks", {"name": "db"})["created"] is False
    assert [n["name"] for n in call("GET", "/v1/networks")["items"]] == ["app", "db"]
    assert call("GET", "/v1/networks/db")["space"]["owned"] == 1024
    assert call("POST", "/v1/networks/db/connect", {"target": "netns:x"})["name"] == "x"
    assert call("POST", "/v1/networks/db/disconnect", {"target": "netns:x"})["network"] == "db"
    assert call("DELETE", "/v1/networks/db", force="true")["name"] == "db"
    assert call("POST", "/v1/endpoints", {"target": "netns:web", "network": "app"})["created"] is True
    assert call("GET", "/v1/endpoints", network="app")["items"][0]["name"] == "web"
    assert call("GET", "/v1/services")["items"][0]["id"] == "web.app"
    assert call("POST", "/v1/endpoints/web/links", {"service": "db", "alias": "database"})["links"]
    assert call("DELETE", "/v1/endpoints/web/links", service="db", alias="database")["links"] == []
    published = call("POST", "/v1/endpoints/web/published", {"port": "8080:80"})["published"]
    assert published == ["8080:80/tcp"]
    assert call("DELETE", "/v1/endpoints/web/published", port="8080:80/tcp")["published"] == []
    assert call("GET", "/v1/inspect", thing="web")["kind"] == "service"
    assert call("GET", "/v1/inspect", thing="web", why="true")["why"]["complete"] is True
    assert call("GET", "/v1/doctor")["healthy"] is True
    lookup = {"name": "web", "type": "aaaa", "from": "web"}
    assert call("GET", "/v1/lookup", None, **lookup)["type"] == "AAAA"
    drain = call("POST", "/v1/drain", {"endpoint": "web", "wait_s": 5})
    assert (drain["drain"]["by"], drain["idle"]) == (getpass.getuser(), True)
    assert call("POST", "/v1/undrain", {"host": True})["drain"] is None
    assert call("DELETE", "/v1/endpoints/web")["name"] == "web"
    assert call("POST", "/v1/leave", {})["detached"] == 1
    assert call("POST", "/v1/withdraw", {})["told"] == 2
    assert call("POST", "/v1/forget", {"hosts": ["h3"]})["hosts"][0]["name"] == "h3"
    assert call("POST", "/v1/forget", {"dead_for_s": 60, "force": True})["unheard"] == ["h2"]


@pytest.mark.parametrize(
    ("method", "path", "kind", "says"),
    [
        ("GET", "/v1/networks/nope", NotFoundError, "there is no network 'nope'"),
        ("GET", "/v1/endpoints?network=nope", NotFoundError, "there is no network"),
        ("GET", "/v1/endpoints?netwrk=app", InputError, "did you mean 'network'"),
        ("GET", "/v1/endpoints?watch=perhaps", InputError, "neither true nor false"),
        ("GET", "/v1/status?x=1", InputError, "no field 'x'"),
        ("GET", "/v1/inspect", InputError, "thing is missing"),
        ("GET", "/v1/statu", InputError, "has no GET /v1/statu"),
        ("GET", "/", InputError, "has no GET /"),
        ("GET", "/v1/networks/", NotFoundError, "no network ''"),
        ("DELETE", "/v1/status", InputError, "has no DELETE"),
        ("DELETE", "/v1/endpoints/a%2Fb", NotFoundError, "no endpoint 'a/b'"),
    ],
)
def test_refusals(client: Client, method: str, path: str, kind: type[NetagentError], says: str) -> None:
    with pytest.raises(kind) as caught:
        client.call(method, path)
    assert says in str(caught.value)


def test_an_unexpected_error_is_logged_and_not_shown(
    served: Served, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    served.service.failure = RuntimeError("secret detail")
    with pytest.raises(FailedError) as caught:
        client.call("GET", "/v1/status")
    assert caught.value.code == "unexpected"
    assert "secret detail" not in str(caught.value)
    assert "secret detail" in caplog.text


def test_an_error_that_a_nursery_wrapped_is_still_its_sentence(served: Served, client: Client) -> None:
    served.service.failure = ExceptionGroup("nursery", [RefusedError("subnet is full", code="subnet-full")])
    with pytest.raises(RefusedError) as caught:
        client.call("GET", "/v1/status")
    assert caught.value.code == "subnet-full"


def test_problems_have_their_media_type(served: Served) -> None:
    answer = raw(served, b"GET /v1/networks/x HTTP/1.0\r\nHost: x\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404")
    assert b"application/problem+json" in head
    assert b"hypercorn" not in head
    assert json.loads(body)["status"] == 404


@pytest.mark.parametrize("body", [b"{", b"[1]", b'{"a": ' + b"1" * 70_000 + b"}"])
def test_bad_bodies_are_refused(served: Served, body: bytes) -> None:
    head = f"POST /v1/endpoints HTTP/1.0\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    assert raw(served, head + body).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    "garbage", [b"\x00\xff" * 40 + b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 9000]
)
def test_what_is_no_http_is_refused_and_the_server_lives(
    served: Served, client: Client, garbage: bytes
) -> None:
    assert b" 200 " not in raw(served, garbage)[:20]
    assert client.call("GET", "/v1/version")["version"]


def raw(served: Served, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(BOUND_S)
        stream.connect(str(served.path))
        answer = b""
        try:
            stream.sendall(data)
            while chunk := stream.recv(65536):
                answer += chunk
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before everything was sent
        return answer


def test_a_watched_list_is_the_state_then_the_changes(served: Served, client: Client) -> None:
    served.service.rows = [endpoint_of("b", number=2), endpoint_of("a", number=1)]
    batches = client.watch("/v1/endpoints")
    seen: list[tuple[str, str]] = []

    def read(count: int) -> list[tuple[str, str]]:
        while len(seen) < count:
            seen.extend((e["event"], e.get("item", {}).get("name", "")) for e in next(batches))
        return seen

    assert read(3) == [("added", "a"), ("added", "b"), ("synced", "")]
    client.call("DELETE", "/v1/endpoints/a")
    assert read(4)[3:] == [("removed", "a")]
    served.service.rows = [{**served.service.rows[0], "state": "hidden"}]
    served.change()
    assert read(5)[4:] == [("changed", "b")]
    del served.service.networks["app"]
    batches.close()  # type: ignore[attr-defined]
    wait_until(lambda: served.service.waiting == 0)


def test_a_watched_list_that_fails_ends_with_its_error(served: Served, client: Client) -> None:
    batches = client.watch("/v1/endpoints", query={"network": "app"})
    assert [e["event"] for e in next(batches)] == ["synced"]
    del served.service.networks["app"]
    served.change()
    with pytest.raises(NotFoundError, match="no network 'app'"):
        next(batches)


def test_a_watch_with_a_wrong_filter_is_refused_at_once(client: Client) -> None:
    with pytest.raises(NotFoundError, match="no network 'nope'"):
        next(client.watch("/v1/endpoints", query={"network": "nope"}))


def test_watchers_do_not_keep_an_agent_from_stopping(served: Served, client: Client) -> None:
    batches = client.watch("/v1/services")
    next(batches)
    begun = time.monotonic()
    served.stop()
    assert time.monotonic() - begun < 3
    with pytest.raises(UnreachableError, match="has stopped"):
        next(batches)


def test_watchers_of_one_account_are_bounded_and_a_place_is_free_again_after_a_refusal(
    served: Served, client: Client
) -> None:
    for _ in range(MAX_WATCHERS_EACH):
        with pytest.raises(NotFoundError, match="no network 'nope'"):
            next(client.watch("/v1/endpoints", query={"network": "nope"}))
    with contextlib.ExitStack() as stack:
        watches = [client.watch("/v1/networks") for _ in range(MAX_WATCHERS_EACH)]
        for one in watches:
            assert isinstance(one, Generator)
            stack.enter_context(contextlib.closing(one))
            next(one)
        with pytest.raises(
            RefusedError, match=r"already watching this agent with the same .*; stop one of them"
        ):
            next(client.watch("/v1/networks"))
        assert client.call("GET", "/v1/networks")["items"] is not None  # to read once needs no place


def test_a_list_says_what_is_not_known_and_local_asks_nobody(client: Client, served: Served) -> None:
    notice: Notice = {"code": "not-known", "message": "network app: h3 did not answer", "cure": "try again"}
    served.service.unknown.append(notice)
    for path in ("/v1/endpoints", "/v1/services"):
        assert client.call("GET", path)["warnings"] == [notice]
        assert "warnings" not in client.call("GET", path, query={"local": "true"})
        batches = client.watch(path)
        assert isinstance(batches, Generator)
        with contextlib.closing(batches):
            events = (event for batch in batches for event in batch)
            synced = next(event for event in events if event["event"] == "synced")
        assert synced == {"schema": 1, "event": "synced", "warnings": [notice]}
    assert [one.local for one in served.service.filters][:2] == [False, True]
    with pytest.raises(InputError, match="'local' is given more than once; give it once"):
        client.call("GET", "/v1/endpoints?local=true&local=false")
    with pytest.raises(InputError, match="local is neither"):
        client.call("GET", "/v1/endpoints", query={"local": "perhaps"})
