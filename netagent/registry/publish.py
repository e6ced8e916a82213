"""Publish records: assign a version, journal it, send it. In this order, one change at a time.

    prepare   the node assigns versions to the entries and changes nothing
    journal   they are on disk: after a crash a version is never reused for something else
    commit    the node takes them over and sends them

If the node learns in between that its own history was longer than it knew (OwnLogRaised), the prepared versions are
void; they are prepared and journalled again until they are still valid right before the commit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from netagent.errors import RefusedError
from netagent.journal import statements
from netagent.journal.journal import Journal
from netagent.journal.statements import Statement
from netagent.model.records import Record
from netagent.registry.record_codec import HOST_KEY, encode, endpoint_of_key, key_of
from netgossip.errors import GossipUsageError
from netgossip.records.replication import Replication
from netgossip.types import CLUSTER_SCOPE, Entry, OwnLogRaised, Scope


def may_rewrite(scope: Scope, key: bytes) -> bool:
    """True if a record may be written again unchanged. This host's own record and an endpoint's may: only their value
    counts. An eviction counts by its version, up to which others may have disputed it."""
    return key == HOST_KEY if scope == CLUSTER_SCOPE else endpoint_of_key(key) is not None


class Publisher:
    """The only way to change this host's records. `flush` makes the driver send what the node wants sent."""

    def __init__(
        self,
        records: Replication,
        journal: Journal,
        flush: Callable[[], object],
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._records = records
        self._journal = journal
        self._flush = flush
        self._clock = clock
        self._turn = trio.Lock()

    async def put(self, *records: Record) -> None:
        """Write or overwrite records. On return they are on disk and being sent."""
        await self.change(put=records)

    async def withdraw(self, *records: Record) -> None:
        """Delete records, named by any value with their key."""
        await self.change(withdraw=records)

    async def change(
        self, *, put: Sequence[Record] = (), withdraw: Sequence[Record] = (), also: Sequence[Statement] = ()
    ) -> None:
        """Make several changes at once, with `also` in the journal: all or nothing. Raises RecordError for a record
        that others would refuse, RefusedError `too-many-records` where a log has no room for it, DiskFullError or
        JournalError when it can't be written; then nothing is changed or sent."""
        changes: list[tuple[Scope, bytes, bytes | None]] = [(*key_of(one), encode(one)) for one in put]
        changes += [(*key_of(one), None) for one in withdraw]
        async with self._turn:
            await self._change(changes, also)

    async def _change(
        self, changes: Sequence[tuple[Scope, bytes, bytes | None]], also: Sequence[Statement] = ()
    ) -> None:
        written: tuple[Entry, ...] | None = None
        # The epoch may be raised while the journal writes: then the versions differ, and are written once more.
        while (prepared := self._prepared(changes)) != written:
            await self._journal.transaction([*self._entries(prepared), *also])
            written = prepared
        # No await since the last `prepare`, so these versions are still valid.
        self._records.commit(prepared, self._clock())
        self._flush()

    def _prepared(self, changes: Sequence[tuple[Scope, bytes, bytes | None]]) -> tuple[Entry, ...]:
        try:
            return self._records.prepare(changes)
        except GossipUsageError as error:
            raise RefusedError(
                f"this host has too many records, or too long ones: {error}",
                code="too-many-records",
                hint="detach containers, or give them fewer labels, aliases and ports",
            ) from None

    async def collect_tombstones(self) -> None:
        """Where many tombstones are overdue in a log of ours, write one of its records again unchanged: this drops
        them here, on disk and on all other hosts. Raises DiskFullError or JournalError."""
        async with self._turn:  # chosen and written in one turn: no newer value of the record is overwritten
            changes = self._records.rewrites(self._clock(), may_rewrite)
            if not changes:
                return
            await self._change(changes)
            # The next change would do this as well, but a quiet log has none.
            gone: list[Statement] = []
            for scope, _, _ in changes:
                log = self._records.own_log(scope)
                if log is not None and log.collected:
                    gone += statements.collect("own", scope, log.owner, log.collected)
            await self._journal.transaction(gone)

    async def own_log_raised(self, event: OwnLogRaised) -> None:
        """Journal our log with its new epoch."""
        async with self._turn:
            log = self._records.own_log(event.scope)
            if log is not None:
                await self._journal.transaction(statements.replace_log("own", log))

    async def drop_own_log(self, scope: Scope) -> None:
        """Drop our log of a scope that this host has left and that no host enters again; first on disk, as always."""
        async with self._turn:
            log = self._records.own_log(scope)
            if log is not None:
                await self._journal.transaction(statements.drop_log("own", scope, log.owner))
                self._records.drop_own_log(scope)

    def _entries(self, entries: tuple[Entry, ...]) -> list[Statement]:
        """The statements for the entries, and for dropping from disk the tombstones that the node has dropped."""
        collected = {}
        for scope in {entry.scope for entry in entries}:
            log = self._records.own_log(scope)
            if log is not None and log.collected:
                collected[scope] = log.collected
        return statements.append_entries("own", entries, collected)
