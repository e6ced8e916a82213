"""The page's routes: files, one part at once, one part as it changes.

    /                     leads to /page/
    /page/…               the page itself, for each path that it knows; the path and its query say what it shows
    /page/static/FILE     its files
    /page/data/PART       one part, as JSON
    /page/live/PART       the same as it changes, as server-sent events
    /page/run/doctor      by POST: let the doctor look now, which changes nothing, and answer with what it found

Files are answered to each local browser; they hold nothing of the cluster. Parts need an access key.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import json
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

import trio
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from netagent.access.token_store import TokenStore
from netagent.access.tokens import bearer_untrusted
from netagent.control.asgi import kept_open
from netagent.control.places import Places
from netagent.control.problem import MEDIA_TYPE, known_error, problem_of
from netagent.control.streaming import WatchResponse
from netagent.control.watch import WaitChanged
from netagent.errors import ForbiddenError, NetagentError, NotFoundError, RefusedError, UnauthorizedError
from netagent.page.access_key import AccessKeys
from netagent.page.contents import PageContents, PageSource
from netagent.page.guard import HEADERS, refusal
from netagent.page.live_stream import Emit, follow
from netagent.page.table_query import MAX_CHARS, parse_query_untrusted

MAX_STREAMS: Final = 24
"""Bound of parts that are followed at the same time; beyond it: refused, and the page says so. A page whose tab is in
the background follows none."""
MAX_STREAMS_EACH: Final = 8
"""Bound of parts that are followed with one token or one key; beyond it: refused, and the others have theirs. A
browser opens six connections to one place."""

_STATIC: Final = Path(str(resources.files("netagent.page") / "static"))
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
_FILES: Final = {
    path.relative_to(_STATIC).as_posix(): path
    for path in sorted(_STATIC.rglob("*"))
    if path.is_file() and path.suffix in _TYPES
}

Answer = Callable[[Request], Awaitable[Response]]


class Site:
    """The page of one agent."""

    def __init__(
        self,
        source: PageSource,
        wait_changed: WaitChanged,
        keys: Callable[[], AccessKeys],
        tokens: TokenStore,
    ) -> None:
        self._contents = PageContents(source)
        self._wait_changed = wait_changed
        self._keys = keys
        self._tokens = tokens
        self._places = Places(MAX_STREAMS, MAX_STREAMS_EACH, "parts of this page are followed already")
        self.routes = [
            Route("/", _guarded(_to_page)),
            Route("/page/static/{file:path}", _guarded(_file)),
            Route("/page/data/{part}", _guarded(self._data)),
            Route("/page/live/{part}", _guarded(self._live)),
            Route("/page/run/doctor", _guarded(self._run_doctor), methods=["POST"]),
            Route("/page/{path:path}", _guarded(_page)),
        ]

    async def run(self) -> None:
        """Drop what no page reads; until cancelled."""
        await self._contents.run()

    async def _data(self, request: Request) -> Response:
        self._reader(request)
        content = self._open(request)
        try:
            shown = await content.read()
        finally:
            content.close()
        return _json({"head": shown.head, "order": list(shown.rows), "set": shown.rows})

    async def _run_doctor(self, request: Request) -> Response:
        reader = self._reader(request)
        with self._places.taken(reader.asker):
            shown = await self._contents.examine(anew=True)
        return _json({"head": shown.head})

    async def _live(self, request: Request) -> Response:
        reader = self._reader(request)
        with contextlib.ExitStack() as held:
            held.enter_context(self._places.taken(reader.asker))
            content = self._open(request)
            held.callback(content.close)

            async def run(emit: Emit) -> None:
                with kept_open(), trio.move_on_after(reader.life_s):
                    await follow(content, self._wait_changed, emit)

            return _EventStream(run, held.pop_all(), request.app.state.stopping, *reader.ends)

    def _open(self, request: Request) -> Any:
        asked = {name: value[:MAX_CHARS] for name, value in request.query_params.items()}
        return self._contents.open(request.path_params["part"], parse_query_untrusted(asked), asked)

    def _reader(self, request: Request) -> _Reader:
        """Return who reads. Raises UnauthorizedError for who shows neither key nor token, ForbiddenError for a token
        that may see some networks only. A key is for loopback: it was printed for a browser there."""
        is_local = request.url.scheme == "http"
        now_s, shown = time.time(), ""
        try:
            shown = bearer_untrusted(request.headers.get("authorization"))
            expires_s = self._keys().expiry_untrusted(shown, int(now_s)) if is_local else None
            if expires_s is not None:
                return _Reader(f"key {shown}", expires_s - now_s)
            token = self._tokens.proven_untrusted(shown)
        except UnauthorizedError:
            raise UnauthorizedError(
                "what this page has shown to the agent is not valid, or no longer"
                if shown
                else "this page needs a key",
                code="no-key",
                hint="type `sudo netagent dashboard` on the host, and open the address that it prints"
                if is_local
                else "make a token with `sudo netagent token create NAME --read` on the host, and paste it here",
            ) from None
        if token.networks is not None:
            raise ForbiddenError(
                f"the page shows more than the networks of the token {token.name}",
                thing=token.name,
                hint="use a token that is not limited to networks",
            )
        return _Reader(f"token {token.token_id}", math.inf, (self._tokens.ended(token.token_id),))


@dataclass(frozen=True, slots=True)
class _Reader:
    asker: str
    """As whom it counts."""
    life_s: float
    """So long it may read."""
    ends: tuple[trio.Event, ...] = ()
    """What ends it before."""


class _EventStream(WatchResponse):
    media_type = "text/event-stream"

    def __init__(self, run: Any, held: contextlib.AbstractContextManager[object], *ends: trio.Event) -> None:
        super().__init__(run, held, *ends)
        self.headers.update({**HEADERS, "Cache-Control": "no-store"})


def _guarded(answer: Answer) -> Answer:
    """Wrap it: other sites and other names get no answer, errors become problem documents, and each answer has the
    headers that bind the browser."""

    async def run(request: Request) -> Response:
        server = request.scope.get("server") or ("", 0)
        headers = request.headers
        cause = refusal(
            server[0],
            headers.get("host", ""),
            headers.get("origin", ""),
            headers.get("sec-fetch-site", ""),
            scheme=request.url.scheme,
        )
        try:
            if cause:
                sentence, _, hint = cause.partition(": ")
                raise _WrongPlaceError(sentence, hint=hint)
            response = await answer(request)
        except Exception as error:
            known = known_error(error)
            if known is None:
                raise
            response = _problem(known)
        response.headers.update(HEADERS)
        return response

    return run


class _WrongPlaceError(RefusedError):
    http_status = 403
    code = "wrong-place"


async def _to_page(_request: Request) -> Response:
    return RedirectResponse("/page/", 307)


async def _page(request: Request) -> Response:
    return await _answer_file(request, "index.html")


async def _file(request: Request) -> Response:
    return await _answer_file(request, request.path_params["file"])


async def _answer_file(request: Request, name: str) -> Response:
    path = _FILES.get(name)  # a table of known files: nothing that is typed becomes a path
    if path is None:
        raise NotFoundError(f"the page has no file {name[:80]!r}", thing=name[:80])
    content = await trio.Path(path).read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=_TYPES[path.suffix])


def _json(body: dict[str, Any]) -> Response:
    encoded = json.dumps(body, separators=(",", ":"))
    return Response(encoded, media_type="application/json", headers={"Cache-Control": "no-store"})


def _problem(error: NetagentError) -> Response:
    headers = {"Cache-Control": "no-store"}
    return Response(json.dumps(problem_of(error)), error.http_status, headers=headers, media_type=MEDIA_TYPE)


def page_address(place: str) -> str:
    """Return where a browser finds the page of an agent that listens at `place`: on loopback if it listens there."""
    text, _, port = place.rpartition(":")
    address = ipaddress.ip_address(text.strip("[]"))
    if address.is_unspecified:
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    shown = f"[{address}]" if address.version == 6 else str(address)
    return f"{'http' if address.is_loopback else 'https'}://{shown}:{port}/page/"
