"""What stands before all routes of the `http` listener: who may ask which of them, and over what.

    /healthz…      all clients, also in clear text: load balancers ask it, and it shows next to nothing
    on loopback    programs of this host, in clear text; the routes themselves say what they want besides
    elsewhere      over TLS with a token only: /v1 holds each command against it (netagent.control.api), the others
                   want one that may read and has no limit. The files of the web page need none: they show nothing,
                   and no browser could send one with its first request

A token that came in clear text is refused: by then others may have read it, and it must not seem to work.

On loopback the gate answers only to names of loopback (netagent.model.address.loopback says why), and /v1 never to a
browser that says that another site asks. No route takes a cookie or anything else that a browser adds by itself.
"""

from __future__ import annotations

import logging

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from netagent.access.token_store import TokenStore
from netagent.access.tokens import bearer_untrusted
from netagent.control.streaming import problem_response
from netagent.errors import ForbiddenError, NetagentError
from netagent.log import Limited
from netagent.model.address.loopback import is_loopback, is_name_of_loopback

_limited = Limited(logging.getLogger(__name__))


class Gate:
    """Middleware of the listener's application."""

    def __init__(self, app: ASGIApp, tokens: TokenStore) -> None:
        self._app = app
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer why not."""
        if scope["type"] == "http":
            try:
                self._check(scope)
            except NetagentError as error:
                await problem_response(error)(scope, receive, send)
                return
        elif scope["type"] != "lifespan":
            await send({"type": "websocket.close", "code": 1008})
            return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        path, headers = scope["path"], Headers(scope=scope)
        if path == "/healthz" or path.startswith("/healthz/"):
            return
        is_api = path.startswith("/v1/")
        if is_api and not _is_no_page_of_others(headers):
            raise ForbiddenError(
                "the API answers no pages of browsers", hint="use the command line, curl or the Python client"
            )
        if _is_local(scope):
            if not is_name_of_loopback(headers.get("host", "")):
                raise ForbiddenError(
                    "this is answered only as localhost or 127.0.0.1", hint="use one of these in the address"
                )
            return
        if scope["scheme"] != "https":
            if "authorization" in headers:
                # Strangers cause it, from as many addresses as they like.
                _limited.warning("clear", f"a token came in clear text from {scope['client'][0]}: revoke it")
            raise ForbiddenError(
                "outside this host only /healthz is answered in clear text",
                hint="use https:// and a token; revoke a token that was sent like this",
            )
        if is_api or _is_file_of_page(path):
            return  # each command looks for itself
        token = self._tokens.proven_untrusted(bearer_untrusted(headers.get("authorization")))
        if token.networks is not None:
            raise ForbiddenError(
                f"this shows more than the networks of the token {token.name}",
                thing=token.name,
                hint="ask with a token that is not limited to networks",
            )


def _is_no_page_of_others(headers: Headers) -> bool:
    """True unless a browser says that a page asks: a page's requests have an origin, or name their site."""
    return "origin" not in headers and headers.get("sec-fetch-site", "none") == "none"


def _is_file_of_page(path: str) -> bool:
    """True for what a browser asks for before its reader can show a token (netagent.page.site)."""
    return path == "/" or (path.startswith("/page/") and not path.startswith(("/page/data/", "/page/live/")))


def _is_local(scope: Scope) -> bool:
    """Both ends are on loopback: a switch of the kernel (`route_localnet`) may let packets from elsewhere in."""
    ends = scope.get("server"), scope.get("client")
    return all(end is not None and is_loopback(end[0]) for end in ends)


def is_beyond_loopback(place: str) -> bool:
    """True if other hosts can reach a listener at this `ADDRESS:PORT`."""
    return not is_loopback(place.rpartition(":")[0].strip("[]"))
