"""The journal's tables in memory, without a thread: for tests under virtual time, and for failing on purpose."""

from __future__ import annotations

import sqlite3

import trio

from netagent.journal import statements
from netagent.journal.rows import endpoint_from_json


class MemoryJournal:
    """`fail_with` makes every write raise it. The content outlives the agent that is built upon it."""

    def __init__(self):
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        self.db.executescript(statements.SCHEMA + "".join(statements.STEPS.values()))
        self.fail_with = None

    def close(self):
        self.db.close()

    async def transaction(self, statements, *, grows=False):
        await trio.lowlevel.cancel_shielded_checkpoint()
        if self.fail_with is not None:
            raise self.fail_with
        self.db.execute("BEGIN")
        counts = [self.db.execute(*one).rowcount for one in statements]
        self.db.execute("COMMIT")
        return counts

    async def drop_own_log(self, scope, owner):
        await self.transaction(statements.drop_log("own", scope, owner))

    def own_scopes(self):
        return {scope for (scope,) in self.db.execute("SELECT scope FROM own_log")}

    async def save_endpoint(self, row):
        await self.transaction(statements.save_endpoint(row), grows=True)

    def note_warm(self, network_id, offset):
        self.db.execute(*statements.uncool(network_id, offset))

    def note_silences(self, silences):
        for one in statements.save_silences(silences):
            self.db.execute(*one)

    def note_network_gone(self, network_id):
        self.db.execute(*statements.uncool_all(network_id))

    def load_cooling(self):
        return self.db.execute("SELECT * FROM cooling ORDER BY 1, 2").fetchall()

    def load_endpoints(self):
        rows = self.db.execute("SELECT row FROM endpoint ORDER BY attach_order")
        return [endpoint_from_json(text) for (text,) in rows]
