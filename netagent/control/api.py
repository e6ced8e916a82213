"""The agent's HTTP API: a route for each command that declares one (netagent.interface).

The path, the query and the body become a request, a handler answers it, and the answer becomes JSON. Lists take
`?watch=true`. `/v1/openapi.json` describes all of this; errors are RFC 9457 problem documents. A request runs to its
end even if its client hangs up: the agent does not leave a change half done, and each use-case has its own deadline.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeAlias

import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from netagent.access.grant import Grant, require_command, require_fields
from netagent.control.asgi import kept_open, lift_deadline, waiting_for_client
from netagent.control.audit import audited, telling_forbidden
from netagent.control.conversion import fields_untrusted, object_untrusted
from netagent.control.idempotency import Answered, IdempotentAnswers, key_untrusted
from netagent.control.openapi import document
from netagent.control.places import Places
from netagent.control.problem import known_error
from netagent.control.streaming import PartsResponse, WatchResponse, problem_response
from netagent.control.watch import Items, WaitChanged, encode_list, encode_object, follow, watch
from netagent.errors import FailedError, ForbiddenError, InputError, UnreachableError
from netagent.interface import schema
from netagent.interface.catalogue import COMMANDS
from netagent.interface.command import Command, Fields
from netagent.model.author import Author, AuthorKind, acting_as, current_author
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
MAX_WATCHERS_EACH = 16
"""Bound of clients that watch with one token or from one account; beyond it: refused, and the others have theirs."""

_log = logging.getLogger("netagent.control")

GrantOf: TypeAlias = Callable[[Request], Grant]
Limit: TypeAlias = Callable[[Grant, Command[Any]], Command[Any]]
"""Returns the request as the grant's limit allows it, or raises ForbiddenError."""

Run: TypeAlias = Callable[[Request], Awaitable[Response]]

Handlers: TypeAlias = Mapping[type[Command[Any]], Callable[[Any], Awaitable[Any]]]
"""What answers each command. An answer is what the command declares; lists need not be sorted. A refusal raises a
NetagentError, whose sentence the user sees; any other exception becomes exit status 5 and a log entry with its
traceback. A handler runs to its end even if its client hangs up. It is cancelled when the agent stops and it takes
longer than the server's grace period: then it must undo partial changes."""


@dataclass(frozen=True, slots=True)
class ApiAccess:
    """What decides what a request may do. The agent's sockets need no more than the first."""

    grant_of: GrantOf
    """Raises UnauthorizedError or ForbiddenError."""
    limited: Limit | None = None
    """Required where grants have limits."""
    ended: Callable[[str], trio.Event] | None = None
    """Required where tokens grant: what is set when the token of that id ends."""


def socket_access(grant: Grant) -> ApiAccess:
    """Each process that may open the socket has this grant."""
    return ApiAccess(lambda _: grant)


def build_app(
    handlers: Handlers,
    wait_changed: WaitChanged,
    extra: Sequence[Route] = (),
    *,
    access: ApiAccess,
    wait_noted: WaitChanged | None = None,
) -> Starlette:
    """Build the application of a socket. `extra`: routes of integrations, which ask for no role. `wait_noted`: as
    `wait_changed`, for logs. The trio.Event `app.state.stopping` ends watches."""
    app = Starlette(
        routes=[*api_routes(handlers, wait_changed, access=access, wait_noted=wait_noted), *extra],
        exception_handlers={HTTPException: _no_such_path},
    )
    app.router.redirect_slashes = False  # a redirect would send a misspelt path to another one
    app.state.stopping = trio.Event()
    return app


def api_routes(
    handlers: Handlers,
    wait_changed: WaitChanged,
    *,
    access: ApiAccess,
    wait_noted: WaitChanged | None = None,
) -> list[Route]:
    """Return the routes of all commands. Who comes by them has a share of its own in MAX_WATCHERS."""
    routed = [command for command in COMMANDS if command.declaration.verb]
    # A path with more segments first: `{network:path}` also fits `NAME/connect`, because names may contain a slash.
    routed.sort(key=lambda command: -command.declaration.path.count("/"))
    api = _Api(handlers, wait_changed, wait_noted or wait_changed, access)
    return [
        *(_route(command, api.answering(command)) for command in routed),
        Route("/v1/openapi.json", _answering(api.document), methods=["GET"]),
    ]


def _route(command: type[Command[Any]], run: Run) -> Route:
    declared = command.declaration
    return Route(declared.path.replace("}", ":path}"), _answering(run), methods=[declared.verb])


class _Api:
    """Reads requests, calls handlers, and writes answers."""

    def __init__(
        self, handlers: Handlers, wait_changed: WaitChanged, wait_noted: WaitChanged, access: ApiAccess
    ) -> None:
        self._access = access
        self._answers = IdempotentAnswers()
        self._handlers = handlers
        self._wait_changed = wait_changed
        self._wait_noted = wait_noted
        self._places = Places(MAX_WATCHERS, MAX_WATCHERS_EACH, "clients are already watching this agent")

    def answering(self, command: type[Command[Any]]) -> Run:
        """Return what answers HTTP requests of a command."""
        declared, handler = command.declaration, self._handlers[command]

        async def answer(request: Command[Any]) -> tuple[int, list[bytes]]:
            found = await audited(request, handler)
            parts = await in_slices(encode_object(found, long="endpoints"))
            return 201 if declared.creates and found.get("created", True) else 200, parts

        async def run(http: Request, grant: Grant) -> Response:
            require_command(grant, command)
            request = await _request(command, http)
            require_fields(grant, request)
            asked = request
            if grant.token_id is not None:
                request = self._limited(grant, request)
            if declared.order:
                return await self._list(http, request, handler, grant)
            key = http.headers.get("idempotency-key")
            if key is None or declared.verb == "GET":
                status, parts = await answer(request)
                return PartsResponse(parts, status)

            async def once() -> Answered:
                status, parts = await answer(request)
                return Answered(status, b"".join(parts))

            kept = await self._answers.once(_asker(grant), key_untrusted(key), asked, once)
            return PartsResponse([kept.body], kept.status)

        async def noted(http: Request, grant: Grant) -> Response:
            with telling_forbidden(command):
                return await run(http, grant)

        async def run_as_asker(http: Request) -> Response:
            grant = self._access.grant_of(http)
            if grant.token_name is None:
                return await noted(http, grant)
            lift_deadline()
            with acting_as(Author(AuthorKind.TOKEN, grant.token_name)):
                return await noted(http, grant)

        return run_as_asker

    def _limited(self, grant: Grant, request: Command[Any]) -> Command[Any]:
        limited = self._access.limited
        if limited is not None:
            return limited(grant, request)
        if grant.networks is not None:
            raise ForbiddenError(f"{grant.by} is limited, and nothing here holds requests to a limit")
        return request

    async def document(self, http: Request) -> Response:
        """Return the API's description."""
        self._access.grant_of(http)
        _refuse_query(http)
        return Response(json.dumps(await in_slices(document())), media_type="application/json")

    async def _list(
        self,
        http: Request,
        request: Command[Any],
        handler: Callable[[Any], Awaitable[schema.Listing[Any]]],
        grant: Grant,
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

        if not getattr(request, "watch", False):
            listing = await read()
            parts = await in_slices(encode_list(listing["items"], listing.get("warnings", ())))
            return PartsResponse(parts)

        async def run(emit: Callable[[bytes], Awaitable[None]]) -> None:
            # A watch by the read-only socket needs no more life, and stays among its account's connections.
            with kept_open() if grant.token_id else contextlib.nullcontext():
                if is_log:
                    await follow(self._wait_noted, request, read, emit)
                else:
                    await watch(self._waiting(type(request).declaration.period_s), read, emit)

        ends = [http.app.state.stopping]
        if grant.token_id is not None and self._access.ended is not None:
            ends.append(self._access.ended(grant.token_id))
        with contextlib.ExitStack() as held:
            held.enter_context(self._places.taken(_asker(grant)))
            await read()
            return WatchResponse(run, held.pop_all(), *ends)

    def _waiting(self, period_s: float | None) -> WaitChanged:
        """Return what a watch waits for: a change of what lists show, or `period_s` at most."""
        if period_s is None:
            return self._wait_changed

        async def wait(seen: int) -> int:
            with trio.move_on_after(period_s):
                return await self._wait_changed(seen)
            return seen

        return wait


def _asker(grant: Grant) -> str:
    """Return who asks, for answers that no other asker may see, and for the places of watches."""
    author = current_author()
    return f"token {grant.token_id}" if grant.token_id else f"{author.kind} {author.uid} {author.name}"


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
    with trio.move_on_after(BODY_DEADLINE_S) as scope, waiting_for_client(scope):
        async with aclosing(http.stream()) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise InputError(
                        f"the request is larger than {MAX_BODY_BYTES} bytes",
                        code="too-large",
                        hint="send less",
                    )
    if scope.cancelled_caught and http.app.state.stopping.is_set():
        raise UnreachableError("the agent is stopping", hint="send it again when the agent is back")
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
            return problem_response(known)

    return answer


async def _no_such_path(http: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    message = f"the agent has no {http.method} {http.url.path[:200]}"
    return problem_response(
        InputError(message, code="no-such-path", hint="see /v1 in the reference"), status=status
    )
