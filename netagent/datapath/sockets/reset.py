"""Ends the sockets in a network namespace that lead to backends which are gone.

A connection to a backend that is gone would hang until its program sends, and then for minutes more: no host is left
that could refuse it. So the kernel is asked to end it, which wakes whatever waits at it with ECONNABORTED, a
`connect` that is still under way as well; the program connects again and is led to another backend.

Which sockets these are is decided by their real peer, which `ss` shows as well. A TCP socket must have come by a
service address in addition: the program that led it there has noted the backend and the service at the socket, in
its storage, and the kernel lists that with it. A connection to the backend's own address stays. The kernel does not
list the storage of UDP sockets, so a connected one is ended by its peer alone. One that is not connected has no peer
and is never ended: its next datagram goes to another backend.

First all are listed, then they are ended, because acknowledgements in between would be taken for parts of the list.
A listing goes through the table of all sockets of the host, which takes a millisecond or two for each namespace. So
it is done in threads beside each other, and only in the namespaces whose programs were led to such a backend.

The tables in the kernel have to be changed before. A `connect` that has read the old table may not be listed yet, so
each address is looked for once more a little later. After a start of the agent it may not be known yet where all
namespaces are that have used services; then each address is looked for until they are, for some seconds.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence, Set
from contextlib import closing
from functools import partial
from typing import Final, NamedTuple

import trio

from netagent.datapath.endpoint.netns import run_in_each_netns
from netagent.datapath.netlink.sock_diag import (
    ListedSocket,
    Protocol,
    SockDiagError,
    SocketQuery,
    State,
    answer_untrusted,
    ending,
    listing,
    mapped,
    no_socket_key,
)
from netagent.datapath.sockets.layout import ORIGINS_BYTES, unpack_origins
from netagent.errors import RefusedError
from netagent.log import Limited
from netagent.model.sandbox import Netns

_log = logging.getLogger(__name__)
_limited = Limited(_log)

AGAIN_S: Final = 0.25
"""For a thread that the scheduler stops between reading the table and sending: longer than it is left waiting."""
PATIENCE_S: Final = 10.0
"""So long an address is looked for at most while not all namespaces are known: as long as a start may take to find
them (netagent.projection.service_members)."""
RETRY_S: Final = 1.0
"""Pause after a look that could not be everywhere."""
MOST_ADDRESSES: Final = 65_536
"""Bound of gone backends whose sockets are looked for at once; beyond it: sockets to the others are not ended, as on
a kernel that can't do it."""

_NETLINK_SOCK_DIAG: Final = 4
_SOL_NETLINK, _NETLINK_CAP_ACK = 270, 10
_RECEIVE_BYTES: Final = 1 << 16
"""More than the kernel puts into one datagram of a listing."""
_THREADS: Final = min(4, os.cpu_count() or 1)
"""That visit namespaces beside each other. The kernel works for them, so the interpreter does not keep them apart."""
_ANSWER_S: Final = 5.0
"""The kernel answers inside the system call; this ends the wait for an answer that was lost."""
_AT_ONCE: Final = 64
"""Requests per `send`: as many acknowledgements fit into the socket's buffer."""
MOST_SOCKETS: Final = 65_536
"""Bound of sockets that are noted in one listing; beyond it: the others are ended after the next one."""
_MOST_LISTINGS: Final = 16
"""Of a namespace in which programs go on making connections that have to end."""

_TCP_STATES: Final = tuple(State)
_UDP_STATES: Final = (State.ESTABLISHED,)
_GONE: Final = {errno.ENOENT, errno.ESTALE}
"""Ended by itself meanwhile; another socket has its addresses."""


class ServiceUsers(NamedTuple):
    """The namespaces whose programs were led to a backend by a service address; others may be among them."""

    namespaces: Sequence[Netns]
    are_all: bool
    """False: further ones were, and it is not known yet which these are."""


class ConnectionResets:
    """Ends sockets that lead to gone backends, in all sandboxes that were led there. One task: `run`."""

    def __init__(
        self, users: Callable[[Collection[bytes]], Awaitable[ServiceUsers]], origins: Callable[[], int | None]
    ) -> None:
        """`origins` returns the descriptor of the map in which the programs in the kernel note origins; None: there
        is none yet."""
        self._users = users
        self._origins = origins
        self._noted: dict[bytes, float] = {}
        """Gone addresses, and when each was noted."""
        self._wake = trio.Event()
        self._trouble: str | None = None
        self._ended = 0

    @property
    def trouble(self) -> str | None:
        """Why connections to gone backends are not ended on this host; None: they are."""
        return self._trouble

    @property
    def ended(self) -> int:
        """How many sockets were ended since the start."""
        return self._ended

    def note_gone(self, addresses: Iterable[bytes]) -> None:
        """End the sockets that lead to these packed addresses. No table in the kernel may name them any more."""
        now = trio.current_time()
        for address in addresses:
            if len(self._noted) >= MOST_ADDRESSES and address not in self._noted:
                _limited.warning("many", f"resets: more than {MOST_ADDRESSES} backends are gone at once")
                break
            self._noted[address] = now
        self._wake.set()

    def note_back(self, addresses: Iterable[bytes]) -> None:
        """Let connections to these addresses live: they are backends again."""
        for address in addresses:
            self._noted.pop(address, None)

    async def run(self) -> None:
        """Work until cancelled."""
        self._trouble = await trio.to_thread.run_sync(why_it_cannot_reset)
        if self._trouble:
            _log.warning("resets: connections to backends that are gone are not ended: %s", self._trouble)
        while True:
            if not self._noted:
                await self._wake.wait()
            self._wake = trio.Event()
            began = trio.current_time()
            was_everywhere = self._trouble is not None or await self._reset(frozenset(self._noted))
            # What was noted meanwhile has a later time.
            kept_s = AGAIN_S if was_everywhere else PATIENCE_S
            self._noted = {address: at for address, at in self._noted.items() if at + kept_s > began}
            if self._noted:
                due = min(self._noted.values()) + AGAIN_S
                with trio.move_on_at(due if was_everywhere else max(due, began + RETRY_S)):
                    await self._wake.wait()

    async def _reset(self, gone: frozenset[bytes]) -> bool:
        """Look once; return whether that was in all namespaces that were led there."""
        try:
            users = await self._users(gone)
        except OSError as error:
            _limited.warning("users", f"resets: connections may hang: {error}")
            return False
        visit = partial(reset_connections, gone, self._origins())
        for result in await _visit_each(users.namespaces, visit):
            if isinstance(result, int):
                self._ended += result
            elif isinstance(result, OSError) and result.errno not in {errno.ENOENT, errno.ESRCH}:
                # Another sandbox may have been luckier.
                _limited.warning("failed", f"resets: connections may hang: {result}")
        return users.are_all


async def _visit_each(
    namespaces: Sequence[Netns], visit: Callable[[], int]
) -> list[int | RefusedError | OSError]:
    """Call the function in each namespace, in several threads."""
    results: list[int | RefusedError | OSError] = []

    async def visit_share(share: Sequence[Netns]) -> None:
        results.extend(await run_in_each_netns((netns, visit) for netns in share))

    async with trio.open_nursery() as nursery:
        for number in range(min(_THREADS, len(namespaces))):
            nursery.start_soon(visit_share, namespaces[number::_THREADS])
    return results


def reset_connections(gone: Collection[bytes], origins: int | None) -> int:
    """End the sockets that lead to backends that are gone, in the calling thread's namespace; return their number.

    `gone`: packed addresses. `origins`: descriptor of the map of origins; None: no TCP connection came by a service.
    OSError when the kernel refuses, or its answer can't be understood.
    """
    try:
        with closing(_Conversation()) as kernel:
            return _reset(kernel, gone, origins)
    except SockDiagError as error:
        raise OSError(errno.EBADMSG, f"sock_diag: {error}") from error


def _reset(kernel: _Conversation, gone: Collection[bytes], origins: int | None) -> int:
    peers, old = tuple(gone), tuple(address for address in gone if len(address) == 4)
    # An IPv4 backend may be the peer of a socket of either family. UDP's table of sockets is small.
    queries = [SocketQuery(socket.AF_INET6, Protocol.UDP, _UDP_STATES, peers)]
    if old:
        queries.append(SocketQuery(socket.AF_INET, Protocol.UDP, _UDP_STATES, old))
    if origins is not None:
        queries.insert(0, SocketQuery(None, Protocol.TCP, _TCP_STATES, peers, origins))
    return sum(kernel.end_all(query) for query in queries)


def why_it_cannot_reset() -> str | None:
    """Return why this host's kernel can't end sockets; None: it can. Touches no socket."""
    try:
        with closing(_Conversation()) as kernel:
            for protocol in Protocol:
                reason = kernel.why_not(protocol)
                if reason:
                    return reason
    except (OSError, SockDiagError) as error:
        return f"sock_diag does not answer: {error}"
    return None


class _Conversation:
    """A sock_diag socket of the calling thread's namespace, with one request under way at a time."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG
        )
        try:
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
            self._socket.settimeout(_ANSWER_S)
            self._socket.bind((0, 0))
        except OSError:
            self._socket.close()
            raise
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def end_all(self, query: SocketQuery) -> int:
        """List and end until nothing is left that has to end."""
        count = 0
        for _ in range(_MOST_LISTINGS):
            found, is_all = self._list(query)
            count += self._end(query, found)
            if is_all:
                break
        return count

    def why_not(self, protocol: Protocol) -> str | None:
        family = None if protocol is Protocol.TCP else socket.AF_INET6  # as `_reset` asks
        self._send([listing(SocketQuery(family, protocol, (), ()), self._next())])
        (error,) = self._finished({self._sequence}).values()
        if error:
            return f"the kernel lists no {protocol.name} sockets: {os.strerror(error)}"
        self._send([ending(socket.AF_INET6, protocol, no_socket_key(), self._next())])
        (error,) = self._finished({self._sequence}).values()
        if error == errno.EOPNOTSUPP:
            return "the kernel was built without CONFIG_INET_DIAG_DESTROY"
        if error not in {0, *_GONE}:
            return f"the kernel ends no {protocol.name} sockets: {os.strerror(error)}"
        return None

    def _list(self, query: SocketQuery) -> tuple[list[ListedSocket], bool]:
        """Return what has to end, and whether these are all."""
        wanted = {mapped(peer) for peer in query.peers}
        found: list[ListedSocket] = []
        is_all = True
        self._send([listing(query, self._next())])
        for one in self._listed():
            if one.peer in wanted and (query.storage_map is None or _came_by_service(one)):
                if len(found) < MOST_SOCKETS:
                    found.append(one)
                else:
                    is_all = False
        return found, is_all

    def _end(self, query: SocketQuery, found: Sequence[ListedSocket]) -> int:
        count = 0
        for start in range(0, len(found), _AT_ONCE):
            requests = {self._next(): one for one in found[start : start + _AT_ONCE]}
            self._send(
                [ending(one.family, query.protocol, one.key, number) for number, one in requests.items()]
            )
            for error in self._finished(requests.keys()).values():
                if error == 0:
                    count += 1
                elif error not in _GONE | {errno.EOPNOTSUPP}:  # not supported: it waits in TIME_WAIT by now
                    raise OSError(error, f"sock_diag: {os.strerror(error)}")
        return count

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence

    def _send(self, requests: Sequence[bytes]) -> None:
        self._socket.send(b"".join(requests))

    def _listed(self) -> Iterator[ListedSocket]:
        while True:
            sockets, finished = answer_untrusted(self._socket.recv(_RECEIVE_BYTES))
            yield from sockets
            if self._sequence in finished:
                error = finished[self._sequence]
                if error:
                    raise OSError(error, f"sock_diag: {os.strerror(error)}")
                return

    def _finished(self, sequences: Set[int]) -> dict[int, int]:
        """Return the error number of each of these requests; 0: done."""
        results: dict[int, int] = {}
        while sequences - results.keys():
            finished = answer_untrusted(self._socket.recv(_RECEIVE_BYTES)).finished
            results.update((number, error) for number, error in finished.items() if number in sequences)
        return results


def _came_by_service(one: ListedSocket) -> bool:
    """Return whether an origin is noted for the socket's real peer."""
    if one.storage is None or len(one.storage) != ORIGINS_BYTES:
        return False
    return any(
        (mapped(origin.backend.address), origin.backend.port) == (one.peer, one.peer_port)
        for origin in unpack_origins(one.storage)
    )
