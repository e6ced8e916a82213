"""A node without a network: one writer's logs, and the events that others would hear."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from netgossip.records.replication import Replication
from netgossip.types import EntriesChanged, Entry, Log, NodeId, Scope, Version


class FakeNode(Replication):
    """`heard` collects the committed changes, oldest first."""

    def __init__(self, owner: NodeId, logs: Iterable[Log] = ()) -> None:
        self.owner = owner
        self.own_logs = {log.scope: log for log in logs}
        self.heard: list[EntriesChanged] = []

    def own_log(self, scope: Scope) -> Log | None:
        return self.own_logs.get(scope)

    def own_scopes(self) -> frozenset[Scope]:
        return frozenset(self.own_logs)

    def is_only_reported(self, scope: Scope) -> bool:
        return self.own_logs[scope].head == 0

    def drop_own_log(self, scope: Scope) -> None:
        del self.own_logs[scope]

    def prepare(self, changes: Sequence[tuple[Scope, bytes, bytes | None]]) -> tuple[Entry, ...]:
        heads: dict[Scope, int] = {}
        prepared = []
        for scope, key, value in changes:
            log = self.own_logs.get(scope, Log(scope, self.owner, 1, 0))
            heads[scope] = heads.get(scope, log.head) + 1
            prepared.append(Entry(scope, self.owner, key, value, Version(log.epoch, heads[scope])))
        return tuple(prepared)

    def commit(self, entries: tuple[Entry, ...], now: float) -> None:
        for entry in entries:
            log = self.own_logs.get(entry.scope, Log(entry.scope, self.owner, 1, 0))
            assert entry.version == (log.epoch, log.head + 1), "a version that was not prepared last"
            head = entry.version.sequence
            self.own_logs[entry.scope] = dataclasses.replace(
                log, head=head, entries={**log.entries, entry.key: entry}
            )
            self.heard.append(
                EntriesChanged(entry.scope, self.owner, log.epoch, head, log.collected, (entry,))
            )

    def rewrites(
        self, now: float, may_rewrite: Callable[[Scope, bytes], bool]
    ) -> tuple[tuple[Scope, bytes, bytes], ...]:
        """No tombstone is ever overdue."""
        return ()

    def raise_epoch(self, scope: Scope) -> None:
        log = self.own_logs.get(scope, Log(scope, self.owner, 1, 0))
        self.own_logs[scope] = dataclasses.replace(log, epoch=log.epoch + 1, head=0, entries={})
