"""The messages between the agent and the resolver process, as bytes.

They use a local SOCK_SEQPACKET socket: it keeps message boundaries, and messages can carry sockets (SCM_RIGHTS). A
message is a msgpack array `[type, sequence, …]`; positions are only ever appended, and unknown ones at the end are
ignored. `sequence` is the agent's number for a request; an answer carries the number of its request.

    agent -> resolver                              resolver -> agent
    HELLO   [1, s, version, release, redirects]    WELCOME    [1, s, version, release, more, [sandbox id…]]
    BEGIN   [2, s]                                 (nothing)
    ROWS    [3, s, [row…]]                         (nothing)
    COMMIT  [4, s]                                 DONE       [2, s]
    LISTEN  [5, s, sandbox id, behind] + sockets   DONE
    CLOSE   [6, s, sandbox id]                     DONE
    FETCH   [7, s, sandbox id]                     SOCKETS    [4, s, sandbox id, behind] + sockets
    COUNT   [8, s]                                 STATISTICS [5, s, {name: number}]
    anything that is not understood                REFUSED    [3, s, reason]

The sockets are one for UDP and one for TCP, and, where 127.0.0.11 port 53 is redirected to them, the one that owns
the redirect (netagent.datapath.endpoint.dns_redirect). `redirects` says that the agent knows such sockets; one that
does not gets sockets that have port 53 themselves. `behind` is true when the resolver of a container runtime has
127.0.0.11 in the sandbox. Where either is missing it is false.

BEGIN … COMMIT is a full table: rows are applied as they come, and COMMIT removes those that were not mentioned in
between. ROWS outside of it are changes. So a table that breaks off half way has removed nothing.

HELLO, WELCOME, FETCH and SOCKETS never change: with them a new release of the agent can take the sockets from an old
release of the resolver process, whatever else has changed, and hand them to a new one.

Only root can open the socket, yet both sides treat the other's bytes as untrusted: the peer may be another release,
or have a bug.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgpack

from netagent.model.sandbox import SandboxId
from netagent.resolver.name_table import Change
from netagent.resolver.row import (
    MAX_ITEMS,
    fields_of,
    read_array,
    read_change_untrusted,
    read_integer,
    read_text,
)

SOCKET_NAME: Final = "resolver.sock"
"""In the run directory. Mode 0600."""

VERSION: Final = 1
"""Raised when two releases can no longer communicate: the agent then replaces the resolver process."""

MAX_MESSAGE_BYTES: Final = 32 * 1024
"""Bound of one message to the resolver process; beyond it: refused. Well under the smallest send buffer in use
(net.core.wmem_default, 212,992 bytes), of which a message must take only a part, and small enough to be applied in
about a millisecond between two queries."""

_ROWS_BYTES: Final = MAX_MESSAGE_BYTES - 64
_IDS_IN_WELCOME: Final = 500


class ProtocolError(Exception):
    """The peer sent bytes that are not a valid message. Nothing of the message was used."""


@dataclass(frozen=True, slots=True)
class AgentHello:
    """The first message on a connection: from now on the sender is the agent."""

    sequence: int
    version: int
    release: str
    redirects: bool = True
    """Accepts sockets to which 127.0.0.11 port 53 is redirected."""


@dataclass(frozen=True, slots=True)
class Begin:
    """A full table follows."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Rows:
    """Part of a table, or changes to it."""

    sequence: int
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Commit:
    """The full table is complete."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Listen:
    """Answer on the two sockets in the message, on behalf of this sandbox."""

    sequence: int
    sandbox_id: SandboxId
    behind_runtime: bool = False
    """A runtime's resolver has the address: redirect queries past it, and ask it for names that are not ours."""


@dataclass(frozen=True, slots=True)
class Close:
    """Close the sandbox's sockets."""

    sequence: int
    sandbox_id: SandboxId


@dataclass(frozen=True, slots=True)
class FetchSockets:
    """Send copies of the sandbox's sockets."""

    sequence: int
    sandbox_id: SandboxId


@dataclass(frozen=True, slots=True)
class Count:
    """Send your counters."""

    sequence: int


@dataclass(frozen=True, slots=True)
class ProcessWelcome:
    """The resolver process's identity, and the sandboxes of which it has sockets. `more` of them follow in
    another."""

    sequence: int
    version: int
    release: str
    more: bool
    sandbox_ids: tuple[SandboxId, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """The request was carried out, and all before it."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The request was not carried out."""

    sequence: int
    reason: str


@dataclass(frozen=True, slots=True)
class FetchedSockets:
    """The requested sockets come with this message."""

    sequence: int
    sandbox_id: SandboxId
    behind_runtime: bool = False


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counters by name."""

    sequence: int
    counters: Mapping[str, int]


Request: TypeAlias = AgentHello | Begin | Rows | Commit | Listen | Close | FetchSockets | Count
Reply: TypeAlias = ProcessWelcome | Done | Refused | FetchedSockets | Statistics

_REQUEST_TYPES: Final[dict[type[Request], int]] = {
    AgentHello: 1,
    Begin: 2,
    Rows: 3,
    Commit: 4,
    Listen: 5,
    Close: 6,
    FetchSockets: 7,
    Count: 8,
}
_REPLY_TYPES: Final[dict[type[Reply], int]] = {
    ProcessWelcome: 1,
    Done: 2,
    Refused: 3,
    FetchedSockets: 4,
    Statistics: 5,
}


# --- to bytes ---------------------------------------------------------------------------------------------------


def request_bytes(request: Request) -> bytes:
    """Encode a message of the agent, except for rows, which `rows_messages` cuts to size."""
    head = [_REQUEST_TYPES[type(request)], request.sequence]
    match request:
        case AgentHello():
            return _pack([*head, request.version, request.release, request.redirects])
        case Rows():
            return _pack([*head, [fields_of(change) for change in request.changes]])
        case Listen():
            return _pack([*head, request.sandbox_id, request.behind_runtime])
        case Close() | FetchSockets():
            return _pack([*head, request.sandbox_id])
        case Begin() | Commit() | Count():
            return _pack(head)


def reply_bytes(reply: Reply) -> bytes:
    """Encode a message of the resolver process."""
    head = [_REPLY_TYPES[type(reply)], reply.sequence]
    match reply:
        case ProcessWelcome():
            return _pack([*head, reply.version, reply.release, reply.more, list(reply.sandbox_ids)])
        case Refused():
            return _pack([*head, reply.reason[:200]])
        case FetchedSockets():
            return _pack([*head, reply.sandbox_id, reply.behind_runtime])
        case Statistics():
            return _pack([*head, dict(reply.counters)])
        case Done():
            return _pack(head)


def rows_messages(sequence: int, changes: Iterable[Change]) -> Iterator[bytes]:
    """Encode changes as ROWS messages of at most MAX_MESSAGE_BYTES, all with one sequence number.

    A single row always fits: the largest record a host may publish is far below the limit.
    """
    rows: list[bytes] = []
    size = 0
    for change in changes:
        row = _pack(fields_of(change))
        if rows and (size + len(row) > _ROWS_BYTES or len(rows) == MAX_ITEMS):
            yield _rows_message(sequence, rows)
            rows, size = [], 0
        rows.append(row)
        size += len(row)
    if rows:
        yield _rows_message(sequence, rows)


def welcomes(sequence: int, release: str, sandbox_ids: Iterable[SandboxId]) -> Iterator[ProcessWelcome]:
    """Split the list of sandboxes into as many WELCOMEs as it takes, at least one."""
    rest = sorted(sandbox_ids)
    while True:
        part, rest = rest[:_IDS_IN_WELCOME], rest[_IDS_IN_WELCOME:]
        yield ProcessWelcome(sequence, VERSION, release, bool(rest), tuple(part))
        if not rest:
            return


def _rows_message(sequence: int, rows: list[bytes]) -> bytes:
    packer = msgpack.Packer()
    head = bytes(packer.pack_array_header(3)) + _pack(_REQUEST_TYPES[Rows]) + _pack(sequence)
    return head + bytes(packer.pack_array_header(len(rows))) + b"".join(rows)


def _pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


# --- from bytes -------------------------------------------------------------------------------------------------


def parse_request_untrusted(payload: bytes) -> Request:
    """Read a message of an agent. Raises ProtocolError."""
    try:
        return _request(_unpack(payload))
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise ProtocolError(f"not a request: {error}") from error


def parse_reply_untrusted(payload: bytes) -> Reply:
    """Read a message of a resolver process. Raises ProtocolError."""
    try:
        return _reply(_unpack(payload))
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise ProtocolError(f"not a reply: {error}") from error


def _request(fields: list[Any]) -> Request:
    match read_integer(fields[0]), read_integer(fields[1]), fields[2:]:
        case 1, sequence, [version, release, *rest]:
            return AgentHello(sequence, read_integer(version), read_text(release), rest[:1] == [True])
        case 2, sequence, _:
            return Begin(sequence)
        case 3, sequence, [rows, *_]:
            return Rows(sequence, tuple(read_change_untrusted(row) for row in read_array(rows)))
        case 4, sequence, _:
            return Commit(sequence)
        case 5, sequence, [sandbox_id, *rest]:
            return Listen(sequence, SandboxId(read_text(sandbox_id)), rest[:1] == [True])
        case 6, sequence, [sandbox_id, *_]:
            return Close(sequence, SandboxId(read_text(sandbox_id)))
        case 7, sequence, [sandbox_id, *_]:
            return FetchSockets(sequence, SandboxId(read_text(sandbox_id)))
        case 8, sequence, _:
            return Count(sequence)
        case other, _, _:
            raise ValueError(f"type {other} is unknown or has too few fields")


def _reply(fields: list[Any]) -> Reply:
    match read_integer(fields[0]), read_integer(fields[1]), fields[2:]:
        case 1, sequence, [version, release, more, ids, *_]:
            sandbox_ids = tuple(SandboxId(read_text(one)) for one in read_array(ids))
            return ProcessWelcome(
                sequence, read_integer(version), read_text(release), more is True, sandbox_ids
            )
        case 2, sequence, _:
            return Done(sequence)
        case 3, sequence, [reason, *_]:
            return Refused(sequence, read_text(reason))
        case 4, sequence, [sandbox_id, *rest]:
            return FetchedSockets(sequence, SandboxId(read_text(sandbox_id)), rest[:1] == [True])
        case 5, sequence, [counters, *_] if isinstance(counters, dict):
            return Statistics(
                sequence, {read_text(name): read_integer(number) for name, number in counters.items()}
            )
        case other, _, _:
            raise ValueError(f"type {other} is unknown or has too few fields")


def _unpack(payload: bytes) -> list[Any]:
    if len(payload) > MAX_MESSAGE_BYTES:
        raise ValueError(f"{len(payload)} bytes; at most {MAX_MESSAGE_BYTES} are taken")
    # A length inside the message can't exceed the message, so that nothing is allocated because of a false one.
    limit = len(payload)
    try:
        value = msgpack.unpackb(
            payload,
            max_str_len=limit,
            max_bin_len=limit,
            max_array_len=limit,
            max_map_len=limit,
            max_ext_len=0,
        )
    except (ValueError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise ValueError(f"not msgpack: {error}") from error
    fields = read_array(value)
    if len(fields) < 2:
        raise ValueError("no type or no sequence number")
    return fields
