"""The resolver process's side of the conversation with an agent, without I/O.

`ServedTable` outlives a connection: the rows, the sandboxes whose sockets are here, and whether a whole table was
ever received. Until then no query is answered, because an incomplete table would deny names that exist. The kernel
keeps the queries meanwhile.

A `Session` is one connection. Any number of programs may connect and read counters; the one that said HELLO last is
the agent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from netagent.model.sandbox import Sandbox, SandboxId
from netagent.resolver.feed_source import FeedSource
from netagent.resolver.name_table import Change, Key, RowKind
from netagent.resolver.protocol import (
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
    ProtocolError,
    Refused,
    Rows,
    StandInAt,
    parse_request_untrusted,
    reply_bytes,
    welcomes,
)
from netagent.resolver.zone_source import ZoneSource

MAX_ROWS = 1_000_000
"""Bound of rows in the resolver's table; beyond it: refused. A row takes about 1 kB with its index entries: a table
beyond this is a mistake, not a cluster."""


_AgentRequest: TypeAlias = Begin | Rows | Commit | Listen | Close | FetchSockets | FollowWanted | StandInAt


class ServedTable:
    """The table that the process answers from, and the sandboxes that it answers for."""

    def __init__(self) -> None:
        self.source = ZoneSource()
        self.feeds = FeedSource(self.source)
        self.complete = False
        """Whether a whole table was received since the start."""
        self.held: dict[SandboxId, bool] = {}
        """Sandboxes whose sockets are here, and whether a runtime's resolver is behind them."""

    def apply(self, changes: Sequence[Change]) -> None:
        """Apply changes of rows."""
        self.source.apply(changes)
        self.feeds.apply(changes)

    def ready(self) -> dict[SandboxId, Sandbox]:
        """Return the sandboxes to answer for: with sockets, with a row, once a table was complete."""
        if not self.complete:
            return {}
        rows = ((one, self.source.rows.get((RowKind.SANDBOX, one))) for one in self.held)
        return {one: row for one, row in rows if isinstance(row, Sandbox)}


@dataclass(frozen=True, slots=True)
class Effect:
    """What the driver must do now, in this order."""

    is_agent: bool = False
    """This connection is the agent's from now on: close the previous agent's."""
    keep: Listen | None = None
    """Keep the sockets that came with the message as its sandbox's, replacing others. Otherwise close them."""
    close: SandboxId | None = None
    """Close this sandbox's sockets."""
    replies: tuple[bytes, ...] = ()
    sockets_of: SandboxId | None = None
    """Send these sockets along with the (only) reply."""
    bound: bool = False
    """Send sockets that have port 53 themselves: the agent knows no others."""
    follow: int | None = None
    """Send the networks whose feeds are wanted as the answer to this request, now and at each change."""
    stand_in: str | None = None
    """Answer at this address once the agent is gone; empty: nowhere."""
    count: int | None = None
    """Send the counters as the answer to this request."""
    refused: bool = False


class Session:
    """One connection. `release` is this program's version."""

    def __init__(self, answering: ServedTable, release: str) -> None:
        self._answering = answering
        self._release = release
        self._is_agent = False
        self._knows_redirects = False
        self._unmentioned: set[Key] | None = None

    def handle_request_untrusted(self, payload: bytes, *, has_sockets: bool) -> Effect:
        """Handle a message. A message that makes no sense is refused in the answer and changes nothing."""
        try:
            request = parse_request_untrusted(payload)
        except ProtocolError as error:
            return _refuse(0, str(error))
        if isinstance(request, AgentHello):
            self._is_agent, self._knows_redirects = True, request.redirects
            replies = welcomes(request.sequence, self._release, self._answering.held)
            return Effect(is_agent=True, replies=tuple(reply_bytes(reply) for reply in replies))
        if isinstance(request, Count):
            return Effect(count=request.sequence)
        if not self._is_agent:
            return _refuse(request.sequence, "HELLO must come first")
        return self._carry_out(request, has_sockets=has_sockets)

    def give_back(self, listen: Listen, reason: str) -> Effect:
        """Note that the sockets of a LISTEN could not be kept; return what to do instead."""
        self._answering.held.pop(listen.sandbox_id, None)
        return replace(_refuse(listen.sequence, reason), close=listen.sandbox_id)

    def _carry_out(self, request: _AgentRequest, *, has_sockets: bool) -> Effect:
        match request:
            case Begin():
                self._unmentioned = set(self._answering.source.rows)
                return Effect()
            case Rows():
                return self._rows(request)
            case Commit():
                self._commit()
                return _done(request.sequence)
            case StandInAt(_, address):
                return Effect(stand_in=address)
            case FollowWanted(sequence):
                return Effect(follow=sequence)
            case Listen(sequence, sandbox_id, behind_runtime):
                if not has_sockets:
                    return _refuse(sequence, "LISTEN without a bound UDP and a listening TCP socket")
                self._answering.held[sandbox_id] = behind_runtime
                return Effect(keep=request, replies=(reply_bytes(Done(sequence)),))
            case Close(sequence, sandbox_id):
                self._answering.held.pop(sandbox_id, None)
                return Effect(close=sandbox_id, replies=(reply_bytes(Done(sequence)),))
            case FetchSockets(sequence, sandbox_id):
                if sandbox_id not in self._answering.held:
                    return _refuse(sequence, "the process has no sockets of this sandbox")
                sockets = FetchedSockets(sequence, sandbox_id, self._answering.held[sandbox_id])
                return Effect(
                    replies=(reply_bytes(sockets),), sockets_of=sandbox_id, bound=not self._knows_redirects
                )

    def _rows(self, request: Rows) -> Effect:
        source = self._answering.source
        if len(source.rows) + len(request.changes) > MAX_ROWS:
            return _refuse(request.sequence, f"more than {MAX_ROWS} rows")
        self._answering.apply(request.changes)
        if self._unmentioned is not None:
            self._unmentioned.difference_update(key for key, _ in request.changes)
        return Effect()

    def _commit(self) -> None:
        if self._unmentioned is not None:
            self._answering.apply([(key, None) for key in self._unmentioned])
            self._unmentioned = None
            self._answering.complete = True
        self._answering.feeds.commit()


def _done(sequence: int) -> Effect:
    return Effect(replies=(reply_bytes(Done(sequence)),))


def _refuse(sequence: int, reason: str) -> Effect:
    return Effect(replies=(reply_bytes(Refused(sequence, reason[:200])),), refused=True)
