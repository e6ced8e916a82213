"""What the shim sends, as a value, and the route on which it arrives.

A runtime's program (netagent.integrations.shim) passes its arguments, the CNI_* variables and its standard input on
unread. Who it was is plain from the variables: CNI always sets CNI_COMMAND, netavark never does.

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

PATH = "/v1/shim"
MAX_CALL_BYTES = (1 << 20) + (1 << 18)
"""The shim's own limit of its input, and room for arguments and variables."""
BODY_DEADLINE_S = 5.0
"""For a body to arrive on a local socket."""
ANSWER_S = 10.0
"""For a handler: runtimes wait without an end of their own. What was begun is undone."""

_NOT_ENABLED = (
    "this host's agent does not serve Podman; set enabled = true in the table [podman] of its configuration"
)

_log = logging.getLogger("netagent.integrations")


@dataclass(frozen=True, slots=True)
class Call:
    """A program that was started. Arguments and variables are text; `stdin` is what others must still parse."""

    arguments: tuple[str, ...]
    """The program's own path first."""
    variables: Mapping[str, str]
    """CNI_* only."""
    stdin: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What the program prints, and its exit status."""

    output: bytes
    exit_status: int = 0


Handler: TypeAlias = Callable[[Call], Awaitable[Answer]]
"""Answers a wrong call too: in its runtime's own form of an error."""


def parse_call_untrusted(body: bytes) -> Call:
    """The three parts. InputError when there are not three, or one of the first two is not UTF-8."""
    arguments, end_of_arguments, rest = body.partition(b"\0\0")
    variables, end_of_variables, stdin = rest.partition(b"\0\0")
    pairs = [one.partition(b"=") for one in variables.split(b"\0") if one]
    if not end_of_arguments or not end_of_variables or not all(name and sign for name, sign, _ in pairs):
        raise InputError("this is no call of the netagent shim", hint="install the shim of this version")
    try:
        return Call(
            arguments=tuple(arguments.decode().split("\0")),
            variables={name.decode(): value.decode() for name, _, value in pairs},
            stdin=stdin,
        )
    except UnicodeDecodeError:
        raise InputError("the shim's arguments are not UTF-8", hint="use plain text") from None


def shim_route(cni: Handler, netavark: Handler | None) -> Route:
    """POST /v1/shim: status 200 and X-Exit-Status for whatever a handler says. A sentence with 4xx for what is no
    call, with 5xx when a handler fails, takes too long or is not there (netavark's, while Podman is not enabled); the
    shim puts it into the runtime's form of an error."""

    async def answer(request: Request) -> Response:
        try:
            call = parse_call_untrusted(await _body(request))
        except (InputError, ClientDisconnect) as error:
            return _sentence(400, str(error))
        handler = cni if "CNI_COMMAND" in call.variables else netavark
        if handler is None:
            return _sentence(503, _NOT_ENABLED)
        try:
            with trio.move_on_after(ANSWER_S):
                found = await handler(call)
                headers = {"X-Exit-Status": str(found.exit_status)}
                return Response(found.output, media_type="application/json", headers=headers)
        except Exception as error:  # no traceback reaches a runtime, each reaches the log
            _log.exception("a call of the shim failed: %s", " ".join(call.arguments))
            return _sentence(
                500, f"the agent failed unexpectedly ({type(error).__name__}); its log has the details"
            )
        return _sentence(503, f"this took longer than {ANSWER_S:.0f} s and was undone; try again")

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
