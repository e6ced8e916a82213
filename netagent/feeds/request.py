"""Requests for feeds as they come in: GET and HEAD of HTTP/1, one for each connection.

h11 reads HTTP; this file bounds what it is given, and says what is asked for. A body is refused: nothing here takes
one. What follows a request on its connection is not read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import h11

MAX_REQUEST_BYTES: Final = 4096
"""Bound of one request for a feed; beyond it: 431. Prometheus and Traefik send some 300 bytes."""

MAX_LINES: Final = 64
"""Bound of lines of a request; beyond it: 431. 4 KiB hold a thousand, whose reading takes milliseconds."""

_PARAMETERS: Final = {
    "watch": {"true": True, "1": True, "false": False, "0": False},
    "upstream": {"service": True, "replicas": False},
}


@dataclass(frozen=True, slots=True)
class FeedRequest:
    """What is asked for."""

    feed: str
    watch: bool = False
    is_head: bool = False
    through_services: bool = False
    """With services' own addresses instead of their replicas'."""
    host: str = field(default="", compare=False)
    """What the client calls this server: the header `Host`. What is asked for is the same by any name."""


class RequestError(Exception):
    """It is no request for a feed; `status` is the answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class RequestReader:
    """Reads the request of one connection."""

    def __init__(self) -> None:
        self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST_BYTES)
        self._taken = 0
        self._lines = 0

    def receive_untrusted(self, data: bytes) -> FeedRequest | None:
        """Take a part of it; return the request, None if more is to come. Raises RequestError."""
        # What is beyond the bound is not given to the parser, which would keep and search it.
        room = MAX_REQUEST_BYTES - self._taken
        self._taken += len(data)
        if b"\n" in data:
            self._lines += data.count(b"\n", 0, room)
            if self._lines > MAX_LINES:
                raise RequestError(431, f"a request has at most {MAX_LINES} lines")
        try:
            self._parser.receive_data(data[:room])
            event = self._parser.next_event()
        except h11.RemoteProtocolError as error:
            raise RequestError(error.error_status_hint, f"this is no request of HTTP/1: {error}") from None
        if isinstance(event, h11.Request):
            return _request(event)
        if self._taken > MAX_REQUEST_BYTES:
            raise RequestError(431, f"a request has at most {MAX_REQUEST_BYTES} bytes")
        return None


def _request(event: h11.Request) -> FeedRequest:
    if event.method not in (b"GET", b"HEAD"):
        raise RequestError(405, "only GET and HEAD are understood")
    host = ""
    for name, value in event.headers:
        if name == b"host":
            host = value.decode("ascii", "replace")
        if name == b"transfer-encoding" or (name == b"content-length" and value != b"0"):
            raise RequestError(400, "a request for a feed has no body")
    path, _, query = event.target.decode("ascii").partition("?")
    if not path.startswith("/"):
        raise RequestError(400, "the target is no path")
    given = {"watch": False, "upstream": False}
    for pair in filter(None, query.split("&")):
        key, _, text = pair.partition("=")
        if text.lower() not in _PARAMETERS.get(key, {}):
            raise RequestError(400, "the only parameters are watch=true and upstream=service")
        given[key] = _PARAMETERS[key][text.lower()]
    is_head = event.method == b"HEAD"
    return FeedRequest(path[1:], given["watch"], is_head, through_services=given["upstream"], host=host)
