"""The agent's side of the conversation with the resolver process, without I/O.

The desired state (a table, and the sandboxes whose sockets should be answered on) is kept; the process's state is
learned anew on each connection. The difference is sent. So it makes no difference whether the agent, the process or
the connection was away, or what was wanted in the meantime:

    connected ─ HELLO ─► WELCOME(s) ─► sockets that only the process has are FETCHed (the agent is new)
                                    ─► the whole table, then changes to it
                                    ─► sockets that only we have are sent (the process is new)

Both sides hold copies of every socket. As long as one of them exists, the socket does, and the kernel keeps queries
that arrive meanwhile: if the process is replaced before stub resolvers give up, no query is lost.

Until the agent has a table, it sends nothing about tables: an agent that has just started knows less than the
process, and must not remove rows that it does not know yet.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TypeAlias

from netagent.model.ids import NetworkId
from netagent.model.sandbox import SandboxId
from netagent.resolver.feed_source import MAX_WANTED
from netagent.resolver.name_table import Change, Key, Table, changes_between
from netagent.resolver.protocol import (
    VERSION,
    AgentHello,
    Begin,
    Close,
    Commit,
    Count,
    Done,
    FetchedSockets,
    FetchSockets,
    FollowWanted,
    Listen,
    ProcessWelcome,
    ProtocolError,
    Refused,
    Reply,
    StandInAt,
    Statistics,
    Wanted,
    parse_reply_untrusted,
    request_bytes,
    rows_messages,
)


@dataclass(frozen=True, slots=True)
class ProcessMessage:
    """A message to send; with the sockets of `sockets_of`, if given."""

    payload: bytes
    sockets_of: SandboxId | None = None


class _Phase(enum.Enum):
    AWAY = enum.auto()
    GREETING = enum.auto()
    TALKING = enum.auto()
    OUTDATED = enum.auto()
    """The process is of another release: only its sockets are of interest, then it will be replaced."""


@dataclass(frozen=True, slots=True)
class _SentTable:
    table: Table
    revision: int


@dataclass(frozen=True, slots=True)
class _Held:
    added: int
    """The number of the command that added it."""
    behind_runtime: bool


@dataclass(frozen=True, slots=True)
class _SentSockets:
    sandbox_id: SandboxId
    held: _Held


_Awaited: TypeAlias = AgentHello | Close | FetchSockets | Count | FollowWanted | _SentSockets | _SentTable


class Conversation:
    """Commands set what is wanted, `handle_reply_untrusted` takes what the process said; `drain` is what to send.

    `release` is this program's version: a process of another release is replaced. `http`: the address of the agent's
    listener, for the time when the agent is away.
    """

    def __init__(self, release: str, http: str = "") -> None:
        self._release = release
        self._http = http
        self._phase = _Phase.AWAY
        self._sequence = 0
        self._outgoing: list[Iterable[ProcessMessage]] = []
        self._waiting: dict[int, _Awaited] = {}
        self._asked: set[SandboxId] = set()  # sandboxes with a request in flight
        self._fetching: set[SandboxId] = set()
        self._table_on_its_way = False
        self._table: Table | None = None
        self._sent: Table | None = None
        self._touched: set[Key] | None = None
        """Keys at which the wanted table may differ from the one sent last; None: anywhere."""
        self._revision = 0
        self._settled = 0
        self._held: dict[SandboxId, _Held] = {}
        self._taken: dict[SandboxId, _Held] = {}  # what the process is known to have taken, on any connection
        self._dropped: set[SandboxId] = set()
        self._there: set[SandboxId] = set()
        self.refused: dict[SandboxId, str] = {}
        """Sandboxes whose sockets the process refused, and why. No longer held."""
        self.statistics: dict[str, int] = {}
        """The process's counters, as last received."""
        self.wanted: frozenset[NetworkId] = frozenset()
        """Networks whose feeds containers have asked for, as the process named them last."""
        self._naming: set[NetworkId] = set()
        """Those of a list of which more is to come."""
        self.counted = 0
        """How often they were received."""
        self.replies = 0
        """Number of answers on this connection: a sign of life."""

    # --- what is wanted -----------------------------------------------------------------------------------------

    def set_table(self, table: Table, touched: Collection[Key] | None = None) -> int:
        """Want this table, which differs from the one wanted before only at `touched` keys (None: anywhere). Return
        its revision, to compare with `settled_revision`."""
        if touched is None:
            self._touched = None
        elif self._touched is not None:
            self._touched.update(touched)
        self._table = table
        self._revision += 1
        self._pump()
        return self._revision

    def add_sandbox(self, sandbox_id: SandboxId, *, behind_runtime: bool = False) -> None:
        """Want answers on this sandbox's sockets. If called again: the sockets are other ones."""
        self._held[sandbox_id] = _Held(self._next(), behind_runtime)
        self._dropped.discard(sandbox_id)
        self._there.discard(sandbox_id)
        self.refused.pop(sandbox_id, None)
        self._pump()

    def remove_sandbox(self, sandbox_id: SandboxId) -> None:
        """Want the sockets of this sandbox closed."""
        self._held.pop(sandbox_id, None)
        self._taken.pop(sandbox_id, None)
        self.refused.pop(sandbox_id, None)
        if self._phase is not _Phase.TALKING or sandbox_id in self._there | self._asked:
            self._dropped.add(sandbox_id)
        self._pump()

    def count(self) -> None:
        """Ask for the process's counters, unless a request is in flight."""
        if self._phase is _Phase.TALKING and not any(
            isinstance(one, Count) for one in self._waiting.values()
        ):
            self._ask(Count(self._next()))

    # --- what holds ---------------------------------------------------------------------------------------------

    @property
    def settled_revision(self) -> int:
        """The revision of the table that the process is known to have."""
        return self._settled

    @property
    def is_talking(self) -> bool:
        """Whether the process runs, is of our release, and all its sockets are known to us."""
        return self._phase is _Phase.TALKING and not self._fetching

    @property
    def must_replace(self) -> bool:
        """Whether the process is of another release and has handed over all its sockets."""
        return self._phase is _Phase.OUTDATED and not self._fetching

    @property
    def sandbox_ids(self) -> frozenset[SandboxId]:
        """Sandboxes whose sockets we hold."""
        return frozenset(self._held)

    def is_behind_runtime(self, sandbox_id: SandboxId) -> bool:
        """Whether the sandbox was last added as one with a runtime's resolver in it."""
        return sandbox_id in self._held and self._held[sandbox_id].behind_runtime

    def is_served(self, sandbox_id: SandboxId) -> bool:
        """Whether the process is known to have the sandbox's sockets."""
        return sandbox_id in self._there and sandbox_id in self._held

    def is_gone(self, sandbox_id: SandboxId) -> bool:
        """Whether the process is known to have closed the sandbox's sockets, or is not there."""
        return self._phase is not _Phase.TALKING or sandbox_id not in self._dropped | self._there

    # --- the conversation ---------------------------------------------------------------------------------------

    def connected(self) -> None:
        """Note a connection to a process; either side may be new."""
        self.disconnected()
        self._phase = _Phase.GREETING
        self._ask(AgentHello(self._next(), VERSION, self._release))

    def disconnected(self) -> None:
        """Note that the connection is gone; what the process has is unknown."""
        self._phase = _Phase.AWAY
        self._outgoing.clear()
        self._waiting.clear()
        self._asked.clear()
        self._fetching.clear()
        self._table_on_its_way = False
        self._there.clear()
        self._sent = self._touched = None
        self._naming.clear()
        self.replies = 0

    def drain(self) -> Iterator[ProcessMessage]:
        """Yield what to send, in order; a second call yields nothing. A message is encoded only when it is requested:
        a table of thousands of rows has many, and other tasks may run between two."""
        outgoing, self._outgoing = self._outgoing, []
        return chain.from_iterable(outgoing)

    def handle_reply_untrusted(self, payload: bytes, *, has_sockets: bool) -> SandboxId | None:
        """Take an answer. Return the sandbox whose sockets came with it and are now ours to keep.

        Raises ProtocolError for an answer that makes no sense; then the connection is useless.
        """
        reply = parse_reply_untrusted(payload)
        request = self._waiting.get(reply.sequence)
        self.replies += 1
        taken: SandboxId | None = None
        if isinstance(request, Close | FetchSockets | _SentSockets):
            taken = self._handle_sandbox_reply(request, reply, has_sockets=has_sockets)
        else:
            self._handle_reply(request, reply)
        if not (isinstance(reply, Wanted) or (isinstance(reply, ProcessWelcome) and reply.more)):
            self._waiting.pop(reply.sequence, None)
        self._pump()
        return taken

    def _handle_reply(
        self, request: AgentHello | Count | FollowWanted | _SentTable | None, reply: Reply
    ) -> None:
        match request, reply:
            case AgentHello(), ProcessWelcome():
                self._welcome(reply)
            case _SentTable(table, revision), Done():
                self._sent, self._settled, self._table_on_its_way = table, revision, False
            case Count(), Statistics():
                self.statistics = dict(reply.counters)
                self.counted += 1
            case FollowWanted(), Wanted():
                self._name_wanted(reply)
            case _, Refused():
                raise ProtocolError(f"the resolver process refused: {reply.reason}")
            case _:
                raise ProtocolError(f"unexpected answer {type(reply).__name__}")

    def _handle_sandbox_reply(
        self, request: Close | FetchSockets | _SentSockets, reply: Reply, *, has_sockets: bool
    ) -> SandboxId | None:
        sandbox_id = request.sandbox_id
        self._asked.discard(sandbox_id)
        self._fetching.discard(sandbox_id)
        match request, reply:
            case _SentSockets(held=held), Done():
                if self._held.get(sandbox_id) == held:
                    self._there.add(sandbox_id)
                    self._taken[sandbox_id] = held
            case _SentSockets(held=held), Refused():
                if self._held.get(sandbox_id) == held:
                    self.refused[sandbox_id] = reply.reason
                    del self._held[sandbox_id]
            case Close(), Done() | Refused():
                self._there.discard(sandbox_id)
                self._dropped.discard(sandbox_id)
            case FetchSockets(), FetchedSockets() if has_sockets and reply.sandbox_id == sandbox_id:
                return self._fetched(reply)
            case FetchSockets(), Refused():
                self._there.discard(sandbox_id)
            case _:
                raise ProtocolError(f"unexpected answer {type(reply).__name__}")
        return None

    def _welcome(self, welcome: ProcessWelcome) -> None:
        # A sandbox added again while there was no connection must be sent, though the process has older sockets of
        # it.
        self._there.update(one for one in welcome.sandbox_ids if self._taken.get(one) == self._held.get(one))
        if welcome.more:
            return
        same = welcome.version == VERSION and welcome.release == self._release
        self._phase = _Phase.TALKING if same else _Phase.OUTDATED
        if same:
            self._outgoing.append([ProcessMessage(request_bytes(StandInAt(self._next(), self._http)))])
            self._ask(FollowWanted(self._next()))
        for sandbox_id in sorted(self._there - self._held.keys() - self._dropped):
            self._fetching.add(sandbox_id)
            self._ask_about(sandbox_id, FetchSockets(self._next(), sandbox_id))

    def _name_wanted(self, reply: Wanted) -> None:
        self._naming.update(reply.networks)
        if len(self._naming) > MAX_WANTED:
            raise ProtocolError(f"feeds of more than {MAX_WANTED} networks are wanted")
        if not reply.more:
            self.wanted = frozenset(self._naming)
            self._naming.clear()

    def _fetched(self, sockets: FetchedSockets) -> SandboxId | None:
        # Another command may have come while the sockets were in flight.
        sandbox_id = sockets.sandbox_id
        if sandbox_id in self._held or sandbox_id in self._dropped:
            return None
        self._held[sandbox_id] = self._taken[sandbox_id] = _Held(self._next(), sockets.behind_runtime)
        return sandbox_id

    def _pump(self) -> None:
        """Request everything that is wanted, missing, and not requested yet."""
        if self._phase is not _Phase.TALKING:
            return
        self._pump_table()
        for sandbox_id in sorted(self._held.keys() - self._there - self._asked):
            held = self._held[sandbox_id]
            listen = Listen(self._next(), sandbox_id, held.behind_runtime)
            self._asked.add(sandbox_id)
            self._waiting[listen.sequence] = _SentSockets(sandbox_id, held)
            self._outgoing.append([ProcessMessage(request_bytes(listen), sandbox_id)])
        for sandbox_id in sorted(self._dropped - self._asked):
            self._ask_about(sandbox_id, Close(self._next(), sandbox_id))

    def _pump_table(self) -> None:
        if self._table is None or self._table_on_its_way:
            return
        if self._table is self._sent:
            self._settled = self._revision
            return
        if self._sent is None:
            self._outgoing.append([ProcessMessage(request_bytes(Begin(self._next())))])
            changes: Iterator[Change] = iter(self._table.items())
        else:
            rest = changes_between(self._sent, self._table, self._touched)
            first = next(rest, None)
            if first is None:
                self._touched = set()
                self._sent, self._settled = self._table, self._revision
                return
            changes = chain([first], rest)
        self._outgoing.append(map(ProcessMessage, rows_messages(self._next(), changes)))
        commit = Commit(self._next())
        self._outgoing.append([ProcessMessage(request_bytes(commit))])
        self._waiting[commit.sequence] = _SentTable(self._table, self._revision)
        self._table_on_its_way, self._touched = True, set()

    def _ask_about(self, sandbox_id: SandboxId, request: Close | FetchSockets) -> None:
        self._asked.add(sandbox_id)
        self._ask(request)

    def _ask(self, request: AgentHello | Close | FetchSockets | Count | FollowWanted) -> None:
        self._waiting[request.sequence] = request
        self._outgoing.append([ProcessMessage(request_bytes(request))])

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence
