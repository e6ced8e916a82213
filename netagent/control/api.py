"""The agent's HTTP API: maps paths under /v1 to the methods of AgentService.

    GET    /v1/version  /v1/status  /v1/members  /v1/networks  /v1/endpoints  /v1/services
    POST   /v1/init  /v1/invite  /v1/join  /v1/leave  /v1/withdraw  /v1/forget
    POST   /v1/networks                      create one: 201 when created, 200 when it existed
    GET    /v1/networks/NAME                 DELETE: remove it (?force=true)
    POST   /v1/networks/NAME/connect         {"target": …}; and …/disconnect
    POST   /v1/endpoints                     attach: 201 when attached, 200 when it already was
    DELETE /v1/endpoints/ENDPOINT            detach
    POST   /v1/endpoints/ENDPOINT/links      {"service": …, "alias": …}
    DELETE /v1/endpoints/ENDPOINT/links      ?service=…&alias=…
    POST   /v1/endpoints/ENDPOINT/published  {"port": "8080:80/tcp"}
    DELETE /v1/endpoints/ENDPOINT/published  ?port=8080:80/tcp
    GET    /v1/doctor
    GET    /v1/inspect?thing=…&why=true      /v1/lookup?name=…&type=…&from=…
    GET    /v1/ping?from=…&to=…&count=…&trace=true

Lists take `?watch=true`, endpoints and services also `network`, `host`, `service` and `local=true`, which inspect
and lookup take too: use only the records of this host. netagent.interface.schema documents the answers; errors are
RFC 9457 problem documents. A request runs to its end even if its client hangs up: the agent does not leave a change
half done, and each use-case has its own deadline.
"""

from __future__ import annotations

import functools
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

from netagent.control import request_parsing as requests
from netagent.control.agent_service import AgentService
from netagent.control.json_fields import JsonFields
from netagent.control.problem import MEDIA_TYPE, known_error, problem_of
from netagent.control.streaming import PartsResponse, Watch, WatchResponse
from netagent.control.watch import Items, encode_list, encode_object, watch
from netagent.errors import FailedError, InputError, NetagentError, RefusedError
from netagent.interface.schema import SCHEMA, PingRequest
from netagent.model.request import ListFilter
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

_TRUE = {"1": True, "true": True, "0": False, "false": False}
_log = logging.getLogger("netagent.control")

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]


def build_app(service: AgentService, extra: Sequence[Route] = ()) -> Starlette:
    """Build the application. `extra`: routes of integrations. The trio.Event `app.state.stopping` ends watches."""
    face = _Face(service)
    table: list[tuple[str, str, Handler]] = [
        ("GET", "/v1/version", face.version),
        ("GET", "/v1/status", face.status),
        ("POST", "/v1/init", face.init),
        ("POST", "/v1/invite", face.invite),
        ("POST", "/v1/join", face.join),
        ("POST", "/v1/leave", face.leave),
        ("POST", "/v1/withdraw", face.withdraw),
        ("POST", "/v1/forget", face.forget),
        ("GET", "/v1/members", face.members),
        ("GET", "/v1/networks", face.networks),
        ("POST", "/v1/networks", face.network_create),
        ("POST", "/v1/networks/{network:path}/connect", face.network_connect),
        ("POST", "/v1/networks/{network:path}/disconnect", face.network_disconnect),
        ("POST", "/v1/prune-networks", face.network_prune),
        ("GET", "/v1/networks/{network:path}", face.network_inspect),
        ("DELETE", "/v1/networks/{network:path}", face.network_remove),
        ("GET", "/v1/endpoints", face.endpoints),
        ("POST", "/v1/endpoints", face.attach),
        ("POST", "/v1/endpoints/{endpoint:path}/links", face.link),
        ("DELETE", "/v1/endpoints/{endpoint:path}/links", face.unlink),
        ("POST", "/v1/endpoints/{endpoint:path}/published", face.publish),
        ("DELETE", "/v1/endpoints/{endpoint:path}/published", face.unpublish),
        ("DELETE", "/v1/endpoints/{endpoint:path}", face.detach),
        ("GET", "/v1/services", face.services),
        ("GET", "/v1/inspect", face.inspect),
        ("GET", "/v1/lookup", face.lookup),
        ("GET", "/v1/doctor", face.doctor),
        ("GET", "/v1/ping", face.ping),
    ]
    app = Starlette(
        routes=[
            *(Route(path, _answering(handler), methods=[method]) for method, path, handler in table),
            *extra,
        ],
        exception_handlers={HTTPException: _no_such_path},
    )
    app.router.redirect_slashes = False  # a redirect would send a misspelt path to another one
    app.state.stopping = trio.Event()
    return app


class _Face:
    """One handler per path: reads the request, calls the service, wraps the answer."""

    def __init__(self, service: AgentService) -> None:
        self._service = service
        self._watchers = 0

    async def version(self, request: Request) -> Response:
        _query(request)
        return _one(await self._service.version())

    async def status(self, request: Request) -> Response:
        _query(request)
        return _one(await self._service.status())

    async def init(self, request: Request) -> Response:
        answer = await self._service.init(requests.cluster_untrusted(await _body(request)))
        return _one(answer, created=answer["created"])

    async def invite(self, request: Request) -> Response:
        ttl_s, uses = requests.invite_untrusted(await _body(request))
        return _one(await self._service.invite(ttl_s, uses), created=True)

    async def join(self, request: Request) -> Response:
        addresses, token = requests.join_untrusted(await _body(request))
        return _one(await self._service.join(addresses, token))

    async def leave(self, request: Request) -> Response:
        return _one(await self._service.leave(requests.drain_untrusted(await _body(request))))

    async def withdraw(self, request: Request) -> Response:
        return _one(await self._service.withdraw(requests.drain_untrusted(await _body(request))))

    async def forget(self, request: Request) -> Response:
        hosts, dead_for_s, force = requests.forget_untrusted(await _body(request))
        return _one(await self._service.forget(hosts, dead_for_s, force=force))

    async def members(self, request: Request) -> Response:
        query = _query(request, "watch")
        return await self._list(request, query, self._service.members, "name")

    async def networks(self, request: Request) -> Response:
        query = _query(request, "watch")
        return await self._list(request, query, self._service.network_list, "name")

    async def network_create(self, request: Request) -> Response:
        answer = await self._service.network_create(requests.network_untrusted(await _body(request)))
        return _one(answer, created=answer.get("created", False))

    async def network_inspect(self, request: Request) -> Response:
        _query(request)
        return _one(await self._service.network_inspect(request.path_params["network"]))

    async def network_remove(self, request: Request) -> Response:
        force = _flag(_query(request, "force"), "force")
        return _one(await self._service.network_remove(request.path_params["network"], force=force))

    async def network_prune(self, request: Request) -> Response:
        JsonFields(await _body(request), "")
        removed = sorted(await self._service.network_prune(), key=lambda one: (one["name"], one["id"]))
        return _json({"schema": SCHEMA, "items": removed})

    async def network_connect(self, request: Request) -> Response:
        target = JsonFields(await _body(request), "target").text("target", required=True)
        answer = await self._service.network_connect(request.path_params["network"], target)
        return _one(answer, created=answer.get("created", False))

    async def network_disconnect(self, request: Request) -> Response:
        target = JsonFields(await _body(request), "target").text("target", required=True)
        return _one(await self._service.network_disconnect(request.path_params["network"], target))

    async def endpoints(self, request: Request) -> Response:
        query, only = _filter(request)
        read = functools.partial(self._service.endpoints, only)
        return await self._list(request, query, read, "network name host id", self._gaps(only))

    async def services(self, request: Request) -> Response:
        query, only = _filter(request)
        read = functools.partial(self._service.services, only)
        return await self._list(request, query, read, "network name", self._gaps(only))

    def _gaps(self, only: ListFilter) -> Callable[[], Awaitable[Items]]:
        return functools.partial(self._service.gaps, only)

    async def attach(self, request: Request) -> Response:
        answer = await self._service.attach(requests.attach_untrusted(await _body(request)))
        return _one(answer, created=answer.get("created", False))

    async def detach(self, request: Request) -> Response:
        drain_s = requests.drain_untrusted(_with_number(_query(request, "drain_s"), "drain_s"))
        return _one(await self._service.detach(request.path_params["endpoint"], drain_s))

    async def link(self, request: Request) -> Response:
        link = requests.link_untrusted(await _body(request))
        return _one(await self._service.link(request.path_params["endpoint"], link))

    async def unlink(self, request: Request) -> Response:
        link = requests.link_untrusted(_query(request, "service alias"))
        return _one(await self._service.unlink(request.path_params["endpoint"], link))

    async def publish(self, request: Request) -> Response:
        publication = requests.publication_untrusted(await _body(request))
        return _one(await self._service.publish(request.path_params["endpoint"], publication))

    async def unpublish(self, request: Request) -> Response:
        publication = requests.publication_untrusted(_query(request, "port"))
        return _one(await self._service.unpublish(request.path_params["endpoint"], publication))

    async def inspect(self, request: Request) -> Response:
        query = _query(request, "thing why local")
        fields = JsonFields(_without(query, "why", "local"), "thing")
        thing = fields.text("thing", required=True)
        found = await self._service.inspect(thing, why=_flag(query, "why"), local=_flag(query, "local"))
        return PartsResponse(await in_slices(encode_object(found, long="endpoints")))

    async def doctor(self, request: Request) -> Response:
        _query(request)
        return _one(await self._service.doctor())

    async def ping(self, request: Request) -> Response:
        query = _query(request, "from to count trace")
        fields = JsonFields(_without(query, "trace"), "from to count")
        asked: PingRequest = {
            "from": fields.text("from"),
            "to": fields.text("to", required=True),
            "count": requests.count_untrusted(fields.text("count") or "3"),
            "trace": _flag(query, "trace"),
        }
        return _one(await self._service.ping(asked))

    async def lookup(self, request: Request) -> Response:
        query = _query(request, "name type from local")
        fields = JsonFields(_without(query, "local"), "name type from")
        name, rtype = fields.text("name", required=True), fields.text("type") or "A"
        local = _flag(query, "local")
        return _one(await self._service.lookup(name, rtype.upper(), fields.text("from"), local=local))

    async def _list(
        self,
        request: Request,
        query: Mapping[str, str],
        read: Callable[[], Awaitable[Any]],
        order: str,
        gaps: Callable[[], Awaitable[Items]] | None = None,
    ) -> Response:
        """Return the items in order, or with `watch` a stream of them. Both refuse a wrong filter. `gaps` returns
        notices of what is missing, for the field `warnings` of the list or of the event `synced`."""
        fields = order.split()

        async def ordered() -> list[Mapping[str, object]]:
            items: Items = await read()
            return await in_slices(merge_sort(items, lambda item: [item[field] for field in fields]))

        items = await ordered()
        if not _flag(query, "watch"):
            warnings = await gaps() if gaps is not None else []
            return PartsResponse(await in_slices(encode_list(items, warnings)))
        if self._watchers >= MAX_WATCHERS:
            raise RefusedError(
                f"{MAX_WATCHERS} clients are already watching this agent",
                code="too-many-watchers",
                hint="stop one of them",
            )
        return WatchResponse(self._watch(ordered, gaps), request.app.state.stopping)

    def _watch(
        self, read: Callable[[], Awaitable[Items]], gaps: Callable[[], Awaitable[Items]] | None
    ) -> Watch:
        async def run(emit: Callable[[bytes], Awaitable[None]]) -> None:
            self._watchers += 1
            try:
                await watch(self._service, read, emit, gaps)
            finally:
                self._watchers -= 1

        return run


def _answering(handler: Handler) -> Handler:
    """Wrap the handler: every error becomes a problem document."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except ClientDisconnect:
            return Response(status_code=400)  # the client is gone
        except Exception as error:  # users never see a traceback; the log gets it
            known = known_error(error)
            if known is None:
                _log.exception("%s %s failed", request.method, request.url.path)
                known = FailedError(
                    f"the agent failed unexpectedly ({type(error).__name__})",
                    code="unexpected",
                    hint="its log has the details",
                )
            return _problem(known)

    return answer


async def _no_such_path(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    message = f"the agent has no {request.method} {request.url.path[:200]}"
    return _problem(InputError(message, code="no-such-path", hint="see /v1 in the reference"), status=status)


async def _body(request: Request) -> dict[str, Any]:
    """Return the body as an object; refuses a body that is too large or too slow without reading on."""
    _query(request)
    body = bytearray()
    with trio.move_on_after(BODY_DEADLINE_S) as scope:
        async with aclosing(request.stream()) as chunks:
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
    return requests.object_untrusted(bytes(body))


def _query(request: Request, known: str = "") -> dict[str, str]:
    """Return the query's parameters; refuses unknown ones."""
    query = dict(request.query_params)
    JsonFields(query, known)
    return query


def _without(query: Mapping[str, str], *fields: str) -> dict[str, str]:
    return {key: value for key, value in query.items() if key not in fields}


def _filter(request: Request) -> tuple[dict[str, str], ListFilter]:
    """Return the query of a list of endpoints or services, and its filter."""
    query = _query(request, "watch network host service local")
    given = _without(query, "watch", "local")
    return query, requests.filter_untrusted(given, local=_flag(query, "local"))


def _with_number(query: Mapping[str, str], field: str) -> Mapping[str, Any]:
    """Return the query with one parameter converted to a number; other text stays for the later check to refuse."""
    try:
        return {**query, field: float(query[field])}
    except (KeyError, ValueError):
        return query


def _flag(query: Mapping[str, str], field: str) -> bool:
    text = query.get(field, "false").lower()
    if text not in _TRUE:
        raise InputError(f"{field} is neither true nor false", thing=field, hint="write true or false")
    return _TRUE[text]


def _one(answer: Mapping[str, Any], *, created: bool = False) -> Response:
    return _json({"schema": SCHEMA, **answer}, status=201 if created else 200)


def _json(value: object, *, status: int = 200) -> Response:
    return Response(json.dumps(value), status_code=status, media_type="application/json")


def _problem(error: NetagentError, *, status: int | None = None) -> Response:
    document = problem_of(error, status=status)
    return Response(json.dumps(document), status_code=status or error.http_status, media_type=MEDIA_TYPE)
