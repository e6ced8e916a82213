"""The journal's tables in memory, without a thread: for tests under virtual time, and for failing on purpose."""

from __future__ import annotations

import sqlite3
from collections.abc import Hashable, Sequence
from typing import Any

import trio

from netagent.journal import statements
from netagent.journal.journal import Journal
from netagent.journal.statements import Statement
from netgossip.types import Scope


class MemoryJournal(Journal):
    """`fail_with` makes every write raise it. The content outlives the agent that is built upon it."""

    def __init__(self) -> None:
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        self.db.executescript(statements.SCHEMA + "".join(statements.STEPS.values()) + statements.ADDED)
        self.fail_with: Exception | None = None

    def close(self) -> None:
        self.db.close()

    async def transaction(self, statements: Sequence[Statement], *, grows: bool = False) -> list[int]:
        await trio.lowlevel.cancel_shielded_checkpoint()
        if self.fail_with is not None:
            raise self.fail_with
        self.db.execute("BEGIN")
        counts = [self.db.execute(*one).rowcount for one in statements]
        self.db.execute("COMMIT")
        return counts

    def own_scopes(self) -> set[Scope]:
        return {scope for (scope,) in self.db.execute("SELECT scope FROM own_log")}

    def _note(self, key: Hashable, *statements: Statement) -> None:
        for one in statements:
            self.db.execute(*one)

    def _read(self, sql: str, *parameters: statements.Value) -> list[tuple[Any, ...]]:
        return self.db.execute(sql, parameters).fetchall()
