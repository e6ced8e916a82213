"""The journal, what this host must not lose: one SQLite file, `state.db`.

It has three kinds of data, by the cost of losing them:

* **own records, endpoints, cooling addresses**: written before they take effect, by `await`ed calls
  that return when the disk has them. After a crash at any instant each of these calls has happened or not.
* **counters**: opening the file raises the boot epoch, the incarnation is noted; neither ever falls.
* **other hosts' logs, members**: a cache, written a second behind (netagent.journal.write_behind).

SQLite does the hard part (write-ahead log, full synchronous: a commit is on disk when it returns). One thread writes
(netagent.journal.writer), so the event loop never waits for a disk. Statements come from netagent.journal.statements,
so that several facts which belong together go into one `transaction`.

Rejected: one file per fact with rename (no transaction over two of them, 10,000 inodes); an append-only log of our
own (SQLite is one, tested better than ours would be, and any shell can read it).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from netagent.errors import RefusedError
from netagent.journal import statements
from netagent.journal.reader import stored_endpoints, stored_logs, stored_members
from netagent.journal.rows import LocalEndpointRow, endpoint_from_json
from netagent.journal.statements import Statement
from netagent.journal.write_behind import WriteBehind
from netagent.journal.writer import DiskFullError, JournalError, Writer, translate
from netagent.model.ids import HostId, NetworkId
from netagent.model.records import ServiceKey
from netgossip.types import EntriesChanged, Log, Member, NodeId, Scope

__all__ = ["DiskFullError", "Journal", "JournalError"]

_PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA busy_timeout = 5000",
    "PRAGMA journal_size_limit = 4194304",
)


class Journal:
    """The open file. `open` and the `load_*` calls read the disk and block; call them while starting.

    Every `async` call returns when its fact is on disk, and raises DiskFullError or JournalError when it is not; it
    can't be cancelled halfway. `note_*` calls return at once.
    """

    def __init__(
        self, path: Path, lock_fd: int, reader: sqlite3.Connection, writing: sqlite3.Connection
    ) -> None:
        self.path = path
        self._lock_fd = lock_fd
        self._reader = reader
        self._behind = WriteBehind()
        self._signers = {str(owner) for (owner,) in reader.execute("SELECT owner FROM signer")}
        (self.boot_epoch,) = reader.execute("SELECT value FROM counter WHERE name = 'boot_epoch'").fetchone()
        self._writer = Writer(path, writing, self._behind)

    @classmethod
    def open(cls, path: Path) -> Journal:
        """Open or create the file, and raise the boot epoch. Raises RefusedError if another agent has it open,
        JournalError (which names the file) if it is damaged or of a later release, DiskFullError."""
        lock_fd = _lock(path)
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, lock_fd)
            try:
                writing = undo.enter_context(contextlib.closing(_connect(path)))
                _prepare(writing, path)
                reader = undo.enter_context(contextlib.closing(_connect(path)))
                journal = cls(path, lock_fd, reader, writing)
            except sqlite3.Error as error:
                raise translate(error, path) from error
            except OSError as error:
                raise JournalError(
                    f"cannot open the journal {path}: {error.strerror}",
                    thing=str(path),
                    hint="repair the file system, or restore the file from a backup",
                ) from error
            undo.pop_all()
            return journal

    def close(self) -> None:
        """Write what waits, and close the file."""
        self._writer.close()
        self._reader.close()
        os.close(self._lock_fd)

    async def transaction(self, statements: Sequence[Statement], *, grows: bool = False) -> list[int]:
        """Run all of `statements` or none; return the number of rows that each changed. `grows` marks writes that are
        refused early on a nearly full disk, so that room is left for deleting."""
        return await self._writer.write(statements, grows=grows)

    @property
    def has_room(self) -> bool:
        """True if the disk has room for more at this moment."""
        return self._writer.has_room()

    def require_owner(self, owner: NodeId) -> None:
        """Raise JournalError if the file is another host's, mixed up when it was restored: its endpoints are not
        ours, and ours, which run here, would be taken for left-overs."""
        others = self._read("SELECT owner FROM own_log WHERE owner != ? LIMIT 1", owner)
        if others:
            raise JournalError(
                f"{self.path}: the journal belongs to host {others[0][0][:8]}, the identity beside it to {owner[:8]}",
                thing=str(self.path),
                hint="restore both from one backup; or move the journal away and attach this host's containers again",
            )

    # -- own records -------------------------------------------------------------------------------------------

    def load_own_logs(self) -> list[Log]:
        """Our own logs, tombstones included."""
        return stored_logs(self._read, "own")

    # -- endpoints and addresses -------------------------------------------------------------------------------

    async def save_endpoint(self, row: LocalEndpointRow) -> None:
        """Write a new row, or a row's new state. RefusedError (`taken`) if another row has the address."""
        await self.transaction(statements.save_endpoint(row), grows=True)

    def load_endpoints(self) -> list[LocalEndpointRow]:
        """This host's endpoints in the order in which they were attached."""
        try:
            return stored_endpoints(self._read)
        except ValueError as error:
            raise JournalError(
                f"{self.path}: the journal is damaged ({error})", thing=str(self.path)
            ) from error

    def load_cooling(self) -> list[tuple[NetworkId, int]]:
        """Offsets that were freed recently, with their networks."""
        return [(NetworkId(one), offset) for one, offset in self._read("SELECT * FROM cooling ORDER BY 1, 2")]

    def note_warm(self, network_id: NetworkId, offset: int) -> None:
        """Note that an address has cooled down."""
        self._note(("cooling", network_id, offset), statements.uncool(network_id, offset))

    def note_network_gone(self, network_id: NetworkId) -> None:
        """Note that none of the network's addresses will be used again."""
        gone = [statements.uncool_all(network_id), *statements.forget_services(network_id)]
        self._note(("cooling", network_id), *gone)

    def load_freed_service_offsets(self) -> Iterator[tuple[NetworkId, int, ServiceKey, int]]:
        """Offsets of service addresses that were given up: network, offset, service and when, the oldest first."""
        for network_id, offset, name, group, since_s in self._read(
            "SELECT * FROM freed_service_offset ORDER BY since_s, network_id, address_offset"
        ):
            yield NetworkId(network_id), int(offset), ServiceKey(name, group), int(since_s)

    def note_service_offset_free(self, network_id: NetworkId, offset: int) -> None:
        """Note that a service may have an offset again."""
        statement = statements.reuse_service_offset(network_id, offset)
        self._note(("service offset", network_id, offset), statement)

    def load_idle_services(self) -> dict[tuple[NetworkId, ServiceKey], int]:
        """Since when services with addresses have no replica."""
        return {
            (NetworkId(network_id), ServiceKey(name, group or None)): int(since_s)
            for network_id, name, group, since_s in self._read("SELECT * FROM idle_service")
        }

    def note_idle_service(self, network_id: NetworkId, service: ServiceKey, since_s: int | None) -> None:
        """Note since when a service with an address has no replica; None: it has one."""
        statement = statements.note_idle_service(network_id, service, since_s)
        self._note(("idle service", network_id, service), statement)

    # -- the cache ---------------------------------------------------------------------------------------------

    def note_replica(self, event: EntriesChanged) -> None:
        """Note a change of another host's log."""
        self._behind.note_log(event)
        if event.proof and event.owner not in self._signers and len(self._signers) < statements.MAX_SIGNERS:
            # Not with the log: that may be dropped, and who signed once is never believed without again.
            self._signers.add(event.owner)
            self._behind.note_latest(("signer", event.owner), (statements.add_signer(event.owner),))
        self._writer.note_behind()

    def note_replica_dropped(self, scope: Scope, owner: NodeId) -> None:
        """Note that another host's log is no longer held."""
        self._behind.note_dropped(scope, owner)
        self._writer.note_behind()

    def load_replicas(self) -> list[Log]:
        """Other hosts' logs, as far as they had been written, with what they signed them with."""
        proofs = {
            (scope, owner, epoch, head): proof
            for scope, owner, epoch, head, proof in self._read("SELECT * FROM replica_proof")
        }
        return [
            replace(log, proof=proofs.get((log.scope, log.owner, log.epoch, log.head), b""))
            for log in stored_logs(self._read, "replica")
        ]

    def load_signers(self) -> list[NodeId]:
        """Other hosts that have signed their records once."""
        return sorted(self._signers)

    def note_claim_signer(self, node_id: NodeId) -> None:
        """Note that another host proves what it says about itself: it is never believed without again."""
        self._note(("claim signer", node_id), statements.add_claim_signer(node_id))

    def load_claim_signers(self) -> list[NodeId]:
        """Other hosts that have proven once what they say about themselves."""
        return [
            str(node_id) for (node_id,) in self._read("SELECT node_id FROM claim_signer ORDER BY node_id")
        ]

    def note_session_speaker(self, node_id: NodeId) -> None:
        """Note that another host has sessions for records: it is hardly believed without one again."""
        self._note(("session speaker", node_id), statements.add_session_speaker(node_id))

    def load_session_speakers(self) -> list[NodeId]:
        """Other hosts that have once had a session for records."""
        return [
            str(node_id) for (node_id,) in self._read("SELECT node_id FROM session_speaker ORDER BY node_id")
        ]

    def note_member(self, member: Member) -> None:
        """Note a node as the membership sees it now."""
        self._note(
            ("member", member.node_id),
            statements.save_member(member),
            statements.forget_departure(member.node_id),
        )

    def note_member_gone(self, node_id: NodeId) -> None:
        """Note that the membership removed a node."""
        self._note(("member", node_id), *statements.delete_member(node_id))

    def load_members(self) -> list[Member]:
        """The nodes to dial first after a restart, by id."""
        return stored_members(self._read)

    def load_departed(self) -> list[tuple[NodeId, int]]:
        """Nodes that the membership removed, and the last incarnation of each."""
        sql = "SELECT substr(name, ?), value FROM counter WHERE name LIKE ? ORDER BY 1"
        found = self._read(sql, len(statements.DEPARTED) + 1, statements.DEPARTED + "%")
        return [(str(node_id), int(incarnation)) for node_id, incarnation in found]

    def note_silences(self, silences: Mapping[HostId, float]) -> None:
        """Note how long other hosts have been silent: all of it at once."""
        self._note("silences", *statements.save_silences(silences))

    def load_silences(self) -> dict[HostId, float]:
        """The silences as last noted."""
        return {HostId(host): float(silent_s) for host, silent_s in self._read("SELECT * FROM silence")}

    def note_group_label(self, key: Hashable, statement: Statement) -> None:
        """Note the label of a group, by `put_group_label` or `drop_group_label`."""
        self._note(("group label", key), statement)

    def load_group_labels(self) -> dict[tuple[NetworkId, str], dict[str, int | None]]:
        """The labels of groups by network and group: since when none of the group has it, the oldest first, then
        those that an endpoint has."""
        found: dict[tuple[NetworkId, str], dict[str, int | None]] = {}
        for network_id, group, label, gone_s in self._read(
            "SELECT * FROM group_label ORDER BY gone_s IS NULL, gone_s"
        ):
            found.setdefault((NetworkId(network_id), group), {})[label] = gone_s
        return found

    def load_fenced(self) -> list[LocalEndpointRow]:
        """Endpoints of a former identity of this host."""
        return [endpoint_from_json(text) for (text,) in self._read("SELECT row FROM fenced ORDER BY 1")]

    def note_incarnation(self, incarnation: int) -> None:
        """Note our own incarnation in the membership. A crash may lose the last second of it; peers then
        correct us."""
        self._note("incarnation", statements.raise_counter("incarnation", incarnation))

    def load_incarnation(self) -> int:
        """The highest incarnation that was noted."""
        ((value,),) = self._read("SELECT value FROM counter WHERE name = 'incarnation'")
        return int(value)

    # -- inside ------------------------------------------------------------------------------------------------

    def _note(self, key: Hashable, *statements: Statement) -> None:
        self._behind.note_latest(key, statements)
        self._writer.note_behind()

    def _read(self, sql: str, *parameters: statements.Value) -> list[tuple[Any, ...]]:
        try:
            return self._reader.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise translate(error, self.path) from error


def _lock(path: Path) -> int:
    """Take the lock that allows one agent at a time; the kernel drops it with the process. It is a file of its own,
    because SQLite's own locks are lost when any descriptor of the database is closed."""
    lock_path = path.with_name(path.name + ".lock")
    try:
        fd = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise JournalError(f"{lock_path}: {error.strerror}", thing=str(path)) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise RefusedError(f"{path}: another agent has it open", code="running", thing=str(path)) from None
    return fd


def _connect(path: Path) -> sqlite3.Connection:
    """Open the database without implicit transactions. The thread check is off because the writer's connection is
    created here and then handed to its thread for good."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # the mode, before SQLite opens it
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False)


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Apply settings, create tables, raise the boot epoch."""
    for pragma in _PRAGMAS:
        connection.execute(pragma)
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found > statements.SCHEMA_VERSION:
        raise JournalError(f"{path}: written by a later release (version {found})", thing=str(path))
    if found < statements.SCHEMA_VERSION:
        steps = [statements.SCHEMA] if found == 0 else []
        steps += [statements.STEPS[version] for version in range(max(found, 1), statements.SCHEMA_VERSION)]
        version = f"PRAGMA user_version = {statements.SCHEMA_VERSION};"
        connection.executescript(f"BEGIN IMMEDIATE; {''.join(steps)} {version} COMMIT;")
    connection.executescript(statements.ADDED)
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise translate(_damaged(verdict), path)
    connection.execute("UPDATE counter SET value = value + 1 WHERE name = 'boot_epoch'")


def _damaged(verdict: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(verdict)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error
