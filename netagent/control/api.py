"""The agent's HTTP API: a route for each command that declares one (netagent.interface).

The path, the query and the body become a request, a handler answers it, and the answer becomes JSON. Lists take
`?watch=true`. `/v1/openapi.json` describes all of this; errors are RFC 9457 problem documents. A request runs to its
end even if its client hangs up: the agent does not leave a change half done, and each use-case has its own deadline.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeAlias

import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from netagent.access.grant import Grant, require_command, require_fields
from netagent.control.audit import audited
from netagent.control.conversion import fields_untrusted, object_untrusted
from netagent.control.openapi import document
from netagent.control.problem import MEDIA_TYPE, known_error, problem_of
from netagent.control.streaming import PartsResponse, WatchResponse
from netagent.control.watch import Items, WaitChanged, encode_list, encode_object, follow, watch
from netagent.errors import FailedError, InputError, NetagentError, RefusedError
from netagent.interface import schema
from netagent.interface.catalogue import COMMANDS
from netagent.interface.command import Command, Fields
from netgossip.slice_runner import in_slices
from netgossip.slices import merge_sort

MAX_BODY_BYTES = 64 * 1024
"""Bound of one request's body; beyond it: refused. The largest honest request, an attach with every list full, stays
below a quarter of this."""
BODY_DEADLINE_S = 5.0
"""Within this many seconds a body must arrive on the local socket."""
MAX_WATCHERS = 64
"""Bound of clients that watch; beyond it: refused; a slow one skips steps, none is queued. Each costs at most ten
lists per second; a host has a handful of users and scripts."""

_log = logging.getLogger("netagent.control")

Run: TypeAlias = Callable[[Request], Awaitable[Response]]

Handlers: TypeAlias = Mapping[type[Command[Any]], Callable[[Any], Awaitable[Any]]]
"""What answers each command. An answer is what the command declares; lists need not be sorted. A refusal raises a
NetagentError, whose sentence the user sees; any other exception becomes exit status 5 and a log entry with its
traceback. A handler runs to its end even if its client hangs up. It is cancelled when the agent stops and it takes
longer than the server's grace period: then it must undo partial changes."""


def build_app(
    handlers: Handlers,
    wait_changed: WaitChanged,
    extra: Sequence[Route] = (),
    *,
    grant: Grant,
    wait_noted: WaitChanged | None = None,
) -> Starlette:
    """Build the application. `extra`: routes of integrations, which ask for no role. `wait_noted`: as `wait_changed`,
    for logs. The trio.Event `app.state.stopping` ends watches. Who may ask it with `grant` has a share of its own in
    MAX_WATCHERS."""
    routed = [command for command in COMMANDS if command.declaration.verb]
    # A path with more segments first: `{network:path}` also fits `NAME/connect`, because names may contain a slash.
    routed.sort(key=lambda command: -command.declaration.path.count("/"))
    api = _Api(handlers, wait_changed, wait_noted or wait_changed, grant)
    app = Starlette(
        routes=[
            *(_route(command, api.answering(command)) for command in routed),
            Route("/v1/openapi.json", _answering(api.document), methods=["GET"]),
            *extra,
        ],
        exception_handlers={HTTPException: _no_such_path},
    )
    app.router.redirect_slashes = False  # a redirect would send a misspelt path to another one
    app.state.stopping = trio.Event()
    return app


def _route(command: type[Command[Any]], run: Run) -> Route:
    declared = command.declaration
    return Route(declared.path.replace("}", ":path}"), _answering(run), methods=[declared.verb])


class _Api:
    """Reads requests, calls handlers, and writes answers."""

    def __init__(
        self, handlers: Handlers, wait_changed: WaitChanged, wait_noted: WaitChanged, grant: Grant
    ) -> None:
        self._grant = grant
        self._handlers = handlers
        self._wait_changed = wait_changed
        self._wait_noted = wait_noted
        self._watchers = 0

    def answering(self, command: type[Command[Any]]) -> Run:
        """Return what answers HTTP requests of a command."""
        declared, handler = command.declaration, self._handlers[command]

        async def run(http: Request) -> Response:
            require_command(self._grant, command)
            request = await _request(command, http)
            require_fields(self._grant, request)
            if declared.order:
                return await self._list(http, request, handler)
            answer = await audited(request, handler)
            parts = await in_slices(encode_object(answer, long="endpoints"))
            return PartsResponse(parts, 201 if declared.creates and answer.get("created", True) else 200)

        return run

    async def document(self, http: Request) -> Response:
        """Return the API's description."""
        _refuse_query(http)
        return Response(json.dumps(await in_slices(document())), media_type="application/json")

    async def _list(
        self, http: Request, request: Command[Any], handler: Callable[[Any], Awaitable[schema.Listing[Any]]]
    ) -> Response:
        """Return the items in order, or with `watch` a stream of them. Both refuse a wrong filter."""
        order, is_log = type(request).declaration.order, type(request).declaration.is_log

        async def read() -> schema.Listing[Any]:
            listing = await handler(request)
            items: Items = listing["items"]
            if is_log:
                return listing
            ordered = await in_slices(merge_sort(items, lambda item: [item[field] for field in order]))
            return {**listing, "items": ordered}

        listing = await read()
        if not getattr(request, "watch", False):
            parts = await in_slices(encode_list(listing["items"], listing.get("warnings", ())))
            return PartsResponse(parts)
        if self._watchers >= MAX_WATCHERS:
            raise RefusedError(
                f"{MAX_WATCHERS} clients are already watching this agent",
                code="too-many-watchers",
                hint="stop one of them",
            )

        async def run(emit: Callable[[bytes], Awaitable[None]]) -> None:
            self._watchers += 1
            try:
                if is_log:
                    await follow(self._wait_noted, request, read, emit)
                else:
                    await watch(self._wait_changed, read, emit)
            finally:
                self._watchers -= 1

        return WatchResponse(run, http.app.state.stopping)


async def _request(command: type[Command[Any]], http: Request) -> Command[Any]:
    """Read the request of a command."""
    if not command.declaration.has_body:
        return fields_untrusted(command, _query(http), in_words=True, path=http.path_params)
    _refuse_query(http)
    return fields_untrusted(command, object_untrusted(await _body(http)), path=http.path_params)


def _query(http: Request) -> dict[str, str]:
    """Return the parameters of the query; refuses one that is given twice."""
    items = http.query_params.multi_items()
    found = dict(items)
    if len(found) != len(items):
        names = [name for name, _ in items]
        twice = next(name for name in found if names.count(name) > 1)
        raise InputError(f"{twice[:80]!r} is given more than once", thing=twice[:80], hint="give it once")
    return found


def _refuse_query(http: Request) -> None:
    fields_untrusted(Fields, _query(http))


async def _body(http: Request) -> bytes:
    """Return the body; refuses one that is too large or too slow without reading on."""
    body = bytearray()
    with trio.move_on_after(BODY_DEADLINE_S) as scope:
        async with aclosing(http.stream()) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise InputError(
                        f"the request is larger than {MAX_BODY_BYTES} bytes",
                        code="too-large",
                        hint="send less",
                    )
    if scope.cancelled_caught:
        raise InputError(
            f"the request did not arrive within {BODY_DEADLINE_S:.0f} s",
            code="too-slow",
            hint="send it at once",
        )
    return bytes(body)


def _answering(run: Run) -> Run:
    """Wrap it: every error becomes a problem document."""

    async def answer(http: Request) -> Response:
        try:
            return await run(http)
        except ClientDisconnect:
            return Response(status_code=400)  # the client is gone
        except Exception as error:  # users never see a traceback; the log gets it
            known = known_error(error)
            if known is None:
                _log.exception("%s %s failed", http.method, http.url.path)
                known = FailedError(
                    f"the agent failed unexpectedly ({type(error).__name__})",
                    code="unexpected",
                    hint="its log has the details",
                )
            return _problem(known)

    return answer


async def _no_such_path(http: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    message = f"the agent has no {http.method} {http.url.path[:200]}"
    return _problem(InputError(message, code="no-such-path", hint="see /v1 in the reference"), status=status)


def _problem(error: NetagentError, *, status: int | None = None) -> Response:
    body = json.dumps(problem_of(error, status=status))
    return Response(body, status_code=status or error.http_status, media_type=MEDIA_TYPE)
