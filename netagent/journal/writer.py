"""The one thread that writes to the database, and group commit.

A commit costs one flush of the disk (0.1 to 10 ms); all writes requested while the last one ran share the next. Each
caller's statements are all done or not at all, and one caller's failure does not affect the others.

A caller that is cancelled while waiting still gets the outcome: the write may be on disk already, and the code that
undoes it must know. The disk bounds the wait, not this code.

Disk full: a write that only adds (`grows`) is refused while less than HEADROOM_BYTES are free, so that there is room
left to delete; SQLite's own report of a full disk becomes the same error. Nothing has to be reset: the next write
simply tries again.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import trio

from netagent.errors import FailedError, NetagentError, RefusedError
from netagent.journal.statements import Statement
from netagent.journal.write_behind import WriteBehind

HEADROOM_BYTES: Final = 1 << 20
"""Enough for some hundred detaches through the write-ahead log (4 kB pages, two or three for each)."""

MAX_WAITING: Final = 1024
"""Bound of callers whose writes wait; beyond it: further callers wait before the queue. Far above what one host
attaches at once."""

BEHIND_DELAY_S: Final = 1.0
"""How long notes that may be lost in a crash wait for others to be written with them."""

_ERRORS = (sqlite3.Error, OverflowError, OSError)
"""What a statement may raise: OverflowError is a number beyond SQLite's 64 bits."""

_FULL = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR_SHMSIZE,
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_SHMOPEN,
}


class DiskFullError(RefusedError):
    """The disk has no room for the journal. State is unchanged; it works again as soon as there is room."""

    code = "disk-full"


class JournalError(FailedError):
    """The database failed, is damaged, or is another release's. State is unchanged."""

    code = "journal"


def translate(error: sqlite3.Error, path: Path) -> NetagentError:
    """Translate SQLite's error into ours."""
    number = getattr(error, "sqlite_errorcode", None)
    if number in _FULL:
        return DiskFullError(
            f"{path.parent}: the disk is full, or has less than the {HEADROOM_BYTES >> 20} MiB free that is kept for "
            "detaching",
            thing=str(path),
            hint="free space and try again",
        )
    if number is not None and number & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return JournalError(
            f"{path}: the journal is damaged ({error})",
            thing=str(path),
            hint="restore it from a backup; or move it away and attach the containers of this host again",
        )
    return JournalError(f"{path}: {error}", thing=str(path))


def _full() -> sqlite3.Error:
    error = sqlite3.OperationalError("no headroom")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    return error


class _WriteJob:
    """One caller's statements, and where the outcome goes."""

    def __init__(self, statements: Sequence[Statement], *, grows: bool) -> None:
        self.statements = statements
        self.grows = grows
        self.done = trio.Event()
        self.token = trio.lowlevel.current_trio_token()
        self.row_counts: list[int] = []
        self.error: Exception | None = None

    def finish(self) -> None:
        """Wake the caller, from the writer's thread."""
        with contextlib.suppress(trio.RunFinishedError):  # the agent has stopped; no caller waits
            self.token.run_sync_soon(self.done.set)


class Writer:
    """Owns the writing connection, and writes from time to time what waits in `behind`."""

    def __init__(self, path: Path, connection: sqlite3.Connection, behind: WriteBehind) -> None:
        self._path = path
        self._connection = connection
        self._behind = behind
        self._entrance = trio.Semaphore(MAX_WAITING)
        self._wake = threading.Condition()
        self._jobs: list[_WriteJob] = []
        self._behind_due: float | None = None
        self._is_closing = False
        self.behind_failures = 0
        """Groups of notes that the disk refused; their replicas are fetched again after a restart."""
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    async def write(self, statements: Sequence[Statement], *, grows: bool) -> list[int]:
        """Return when the statements are on disk, with the number of rows each changed. Raises NetagentError when
        they are not. Not cancellable once begun."""
        async with self._entrance:
            job = _WriteJob(statements, grows=grows)
            with self._wake:
                if self._is_closing:
                    raise JournalError(f"{self._path}: the journal is closed", thing=str(self._path))
                self._jobs.append(job)
                self._wake.notify()
            with trio.CancelScope(shield=True):
                await job.done.wait()
        if job.error is not None:
            raise job.error
        return job.row_counts

    def note_behind(self) -> None:
        """Schedule a write of what was noted for later."""
        with self._wake:
            if self._behind_due is None:
                self._behind_due = time.monotonic() + BEHIND_DELAY_S
                self._wake.notify()

    def close(self) -> None:
        """Write all that waits, then end the thread. Repeated calls do nothing."""
        with self._wake:
            self._is_closing = True
            self._wake.notify()
        self._thread.join()

    # -- the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while True:
                jobs, is_behind_due, is_closing = self._wait()
                if is_behind_due:
                    self._write_behind()
                self._commit(jobs)
                if is_closing:
                    return
        finally:
            self._connection.close()

    def _wait(self) -> tuple[list[_WriteJob], bool, bool]:
        with self._wake:
            while not self._jobs and not self._is_closing:
                left_s = None if self._behind_due is None else self._behind_due - time.monotonic()
                if left_s is not None and left_s <= 0:
                    break
                self._wake.wait(left_s)
            jobs, self._jobs = self._jobs, []
            # All notes made before a caller's write go to disk before it: an endpoint is never on disk without the
            # network that it is in.
            is_due = self._behind_due is not None and (
                bool(jobs) or self._is_closing or self._behind_due <= time.monotonic()
            )
            if is_due:
                self._behind_due = None
            return jobs, is_due, self._is_closing

    def _write_behind(self) -> None:
        statements = self._behind.take()
        written = False
        try:
            if statements is None or self.has_room():
                self._transaction([lambda: self._execute(statements or ())])
                written = True
        except _ERRORS:
            pass
        self._behind.settle(written=written)
        if not written:
            self.behind_failures += 1
            self.note_behind()  # try again later: the copies of broken logs must go

    def _commit(self, jobs: list[_WriteJob]) -> None:
        admitted = [job for job in jobs if self._admit(job)]
        try:
            self._transaction([partial(self._savepoint, job) for job in admitted])
        except _ERRORS as error:
            if len(admitted) == 1:
                admitted[0].error = self._explain(error)
            else:  # find out whose statement failed: a small write may still have room
                for job in admitted:
                    job.error = None
                    self._commit([job])
                jobs = [job for job in jobs if job not in admitted]
        for job in jobs:
            job.finish()

    def _admit(self, job: _WriteJob) -> bool:
        if job.grows and not self.has_room():
            job.error = translate(_full(), self._path)
        return job.error is None

    def _explain(self, error: Exception) -> NetagentError:
        if isinstance(error, sqlite3.Error):
            return translate(error, self._path)
        return JournalError(f"{self._path}: {error}", thing=str(self._path))

    def _transaction(self, steps: Sequence[Callable[[], object]]) -> None:
        if not steps:
            return
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            for step in steps:
                step()
            self._connection.execute("COMMIT")
        except _ERRORS:
            if self._connection.in_transaction:  # SQLite rolls back by itself after some errors
                self._connection.execute("ROLLBACK")
            raise

    def _savepoint(self, job: _WriteJob) -> None:
        self._connection.execute("SAVEPOINT job")
        try:
            job.row_counts = self._execute(job.statements)
        except sqlite3.IntegrityError as error:
            self._connection.execute("ROLLBACK TO job")
            job.error = RefusedError(f"already taken: {error}", code="taken")
        self._connection.execute("RELEASE job")

    def _execute(self, statements: Iterable[Statement]) -> list[int]:
        return [self._connection.execute(*statement).rowcount for statement in statements]

    def has_room(self) -> bool:
        """True if writes that add to the journal are accepted."""
        space = os.statvfs(self._path.parent)
        return space.f_bavail * space.f_frsize >= HEADROOM_BYTES
