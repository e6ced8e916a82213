"""The calls of the shim as values, and the API's route for them.

The executable that a runtime starts (netagent.integrations.shim) passes its arguments, the CNI_* variables and its
standard input on unchanged. The variables tell the runtimes apart: CNI always sets CNI_COMMAND, netavark never does.

    argument \\0 argument … \\0\\0 NAME=value \\0 NAME=value … \\0\\0 standard input
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeAlias

import trio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from netagent.errors import InputError
from netagent.model.author import Author, AuthorKind, acting_as

PATH = "/v1/shim"
MAX_CALL_BYTES = (1 << 20) + (1 << 18)
"""Bound of one call of Podman or CNI; beyond it: refused. The shim's own limit of its input, plus arguments and
variables."""
BODY_DEADLINE_S = 5.0
"""Within this many seconds a body must arrive on the local socket."""
ANSWER_S = 10.0
"""Timeout of a handler, because runtimes wait without a timeout. The handler undoes partial changes."""

_NOT_ENABLED = "Podman is not enabled in this host's agent; set podman.enabled = true in its configuration"

_CNI, _PODMAN = Author(AuthorKind.RUNTIME, "cni"), Author(AuthorKind.RUNTIME, "podman")

_log = logging.getLogger("netagent.integrations")


@dataclass(frozen=True, slots=True)
class Call:
    """One run of the shim. Arguments and variables are text; the handlers still have to parse `stdin`."""

    arguments: tuple[str, ...]
    """The first one is the program's own path."""
    variables: Mapping[str, str]
    """Only CNI_* variables."""
    stdin: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What the shim prints, and its exit status."""

    output: bytes
    exit_status: int = 0


Handler: TypeAlias = Callable[[Call], Awaitable[Answer]]
"""Also answers invalid calls, with an error in the form of its runtime."""


def parse_call_untrusted(body: bytes) -> Call:
    """Parse the three parts. InputError when there are not three, or one of the first two is not UTF-8."""
    arguments, end_of_arguments, rest = body.partition(b"\0\0")
    variables, end_of_variables, stdin = rest.partition(b"\0\0")
    pairs = [one.partition(b"=") for one in variables.split(b"\0") if one]
    if not end_of_arguments or not end_of_variables or not all(name and sign for name, sign, _ in pairs):
        raise InputError("this is not a call of the netagent shim", hint="install the shim of this version")
    try:
        return Call(
            arguments=tuple(arguments.decode().split("\0")),
            variables={name.decode(): value.decode() for name, _, value in pairs},
            stdin=stdin,
        )
    except UnicodeDecodeError:
        raise InputError("the shim's arguments are not UTF-8", hint="use plain text") from None


def shim_route(cni: Handler, netavark: Handler | None) -> Route:
    """Return the route POST /v1/shim: status 200 and X-Exit-Status for each answer of a handler. A sentence with 4xx
    for an invalid call, with 5xx when a handler fails, times out or does not exist (netavark's, while Podman is not
    enabled); the shim formats it as an error of the runtime."""

    async def answer(request: Request) -> Response:
        try:
            call = parse_call_untrusted(await _body(request))
        except (InputError, ClientDisconnect) as error:
            return _sentence(400, str(error))
        is_cni = "CNI_COMMAND" in call.variables
        handler = cni if is_cni else netavark
        if handler is None:
            return _sentence(503, _NOT_ENABLED)
        try:
            with acting_as(_CNI if is_cni else _PODMAN), trio.move_on_after(ANSWER_S):
                found = await handler(call)
                headers = {"X-Exit-Status": str(found.exit_status)}
                return Response(found.output, media_type="application/json", headers=headers)
        except Exception as error:  # runtimes never see a traceback; the log gets it
            _log.exception("a call of the shim failed: %s", " ".join(call.arguments))
            return _sentence(
                500, f"the agent failed unexpectedly ({type(error).__name__}); its log has the details"
            )
        return _sentence(503, f"the call took longer than {ANSWER_S:.0f} s and was undone; try again")

    return Route(PATH, answer, methods=["POST"])


def _sentence(status: int, text: str) -> Response:
    return Response(text + "\n", status_code=status, media_type="text/plain")


async def _body(request: Request) -> bytes:
    body = bytearray()
    with trio.move_on_after(BODY_DEADLINE_S):
        async with aclosing(request.stream()) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) > MAX_CALL_BYTES:
                    raise InputError(f"the call is larger than {MAX_CALL_BYTES} bytes", hint="send less")
        return bytes(body)
    raise InputError(f"the call did not arrive within {BODY_DEADLINE_S:.0f} s", hint="send it at once")
