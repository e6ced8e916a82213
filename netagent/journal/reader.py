"""Reads what the journal holds: at a start, by the agent that has it open, and apart from its writer.

`read_apart` is for readers that compare, and change nothing. It opens the file read-only, while an agent has it open
or while none runs. The newest commit is seen: SQLite's readers see every commit.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

from netagent.journal.rows import LocalEndpointRow, endpoint_from_json
from netagent.journal.statements import SCHEMA_VERSION, Family
from netagent.journal.writer import JournalError, translate
from netgossip.types import Entry, Log, Member, MemberState, NodeId, Scope, Version

_PATIENCE_S = 2.0
"""Timeout for a writer's lock; readers of a write-ahead log hardly ever wait."""


Read: TypeAlias = Callable[[str], list[tuple[Any, ...]]]
"""Runs a query and returns its rows."""


@dataclass(frozen=True, slots=True)
class StoredState:
    """The content of the file."""

    rows: list[LocalEndpointRow]
    own: list[Log]
    replicas: list[Log]
    members: list[Member]

    @property
    def own_entries(self) -> Mapping[tuple[Scope, bytes], Entry]:
        """The entries of our logs that are not deleted."""
        return {
            (log.scope, key): entry
            for log in self.own
            for key, entry in log.entries.items()
            if entry.value is not None
        }


def read_apart(path: Path, *, is_whole: bool = True) -> StoredState:
    """Read the journal. Blocks for the length of a few queries. JournalError names the file and what is wrong with
    it.

    `is_whole`: with other hosts' logs, which may be long.
    """
    if not path.exists():
        raise JournalError(f"{path}: there is no journal", thing=str(path))
    try:
        address = f"file:{quote(str(path))}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=_PATIENCE_S)) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > SCHEMA_VERSION:
                raise JournalError(f"{path}: written by a later release (version {version})", thing=str(path))
            connection.execute("BEGIN")  # one snapshot for all queries
            read: Read = lambda sql: connection.execute(sql).fetchall()  # noqa: E731
            return StoredState(
                stored_endpoints(read),
                stored_logs(read, "own"),
                stored_logs(read, "replica") if is_whole else [],
                stored_members(read),
            )
    except sqlite3.Error as error:
        raise translate(error, path) from error
    except ValueError as error:
        raise JournalError(f"{path}: the journal is damaged ({error})", thing=str(path)) from error


def stored_endpoints(read: Read) -> list[LocalEndpointRow]:
    """This host's endpoints in the order in which they were attached, which is the order of networks within a
    sandbox. Raises ValueError for a damaged row."""
    rows = read("SELECT row FROM endpoint ORDER BY attach_order")
    return [endpoint_from_json(text) for (text,) in rows]


def stored_logs(read: Read, family: Family) -> list[Log]:
    """All logs of a family, tombstones included."""
    entries: dict[tuple[Scope, NodeId], dict[bytes, Entry]] = {}
    columns = "scope, owner, key, value, epoch, sequence"
    for scope, owner, key, value, epoch, sequence in read(f"SELECT {columns} FROM {family}_entry"):
        entry = Entry(scope, owner, key, value, Version(epoch, sequence))
        entries.setdefault((scope, owner), {})[key] = entry
    found = read(f"SELECT scope, owner, epoch, head, collected FROM {family}_log ORDER BY scope, owner")
    return [
        Log(scope, owner, epoch, head, collected, entries.get((scope, owner), {}))
        for scope, owner, epoch, head, collected in found
    ]


def stored_members(read: Read) -> list[Member]:
    """The nodes to dial first after a restart, by id."""
    sql = "SELECT node_id, host, port, state, incarnation, meta, vsn FROM member ORDER BY 1"
    return [
        Member(node_id, (host, port), MemberState(state), incarnation, meta, vsn)
        for node_id, host, port, state, incarnation, meta, vsn in read(sql)
    ]
