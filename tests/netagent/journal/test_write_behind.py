"""What waits to be written: nothing is half on disk, and memory is bounded."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from sqlite3 import Connection
from typing import Any

import pytest

from netagent.journal import statements, write_behind
from netagent.journal.statements import Statement
from netagent.journal.write_behind import WriteBehind
from netgossip.types import EntriesChanged, Entry, Version

OWNER, SCOPE = "b" * 32, bytes(range(16))


def changed(*sequences: int, replaced: bool = False) -> EntriesChanged:
    entries = tuple(Entry(SCOPE, OWNER, b"%d" % one, b"v", Version(1, one)) for one in sequences)
    return EntriesChanged(SCOPE, OWNER, 1, max(sequences), 0, entries, replaced=replaced)


class Disk:
    def __init__(self, db: Connection) -> None:
        self.db = db
        self.db.executescript(statements.SCHEMA + statements.ADDED)

    def write(self, waiting: WriteBehind, *, works: bool = True) -> None:
        taken = waiting.take()
        if works:
            for one in taken or ():
                self.db.execute(*one)
        waiting.settle(written=works)

    def content(self) -> tuple[list[Any], ...] | tuple[list[int], ...]:
        heads = self.db.execute("SELECT head FROM replica_log").fetchall()
        keys = self.db.execute("SELECT key FROM replica_entry ORDER BY sequence").fetchall()
        return [head for (head,) in heads], [int(key) for (key,) in keys]


@pytest.fixture
def disk() -> Iterator[Disk]:
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        yield Disk(db)


def test_deltas_add_up(disk: Disk) -> None:
    waiting = WriteBehind()
    waiting.note_log(changed(1, 2))
    waiting.note_log(changed(3))
    disk.write(waiting)
    waiting.note_log(changed(4))
    disk.write(waiting)
    assert disk.content() == ([4], [1, 2, 3, 4])
    assert waiting.take() is None


def test_a_log_with_a_gap_is_dropped_until_the_whole_log_arrives(disk: Disk) -> None:
    waiting = WriteBehind()
    waiting.note_log(changed(1))
    disk.write(waiting)
    waiting.note_log(changed(2))
    disk.write(waiting, works=False)
    waiting.note_log(changed(3))
    disk.write(waiting)
    assert disk.content() == ([], [])
    waiting.note_log(changed(1, 2, 3, 4, replaced=True))
    waiting.note_log(changed(5))
    disk.write(waiting)
    assert disk.content() == ([5], [1, 2, 3, 4, 5])


def test_a_whole_log_that_arrives_while_an_older_delta_failed_is_written(disk: Disk) -> None:
    waiting = WriteBehind()
    waiting.note_log(changed(1))
    waiting.take()
    waiting.note_log(changed(1, 2, replaced=True))
    waiting.settle(written=False)
    disk.write(waiting)
    assert disk.content() == ([2], [1, 2])


def test_a_log_that_is_no_longer_held_leaves_the_disk_and_may_begin_again(disk: Disk) -> None:
    waiting = WriteBehind()
    waiting.note_log(changed(1))
    disk.write(waiting)
    waiting.note_dropped(SCOPE, OWNER)
    waiting.note_log(changed(1, 2))
    disk.write(waiting)
    assert disk.content() == ([2], [1, 2])


def test_too_much_that_waits_costs_the_cache_and_not_the_memory(
    monkeypatch: pytest.MonkeyPatch, disk: Disk
) -> None:
    monkeypatch.setattr(write_behind, "MAX_ENTRIES", 10)
    waiting = WriteBehind()
    waiting.note_log(changed(*range(1, 9)))
    waiting.note_log(changed(*range(9, 17)))
    assert len(waiting._logs) == 0
    disk.write(waiting)
    assert disk.content() == ([], [])


def test_single_facts_survive_a_failure_unless_there_are_newer_ones() -> None:
    waiting = WriteBehind()
    waiting.note_latest("a", (statements.raise_counter("incarnation", 1),))
    waiting.note_latest("b", (statements.raise_counter("incarnation", 2),))
    waiting.take()
    waiting.note_latest("b", (statements.raise_counter("incarnation", 3),))
    waiting.settle(written=False)
    assert [one.parameters[0] for one in waiting.take() or ()] == [1, 3]


def test_a_statement_is_made_when_it_is_asked_for_one_for_each_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop does not get the interpreter back while thousands are made in one go."""
    made = []
    put_entry = statements.put_entry

    def counted(*arguments: Any) -> Statement:
        made.append(arguments)
        return put_entry(*arguments)

    monkeypatch.setattr(write_behind, "put_entry", counted)
    waiting = WriteBehind()
    waiting.note_log(changed(*range(1, 1001)))
    taken = waiting.take()
    assert taken is not None
    assert len(made) == 0
    next(taken)
    assert len(made) == 1
    assert len(list(taken)) <= 1000 + 5
    assert len(made) == 1000
