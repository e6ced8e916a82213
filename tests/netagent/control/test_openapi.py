"""The OpenAPI document is true: what it allows is answered as it says, and what it forbids is refused."""

from __future__ import annotations

import http.client
import socket
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fakes.agent_service import Served, endpoint_of
from fakes.agent_service import served as serving
from hypothesis import HealthCheck, assume, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from netagent.commands.handlers import HANDLERS
from netagent.control.asgi import MAX_HEADER_BYTES
from netagent.control.conversion import types_of
from netagent.control.openapi import answer_type, document
from netagent.interface.catalogue import COMMANDS
from netagent.interface.command import Command
from netagent.main import handlers_of
from netgossip.slices import at_once

ROUTED = [command for command in COMMANDS if command.declaration.verb]
EXAMPLES = 10
"""Requests of each kind to each path."""
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


class UnixConnection(http.client.HTTPConnection):
    """HTTP to a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("netagent", timeout=10)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Bridge:
    """Passes the requests that schemathesis makes of a WSGI application on to the server's socket."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length)
        path, query = environ["REQUEST_URI"].partition("?")[0], environ["QUERY_STRING"]
        target = f"{path}?{query}" if query else path
        connection = UnixConnection(self._path)
        headers = {"Content-Type": environ.get("CONTENT_TYPE", "")} if body else {}
        connection.request(environ["REQUEST_METHOD"], target, body=body or None, headers=headers)
        answer = connection.getresponse()
        # A watched list has no end: its first bytes are enough.
        is_stream = answer.headers.get_content_type() == "application/x-ndjson"
        content = b"" if is_stream else answer.read()
        connection.close()
        start_response(f"{answer.status} {answer.reason}", answer.getheaders())
        return [content]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("openapi") / "agent.sock") as server:
        yield server


@pytest.fixture(scope="module")
def schema(served: Served) -> BaseSchema:
    return schemathesis.openapi.from_wsgi("/v1/openapi.json", Bridge(served.path))


def modes_of(command: type[Command[Any]]) -> list[GenerationMode]:
    """A request without fields, except in the path, cannot be wrong."""
    fields = types_of(command).keys() - set(command.declaration.in_path)
    return list(GenerationMode) if fields else [GenerationMode.POSITIVE]


@pytest.mark.parametrize(
    ("command", "mode"),
    [(command, mode) for command in ROUTED for mode in modes_of(command)],
    ids=lambda one: one.value if isinstance(one, GenerationMode) else one.declaration.command,
)
def test_requests_are_answered_as_the_document_says(
    served: Served, schema: BaseSchema, command: type[Command[Any]], mode: GenerationMode
) -> None:
    operation = schema[command.declaration.path][command.declaration.verb]
    served.service.rows = [endpoint_of("web")]

    # Some commands have few fields, so that many of the requests that it makes are the same or none of the kind.
    @settings(max_examples=EXAMPLES, database=None, suppress_health_check=[HealthCheck.filter_too_much])
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case[Any]) -> None:
        # The server refuses a longer head before it looks for a path; tests of the server hold that.
        assume(len(case.as_curl_command()) < MAX_HEADER_BYTES)
        case.call_and_validate(checks=CHECKS)

    ask()


def test_a_query_reaches_the_server(schema: BaseSchema) -> None:
    """Else the test above would only ask without one."""
    case = schema["/v1/inspect"]["GET"].Case(query={"thing": "web", "why": "true"})
    assert case.call().json()["why"]["complete"]


def test_every_command_with_a_route_has_a_handler_of_its_types() -> None:
    assert set(handlers_of(typing.cast("Any", None))) == set(ROUTED)
    for command, handler in HANDLERS.items():
        *_, asked, answer = typing.get_type_hints(handler).values()
        assert (asked, answer) == (command, answer_type(command)), handler


def test_every_answer_of_the_document_has_its_fields() -> None:
    components = at_once(document())["components"]["schemas"]
    assert {"id", "name", "addresses", "created"} <= components["Endpoint"]["properties"].keys()
    assert "created" not in components["Endpoint"]["required"]
