"""Reads the journal on disk apart from its writer: for readers that compare, and change nothing.

The file is opened read-only, while an agent has it open or while none runs. The newest commit is seen: SQLite's
readers see every commit.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from netagent.journal.rows import LocalEndpointRow, endpoint_from_json
from netagent.journal.statements import SCHEMA_VERSION, Family
from netagent.journal.writer import JournalError, translate
from netgossip.types import Entry, Log, Member, MemberState, NodeId, Scope, Version

_PATIENCE_S = 2.0
"""Timeout for a writer's lock; readers of a write-ahead log hardly ever wait."""


@dataclass(frozen=True, slots=True)
class StoredState:
    """The content of the file."""

    rows: tuple[LocalEndpointRow, ...]
    own: tuple[Log, ...]
    replicas: tuple[Log, ...]
    members: tuple[Member, ...]

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
            rows = connection.execute("SELECT row FROM endpoint ORDER BY attach_order").fetchall()
            return StoredState(
                tuple(endpoint_from_json(text) for (text,) in rows),
                _logs(connection, "own"),
                _logs(connection, "replica") if is_whole else (),
                _members(connection),
            )
    except sqlite3.Error as error:
        raise translate(error, path) from error
    except ValueError as error:
        raise JournalError(f"{path}: the journal is damaged ({error})", thing=str(path)) from error


def _logs(connection: sqlite3.Connection, family: Family) -> tuple[Log, ...]:
    entries: dict[tuple[Scope, NodeId], dict[bytes, Entry]] = {}
    columns = "scope, owner, key, value, epoch, sequence"
    for scope, owner, key, value, epoch, sequence in connection.execute(
        f"SELECT {columns} FROM {family}_entry"
    ):
        entry = Entry(scope, owner, key, value, Version(epoch, sequence))
        entries.setdefault((scope, owner), {})[key] = entry
    found = connection.execute(f"SELECT scope, owner, epoch, head, collected FROM {family}_log ORDER BY 1, 2")
    return tuple(
        Log(scope, owner, epoch, head, collected, entries.get((scope, owner), {}))
        for scope, owner, epoch, head, collected in found
    )


def _members(connection: sqlite3.Connection) -> tuple[Member, ...]:
    columns = "node_id, host, port, state, incarnation, meta, vsn"
    return tuple(
        Member(node_id, (host, port), MemberState(state), incarnation, meta, vsn)
        for node_id, host, port, state, incarnation, meta, vsn in connection.execute(
            f"SELECT {columns} FROM member ORDER BY 1"
        )
    )
