"""A node without a network: one writer's logs, and the events that others would hear."""

from __future__ import annotations

import dataclasses

from netgossip.types import EntriesChanged, Entry, Log, Version


class FakeNode:
    """`heard` collects the committed changes, oldest first."""

    def __init__(self, owner, logs=()):
        self.owner = owner
        self.logs = {log.scope: log for log in logs}
        self.heard = []

    def own_log(self, scope):
        return self.logs.get(scope)

    def own_scopes(self):
        return frozenset(self.logs)

    def is_only_reported(self, scope):
        return self.logs[scope].head == 0

    def drop_own_log(self, scope):
        del self.logs[scope]

    def prepare(self, changes):
        heads, prepared = {}, []
        for scope, key, value in changes:
            log = self.logs.get(scope, Log(scope, self.owner, 1, 0))
            heads[scope] = heads.get(scope, log.head) + 1
            prepared.append(Entry(scope, self.owner, key, value, Version(log.epoch, heads[scope])))
        return tuple(prepared)

    def commit(self, entries, now):
        for entry in entries:
            log = self.logs.get(entry.scope, Log(entry.scope, self.owner, 1, 0))
            assert entry.version == (log.epoch, log.head + 1), "a version that was not prepared last"
            head = entry.version.sequence
            self.logs[entry.scope] = dataclasses.replace(
                log, head=head, entries={**log.entries, entry.key: entry}
            )
            self.heard.append(
                EntriesChanged(entry.scope, self.owner, log.epoch, head, log.collected, (entry,))
            )

    def raise_epoch(self, scope):
        log = self.logs.get(scope, Log(scope, self.owner, 1, 0))
        self.logs[scope] = dataclasses.replace(log, epoch=log.epoch + 1, head=0, entries={})
