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
    FOLLOW  [9, s]                                 WANTED     [6, s, [network id…], more], and again at each change
    STAND IN [10, s, address]                      (nothing)
    anything that is not understood                REFUSED    [3, s, reason]

The sockets are one for UDP and one for TCP, and, where 127.0.0.11 port 53 is redirected to them, the one that owns
the redirect (netagent.datapath.endpoint.dns_redirect). `redirects` says that the agent knows such sockets; one that
does not gets sockets that have port 53 themselves. `behind` is true when the resolver of a container runtime has
127.0.0.11 in the sandbox. Where either is missing it is false.

BEGIN … COMMIT is a full table: rows are applied as they come, and COMMIT removes those that were not mentioned in
between. ROWS outside of it are changes. So a table that breaks off half way has removed nothing.

STAND IN has the address of the agent's `http` listener, empty if it has none: the process answers there while no
agent is connected.

WANTED has the networks whose feeds containers have asked for, in as many messages as it takes: the agent sends FEED
rows of these, and only of these.

HELLO, WELCOME, FETCH and SOCKETS never change: with them a new release of the agent can take the sockets from an old
release of the resolver process, whatever else has changed, and hand them to a new one.

Only root can open the socket, yet both sides treat the other's bytes as untrusted: the peer may be another release,
or have a bug.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

import msgpack

from netagent.model.ids import NetworkId
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

T = TypeVar("T")

SOCKET_NAME: Final = "resolver.sock"
"""In the run directory. Mode 0600."""

VERSION: Final = 3
"""Raised when two states of this program can no longer communicate, also within one release: the agent then replaces
the resolver process. 2: it knows FOLLOW. 3: STAND IN."""

OVER_RATE: Final = "over_rate_"
"""Before a sandbox's id, among the counters: queries of it were refused of late, because it asked too many."""

MAX_MESSAGE_BYTES: Final = 32 * 1024
"""Bound of one message to the resolver process; beyond it: refused. Well under the smallest send buffer in use
(net.core.wmem_default, 212,992 bytes), of which a message must take only a part, and small enough to be applied in
about a millisecond between two queries."""

_ROWS_BYTES: Final = MAX_MESSAGE_BYTES - 64
_IDS_IN_MESSAGE: Final = 500


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
class FollowWanted:
    """Say which networks' feeds containers have asked for, now and whenever that changes."""

    sequence: int


@dataclass(frozen=True, slots=True)
class StandInAt:
    """Answer at this address while no agent is connected; empty: nowhere."""

    sequence: int
    address: str


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


@dataclass(frozen=True, slots=True)
class Wanted:
    """The networks whose feeds containers have asked for. `more` of them follow in another."""

    sequence: int
    networks: tuple[NetworkId, ...]
    more: bool = False


Request: TypeAlias = (
    AgentHello | Begin | Rows | Commit | Listen | Close | FetchSockets | Count | FollowWanted | StandInAt
)
Reply: TypeAlias = ProcessWelcome | Done | Refused | FetchedSockets | Statistics | Wanted

_REQUESTS: Final[tuple[type[Request], ...]] = (
    AgentHello,
    Begin,
    Rows,
    Commit,
    Listen,
    Close,
    FetchSockets,
    Count,
    FollowWanted,
    StandInAt,
)
_REPLIES: Final[tuple[type[Reply], ...]] = (
    ProcessWelcome,
    Done,
    Refused,
    FetchedSockets,
    Statistics,
    Wanted,
)
"""The first is type 1 on the wire. The fields of a message follow in the order of their declaration."""


# --- to bytes ---------------------------------------------------------------------------------------------------


def request_bytes(request: Request) -> bytes:
    """Encode a message of the agent, except for rows, which `rows_messages` cuts to size."""
    return _message_bytes(_REQUESTS.index(type(request)) + 1, request)


def reply_bytes(reply: Reply) -> bytes:
    """Encode a message of the resolver process."""
    return _message_bytes(_REPLIES.index(type(reply)) + 1, reply)


def _message_bytes(number: int, message: Request | Reply) -> bytes:
    values = [getattr(message, one.name) for one in dataclasses.fields(message)]
    if isinstance(message, Rows):
        values = [message.sequence, [fields_of(change) for change in message.changes]]
    return _pack([number, *values])


def rows_messages(sequence: int, changes: Iterable[Change]) -> Iterator[bytes]:
    """Encode changes as ROWS messages of at most MAX_MESSAGE_BYTES, all with one sequence number.

    A row that would not fit into one is left out, and one sent earlier is taken back: only a hostile member's record
    is so large, and the others of the table must reach the process.
    """
    rows: list[bytes] = []
    size = 0
    for change in changes:
        row = _pack(fields_of(change))
        if len(row) > _ROWS_BYTES:
            row = _pack(fields_of((change[0], None)))
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
        part, rest = rest[:_IDS_IN_MESSAGE], rest[_IDS_IN_MESSAGE:]
        yield ProcessWelcome(sequence, VERSION, release, bool(rest), tuple(part))
        if not rest:
            return


def wanted_messages(sequence: int, networks: Iterable[NetworkId]) -> Iterator[Wanted]:
    """Split the list of networks into as many WANTEDs as it takes, at least one."""
    rest = sorted(networks)
    while True:
        part, rest = rest[:_IDS_IN_MESSAGE], rest[_IDS_IN_MESSAGE:]
        yield Wanted(sequence, tuple(part), bool(rest))
        if not rest:
            return


def _rows_message(sequence: int, rows: list[bytes]) -> bytes:
    packer = msgpack.Packer()
    head = bytes(packer.pack_array_header(3)) + _pack(_REQUESTS.index(Rows) + 1) + _pack(sequence)
    return head + bytes(packer.pack_array_header(len(rows))) + b"".join(rows)


def _pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


# --- from bytes -------------------------------------------------------------------------------------------------


def _statistics(value: Any) -> dict[str, int]:
    if not isinstance(value, dict):
        raise ValueError("a map was expected")
    return {read_text(name): read_integer(number) for name, number in value.items()}


_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "int": read_integer,
    "str": read_text,
    "bool": lambda value: value is True,
    "SandboxId": read_text,
    "tuple[NetworkId, ...]": lambda value: tuple(map(read_text, read_array(value))),
    "tuple[SandboxId, ...]": lambda value: tuple(map(read_text, read_array(value))),
    "tuple[Change, ...]": lambda value: tuple(map(read_change_untrusted, read_array(value))),
    "Mapping[str, int]": _statistics,
}
"""By the annotation of a field."""


def parse_request_untrusted(payload: bytes) -> Request:
    """Read a message of an agent. Raises ProtocolError."""
    return _parse_untrusted(payload, _REQUESTS)


def parse_reply_untrusted(payload: bytes) -> Reply:
    """Read a message of a resolver process. Raises ProtocolError."""
    return _parse_untrusted(payload, _REPLIES)


def _parse_untrusted(payload: bytes, kinds: Sequence[type[T]]) -> T:
    try:
        return _message(_unpack(payload), kinds)
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise ProtocolError(f"not a message: {error}") from error


def _message(array: list[Any], kinds: Sequence[type[T]]) -> T:
    number, *values = array
    if not 1 <= read_integer(number) <= len(kinds):
        raise ValueError(f"type {number} is unknown")
    kind: Any = kinds[number - 1]
    fields = dataclasses.fields(kind)
    # A later release may have appended fields.
    read = [_READERS[str(one.type)](value) for one, value in zip(fields, values, strict=False)]
    missing = fields[len(read) :]
    if any(one.default is dataclasses.MISSING for one in missing):
        raise ValueError(f"type {number} has too few fields")
    # An earlier one has not appended them: they are all flags, and false where they are missing.
    message: T = kind(*read, *(False for _ in missing))
    return message


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
