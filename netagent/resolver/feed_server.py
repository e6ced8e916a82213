"""Serves feeds to the containers of this host, at http://127.0.0.11:7953 in each of their namespaces. Driver.

As for names, the socket says which container asks; it sees the networks that its sandbox is in. Listeners cost no
task: one epoll(7) object waits for all of them. A connection is a task that reads one request, writes one answer and
closes.

This runs beside the answers to DNS, which no container may slow down for others through it. So what a container can
make it do is bounded in each direction: accepts are taken in rounds, at most one of each container in a round; each
connection has deadlines, and reads in intervals, so that a request sent octet by octet costs no more than another; a
body, and what is new in it, is made once for all that ask for the same networks, in slices, and for at most half of
the time. Containers take turns in what is made: each waits for one of every other container's at most.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import select
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakValueDictionary

import trio

from netagent.feeds.catalogue import FEEDS, FEEDS_OF_REPLICAS
from netagent.feeds.encoding import encoded, freed
from netagent.feeds.request import FeedRequest, RequestError, RequestReader
from netagent.feeds.services import SYNCED, changes, encoded_items
from netagent.feeds.table import through_services
from netagent.model.sandbox import SandboxId
from netagent.resolver.feed_source import FEED_ADDRESS, FeedSource, IncompleteError, Networks
from netgossip.slice_runner import in_slices
from netgossip.slices import Slices

MAX_CONNECTIONS: Final = 64
"""Bound of connections for feeds; beyond it: the container with most of them loses its oldest one; if
all have one, the oldest that watches goes."""
MAX_OF_SANDBOX: Final = 8
"""Bound of connections for feeds of one container; beyond it: closed."""
MAX_WATCHERS: Final = 4
"""Bound of connections of one container that watch a feed; beyond it: 503."""
MAX_BODIES: Final = 32
"""Bound of feeds that are kept for the next who asks; beyond it: the one not asked for for longest is made again."""
MAX_BODIES_BYTES: Final = 64 * 1024 * 1024
"""Bound of the octets of these; beyond it: as with their number."""
_BACKLOG: Final = 8
"""Bound of connections of one container that wait to be accepted; beyond it: its kernel lets them wait."""

_ROUND: Final = 8
_ROUND_S: Final = 0.04
"""At most 8 connections are taken every 40 ms, and one of each container: 25 per second of one, 200 of all. A
connection takes some 0.4 ms of processor time."""
_REQUEST_S: Final = 5.0
_READ_PAUSE_S: Final = 0.05
"""Between two reads of a request that did not come in one piece: a request is read some hundred times at most."""
_STALL_S: Final = 10.0
"""How long a reader may take nothing."""
_ANSWER_S: Final = 60.0
"""How long an answer may take. A body of three megabytes takes a second on a busy host."""
_CHANGE_S: Final = 30.0
"""How long a watcher may take for one change: what it has not read is kept until then."""
_LARGE_S: Final = 1.0
"""Between two large answers to one container, and two watches: each starts with the whole feed."""
_LARGE_BYTES: Final = 1024 * 1024
"""An answer of more is large: what a container reads as fast as it can takes processor time."""
_GOODBYE_S: Final = 1.0
"""A close with octets unread discards what the reader has not read yet: so it may close first."""
_COMPLETE_S: Final = 3.0
"""How long the first request for a network's feed waits until the agent has sent its rows."""
_FRESH_S: Final = 1.0
"""A body is not made again before, whatever changes meanwhile; readers ask every five seconds or less often."""
_HEARTBEAT_S: Final = 30.0
_PART_BYTES: Final = 64 * 1024

WATCHED: Final = "services?watch"
"""The items of `services`, for those who watch it."""
_THROUGH_SERVICES: Final = "?upstream=service"
"""After the name of a feed with the own addresses of services."""

_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}

_log = logging.getLogger(__name__)


def open_feed_listener() -> socket.socket:
    """Listen for requests in the calling thread's namespace, whose `lo` is up. OSError: another program has the
    port."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        # After a restart its old connections may linger in TIME_WAIT.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(FEED_ADDRESS)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


@dataclass(frozen=True, slots=True)
class _Body:
    """A feed as octets: for those who watch, the first lines."""

    parts: tuple[bytes, ...]
    version: object
    made_at: float
    items: Mapping[str, str] = field(default_factory=dict)
    """Of those who watch."""
    before: object = None
    """The version of the body that `news` is about; None: of none."""
    news: tuple[bytes, ...] = ()
    """The lines that differ from that body."""
    kept_bytes: int = 0

    @property
    def size(self) -> int:
        return sum(map(len, self.parts))


@dataclass(eq=False, slots=True)
class _Connection:
    sandbox_id: SandboxId
    sock: trio.socket.SocketType
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    is_watching: bool = False
    through_services: bool = False
    """It was promised that services' own addresses are translated for it."""
    began: float = field(default_factory=trio.current_time)


class FeedServer:
    """Serves what `source` knows. `away_s` says for how long no agent has been connected, None while one is.
    `note_wanted` is called when `source.wanted` has grown."""

    def __init__(
        self, source: FeedSource, *, away_s: Callable[[], float | None], note_wanted: Callable[[], None]
    ) -> None:
        self._source = source
        self._away_s = away_s
        self._note_wanted = note_wanted
        self._epoll = select.epoll()
        self._listeners: dict[SandboxId, socket.socket] = {}
        self._sandbox_of: dict[int, SandboxId] = {}
        self._connections: dict[SandboxId, dict[_Connection, None]] = {}
        """Of each sandbox, the oldest first."""
        self._bodies: dict[tuple[str, Networks], _Body] = {}
        """The one asked for longest ago first."""
        self._making = trio.Lock()
        """Held while something is made."""
        self._rest_until = -math.inf
        """Nothing is made before: as long as the last one took, the time is for names."""
        self._locks: WeakValueDictionary[object, trio.Lock] = WeakValueDictionary()
        """Of a body, by its key: one makes it for all. Of a sandbox: it waits for one at a time."""
        self._next_large: dict[SandboxId, float] = {}
        """When each sandbox may have another large answer."""
        self._changed = trio.Event()
        self._seen = source.version
        self._counts: Counter[str] = Counter()

    # --- listeners ----------------------------------------------------------------------------------------------

    def add_listener(self, sandbox_id: SandboxId, listener: socket.socket) -> None:
        """Answer on this socket, which belongs to the server from here on. OSError: it is closed."""
        self.remove_listener(sandbox_id)
        try:
            self._epoll.register(listener, select.EPOLLIN)
        except OSError:  # the user's bound of watches is reached
            listener.close()
            raise
        self._listeners[sandbox_id] = listener
        self._sandbox_of[listener.fileno()] = sandbox_id

    def remove_listener(self, sandbox_id: SandboxId) -> None:
        """Close a sandbox's listener and connections."""
        listener = self._listeners.pop(sandbox_id, None)
        if listener is not None:
            self._epoll.unregister(listener)
            del self._sandbox_of[listener.fileno()]
            listener.close()
        self._next_large.pop(sandbox_id, None)
        for connection in self._connections.get(sandbox_id, ()):
            connection.scope.cancel()

    def sandboxes(self) -> frozenset[SandboxId]:
        """Return the sandboxes with a listener."""
        return frozenset(self._listeners)

    def note_change(self) -> None:
        """Wake what waits for a change of the source, if there is one."""
        if self._seen != self._source.version:
            self._seen = self._source.version
            self._changed.set()
            self._changed = trio.Event()

    def statistics(self) -> dict[str, int]:
        """Return counters."""
        return {
            "feed_listeners": len(self._listeners),
            "feed_connections": sum(map(len, self._connections.values())),
            **{f"feed_{name}": count for name, count in self._counts.items()},
        }

    # --- connections --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    await trio.lowlevel.wait_readable(self._epoll.fileno())
                    # Level-triggered: the kernel moves those that it has reported to the end of its list.
                    for descriptor, _ in self._epoll.poll(0, _ROUND):
                        self._accept(self._sandbox_of[descriptor], nursery)
                    await trio.sleep(_ROUND_S)
        finally:
            for sandbox_id in tuple(self._listeners):
                self.remove_listener(sandbox_id)
            self._epoll.close()

    def _accept(self, sandbox_id: SandboxId, nursery: trio.Nursery) -> None:
        try:
            sock, _ = self._listeners[sandbox_id].accept()
        except OSError:  # gone already, or no descriptor is left: the next round tries again
            self._counts["accept_errors"] += 1
            return
        own = self._connections.setdefault(sandbox_id, {})
        if len(own) >= MAX_OF_SANDBOX or not self._has_room(own):
            self._counts["refused"] += 1
            sock.close()
            if not own:
                del self._connections[sandbox_id]
            return
        sock.setblocking(False)
        connection = _Connection(sandbox_id, trio.socket.from_stdlib_socket(sock))
        own[connection] = None
        nursery.start_soon(self._serve, connection)

    def _has_room(self, own: Mapping[_Connection, None]) -> bool:
        """Make room for one more, if another container has more than the one that asks."""
        if sum(map(len, self._connections.values())) < MAX_CONNECTIONS:
            return True
        most = max(self._connections.values(), key=len)
        oldest: _Connection | None = next(iter(most))
        if len(most) <= len(own) + 1:
            # A watcher comes back when it is closed; without this, as many of them would keep all others out.
            watching = (one for each in self._connections.values() for one in each if one.is_watching)
            oldest = None if own else min(watching, key=lambda one: one.began, default=None)
        if oldest is None:
            return False
        most = self._connections[oldest.sandbox_id]
        oldest.scope.cancel()
        del most[oldest]  # at once: its task may take a while to end
        self._counts["displaced"] += 1
        return True

    async def _serve(self, connection: _Connection) -> None:
        try:
            with connection.scope, connection.sock:
                await self._converse(connection)
        except OSError:
            self._counts["broken"] += 1
        except Exception:
            # A fault in a feed must cost one answer, not the names of every container on the host.
            self._counts["internal_errors"] += 1
            _log.exception("a feed for sandbox %s failed", connection.sandbox_id)
        finally:
            own = self._connections.get(connection.sandbox_id, {})
            own.pop(connection, None)
            if not own:
                self._connections.pop(connection.sandbox_id, None)

    async def _converse(self, connection: _Connection) -> None:
        try:
            request = await self._read(connection.sock)
            if request is None:
                return
            body = await self._body_for(request, connection)
        except RequestError as error:
            self._counts["refusals"] += 1
            await self._say_no(connection.sock, error)
        else:
            if request.watch:
                await self._watch(connection, body)
            else:
                if body.size > _LARGE_BYTES:
                    await self._wait_turn(connection.sandbox_id)
                await self._answer(connection.sock, request, body)
        await _say_goodbye(connection.sock)

    async def _read(self, sock: trio.socket.SocketType) -> FeedRequest | None:
        reader = RequestReader()
        with trio.move_on_after(_REQUEST_S):
            while data := await sock.recv(4096):
                request = reader.receive_untrusted(data)
                if request is not None:
                    return request
                await trio.sleep(_READ_PAUSE_S)
            return None
        raise RequestError(408, f"no request came within {_REQUEST_S:g} s")

    async def _body_for(self, request: FeedRequest, connection: _Connection) -> _Body:
        if request.feed not in FEEDS:
            raise RequestError(
                404, f"there is no such feed: known are {', '.join('/' + one for one in FEEDS)}"
            )
        if request.watch:
            if request.feed != "services":
                raise RequestError(400, "only /services can be watched")
            watching = sum(one.is_watching for one in self._connections[connection.sandbox_id])
            if watching >= MAX_WATCHERS:
                raise RequestError(503, f"{MAX_WATCHERS} connections of this container watch already")
            connection.is_watching = True
        if request.through_services and request.feed in FEEDS_OF_REPLICAS:
            raise RequestError(400, f"/{request.feed} has no upstream=service: it watches each replica")
        networks = self._networks_of(connection.sandbox_id)
        with trio.move_on_after(_COMPLETE_S):
            while not self._source.is_complete(networks) and self._away_s() is None:
                await self._changed.wait()
                networks = self._networks_of(connection.sandbox_id)
        if request.through_services:
            self._refuse_untranslated(connection.sandbox_id)
            connection.through_services = True
        try:
            with trio.move_on_after(_ANSWER_S):
                if request.watch:
                    await self._wait_turn(connection.sandbox_id)
                feed = WATCHED if request.watch else request.feed
                if request.through_services and request.feed != "services":  # which has both
                    feed += _THROUGH_SERVICES
                return await self._body(feed, networks, connection.sandbox_id)
        except IncompleteError:
            reason = "this host does not know yet all that is in the networks of this container"
            raise RequestError(503, reason) from None
        raise RequestError(503, f"the feed could not be made within {_ANSWER_S:g} s")

    def _refuse_untranslated(self, sandbox_id: SandboxId) -> None:
        """Raise RequestError if the kernel would not lead this container on from services' own addresses."""
        if names := self._source.untranslated(sandbox_id):
            raise RequestError(
                409,
                f"addresses of services in {', '.join(names[:5])} are not translated for this container: see "
                "`netagent status` on its host, or ask without upstream=service",
            )

    def _networks_of(self, sandbox_id: SandboxId) -> Networks:
        """Return the networks that a sandbox is in now, and want their feeds."""
        networks = self._source.networks_of(sandbox_id)
        if self._source.want(networks):
            self._note_wanted()
        return networks

    async def _answer(self, sock: trio.socket.SocketType, request: FeedRequest, body: _Body) -> None:
        self._counts["answers"] += 1
        head = self._head(200, "application/json", {"Content-Length": str(body.size)})
        with trio.move_on_after(_ANSWER_S):
            for part in (head, *(() if request.is_head else body.parts)):
                await _send(sock, part)

    async def _say_no(self, sock: trio.socket.SocketType, error: RequestError) -> None:
        text = f"{error}\n".encode("ascii", "replace")
        fields = {"Content-Length": str(len(text))}
        if error.status == 503:
            fields["Retry-After"] = "5"
        await _send(sock, self._head(error.status, "text/plain", fields) + text)

    def _head(self, status: int, kind: str, fields: Mapping[str, str]) -> bytes:
        away_s = self._away_s()
        age = {} if away_s is None else {"X-Netagent-Age": str(int(away_s))}
        fields = {"Content-Type": kind, "Connection": "close", "Cache-Control": "no-store", **age, **fields}
        lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}"]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")

    # --- watching -----------------------------------------------------------------------------------------------

    async def _watch(self, connection: _Connection, body: _Body) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_wait_closed, connection.sock, nursery.cancel_scope)
            with contextlib.suppress(OSError):  # the reader has closed, or reads nothing
                await self._send_changes(connection, body)
            nursery.cancel_scope.cancel()

    async def _wait_turn(self, sandbox_id: SandboxId) -> None:
        at = max(trio.current_time(), self._next_large.get(sandbox_id, -math.inf))
        self._next_large[sandbox_id] = at + _LARGE_S
        await trio.sleep_until(at)

    async def _send_changes(self, connection: _Connection, body: _Body) -> None:
        """Send the items, then what changes, as lines, and an empty one after each time without a change."""
        head = self._head(200, "application/x-ndjson", {})
        await _send_within(_ANSWER_S, connection.sock, (head, *body.parts))
        while (next_one := await self._next_body(connection, body)) is not None:
            await _send_within(_CHANGE_S, connection.sock, await self._news(body, next_one))
            body = next_one

    async def _news(self, before: _Body, after: _Body) -> Sequence[bytes]:
        """Return what is new to a watcher: for all but slow ones that is made already."""
        if after.before == before.version:
            return after.news
        async with self._maker():
            return await in_slices(_news(before.items, after.items))

    async def _next_body(self, connection: _Connection, body: _Body) -> _Body | None:
        """Wait for a body that may be another one. None: the container has left its networks, or what it was promised
        holds no more."""
        while True:
            networks = self._networks_of(connection.sandbox_id)
            if not networks:
                return None
            if connection.through_services and self._source.untranslated(connection.sandbox_id):
                return None
            if self._source.is_complete(networks) and self._source.version_of(networks) != body.version:
                await trio.sleep_until(body.made_at + _FRESH_S)  # until then it would be the same one
                with contextlib.suppress(IncompleteError):
                    return await self._body(WATCHED, networks, connection.sandbox_id)
                continue
            waiting = self._changed
            with trio.move_on_after(_HEARTBEAT_S) as scope:
                await waiting.wait()
            if scope.cancelled_caught:
                await _send(connection.sock, b"\n")

    # --- bodies -------------------------------------------------------------------------------------------------

    async def _body(self, feed: str, networks: Networks, sandbox_id: SandboxId) -> _Body:
        key = feed, networks
        if (known := self._fresh(key)) is not None:
            return known
        async with self._lock(sandbox_id), self._lock(key):
            if (known := self._fresh(key)) is not None:
                return known
            async with self._maker():
                made = await self._make(feed, networks)
            self._bodies.pop(key, None)
            self._bodies[key] = made
            kept = sum(one.kept_bytes for one in self._bodies.values())
            while len(self._bodies) > 1 and (len(self._bodies) > MAX_BODIES or kept > MAX_BODIES_BYTES):
                kept -= self._bodies.pop(next(iter(self._bodies))).kept_bytes
            return made

    def _lock(self, of: object) -> trio.Lock:
        if (lock := self._locks.get(of)) is None:
            lock = self._locks[of] = trio.Lock()
        return lock

    def _fresh(self, key: tuple[str, Networks]) -> _Body | None:
        """Return the body if it need not be made. IncompleteError, also if it was whole once."""
        if not self._source.is_complete(key[1]):
            raise IncompleteError
        known = self._bodies.get(key)
        if known is None:
            return None
        is_same = known.version == self._source.version_of(key[1])
        if not is_same and trio.current_time() - known.made_at >= _FRESH_S:
            return None
        self._bodies[key] = self._bodies.pop(key)  # asked for last
        return known

    @contextlib.asynccontextmanager
    async def _maker(self) -> AsyncIterator[None]:
        """Make something inside: one at a time, and for at most half of the time, also if it is cancelled."""
        async with self._making:
            await trio.sleep_until(self._rest_until)
            began = trio.current_time()
            # A feed of ten thousand endpoints is a million objects without a circle. Looking through them for
            # garbage would take a hundred milliseconds, in which no name is answered.
            gc.disable()
            try:
                yield
            finally:
                gc.enable()
                now = trio.current_time()
                self._rest_until = now + min(now - began, _FRESH_S)

    async def _make(self, feed: str, networks: Networks) -> _Body:
        # The version is that from before: what changes meanwhile is in the next one.
        version = self._source.version_of(networks)
        self._counts["bodies"] += 1
        if feed != WATCHED:
            parts = tuple(await in_slices(self._parts(feed, networks)))
            return _Body(parts, version, trio.current_time(), kept_bytes=sum(map(len, parts)))
        before = self._bodies.get((feed, networks))
        items = await in_slices(self._items(networks))
        parts = tuple(await in_slices(_news({}, items, SYNCED)))
        news = () if before is None else tuple(await in_slices(_news(before.items, items)))
        return _Body(
            parts,
            version,
            trio.current_time(),
            items,
            None if before is None else before.version,
            news,
            # The items are in the lines once more.
            kept_bytes=2 * sum(map(len, parts)) + sum(map(len, news)),
        )

    def _items(self, networks: Networks) -> Slices[dict[str, str]]:
        table = yield from self._source.table(networks, "")
        items = yield from encoded_items(table)
        endpoints = list(table.endpoints)
        del table
        yield from freed(endpoints)
        return items

    def _parts(self, feed: str, networks: Networks) -> Slices[list[bytes]]:
        url = f"http://{FEED_ADDRESS[0]}:{FEED_ADDRESS[1]}/{feed}"
        table = yield from self._source.table(networks, url)
        name, through, _ = feed.partition(_THROUGH_SERVICES)
        if through:
            table = yield from through_services(table)
        body = yield from FEEDS[name](table)
        endpoints = list(table.endpoints)
        del table
        yield from freed(endpoints)
        texts = yield from encoded(body.value)
        yield from freed(body.value)
        return (yield from _octets(texts))


def _news(before: Mapping[str, str], after: Mapping[str, str], end: str = "") -> Slices[list[bytes]]:
    lines = yield from changes(before, after)
    return (yield from _octets([*lines, end]))


def _octets(texts: list[str]) -> Slices[list[bytes]]:
    """Return texts as parts of some size. Empties the list on the way."""
    parts: list[bytes] = []
    texts.reverse()
    while texts:
        some: list[bytes] = []
        size = 0
        while texts and size < _PART_BYTES:
            some.append(texts.pop().encode())
            size += len(some[-1])
        parts.append(b"".join(some))
        yield
    return parts


async def _send(sock: trio.socket.SocketType, data: bytes) -> None:
    """Send all of it. OSError if the reader has closed, or takes nothing for _STALL_S."""
    rest = memoryview(data)
    while rest:
        with trio.move_on_after(_STALL_S) as scope:
            rest = rest[await sock.send(rest) :]
        if scope.cancelled_caught:
            raise TimeoutError


async def _send_within(limit_s: float, sock: trio.socket.SocketType, parts: Iterable[bytes]) -> None:
    """Send all parts. OSError as `_send`, or if all of them take longer than that."""
    with trio.move_on_after(limit_s) as scope:
        for part in parts:
            await _send(sock, part)
    if scope.cancelled_caught:
        raise TimeoutError


async def _wait_closed(sock: trio.socket.SocketType, scope: trio.CancelScope) -> None:
    """Cancel when the reader closes, or sends something more: only one request is answered."""
    with contextlib.suppress(OSError):
        await sock.recv(1)
    scope.cancel()


async def _say_goodbye(sock: trio.socket.SocketType) -> None:
    sock.shutdown(socket.SHUT_WR)
    with trio.move_on_after(_GOODBYE_S):
        while await sock.recv(_PART_BYTES):
            await trio.sleep(_READ_PAUSE_S)
